"""Every setting of a baseline, in one frozen object that is stored whole with its run, and the named recipes.

A field's docstring gives its unit and where its default comes from. What the settings do stands in the room
`baselines`; they are here because whoever lists or reports runs reads them.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from alexnet.errors import RequestError
from alexnet.runs.recipe_file import settings_from

Kind = Literal["sift-fisher", "sparse-coding"]
DESCRIPTORS = ("sift", "color", "patterns")
CODINGS = ("locality", "l1")


@dataclass(frozen=True, kw_only=True)
class DescriptorSettings:
    """What is seen of an image: patches on a grid, on several scales of it."""

    kinds: str = "sift,color"
    """Kinds of descriptors with commas: sift, color (local color statistics), patterns (local binary patterns)."""
    cell_px: int = 6
    """Side of a cell; a patch has 4 x 4 of them (patterns: 2 x 2 of twice the side). CVPR 2011: patches of 24."""
    step_px: int = 6
    """From patch to patch, on every scale. CVPR 2011: 4."""
    scales: int = 5
    """How often the image is scaled down; scales on which it is smaller than a patch are left out."""
    scale_factor: float = math.sqrt(0.5)
    """From one scale to the next."""
    max_pixels: int = 100_000
    """Larger images are scaled down to as many pixels first. CVPR 2011."""
    smoothing: float = 0.0
    """Deviation of a Gaussian on gray values before gradients, pixels."""

    def __post_init__(self) -> None:
        listed("descriptors.kinds", self.kinds, DESCRIPTORS)
        _require("descriptors", self, cell_px=1, step_px=1, scales=1, max_pixels=1)
        if not 0 < self.scale_factor < 1 or not 0 <= self.smoothing < 100:
            raise RequestError(
                f"--descriptors.scale_factor is {self.scale_factor}, --descriptors.smoothing {self.smoothing}; allowed "
                "are between 0 and 1, and 0 to 100"
            )


@dataclass(frozen=True, kw_only=True)
class FisherSettings:
    """How a set of descriptors becomes a vector: Fisher vectors over a mixture of Gaussians."""

    form: Literal["fisher", "bag-of-words"] = "fisher"
    """Gradients to means and deviations, or for comparison the shares of the same Gaussians alone."""
    dimensions: int = 64
    """Principal components of descriptors. CVPR 2011."""
    components: int = 64
    """Gaussians, 16 to 1024."""
    pyramid: str = "1x1,3x1"
    """Levels of rows x columns. CVPR 2011: the whole, and three rows."""
    sample: int = 100_000
    """Descriptors from which components and mixture are learned, at most."""

    def __post_init__(self) -> None:
        _require("encoder", self, dimensions=1, sample=1)
        if not 16 <= self.components <= 1024:
            raise RequestError(f"--encoder.components is {self.components}; allowed is 16 to 1024")


@dataclass(frozen=True, kw_only=True)
class CodingSettings:
    """How a set of descriptors becomes a vector: codes over a dictionary, the largest of each region."""

    codings: str = "locality"
    """Codings with commas: locality (5 nearest atoms), l1. Each is combined with each kind of descriptor."""
    atoms: int = 1024
    """Of each dictionary."""
    neighbors: int = 5
    """Atoms that code a descriptor, with locality."""
    penalty: float = 0.075
    """On absolute codes, with l1, beside half of the squared error. CVPR 2009: lambda 0.15 without the half."""
    limit: int = 400
    """Descriptors of an image that l1 codes, drawn once; 0 is all. Locality codes all."""
    pyramid: str = "1x1,2x2,4x4"
    """Levels of rows x columns."""
    sample: int = 100_000
    """Descriptors from which a dictionary is learned, at most."""

    def __post_init__(self) -> None:
        listed("encoder.codings", self.codings, CODINGS)
        _require("encoder", self, atoms=2, neighbors=1, limit=0, sample=1)
        if not 0 < self.penalty < math.inf:
            raise RequestError(f"--encoder.penalty is {self.penalty}; allowed is above 0")


@dataclass(frozen=True, kw_only=True)
class ClassifierSettings:
    """One-against-all linear classifiers by averaged stochastic gradient descent."""

    weight_decay: float = 1e-5
    """Factor on half the squared weights."""
    epochs: int = 10
    """Passes over the training images; the weights are averaged from the second on."""
    learning_rate: float = 1.0
    """The first rate."""
    batch_size: int = 16
    """Images of one step."""
    positive_weight: float = 1.0
    """Factor on the loss of a class's own images."""

    def __post_init__(self) -> None:
        _require("classifier", self, epochs=1, batch_size=1)
        for name in ("weight_decay", "learning_rate", "positive_weight"):
            if not 0 < getattr(self, name) < math.inf:
                raise RequestError(f"--classifier.{name} is {getattr(self, name)}; allowed is above 0")


@dataclass(frozen=True, kw_only=True)
class ProtocolSettings:
    """Which images are learned from and measured on."""

    seed: int = 0
    """Of every drawing: images, descriptors, vocabularies, order."""
    per_class: int = 0
    """Training images of each class, drawn with the seed; 0 is all. A class that has fewer gives all it has."""
    measure: Literal["split", "rest"] = "split"
    """Measured on: the evaluation split, or the rest of the training images where `per_class` leaves one."""

    def __post_init__(self) -> None:
        _require("protocol", self, seed=0, per_class=0)
        if self.measure == "rest" and not self.per_class:
            raise RequestError("--protocol.measure is rest, and without --per-class nothing is left; name a number")


@dataclass(frozen=True, kw_only=True)
class BaselineRecipe:
    """A whole baseline: its settings by group, its name and its claim."""

    name: str
    claim: str = ""
    descriptors: DescriptorSettings = field(default_factory=DescriptorSettings)
    encoder: FisherSettings | CodingSettings = field(default_factory=FisherSettings)
    classifier: ClassifierSettings = field(default_factory=ClassifierSettings)
    protocol: ProtocolSettings = field(default_factory=ProtocolSettings)

    @property
    def kind(self) -> Kind:
        """Which of the two systems."""
        return "sift-fisher" if isinstance(self.encoder, FisherSettings) else "sparse-coding"


_BOTH: Mapping[str, type] = {"classifier": ClassifierSettings, "protocol": ProtocolSettings}
GROUPS: Mapping[Kind, Mapping[str, type]] = {
    "sift-fisher": {"descriptors": DescriptorSettings, "encoder": FisherSettings, **_BOTH},
    "sparse-coding": {"descriptors": DescriptorSettings, "encoder": CodingSettings, **_BOTH},
}


def listed(option: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """`a,b` as (a, b).

    Raises:
        RequestError: one is not known, or stands there twice.
    """
    found = tuple(one.strip() for one in text.split(","))
    if not set(found) <= set(known) or len(set(found)) < len(found):
        raise RequestError(f"--{option} is {text!r}; allowed are some of {', '.join(known)}, each once, with commas")
    return found


def _require(group: str, settings: Any, **least: int) -> None:
    for name, smallest in least.items():
        if getattr(settings, name) < smallest:
            raise RequestError(f"--{group}.{name} is {getattr(settings, name)}; allowed is {smallest} or more")


def baseline_to_dict(recipe: BaselineRecipe) -> dict[str, Any]:
    """The recipe as plain dictionaries, ready for YAML or JSON; `baseline` names the system."""
    content = asdict(recipe)
    return {"name": content.pop("name"), "claim": content.pop("claim"), "baseline": recipe.kind, **content}


def baseline_from_dict(content: Mapping[str, Any]) -> BaselineRecipe:
    """The recipe that `baseline_to_dict` wrote.

    Raises:
        RequestError: an unknown system, a key that no setting has, or a value that a setting does not allow.
    """
    kind = next((one for one in GROUPS if one == content.get("baseline")), None)
    if kind is None:
        raise RequestError(f"baseline {content.get('baseline')!r} is unknown; known are {', '.join(GROUPS)}")
    groups = GROUPS[kind]
    if unknown := sorted(set(content) - {"name", "claim", "baseline", *groups}, key=str):
        raise RequestError(f"unknown recipe keys {unknown}; known are {sorted(groups)}")
    made: dict[str, Any] = {name: settings_from(group, name, content.get(name, {})) for name, group in groups.items()}
    return BaselineRecipe(name=str(content.get("name", kind)), claim=str(content.get("claim", "")), **made)


def baseline_differences(first: BaselineRecipe, second: BaselineRecipe) -> list[str]:
    """Dotted settings in which two recipes of one system differ, as `group.key: first -> second`."""
    if first.kind != second.kind:
        return [f"baseline: {first.kind} -> {second.kind}"]
    lines = []
    for group, settings in GROUPS[first.kind].items():
        for one in fields(settings):
            before, after = (getattr(getattr(recipe, group), one.name) for recipe in (first, second))
            if before != after:
                lines.append(f"{group}.{one.name}: {before} -> {after}")
    return lines


_FISHER = BaselineRecipe(
    name="sift-fisher",
    claim=(
        "SIFT and color statistics on five scales, Fisher vectors of 64 Gaussians, after Sanchez and Perronnin, CVPR "
        "2011. The paper's table 1 has 45.7 % top-1 and 25.7 % top-5 error for theirs on ILSVRC-2010; this project has "
        "not run that."
    ),
)
_FISHER_2011 = BaselineRecipe(
    name="sift-fisher-2011",
    claim=(
        "As Sanchez and Perronnin, CVPR 2011, have it: patches every 4 pixels, 1,024 Gaussians. On "
        "ILSVRC-2010: 45.7 % top-1 and 25.7 % top-5 error on the test images (AlexNet paper, table 1); this project "
        "has not run it."
    ),
    descriptors=DescriptorSettings(step_px=4),
    encoder=FisherSettings(components=1024, sample=1_000_000),
    classifier=ClassifierSettings(positive_weight=4.0),
)
_FISHER_CALTECH = BaselineRecipe(
    name="sift-fisher-caltech101",
    claim=(
        "Caltech-101, 30 training images a class: 77.8 +- 0.6 % mean over classes (Chatfield et al., BMVC 2011: SIFT "
        "every 3 pixels, cells of 4 to 10, 80 components, 256 Gaussians, regions 1x1, 3x1, 2x2); this project has not "
        "run it."
    ),
    descriptors=DescriptorSettings(kinds="sift", cell_px=4, step_px=3, scales=4, scale_factor=0.75, max_pixels=160_000),
    encoder=FisherSettings(dimensions=80, components=256, pyramid="1x1,3x1,2x2", sample=500_000),
    protocol=ProtocolSettings(per_class=30, measure="rest"),
)
_SPARSE = BaselineRecipe(
    name="sparse-coding",
    claim=(
        "SIFT and local binary patterns, each coded by the 5 nearest of 1,024 atoms, after Lin et al., CVPR 2011; "
        "--encoder.codings locality,l1 adds l1 coding. The paper's table 1 has 47.1 % top-1 and 28.2 % top-5 error for "
        "the average of six such models on ILSVRC-2010; this project has not run that."
    ),
    descriptors=DescriptorSettings(kinds="sift,patterns", cell_px=4, step_px=8, scales=3),
    encoder=CodingSettings(),
)
_SPARSE_CALTECH = BaselineRecipe(
    name="sparse-coding-caltech101",
    claim=(
        "Caltech-101, 30 training images a class: 73.2 +- 0.5 % mean over classes (Yang et al., CVPR 2009: SIFT of 16 "
        "pixels every 8 pixels on one scale, 1,024 atoms, l1, pyramid 1x1, 2x2, 4x4); this project has not run it."
    ),
    descriptors=DescriptorSettings(kinds="sift", cell_px=4, step_px=8, scales=1),
    encoder=CodingSettings(codings="l1", limit=0, sample=50_000),
    protocol=ProtocolSettings(per_class=30, measure="rest"),
)
BASELINES = {recipe.name: recipe for recipe in (_FISHER, _FISHER_2011, _FISHER_CALTECH, _SPARSE, _SPARSE_CALTECH)}
"""All recipes of baselines by name."""


def named_baseline(kind: Kind, name: str | None) -> BaselineRecipe:
    """The recipe of that name, which must be of that system; None is the system's own.

    Raises:
        RequestError: there is none; the known ones are named.
    """
    known = [one for one, recipe in BASELINES.items() if recipe.kind == kind]
    if (name or kind) not in known:
        raise RequestError(f"unknown recipe {name!r} of {kind}; known are {', '.join(known)}")
    return BASELINES[name or kind]
