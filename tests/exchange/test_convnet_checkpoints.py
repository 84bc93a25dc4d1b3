"""Checkpoints of cuda-convnet: what is read from them computes what cuda-convnet computes."""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.exchange.convnet_pickles import Builder, Layers, checkpoint, python2_pickle, scores

import alexnet
from alexnet.errors import RequestError, WorkError
from alexnet.exchange.convnet_checkpoints import is_pickle, read_batches_meta
from alexnet.exchange.foreign_network import ForeignNetwork
from alexnet.exchange.readers import read_foreign
from alexnet.model.network import AlexNet
from alexnet.model.tensor_names import networks_of_layers
from alexnet.runs.import_recipe import ImportRecipe

NUM_CLASSES = 6


def two_columns(*, six: bool = False, dense: int = 164) -> Layers:
    """The 2012 program's layers-145 (146 with a sixth convolution) of 4 % of its width."""
    net = Builder(224)
    for name, gpu in (("a", 0), ("b", 1)):
        net.conv(f"conv1{name}", ["data"], 2, 11, stride=4, gpu=gpu)
        net.norm(f"rnorm1{name}", f"conv1{name}", 5, 1e-4, add=2)
        net.pool(f"pool1{name}", f"rnorm1{name}")
        net.neuron(f"pool1{name}_neuron", f"pool1{name}")
        net.conv(f"conv2{name}", [f"pool1{name}_neuron"], 5, 5, padding=2)
        net.neuron(f"conv2{name}_neuron", f"conv2{name}")
        net.norm(f"rnorm2{name}", f"conv2{name}_neuron", 5, 1e-4, add=2)
        net.norm(f"cnorm2{name}", f"rnorm2{name}", 5, 1e-3, add=0)
        net.pool(f"pool2{name}", f"cnorm2{name}")
    for name in "ab":
        net.conv(f"conv3{name}", ["pool2a", "pool2b"] if name == "a" else ["pool2b", "pool2a"], 8, 3, padding=1)
        net.neuron(f"conv3{name}_neuron", f"conv3{name}")
        net.conv(f"conv4{name}", [f"conv3{name}_neuron"], 8, 3, padding=1)
        net.neuron(f"conv4{name}_neuron", f"conv4{name}")
        net.conv(f"conv5{name}", [f"conv4{name}_neuron"], 5, 3, padding=1)
        net.pool(f"pool5{name}", f"conv5{name}")
        net.neuron(f"pool5{name}_neuron", f"pool5{name}")
    below = ["pool5a_neuron", "pool5b_neuron"]
    if six:
        for name in "ab":
            net.conv(f"conv6{name}", below, 5, 3, padding=1)
            net.neuron(f"conv6{name}_neuron", f"conv6{name}")
        below = ["conv6a_neuron", "conv6b_neuron"]
    for layer, sources in (("fc6", below), ("fc7", ["hs6a", "hs6b"])):
        for name in "ab":
            net.dense(f"{layer}{name}", sources if name == "a" else sources[::-1], dense // 2)
            net.neuron(f"{layer}{name}_neuron", f"{layer}{name}")
            net.dropout(f"hs{layer[-1]}{name}", f"{layer}{name}_neuron")
    net.dense("fc1000", ["hs7a", "hs7b"], NUM_CLASSES)
    return net.end("fc1000")


def cifar(name: str) -> Layers:
    """cuda-convnet's example layers, of half their width."""
    if name in ("11pct", "13pct"):
        net, last = Builder(24), "data"
        for number in (1, 2):
            last = net.conv(f"conv{number}", [last], 32, 5, padding=2)
            last = net.neuron(f"conv{number}_neuron", last)
            if number == 1:
                last = net.pool("pool1", last)
            if name == "11pct":
                last = net.norm(f"rnorm{number}", last, 9, 0.001)
            if number == 2:
                last = net.pool("pool2", last)
        for number, filters in ((3, 32 if name == "11pct" else 16), (4, 16)):
            last = net.conv(f"local{number}", [last], filters, 3, padding=1, local=True)
            last = net.neuron(f"local{number}_neuron", last)
        return net.end(net.dense("fc10", [last], NUM_CLASSES))
    net, last = Builder(32), "data"
    for number, filters in ((1, 16), (2, 16), (3, 32)):
        last = net.conv(f"conv{number}", [last], filters, 5, padding=2)
        if number == 1:
            last = net.neuron("relu1", net.pool("pool1", last))
        else:
            last = net.pool(f"pool{number}", net.neuron(f"relu{number}", last), "avg")
        if name == "18pct" and number < 3:
            last = net.norm(f"rnorm{number}", last, 3, 5e-5, add=0)
    return net.end(net.dense("fc10", [last], NUM_CLASSES))


NETWORKS: dict[str, tuple[Callable[[], Layers], str]] = {
    "layers-145": (two_columns, "original"),
    "layers-146": (lambda: two_columns(six=True), "six-conv"),
    "11pct": (lambda: cifar("11pct"), "cifar-11pct"),
    "13pct": (lambda: cifar("13pct"), "cifar-13pct"),
    "18pct": (lambda: cifar("18pct"), "cifar-18pct"),
    "19pct": (lambda: cifar("19pct"), "cifar-four-layer"),
}


def loaded(found: ForeignNetwork) -> AlexNet:
    (match,) = (
        one
        for one in networks_of_layers([(tuple(one.weight.shape), tuple(one.bias.shape)) for one in found.layers])
        if one.variant == found.variants[0]
    )
    network = AlexNet(NUM_CLASSES, match.variant, match.width)
    names = [name.removesuffix(".weight") for name in network.state_dict() if name.endswith(".weight")]
    state = {}
    for name, layer in zip(names, found.layers, strict=True):
        state[f"{name}.weight"], state[f"{name}.bias"] = layer.weight, layer.bias
    network.load_state_dict(state)
    return network.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_scores_are_those_of_cuda_convnet(tmp_path: Path, name: str) -> None:
    make, variant = NETWORKS[name]
    layers = make()
    (tmp_path / "90.1").write_bytes(python2_pickle(checkpoint(layers, as_list=variant.startswith("cifar"))))
    found = read_foreign(tmp_path / "90.1")
    assert found.variants == (variant,)
    assert found.convention is not None and found.convention.scale == "255"
    assert found.convention.color_order == "rgb" and "--mean" in found.notes[0]
    side = round((layers["data"]["outputs"] / 3) ** 0.5)
    image = np.random.default_rng(2).uniform(-120, 130, (3, side, side))
    expected = scores(layers, image)
    network = loaded(found)
    ours = network(torch.from_numpy(image).float()[None])[0].detach().numpy()
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(ours, expected, rtol=2e-3, atol=2e-3 * np.ptp(expected))


def small() -> Layers:
    return cifar("19pct")


def test_columns_are_joined_as_this_package_stores_them(tmp_path: Path) -> None:
    layers = two_columns()
    (tmp_path / "a").write_bytes(python2_pickle(checkpoint(layers)))
    found = {one.name: one for one in read_foreign(tmp_path / "a").layers}
    assert [*found][:2] == ["conv1a+conv1b", "conv2a+conv2b"] and len(found) == 8
    conv3 = found["conv3a+conv3b"].weight.numpy()
    # Output channel 9 is the second of column b; input channel 6 the second of pool2b, which conv3b reads first.
    assert conv3[9, 6, 2, 1] == layers["conv3b"]["weights"][0][(1 * 3 + 2) * 3 + 1, 1]
    conv4 = found["conv4a+conv4b"].weight.numpy()
    assert conv4.shape == (16, 8, 3, 3) and conv4[9, 6, 2, 1] == layers["conv4b"]["weights"][0][(6 * 3 + 2) * 3 + 1, 1]
    fc6 = found["fc6a+fc6b"]
    assert fc6.weight[100, 5 * 36 + 3] == layers["fc6b"]["weights"][0][3, 100 - 82]
    assert fc6.bias[100] == layers["fc6b"]["biases"][0, 100 - 82]


def write_pickle(layers: Layers, folder: Path) -> Path:
    (folder / "12.3").write_bytes(python2_pickle(checkpoint(layers)))
    return folder / "12.3"


def write_list(layers: Layers, folder: Path) -> Path:
    (folder / "12.3").write_bytes(python2_pickle(checkpoint(layers, as_list=True)))
    return folder / "12.3"


def write_zip(layers: Layers, folder: Path) -> Path:
    with zipfile.ZipFile(folder / "12.3", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data", python2_pickle(checkpoint(layers)))
    return folder / "12.3"


def write_folder(layers: Layers, folder: Path) -> Path:
    (folder / "net").mkdir()
    wrong = small()
    wrong["conv1"]["biases"] = wrong["conv1"]["biases"] + 1
    (folder / "net" / "9.5").write_bytes(python2_pickle(checkpoint(wrong)))
    (folder / "net" / "12.3").write_bytes(python2_pickle(checkpoint(layers)))
    (folder / "net" / "batches.meta").write_bytes(b"x")
    return folder / "net"


def write_python3(layers: Layers, folder: Path) -> Path:
    """As a port to Python 3 writes it, with layers in any order."""
    content = {"model_state": {"layers": dict(reversed(layers.items()))}, "op": None}
    (folder / "12.3").write_bytes(pickle.dumps(content))
    return folder / "12.3"


FORMS = (write_pickle, write_list, write_zip, write_folder, write_python3)


@pytest.mark.parametrize("write", FORMS)
def test_every_form_gives_the_same_layers(tmp_path: Path, write: Callable[[Layers, Path], Path]) -> None:
    layers = small()
    found = read_foreign(write(layers, tmp_path))
    assert found.what == "a checkpoint of cuda-convnet"
    assert [one.name for one in found.layers] == ["conv1", "conv2", "conv3", "fc10"]
    weights = layers["conv2"]["weights"][0].reshape(16, 5, 5, 16)
    assert np.array_equal(found.layers[1].weight, weights.transpose(3, 0, 1, 2))
    assert np.array_equal(found.layers[0].bias, layers["conv1"]["biases"][:, 0])
    newest = "The newest of 2 checkpoints in the folder was read, 12.3."
    assert (newest in found.notes) == (write is write_folder)


def changed(name: str, **entries: Any) -> Callable[[], Layers]:
    def make() -> Layers:
        layers = small()
        layers[name].update(entries)
        return layers

    return make


def one_gpu() -> Layers:
    """cuda-convnet2's network for one GPU: of torchvision's sizes, and with normalization."""
    net, last = Builder(224), "data"
    for number, (filters, size, stride, padding) in enumerate(
        ((4, 11, 4, 0), (12, 5, 1, 2), (24, 3, 1, 1), (16, 3, 1, 1), (16, 3, 1, 1)), 1
    ):
        last = net.conv(f"conv{number}", [last], filters, size, stride=stride, padding=padding, gpu=[0])
        last = net.neuron(f"conv{number}_neuron", last)
        if number < 3:
            last = net.norm(f"rnorm{number}", last, 5, 1e-4, add=2)
        if number not in (3, 4):
            last = net.pool(f"pool{number}", last)
    for number in (6, 7):
        last = net.dropout(f"d{number}", net.neuron(f"r{number}", net.dense(f"fc{number}", [last], 256)), "dropout2")
    return net.end(net.dense("fc8", [last], NUM_CLASSES))


OTHERS: dict[str, tuple[Callable[[], Layers], str]] = {
    "other widths": (changed("conv2", filters=8), "weights or biases of shape"),
    "other borders": (one_gpu, "of variant 'torchvision', but conv1 has padding 0 where the variant has 2"),
    "another activation": (changed("relu2", neuron={"type": "abs", "params": {}}), "its layer relu2 computes abs"),
    "average for maximum": (changed("pool1", pool="avg"), r"file has avg-pooling \(pool1\) where the variant has relu"),
    "other windows": (changed("pool2", sizeX=2), "but pool2 has window 2 where the variant has 3"),
    "random connections": (changed("conv2", randSparse=[True]), "groups of random or unequal channels"),
    "an unknown type": (changed("relu1", type="rgb2yuv"), "its layer relu1 is of type rgb2yuv"),
    "a branch": (changed("conv3", inputs=["relu1", "pool2"]), "not one after the other, nor two columns"),
    "a missing input": (changed("conv3", inputs=["nothing"]), "its layers are conv1 .*, conv2 .*; the closest variant"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_networks_that_no_variant_computes_are_refused_with_the_difference(tmp_path: Path, name: str) -> None:
    make, message = OTHERS[name]
    error = WorkError if name == "other widths" else RequestError
    with pytest.raises(error, match=message) as found:
        read_foreign(write_pickle(make(), tmp_path))
    assert "\n" not in str(found.value) and len(str(found.value)) < 600


def test_columns_that_differ_are_refused(tmp_path: Path) -> None:
    for name, entries, message in (
        ("rnorm2b", {"scale": 1.0}, "rnorm2a and rnorm2b differ"),
        ("conv4b", {"inputs": ["conv3a_neuron"]}, "not one after the other|neither all columns nor only its own"),
        ("conv5b", {"stride": [2]}, "conv5a and conv5b differ"),
    ):
        layers = two_columns()
        layers[name].update(entries)
        with pytest.raises(RequestError, match=message):
            read_foreign(write_pickle(layers, tmp_path))


class Calls:
    """A pickle of it calls a function where it is loaded freely."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("place", ["op", "layers", "weights"])
def test_nothing_in_a_checkpoint_is_run(tmp_path: Path, place: str) -> None:
    witness = tmp_path / "witness"
    call = Calls(os.system, f"touch {witness}")
    content: dict[str, Any] = {"model_state": {"layers": small()}, "op": None}
    if place == "op":
        content["op"] = call
    elif place == "layers":
        content["model_state"]["layers"]["conv1"]["neuron"] = call
    else:
        content["model_state"]["layers"]["conv1"]["weights"] = [call]
    (tmp_path / "1.1").write_bytes(pickle.dumps(content))
    pickle.loads((tmp_path / "1.1").read_bytes())  # it does its work there: the refusal below is no accident
    assert witness.exists()
    witness.unlink()
    with pytest.raises(
        RequestError, match=r"refers to 'posix\.system', which weights do not need; nothing in it was run"
    ):
        read_foreign(tmp_path / "1.1")
    assert not witness.exists()


def test_zips_that_claim_more_than_weights_take_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "1.1", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data", bytes(2**26))
    with pytest.raises(RequestError, match="claims to unpack to 67,108,864 bytes, more than weights do"):
        read_foreign(tmp_path / "1.1")


def test_layers_that_share_their_weights_are_refused_before_they_are_read(tmp_path: Path) -> None:
    layers = two_columns()
    for one in layers.values():
        one.pop("weightsInc", None)
        if one["name"].endswith("b") and "weights" in one:
            of_a = layers[f"{one['name'][:-1]}a"]
            one["weights"], one["biases"] = of_a["weights"], of_a["biases"]
    (tmp_path / "1.1").write_bytes(pickle.dumps({"model_state": {"layers": layers}, "op": None}))
    with pytest.raises(RequestError, match="its layers share weights"):
        read_foreign(tmp_path / "1.1")


def test_other_pickles_are_refused_as_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"layers": np.zeros(3)}))
    with pytest.raises(RequestError, match="is a Python pickle; it is not read, because pickles can run code"):
        read_foreign(tmp_path / "a.pkl")


def test_checkpoints_that_are_cut_short_say_so(tmp_path: Path) -> None:
    path = write_pickle(small(), tmp_path)
    content = path.read_bytes()
    for size in (len(content) - 1, len(content) // 2, 100):
        path.write_bytes(content[:size])
        with pytest.raises(WorkError, match=r"cut short or damaged .*; download or copy it again"):
            read_foreign(path)


def test_the_mean_image_of_the_training_data_is_read(tmp_path: Path) -> None:
    planes = np.random.default_rng(1).uniform(0, 255, (3, 32, 32)).astype(np.float32)
    path = tmp_path / "batches.meta"
    path.write_bytes(python2_pickle({"num_vis": 3072, "data_mean": planes.reshape(-1, 1), "label_names": ["a", "b"]}))
    assert is_pickle(path) and not is_pickle(tmp_path)
    assert np.array_equal(read_batches_meta(path), planes.transpose(1, 2, 0))
    for content, message in (
        ({"label_names": ["a"]}, "without a square mean image"),
        ({"data_mean": np.zeros((3 * 5, 1), np.float32)}, "without a square mean image"),
        ({"data_mean": Calls(os.getcwd)}, "refers to 'posix.getcwd'"),
    ):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(RequestError, match=message):
            read_batches_meta(path)
    path.write_bytes(python2_pickle({"data_mean": planes})[:5000])
    with pytest.raises(WorkError, match="cut short or damaged"):
        read_batches_meta(path)


def test_ten_views_subtract_the_center_of_the_mean_image_as_cuda_convnet_does(tmp_path: Path) -> None:
    net, random = cifar("11pct"), np.random.default_rng(4)
    path = write_pickle(net, tmp_path)
    # Left and right, and the corners, of the mean image differ from its center by 50 and more.
    mean = (120 + 60 * np.linspace(-1, 1, 32)[:, None] * np.ones((1, 32)) + np.arange(32)).astype(np.float32)
    planes = np.stack([mean, mean.T, mean[::-1]])
    meta = tmp_path / "batches.meta"
    meta.write_bytes(python2_pickle({"data_mean": planes.reshape(-1, 1)}))
    names = [f"thing {number}" for number in range(NUM_CLASSES)]
    run = alexnet.import_weights(path, tmp_path / "run", mean=meta, classes=names)
    recipe = run.any_recipe()
    assert isinstance(recipe, ImportRecipe) and recipe.input.mean_at == "center"
    assert recipe.training_recipe().data.mean == "center" and alexnet.load(run).mean_at == "center"
    image = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    found = alexnet.predict(run, image, views=10, top=NUM_CLASSES, precision="float32")[0]
    pixels, center = image.transpose(2, 0, 1).astype(np.float64), planes[:, 4:28, 4:28]
    expected = np.zeros(NUM_CLASSES)
    for row, column in ((0, 0), (0, 8), (4, 4), (8, 0), (8, 8)):
        crop = pixels[:, row : row + 24, column : column + 24]
        for view in (crop, crop[:, :, ::-1]):
            values = np.exp(scores(net, view - center))
            expected += values / values.sum() / 10
    probabilities = {one.name: one.probability for one in found.top}
    np.testing.assert_allclose([probabilities[name] for name in names], expected, atol=2e-4)


@pytest.mark.parametrize("value", [2**2000, 2**60, 1e300, float("nan"), [3] * 100])
def test_settings_that_no_layer_has_are_refused(tmp_path: Path, value: object) -> None:
    for name, key in (("conv1", "imgSize"), ("conv1", "filterSize"), ("pool1", "sizeX"), ("pool2", "stride")):
        layers = small()
        layers[name][key] = value
        path = write_python3(layers, tmp_path)
        with pytest.raises(WorkError, match=rf"its layer {name} has") as found:
            read_foreign(path)
        assert len(str(found.value)) < 400


def test_folders_that_hold_something_else_are_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(RequestError, match="is a folder without checkpoints of cuda-convnet; give weights, such as"):
        read_foreign(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RequestError, match="is a model of another program; give the file of its weights"):
        read_foreign(tmp_path)
    (tmp_path / "weights.safetensors").touch()
    with pytest.raises(RequestError, match="is a run of alexnet already, so there is nothing to import"):
        read_foreign(tmp_path)
