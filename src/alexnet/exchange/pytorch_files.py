"""Reads files of torch.save, in both forms, without torch.load: nothing in them is run.

The newer form is a zip with the pickle `data.pkl` and a member `data/KEY` per storage; the older one is five pickles in
a row (magic number, protocol, system, object, keys of storages), then each storage: int64 number of elements, and data.
A tensor is a view of a storage: it is checked against its storage when the pickle is read, and read when it is needed.
"""

import io
import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.lib.stride_tricks import as_strided

from alexnet.data.sources.zip_archive import LOCAL_HEADER, LOCAL_SIGNATURE, read_zip_list
from alexnet.errors import RequestError
from alexnet.exchange.state_dicts import StoredTensor, float32_tensor, foreign_damage
from alexnet.storage.inert_unpickler import ARRAY_NAMES, InertUnpickler, PickledGlobal
from alexnet.storage.npy import ArrayFile

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
"""The first pickle of the older form."""
_PROTOCOL = 1001
_MAX_PICKLE_BYTES = 2**24
_MAX_LIST_BYTES = 2**20
"""Of a zip's list of members; a checkpoint has one of 100 bytes per tensor."""
_MAX_DIMS = 8
_MAX_STORAGE_PARTS = 8
"""Of what names a storage; torch writes five, older versions six."""
_CHUNK_BYTES = 2**24
_ENCRYPTED = 0x1

_STORAGE_TYPES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
_NUMPY_TYPES = {"bfloat16": "u2", "bool": "u1"}
"""Where NumPy has no such type, or another size."""
_DICTIONARIES = {"collections.OrderedDict", "collections.defaultdict", "collections.Counter"}
_TENSORS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
_PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_KNOWN_NAMES = {
    *_DICTIONARIES,
    *_TENSORS,
    *_PARAMETERS,
    *ARRAY_NAMES,
    *(f"torch.{name}" for name in (*_STORAGE_TYPES, *_STORAGE_TYPES.values(), "Size", "device")),
    "argparse.Namespace",
    *(
        f"{module}.{name}"
        for module in ("builtins", "__builtin__")
        for name in ("set", "frozenset", "complex", "slice")
    ),
    *(f"datetime.{name}" for name in ("datetime", "date", "timedelta")),
    *(f"pathlib.{name}" for name in ("PosixPath", "PurePosixPath", "WindowsPath", "_local.PosixPath")),
}
"""What sound checkpoints name. None is called: tensors and dictionaries are made here, the rest is left out."""


@dataclass(eq=False)
class _Storage:
    """The numbers of one or several tensors in the file."""

    dtype: str
    numel: int
    offset: int = -1
    """Of the first byte in the file; -1 is not known yet."""
    member: zipfile.ZipInfo | None = None
    """Of which the storage is the whole content."""


def read_pytorch_file(path: Path, what: str) -> object:
    """What torch.save wrote: dictionaries, lists, numbers and text, with a `StoredTensor` for each tensor.

    Args:
        path: the file.
        what: what it is, for messages.

    Raises:
        RequestError: it names functions or classes that a state dict does not need, such as those of a whole module.
        WorkError: it is damaged or cut short.
        TemporaryError: the machine or the drive failed.
    """
    try:
        with path.open("rb") as file:
            is_zip = file.read(len(LOCAL_SIGNATURE)) == LOCAL_SIGNATURE
            file.seek(0)
            return _read_zip(path, what, file) if is_zip else _read_legacy(path, what, file)
    except RequestError:
        raise
    except (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile) as error:
        foreign_damage(path, what, error)


def _read_zip(path: Path, what: str, file: BinaryIO) -> object:
    members = {}
    for member in read_zip_list(path, _MAX_LIST_BYTES):
        name = member.filename.partition("/")[2]  # all are in one folder
        if name in members:
            raise ValueError(f"it has two members {name[:100]!r}")
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & _ENCRYPTED:
            raise RequestError(
                f"{path} is {what} whose member {member.filename[:100]!r} is compressed or encrypted, which torch.save "
                "does not do; unpack it, load it in Python with torch.load(..., weights_only=True), and save its "
                "state dict with torch.save"
            )
        members[name] = member
    if "data.pkl" not in members:
        raise ValueError("it has no member data.pkl")
    order = ">" if "byteorder" in members and _content(file, members["byteorder"]) == b"big" else "<"
    return _TensorUnpickler(io.BytesIO(_content(file, members["data.pkl"])), path, what, order, members).load_named()


def _content(file: BinaryIO, member: zipfile.ZipInfo) -> bytes:
    """The bytes of a member that is not a storage."""
    if member.file_size > _MAX_PICKLE_BYTES:
        raise ValueError(f"its member {member.filename!r} has {member.file_size:,} bytes")
    file.seek(data_offset(file, member))
    content = file.read(member.file_size)
    if member.CRC not in (0, zlib.crc32(content)):
        raise ValueError(f"the checksum of its member {member.filename!r} is wrong")
    return content


def data_offset(file: BinaryIO, member: zipfile.ZipInfo) -> int:
    """Where the bytes of a stored member begin; ValueError if the file has another member there, or ends before."""
    file.seek(member.header_offset)
    header = file.read(LOCAL_HEADER.size)
    if len(header) < LOCAL_HEADER.size:
        raise ValueError("it is cut short")
    signature, name_bytes, extra_bytes = LOCAL_HEADER.unpack(header)
    name = file.read(name_bytes)
    if signature != LOCAL_SIGNATURE or name != member.orig_filename.encode("utf-8", "replace"):
        raise ValueError(f"its list of members has {member.filename!r} where it is not")
    offset: int = member.header_offset + LOCAL_HEADER.size + name_bytes + extra_bytes
    if offset + member.file_size > file.seek(0, 2):
        raise ValueError(f"it ends inside its member {member.filename!r}")
    return offset


def _read_legacy(path: Path, what: str, file: BinaryIO) -> object:
    if InertUnpickler(file).load() != MAGIC_NUMBER or InertUnpickler(file).load() != _PROTOCOL:
        raise ValueError("it does not begin as torch.save writes it")
    InertUnpickler(file).load()  # sizes of types where it was written; the storages are little-endian in any case
    unpickler = _TensorUnpickler(file, path, what, "<", None)
    content = unpickler.load_named()
    keys = InertUnpickler(file).load()
    if not isinstance(keys, list) or set(map(_text, keys)) != unpickler.storages.keys():
        raise ValueError("its list of storages is not that of its tensors")
    size = path.stat().st_size
    for key in keys:
        storage = unpickler.storages[_text(key)]
        numel = int.from_bytes(file.read(8), "little", signed=True)
        storage.offset = file.tell()
        end = storage.offset + numel * _numpy_type(storage.dtype).itemsize
        if numel != storage.numel or end > size:
            raise ValueError(f"it has {numel:,} numbers in {size - storage.offset:,} bytes, expected {storage.numel:,}")
        file.seek(end)
    return content


def _numpy_type(dtype: str, order: str = "<") -> "np.dtype[np.generic]":
    return np.dtype(_NUMPY_TYPES.get(dtype, dtype)).newbyteorder(order)  # type: ignore[arg-type]


def _text(value: object) -> str:
    """Text, which Python 2 wrote as bytes."""
    if isinstance(value, bytes):
        return value.decode("latin1")
    if not isinstance(value, str):
        raise ValueError(f"a {type(value).__name__} where text is expected")
    return value


class _TensorUnpickler(InertUnpickler):
    """Makes `StoredTensor` of tensors. Of other names it makes nothing, and unknown ones are refused in the end."""

    max_operations = 2**18
    max_text_bytes = 2**20

    def __init__(
        self, file: BinaryIO, path: Path, what: str, order: str, members: dict[str, zipfile.ZipInfo] | None
    ) -> None:
        super().__init__(file)
        self.path, self.what, self.order, self.members = path, what, order, members
        self.storages: dict[str, _Storage] = {}
        self.unknown: dict[str, None] = {}
        """In order; as keys, since the same name may come again and again."""

    def load_named(self) -> object:
        """The object, unless it has names that a state dict does not need.

        Raises:
            RequestError: it has.
            ValueError: it is damaged.
        """
        try:
            content = self.load()
        except ValueError:
            self._refuse_unknown()
            raise
        self._refuse_unknown()
        return content

    def _refuse_unknown(self) -> None:
        if any(name.startswith("torch.nn.modules.") for name in self.unknown):
            raise RequestError(
                f"{self.path} is {self.what} that holds a whole module, which is code; nothing in it was run. If you "
                "trust its author, load it in Python with torch.load(..., weights_only=False), and save its weights "
                "with torch.save(model.state_dict(), FILE)"
            )
        for name in self.unknown:
            if name.startswith("torch._utils._rebuild_"):
                raise RequestError(
                    f"{self.path} is {self.what} with tensors of a kind that is not read (made by {name}); save them "
                    "as plain float32 tensors"
                )
            raise RequestError(
                f"{self.path} is {self.what} that refers to {name!r}, which weights do not need; nothing in it was "
                "run. If you trust its author, load it in Python with torch.load(..., weights_only=False), and save "
                "its weights alone with torch.save(model.state_dict(), FILE)"
            )

    def require_allowed(self, name: str) -> None:
        if name.replace("numpy._core.", "numpy.core.") not in _KNOWN_NAMES:
            self.unknown[name] = None

    def call(self, name: str, arguments: tuple[object, ...]) -> object:
        if name in _DICTIONARIES:
            return {}
        if name in _PARAMETERS and arguments:
            return arguments[0]
        if name in _TENSORS:
            storage, first, shape, strides, *_ = arguments
            return self._tensor(storage, first, shape, strides)
        return super().call(name, arguments)

    def persistent(self, key: object) -> object:
        if not isinstance(key, tuple) or not 2 <= len(key) <= _MAX_STORAGE_PARTS:
            raise ValueError("an object that is outside of it")
        kind, *rest = key
        if _text(kind) == "module":
            return rest[0]  # the class of a whole module, with its source
        if _text(kind) != "storage" or len(rest) < 4 or not isinstance(rest[0], PickledGlobal):
            raise ValueError("an object that is outside of it")
        found, name, _, numel, *view = rest
        dtype = _STORAGE_TYPES.get(found.name.rpartition(".")[2])
        if dtype is None:
            raise ValueError(f"a storage of the unknown type {found.name}")
        if type(numel) is not int or not _is_count(numel):
            raise ValueError("a storage without a number of elements")
        if view and view[0] is not None:
            raise ValueError("a storage that is a part of another one")
        return self._storage(_text(name), dtype, numel)

    def _storage(self, key: str, dtype: str, numel: int) -> _Storage:
        """The storage of this key, whose bytes are checked against the zip, or later against the end of the file."""
        num_bytes = numel * _numpy_type(dtype).itemsize
        known = self.storages.get(key)
        if known is not None and (known.dtype, known.numel) == (dtype, numel):
            return known
        if known is not None and self.members is None:
            raise ValueError(f"the storage {key!r} twice, in different sizes")
        storage = _Storage(dtype, numel)
        if self.members is not None:
            member = self.members.get(f"data/{key}")
            if member is None or member.file_size != num_bytes:
                size = "is missing" if member is None else f"has {member.file_size:,} bytes"
                raise ValueError(f"a storage of {num_bytes:,} bytes, and its member data/{key} {size},")
            storage.member = member
        self.storages[key] = storage
        return storage

    def _tensor(self, storage: object, first: object, shape: object, strides: object) -> StoredTensor:
        if not isinstance(storage, _Storage) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
            raise ValueError("a tensor without storage or shape")
        numbers = (*shape, *strides)
        if len(shape) != len(strides) or len(shape) > _MAX_DIMS or not all(_is_count(one) for one in numbers):
            raise ValueError("a tensor of no valid shape")
        if not isinstance(first, int) or not _is_count(first):
            raise ValueError("a tensor of no valid place in its storage")
        count = math.prod(shape)
        last = first + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        if count and (count > storage.numel or last >= storage.numel):
            raise ValueError(f"a tensor of shape {shape} in a storage of {storage.numel:,} numbers")
        return StoredTensor(
            shape,
            storage.dtype,
            count * _numpy_type(storage.dtype).itemsize,
            lambda: self._read_tensor(storage, first, shape, strides),
        )

    def _read_tensor(
        self, storage: _Storage, first: int, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> torch.Tensor:
        """float32, as `StoredTensor.read`."""
        dtype = _numpy_type(storage.dtype, self.order)
        try:
            offset = storage.offset if storage.member is None else self._verified_offset(storage.member)
            end = first + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
            num_read = end - first if math.prod(shape) else 0
            flat = ArrayFile(self.path, dtype, (num_read,), offset + first * dtype.itemsize)[:]
        except (OSError, ValueError) as error:
            foreign_damage(self.path, self.what, error)
        view = as_strided(flat, shape, [stride * dtype.itemsize for stride in strides])
        return float32_tensor(view, storage.dtype)

    def _verified_offset(self, member: zipfile.ZipInfo) -> int:
        """Where the member's bytes begin, after its checksum was verified, if it has one."""
        with self.path.open("rb") as file:
            offset = data_offset(file, member)
            if member.CRC:  # torch.serialization.set_crc32_options(False) leaves it out
                file.seek(offset)
                checksum, left = 0, member.file_size
                while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
                    checksum, left = zlib.crc32(chunk, checksum), left - len(chunk)
                if checksum != member.CRC:
                    raise ValueError(f"the checksum of its member {member.filename!r} is wrong")
        return offset


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**62
