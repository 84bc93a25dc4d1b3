"""Reads a network from a file of another program, whatever its format: the content decides, not the name."""

from pathlib import Path
from typing import Any

import safetensors
import torch

from alexnet.errors import RequestError
from alexnet.exchange.caffe_model import read_caffe
from alexnet.exchange.convnet_checkpoints import read_convnet
from alexnet.exchange.foreign_network import ForeignNetwork
from alexnet.exchange.pytorch_files import read_pytorch_file
from alexnet.exchange.state_dicts import (
    StoredTensor,
    find_state_dict,
    foreign_damage,
    network_of_tensors,
    require_finite,
)
from alexnet.model.foreign_files import (
    START_BYTES,
    foreign_format,
    refuse_foreign_file,
    refuse_foreign_folder,
)
from alexnet.storage.read_errors import raise_unless_damage
from alexnet.storage.tensors import open_tensors

_SAFETENSORS_TYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
_CAFFE_ENDINGS = (".caffemodel", ".caffemodel.h5", ".binaryproto", ".prototxt", ".solverstate")
_OWN_METADATA = "alexnet"
_NOTHING_TO_IMPORT = (
    ", so there is nothing to import; give it to `alexnet predict`, `alexnet evaluate` or `alexnet finetune` as it is"
)


def read_foreign(path: Path) -> ForeignNetwork:
    """The network in a file of torch.save, safetensors, Caffe or cuda-convnet, or in a folder of its checkpoints.

    Nothing in the file is run, and no more memory is taken than it has bytes (of 16-bit weights twice as much, and of
    a zipped checkpoint of cuda-convnet, which is unpacked in memory, up to five times as much).

    Raises:
        RequestError: there is no such file, it is none of a format that is read, or holds another network or weights
            that are not finite.
        WorkError: it is damaged or cut short.
        TemporaryError: the machine or the drive failed.
    """
    found = _read(path)
    require_finite(path, found.layers)
    return found


def _read(path: Path) -> ForeignNetwork:
    if path.is_dir():
        if (path / "weights.safetensors").is_file():
            raise RequestError(f"{path} is a run of alexnet already{_NOTHING_TO_IMPORT}")
        if (found := read_convnet(path)) is not None:
            return found
        refuse_foreign_folder(path, importing=True)
    if not path.is_file():
        raise RequestError(
            f"{path} {'is not a regular file' if path.exists() else 'does not exist'}; give a file of weights, or a "
            "folder of cuda-convnet's checkpoints"
        )
    try:
        with path.open("rb") as file:
            start = file.read(START_BYTES)
    except OSError as error:
        raise_unless_damage(error, path)
        raise
    if start[8:9] == b"{":
        return _read_safetensors(path)
    if path.name.lower().endswith(_CAFFE_ENDINGS):
        return read_caffe(path)  # which names what else it is
    match foreign_format(path, start):
        case "pytorch":
            what, tensors, notes = find_state_dict(path, "a PyTorch file", read_pytorch_file(path, "a PyTorch file"))
            return network_of_tensors(path, what, tensors, notes, is_ordered=True)
        case "caffe":
            return read_caffe(path)
        case "pickle" if (found := read_convnet(path)) is not None:
            return found
    refuse_foreign_file(path, importing=True)
    raise AssertionError("every file but those of safetensors is refused")


def _read_safetensors(path: Path) -> ForeignNetwork:
    what = "a safetensors file"
    try:
        with open_tensors(path, "pt") as file:
            if _OWN_METADATA in (file.metadata() or {}):
                refuse_foreign_file(path)
                raise RequestError(f"{path} is a weights file that alexnet wrote{_NOTHING_TO_IMPORT}")
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (the file is no mapping)
            tensors = {name: _stored(file, name, one) for name, one in slices.items()}
            return network_of_tensors(path, what, tensors, is_ordered=False)
    except (safetensors.SafetensorError, OSError, ValueError, TypeError) as error:
        if isinstance(error, RequestError):
            raise
        foreign_damage(path, what, error)


def _stored(file: Any, name: str, part: Any) -> StoredTensor:
    dtype = _SAFETENSORS_TYPES.get(part.get_dtype(), part.get_dtype())
    shape = tuple(part.get_shape())
    # At most 8 bytes; the library has checked them against the file.
    return StoredTensor(shape, dtype, 0, lambda: file.get_tensor(name).to(torch.float32, copy=True).contiguous())
