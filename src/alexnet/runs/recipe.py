"""Every hyper-parameter of a training in one frozen object, which is stored whole with its run.

The command line shows the first sentence of a field's docstring with `--help` and all of it with `--help-all`. The
defaults are the paper's. `runs/recipes.py` holds the named recipes, `runs/recipe_file.py` reads and writes them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from alexnet.errors import RequestError

NOT_NEGATIVE = "0 or more"
FRACTION_BELOW_1 = "0 up to, not including, 1"


def require_setting(holds: bool, group: str, settings: Any, name: str, allowed: str) -> None:
    """Refuse the value of a setting if the condition on it does not hold.

    Args:
        holds: the condition.
        group: the group's name, as in `--group.name`.
        settings: the group.
        allowed: which values are allowed, for the message.

    Raises:
        RequestError: `holds` is false.
    """
    if not holds:
        value = getattr(settings, name)
        shown = list(value) if isinstance(value, tuple) else value
        raise RequestError(f"--{group}.{name} is {shown}; allowed is {allowed}")


def not_negative(*values: float) -> bool:
    """Whether all values are 0 or more and finite."""
    return all(0 <= value < math.inf for value in values)


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """The network."""

    variant: str = "paper"
    """Network variant. `alexnet train --show --network.variant NAME` prints its layers."""
    width: float = 1.0
    """Multiplier of all layer widths. It applies to the channels and units of every layer except the last."""
    dropout: float = 0.5
    """Dropout probability. Paper: section 4.2."""
    start_layers: Literal["all", "convolutions"] = "all"
    """Layers to copy from the network of `--start-from`: all that both have, except the last of each, or only the
    convolutions among them."""

    def __post_init__(self) -> None:
        require_setting(0 < self.width <= 4, "network", self, "width", "above 0, up to 4")
        require_setting(0 <= self.dropout < 1, "network", self, "dropout", FRACTION_BELOW_1)


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Selection and augmentation of the training images. Paper: section 4.1."""

    crop: int = 224
    """Side of the random crop in pixels."""
    small_crops: bool = False
    """Train on crops of less than half of the stored side, too. They show corners of the photographs, so they are
    refused by default."""
    corners: Literal["paper", "original"] = "paper"
    """Positions of a random crop per axis: `paper` 0 to margin - 1 (32 for 224 of 256), `original` 0 to margin."""
    mirror: bool = True
    """Mirror each training image horizontally with probability 1/2."""
    crops_shared_by: int = 1
    """Number of consecutive images that share one crop position and mirroring. The source uses 32."""
    order: Literal["each-epoch", "once", "stored"] = "each-epoch"
    """Order of the training images: reshuffled `each-epoch`; shuffled `once` (source); or as `stored` (source on
    CIFAR-10, whose files are shuffled already). `stored` is refused if the images are stored class by class."""
    file_images: int = 0
    """Number of images after which a batch always ends, even if it is smaller. The source's batches end with its data
    files, 10,000 images each for CIFAR-10. Only images that are trained on count. 0: batches end only with the
    epoch."""
    mean: Literal["crop", "center"] = "crop"
    """Part of the mean image to subtract: that of the `crop` (mirrored with it), or the `center` (source)."""
    color_noise: float = 0.1
    """Standard deviation of the color noise (factors of the principal components). 0 turns it off."""
    color_scale: Literal["eigenvalues", "deviations"] = "eigenvalues"
    """What the noise factors multiply: the covariance's `eigenvalues` (paper, which states no scale; here pixels are
    in [0, 1]), or their square roots, the `deviations` (source)."""
    color_shrink: bool = False
    """Divide training images by 1 + `color_noise` after adding the noise, as the source does."""
    subset: int = 0
    """Number of images to train on; 0 is all. They are drawn once with the seed, balanced over the classes."""
    sampling: Literal["each-once", "class-balanced"] = "each-once"
    """Images of an epoch: `each-once` (paper), or `class-balanced`: as many, with every class equally often."""
    class_weights: Mapping[str, float] = field(default_factory=dict)
    """Sampling weights of classes, by class id. Others have weight 1; 0 omits a class."""

    def __post_init__(self) -> None:
        require_setting(self.crop >= 8, "data", self, "crop", "8 pixels or more")
        require_setting(not_negative(self.color_noise), "data", self, "color_noise", "0 (off) or more")
        require_setting(self.crops_shared_by >= 1, "data", self, "crops_shared_by", "1 (a crop per image) or more")
        require_setting(
            self.file_images >= 0, "data", self, "file_images", "0 (batches end with the epoch) or more images"
        )
        require_setting(self.subset >= 0, "data", self, "subset", "0 (all images) or more")
        weights = self.class_weights.values()
        require_setting(not_negative(*weights), "data", self, "class_weights", "a weight of 0 or more for each class")
        if self.order != "each-epoch" and (self.class_weights or self.sampling != "each-once"):
            raise RequestError(
                f"--data.order is {self.order}, but --data.sampling class-balanced and --data.class_weights draw new "
                "images for each epoch; with them, allowed is --data.order each-epoch"
            )


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """The update of the weights. Paper: section 5."""

    kind: Literal["sgd", "muon"] = "sgd"
    """`sgd`: stochastic gradient descent with momentum (paper). `muon`: convolutions move along their momentum made
    orthogonal (Jordan and others 2024); it needs fewer passes, and learning rates about as large as for `sgd`."""
    batch_size: int = 128
    """Images per step."""
    learning_rate: float = 0.01
    """Initial learning rate; the peak of schedules with warmup."""
    momentum: float = 0.9
    """Fraction of the velocity kept at each step."""
    weight_decay: float = 0.0005
    """Weight decay of weights, not biases. It is added to the velocity, multiplied by the learning rate."""
    bias_lr_factor: float = 1.0
    """Learning rate of biases as a multiple of the weights'. The paper uses 1, the source 2."""
    layer_lr_factors: Mapping[str, float] = field(default_factory=dict)
    """Learning rate multipliers of layers' weights, by layer name. 0 freezes a layer, including its biases. Schedules
    of kind `stages` set learning rates of layers instead."""
    layer_weight_decay: Mapping[str, float] = field(default_factory=dict)
    """Weight decay of layers, by layer name, instead of `weight_decay`."""

    def __post_init__(self) -> None:
        require_setting(self.batch_size >= 1, "optimizer", self, "batch_size", "1 or more")
        for name in ("learning_rate", "weight_decay", "bias_lr_factor"):
            require_setting(not_negative(getattr(self, name)), "optimizer", self, name, NOT_NEGATIVE)
        require_setting(0 <= self.momentum < 1, "optimizer", self, "momentum", FRACTION_BELOW_1)
        factors, decays = self.layer_lr_factors.values(), self.layer_weight_decay.values()
        require_setting(
            not_negative(*factors), "optimizer", self, "layer_lr_factors", "0 (frozen) or more for each layer"
        )
        require_setting(not_negative(*decays), "optimizer", self, "layer_weight_decay", "0 or more for each layer")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a `stages` schedule: fixed learning rates for a number of epochs."""

    epochs: float
    """Passes over the images; may be fractional."""
    learning_rate: float
    """Learning rate of the weights."""
    bias_learning_rate: float | None = None
    """Learning rate of the biases; None is that of the weights."""
    layer_learning_rates: Mapping[str, float] = field(default_factory=dict)
    """Learning rates of layers' weights, by layer name. 0 freezes a layer, including its biases."""
    color_noise: bool = True
    """False turns off the color noise and the division by 1 + noise."""
    images: int = 0
    """Train on this many of the first stored images; 0 is all."""

    def __post_init__(self) -> None:
        if not 0 < self.epochs < math.inf:
            raise RequestError(f"--schedule.stages: a stage has {self.epochs} epochs; allowed is above 0")
        rates = [
            self.learning_rate,
            *self.layer_learning_rates.values(),
            *([] if self.bias_learning_rate is None else [self.bias_learning_rate]),
        ]
        if wrong := [rate for rate in rates if not not_negative(rate)]:
            raise RequestError(
                f"--schedule.stages: a stage has learning rate {wrong[0]}; allowed is 0 (frozen) or more"
            )
        if self.images < 0:
            raise RequestError(f"--schedule.stages: a stage has {self.images} images; allowed is 0 (all) or more")


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """The learning rate over the run."""

    kind: Literal["steps", "plateau", "stages", "geometric", "one-cycle", "cosine"] = "steps"
    """Learning rate schedule. `steps`: multiply by `gamma` at each of `milestones`. `plateau`: multiply by `gamma`
    when the validation error stalls; the stall after the last drop ends the run (paper). `stages`: as listed in
    `stages`. `geometric`: `num_plateaus` plateaus of equal length (the source's later versions). `one-cycle`: linear
    warmup, then linear decay to 0. `cosine`: linear warmup, then cosine decay."""
    epochs: int = 90
    """Passes over the training images. Kind `plateau` may stop earlier, `stages` ignores it. Paper: about 90."""
    milestones: tuple[float, ...] = (0.25, 0.55, 0.85)
    """`steps`: fractions of the run after which the learning rate drops. The paper dropped it three times."""
    gamma: float = 0.1
    """`steps`, `plateau`: factor of a drop of the learning rate."""
    patience: int = 5
    """`plateau`: epochs without improvement before a drop."""
    improvement: float = 0.001
    """`plateau`: smallest decrease of the lowest top-1 error, a fraction, that counts as an improvement; 0 is any."""
    plateau_drops: int = 3
    """`plateau`: number of drops. The stall after the last one ends the run."""
    num_plateaus: int = 4
    """`geometric`: number of plateaus of the weights' learning rate."""
    lr_range: float = 250.0
    """`geometric`: ratio of the first learning rate to the last."""
    num_bias_plateaus: int = 2
    """`geometric`: number of plateaus of the biases' learning rate."""
    bias_lr_range: float = 10.0
    """`geometric`: ratio of the biases' first learning rate to the last."""
    warmup: float = 0.2
    """`one-cycle`, `cosine`: fraction of the run that is warmup."""
    stages: tuple[Stage, ...] = ()
    """`stages`: the stages in order, each a mapping with epochs and learning_rate, and optionally bias_learning_rate,
    layer_learning_rates, color_noise and images."""

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "num_plateaus", "num_bias_plateaus"):
            require_setting(getattr(self, name) >= 1, "schedule", self, name, "1 or more")
        for name in ("lr_range", "bias_lr_range"):
            require_setting(1 <= getattr(self, name) < math.inf, "schedule", self, name, "1 or more")
        for name in ("improvement", "plateau_drops"):
            require_setting(not_negative(getattr(self, name)), "schedule", self, name, NOT_NEGATIVE)
        increasing = list(self.milestones) == sorted(self.milestones) and all(0 < one < 1 for one in self.milestones)
        require_setting(increasing, "schedule", self, "milestones", "an increasing list of fractions between 0 and 1")
        require_setting(0 < self.gamma <= 1, "schedule", self, "gamma", "above 0, up to 1")
        require_setting(0 < self.warmup < 1, "schedule", self, "warmup", "between 0 and 1")
        if (self.kind == "stages") != bool(self.stages):
            raise RequestError(
                f"--schedule.kind is {self.kind} with {len(self.stages)} --schedule.stages; "
                "the kind `stages` needs one or more, other kinds need none (--schedule.stages '[]')"
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
    """Execution of the run."""

    seed: int = 0
    """Seed of initial weights, order, crops and dropout."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device. `auto` uses a GPU if there is one."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic. Weights and velocity stay float32. `auto` is bfloat16 if the hardware supports it."""
    micro_batch: int = 0
    """Images per forward and backward pass, whose gradients are summed over the batch; 0 is the whole batch. Less
    memory, the same result except for rounding."""
    label_smoothing: float = 0.0
    """Fraction of the target probability that is spread over all classes."""
    evaluate_every: int = 1
    """Epochs between validations with one view. The last epoch is always validated."""
    checkpoint_every: float = 300.0
    """Seconds between checkpoints. 0 writes one after every step. A new lowest validation error writes one too."""
    workers: int = 0
    """Threads that load batches; 0: one per core, up to 8. Their number does not change the batches."""
    on_unreadable: Literal["stop", "replace"] = "stop"
    """What to do about an unreadable image: `stop`, or `replace` it by the next stored one and report it."""
    cache: Literal["auto", "none", "device", "bc1"] = "auto"
    """Cache of the training images: `none`; `device`: all in the device's memory, where crops are cut; `bc1`: the same
    in a sixth of the memory with lossy BC1 compression (two colors and their mixtures for each 4 x 4 pixels); `auto`:
    `device` if half of a GPU's free memory holds them, else `none`."""
    ema_decay: float = 0.0
    """Decay of the exponential moving average of the weights; 0 keeps none. With one, the average is validated and
    saved."""

    def __post_init__(self) -> None:
        require_setting(0 <= self.seed < 2**31, "training", self, "seed", f"0 up to {2**31 - 1}")
        for name in ("label_smoothing", "ema_decay"):
            require_setting(0 <= getattr(self, name) < 1, "training", self, name, FRACTION_BELOW_1)
        require_setting(self.evaluate_every >= 1, "training", self, "evaluate_every", "1 or more")
        seconds = "0 (after every step) or more seconds"
        require_setting(not_negative(self.checkpoint_every), "training", self, "checkpoint_every", seconds)
        require_setting(self.micro_batch >= 0, "training", self, "micro_batch", "0 (whole batches) or more")
        require_setting(self.workers >= 0, "training", self, "workers", "0 (one per core, at most 8) or more")
        if self.cache in ("device", "bc1") and self.on_unreadable != "stop":
            raise RequestError(
                f"--training.cache {self.cache} reads all images before the first step, so that none can be replaced; "
                "use --training.on_unreadable stop or --training.cache none"
            )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All settings of a training, with a name and a claim."""

    name: str = "paper"
    """Name for `alexnet train --recipe`."""
    claim: str = ""
    """The error that the recipe reaches, on which data, and how long it takes."""
    network: NetworkSettings = field(default_factory=NetworkSettings)
    data: DataSettings = field(default_factory=DataSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)

    def __post_init__(self) -> None:
        if self.schedule.kind == "plateau" and self.training.evaluate_every != 1:
            raise RequestError(
                f"--training.evaluate_every is {self.training.evaluate_every}, but --schedule.kind plateau needs the "
                "validation error of every epoch; allowed is 1"
            )


GROUPS: dict[str, type] = {
    "network": NetworkSettings,
    "data": DataSettings,
    "optimizer": OptimizerSettings,
    "schedule": ScheduleSettings,
    "training": TrainingSettings,
}
"""Groups of settings by the first half of their dotted names."""

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
    """Dotted names of settings that the recipe's kind of schedule ignores."""
    return {option for option, kinds in _READ_BY.items() if recipe.schedule.kind not in kinds} | (
        set() if recipe.schedule.stages else {"schedule.stages"}
    )


def epochs_of(schedule: ScheduleSettings) -> float:
    """Passes over the training images; for a `plateau` schedule, the maximum."""
    return sum(stage.epochs for stage in schedule.stages) if schedule.stages else schedule.epochs


def refuse_unread_changes(before: Recipe, after: Recipe) -> None:
    """Refuse a change of a setting that the schedule ignores.

    Raises:
        RequestError: there is one; the message names the kinds that read it.
    """
    kind = after.schedule.kind
    for option, kinds in _READ_BY.items():
        group, name = option.split(".")
        changed = getattr(getattr(before, group), name) != getattr(getattr(after, group), name)
        if changed and kind not in kinds:
            advice = "change the stages, or " if kind == "stages" else ""
            no_stages = " --schedule.stages '[]'" if kind == "stages" else ""
            raise RequestError(
                f"--{option} has no effect on a schedule of kind {kind}, only on {', '.join(kinds)}; "
                f"{advice}choose another kind with --schedule.kind{no_stages}"
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
"""Settings (or groups of them) that may change when a training is resumed."""
