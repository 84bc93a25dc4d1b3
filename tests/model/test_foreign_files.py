"""Files that are no weights of this package are named for what they are; only its own damaged files are "damaged"."""

import gzip
import io
import json
import pickle
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.model.test_weights import trained_network

from alexnet.errors import AlexNetError, RequestError, WorkError
from alexnet.model.foreign_files import refuse_foreign_file
from alexnet.model.weights import load_trained, save_trained
from alexnet.storage.tensors import write_tensors


class RunsCode:
    """A pickle of it creates a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


def torch_zip(path: Path) -> None:
    torch.save({"module.conv1.weight": torch.zeros(3, 3)}, path)


def torchvision_zip(path: Path) -> None:
    state = {"features.0.weight": torch.zeros(64, 3, 11, 11), "features.0.bias": torch.zeros(64)}
    torch.save({**state, "features.3.weight": torch.zeros(2), "features.3.bias": torch.zeros(2)}, path)


def torch_old(path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(3)}, path, _use_new_zipfile_serialization=False)


def pickled(protocol: int) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(pickle.dumps({"layers": [RunsCode(path.with_name("ran"))]}, protocol))


def torchscript(path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))


def exported(path: Path) -> None:
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),)), str(path))


def half_of(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        make(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return write


def starts(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def zipped(*names: str) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, "x")

    return write


def tarred(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("weights"), io.BytesIO())


def foreign_safetensors(path: Path) -> None:
    safetensors.torch.save_file({"layer1.0.conv1.weight": torch.zeros(4, 3, 7, 7), "n": torch.zeros(())}, path)


def own_without_metadata(path: Path) -> None:
    state = {f"module.{name}": tensor for name, tensor in trained_network().network.state_dict().items()}
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)


def checkpoint(path: Path) -> None:
    arrays = {"network.conv1.weight": np.zeros(2, np.float32), "velocity.conv1.weight": np.zeros(2, np.float32)}
    write_tensors(path, arrays, {"format": "pt"})


def onnx_model(producer: bytes = b"pytorch") -> bytes:
    graph = b"\x0a\x04relu"
    named = b"\x12" + bytes([len(producer)]) + producer if producer else b""
    return b"\x08\x08" + named + b"\x3a" + bytes([len(graph)]) + graph


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab\nsize 244408911\n"
PNG = io.BytesIO()
Image.new("RGB", (4, 4)).save(PNG, "png")

A_PICKLE = r"is a Python pickle; if it is a checkpoint of .*run. Otherwise, .*can run code. (?!.*torch.load)"
FILES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "torch.save": ("a.pth", torch_zip, r"is a PyTorch file \(a zip of .* named module.conv1.weight; import it with"),
    "torchvision": ("a.pth", torchvision_zip, r"features.3.weight, ... \(as torchvision's alexnet has them\); import"),
    "cut off": ("a.pth", half_of(torch_zip), r"is a PyTorch file .* that is cut short or damaged; download or copy it"),
    "torch.save of a module": (
        "m.pth",
        lambda path: torch.save(torch.nn.Sequential(torch.nn.Linear(2, 2)), path),
        r"is a PyTorch file \(a zip.*whole module.*trust its author, pass `torch.load\(..., weights_only=False\).st",
    ),
    "old torch.save": ("a.pt", torch_old, r"is a PyTorch file \(pickles, as torch.save used to.*\); import it with"),
    "pickle 2": ("a.pkl", pickled(2), A_PICKLE),
    "pickle 5": ("a", pickled(5), A_PICKLE),
    "pickle 0": ("a.pkl", pickled(0), A_PICKLE),
    "TorchScript": ("a.pt", torchscript, r"is a TorchScript module; read it with `torch.jit.load`"),
    ".pt2": ("a.pt2", exported, r"is an exported program of PyTorch \(.pt2\); read it with `torch.export.load`"),
    "npy": ("a.npy", lambda path: np.save(path, np.zeros(3)), "is a NumPy array; it is not read"),
    "npz": ("a.npz", lambda path: np.savez(path, a=np.zeros(3)), r"is a file of NumPy arrays \(.npz\); it is not read"),
    "HDF5": ("a.h5", starts(b"\x89HDF\r\n\x1a\n\0\0"), "is an HDF5 file, as Keras writes it"),
    "Keras": ("a.keras", zipped("metadata.json", "config.json", "model.weights.h5"), "is a Keras model"),
    "ONNX": ("a.onnx", starts(onnx_model()), "is an ONNX model"),
    "ONNX, no producer": ("a.bin", starts(onnx_model(b"")), "is an ONNX model"),
    "Caffe, old": ("a.bin", starts(b"\x0a\x07AlexNet\x12\x90\x01\x22\x04data"), "is a Caffe model"),
    "Caffe, new": ("a.bin", starts(b"\x0a\x07AlexNet\xa2\x06\x90\x01\x0a\x04data"), "is a Caffe model"),
    "Caffe, by its name": ("a.caffemodel", starts(b"\xa2\x06\x90\x01\x0a\x04data"), "is a Caffe model"),
    "MATLAB": ("a.mat", starts(b"MATLAB 5.0 MAT-file, Platform: GLNXA64"), "is a MATLAB file"),
    "TFLite": ("a.tflite", starts(b"\x1c\0\0\0TFL3\x14\0"), "is a TensorFlow Lite model"),
    "GGUF": ("a.gguf", starts(b"GGUF\3\0\0\0"), "is a GGUF file"),
    "TensorFlow": ("a.PB", starts(b"\x0a\x30\x0a\x05Const\x12"), "is a TensorFlow graph"),
    "LFS": ("weights.safetensors", starts(LFS), "is a Git LFS pointer, not the file .*; run `git lfs pull`"),
    "web page": ("a.pth", starts(b"\n<!DOCTYPE html><html>"), "is a web page, not weights: a site's answer"),
    "XML": ("a.pth", starts(b'<?xml version="1.0"?><Error><Code>AccessDenied'), "is a web page, not weights"),
    "empty": ("weights.safetensors", starts(b""), "is empty; download or copy it again"),
    "zeros": ("weights.safetensors", starts(b"\0" * 5000), "is full of zeros, as an interrupted copy"),
    "gzip": ("a.gz", starts(gzip.compress(b"abc")), "is a packed archive; unpack it"),
    "tar": ("a.tar", tarred, "is a packed archive; unpack it"),
    "zip": ("a.zip", zipped("folder/weights.safetensors"), "is a packed archive; unpack it"),
    "cuda-convnet zip": ("1.1", zipped("data"), r"is a zip with the member `data`; if it is a checkpoint of cuda-conv"),
    "image": ("a.png", starts(PNG.getvalue()), "is an image, not a network; give the run before the images"),
    "text": ("a.txt", starts(b"n01440764 tench\n"), "is a text file, not weights"),
    "JSON": ("run.json", starts(b'{"format_version": 1}'), "is a text file, not weights"),
    "anything": ("a", starts(bytes(range(1, 9))), r"no weights file of a known format \(it begins with 01 02"),
    "safetensors": (
        "a.safetensors",
        foreign_safetensors,
        r"was not written by alexnet .* tensors fit no variant; they are layer1.0.conv1.weight \(4, 3, 7, 7\), n \(\)",
    ),
    "our tensors alone": (
        "a.safetensors",
        own_without_metadata,
        r"was not written by alexnet .* tensors fit variant 'quick' of width 0.25 with 2 classes. Import .*`alexnet",
    ),
    "safetensors, cut off": (
        "a.safetensors",
        half_of(foreign_safetensors),
        "is a safetensors file, not of alexnet, that is cut short or damaged .*; download or copy it again",
    ),
    "checkpoint": ("step-1.safetensors", checkpoint, "is a checkpoint, from which `alexnet resume RUN` continues"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_named_for_what_it_is_and_never_called_damaged(tmp_path: Path, name: str) -> None:
    file_name, write, message = FILES[name]
    path = tmp_path / file_name
    write(path)
    with pytest.raises(RequestError, match=message) as found:
        load_trained(path)
    assert str(found.value).startswith(str(path)) and "\n" not in str(found.value)
    assert len(str(found.value)) < 600
    assert not (tmp_path / "ran").exists()


def test_a_published_file_of_torchvision_says_how_it_is_imported(tmp_path: Path) -> None:
    """The whole message, as a user reads it."""
    path = tmp_path / "alexnet-owt.pth"
    torchvision_zip(path)
    with pytest.raises(RequestError) as found:
        load_trained(path)
    assert str(found.value) == (
        f"{path} is a PyTorch file (a zip of pickles, as torch.save writes it) of tensors named features.0.weight, "
        "features.0.bias, features.3.weight, ... (as torchvision's alexnet has them); import it with "
        f"`alexnet import {path} --run RUN`, then give that run"
    )


FOLDERS: dict[str, tuple[str, str]] = {
    "dataset.json": ("{}", "is a prepared data set, not a network; give the run that was trained on it"),
    "features.json": ("{}", "is a folder of features, not a network"),
    "saved_model.pb": ("x", "is a TensorFlow SavedModel"),
    ".metadata": ("x", "is a distributed checkpoint of PyTorch"),
    "baseline.safetensors": ("x", "holds a baseline, not a network; measure it with `alexnet evaluate"),
    "run.json": ("{}", "has saved no weights yet .*; resume it with `alexnet resume"),
    "90.12": (
        "x",
        "holds checkpoints of cuda-convnet, as the names of its files say; import the newest with `alexnet imp",
    ),
    "notes.txt": ("x", r"holds no trained network \(weights.safetensors is missing\); .*`alexnet train DATA --run"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_is_named_for_what_it_is(tmp_path: Path, name: str) -> None:
    content, message = FOLDERS[name]
    (tmp_path / name).write_text(content)
    with pytest.raises(RequestError, match=message):
        load_trained(tmp_path)


@pytest.mark.parametrize(
    ("config", "owner"),
    [
        ({"architectures": ["ResNetForImageClassification"]}, r"Hugging Face \(ResNetForImageClassification\)"),
        ({"model_type": "vit"}, r"Hugging Face \(vit\)"),
        ({"architecture": "resnet18", "num_classes": 10}, r"timm \(resnet18\)"),
        ({"architectures": [3]}, "another program"),
        ([1], "another program"),
        ("{", "another program"),
    ],
)
def test_a_model_of_a_hub_is_named_with_its_architecture(tmp_path: Path, config: object, owner: str) -> None:
    (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(RequestError, match=f"is a model of {owner}; give a run folder"):
        load_trained(tmp_path)


def test_a_part_of_a_run_names_the_run(tmp_path: Path) -> None:
    (tmp_path / "run.json").touch()
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(RequestError, match=rf"is part of the run {tmp_path}; give the run"):
        load_trained(tmp_path / "checkpoints")


def test_own_files_are_damaged_wherever_they_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_trained(path, trained_network())
    content = path.read_bytes()
    header_bytes = int.from_bytes(content[:8], "little")
    for size in (100, header_bytes // 2, header_bytes + 8, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(WorkError, match="is damaged"):
            load_trained(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(WorkError, match="is damaged"):
        load_trained(path)
    # A header of 0x10280 bytes begins like a pickle of protocol 2.
    padded = content[8 : 8 + header_bytes].ljust(0x010280)
    path.write_bytes(struct.pack("<Q", len(padded)) + padded + content[8 + header_bytes :])
    load_trained(path)


@pytest.mark.parametrize("size", [1, 7, 8])
def test_what_is_left_of_a_few_bytes_is_no_weights_file(tmp_path: Path, size: int) -> None:
    path = tmp_path / "weights.safetensors"
    save_trained(path, trained_network())
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(RequestError, match=r"no weights file of a known format|is a text file"):
        load_trained(path)


@given(
    content=st.binary(max_size=300),
    start=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x0a\x07", b"\0" * 8 + b"{"]),
)
def test_any_bytes_give_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes, start: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.pth"
    path.write_bytes(start + content)
    with pytest.raises(AlexNetError) as found:
        load_trained(path)
    assert len(str(found.value)) < 1000


def test_a_pickle_of_any_size_is_listed_no_further_than_its_start(tmp_path: Path) -> None:
    path = tmp_path / "large.pth"
    torch.save({f"layer{number}.weight": 0 for number in range(200_000)}, path)
    with pytest.raises(RequestError, match=r"named layer0.weight, layer1.weight, layer2.weight, ...; import it"):
        refuse_foreign_file(path)


def test_devices_and_pipes_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="/dev/null is not a regular file; give a run folder"):
        load_trained(Path("/dev/null"))
    with pytest.raises(RequestError, match="does not exist; give a run folder"):
        load_trained(tmp_path / "nothing.safetensors")
