"""Folders for Caffe: read back with Google's library, computed by formula, and as the README says."""

import dataclasses
import re
import shlex
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.exchange.caffe_files import MESSAGES, alexnet_layers, network, random_weights, write

import alexnet
from alexnet import ClassInfo
from alexnet.cli.main import main
from alexnet.errors import RequestError, WorkError
from alexnet.exchange.caffe_export import label, labels_text, write_caffe
from alexnet.exchange.caffe_mean import read_binaryproto, read_mean_image
from alexnet.exchange.caffe_model import read_caffe
from alexnet.exchange.class_lists import read_classes
from alexnet.model.variants import VARIANTS
from alexnet.model.weights import Trained

WIDTH, CLASSES, SIDE = 0.0625, 3, 240


def trained_network(variant: str = "caffe", **more: Any) -> Trained:
    """A narrow network with random weights and names that look like lines and quotes."""
    random = torch.Generator().manual_seed(1)
    net = alexnet.AlexNet(CLASSES, variant, WIDTH, generator=random).eval()
    with torch.no_grad():
        for one in net.parameters():
            if one.dim() == 1:
                one.normal_(generator=random)
            else:
                one.normal_(0, (2 / one[0].numel()) ** 0.5, generator=random)
    names = ("tench", 'the  "second" class', "Größe")
    return Trained(
        network=net,
        classes=tuple(alexnet.ClassInfo(f"n {number}", name) for number, name in enumerate(names)),
        mean_image=255 * torch.rand(SIDE, SIDE, 3, generator=random),
        crop=net.spec.image_px,
        title="data\nof a test",
        generated=False,
        fit="squash",
        **more,
    )


def blob_array(blob: Any) -> np.ndarray:
    shape = list(blob.shape.dim) or [blob.num, blob.channels, blob.height, blob.width]
    return np.array(blob.data, np.float32).reshape(shape)


@pytest.mark.parametrize("variant", ["caffe", "caffenet"])
def test_googles_library_reads_the_network_that_was_written(tmp_path: Path, variant: str) -> None:
    trained = trained_network(variant)
    write_caffe(trained, tmp_path / "out")
    weights_file = tmp_path / "out" / "weights.caffemodel"
    names = {"README.txt", "deploy.prototxt", "labels.txt", "mean.binaryproto", "weights.caffemodel"}
    assert {one.name for one in (tmp_path / "out").iterdir()} == names
    net = MESSAGES["NetParameter"].FromString(weights_file.read_bytes())
    deploy = text_format.Parse((tmp_path / "out" / "deploy.prototxt").read_text(), MESSAGES["NetParameter"]())
    assert net.name == deploy.name == {"caffe": "AlexNet", "caffenet": "CaffeNet"}[variant]
    shape = deploy.layer[0].input_param.shape[0].dim
    assert (deploy.layer[0].type, list(shape)) == ("Input", [1, 3, 227, 227])

    state = {name: tensor.numpy() for name, tensor in trained.network.state_dict().items()}
    state["conv1.weight"] = state["conv1.weight"][:, ::-1]
    for layer in net.layer:
        blobs = [blob_array(one) for one in layer.blobs]
        assert len(blobs) == (2 if layer.type in ("Convolution", "InnerProduct") else 0)
        for array, kind in zip(blobs, ("weight", "bias"), strict=False):
            assert np.array_equal(array, state.pop(f"{layer.name}.{kind}"))
        del layer.blobs[:]
    assert not state
    assert list(net.layer) == list(deploy.layer)[1:]

    order = {"caffe": "norm pool", "caffenet": "pool norm"}[variant]
    want = network(alexnet_layers(order, WIDTH, CLASSES), {})
    assert [(one.name, one.type) for one in net.layer] == [
        *((one.name, one.type) for one in want.layer[1:-1]), ("prob", "Softmax")
    ]  # fmt: skip
    for ours, published in zip(net.layer[:-1], want.layer[1:-1], strict=True):
        for param in ("convolution_param", "inner_product_param", "lrn_param", "pooling_param", "dropout_param"):
            assert getattr(ours, param) == getattr(published, param)
        assert (list(ours.bottom), list(ours.top)) == (list(published.bottom), list(published.top))
    assert (list(net.layer[-1].bottom), list(net.layer[-1].top)) == (["fc8"], ["prob"])


@pytest.mark.parametrize("variant", ["caffe", "caffenet"])
def test_a_network_comes_back_bit_for_bit(tmp_path: Path, variant: str) -> None:
    trained = trained_network(variant)
    write_caffe(trained, tmp_path / "out")
    found = read_caffe(tmp_path / "out" / "weights.caffemodel")
    assert (found.variants, found.notes, found.fit) == ((variant,), (), "squash")
    state = trained.network.state_dict()
    assert len(found.layers) == 8
    for layer in found.layers:
        weight = layer.weight.flip(1) if layer.name == "conv1" else layer.weight
        assert torch.equal(weight, state[f"{layer.name}.weight"])
        assert torch.equal(layer.bias, state[f"{layer.name}.bias"])
    assert torch.equal(torch.from_numpy(read_binaryproto(tmp_path / "out" / "mean.binaryproto")), trained.mean_image)


@pytest.mark.parametrize("form", ["new", "v1"])
def test_a_file_of_caffe_is_written_again_with_the_same_arrays(tmp_path: Path, form: str) -> None:
    layers = alexnet_layers(width=WIDTH, classes=CLASSES)
    given = network(layers, random_weights(layers), form)
    found = read_caffe(write(tmp_path / "in.caffemodel", given))
    net = alexnet.AlexNet(CLASSES, "caffe", WIDTH)
    state = {f"{one.name}.{kind}": getattr(one, kind) for one in found.layers for kind in ("weight", "bias")}
    net.load_state_dict(state | {"conv1.weight": state["conv1.weight"].flip(1)})
    write_caffe(dataclasses.replace(trained_network(), network=net), tmp_path / "out")
    again = MESSAGES["NetParameter"].FromString((tmp_path / "out" / "weights.caffemodel").read_bytes())
    arrays = [[list(blob.data) for blob in one.blobs] for one in (given.layer or given.layers) if one.blobs]
    assert [[list(blob.data) for blob in one.blobs] for one in again.layer if one.blobs] == arrays


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
@pytest.mark.parametrize("size", [(300, 260), (120, 200)])
def test_the_readme_prepares_photographs_as_alexnet_does(tmp_path: Path, fit: Any, size: tuple[int, int]) -> None:
    trained = dataclasses.replace(trained_network(), fit=fit)
    write_caffe(trained, tmp_path / "out")
    smooth = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(smooth).resize(size, Image.Resampling.BICUBIC).save(tmp_path / "photo.png")
    code = (tmp_path / "out" / "README.txt").read_text(encoding="utf-8")
    lines = [line[4:] for line in code.splitlines() if line.startswith("    ")]
    lines = [line for line in lines if "caffe" not in line and "net." not in line and "labels" not in line]
    planes = read_binaryproto(tmp_path / "out" / "mean.binaryproto").transpose(2, 0, 1)[::-1]
    names: dict[str, Any] = {"mean": planes}
    exec("\n".join(lines).replace("photo.jpg", str(tmp_path / "photo.png")), names)
    (place,) = re.findall(r'data\[0\] = (pixels\[.*\])', code)  # fmt: skip
    got = eval(place, names)
    want = alexnet.preprocess(str(tmp_path / "photo.png"), trained)[0].numpy()
    assert np.abs(got[::-1] - want).max() <= 2  # rounding to whole gray levels


def test_names_are_one_line_each(tmp_path: Path) -> None:
    write_caffe(trained_network(), tmp_path / "out")
    labels = (tmp_path / "out" / "labels.txt").read_text(encoding="utf-8")
    assert labels == 'n 0\ttench\nn 1\tthe "second" class\nn 2\tGröße\n'
    readme = (tmp_path / "out" / "README.txt").read_text(encoding="utf-8")
    assert "Trained on: data of a test\n" in readme and 'split("\\t", 1) for line in open("labels.txt"' in readme
    classes = [ClassInfo("n01", "tench"), ClassInfo("n02", "2"), ClassInfo("n03", "two words")]
    write_caffe(dataclasses.replace(trained_network(), classes=classes), tmp_path / "usual")
    assert (tmp_path / "usual" / "labels.txt").read_text(encoding="utf-8") == "n01 tench\nn02 2\nn03 two words\n"


@given(st.lists(st.text(min_size=1, max_size=8).filter(str.strip), min_size=3, max_size=3, unique=True), st.booleans())
@example(["golden retriever", "tench", "n 1"], True)
@example(["n1", "n2", "n3"], False)
@example(["\u202ea", "a\x1b[1m", "\u200b"], False)
@example(["# a", "{b", "<c>"], True)
@settings(max_examples=30)
def test_labels_are_read_back(texts: list[str], are_names: bool) -> None:
    """What `alexnet import --classes labels.txt` makes of them: ids with spaces, too."""
    assume(len({label(one) for one in texts}) == 3 and label(texts[0])[0] not in "{[<")  # JSON, or a web page
    classes = [ClassInfo(one, "x y" if are_names else one) for one in texts]
    lines = labels_text(classes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "labels.txt")
        path.write_text(lines, encoding="utf-8")
        assert [(one.id, one.name) for one in read_classes(path)] == [(label(a.id), label(a.name)) for a in classes]


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        ("paper", "conv1 pads at the right and at the bottom only, norm1 normalizes within columns, norm2 norm"),
        ("original", "same_map_norm2 is a layer that Caffe does not have|norm1 normalizes within columns"),
        ("torchvision", "the network multiplies its input by a factor"),
        ("cifar-13pct", "local3 is a layer that Caffe does not have"),
        ("no-norm", "dropout6 multiplies by the keep probability in testing"),
        ("cifar-80sec", "pool2 divides by another number at the edges"),
    ],
)
def test_networks_that_caffe_computes_otherwise_are_refused(tmp_path: Path, variant: str, reason: str) -> None:
    net = alexnet.AlexNet(CLASSES, variant, 0.05)
    with pytest.raises(RequestError, match=f"variant '{variant}' cannot be exported .*({reason}).*Allowed are"):
        write_caffe(dataclasses.replace(trained_network(), network=net), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_every_other_variant_has_a_reason(tmp_path: Path) -> None:
    for variant in set(VARIANTS) - {"caffe", "caffenet"}:
        net = alexnet.AlexNet(CLASSES, variant, 0.02)
        with pytest.raises(RequestError, match="cannot be exported") as refused:
            write_caffe(dataclasses.replace(trained_network(), network=net), tmp_path / "out")
        assert "only these two" not in str(refused.value), variant


def mean_blob(array: np.ndarray, how: str) -> Any:
    blob = MESSAGES["BlobProto"]()
    if how == "legacy":
        blob.num, (blob.channels, blob.height, blob.width) = 1, array.shape
    else:
        blob.shape.dim.extend(array.shape)
    (blob.double_data if how == "double" else blob.data).extend(array.reshape(-1).tolist())
    return blob


@pytest.mark.parametrize("how", ["legacy", "shape", "double"])
def test_mean_images_of_caffe_are_read(tmp_path: Path, how: str) -> None:
    rgb = np.random.default_rng(2).uniform(80, 150, (5, 5, 3)).astype(np.float32)
    planes = np.ascontiguousarray(rgb[..., ::-1].transpose(2, 0, 1))
    path = write(tmp_path / "mean.binaryproto", mean_blob(planes, how))
    for found in (read_binaryproto(path), read_mean_image(path)):
        assert found.dtype == np.float32 and found.flags.c_contiguous and np.array_equal(found, rgb)
    np.save(tmp_path / "mean.npy", planes.astype(np.float64 if how == "double" else np.float32))
    assert np.array_equal(read_mean_image(tmp_path / "mean.npy"), rgb)


def test_what_is_not_a_mean_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mean.binaryproto"
    for array, message in (
        (np.zeros((3, 4, 5)), r"holds an array of 3 x 4 x 5; expected is 3 x side x side"),
        (np.zeros((1, 4, 4)), r"holds an array of 1 x 4 x 4"),
        (np.full((3, 4, 4), 300.0), r"has colors from 300 to 300; expected is the mean of images of 0\.\.255"),
        (np.full((3, 4, 4), np.nan), "has colors from nan to nan"),
    ):
        with pytest.raises(RequestError, match=message):
            read_mean_image(write(path, mean_blob(array, "shape")))
        np.save(tmp_path / "mean.npy", array)
        with pytest.raises(RequestError, match=message if len(array) == 3 else "is not a mean image: it is <f8"):
            read_mean_image(tmp_path / "mean.npy")
    content = mean_blob(np.zeros((3, 4, 4)), "legacy").SerializeToString()
    path.write_bytes(content.replace(b"\x08\x01\x10\x03", b"\x08\x01\x10\x04"))
    with pytest.raises(WorkError, match=r"the array at byte 0 is 1 x 4 x 4 x 4, but has 48 numbers"):
        read_mean_image(path)
    for wrong in (content[:-7], b"<html></html>", b"\x00" * 50, MESSAGES["NetParameter"](name="x").SerializeToString()):
        path.write_bytes(wrong)
        with pytest.raises(RequestError, match=r"is not a mean image.*; give a mean image of Caffe"):
            read_mean_image(path)
    with pytest.raises(RequestError, match="does not exist; give a mean image"):
        read_mean_image(tmp_path / "nothing")


@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_the_command_that_an_export_names_makes_the_same_run_again(tmp_path: Path, fit: Any) -> None:
    trained = dataclasses.replace(trained_network("caffenet"), fit=fit)
    written = alexnet.export(trained, tmp_path / "out", to="caffe")
    assert written.notes[-1] == "In labels.txt, several spaces in a row are one, in 1 of the ids and names."
    (command,) = re.findall(r"`(alexnet import .*)` makes it a run again", "\n".join(written.notes))
    words = shlex.split(command)[1:]
    assert main([*words[:-1], str(tmp_path / "run")]) == 0
    again = alexnet.load(tmp_path / "run")
    found = again.network.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in trained.network.state_dict().items())
    assert torch.equal(again.mean_image, trained.mean_image)
    assert (again.fit, again.crop, again.network.variant) == (fit, 227, "caffenet")
    assert [one.name for one in again.classes] == ["tench", 'the "second" class', "Größe"]
