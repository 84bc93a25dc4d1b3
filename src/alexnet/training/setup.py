"""The constant parts of a training, built from a data set and a recipe. No run folder is needed."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from alexnet.data.augment import crop_margin
from alexnet.data.dataset import PreparedData, warn_of_other_fit
from alexnet.data.device_cache import cache_bytes, free_gpu_bytes
from alexnet.data.sampler import class_balanced_subset, sample_weights
from alexnet.errors import RequestError
from alexnet.model.network import AlexNet
from alexnet.model.transfer import transfer
from alexnet.model.weights import float32_parameters, load_trained
from alexnet.parallel.process_mesh import SINGLE_PROCESS, ProcessMesh
from alexnet.runs.recipe import Recipe
from alexnet.system.device import Precision, choose_device, choose_precision
from alexnet.training.distributed import DistributedForward, local_network, local_tensors
from alexnet.training.ema import WeightEMA
from alexnet.training.optimizer import Muon, Optimizer, make_optimizer, require_layers
from alexnet.training.plan import Plan


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """Everything of a training that stays the same from its first step to its last."""

    recipe: Recipe
    data: PreparedData
    samples: NDArray[np.int64]
    """The training images used, in stored order."""
    plan: Plan
    network: AlexNet
    """What this process holds of it."""
    forward: DistributedForward
    """The network, with gradients summed over the replicas."""
    optimizer: Optimizer
    ema: WeightEMA | None
    dropout_generator: torch.Generator
    device: torch.device
    precision: Precision
    mesh: ProcessMesh


def build_setup(data: PreparedData, recipe: Recipe, mesh: ProcessMesh = SINGLE_PROCESS) -> TrainingSetup:
    """Build network, optimizer and plan; nothing is written.

    Args:
        data: a prepared data set.
        recipe: every hyperparameter.
        mesh: the processes that share the training; each builds its own part.

    Raises:
        RequestError: the data set does not fit the recipe (crop, subset, stages), or the variant, a layer that the
            recipe names or the device does not exist, or the images do not fit in the requested cache, or the
            processes cannot share the network or the batch.
    """
    settings = recipe.training
    mesh.layout.require_batch(recipe.optimizer.batch_size, mesh.replica.size)
    device = choose_device(settings.device)
    precision = choose_precision(settings.precision, device)
    if recipe.schedule.kind == "plateau" and "val" not in data.splits:
        raise RequestError(
            f"--schedule.kind is plateau, and {data.folder} has no validation split, whose error decides when to "
            "lower the learning rate. Prepare the data again with --hold-out 0.1, or use --schedule.kind steps"
        )
    split = data.require_labels("train")
    if data.has_evaluation_split:
        data.require_labels(data.evaluation_split)
    crop_margin(data.side, recipe.data.crop)
    samples = np.arange(len(split), dtype=np.int64)
    if recipe.data.subset:
        samples = class_balanced_subset(split.labels, recipe.data.subset, settings.seed)
    if recipe.data.order == "stored":
        _require_mixed_classes(split.labels[samples], data)
    plan = Plan(recipe.schedule, len(samples), recipe.optimizer.batch_size, recipe.data.file_images)
    for num_images in {phase.num_images for phase in plan.phases}:
        sampling_weights(recipe, data, samples[:num_images])
    _require_device_memory(settings.cache, len(samples), data.side, device)
    full_network = first_network(recipe, data.num_classes)
    require_fit(recipe, full_network)
    network = local_network(full_network, mesh)
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(recipe.optimizer, network)
    require_whole_layers(optimizer, full_network)
    dropout_generator = torch.Generator(device)
    network.seed_dropout(dropout_generator)
    return TrainingSetup(
        recipe=recipe,
        data=data,
        samples=samples,
        plan=plan,
        network=network,
        forward=DistributedForward(network, mesh),
        optimizer=optimizer,
        ema=WeightEMA(network, settings.ema_decay) if settings.ema_decay else None,
        dropout_generator=dropout_generator,
        device=device,
        precision=precision,
        mesh=mesh,
    )


def require_whole_layers(optimizer: Optimizer, full_network: nn.Module) -> None:
    """Check that this process holds all weights of the layers that the optimizer cannot divide.

    Raises:
        RequestError: it holds a part of one.
    """
    shapes = {name: parameter.shape for name, parameter in full_network.named_parameters()}
    if isinstance(optimizer, Muon):
        divided = [name for name in optimizer.orthogonal if optimizer.parameters[name].shape != shapes[name]]
        if divided:
            raise RequestError(
                f"--optimizer.kind is muon, which needs all weights of a layer, and --columns 2 divides {divided[0]} "
                "over two processes; allowed is --columns 1, --column-layers dense, or --optimizer.kind sgd"
            )


def first_network(recipe: Recipe, num_classes: int) -> AlexNet:
    """The recipe's network, initialized from the recipe's seed."""
    with float32_parameters():
        return AlexNet(
            num_classes,
            recipe.network.variant,
            recipe.network.width,
            dropout=recipe.network.dropout,
            generator=torch.Generator().manual_seed(recipe.training.seed),
        )


def copy_trained_layers(setup: TrainingSetup, path: Path) -> list[str]:
    """Initialize all layers but the last from a trained network's layers of the same names.

    Returns:
        The names of the layers copied.

    Raises:
        RequestError: there is no trained network at `path`, or its layers have other shapes.
    """
    network = first_network(setup.recipe, setup.data.num_classes)
    trained = load_trained(path)
    if setup.mesh.is_main:
        warn_of_other_fit(setup.data, trained.fit)
    copied = transfer(trained.network, network, setup.recipe.network.start_layers, trained.untrained_layers)
    setup.network.load_state_dict(local_tensors(setup.network, network.state_dict()))
    if setup.ema is not None:
        setup.ema.restore({name: tensor.detach() for name, tensor in setup.network.named_parameters()})
    return copied


def require_fit(recipe: Recipe, network: AlexNet) -> None:
    """Check that the recipe crops what the network reads, and that the layers it names exist.

    Raises:
        RequestError: they do not.
    """
    if recipe.data.crop != network.spec.image_px:
        raise RequestError(
            f"--data.crop is {recipe.data.crop}, and variant {recipe.network.variant!r} "
            f"reads {network.spec.image_px}-pixel images"
        )
    parameters = dict(network.named_parameters())
    require_layers(parameters, recipe.optimizer.layer_lr_factors, "--optimizer.layer_lr_factors")
    for stage in recipe.schedule.stages:
        require_layers(parameters, stage.layer_learning_rates, "--schedule.stages")


def sampling_weights(recipe: Recipe, data: PreparedData, samples: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """How often each training image is drawn relative to others, float64 (M,); None for once an epoch each.

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


def _require_mixed_classes(labels: NDArray[np.int64], data: PreparedData) -> None:
    """Refuse stored order where the images are stored class by class: batches would hold one class each."""
    same_as_last = labels[1:] == labels[:-1]
    if len(np.unique(labels)) > 1 and len(same_as_last) and same_as_last.mean() > 0.5:
        raise RequestError(
            f"--data.order is stored, and {data.folder} stores its images class by class: "
            f"{100 * same_as_last.mean():.0f} % of them follow an image of the same class; allowed is --data.order "
            "once or each-epoch"
        )


def _require_device_memory(cache: str, num: int, side: int, device: torch.device) -> None:
    """Check that the images fit into the device's memory if the recipe caches them there."""
    if cache not in ("device", "bc1"):
        return
    blocks = cache == "bc1"
    if blocks:
        from alexnet.data.bc1 import require_encoder  # loads Numba

        require_encoder()
    free, needed = free_gpu_bytes(device), cache_bytes(num, side, bc1=blocks)
    if free is not None and needed > free:
        smaller = "" if blocks else f" or bc1 (slightly changed, {format_bytes(cache_bytes(num, side, bc1=True))})"
        raise RequestError(
            f"--training.cache is {cache}, and {num:,} images of {side} pixels take {format_bytes(needed)} where "
            f"{device} has {format_bytes(free)} free; allowed is none{smaller}, or use fewer images with --data.subset"
        )


def format_bytes(num_bytes: int) -> str:
    """A size in memory as text."""
    return f"{num_bytes / 2**20:,.0f} MiB" if num_bytes >= 10 * 2**20 else f"{num_bytes / 2**10:,.0f} KiB"
