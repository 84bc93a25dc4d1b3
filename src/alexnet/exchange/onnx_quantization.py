"""An ONNX model whose layers with weights compute in 8 bits, and what that costs in errors.

Static quantization by ONNX Runtime's own tool: weights by output channel, activations by their range on training
images. Preprocessing, normalization and softmax stay in float32.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.data.dataset import PreparedData, Split
from alexnet.data.shards import UnreadableSample
from alexnet.errors import RequestError, WorkError
from alexnet.evaluation.classify import require_fitting
from alexnet.evaluation.metrics import ErrorCounts, count_errors, wilson_interval
from alexnet.evaluation.run_evaluation import remap_classes
from alexnet.exchange.onnx_check import open_session
from alexnet.exchange.onnx_graph import onnx_module
from alexnet.model.weights import Trained
from alexnet.report.formatting import format_bytes
from alexnet.storage.atomic import raise_if_full
from alexnet.system.progress import ShowProgress, counted

NUM_CALIBRATION = 512
"""Training images at most, evenly spaced, that give the ranges of activations."""
BATCH_SIZE = 50
_QUANTIZED = ("Conv", "Gemm", "MatMul", "MaxPool", "Relu")
"""Kinds of nodes that compute in 8 bits; pooling and ReLU between others need no way back to float then."""
_CHECKED = ("onnx.quant.pre_process", "onnxruntime.quant")
"""Metadata with which ONNX Runtime's tool does not ask for its own transformations of the graph before."""


@dataclass(frozen=True, kw_only=True)
class Int8Check:
    """Errors of the network in float32 and in 8 bits, both computed by ONNX Runtime, the latter by the written file."""

    data_title: str
    data_checksum: str
    split: str
    num_images: int
    num_calibration: int
    """Training images that gave the ranges of activations."""
    float_errors: ErrorCounts
    int8_errors: ErrorCounts
    num_changed: int
    """Images with another most probable class than in float32."""
    float_bytes: int
    int8_bytes: int
    """Without these figures in its metadata."""

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "data": self.data_title,
            "data_checksum": self.data_checksum,
            "split": self.split,
            "num_images": self.num_images,
            "num_calibration": self.num_calibration,
            "float": {**_errors(self.float_errors), "bytes": self.float_bytes},
            "int8": {**_errors(self.int8_errors), "bytes": self.int8_bytes},
            "num_changed": self.num_changed,
        }

    def describe(self) -> str:
        """The figures in words."""
        return (
            f"int8: {format_bytes(self.int8_bytes)} instead of {format_bytes(self.float_bytes)}; top-1 error "
            f"{_percent(self.int8_errors)} instead of {_percent(self.float_errors)} on the {self.num_images:,} images "
            f"of split {self.split!r} of {self.data_title!r}; {self.num_changed:,} have another most probable class; "
            f"calibrated on {self.num_calibration:,} training images"
        )


def quantize_onnx(
    model: bytes, trained: Trained, data: PreparedData, *, progress: ShowProgress = False
) -> tuple[bytes, Int8Check]:
    """Quantize a model; returns the new model, with the figures in its metadata (`int8`, a JSON object).

    Args:
        model: of `onnx_export`, of this network.
        data: prepared images: some of the training split calibrate, those of the evaluation split measure the errors.
        progress: see `ShowProgress`.

    Raises:
        RequestError: the data set has images of another side, classes that the network does not have, no training or
            no evaluation split; or ONNX Runtime is not installed.
        WorkError: the disk of temporary files is full, or the new model with its metadata computes something else.
        UnreadableSample: a stored image cannot be read.
    """
    require_fitting(data, trained)
    data = remap_classes(trained.classes, data)
    train = data.require_split("train")
    evaluated = data.require_labels(data.evaluation_split)
    if not len(train) or not len(evaluated):
        raise RequestError(
            f"split {(evaluated if len(train) else train).name!r} of {data.folder} has no images; name another data set"
        )
    calibrating = np.unique(np.linspace(0, len(train) - 1, min(NUM_CALIBRATION, len(train))).round().astype(int))
    num_total = len(calibrating) + 2 * len(evaluated)
    with counted("quantizing to int8", shown=progress) as update:
        quantized = _quantize(model, train, calibrating.tolist(), lambda done: update(done, num_total))
        before = len(calibrating)
        in_float = _probabilities(model, evaluated, lambda done: update(before + done, num_total))
        content, half = quantized.SerializeToString(deterministic=True), before + len(evaluated)
        in_int8 = _probabilities(content, evaluated, lambda done: update(half + done, num_total))
    labels = np.asarray(evaluated.labels)
    check = Int8Check(
        data_title=data.title,
        data_checksum=data.checksum,
        split=evaluated.name,
        num_images=len(evaluated),
        num_calibration=len(calibrating),
        float_errors=count_errors(in_float, labels),
        int8_errors=count_errors(in_int8, labels),
        num_changed=int((in_float.argmax(axis=1) != in_int8.argmax(axis=1)).sum()),
        float_bytes=len(model),
        int8_bytes=len(content),
    )
    quantized.metadata_props.add(key="int8", value=json.dumps(check.to_dict()))
    written: bytes = quantized.SerializeToString(deterministic=True)
    _require_same(written, evaluated, in_int8)
    return written, check


def _require_same(model: bytes, split: Split, measured: NDArray[np.float32]) -> None:
    """WorkError unless the bytes that are written give the probabilities that were measured, of the first images."""
    images = _read(split, list(range(min(BATCH_SIZE, len(split)))))
    found = open_session(model).run(["probabilities"], {"images": images})[0]
    if not np.array_equal(found, measured[: len(images)], equal_nan=True):
        raise WorkError(
            "ONNX Runtime computes other probabilities from the int8 file than were measured; nothing was written, try "
            "another version of onnxruntime"
        )


def _quantize(model: bytes, train: Split, indices: list[int], update: Callable[[int], None]) -> Any:
    """The quantized model, an `onnx.ModelProto`."""
    onnx, quantization = onnx_module(), onnx_module("onnxruntime.quantization")

    class Images(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        """Training images, one by one."""

        def __init__(self) -> None:
            self.num_read = 0

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            update(self.num_read)
            if self.num_read == len(indices):
                return None
            self.num_read += 1
            return {"images": _read(train, indices[self.num_read - 1 : self.num_read])}

    loaded = onnx.load_from_string(model)
    properties = {one.key: one.value for one in loaded.metadata_props}
    loaded.metadata_props.add(key=_CHECKED[0], value=_CHECKED[1])
    layers = loaded.graph.node[[node.name for node in loaded.graph.node].index("network_input") + 1 :]
    with tempfile.TemporaryDirectory(prefix="alexnet-int8-") as folder:
        path = Path(folder) / "int8.onnx"
        try:
            quantization.quantize_static(
                loaded,
                path,
                Images(),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(_QUANTIZED),
                nodes_to_quantize=[node.name for node in layers if node.op_type in _QUANTIZED],
                per_channel=True,
                # 7 bits of weights: in 8, processors without VNNI saturate sums of two products.
                reduce_range=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
        except OSError as error:
            raise_if_full(error, path)
            raise
        quantized = onnx.load(path)
    onnx.helper.set_model_props(quantized, properties)
    quantized.producer_name, quantized.producer_version = loaded.producer_name, loaded.producer_version
    return quantized


def _probabilities(model: bytes, split: Split, update: Callable[[int], None]) -> NDArray[np.float32]:
    session, found = open_session(model), []
    for start in range(0, len(split), BATCH_SIZE):
        images = _read(split, list(range(start, min(start + BATCH_SIZE, len(split)))))
        found.append(session.run(["probabilities"], {"images": images})[0])
        update(start + len(images))
    return np.concatenate(found)


def _read(split: Split, indices: list[int]) -> NDArray[np.uint8]:
    try:
        return np.stack([split.images[index] for index in indices])
    except UnreadableSample as error:
        raise split.with_key(error) from error


def _errors(counts: ErrorCounts) -> dict[str, Any]:
    return {
        "top1_error": counts.top1_error,
        "top1_interval": list(wilson_interval(counts.top1_wrong, counts.num_images)),
        "top5_error": counts.top5_error,
        "top5_interval": list(wilson_interval(counts.top5_wrong, counts.num_images)),
    }


def _percent(counts: ErrorCounts) -> str:
    low, high = wilson_interval(counts.top1_wrong, counts.num_images)
    return f"{100 * counts.top1_error:.2f} % [{100 * low:.2f}, {100 * high:.2f}]"
