"""Every setting of a baseline, in one frozen object that is stored whole with its run, and the named recipes.

A field's docstring gives its unit and the source of its default. The package `baselines` uses the settings; they are
here because commands that list or report runs read them.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from alexnet.errors import RequestError
from alexnet.runs.recipe import NOT_NEGATIVE, require_setting
from alexnet.runs.recipe_file import recipe_differences, settings_from

Kind = Literal["sift-fisher", "sparse-coding"]
DESCRIPTORS = ("sift", "color", "patterns")
CODINGS = ("locality", "l1")
IMAGE_BLUR_PX = 0.5
"""Standard deviation of the blur that an image is taken to have, as in Lowe's SIFT, OpenCV and VLFeat."""


@dataclass(frozen=True, kw_only=True)
class DescriptorSettings:
    """The descriptors of an image: patches on a grid, on several scales."""

    kinds: str = "sift,color"
    """Kinds, separated by commas: sift, color (local color statistics), patterns (local binary patterns)."""
    cell_px: str = "6"
    """Side of a cell in pixels, or several, ascending, separated by commas: then every scale has patches of each size.
    A patch has 4 x 4 cells (patterns: 2 x 2 cells of twice the side). CVPR 2011: 6, for patches of 24. BMVC 2011:
    4,6,8,10 on one scale."""
    step_px: int = 6
    """Pixels between neighboring patches, on every scale. CVPR 2011: 4. BMVC 2011: 3."""
    scales: int = 5
    """Number of scales. Those on which the image is smaller than a patch are skipped."""
    scale_factor: float = math.sqrt(0.5)
    """Size of each scale relative to the one before, below 1."""
    max_pixels: int = 100_000
    """Number of pixels to which larger images are first scaled down. CVPR 2011: 100,000."""
    smoothing_per_cell: float = 0.0
    """Standard deviation of the image's blur before SIFT, relative to the cell's side; 0 adds none. Images are taken to
    have 0.5 pixels already. BMVC 2011: 1/6."""
    min_contrast: float = 0.0
    """Least strength of a patch's gradients, in gray levels per pixel: SIFT leaves out weaker ones; 0 keeps all."""

    def __post_init__(self) -> None:
        parse_choices("descriptors.kinds", self.kinds, DESCRIPTORS)
        parse_cells("--descriptors.cell_px", self.cell_px)
        _require_positive("descriptors", self, "step_px", "scales", "max_pixels")
        require_setting(0 < self.scale_factor < 1, "descriptors", self, "scale_factor", "above 0, below 1")
        for name in ("smoothing_per_cell", "min_contrast"):
            require_setting(0 <= getattr(self, name) < 256, "descriptors", self, name, "0 or more, below 256")
            if getattr(self, name) and "sift" not in self.kinds:
                raise RequestError(
                    f"--descriptors.{name} applies to SIFT, and --descriptors.kinds is {self.kinds!r}; set it to 0, or "
                    "add sift to the kinds"
                )


@dataclass(frozen=True, kw_only=True)
class FisherSettings:
    """From a set of descriptors to features: Fisher vectors over a mixture of Gaussians."""

    kind: Literal["fisher", "bag-of-words"] = "fisher"
    """Encoding: `fisher`, Fisher vectors; or, for comparison, `bag-of-words`, soft ones over the same mixture."""
    dimensions: int = 64
    """Number of principal components of a descriptor to keep. CVPR 2011: 64."""
    components: int = 64
    """Number of Gaussians in the mixture, 16 to 1024."""
    pyramid: str = "1x1,3x1"
    """Spatial pyramid: rows x columns of each level. CVPR 2011: the whole image, and three rows."""
    sample_size: int = 100_000
    """Maximum number of descriptors from which the PCA and the mixture are learned."""

    def __post_init__(self) -> None:
        _require_positive("encoder", self, "dimensions", "sample_size")
        require_setting(16 <= self.components <= 1024, "encoder", self, "components", "16 to 1024")


@dataclass(frozen=True, kw_only=True)
class CodingSettings:
    """From a set of descriptors to features: codes over a learned dictionary, max-pooled in each region."""

    codings: str = "locality"
    """Codings, separated by commas: locality (LLC), l1 (sparse coding). Each is applied to each kind of descriptor."""
    atoms: int = 1024
    """Number of atoms in each dictionary."""
    neighbors: int = 5
    """Locality coding: number of nearest atoms that code a descriptor."""
    l1_penalty: float = 0.075
    """L1 coding: factor on the sum of absolute codes, which is added to half of the squared error. CVPR 2009: lambda
    0.15 with the whole squared error, which is 0.075 here."""
    max_descriptors: int = 400
    """L1 coding: number of descriptors to code per image, drawn once; 0 is all. Locality coding uses all."""
    pyramid: str = "1x1,2x2,4x4"
    """Spatial pyramid: rows x columns of each level."""
    sample_size: int = 100_000
    """Maximum number of descriptors from which a dictionary is learned."""

    def __post_init__(self) -> None:
        parse_choices("encoder.codings", self.codings, CODINGS)
        _require_positive("encoder", self, "neighbors", "sample_size", "l1_penalty")
        require_setting(self.atoms >= 2, "encoder", self, "atoms", "2 or more")
        require_setting(self.max_descriptors >= 0, "encoder", self, "max_descriptors", NOT_NEGATIVE)


@dataclass(frozen=True, kw_only=True)
class ClassifierSettings:
    """One-vs-rest linear classifiers with the hinge loss."""

    kind: Literal["svm", "sgd"] = "svm"
    """Training of the classifiers: `svm`, support vector machines solved to a relative duality gap of 1e-4 from the
    products of all pairs of images, at most 20,000; or `sgd`, averaged stochastic gradient descent, for any number."""
    c: float = 0.0
    """SVM: C, the factor on the sum of losses, against half of the squared weights; 0 chooses among 0.1, 1, 10 and 100
    by cross-validation on the training images (10 with fewer than 50 images)."""
    weight_decay: float = 1e-5
    """SGD: weight decay, the factor on half of the squared weights in the loss."""
    epochs: int = 10
    """SGD: passes over the training images. Weights are averaged from the second on."""
    learning_rate: float = 1.0
    """SGD: initial learning rate. After t images it is multiplied by (1 + learning_rate weight_decay t)^(-3/4)."""
    batch_size: int = 16
    """SGD: images per step."""
    positive_weight: float = 1.0
    """Factor on the loss of a class's own images, against those of all other classes."""

    def __post_init__(self) -> None:
        names = ("epochs", "batch_size", "weight_decay", "learning_rate", "positive_weight")
        _require_positive("classifier", self, *names)
        require_setting(0 <= self.c < math.inf, "classifier", self, "c", NOT_NEGATIVE)
        of_other = ("c",) if self.kind == "sgd" else ("weight_decay", "epochs", "learning_rate", "batch_size")
        for name in of_other:
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                other = "svm" if self.kind == "sgd" else "sgd"
                raise RequestError(
                    f"--classifier.{name} is {getattr(self, name)}, but --classifier.kind {self.kind} does not use it; "
                    f"omit it, or add --classifier.kind {other}"
                )


@dataclass(frozen=True, kw_only=True)
class ProtocolSettings:
    """The images to train and evaluate on."""

    seed: int = 0
    """Seed of the drawing of images and descriptors, the vocabularies and the order of training."""
    per_class: int = 0
    """Number of training images per class, drawn with the seed; 0 is all. A class with fewer contributes all."""
    evaluate_on: Literal["split", "rest"] = "split"
    """Images to evaluate on: `split`, the evaluation split; or `rest`, the training images not drawn by `per_class`."""

    def __post_init__(self) -> None:
        for name in ("seed", "per_class"):
            require_setting(getattr(self, name) >= 0, "protocol", self, name, NOT_NEGATIVE)
        if self.evaluate_on == "rest" and not self.per_class:
            raise RequestError(
                "--protocol.evaluate_on is rest, but without --per-class no training images are left over; add "
                "--per-class N"
            )


@dataclass(frozen=True, kw_only=True)
class BaselineRecipe:
    """All settings of a baseline by group, its name and its claim."""

    name: str
    claim: str = ""
    descriptors: DescriptorSettings = field(default_factory=DescriptorSettings)
    encoder: FisherSettings | CodingSettings = field(default_factory=FisherSettings)
    classifier: ClassifierSettings = field(default_factory=ClassifierSettings)
    protocol: ProtocolSettings = field(default_factory=ProtocolSettings)

    @property
    def kind(self) -> Kind:
        """Which of the two baselines."""
        return "sift-fisher" if isinstance(self.encoder, FisherSettings) else "sparse-coding"


_BOTH: Mapping[str, type] = {"classifier": ClassifierSettings, "protocol": ProtocolSettings}
GROUPS: Mapping[Kind, Mapping[str, type]] = {
    "sift-fisher": {"descriptors": DescriptorSettings, "encoder": FisherSettings, **_BOTH},
    "sparse-coding": {"descriptors": DescriptorSettings, "encoder": CodingSettings, **_BOTH},
}


def parse_choices(option: str, text: str, choices: tuple[str, ...]) -> tuple[str, ...]:
    """Parse `a,b` to (a, b).

    Raises:
        RequestError: one is not among the choices, or occurs twice.
    """
    chosen = tuple(one.strip() for one in text.split(","))
    if not set(chosen) <= set(choices) or len(set(chosen)) < len(chosen):
        raise RequestError(
            f"--{option} is {text!r}; allowed are some of {', '.join(choices)}, each once, separated by commas"
        )
    return chosen


def parse_cells(option: str, text: str | int) -> tuple[int, ...]:
    """Parse `4,6` to (4, 6), and 4 to (4,): sides of cells in pixels.

    Raises:
        RequestError: one is not a whole number of 1 or more, or they do not ascend.
    """
    sides = [one.strip() for one in str(text).split(",")]
    cells = tuple(int(one) if one.isdecimal() else 0 for one in sides)
    if cells[0] < 1 or any(after <= before for before, after in itertools.pairwise(cells)):
        raise RequestError(f"{option} is {text!r}; allowed are whole numbers of 1 or more, ascending: 4 or 4,6,8,10")
    return cells


def current_descriptor_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of descriptors in today's form: earlier ones had one cell, and `smoothing`, an added blur in pixels."""
    current = {**settings}
    if isinstance(cell_px := settings.get("cell_px"), int):
        current["cell_px"] = str(cell_px)
    if isinstance(smoothing := current.pop("smoothing", None), int | float):
        blur_px = math.hypot(smoothing, IMAGE_BLUR_PX) if smoothing else 0.0
        cell_px = parse_cells("--descriptors.cell_px", current.get("cell_px", "6"))[0]
        current |= {"smoothing_per_cell": blur_px / cell_px, "min_contrast": 0.0}
    return current


def _require_positive(group: str, settings: Any, *names: str) -> None:
    """Require whole numbers of 1 or more, and other numbers that are finite and above 0."""
    for name in names:
        value = getattr(settings, name)
        require_setting(0 < value < math.inf, group, settings, name, "1 or more" if type(value) is int else "above 0")


def baseline_to_dict(recipe: BaselineRecipe) -> dict[str, Any]:
    """The recipe as plain dictionaries, ready for YAML or JSON; `baseline` names its kind."""
    content = asdict(recipe)
    return {"name": content.pop("name"), "claim": content.pop("claim"), "baseline": recipe.kind, **content}


def baseline_from_dict(content: Mapping[str, Any]) -> BaselineRecipe:
    """The recipe that `baseline_to_dict` wrote.

    Raises:
        RequestError: an unknown kind of baseline, an unknown key, or a value that a setting does not allow.
    """
    kind = next((one for one in GROUPS if one == content.get("baseline")), None)
    if kind is None:
        raise RequestError(f"unknown baseline {content.get('baseline')!r}; known are {', '.join(GROUPS)}")
    groups = GROUPS[kind]
    classifier = content.get("classifier")
    if isinstance(classifier, Mapping) and classifier and "kind" not in classifier:
        content = {**content, "classifier": {"kind": "sgd", **classifier}}  # of an earlier version, which had no other
    if isinstance(descriptors := content.get("descriptors"), Mapping):
        content = {**content, "descriptors": current_descriptor_settings(descriptors)}
    if unknown := sorted(set(content) - {"name", "claim", "baseline", *groups}, key=str):
        raise RequestError(f"unknown recipe keys {unknown}; known are {sorted(groups)}")
    settings: dict[str, Any] = {
        name: settings_from(group, name, content.get(name, {})) for name, group in groups.items()
    }
    return BaselineRecipe(name=str(content.get("name", kind)), claim=str(content.get("claim", "")), **settings)


def baseline_differences(first: BaselineRecipe, second: BaselineRecipe) -> list[str]:
    """Dotted settings in which two recipes differ, as `group.key: first -> second`."""
    if first.kind != second.kind:
        return [f"baseline: {first.kind} -> {second.kind}"]
    return recipe_differences(first, second)


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
    encoder=FisherSettings(components=1024, sample_size=1_000_000),
    classifier=ClassifierSettings(kind="sgd", positive_weight=4.0),
)
_FISHER_CALTECH = BaselineRecipe(
    name="sift-fisher-caltech101",
    claim=(
        "Caltech-101, 30 training images a class: 77.8 +- 0.6 % mean over classes (Chatfield et al., BMVC 2011: SIFT "
        "every 3 pixels, cells of 4 to 10, 80 components, 256 Gaussians, regions 1x1, 3x1, 2x2). Here 78.1 +- 0.5 % "
        "(three draws) on a part with 31 to 45 images a class, whole photographs of 300 pixels, in 970 core-seconds."
    ),
    descriptors=DescriptorSettings(
        kinds="sift",
        cell_px="4,6,8,10",
        step_px=3,
        scales=1,
        max_pixels=160_000,
        smoothing_per_cell=1 / 6,
        min_contrast=1.0,
    ),
    encoder=FisherSettings(dimensions=80, components=256, pyramid="1x1,3x1,2x2", sample_size=300_000),
    protocol=ProtocolSettings(per_class=30, evaluate_on="rest"),
)
_SPARSE = BaselineRecipe(
    name="sparse-coding",
    claim=(
        "SIFT and local binary patterns, each coded by the 5 nearest of 1,024 atoms, after Lin et al., CVPR 2011; "
        "--encoder.codings locality,l1 adds l1 coding. The paper's table 1 has 47.1 % top-1 and 28.2 % top-5 error for "
        "the average of six such models on ILSVRC-2010; this project has not run that."
    ),
    descriptors=DescriptorSettings(kinds="sift,patterns", cell_px="4", step_px=8, scales=3),
    encoder=CodingSettings(),
)
_SPARSE_CALTECH = BaselineRecipe(
    name="sparse-coding-caltech101",
    claim=(
        "Caltech-101, 30 training images a class: 73.2 +- 0.5 % mean over classes (Yang et al., CVPR 2009: SIFT of 16 "
        "pixels on one scale, every 8 pixels in the paper and 6 in its authors' program, 1,024 atoms, l1, pyramid 1x1, "
        "2x2, 4x4). Here 70.9 +- 0.2 % (three draws) on a part with 31 to 45 images a class, whole photographs of 300 "
        "pixels, in 440 core-seconds."
    ),
    descriptors=DescriptorSettings(kinds="sift", cell_px="4", step_px=6, scales=1, min_contrast=1.0),
    encoder=CodingSettings(codings="l1", max_descriptors=0, sample_size=50_000),
    protocol=ProtocolSettings(per_class=30, evaluate_on="rest"),
)
BASELINES = {recipe.name: recipe for recipe in (_FISHER, _FISHER_2011, _FISHER_CALTECH, _SPARSE, _SPARSE_CALTECH)}
"""All recipes of baselines by name."""


def named_baseline(kind: Kind, name: str | None) -> BaselineRecipe:
    """The recipe of that name and kind; None is the default recipe of the kind.

    Raises:
        RequestError: there is none; the message lists the known ones.
    """
    known = [one for one, recipe in BASELINES.items() if recipe.kind == kind]
    if (name or kind) not in known:
        raise RequestError(f"unknown recipe {name!r} of {kind}; known are {', '.join(known)}")
    return BASELINES[name or kind]
