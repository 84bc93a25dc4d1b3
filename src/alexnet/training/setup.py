"""Everything one training needs, put together from a data set and a recipe before anything is written."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.data.augment import crop_margin
from alexnet.data.dataset import PreparedData
from alexnet.data.device_cache import MAX_FREE_MEMORY_FRACTION, DeviceImageCache, cache_bytes, free_gpu_bytes
from alexnet.data.loader import Loader
from alexnet.data.sampler import class_balanced_subset, sample_weights
from alexnet.errors import RequestError
from alexnet.model.network import AlexNet
from alexnet.model.transfer import transfer
from alexnet.model.weights import load_trained
from alexnet.parallel.process_group import cores_per_process
from alexnet.parallel.process_mesh import SINGLE_PROCESS, ProcessMesh
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipe import Recipe
from alexnet.system.device import Precision, choose_device, choose_precision
from alexnet.system.prefetch import MAX_READERS
from alexnet.training.distributed import Forward, own_part, own_tensors
from alexnet.training.ema import WeightEMA
from alexnet.training.optimizer import VelocitySGD, require_layers
from alexnet.training.plan import Phase, Plan

TELL_EVERY_S = 10.0


@dataclass
class Tally:
    """Loss and errors on training batches since the last event."""

    since_s: float = 0.0
    waited_s: float = 0.0
    """Of the time since then, what went by waiting for batches."""
    loss: float = 0.0
    wrong: int = 0
    num: int = 0

    def add(self, loss: float, wrong: int, num: int) -> None:
        """Some steps more: the sum of their images' losses, how many were wrong, how many there were."""
        self.loss += loss
        self.wrong += wrong
        self.num += num

    def means(self) -> tuple[float, float]:
        return self.loss / self.num, self.wrong / self.num


@dataclass
class Training:
    """All that one training needs from step to step."""

    run: RunFolder
    data: PreparedData
    recipe: Recipe
    network: AlexNet
    """What this process holds of it."""
    optimizer: VelocitySGD
    plan: Plan
    samples: NDArray[np.int64]
    """The training images used, in stored order."""
    device: torch.device
    precision: Precision
    dropout: torch.Generator
    average: WeightEMA | None
    mesh: ProcessMesh
    forward: Forward
    """The network as the images of a step pass through it."""
    copied: list[str] = field(default_factory=list)
    """Layers whose first weights came from another network."""
    errors: list[float] = field(default_factory=list)
    """Top-1 error on the validation images after each measured epoch, fractions."""
    step: int = 0
    trained_s: float = 0.0
    measured_step: int = -1
    """The step after which the validation images were last measured."""
    left_chance: bool = False
    told_lost_events: bool = False
    unreadable: set[int] = field(default_factory=set)
    """Training images that could not be read so far."""
    window: Tally = field(default_factory=Tally)
    epoch: Tally = field(default_factory=Tally)


def assemble(
    run: RunFolder,
    data: PreparedData,
    recipe: Recipe,
    start_from: Path | None = None,
    mesh: ProcessMesh = SINGLE_PROCESS,
) -> Training:
    """Build network, optimizer and plan; the run folder need not exist yet and is not touched.

    Args:
        start_from: a run folder or weights file whose layers are the first weights, as far as names agree.
        mesh: the processes that share the training; each assembles its own part.

    Raises:
        RequestError: the data set cannot serve the recipe (crop, subset, stages), or the variant, a layer that the
            recipe names or the device is not there, or the images cannot lie where the recipe wants them, or the
            processes cannot share the network or the batch.
    """
    settings = recipe.training
    mesh.layout.require_batch(recipe.optimizer.batch_size, mesh.replica.size)
    device = choose_device(settings.device)
    precision = choose_precision(settings.precision, device)
    if recipe.schedule.kind == "plateau" and data.evaluation_split != "val":
        raise RequestError(
            f"--schedule.kind is plateau, and {data.folder} has no validation split: the rates would follow the images "
            "on which the error is reported. Prepare the data again with --hold-out 0.1, or take --schedule.kind steps"
        )
    split = data.splits["train"]
    crop_margin(data.side, recipe.data.crop)
    samples = np.arange(len(split), dtype=np.int64)
    if recipe.data.subset:
        samples = class_balanced_subset(split.labels, recipe.data.subset, settings.seed)
    if recipe.data.order == "stored":
        _require_mixed(split.labels[samples], data)
    plan = Plan(recipe.schedule, len(samples), recipe.optimizer.batch_size, recipe.data.file_images)
    for num_images in {phase.num_images for phase in plan.phases}:
        weights_of(recipe, data, samples[:num_images])  # refused before anything is begun
    _require_room(settings.cache, len(samples), data.side, device)
    whole = first_network(recipe, data.num_classes)
    require_fit(recipe, whole)
    network = own_part(whole, mesh)
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    dropout = torch.Generator(device)
    network.seed_dropout(dropout)
    optimizer = VelocitySGD(
        network, recipe.optimizer.momentum, recipe.optimizer.weight_decay, recipe.optimizer.layer_weight_decay
    )
    average = WeightEMA(network, settings.ema_decay) if settings.ema_decay else None
    forward = Forward(network, mesh)
    training = Training(
        run, data, recipe, network, optimizer, plan, samples, device, precision, dropout, average, mesh, forward
    )
    if start_from:
        start_from_layers(training, start_from)
    return training


def first_network(recipe: Recipe, num_classes: int) -> AlexNet:
    """The recipe's network with the first weights that its seed gives."""
    return AlexNet(
        num_classes,
        recipe.network.variant,
        recipe.network.width,
        dropout=recipe.network.dropout,
        generator=torch.Generator().manual_seed(recipe.training.seed),
    )


def start_from_layers(training: Training, path: Path) -> None:
    """Give the network the layers that a trained one has under the same names, all but the last ones.

    Raises:
        RequestError: there is no trained network at `path`, or its layers have other shapes.
    """
    layers = training.recipe.network.start_layers
    whole = first_network(training.recipe, training.data.num_classes)
    training.copied = transfer(load_trained(path).network, whole, layers)
    training.network.load_state_dict(own_tensors(training.network, whole.state_dict()))
    if training.average is not None:
        training.average.restore({name: tensor.detach() for name, tensor in training.network.named_parameters()})


def require_fit(recipe: Recipe, network: AlexNet) -> None:
    """See that the recipe crops what the network reads, and that the layers it names are there.

    Raises:
        RequestError: they do not.
    """
    if recipe.data.crop != network.spec.image_px:
        raise RequestError(
            f"--data.crop is {recipe.data.crop}, and variant {recipe.network.variant!r} "
            f"reads {network.spec.image_px}-pixel images"
        )
    require_layers(dict(network.named_parameters()), recipe.optimizer.layer_lr_factors, "--optimizer.layer_lr_factors")
    for stage in recipe.schedule.stages:
        require_layers(dict(network.named_parameters()), stage.layer_learning_rates, "--schedule.stages")


def weights_of(recipe: Recipe, data: PreparedData, samples: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """How often each of the training images used comes, float64 (M,); None where each comes once an epoch.

    Raises:
        RequestError: the recipe names classes that the data set does not have, or leaves no image.
    """
    named = recipe.data.class_weights
    balanced = recipe.data.sampling == "class-balanced"
    if not named and not balanced:
        return None
    ids = [one.id for one in data.classes]
    if unknown := [name for name in named if name not in ids]:
        known = ", ".join(ids[:20]) + (", ..." if len(ids) > 20 else "")
        raise RequestError(f"--data.class_weights names {', '.join(unknown)}; the data has the classes {known}")
    class_weights = np.array([named.get(name, 1.0) for name in ids])
    return sample_weights(data.splits["train"].labels[samples], class_weights, balanced)


def on_device(training: Training) -> bool:
    """Whether a GPU does the steps on its own, whole batches at a time."""
    alone = not training.mesh.is_distributed  # a captured graph would hold the exchange with other processes too
    return training.device.type == "cuda" and not training.recipe.training.micro_batch and alone


def load_device_cache(
    training: Training, say: Callable[[str], None], wait: Callable[[], None] = lambda: None
) -> DeviceImageCache | None:
    """The training images on the device, where the recipe asks for that or they fit; None leaves them to the loader.

    Args:
        say: is given lines for people.
        wait: called now and then while they are read; may raise.

    Raises:
        UnreadableSample: one cannot be read.
    """
    settings, split = training.recipe.training, training.data.splits["train"]
    num, side = len(training.samples), training.data.side
    cache = settings.cache
    if cache == "auto":
        free = free_gpu_bytes(training.device)
        fit = free is not None and cache_bytes(num, side) <= MAX_FREE_MEMORY_FRACTION * free
        cache = "device" if fit and settings.on_unreadable == "stop" else "none"
        if free is not None and not fit:
            from alexnet.system.numba_jit import unavailable_reason  # loads Numba

            smaller = cache_bytes(num, side, bc1=True)
            hint = f" (--training.cache bc1 holds them in {_size(smaller)}, slightly changed)"
            would = (
                settings.on_unreadable == "stop"
                and smaller <= MAX_FREE_MEMORY_FRACTION * free
                and not unavailable_reason
            )
            say(
                "the training images do not fit into half of the GPU's free memory: they are read as they are needed"
                + (hint if would else "")
            )
    if cache == "none":
        return None
    blocks = cache == "bc1"
    start = told = time.monotonic()

    def progress(done: int, of: int) -> None:
        nonlocal told
        wait()
        if time.monotonic() - told >= TELL_EVERY_S and done < of:
            told = time.monotonic()
            say(f"{done:,} of {of:,} training images have been read to {training.device}")

    workers = workers_of(training.recipe)
    device_cache = DeviceImageCache(
        split, training.samples, training.device, bc1=blocks, workers=workers, progress=progress
    )
    how = ", as blocks of two colors and their mixtures" if blocks else ""
    taken_s = time.monotonic() - start
    say(f"{num:,} training images are on {training.device}: {_size(device_cache.images.nbytes)}{how}, {taken_s:.0f} s")
    return device_cache


def _require_mixed(labels: NDArray[np.int64], data: PreparedData) -> None:
    """See that images in stored order do not come class by class: their batches would teach one class at a time."""
    followed = labels[1:] == labels[:-1]
    if len(np.unique(labels)) > 1 and len(followed) and followed.mean() > 0.5:
        raise RequestError(
            f"--data.order is stored, and {data.folder} stores its images class by class: "
            f"{100 * followed.mean():.0f} % of them follow one of their own class; allowed is --data.order once or "
            "each-epoch"
        )


def _require_room(cache: str, num: int, side: int, device: torch.device) -> None:
    """See that the images can lie on the device where they are asked to."""
    if cache not in ("device", "bc1"):
        return
    blocks = cache == "bc1"
    if blocks:
        from alexnet.data.bc1 import require_encoder  # loads Numba

        require_encoder()
    free, needed = free_gpu_bytes(device), cache_bytes(num, side, bc1=blocks)
    if free is not None and needed > free:
        smaller = "" if blocks else f" or bc1 (slightly changed, {_size(cache_bytes(num, side, bc1=True))})"
        raise RequestError(
            f"--training.cache is {cache}, and {num:,} images of {side} pixels take {_size(needed)} where "
            f"{device} has {_size(free)} free; allowed is none{smaller}, or take fewer images with --data.subset"
        )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.0f} MiB" if num_bytes >= 10 * 2**20 else f"{num_bytes / 2**10:,.0f} KiB"


def workers_of(recipe: Recipe) -> int:
    """Threads that read images."""
    return recipe.training.workers or min(cores_per_process(), MAX_READERS)


def loader_of(training: Training, phase: Phase, with_images: bool = True) -> Loader:
    """The loader of one phase of the plan; its step 0 is the plan's `epoch_step`.

    Args:
        with_images: whether its batches hold their crops; without, the device has the images.
    """
    samples = training.samples[: phase.num_images]
    settings = training.recipe.data if phase.color_noise else replace(training.recipe.data, color_noise=0.0)
    return Loader(
        training.data.splits["train"],
        training.data.statistics,
        settings,
        training.recipe.optimizer.batch_size,
        training.recipe.training.seed,
        sample_ids=samples,
        weights=weights_of(training.recipe, training.data, samples),
        first_epoch=phase.first_epoch,
        workers=workers_of(training.recipe),
        rank=training.mesh.replica.rank,
        num_ranks=training.mesh.replica.size,
        on_unreadable=training.recipe.training.on_unreadable,
        pin_memory=training.device.type == "cuda",
        with_images=with_images,
    )
