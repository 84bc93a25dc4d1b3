"""What a file or folder is that holds no network of this package, said so that its owner knows what to do.

Files are recognized by their first bytes, archives by the names inside them. Nothing is unpickled, and no more is read
than the start of a file and the list of an archive's members.
"""

import contextlib
import json
import pickletools
import re
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

import safetensors

from alexnet.data.decode import begins_as_image
from alexnet.errors import RequestError
from alexnet.model.tensor_names import describe_tensors
from alexnet.runs.folder import RunFolder
from alexnet.storage.read_errors import raise_unless_damage
from alexnet.storage.tensors import open_tensors
from alexnet.storage.typed_files import read_bounded
from alexnet.system.visible_text import shell_words

GIVE_FOREIGN = "give weights, such as a state dict of PyTorch (.pth, .safetensors) or a .caffemodel"
_GIVE_RUN_FIRST = "give the run before the images"
GIVE = "give a run folder, or a weights file that alexnet wrote"
START_BYTES = 4096
ForeignFormat = Literal["pytorch", "pickle", "caffe"]
_OWN_KEY = b'"alexnet"'
"""In the first bytes of every weights file, even one whose rest is lost."""
_MAX_PICKLE_BYTES = 1 << 20
_MAX_CONFIG_BYTES = 1 << 20
CHECKPOINT_NAME = re.compile(r"\d+\.\d+")
"""Epoch and batch: cuda-convnet writes its checkpoints under such names into a folder."""
_TENSOR_NAME = re.compile(r"[\w.]{1,80}\.(weight|bias)")
_NUM_NAMES = 3
_TORCHVISION = "as torchvision's alexnet has them"
_RUN_FOLDERS = ("checkpoints", "predictions", "evaluations")

DOWNLOAD = "download or copy it again"
_STATE_DICT = "pass its state dict to `AlexNet.load_state_dict` and write the network with `alexnet.save`"
_CONVERT = (
    "it is not read. In Python, read its arrays with its own library, pass them under the names of `AlexNet` to "
    "`AlexNet.load_state_dict` and write the network with `alexnet.save`"
)
_TORCH_MODULE = (
    "it holds a whole module, and is not read, because pickles can run code. In Python, if you trust its author, pass "
    "`torch.load(..., weights_only=False).state_dict()` to `AlexNet.load_state_dict` and write the network with "
    "`alexnet.save`"
)
_OTHER_PICKLE = (
    "it is not read, because pickles can run code. Have the program that wrote it write its arrays as safetensors or "
    "`.npy`, pass these under the names of `AlexNet` to `AlexNet.load_state_dict` and write the network with "
    "`alexnet.save`"
)


@dataclass(frozen=True)
class _Kind:
    """A kind of file: what it is and what to do."""

    what: str
    todo: str
    imported: Literal["", "always", "cuda-convnet"] = ""
    """Whether `alexnet import` reads it: always, or if it is of cuda-convnet."""

    def advice(self, path: Path, *, importing: bool) -> str:
        """What to do with a file of this kind.

        Args:
            importing: whether an import refused it.
        """
        if importing and self.todo in (GIVE, _GIVE_RUN_FIRST):
            return GIVE_FOREIGN
        if importing or not self.imported:
            return self.todo
        command = f"`{shell_words('alexnet', 'import', path, '--run', 'RUN')}`"
        if self.imported == "always":
            return f"import it with {command}, then give that run"
        return (
            f"if it is a checkpoint of cuda-convnet, import it with {command}, then give that run. Otherwise, "
            f"{self.todo}"
        )


_PACKED = _Kind("a packed archive", "unpack it and give the file inside")
_PICKLE_ZIP = _Kind("a zip with the member `data`", "unpack it and give the file inside", "cuda-convnet")
_ONNX = _Kind("an ONNX model", _CONVERT)
_CAFFE = _Kind("a Caffe model", DOWNLOAD, "always")
_TORCH_OLD = _Kind("a PyTorch file (pickles, as torch.save used to write them)", DOWNLOAD, "always")
_TORCH_ZIP = _Kind("a PyTorch file (a zip of pickles, as torch.save writes it)", DOWNLOAD, "always")
_PICKLE = _Kind("a Python pickle", _OTHER_PICKLE, "cuda-convnet")

_STARTS: tuple[tuple[bytes, _Kind], ...] = (
    (
        rb"version https://git-lfs",
        _Kind("a Git LFS pointer, not the file that it stands for", "run `git lfs pull` in its repository"),
    ),
    (
        rb"(?i:(\xef\xbb\xbf)?\s*<(!doctype|html|head|body|\?xml|!--))",
        _Kind("a web page, not weights: a site's answer in place of the file", DOWNLOAD),
    ),
    (rb"\x00{64}", _Kind("full of zeros, as an interrupted copy or download leaves it", DOWNLOAD)),
    (rb"\x80[\x02-\x05](\x95.{8})?\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19", _TORCH_OLD),
    (rb"\x80[\x02-\x05][^\x00]|\((d|l)p?\d*\n|c[\w.]+\n\w+\n", _PICKLE),
    (rb"\x93NUMPY", _Kind("a NumPy array", _CONVERT)),
    (rb"\x89HDF\r\n\x1a\n", _Kind("an HDF5 file, as Keras writes it", _CONVERT)),
    (rb"MATLAB 5.0 MAT-file", _Kind("a MATLAB file, as MatConvNet writes it", _CONVERT)),
    (rb"GGUF", _Kind("a GGUF file", _CONVERT)),
    (rb".{4}TFL3", _Kind("a TensorFlow Lite model", _CONVERT)),
    (rb"\x08[\x01-\x20](\x12.[ -~]|\x3a|\x42)", _ONNX),
    (rb"\x0a[\x01-\x1f][ -~]{1,31}(\x12|\x1a|\x22|\x32|\xa2\x06)", _CAFFE),
    (rb"\x1f\x8b|BZh|\xfd7zXZ\x00|\x28\xb5\x2f\xfd|7z\xbc\xaf\x27\x1c|Rar!|.{257}ustar", _PACKED),
)
"""By the first bytes of a file."""

_ENDINGS = {
    "onnx": _ONNX,
    "caffemodel": _CAFFE,
    "pb": _Kind("a TensorFlow graph", _CONVERT),
    "t7": _Kind("a Lua Torch file", _CONVERT),
}
"""By the ending of a name: formats without a signature."""

_MEMBERS: tuple[tuple[str, _Kind], ...] = (
    (
        r"archive_format|models/.*\.json|serialized_exported_program\.json",
        _Kind("an exported program of PyTorch (.pt2)", f"read it with `torch.export.load`; {_STATE_DICT}"),
    ),
    (r"constants\.pkl|code/.*", _Kind("a TorchScript module", f"read it with `torch.jit.load`; {_STATE_DICT}")),
    (r"data\.pkl", _TORCH_ZIP),
    (r".*\.weights\.h5", _Kind("a Keras model", _CONVERT)),
    (r".*\.npy", _Kind("a file of NumPy arrays (.npz)", _CONVERT)),
)
"""By the names of a zip's members, also below the one folder into which torch puts them."""

_IN_FOLDERS: tuple[tuple[str, _Kind], ...] = (
    ("dataset.json", _Kind("a prepared data set, not a network", "give the run that was trained on it")),
    ("features.json", _Kind("a folder of features, not a network", "give the run that they come from")),
    ("saved_model.pb", _Kind("a TensorFlow SavedModel", _CONVERT)),
    (".metadata", _Kind("a distributed checkpoint of PyTorch", _CONVERT)),
)
"""By a file in a folder."""


def refuse_foreign_file(path: Path, *, importing: bool = False) -> None:
    """Raise RequestError that says what a file is, unless it may be weights of this package, sound or damaged.

    Args:
        path: the file.
        importing: whether an import refuses it, so that the message does not name that command.

    Raises:
        RequestError: as said, or permission is denied.
        TemporaryError: the machine or the drive failed.
    """
    try:
        with path.open("rb") as file:
            start = file.read(START_BYTES)
    except OSError as error:
        raise_unless_damage(error, path)
        return  # the reader says why
    if not start:
        raise RequestError(f"{path} is empty; {DOWNLOAD}")
    if start[8:9] == b"{":  # a safetensors file: the length of its header, and JSON
        _refuse_foreign_safetensors(path, is_own=_OWN_KEY in start)
        return
    kind, tensors = _kind_of(path, start)
    raise RequestError(f"{path} is {kind.what}{tensors}; {kind.advice(path, importing=importing)}")


def foreign_format(path: Path, start: bytes) -> ForeignFormat | None:
    """Of which format a file is that can be imported, sound or damaged; None is another one, or safetensors.

    Args:
        path: the file.
        start: its first bytes.
    """
    kind, _ = _kind_of(path, start)
    if kind.what.startswith((_TORCH_ZIP.what, _TORCH_OLD.what)):
        return "pytorch"
    return {_PICKLE: "pickle", _PICKLE_ZIP: "pickle", _CAFFE: "caffe"}.get(kind)  # type: ignore[return-value]


def _kind_of(path: Path, start: bytes) -> tuple[_Kind, str]:
    """What the file is, and what its names of tensors suggest, if they are known."""
    if start.startswith(b"PK\x03\x04"):
        return _zip_kind(path, start)
    if found := next((kind for pattern, kind in _STARTS if re.match(pattern, start, re.DOTALL)), None):
        return found, _pickled_names(start) if found in (_TORCH_OLD, _PICKLE) else ""
    if begins_as_image(start):
        return _Kind("an image, not a network", _GIVE_RUN_FIRST), ""
    if found := _ENDINGS.get(path.suffix.lower().lstrip(".")):
        return found, ""
    if re.fullmatch(rb"[\t\r\n -~\x80-\xff]*", start):
        return _Kind("a text file, not weights", GIVE), ""
    return _Kind(f"no weights file of a known format (it begins with {start[:8].hex(' ')})", GIVE), ""


def _zip_kind(path: Path, start: bytes) -> tuple[_Kind, str]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            plain = {name.partition("/")[2] or name: name for name in names} | {name: name for name in names}
            kinds = (kind for pattern, kind in _MEMBERS if any(re.fullmatch(pattern, name) for name in plain))
            kind = _PICKLE_ZIP if names == ["data"] else next(kinds, _PACKED)
            if kind is not _TORCH_ZIP:
                return kind, ""
            with archive.open(plain["data.pkl"]) as file:
                content = file.read(_MAX_PICKLE_BYTES)
            return (
                (replace(kind, todo=_TORCH_MODULE, imported=""), "")
                if _has_module(content)
                else (kind, _pickled_names(content))
            )
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise_unless_damage(error, path)
        what = _TORCH_ZIP.what if b"data.pkl" in start else "a zip"
        return _Kind(f"{what} that is cut short or damaged", DOWNLOAD), ""


def _has_module(content: bytes) -> bool:
    """Whether a pickle names classes of torch's layers. Its opcodes are listed, never run."""
    with contextlib.suppress(Exception):  # as below
        for _, argument, _ in pickletools.genops(content):
            if isinstance(argument, str) and argument.startswith("torch.nn.modules."):
                return True
    return False


def _pickled_names(content: bytes) -> str:
    """The first names of tensors in a pickle, as part of a sentence. The pickle's opcodes are listed, never run."""
    names: list[str] = []
    # It raises anything for what is not a pickle, or is cut off; the names found so far do.
    with contextlib.suppress(Exception):
        for _, argument, _ in pickletools.genops(content):
            if isinstance(argument, str) and _TENSOR_NAME.fullmatch(argument):
                names.append(argument)
    if not names:
        return ""
    more = ", ..." if len(names) > _NUM_NAMES else ""
    owner = f" ({_TORCHVISION})" if "features.0.weight" in names else ""
    return f" of tensors named {', '.join(names[:_NUM_NAMES])}{more}{owner}"


def _refuse_foreign_safetensors(path: Path, *, is_own: bool) -> None:
    try:
        with open_tensors(path, "numpy") as file:
            metadata: dict[str, str] = dict(file.metadata() or {})
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, ValueError, TypeError, OSError) as error:
        raise_unless_damage(error, path)
        if is_own:
            return  # the reader says what is damaged
        raise RequestError(
            f"{path} is a safetensors file, not of alexnet, that is cut short or damaged ({error}); {DOWNLOAD}"
        ) from error
    if "alexnet" in metadata:
        if '"estimators"' in metadata["alexnet"]:
            raise RequestError(f"{path} is a baseline, not a network; {GIVE}")
        return
    if {"split", "num_views"} <= metadata.keys():
        raise RequestError(f"{path} has the saved probabilities of a run, not its network; give the run")
    if shapes and all(name.startswith(("network.", "velocity.", "average.")) for name in shapes):
        raise RequestError(
            f"{path} is a checkpoint, from which `alexnet resume RUN` continues a training; give the run"
        )
    raise RequestError(
        f"{path} was not written by alexnet (its metadata has no key `alexnet`); its tensors "
        f"{describe_tensors(shapes)}. Import those of a variant with "
        f"`{shell_words('alexnet', 'import', path, '--run', 'RUN')}`, or give a weights file of a run"
    )


def refuse_foreign_folder(folder: Path, *, importing: bool = False) -> NoReturn:
    """Raise RequestError that says what a folder without `weights.safetensors` is.

    Args:
        folder: without checkpoints of cuda-convnet, if `importing`.
        importing: whether an import refuses it.
    """
    if (folder / "baseline.safetensors").is_file():
        raise RequestError(
            f"{folder} holds a baseline, not a network; measure it with `{shell_words('alexnet', 'evaluate', folder)}`"
        )
    if (folder / "run.json").is_file():
        raise RequestError(
            f"the run {folder} has saved no weights yet (it has no weights.safetensors); "
            f"{RunFolder(folder).how_to_continue()}"
        )
    if folder.name in _RUN_FOLDERS and (folder.parent / "run.json").is_file():
        raise RequestError(f"{folder} is part of the run {folder.parent}; give the run")
    if kind := next((kind for name, kind in _IN_FOLDERS if (folder / name).exists()), None):
        raise RequestError(f"{folder} is {kind.what}; {kind.todo}")
    if any(CHECKPOINT_NAME.fullmatch(one.name) for one in folder.iterdir()):
        raise RequestError(
            f"{folder} holds checkpoints of cuda-convnet, as the names of its files say; import the newest with "
            f"`{shell_words('alexnet', 'import', folder, '--run', 'RUN')}`, then give that run"
        )
    if _is_own_file(folder / "model.safetensors"):
        raise RequestError(
            f"{folder} was written by `alexnet export --to hub`; give the weights in it, {folder / 'model.safetensors'}"
        )
    give = "give the file of its weights" if importing else GIVE
    if (folder / "config.json").is_file():
        raise RequestError(f"{folder} is a model of {_config_owner(folder / 'config.json')}; {give}")
    if importing:
        raise RequestError(f"{folder} is a folder without checkpoints of cuda-convnet; {GIVE_FOREIGN}")
    raise RequestError(
        f"{folder} holds no trained network (weights.safetensors is missing); {GIVE}, or train one with "
        f"`{shell_words('alexnet', 'train', 'DATA', '--run', folder)}`"
    )


def _is_own_file(path: Path) -> bool:
    """Whether a file exists and begins as one that this package wrote."""
    try:
        with path.open("rb") as file:
            return _OWN_KEY in file.read(START_BYTES)
    except OSError:
        return False


def _config_owner(path: Path) -> str:
    """Whose configuration it is, and of what: `Hugging Face (ResNetForImageClassification)`."""
    try:
        found: Any = json.loads(read_bounded(path, _MAX_CONFIG_BYTES))
    except (OSError, ValueError, RecursionError):
        return "another program"
    if not isinstance(found, dict):
        return "another program"
    if isinstance(found.get("architecture"), str):
        return f"timm ({found['architecture'][:60]})"
    architectures = found.get("architectures")
    name = architectures[0] if isinstance(architectures, list) and architectures else found.get("model_type")
    return f"Hugging Face ({name[:60]})" if isinstance(name, str) else "another program"
