"""ONNX files, run by ONNX Runtime, beside torch and Pillow."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from tests.exchange.trained_networks import (
    CLASS_NAMES,
    ELONGATION,
    FITS,
    REFUSED_SIZES,
    random_images,
    trained_network,
)
from tests.model.varied_networks import normwise, varied_network

import alexnet
from alexnet import RequestError, Trained
from alexnet.data.decode import Fit
from alexnet.exchange import onnx_export
from alexnet.exchange.onnx_export import onnx_model, write_onnx
from alexnet.exchange.onnx_graph import OnnxGraph
from alexnet.model.layer_specs import AveragePool, Dropout, LocallyConnected
from alexnet.model.variants import VARIANTS


def session(model: Any, *more_outputs: str) -> onnxruntime.InferenceSession:
    """A session that also gives these tensors of the graph."""
    for name in more_outputs:
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_scores_of_every_variant(variant: str) -> None:
    trained = trained_network(variant)
    model = onnx_model(trained)
    onnx.checker.check_model(model, full_check=True)
    last = trained.network.spec.named_layers[-1].name
    run = session(model, last)
    for num in (1, 3, 7):
        images = random_images(num, trained.side, trained.side)  # which no resizing changes
        probabilities, names, scores = run.run(None, {"images": images})
        with torch.no_grad():
            wanted = trained.network(alexnet.preprocess(images, trained))
        assert normwise(torch.from_numpy(scores), wanted) < 1e-5
        assert np.abs(probabilities - wanted.softmax(1).numpy()).max() < 1e-4
        assert list(names) == CLASS_NAMES


def test_nodes_are_named_after_modules() -> None:
    for variant in VARIANTS:
        trained = trained_network(variant)
        names = {node.name for node in onnx_model(trained).graph.node}
        wanted = {
            layer.name
            for layer in trained.network.spec.named_layers
            if not (isinstance(layer.spec, Dropout) and layer.spec.inverted)  # computes nothing
        }
        assert wanted <= names
        weights = {one.name: onnx.numpy_helper.to_array(one) for one in onnx_model(trained).graph.initializer}
        local = {one.name for one in trained.network.spec.named_layers if isinstance(one.spec, LocallyConnected)}
        for name, tensor in trained.network.state_dict().items():
            if name.rpartition(".")[0] not in local:
                assert np.array_equal(weights[name], tensor.numpy())


def pillow_square(image: NDArray[np.uint8], side: int, fit: Fit) -> NDArray[np.uint8]:
    """The square of a picture by Pillow, written from what docs/preparing.md says."""
    height, width = image.shape[:2]
    picture = Image.fromarray(image)
    if fit == "squash":
        return np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR))
    factor = min(height, width) if fit == "crop" else max(height, width)
    size = (max(1, round(width * side / factor)), max(1, round(height * side / factor)))
    picture = picture.resize(size, Image.Resampling.BILINEAR)
    if fit == "pad":
        square = Image.new("RGB", (side, side), (124, 116, 104))
        square.paste(picture, ((side - size[0]) // 2, (side - size[1]) // 2))
        return np.asarray(square)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return np.asarray(picture.crop((left, top, left + side, top + side)))


SESSIONS = {fit: (session(onnx_model(trained), "network_input"), trained) for fit in FITS for trained in [
    trained_network("quick", 33, fit)
]}  # fmt: skip


def network_inputs(fit: Fit, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], Trained]:
    run, trained = SESSIONS[fit]
    return run.run(["network_input"], {"images": images})[0], trained


def assert_same_pixels(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
    """One gray level may differ here and there, where float32 does not hold the sums."""
    difference = np.abs(found - wanted)
    assert difference.max() < 1.001 and (difference > 0.5).mean() < 0.0005


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(FITS), st.integers(1, 200), st.integers(1, 200), st.integers(0, 2**32 - 1))
@example("crop", 1, 1, 0)
@example("crop", 22, 22, 0)
@example("crop", 33, 33, 0)
@example("crop", 33, 34, 0)
@example("crop", 34, 33, 0)
@example("crop", 1, 100, 0)
@example("pad", 100, 1, 0)
@example("pad", 66, 65, 0)
@example("pad", 2, 133, 0)
@example("squash", 1, 100, 0)
@example("squash", 700, 900, 0)
def test_preprocessing_of_any_size(fit: Fit, height: int, width: int, seed: int) -> None:
    assume(max(height, width) <= ELONGATION * min(height, width))
    images = random_images(2, height, width, seed)
    inputs, trained = network_inputs(fit, images)
    assert_same_pixels(inputs, alexnet.preprocess(images, trained).numpy())
    margin = (trained.side - trained.crop) // 2
    middle = slice(margin, margin + trained.crop)
    mean = trained.mean_image.numpy()[middle, middle]
    for image, found in zip(images, inputs, strict=True):
        square = pillow_square(image, trained.side, fit)[middle, middle]
        difference = np.abs(found.transpose(1, 2, 0) + mean - square)
        assert difference.max() < 2.001 and difference.mean() < 0.4  # Pillow's weights have more bits


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(("height", "width"), [*REFUSED_SIZES, (0, 0)])
def test_sizes_that_are_refused(fit: Fit, height: int, width: int) -> None:
    """As `alexnet.preprocess` does, and the error of the runtime says why."""
    images = random_images(2, height, width)
    with pytest.raises(RequestError, match=r"more than 100 times longer than wide|allowed is at least 1 x 1"):
        alexnet.preprocess(images, SESSIONS[fit][1])
    with pytest.raises(Exception, match="the_longer_side_of_images_must_be_1_to_100_times_the_shorter"):
        network_inputs(fit, images)


@pytest.mark.parametrize("fit", FITS)
def test_pixels_that_no_resizing_changes_are_equal(fit: Fit) -> None:
    images = random_images(3, 33, 33)
    inputs, trained = network_inputs(fit, images)
    assert np.array_equal(inputs, alexnet.preprocess(images, trained).numpy())


@pytest.mark.parametrize(
    ("height", "width"),
    [
        (500, 375),
        (3000, 2000),
        (256, 256),
        (255, 2550),
        (40, 56),
        pytest.param(4000, 6000, marks=pytest.mark.slow),
    ],
)
def test_photographs_for_the_published_sizes(height: int, width: int) -> None:
    trained = trained_network("caffe", 256)
    run = session(onnx_model(trained), "network_input")
    smooth = Image.fromarray(random_images(1, 9, 9)[0]).resize((width, height), Image.Resampling.BICUBIC)
    image = np.asarray(smooth)
    (found,) = run.run(["network_input"], {"images": image[None]})
    assert_same_pixels(found, alexnet.preprocess(image, trained).numpy())


def test_what_the_file_says(tmp_path: Path) -> None:
    trained = trained_network("torchvision", 256, "pad")
    write_onnx(trained, tmp_path / "network.onnx")
    model = onnx.load(tmp_path / "network.onnx")
    properties = {one.key: one.value for one in model.metadata_props}
    assert properties["version"] == model.producer_version == alexnet.__version__
    alexnet.save(trained, tmp_path / "same.safetensors")
    content = (tmp_path / "same.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert json.loads(properties["alexnet"]) == json.loads(header["__metadata__"]["alexnet"])
    run = onnxruntime.InferenceSession(tmp_path / "network.onnx")
    (images,) = run.get_inputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(uint8)", ["N", "H", "W", 3])
    found = [(one.name, one.type, one.shape) for one in run.get_outputs()]
    assert found == [("probabilities", "tensor(float)", ["N", 7]), ("class_names", "tensor(string)", [7])]


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_onnx(trained_network("original"), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_too_large_a_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = trained_network("quick")
    monkeypatch.setattr(onnx_export, "MAX_BYTES", sum(one.numel() for one in trained.network.parameters()) * 4 - 1)
    with pytest.raises(RequestError, match="an ONNX file holds less than 2"):
        write_onnx(trained, tmp_path / "network.onnx")
    assert not [*tmp_path.iterdir()]


def test_changed_dropout_is_in_the_graph() -> None:
    network, _, _ = varied_network("paper")
    changed = alexnet.AlexNet(7, "paper", 0.05, dropout=0.2)
    changed.load_state_dict(network.state_dict())
    trained = dataclasses.replace(trained_network("paper"), network=changed.eval())
    images = random_images(1, trained.side, trained.side)
    (scores,) = session(onnx_model(trained), "fc8").run(["fc8"], {"images": images})
    with torch.no_grad():
        assert normwise(torch.from_numpy(scores), changed(alexnet.preprocess(images, trained))) < 1e-5


def test_average_of_the_positions_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    base = VARIANTS["cifar-80sec"]
    layers = (
        dataclasses.replace(one, divisor="inside") if isinstance(one, AveragePool) else one for one in base.layers
    )
    monkeypatch.setitem(VARIANTS, "inside", dataclasses.replace(base, layers=tuple(layers)))
    trained = trained_network("inside")
    images = random_images(1, trained.side, trained.side)
    (scores,) = session(onnx_model(trained), "fc5").run(["fc5"], {"images": images})
    with torch.no_grad():
        assert normwise(torch.from_numpy(scores), trained.network(alexnet.preprocess(images, trained))) < 1e-5


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(RequestError) as refused:
        OnnxGraph()
    assert str(refused.value) == (
        "ONNX files need the package onnx, which is not installed; run: pip install 'alexnet[export]'"
    )
