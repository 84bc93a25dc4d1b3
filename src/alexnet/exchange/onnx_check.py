"""An ONNX model run by ONNX Runtime beside torch, on photographs of a data set from their raw pixels on."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.data.dataset import PreparedData, Split
from alexnet.data.decode import UnreadableImage, decode_image
from alexnet.data.shards import UnreadableSample
from alexnet.errors import RequestError, WorkError
from alexnet.evaluation.preprocessing import preprocess
from alexnet.exchange.onnx_graph import onnx_module
from alexnet.model.inference import inference_network
from alexnet.model.weights import Trained
from alexnet.storage.read_errors import raise_unless_damage
from alexnet.system.progress import ShowProgress, counted

_Photograph = tuple[str, NDArray[np.uint8], bool]
"""A key; pixels (H, W, 3); whether they are in their own size."""
PROBABILITY_LIMIT = 1e-4
PIXEL_LIMIT = 1.0
"""Gray levels of 0..255."""
MAX_IMAGES = 1000
BATCH_SIZE = 16
"""Photographs in memory at most; those of one size are computed together."""
BATCH_PIXELS = 1 << 24
"""Of the photographs in memory together; a larger one is alone. Both programs take some hundred bytes for each."""


@dataclass(frozen=True, kw_only=True)
class OnnxCheck:
    """How ONNX Runtime and torch (float32, on the CPU) agree about the same photographs."""

    data_title: str
    split: str
    num_images: int
    num_originals: int
    """Photographs in their own size; of the others, whose files are gone, the stored squares were taken."""
    pixel_difference: float
    """Largest, in gray levels of what the network reads."""
    pixel_share: float
    """Of the pixels that differ, 0..1."""
    probability_difference: float
    """Largest."""
    num_same_class: int
    """Photographs with the same most probable class."""
    onnx_images_per_second: float
    torch_images_per_second: float
    """From raw pixels to probabilities, measured alternately, with as many threads."""

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return dict(vars(self))

    def describe(self) -> str:
        """The figures in words."""
        originals = {self.num_images: "in their own size", 0: "as stored, square"}.get(
            self.num_originals, f"{self.num_originals:,} of them in their own size, the others as stored, square"
        )
        return (
            f"{self.num_images:,} photographs of split {self.split!r} of {self.data_title!r}, {originals}: ONNX "
            f"Runtime and torch differ by at most {self.pixel_difference:.0f} gray levels in a pixel "
            f"({self.pixel_share:.2g} of the pixels differ) and by {self.probability_difference:.2g} in a probability; "
            f"they agree on the most probable class of {self.num_same_class:,} ({self.onnx_images_per_second:,.1f} and "
            f"{self.torch_images_per_second:,.1f} images/s)"
        )


def open_session(model: bytes) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU with as many threads as torch.

    Raises:
        RequestError: ONNX Runtime is not installed.
    """
    runtime = onnx_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def check_onnx(
    model: bytes,
    preprocessing: bytes,
    trained: Trained,
    data: PreparedData,
    *,
    num_images: int = MAX_IMAGES,
    progress: ShowProgress = False,
) -> OnnxCheck:
    """Compare a model with the network that it was made of, on the evaluation split of a data set.

    Args:
        model: an ONNX file's content.
        preprocessing: that of a file whose output is what the network reads.
        data: whose labels are not needed. Photographs whose files are still where the data set was prepared from are
            read again, in their own size; of others the stored square is taken.
        num_images: at most, evenly spaced over the split.
        progress: see `ShowProgress`.

    Raises:
        RequestError: the data set has no evaluation split, or ONNX Runtime is not installed.
        WorkError: a probability differs by more than 0.0001 or a pixel by more than one gray level.
        UnreadableSample: a stored image cannot be read.
    """
    split = data.require_split(data.evaluation_split)
    indices = np.unique(np.linspace(0, len(split) - 1, min(num_images, len(split))).round().astype(np.int64))
    if len(indices) == 0:
        raise RequestError(f"split {split.name!r} of {data.folder} has no images; name another data set")
    session, pixels_of = open_session(model), open_session(preprocessing)
    worst_pixel, worst_probability, worst_key = 0.0, 0.0, ""
    num_originals = num_other_pixels = num_pixels = num_same = num_done = 0
    with (
        counted("comparing ONNX Runtime with torch", shown=progress) as update,
        inference_network(trained.network, torch.device("cpu"), "float32") as network,
        torch.inference_mode(),
    ):
        ways: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.float32]]] = {
            "onnx": lambda images: session.run(["probabilities"], {"images": images})[0],
            "torch": lambda images: network(preprocess(images, trained)).softmax(dim=1).numpy(),
        }
        seconds = dict.fromkeys(ways, 0.0)
        for compute in ways.values():  # loads and compiles what it needs
            compute(np.zeros((1, trained.side, trained.side, 3), np.uint8))
        for number, (keys, images, are_originals) in enumerate(_batches(data, split, indices.tolist())):
            found = {}
            for name in ways if number % 2 else reversed(ways):
                start_s = time.perf_counter()
                found[name] = ways[name](images)
                seconds[name] += time.perf_counter() - start_s
            pixels = np.abs(pixels_of.run(None, {"images": images})[0] - preprocess(images, trained).numpy())
            worst_pixel = max(worst_pixel, float(pixels.max()))
            num_other_pixels, num_pixels = num_other_pixels + int((pixels > 0.5).sum()), num_pixels + pixels.size
            difference = np.abs(found["onnx"] - found["torch"]).max(axis=1)
            if not difference.max() <= worst_probability:  # also NaN
                worst_probability, worst_key = float(difference.max()), keys[int(difference.argmax())]
            num_same += int((found["onnx"].argmax(axis=1) == found["torch"].argmax(axis=1)).sum())
            num_originals += sum(are_originals)
            num_done += len(images)
            update(num_done, len(indices))
    if not worst_probability <= PROBABILITY_LIMIT or worst_pixel > PIXEL_LIMIT + 0.001:
        raise WorkError(
            f"ONNX Runtime {onnx_module('onnxruntime').__version__} and torch {torch.__version__} differ by "
            f"{worst_probability:.2g} in a probability of {worst_key} and by {worst_pixel:.0f} gray levels in a pixel; "
            f"allowed are {PROBABILITY_LIMIT:g} and {PIXEL_LIMIT:.0f}. Nothing was written; try another version of "
            "onnxruntime, or export without --verify"
        )
    return OnnxCheck(
        data_title=data.title,
        split=split.name,
        num_images=len(indices),
        num_originals=num_originals,
        pixel_difference=worst_pixel,
        pixel_share=num_other_pixels / num_pixels,
        probability_difference=worst_probability,
        num_same_class=num_same,
        onnx_images_per_second=len(indices) / seconds["onnx"],
        torch_images_per_second=len(indices) / seconds["torch"],
    )


def _batches(
    data: PreparedData, split: Split, indices: list[int]
) -> Iterator[tuple[list[str], NDArray[np.uint8], list[bool]]]:
    """Keys, pictures of one size (B, H, W, 3), and whether each is in its own size."""
    photographs = (_photograph(data, split, index) for index in indices)
    for some in _limited(photographs):
        some.sort(key=lambda one: one[1].shape)
        for _, group in itertools.groupby(some, key=lambda one: one[1].shape):
            keys, images, are_originals = zip(*group, strict=True)
            yield list(keys), np.stack(images), list(are_originals)


def _limited(photographs: Iterable[_Photograph]) -> Iterator[list[_Photograph]]:
    """As many photographs at a time as `BATCH_SIZE` and `BATCH_PIXELS` allow, in their order."""
    some, num_pixels = list[_Photograph](), 0
    for one in photographs:
        size = one[1].shape[0] * one[1].shape[1]
        if some and (len(some) == BATCH_SIZE or num_pixels + size > BATCH_PIXELS):
            yield some
            some, num_pixels = [], 0
        some.append(one)
        num_pixels += size
    if some:
        yield some


def _photograph(data: PreparedData, split: Split, index: int) -> _Photograph:
    """A photograph from its file, or the stored square if the file is gone or damaged."""
    key = split.keys[index]
    source = Path(data.description.get("plan", {}).get("source", "")).absolute()
    file = (source / key).absolute()
    try:
        if file.resolve().is_relative_to(source.resolve()) and file.is_file():
            return key, decode_image(file.read_bytes(), apply_orientation=True), True
    except OSError as error:
        raise_unless_damage(error, file)
    except UnreadableImage:
        pass
    try:
        return key, split.images[index], False
    except UnreadableSample as error:
        raise split.with_key(error) from error
