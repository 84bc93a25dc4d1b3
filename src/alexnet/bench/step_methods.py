"""The methods of `alexnet bench step`: training steps of this package and of the same layers in plain PyTorch."""

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from alexnet.bench.random_images import random_data
from alexnet.bench.reference_networks import plain_network, torchvision_network
from alexnet.data.augment import Batch
from alexnet.model.kernels import reference_ops
from alexnet.model.layer_specs import ResponseNorm, SameMapNorm
from alexnet.model.variants import named_variant
from alexnet.runs.recipe import OptimizerSettings, Recipe, ScheduleSettings
from alexnet.runs.recipes import side_for_crop
from alexnet.system.device import Precision
from alexnet.system.machine import has_bfloat16, processor_flags
from alexnet.training.batches import load_device_cache, make_loader
from alexnet.training.eager_step import EagerStep
from alexnet.training.graph_step import make_step
from alexnet.training.setup import TrainingSetup, build_setup

MOMENTUM, WEIGHT_DECAY, LEARNING_RATE = 0.9, 0.0005, 1e-4
SUMS_EVERY_STEPS = 10
"""The loading methods read losses as often as a training does."""


def measured_recipe(recipe: Recipe | None, batch_size: int, device: torch.device, precision: Precision) -> Recipe:
    """A recipe of the same steps for random images, without an end; None is that of the paper's network.

    The update is SGD with momentum, whatever the recipe's own is: all methods make the same.
    """
    if recipe is None:
        recipe = Recipe(name="paper", optimizer=OptimizerSettings(momentum=MOMENTUM, weight_decay=WEIGHT_DECAY))
    training = replace(recipe.training, device=device.type, precision=precision, cache="auto")  # type: ignore[arg-type]
    return replace(
        recipe,
        data=replace(recipe.data, subset=0, file_images=0, order="each-epoch", sampling="each-once", class_weights={}),
        optimizer=replace(recipe.optimizer, kind="sgd", batch_size=batch_size, learning_rate=LEARNING_RATE),
        schedule=ScheduleSettings(kind="steps", epochs=10**6),
        training=training,
    )


def num_classes(recipe: Recipe) -> int:
    """Classes of the published network."""
    return named_variant(recipe.network.variant).num_classes


def method_factories(
    recipe: Recipe, device: torch.device, precision: Precision, num_stored: int, *, with_torchvision: bool
) -> Mapping[str, Callable[[], Callable[[], None]]]:
    """By name, a function that builds a method and returns its step.

    On a GPU each method has its own network, because its memory is measured in this process. On a CPU memory is
    measured in a new process, and this package's methods share one network: the bfloat16 copies of a method are out of
    date in its first step after another method's, which changes values but not times.

    Args:
        recipe: of `measured_recipe`.
        device: where the methods run.
        precision: of this package's methods.
        num_stored: images in memory for the methods that load them.
        with_torchvision: compare with torchvision's network and with loading from BC1 too, and not with channels-last
            memory in float32.
    """
    data = random_data(num_stored, side_for_crop(recipe.data.crop), num_classes(recipe))
    factories = dict(_plain_factories(recipe, device, with_torchvision=with_torchvision))

    def new_setup() -> TrainingSetup:
        return build_setup(data, recipe)

    setup = functools.cache(new_setup) if device.type == "cpu" else new_setup
    factories["alexnet, reference operations"] = lambda: _product_step(setup(), reference_ops)
    if device.type == "cpu" and precision == "float32":  # in bfloat16 they are those of `alexnet`
        factories["alexnet, reference convolutions"] = lambda: _product_step(
            setup(), lambda: reference_ops(convolutions_only=True)
        )
    factories["alexnet"] = lambda: _product_step(setup())
    factories["alexnet with loading"] = lambda: _loading_step(setup())
    if with_torchvision:
        factories["alexnet with loading from BC1"] = lambda: _loading_step(_with_bc1_cache(setup()))
    return factories


def _plain_factories(
    recipe: Recipe, device: torch.device, *, with_torchvision: bool
) -> Iterator[tuple[str, Callable[[], Callable[[], None]]]]:
    """The methods in plain PyTorch, see `method_factories`."""
    settings, spec, classes = recipe.network, named_variant(recipe.network.variant), num_classes(recipe)
    shape = (recipe.optimizer.batch_size, 3, recipe.data.crop, recipe.data.crop)
    # A network of this package scales images itself if its input has another scale.
    images = (50 if spec.input_scale == 1 else 1) * torch.randn(shape, device=device)
    labels = torch.randint(0, classes, (len(images),), device=device)
    layers = functools.partial(plain_network, spec, classes, width=settings.width, dropout=settings.dropout)
    networks: dict[str, Callable[[], nn.Module]] = {f"{recipe.name} in plain PyTorch": layers}
    if with_torchvision:
        networks["torchvision's network"] = functools.partial(torchvision_network, classes)
    if any(isinstance(layer, ResponseNorm | SameMapNorm) for layer in spec.layers):
        networks[f"{recipe.name} without normalization"] = functools.partial(layers, normalized=False)
    multiplies_bfloat16 = device.type != "cpu" or has_bfloat16(processor_flags())
    for name, make in networks.items():
        normalizes = make is layers and any(isinstance(layer, ResponseNorm) for layer in spec.layers)
        yield name, functools.partial(_plain_step, make, images, labels)
        if not with_torchvision:
            yield f"{name}, channels-last", functools.partial(_plain_step, make, images, labels, channels_last=True)
        # torch has no response normalization in bfloat16 on CPUs.
        if multiplies_bfloat16 and not (device.type == "cpu" and normalizes):
            yield (
                f"{name}, bfloat16",
                functools.partial(_plain_step, make, images, labels, channels_last=True, bfloat16=True),
            )


def _plain_step(
    make: Callable[[], nn.Module],
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    channels_last: bool = False,
    bfloat16: bool = False,
) -> Callable[[], None]:
    """A training step as in PyTorch's tutorials; `bfloat16` adds autocast."""
    device = images.device
    network = make().to(device)
    if channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = images.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=torch.bfloat16) if bfloat16 else nullcontext():
            loss = F.cross_entropy(network(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _product_step(
    setup: TrainingSetup, operations: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Callable[[], None]:
    """The step of `alexnet train` on a batch in memory; with `reference_ops` it is not captured as a graph."""
    with operations():
        step = EagerStep(setup) if operations is reference_ops else make_step(setup)
    phase, learning_rates = setup.plan.phases[0], setup.plan.learning_rates(setup.recipe, 0)
    batch = make_loader(setup, phase).batch(0)
    if setup.device.type == "cuda" and operations is not reference_ops:
        batch = batch.map(lambda tensor: tensor.to(setup.device))

    def product_step() -> None:
        with operations():
            step.run(phase, batch, 0, learning_rates)

    return product_step


def _with_bc1_cache(setup: TrainingSetup) -> TrainingSetup:
    """The same training with its images on the device in BC1 (`--training.cache bc1`)."""
    recipe = setup.recipe
    return replace(setup, recipe=replace(recipe, training=replace(recipe.training, cache="bc1")))


def _loading_step(setup: TrainingSetup) -> Callable[[], None]:
    """The step of `alexnet train`, batches from the loader or the device cache included."""
    device_cache = load_device_cache(setup)
    step = make_step(setup, device_cache)
    phase, learning_rates = setup.plan.phases[0], setup.plan.learning_rates(setup.recipe, 0)

    def batches() -> Iterator[Batch]:
        yield from make_loader(setup, phase, device_cache is None).batches(0, 10**9)

    loaded = batches()
    done = 0

    def loading_step() -> None:
        nonlocal done
        step.run(phase, next(loaded), 0, learning_rates)
        done += 1
        if done % SUMS_EVERY_STEPS == 0:
            step.take_metrics()

    return loading_step
