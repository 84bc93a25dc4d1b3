"""Reads a network from a file of another program, whatever its format: the content decides, not the name."""

import re
from pathlib import Path
from typing import Any

import safetensors
import torch

from alexnet.errors import RequestError
from alexnet.exchange.convnet_checkpoints import read_convnet
from alexnet.exchange.foreign_network import ForeignNetwork
from alexnet.exchange.pytorch_files import read_pytorch_file
from alexnet.exchange.state_dicts import StoredTensor, find_state_dict, foreign_damage, network_of_tensors
from alexnet.model.foreign_files import (
    START_BYTES,
    is_python_pickle,
    is_zip_of_pickles,
    refuse_foreign_file,
    refuse_foreign_folder,
)
from alexnet.storage.read_errors import raise_unless_damage
from alexnet.storage.tensors import open_tensors

_LEGACY = re.compile(rb"\x80[\x02-\x05](\x95.{8})?\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19", re.DOTALL)
"""The magic number of torch.save's older form, pickled."""
_SAFETENSORS_TYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
_OWN_METADATA = "alexnet"


def read_foreign(path: Path) -> ForeignNetwork:
    """The network in a file of torch.save or safetensors.

    Nothing in the file is run, and no more memory is taken than it has bytes (twice as much of 16-bit weights).

    Raises:
        RequestError: there is no such file, it is none of a format that is read, or holds another network.
        WorkError: it is damaged or cut short.
        TemporaryError: the machine or the drive failed.
    """
    if path.is_dir():
        if (found := read_convnet(path)) is not None:
            return found
        refuse_foreign_folder(path)
    if not path.is_file():
        raise RequestError(
            f"{path} {'is not a regular file' if path.exists() else 'does not exist'}; give a file of weights"
        )
    try:
        with path.open("rb") as file:
            start = file.read(START_BYTES)
    except OSError as error:
        raise_unless_damage(error, path)
        raise
    if start[8:9] == b"{":
        return _read_safetensors(path)
    if _LEGACY.match(start) or is_zip_of_pickles(path, start):
        what, tensors, notes = find_state_dict(path, "a PyTorch file", read_pytorch_file(path, "a PyTorch file"))
        return network_of_tensors(path, what, tensors, notes, is_ordered=True)
    if (is_python_pickle(start) or start.startswith(b"PK\x03\x04")) and (found := read_convnet(path)) is not None:
        return found
    refuse_foreign_file(path)
    raise AssertionError("every file but those of safetensors is refused")


def _read_safetensors(path: Path) -> ForeignNetwork:
    what = "a safetensors file"
    try:
        with open_tensors(path, "pt") as file:
            if _OWN_METADATA in (file.metadata() or {}):
                refuse_foreign_file(path)
                raise RequestError(
                    f"{path} is a weights file that alexnet wrote, so there is nothing to import; give it to "
                    "`alexnet predict`, `alexnet evaluate` or `alexnet finetune` as it is"
                )
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
