"""Every hyper-parameter of a training, in one frozen object that is stored whole with its run.

A field's docstring gives its unit and where its default comes from. The defaults are the paper's.
`runs/recipes.py` holds the named recipes, `runs/recipe_file.py` their form on disk.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from alexnet.errors import RequestError


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """Which network is trained."""

    variant: str = "paper"
    """Which network: paper, original, one-gpu, no-norm, non-overlapping, no-communication, six-conv, six-conv-22k,
    tanh, sigmoid, minus-conv2, minus-conv3, minus-conv4, minus-conv5, minus-fc6, minus-fc7, caffe, torchvision,
    cifar-80sec, cifar-18pct, cifar-13pct, cifar-11pct, cifar-four-layer, cifar-four-layer-tanh, quick.
    `alexnet train --show --network.variant NAME` prints one."""
    width: float = 1.0
    """Factor on the number of maps and units of every layer but the last; 1 is the published width."""
    dropout: float = 0.5
    """Probability that dropout zeroes a unit. Paper: section 4.2."""
    start_layers: Literal["all", "convolutions"] = "all"
    """Which layers come from the network of `--start-from`: all that both have but the last of either, or of those the
    convolutions alone."""

    def __post_init__(self) -> None:
        if not 0 < self.width <= 4:
            raise RequestError(f"--network.width is {self.width}; allowed is above 0, up to 4")
        if not 0 <= self.dropout < 1:
            raise RequestError(f"--network.dropout is {self.dropout}; allowed is 0 up to, not including, 1")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """What a training image undergoes on its way to the network. Paper: section 4.1."""

    crop: int = 224
    """Side of the square crop, pixels."""
    corners: Literal["paper", "original"] = "paper"
    """Places of a random crop per axis: `paper` 0 .. margin-1 (32 of them for 224 of 256), `original` 0 .. margin."""
    mirror: bool = True
    """Whether half of the training images are mirrored left to right."""
    crops_shared_by: int = 1
    """Consecutive images of an epoch that share one crop and one mirroring; the source: 32."""
    order: Literal["each-epoch", "once", "stored"] = "each-epoch"
    """When the training images are shuffled: anew for each epoch; once, each epoch in that same order (source); or
    never, each epoch as they are stored (source on CIFAR-10, whose files are shuffled). Images stored class by class,
    as folders are, are refused then."""
    file_images: int = 0
    """No batch crosses from one run of so many images, in their order, into the next: the last one of each holds what
    is left. The source's batches end with its files, 10,000 images each for CIFAR-10, which is counted here over the
    images that are trained on. 0: only with the epoch."""
    mean: Literal["crop", "center"] = "crop"
    """Which part of the mean image is subtracted: the crop's own (mirrored with it), or always the center (source)."""
    color_noise: float = 0.1
    """Standard deviation of the factors on the principal components of color; 0 switches the noise off."""
    color_scale: Literal["eigenvalues", "deviations"] = "eigenvalues"
    """What the factors multiply: the covariance's eigenvalues, units of [0, 1] (paper), or their roots (source)."""
    color_shrink: bool = False
    """Whether a training image with noise is divided by 1 + `color_noise` after it, as the source does."""
    subset: int = 0
    """Train on this many images, drawn once with the seed, as equal in number per class as can be; 0 is all."""
    sampling: Literal["each-once", "class-balanced"] = "each-once"
    """Which images an epoch serves: each once (paper), or as many, dealt out so that all classes come equally often."""
    class_weights: Mapping[str, float] = field(default_factory=dict)
    """How often the images of single classes come, by class id, where others are 1; 0 leaves a class out."""

    def __post_init__(self) -> None:
        if self.crop < 8:
            raise RequestError(f"--data.crop is {self.crop}; the smallest allowed is 8 pixels")
        if not 0 <= self.color_noise < math.inf:
            raise RequestError(f"--data.color_noise is {self.color_noise}; allowed is 0 (off) or more")
        if self.crops_shared_by < 1:
            raise RequestError(
                f"--data.crops_shared_by is {self.crops_shared_by}; allowed is 1 (a crop each) or more images"
            )
        if self.file_images < 0:
            raise RequestError(
                f"--data.file_images is {self.file_images}; allowed is 0 (batches end with the epoch) or more images"
            )
        if self.subset < 0:
            raise RequestError(f"--data.subset is {self.subset}; allowed is 0 (all images) or more")
        if not all(0 <= weight < math.inf for weight in self.class_weights.values()):
            raise RequestError(f"--data.class_weights is {dict(self.class_weights)}; allowed are weights of 0 or more")
        if self.order != "each-epoch" and (self.class_weights or self.sampling != "each-once"):
            raise RequestError(
                f"--data.order is {self.order}, and which images a weighted epoch serves is drawn anew for "
                "each; allowed with --data.sampling class-balanced or --data.class_weights is --data.order each-epoch"
            )


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Stochastic gradient descent with momentum. Paper: section 5."""

    batch_size: int = 128
    """Images in a step."""
    learning_rate: float = 0.01
    """Learning rate at the start (`steps`) or at the peak (`one-cycle`)."""
    momentum: float = 0.9
    """Share of the velocity that is carried over each step."""
    weight_decay: float = 0.0005
    """Weight decay, inside the velocity and multiplied by the rate; weights only, not biases."""
    bias_lr_factor: float = 1.0
    """Rate of the biases as a multiple of the weights' (paper: 1, one rate for all; source: 2)."""
    layer_lr_factors: Mapping[str, float] = field(default_factory=dict)
    """Rate of the weights of single layers as a multiple of the others', by layer name; 0 freezes the layer, biases
    too. The kind `stages` has rates of its own for layers."""
    layer_weight_decay: Mapping[str, float] = field(default_factory=dict)
    """Decay of the weights of single layers, by layer name, in place of `weight_decay`."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise RequestError(f"--optimizer.batch_size is {self.batch_size}; allowed is 1 or more")
        if not 0 <= self.learning_rate < math.inf:
            raise RequestError(f"--optimizer.learning_rate is {self.learning_rate}; allowed is 0 or more")
        if not 0 <= self.momentum < 1:
            raise RequestError(f"--optimizer.momentum is {self.momentum}; allowed is 0 up to, not including, 1")
        if not 0 <= self.weight_decay < math.inf:
            raise RequestError(f"--optimizer.weight_decay is {self.weight_decay}; allowed is 0 or more")
        if not 0 <= self.bias_lr_factor < math.inf:
            raise RequestError(f"--optimizer.bias_lr_factor is {self.bias_lr_factor}; allowed is 0 or more")
        if not all(0 <= value < math.inf for value in self.layer_lr_factors.values()):
            raise RequestError(
                f"--optimizer.layer_lr_factors is {dict(self.layer_lr_factors)}; allowed are 0 (frozen) or more"
            )
        if not all(0 <= value < math.inf for value in self.layer_weight_decay.values()):
            raise RequestError(
                f"--optimizer.layer_weight_decay is {dict(self.layer_weight_decay)}; allowed are decays of 0 or more"
            )


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stretch of the `stages` schedule: what its authors set by hand, and for how long."""

    epochs: float
    """Passes over the images, a part of one at the end if need be."""
    learning_rate: float
    """Rate of the weights."""
    bias_learning_rate: float | None = None
    """Rate of the biases; None is that of the weights."""
    layer_learning_rates: Mapping[str, float] = field(default_factory=dict)
    """Rate of the weights of single layers, by layer name; 0 freezes the layer, biases too."""
    color_noise: bool = True
    """False switches the color noise off, and the division that goes with it."""
    images: int = 0
    """Train on the first so many training images as they are stored; 0 is all."""

    def __post_init__(self) -> None:
        if not 0 < self.epochs < math.inf:
            raise RequestError(f"--schedule.stages: a stage of {self.epochs} epochs; allowed is above 0")
        rates = [
            self.learning_rate,
            *self.layer_learning_rates.values(),
            *([] if self.bias_learning_rate is None else [self.bias_learning_rate]),
        ]
        if wrong := [rate for rate in rates if not 0 <= rate < math.inf]:
            raise RequestError(f"--schedule.stages: a rate of {wrong[0]}; allowed is 0 (frozen) or more")
        if self.images < 0:
            raise RequestError(f"--schedule.stages: {self.images} images; allowed is 0 (all) or more")


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """How the learning rate moves over the run."""

    kind: Literal["steps", "plateau", "stages", "geometric", "one-cycle", "cosine"] = "steps"
    """`steps`: times `gamma` at each of `milestones`. `plateau`: times `gamma` whenever the validation error stalls;
    the stall after the last drop ends the run (paper). `stages`: what `stages` says. `geometric`: `num_plateaus` of
    equal length (later source). `one-cycle`: a linear rise, then a linear fall to 0. `cosine`: a linear rise, then
    half a cosine."""
    epochs: int = 90
    """Passes over the training images; `plateau`: at the most; `stages`: not read. Paper: about 90."""
    milestones: tuple[float, ...] = (0.25, 0.55, 0.85)
    """`steps`: fractions of the run at which the rate drops; the paper dropped it three times."""
    gamma: float = 0.1
    """`steps`, `plateau`: what the rate is multiplied by at a drop."""
    patience: int = 5
    """`plateau`: epochs without improvement that are a stall."""
    improvement: float = 0.001
    """`plateau`: by how much the top-1 error, a fraction, must fall below its lowest to count as improved."""
    plateau_drops: int = 3
    """`plateau`: how many times the rate drops; the stall after that ends the run."""
    num_plateaus: int = 4
    """`geometric`: number of plateaus of the weights' rate."""
    lr_range: float = 250.0
    """`geometric`: first rate over last."""
    num_bias_plateaus: int = 2
    """`geometric`: number of plateaus of the biases' rate."""
    bias_lr_range: float = 10.0
    """`geometric`: first rate of the biases over their last."""
    warmup: float = 0.2
    """`one-cycle`, `cosine`: fraction of the run in which the rate rises."""
    stages: tuple[Stage, ...] = ()
    """`stages`: one after the other; the optimizer's `rate` and `bias_lr_factor` are not read."""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise RequestError(f"--schedule.epochs is {self.epochs}; allowed is 1 or more")
        if not all(0 < drop < 1 for drop in self.milestones) or list(self.milestones) != sorted(self.milestones):
            raise RequestError(
                f"--schedule.milestones is {list(self.milestones)}; allowed are rising fractions between 0 and 1"
            )
        if not 0 < self.gamma <= 1:
            raise RequestError(f"--schedule.gamma is {self.gamma}; allowed is above 0, up to 1")
        if not 0 < self.warmup < 1:
            raise RequestError(f"--schedule.warmup is {self.warmup}; allowed is between 0 and 1")
        for name in ("patience", "num_plateaus", "num_bias_plateaus"):
            if getattr(self, name) < 1:
                raise RequestError(f"--schedule.{name} is {getattr(self, name)}; allowed is 1 or more")
        for name in ("lr_range", "bias_lr_range"):
            if not 1 <= getattr(self, name) < math.inf:
                raise RequestError(f"--schedule.{name} is {getattr(self, name)}; allowed is 1 or more")
        if not 0 <= self.improvement < math.inf:
            raise RequestError(f"--schedule.improvement is {self.improvement}; allowed is 0 or more")
        if self.plateau_drops < 0:
            raise RequestError(f"--schedule.plateau_drops is {self.plateau_drops}; allowed is 0 or more")
        if (self.kind == "stages") != bool(self.stages):
            raise RequestError(
                f"--schedule.kind is {self.kind} and --schedule.stages names {len(self.stages)}; "
                "stages go with the kind `stages`, and it needs one or more (--schedule.stages '[]' is none)"
            )
        reached = 0.0
        for first, second in pairwise(self.stages):
            reached += first.epochs
            if first.images != second.images and not math.isclose(reached, round(reached), abs_tol=1e-9):
                raise RequestError(
                    f"--schedule.stages: the images change after {reached:g} epochs; "
                    "allowed is a change at the end of an epoch"
                )


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How the run is carried out."""

    seed: int = 0
    """Seed of the initial weights, of the order, of the crops and of dropout."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the network runs; `auto` takes a GPU where there is one."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the network; weights and velocity stay float32. `auto` is bfloat16 where the hardware has it."""
    micro_batch: int = 0
    """Images that pass through the network at a time, their gradients added up to those of the batch: less memory, the
    same result but for rounding; 0 is the whole batch."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes."""
    evaluate_every: int = 1
    """Measure the validation split (one view) after every so many epochs; the last epoch is always measured."""
    checkpoint_every: float = 300.0
    """Seconds between checkpoints; 0 is one after every step. One is also made at each lowest validation error."""
    workers: int = 0
    """Threads that make batches ahead of the training, which sees the same whatever their number; 0 is one a core, at
    most 8."""
    on_unreadable: Literal["stop", "replace"] = "stop"
    """When a stored image cannot be read: stop and name it, or name it, count it and take the next one stored."""
    cache: Literal["auto", "none", "device", "bc1"] = "auto"
    """Where the training images lie: read as they are needed (`none`), or all on the device, which cuts the crops,
    as they are (`device`) or in a sixth of the memory and slightly changed, two colors and their mixtures for each
    4 x 4 pixels (`bc1`); `auto` is `device` on a GPU half of whose free memory holds them."""
    ema_decay: float = 0.0
    """Share that a running average of the weights keeps of itself each step; 0 is none. With one, the average is what
    is measured and kept."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**31:
            raise RequestError(f"--training.seed is {self.seed}; allowed is 0 up to 2147483647")
        if not 0 <= self.label_smoothing < 1:
            raise RequestError(
                f"--training.label_smoothing is {self.label_smoothing}; allowed is 0 up to, not including, 1"
            )
        if self.evaluate_every < 1:
            raise RequestError(f"--training.evaluate_every is {self.evaluate_every}; allowed is 1 or more")
        if not 0 <= self.checkpoint_every < math.inf:
            raise RequestError(
                f"--training.checkpoint_every is {self.checkpoint_every}; allowed is 0 (every step) or more seconds"
            )
        if self.micro_batch < 0:
            raise RequestError(f"--training.micro_batch is {self.micro_batch}; allowed is 0 (whole batches) or more")
        if self.cache in ("device", "bc1") and self.on_unreadable != "stop":
            raise RequestError(
                f"--training.cache is {self.cache} and --training.on_unreadable {self.on_unreadable}: all images are "
                "read before the first step, and none is left to stand in; allowed is --training.on_unreadable stop, "
                "or --training.cache none"
            )
        if self.workers < 0:
            raise RequestError(f"--training.workers is {self.workers}; allowed is 0 (one a core, at most 8) or more")
        if not 0 <= self.ema_decay < 1:
            raise RequestError(f"--training.ema_decay is {self.ema_decay}; allowed is 0 (none) up to, not including, 1")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One whole way of training, with the claim it makes."""

    name: str = "paper"
    """Name by which `alexnet train --recipe` knows it."""
    claim: str = ""
    """What the recipe says it reaches, where, and in what time: a claim that can be checked."""
    network: NetworkSettings = field(default_factory=NetworkSettings)
    data: DataSettings = field(default_factory=DataSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)

    def __post_init__(self) -> None:
        if self.schedule.kind == "plateau" and self.training.evaluate_every != 1:
            raise RequestError(
                f"--training.evaluate_every is {self.training.evaluate_every} and --schedule.kind is plateau, which "
                "needs the validation error of every epoch; allowed is 1"
            )


GROUPS: dict[str, type] = {
    "network": NetworkSettings,
    "data": DataSettings,
    "optimizer": OptimizerSettings,
    "schedule": ScheduleSettings,
    "training": TrainingSettings,
}
"""The recipe's groups of settings, by the first half of a dotted option."""

_ALL_BUT_STAGES = ("steps", "plateau", "geometric", "one-cycle", "cosine")
_READ_BY = {
    "schedule.epochs": _ALL_BUT_STAGES,
    "optimizer.learning_rate": _ALL_BUT_STAGES,
    "optimizer.bias_lr_factor": _ALL_BUT_STAGES,
    "optimizer.layer_lr_factors": _ALL_BUT_STAGES,
    "schedule.milestones": ("steps",),
    "schedule.gamma": ("steps", "plateau"),
    **{f"schedule.{name}": ("plateau",) for name in ("patience", "improvement", "plateau_drops")},
    **{
        f"schedule.{name}": ("geometric",)
        for name in ("num_plateaus", "lr_range", "num_bias_plateaus", "bias_lr_range")
    },
    "schedule.warmup": ("one-cycle", "cosine"),
}


def unread_settings(recipe: Recipe) -> set[str]:
    """Dotted settings that the recipe's kind of schedule does not read."""
    return {option for option, kinds in _READ_BY.items() if recipe.schedule.kind not in kinds} | (
        set() if recipe.schedule.stages else {"schedule.stages"}
    )


def epochs_of(schedule: ScheduleSettings) -> float:
    """Passes over the training images, at the most for a `plateau`."""
    return sum(stage.epochs for stage in schedule.stages) if schedule.stages else schedule.epochs


def refuse_unread_changes(before: Recipe, after: Recipe) -> None:
    """Refuse a change of a setting that the schedule does not read: it would do nothing.

    Raises:
        RequestError: there is one; the kinds that read it are named.
    """
    kind = after.schedule.kind
    for option, kinds in _READ_BY.items():
        group, name = option.split(".")
        changed = getattr(getattr(before, group), name) != getattr(getattr(after, group), name)
        if changed and kind not in kinds:
            instead = "change the stages, or take another kind with" if kind == "stages" else "take another kind with"
            none = " --schedule.stages '[]'" if kind == "stages" else ""
            raise RequestError(
                f"--{option} is not read by a schedule of kind {kind}, only by {', '.join(kinds)}; "
                f"{instead} --schedule.kind{none}"
            )


CHANGEABLE = (
    "schedule.",
    "optimizer.learning_rate",
    "optimizer.momentum",
    "optimizer.weight_decay",
    "optimizer.bias_lr_factor",
    "optimizer.layer_weight_decay",
    "optimizer.layer_lr_factors",
    "training.label_smoothing",
    "training.evaluate_every",
    "training.checkpoint_every",
    "training.workers",
    "training.cache",
    "training.micro_batch",
    "training.on_unreadable",
    "training.device",
    "training.precision",
)
"""Settings with which an interrupted training may go on otherwise than it began: the rest is what the run is."""
