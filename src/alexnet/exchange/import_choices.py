"""What a user says of a file of weights: options of an import, checked, and the files that they name, read."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from alexnet.data.dataset import ClassInfo
from alexnet.data.decode import Fit
from alexnet.errors import RequestError
from alexnet.exchange.caffe_mean import read_mean_image
from alexnet.exchange.class_lists import IMAGENET, imagenet_classes, read_classes, require_classes
from alexnet.exchange.convnet_checkpoints import is_pickle, read_batches_meta
from alexnet.exchange.foreign_network import ColorOrder, InputScale
from alexnet.model.variants import named_variant
from alexnet.storage.arguments import is_number, is_whole
from alexnet.storage.paths import StrPath, as_path, described

GivenClasses = StrPath | Sequence[str | ClassInfo]
GivenMean = StrPath | Sequence[float]
_MAX_SIDE = 4096
_COLOR = re.compile(r"\s*-?[\d.]+(e-?\d+)?\s*(,\s*-?[\d.]+(e-?\d+)?\s*)*")


@dataclass(frozen=True, kw_only=True, eq=False)
class ImportChoices:
    """What a user says of a file; None leaves it to the file, or to the variant."""

    variant: str | None = None
    classes: tuple[ClassInfo, ...] | None = None
    class_list: str = ""
    """Of the classes, the name of the list: a file, or `imagenet`; '' of classes that a caller lists."""
    color_order: ColorOrder | None = None
    input_scale: InputScale | None = None
    mean_color: tuple[float, float, float] | None = None
    """RGB, 0..255."""
    mean_image: NDArray[np.float32] | None = None
    """(side, side, 3) RGB, 0..255, instead of a mean color."""
    side: int | None = None
    fit: Fit | None = None
    features_only: bool = False


def checked_choices(
    *,
    variant: str | None,
    classes: GivenClasses | None,
    color_order: str | None,
    input_scale: str | float | None,
    mean: GivenMean | None,
    side: int | None,
    fit: str | None,
    features_only: bool,
) -> ImportChoices:
    """The choices that a caller gave, see `import_weights`; files that they name are read.

    Raises:
        RequestError: a value that is not allowed, or a file that is not a class list or a mean image.
    """
    if variant is not None:
        named_variant(variant)
    scale = str(input_scale) if input_scale in (1, 255) else input_scale
    for option, value, allowed in (
        ("--color-order", color_order, get_args(ColorOrder)),
        ("--input-scale", scale, get_args(InputScale)),
        ("--fit", fit, get_args(Fit)),
    ):
        if value is not None and value not in allowed:
            raise RequestError(f"{option} is {described(value)}; allowed are {', '.join(allowed)}")
    if side is not None and not is_whole(side, 1, _MAX_SIDE):
        raise RequestError(f"--side is {described(side)}; allowed is 1 to {_MAX_SIDE:,}")
    named, class_list = (None, "") if classes is None else _classes(classes)
    color, image = (None, None) if mean is None else _mean(mean)
    checked: dict[str, Any] = {"color_order": color_order, "input_scale": scale, "fit": fit}
    return ImportChoices(
        variant=variant,
        classes=named,
        class_list=class_list,
        mean_color=color,
        mean_image=image,
        side=side,
        features_only=bool(features_only),
        **checked,
    )


def _classes(given: GivenClasses) -> tuple[tuple[ClassInfo, ...], str]:
    """The classes, and the name of their list."""
    if given == IMAGENET:
        return imagenet_classes(), IMAGENET
    if not isinstance(given, Sequence) or isinstance(given, str):
        path = as_path(given, "--classes")
        return read_classes(path), Path(os.path.abspath(path)).name
    listed = []
    for number, one in enumerate(given):
        if not isinstance(one, str | ClassInfo):
            raise RequestError(
                f"classes[{number}] is {described(one)}; allowed is a name or alexnet.ClassInfo(id, name)"
            )
        listed.append(ClassInfo(one, one) if isinstance(one, str) else one)
    require_classes([(one.id, one.name) for one in listed], "classes[{}]")
    return tuple(listed), ""


def _mean(given: GivenMean) -> tuple[tuple[float, float, float] | None, NDArray[np.float32] | None]:
    """A mean color or a mean image; of a file with one pixel, its color."""
    value: Any = given
    if isinstance(given, str) and _COLOR.fullmatch(given):
        value = [_number(part) for part in given.split(",")]
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != 3 or not all(is_number(one, 0, 255) for one in value):
            raise RequestError(
                f"--mean is {described(given)}; allowed are three numbers, red,green,blue of 0..255, or a file"
            )
        red, green, blue = map(float, value)
        if 0 < max(red, green, blue) <= 1:
            as_colors = ",".join(f"{255 * one:.6g}" for one in (red, green, blue))
            raise RequestError(
                f"--mean is {described(given)}; colors are 0..255, whatever the scale, so give {as_colors} if these "
                "are colors of 0..1"
            )
        return (red, green, blue), None
    path = as_path(value, "--mean")
    image = read_batches_meta(path) if is_pickle(path) else read_mean_image(path)
    if image.shape[0] == 1:
        red, green, blue = image[0, 0].tolist()
        return (red, green, blue), None
    return None, image


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
