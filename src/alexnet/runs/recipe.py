"""Every hyper-parameter of a training, in one frozen object that is stored whole with its run.

A field's docstring gives its unit and where its default comes from. The defaults are the paper's.
`runs/recipes.py` holds the named recipes.
"""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from alexnet.errors import RequestError


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """Which network is trained."""

    variant: str = "paper"
    """Name of the variant, see `alexnet train --help`."""
    width: float = 1.0
    """Factor on the number of maps and units of every layer but the last; 1 is the published width."""
    dropout: float = 0.5
    """Probability that dropout zeroes a unit. Paper: section 4.2."""

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
    colour_noise: float = 0.1
    """Standard deviation of the factors on the principal components of colour; 0 switches the noise off."""
    subset: int = 0
    """Train on this many images, drawn once with the seed, as equal in number per class as can be; 0 is all."""

    def __post_init__(self) -> None:
        if self.crop < 8:
            raise RequestError(f"--data.crop is {self.crop}; the smallest allowed is 8 pixels")
        if self.colour_noise < 0:
            raise RequestError(f"--data.colour_noise is {self.colour_noise}; allowed is 0 (off) or more")
        if self.subset < 0:
            raise RequestError(f"--data.subset is {self.subset}; allowed is 0 (all images) or more")


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Stochastic gradient descent with momentum. Paper: section 5."""

    batch_size: int = 128
    """Images in a step."""
    rate: float = 0.01
    """Learning rate at the start (`steps`) or at the peak (`one-cycle`)."""
    momentum: float = 0.9
    """Share of the velocity that is carried over each step."""
    decay: float = 0.0005
    """Weight decay, inside the velocity and multiplied by the rate; weights only, not biases."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise RequestError(f"--optimizer.batch_size is {self.batch_size}; allowed is 1 or more")
        if self.rate < 0:
            raise RequestError(f"--optimizer.rate is {self.rate}; allowed is 0 or more")
        if not 0 <= self.momentum < 1:
            raise RequestError(f"--optimizer.momentum is {self.momentum}; allowed is 0 up to, not including, 1")
        if self.decay < 0:
            raise RequestError(f"--optimizer.decay is {self.decay}; allowed is 0 or more")


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """How the learning rate moves over the run."""

    kind: Literal["steps", "one-cycle"] = "steps"
    """`steps`: the rate is multiplied by `factor` at each of `drops`. `one-cycle`: it rises, then falls to 0."""
    epochs: int = 90
    """Passes over the training images. Paper: about 90."""
    drops: tuple[float, ...] = (0.25, 0.55, 0.85)
    """`steps`: fractions of the run at which the rate drops; the paper dropped it three times."""
    factor: float = 0.1
    """`steps`: what the rate is multiplied by at a drop."""
    warm_up: float = 0.2
    """`one-cycle`: fraction of the run in which the rate rises."""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise RequestError(f"--schedule.epochs is {self.epochs}; allowed is 1 or more")
        if not all(0 < drop < 1 for drop in self.drops) or list(self.drops) != sorted(self.drops):
            raise RequestError(f"--schedule.drops is {list(self.drops)}; allowed are rising fractions between 0 and 1")
        if not 0 < self.factor <= 1:
            raise RequestError(f"--schedule.factor is {self.factor}; allowed is above 0, up to 1")
        if not 0 < self.warm_up < 1:
            raise RequestError(f"--schedule.warm_up is {self.warm_up}; allowed is between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How the run is carried out."""

    seed: int = 0
    """Seed of the initial weights, of the order, of the crops and of dropout."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the network runs; `auto` takes a GPU where there is one."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the network; weights and velocity stay float32. `auto` is bfloat16 where the hardware has it."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes."""
    evaluate_every: int = 1
    """Measure the validation split (one view) after every so many epochs; the last epoch is always measured."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**31:
            raise RequestError(f"--training.seed is {self.seed}; allowed is 0 up to 2147483647")
        if not 0 <= self.label_smoothing < 1:
            raise RequestError(
                f"--training.label_smoothing is {self.label_smoothing}; allowed is 0 up to, not including, 1"
            )
        if self.evaluate_every < 1:
            raise RequestError(f"--training.evaluate_every is {self.evaluate_every}; allowed is 1 or more")


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


GROUPS: dict[str, type] = {
    "network": NetworkSettings,
    "data": DataSettings,
    "optimizer": OptimizerSettings,
    "schedule": ScheduleSettings,
    "training": TrainingSettings,
}
"""The recipe's groups of settings, by the first half of a dotted option."""


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain dictionaries, lists and numbers, ready for YAML or JSON."""
    content = asdict(recipe)
    content["schedule"]["drops"] = list(recipe.schedule.drops)
    return content


def recipe_from_dict(content: dict[str, Any]) -> Recipe:
    """The recipe that `recipe_to_dict` wrote.

    Raises:
        RequestError: a key that no setting has, or a value a setting does not allow.
    """
    known = {"name", "claim", *GROUPS}
    if unknown := sorted(set(content) - known):
        raise RequestError(f"unknown recipe keys {unknown}; known are {sorted(known)}")
    groups: dict[str, Any] = {}
    for name, settings in GROUPS.items():
        values = dict(content.get(name, {}))
        allowed = {one.name for one in fields(settings)}
        if unknown := sorted(set(values) - allowed):
            raise RequestError(f"unknown keys {unknown} under {name}; known are {sorted(allowed)}")
        groups[name] = settings(**{key: _typed(settings, name, key, value) for key, value in values.items()})
    return Recipe(name=content.get("name", ""), claim=content.get("claim", ""), **groups)


def _typed(settings: type, group: str, key: str, value: Any) -> Any:
    """The value in the setting's own type: YAML reads 1e-3 as text and 1 as a whole number.

    Raises:
        RequestError: it cannot be that.
    """
    kind = get_type_hints(settings)[key]
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    number = (int, float, str)
    try:
        if choices and value in choices:
            return value
        if kind is float and isinstance(value, number) and not isinstance(value, bool):
            return float(value)
        if get_origin(kind) is tuple and isinstance(value, list | tuple):
            return tuple(float(one) for one in value)
        if kind in (int, bool, str) and type(value) is kind:
            return value
    except (TypeError, ValueError):
        pass
    allowed = f"one of {', '.join(map(str, choices))}" if choices else getattr(kind, "__name__", str(kind))
    raise RequestError(f"{group}.{key} is {value!r}; allowed is {allowed}")


def recipe_differences(first: Recipe, second: Recipe) -> list[str]:
    """Dotted settings in which two recipes differ, as `group.key: first -> second`."""
    lines = []
    for group, settings in GROUPS.items():
        for one in fields(settings):
            before = getattr(getattr(first, group), one.name)
            after = getattr(getattr(second, group), one.name)
            if before != after:
                lines.append(f"{group}.{one.name}: {before} -> {after}")
    return lines


def read_config(path: Path, base: Recipe) -> Recipe:
    """`base` with the settings of a YAML file laid over it; the file looks like a run's recipe.yaml, whole or in part.

    Raises:
        RequestError: the file is missing, not YAML, or has a key or value that no recipe allows.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise RequestError(f"cannot read --config {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RequestError(f"--config {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(group, {}), dict) for group in GROUPS):
        raise RequestError(f"--config {path} must hold groups of settings ({', '.join(GROUPS)}), each `key: value`")
    merged = recipe_to_dict(base)
    for key, value in content.items():
        merged[key] = {**merged[key], **value} if key in GROUPS else value
    return recipe_from_dict(merged)
