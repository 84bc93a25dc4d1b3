"""Photographs in any form in which Python programs have them, as squares like those of a prepared data set.

The container says the layout: NumPy arrays are (H, W, channels), torch tensors (channels, H, W). The dtype says the
range: uint8 is 0..255, floating-point 0..1, as torchvision's transforms give it. Nothing else is guessed, but refused.
"""

import logging
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from io import IOBase
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from alexnet.data.decode import Fit as Fit
from alexnet.data.decode import UnreadableImage, decode_image, decode_opened, make_square, on_white, require_size
from alexnet.data.http_transfer import is_url, without_credentials
from alexnet.data.pixel_layouts import MAX_UPPER_BITS, has_16_bits
from alexnet.data.sources.file_ranges import read_any_file
from alexnet.errors import RequestError
from alexnet.storage.paths import StrPath, as_path
from alexnet.storage.read_errors import is_passing, passing_error
from alexnet.system.visible_text import visible

ImageInput = StrPath | Image.Image | NDArray[np.uint8] | NDArray[np.floating[Any]] | torch.Tensor
"""A file; an image of Pillow; or a uint8 (0..255) or floating-point (0..1) array (H, W, 3), (H, W), (H, W, 1) or
(H, W, 4), or tensor (3, H, W), (H, W), (1, H, W) or (4, H, W). One channel is gray, a fourth is opacity."""
_TYPES = (
    "paths, PIL images, uint8 or floating-point NumPy arrays (H, W, 3), or torch tensors (3, H, W), "
    "and lists or batches of them"
)
_CHANNELS = (1, 3, 4)
_HALF_LEVEL = 0.5 / 255
_MAX_NAME = 1000

_logger = logging.getLogger(__name__)


def square_image(image: ImageInput, side: int, fit: Fit = "crop") -> NDArray[np.uint8]:
    """One photograph, preprocessed like the stored training images: upright, resized and cropped.

    A file and an image of Pillow are turned as their EXIF data say. Transparency is put on white.

    Args:
        image: see `ImageInput`.
        side: pixels, 1 or more.
        fit: how the picture becomes a square, see `make_square`.

    Returns:
        uint8 (side, side, 3), RGB, writable; not a view of `image`.

    Raises:
        RequestError: it is missing, not a readable image, or of another type, shape or range.
        TemporaryError: the machine or the drive failed.
    """
    require_fit(fit)
    if isinstance(image, str | os.PathLike):
        if isinstance(image, str) and is_url(image):
            raise RequestError(
                f"{without_credentials(image)} is a URL, which is not downloaded here; download it first, and name "
                "the file"
            )
        path = as_path(image, "an image")
        return square_of_file(_read(path), _short(path), side, fit)
    name = f"the {_described(image)}"
    try:
        if isinstance(image, Image.Image):
            pixels = decode_opened(image)
            if image.mode.startswith("I") and pixels.max() < MAX_UPPER_BITS:
                _warn_of_12_bits(name)
        else:
            pixels = _array_pixels(image)
        return np.array(make_square(pixels, side, fit))
    except UnreadableImage as error:
        raise RequestError(f"{name} cannot be used: {error}") from error


def square_images(images: ImageInput | Iterable[ImageInput], side: int, fit: Fit = "crop") -> NDArray[np.uint8]:
    """One photograph or many, as `as_images` takes them, each as `square_image` makes it.

    Returns:
        uint8 (N, side, side, 3).

    Raises:
        RequestError: an image cannot be used; of several without a name, its number is given.
        TemporaryError: the machine or the drive failed.
    """
    listed = list(as_images(images))
    squares = [_square_of_several(listed, number, side, fit) for number in range(len(listed))]
    return np.array(squares, np.uint8).reshape(-1, side, side, 3)


def _square_of_several(images: Sequence[ImageInput], number: int, side: int, fit: Fit = "crop") -> NDArray[np.uint8]:
    """The square of image `number`; errors name its path, or, of several images, its number."""
    image = images[number]
    try:
        return square_image(image, side, fit)
    except RequestError as error:
        if isinstance(image, str | os.PathLike) or len(images) == 1:
            raise
        raise RequestError(f"images[{number}]: {error}") from error


def square_of_file(content: bytes, name: str, side: int, fit: Fit = "crop") -> NDArray[np.uint8]:
    """The square of an image file that is in memory, as `square_image` gives it.

    Args:
        name: of the file, for messages.

    Raises:
        RequestError: it is not a readable image.
    """
    try:
        image = decode_image(content, apply_orientation=True)
        square = make_square(image, side, fit)
    except UnreadableImage as error:
        raise RequestError(f"{name} is not a readable image: {error}") from error
    if has_16_bits(content) and image.max() < MAX_UPPER_BITS:
        _warn_of_12_bits(name)
    return np.array(square)  # a copy: torch warns about read-only arrays


def as_images(images: ImageInput | Iterable[ImageInput]) -> Iterator[ImageInput]:
    """One image, or many, one by one.

    Args:
        images: an image; an iterable of images, of any types; or a batch: an array (N, H, W, C) or a tensor
            (N, C, H, W). A path is one image, also where it is that of a folder.

    Raises:
        RequestError: something else, or one of them has a type that no image has. What it contains is checked when it
            is read.
    """
    if isinstance(images, np.ndarray | torch.Tensor):
        # Arrays of names or objects, such as a column of a table, are read like lists.
        is_list = isinstance(images, np.ndarray) and images.ndim == 1 and images.dtype.kind in "OUT"
        return iter(images) if images.ndim == 4 or is_list else iter([images])
    if isinstance(images, str | os.PathLike | Image.Image):
        return iter([images])
    # An open file is an iterable, too: of its lines.
    if isinstance(images, bytes | bytearray | dict | IOBase) or not isinstance(images, Iterable):
        raise RequestError(f"images are {_of_wrong_type(images)}")
    return _checked(images)


def _checked(images: Iterable[ImageInput]) -> Iterator[ImageInput]:
    """Images, each of a type that an image can have."""
    for index, image in enumerate(images):
        if not isinstance(image, str | os.PathLike | Image.Image | np.ndarray | torch.Tensor):
            raise RequestError(f"images[{index}] is {_of_wrong_type(image)}")
        yield image


def _of_wrong_type(image: object) -> str:
    """What an argument is that is not an image, and what to do."""
    advice = ""
    if isinstance(image, bytes | bytearray):
        advice = "; open it with `PIL.Image.open(io.BytesIO(content))`"
    elif isinstance(image, IOBase):
        advice = "; open it with `PIL.Image.open`"
    return f"of type {type(image).__name__}; allowed are {_TYPES}{advice}"


def require_fit(fit: str) -> None:
    """Refuse an unknown fit."""
    if fit not in get_args(Fit):
        raise RequestError(f"--fit is {fit!r}; allowed is {', '.join(get_args(Fit))}")


def _read(path: Path) -> bytes:
    try:
        return read_any_file(str(path))
    except UnreadableImage as error:
        raise RequestError(f"{_short(path)} is not a readable image: {error}") from error
    except OSError as error:
        if is_passing(error):
            raise passing_error(f"cannot read {_short(path)}", error) from error
        advice = "" if isinstance(error, FileNotFoundError) else "; name image files"
        raise RequestError(f"cannot read {_short(path)}: {error.strerror or error}{advice}") from error
    except ValueError as error:  # a name that no file can have
        raise RequestError(f"cannot read {_short(path)}: {error}; name image files") from error


def _array_pixels(image: NDArray[Any] | torch.Tensor) -> NDArray[np.uint8]:
    """RGB of an array or a tensor, uint8 (H, W, 3).

    Raises:
        UnreadableImage: it has another shape, dtype or range than `ImageInput`.
    """
    if isinstance(image, torch.Tensor):
        channels, layout = 0, "torch tensors are (channels, H, W)"
        advice = "permute it: `tensor.permute(2, 0, 1)`"
    else:
        channels, layout = 2, "NumPy arrays are (H, W, channels)"
        advice = "transpose it: `array.transpose(1, 2, 0)`"
    if image.ndim == 3 and image.shape[channels] not in _CHANNELS:
        is_other_layout = image.shape[2 - channels] in _CHANNELS
        raise UnreadableImage(f"{layout}; {advice}" if is_other_layout else f"{layout}, with 1, 3 or 4 channels")
    if image.ndim not in (2, 3):
        raise UnreadableImage(f"{layout}; " + ("pass each of its images" if image.ndim == 4 else "pass one of these"))
    height, width = (
        image.shape if image.ndim == 2 else [size for axis, size in enumerate(image.shape) if axis != channels]
    )
    require_size(width, height)
    array = _as_numpy(image) if isinstance(image, torch.Tensor) else np.asarray(image)
    if array.ndim == 3:
        array = np.moveaxis(array, channels, 2)
    pixels = _as_uint8(array)
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        return on_white(pixels)
    gray = pixels[:, :, None] if pixels.ndim == 2 else pixels
    return np.repeat(gray, 3, axis=2) if gray.shape[2] == 1 else np.ascontiguousarray(gray)


def _as_numpy(tensor: torch.Tensor) -> NDArray[Any]:
    """A tensor of any device as an array."""
    try:
        if tensor.dtype == torch.bfloat16:  # NumPy has no such type
            tensor = tensor.float()
        array: NDArray[Any] = tensor.numpy(force=True)
        return array
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise UnreadableImage(f"torch cannot give its values: {str(error).splitlines()[0]}") from error


def _as_uint8(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Values in 0..255, where floating-point ones are rounded to the nearest level."""
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f":
        raise UnreadableImage(
            "allowed are uint8 (0 to 255) and floating-point numbers (0 to 1); convert it to one of these"
        )
    low, high = float(array.min()), float(array.max())
    if not math.isfinite(low) or not math.isfinite(high):
        raise UnreadableImage("it has values that are not finite")
    if low < -_HALF_LEVEL or high > 1 + _HALF_LEVEL:
        likely = (
            "if it was normalized, undo that first"
            if low < -_HALF_LEVEL
            else "if they are 0 to 255, divide by 255 or convert to uint8"
        )
        raise UnreadableImage(
            f"its values are from {low:.4g} to {high:.4g}; allowed are floating-point numbers from 0 to 1; {likely}"
        )
    levels: NDArray[np.float32] = np.rint(array.astype(np.float32) * np.float32(255))
    return levels.clip(0, 255).astype(np.uint8)


def _described(image: object) -> str:
    """What an image is, for messages: its type, dtype and shape."""
    if isinstance(image, np.ndarray):
        return f"{image.dtype} array of shape {image.shape}"
    if isinstance(image, torch.Tensor):
        return f"{str(image.dtype).removeprefix('torch.')} tensor of shape {tuple(image.shape)}"
    if isinstance(image, Image.Image):
        return f"PIL image of mode {image.mode}"
    raise RequestError(f"an image is {_of_wrong_type(image)}")


def _short(path: Path) -> str:
    """A path for a message; of something longer than any name of a file, such as a web page, the beginning."""
    name = visible(str(path))
    return name if len(name) <= _MAX_NAME else f"{name[:_MAX_NAME]}..."


def _warn_of_12_bits(name: str) -> None:
    _logger.warning(
        f"{name} has 16 bits per channel and uses only the lower 12 (values up to 4,095), so it is read as nearly "
        "black; if the camera has 12 bits, multiply the values by 16"
    )
