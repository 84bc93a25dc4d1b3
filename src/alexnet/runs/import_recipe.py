"""The recipe of an imported network: the file that it came from, and how its weights and pixels are read.

Importing it does not load torch: commands that list or report runs read it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, NoReturn

import msgspec

from alexnet.errors import RequestError
from alexnet.runs.recipe import DataSettings, NetworkSettings, Recipe
from alexnet.system.visible_text import shell_words

NAME = "import"
SCALES = {
    "255": "colors 0..255",
    "1": "colors 0..1",
    "imagenet": "colors 0..1 divided by ImageNet's standard deviations",
    "variant": "colors scaled by the variant's own factor",
}
"""What networks read, in words; `variant`: what the variant makes of colors 0..255 itself."""


@dataclass(frozen=True, kw_only=True)
class ImportedFile:
    """The file that the weights came from."""

    name: str
    """Without its folder."""
    sha256: str
    size_bytes: int
    format: str
    """In words: `a Caffe model (bvlc_alexnet)`."""


@dataclass(frozen=True, kw_only=True)
class ImportedNetwork:
    """The network that the weights make."""

    variant: str
    width: float
    num_classes: int
    classes_from: Literal["file", "options", "imagenet", "numbers", "none"]
    """Who names the classes: the file, the options, ILSVRC-2012 by assumption, or nobody: they are numbered, or not
    scored."""
    class_list: str
    """Of options, the name of the list: a file without its folder, or `imagenet`; else ''."""
    features_only: bool
    """Whether the dense layers that the file lacks, or all of them, were left out on request."""
    untrained_layers: tuple[str, ...]
    """Layers with initial weights."""


@dataclass(frozen=True, kw_only=True)
class ImportedInput:
    """How the network reads photographs."""

    color_order: Literal["rgb", "bgr"]
    """Of the file's first layer; the imported one reads RGB."""
    scale: Literal["255", "1", "imagenet", "variant"]
    """Of the colors that the file's network reads: see `SCALES`."""
    scale_in_weights: bool
    """Whether the scale, which the variant does not have, was multiplied into the first layer's weights."""
    mean: tuple[float, ...]
    """Color that is subtracted, RGB, 0..255; of a mean image, its mean color."""
    has_mean_image: bool
    convention_from: Literal["file", "options", "variant", "images"]
    """Who says how pixels are read, or what `given` leaves open: the file, the options, or nobody: then it is what the
    variant usually reads, or has the lowest error on the images of the proof."""
    given: tuple[str, ...]
    """The options that say a part of it: `--mean`."""
    side: int
    """To which photographs are resized, pixels."""
    crop: int
    fit: Literal["crop", "pad", "squash"]
    mean_at: Literal["crop", "center"] = "crop"
    """Part of the mean image that is subtracted: that of the crop, or always the center, as cuda-convnet does."""


@dataclass(frozen=True, kw_only=True)
class ImportRecipe:
    """All that decides what an imported network computes."""

    imported: ImportedFile
    network: ImportedNetwork
    input: ImportedInput
    name: str = NAME
    claim: str = ""

    def training_recipe(self) -> Recipe:
        """The paper's recipe for this network and its crop, with which another training may begin."""
        network = NetworkSettings(variant=self.network.variant, width=self.network.width)
        return Recipe(network=network, data=DataSettings(crop=self.input.crop, mean=self.input.mean_at))


def import_to_dict(recipe: ImportRecipe) -> dict[str, Any]:
    """The recipe as plain dictionaries, ready for YAML or JSON."""
    content = asdict(recipe)
    content["network"]["untrained_layers"] = list(recipe.network.untrained_layers)
    content["input"]["mean"], content["input"]["given"] = list(recipe.input.mean), list(recipe.input.given)
    return {name: content[name] for name in ("name", "claim", "imported", "network", "input")}


def import_from_dict(content: Mapping[str, Any]) -> ImportRecipe:
    """The recipe that `import_to_dict` wrote.

    Raises:
        RequestError: an unknown or missing key, or a value that is not allowed.
    """
    known = {one.name: {key.name for key in fields(kind)} for one, kind in zip(_GROUP_FIELDS, _GROUPS, strict=True)}
    if unknown := sorted(content.keys() - known.keys() - {"name", "claim"}, key=str):
        raise RequestError(f"unknown recipe keys {unknown}; known are {sorted(known)}")
    for group, keys in known.items():
        found = content.get(group)
        if isinstance(found, Mapping) and (unknown := sorted(found.keys() - keys, key=str)):
            raise RequestError(f"unknown keys {unknown} under {group}; known are {sorted(keys)}")
    try:
        return msgspec.convert(content, ImportRecipe)
    except msgspec.ValidationError as error:
        raise RequestError(str(error)) from error


_GROUPS: tuple[type, ...] = (ImportedFile, ImportedNetwork, ImportedInput)
_GROUP_FIELDS = fields(ImportRecipe)[: len(_GROUPS)]


def refuse_untrained(untrained: Sequence[str], what: str, run: object = "RUN") -> NoReturn:
    """Raise RequestError: layers that an imported file lacked are needed.

    Args:
        untrained: the layers with initial weights.
        what: what needs them: `class scores`.
        run: the run folder, for the command that trains them.
    """
    raise RequestError(
        f"{what} need {', '.join(untrained)}, which were not imported: their weights are random. "
        f"Train them with `{shell_words('alexnet', 'finetune', run, 'DATA')}`, or take features of the layers "
        f"before them, such as `{shell_words('alexnet', 'features', run, '--layer', 'pool5', '--out', 'FOLDER')}`"
    )
