"""Reading Caffe's models: files written by Google's library, other networks, and damaged and hostile files."""

import os
import random
import re
import struct
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tests.exchange.caffe_files import MESSAGES, Layer, alexnet_layers, network, random_weights, write

import alexnet
from alexnet import AlexNet
from alexnet.errors import AlexNetError, RequestError, WorkError
from alexnet.exchange.caffe_model import read_caffe
from alexnet.exchange.foreign_network import CAFFE_CONVENTION, ForeignNetwork
from alexnet.exchange.readers import read_foreign

ORDERS = {"caffe": "norm pool", "caffenet": "pool norm"}
WIDTH, CLASSES = 0.0625, 7
LAYERS = alexnet_layers(width=WIDTH, classes=CLASSES)
WEIGHTS = random_weights(LAYERS)
NARROW = alexnet_layers(width=0.021, classes=2)
"""The smallest network that there is."""
PIXEL_MEAN = np.array([104.0, 117.0, 123.0])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.caffemodel"


def changed(layer: str, given: Mapping[str, Any] | None = None, **settings: Any) -> list[Layer]:
    """The layers with other settings of one."""
    return [
        (name, kind, (dict(given) if given is not None else {**old, **settings}) if name == layer else old)
        for name, kind, old in LAYERS
    ]


def replaced(layer: str, *new: Layer) -> list[Layer]:
    """The layers with one replaced by others."""
    return [one for old in LAYERS for one in (new if old[0] == layer else (old,))]


def require_weights(found: ForeignNetwork, weights: Mapping[str, Any] = WEIGHTS) -> None:
    assert [one.name for one in found.layers] == list(weights)
    for layer in found.layers:
        for tensor, array in zip((layer.weight, layer.bias), weights[layer.name], strict=True):
            assert tensor.dtype == torch.float32 and np.array_equal(tensor.numpy(), array), layer.name


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("form", "how"), [("new", ""), ("new", "double"), ("new", "legacy"), ("v1", ""), ("v0", "")])
@pytest.mark.parametrize("variant", ORDERS)
def test_every_form_of_both_networks_is_read_exactly(
    path: Path, variant: str, form: str, how: str, packed: bool
) -> None:
    layers = alexnet_layers(ORDERS[variant], WIDTH, CLASSES)
    found = read_caffe(write(path, network(layers, WEIGHTS, form, how, packed=packed)))
    require_weights(found)
    assert found.variants == (variant,) and found.what == "a Caffe model (AlexNet)"
    assert (found.convention, found.fit, found.classes) == (CAFFE_CONVENTION, "squash", None)
    (note,) = found.notes
    assert "subtracted a mean image (imagenet_mean.binaryproto), which is not in the file" in note


def caffe_scores(images: np.ndarray, layers: list[Layer], weights: Mapping[str, Any]) -> np.ndarray:
    """What Caffe computes in float64, from its documentation.

    Args:
        images: (B, 3, 227, 227), blue, green, red, mean subtracted.
    """
    x = torch.from_numpy(images)
    for name, kind, given in layers:
        w, b = (torch.from_numpy(one.astype(np.float64)) for one in weights.get(name, (np.zeros(0), np.zeros(0))))
        if kind == "Convolution":
            x = F.conv2d(x, w, b, given.get("stride", 1), given.get("pad", 0), groups=given.get("group", 1))
        elif kind == "InnerProduct":
            x = x.flatten(1) @ w.T + b
        elif kind == "ReLU":
            x = x.clamp(min=0)
        elif kind == "LRN":
            # (1 + alpha / n * sum of the squares of n channels) ^ beta, with zeros beyond the first and the last one.
            squares = F.pad(x.square(), (0, 0, 0, 0, 2, 2))
            x = x / (1 + 1e-4 / 5 * sum(squares[:, i : i + x.shape[1]] for i in range(5))) ** 0.75
        elif kind == "Pooling":
            x = F.max_pool2d(x, 3, 2, ceil_mode=True)
    return x.numpy()


@pytest.mark.parametrize("variant", ORDERS)
def test_an_independent_forward_pass_gives_the_same_scores(path: Path, variant: str) -> None:
    layers = alexnet_layers(ORDERS[variant], WIDTH, CLASSES)
    found = read_caffe(write(path, network(layers, WEIGHTS, "v1")))
    imported = AlexNet(CLASSES, found.variants[0], WIDTH).eval()
    state = {f"{one.name}.{kind}": getattr(one, kind) for one in found.layers for kind in ("weight", "bias")}
    state["conv1.weight"] = state["conv1.weight"].flip(1)  # the file's first layer reads blue first
    imported.load_state_dict(state)
    rgb = np.random.default_rng(3).integers(0, 256, (2, 227, 227, 3)).astype(np.float64)
    want = caffe_scores((rgb[..., ::-1] - PIXEL_MEAN).transpose(0, 3, 1, 2).copy(), layers, WEIGHTS)
    with torch.no_grad():
        got = imported(torch.from_numpy((rgb - PIXEL_MEAN[::-1]).transpose(0, 3, 1, 2)).float()).double().numpy()
    assert np.linalg.norm(got - want) < 1e-5 * np.linalg.norm(want)
    other = caffe_scores((rgb - PIXEL_MEAN[::-1]).transpose(0, 3, 1, 2).copy(), layers, WEIGHTS)
    assert np.linalg.norm(other - want) > 0.05 * np.linalg.norm(want)  # the order of colors matters here


@pytest.mark.parametrize("variant", ORDERS)
def test_an_imported_model_says_of_a_photograph_what_caffe_computes(path: Path, tmp_path: Path, variant: str) -> None:
    layers = alexnet_layers(ORDERS[variant], WIDTH, CLASSES)
    write(path, network(layers, WEIGHTS, "v1"))
    random = np.random.default_rng(5)
    coarse = Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    photograph = coarse.resize((256, 256), Image.Resampling.BICUBIC)
    photograph.save(tmp_path / "photograph.png")
    mean = random.uniform(80, 150, (3, 256, 256)).astype(np.float32)  # blue, green, red
    blob = MESSAGES["BlobProto"](num=1, channels=3, height=256, width=256, data=mean.reshape(-1).tolist())
    write(tmp_path / "mean.binaryproto", blob)
    alexnet.import_weights(path, tmp_path / "run", mean=tmp_path / "mean.binaryproto", progress=False)
    trained = alexnet.load(tmp_path / "run")
    assert trained.network.variant == variant and trained.fit == "squash"
    with torch.no_grad():
        got = trained.network(alexnet.preprocess(tmp_path / "photograph.png", trained)).double().numpy()
    pixels = np.asarray(photograph, np.float64)[..., ::-1].transpose(2, 0, 1) - mean
    want = caffe_scores(pixels[None, :, 14:241, 14:241].copy(), layers, WEIGHTS)
    assert np.linalg.norm(got - want) < 1e-5 * np.linalg.norm(want)


@pytest.mark.parametrize(
    ("layers", "difference"),
    [
        (changed("conv2", group=1), "conv2 has group 1, where conv2 of variant 'caffe' has 2"),
        (changed("conv1", stride=2), "conv1 has stride 2 x 2, where conv1 of variant 'caffe' has 4 x 4"),
        (changed("conv1", pad=2), "conv1 has pad 2 x 2, where conv1 of variant 'caffe' has 0 x 0"),
        (changed("conv3", kernel_size=[3, 5]), "conv3 has kernel_size 3 x 5"),
        (changed("conv3", pad_h=1, pad_w=0), "conv3 has pad 1 x 0"),
        (changed("conv3", dilation=2), "conv3 has dilation 2 x 2"),
        (changed("conv3", bias_term=False), "conv3 has bias_term 0"),
        (changed("fc6", transpose=True), "fc6 has transpose 1"),
        (changed("fc6", axis=2), "fc6 has axis 2"),
        (changed("norm1", k=2.0), "norm1 has k 2, where norm1 of variant 'caffe' has 1"),
        (changed("norm2", norm_region=1), "norm2 has norm_region WITHIN_CHANNEL, where norm2 of"),
        (changed("norm2", alpha=5e-4), "norm2 has alpha 0.0005"),
        (changed("norm2", beta=0.5), "norm2 has beta 0.5"),
        (changed("norm2", local_size=3), "norm2 has local_size 3"),
        (changed("norm2", {}), "norm2 has alpha 1"),
        (changed("pool1", pool=1), "pool1 has pool AVE, where pool1 of variant 'caffe' has MAX"),
        (changed("pool5", kernel_size=2), "pool5 has kernel_size 2 x 2"),
        (changed("pool5", kernel_h=3, kernel_w=2), "pool5 has kernel_size 3 x 2"),
        (changed("pool5", global_pooling=True), "pool5 has global_pooling 1"),
        (changed("relu3", negative_slope=0.1), "relu3 has negative_slope 0.1"),
        (replaced("relu1", ("bn1", "BatchNorm", {}), ("relu1", "ReLU", {})), "bn1 is BatchNorm, where"),
        (replaced("relu1", ("prelu1", "PReLU", {})), "prelu1 is PReLU, where variant 'caffe' has relu1"),
        (replaced("norm2"), "pool2 is Pooling, where variant 'caffe' has norm2"),
        (replaced("norm1", ("norm1", "Concat", {})), "norm1 is Concat"),
        (replaced("fc8", ("fc8", "InnerProduct", {"num_output": 7}), ("fc9", "InnerProduct", {"num_output": 7})),
         "comes after the last layer"),
        (LAYERS[:10], "it ends before"),
        (replaced("fc6", ("prob6", "Softmax", {}), ("fc6", "InnerProduct", {"num_output": 256})), "prob6 is Softmax"),
    ],
)  # fmt: skip
def test_another_network_is_refused_with_the_first_difference(path: Path, layers: list[Layer], difference: str) -> None:
    write(path, network(layers, random_weights(LAYERS)))
    with pytest.raises(RequestError, match=re.escape(difference)) as refused:
        read_caffe(path)
    assert str(refused.value).startswith(f"{path} is a Caffe model (AlexNet) of another network than")


def test_published_networks_of_others_are_refused(path: Path) -> None:
    vgg: list[Layer] = [
        ("data", "Data", {}), ("conv1_1", "Convolution", {"num_output": 64, "kernel_size": 3, "pad": 1}),
        ("relu1_1", "ReLU", {}), ("conv1_2", "Convolution", {"num_output": 64, "kernel_size": 3, "pad": 1}),
    ]  # fmt: skip
    write(path, network(vgg, random_weights(vgg), "v1", name="VGG_ILSVRC_16_layers"))
    with pytest.raises(
        RequestError, match=r"\(VGG_ILSVRC_16_layers\) of another network .*conv1_1 has kernel_size 3 x 3"
    ):
        read_caffe(path)
    lenet: list[Layer] = [("conv1", "Convolution", {"num_output": 20, "kernel_size": 5})]
    write(path, network(lenet, random_weights(lenet), name="LeNet"))
    with pytest.raises(RequestError, match=r"conv1 has kernel_size 5 x 5, where conv1 of variant 'caffe' has 11 x 11"):
        read_caffe(path)


def test_a_network_that_branches_is_refused(path: Path) -> None:
    net = network(LAYERS, WEIGHTS)
    fc8 = next(one for one in net.layer if one.name == "fc8")
    fc8.bottom[:] = ["fc6"]
    with pytest.raises(RequestError, match="fc8 reads fc6, which is not the output of the layer before it"):
        read_caffe(write(path, net))


def test_what_computes_nothing_in_testing_is_left_out(path: Path) -> None:
    fc6 = next(one for one in LAYERS if one[0] == "fc6")
    net = network(replaced("fc6", ("flat6", "Flatten", {}), fc6), WEIGHTS)
    net.layer.add(name="label_split", type="Split", bottom=["label"], top=["label_a", "label_b"])
    net.layer.add(name="accuracy", type="Accuracy", bottom=["fc8", "label_a"], top=["accuracy"])
    net.layer.add(name="quiet", type="Silence", bottom=["label_b"])
    require_weights(read_caffe(write(path, net)))


@pytest.mark.parametrize("form", ["new", "v1"])
@pytest.mark.parametrize("stripped", ["only layers with weights", "no settings", "names and arrays"])
def test_without_settings_the_shapes_decide_and_a_note_says_so(path: Path, form: str, stripped: str) -> None:
    net = network(LAYERS, WEIGHTS, form)
    layers = net.layer if form == "new" else net.layers
    for number in reversed(range(len(layers))):
        if stripped != "no settings" and not layers[number].blobs:
            del layers[number]
            continue
        for name in ("convolution_param", "inner_product_param", "transform_param"):
            if stripped != "only layers with weights":
                layers[number].ClearField(name)
        if stripped == "names and arrays":
            for name in ("type", "bottom", "top"):
                layers[number].ClearField(name)
    found = read_caffe(write(path, net))
    require_weights(found)
    assert found.variants == (("caffe",) if stripped == "no settings" else ("caffe", "caffenet"))
    assert any("those of variant 'caffe' were assumed" in note for note in found.notes)
    net.name = "CaffeNet"
    if stripped != "no settings":
        assert read_caffe(write(path, net)).variants == ("caffenet", "caffe")


def test_a_network_without_its_last_layers_is_read(path: Path) -> None:
    last = [name for name, *_ in LAYERS].index("pool5")
    for end, names in ((last + 1, ["conv5"]), (last, ["conv5"]), (-2, ["fc6", "fc7"])):
        found = read_caffe(write(path, network(LAYERS[:end], WEIGHTS)))
        assert found.layers[-1].name == names[-1] and f"no weights after {names[-1]}" in found.notes[0]
        require_weights(found, {one.name: WEIGHTS[one.name] for one in found.layers})


@pytest.mark.parametrize(
    ("given", "mean", "scale", "note"),
    [
        ({"mean_value": [104.0, 117.0, 123.0], "crop_size": 227}, (123, 117, 104), "255", None),
        ({"mean_value": [128.0]}, (128, 128, 128), "255", None),
        ({"scale": 0.00390625, "mean_value": [1.0, 2.0, 3.0]}, (3, 2, 1), "1", None),
        ({"scale": 0.017, "mean_value": [1.0, 2.0, 3.0]}, (3, 2, 1), "255", "multiplied pixels by 0.017, which was"),
        ({"crop_size": 224, "mean_value": [0.0]}, (0, 0, 0), "255", "crops of 224 pixels, and gets crops of 227"),
        ({"crop_size": 0, "mean_value": [255.0]}, (255, 255, 255), "255", None),
        ({"mean_value": [1e30, 1.0, 1.0]}, CAFFE_CONVENTION.mean, "255", "subtracted 1e+30, 1, 1, which is not"),
        ({"mean_value": [-500.0]}, CAFFE_CONVENTION.mean, "255", "subtracted -500, which is not a color of 0..255"),
        ({"mean_value": [float("nan")] * 3}, CAFFE_CONVENTION.mean, "255", "subtracted nan, nan, nan, which is not a"),
        ({"mean_value": [104.0, 117.0]}, CAFFE_CONVENTION.mean, "255", "subtracted 104, 117, which is not a color"),
        ({"mean_value": [9.0] * 4}, CAFFE_CONVENTION.mean, "255", "Without `--mean FILE.binaryproto`, the mean"),
        ({"scale": float("nan"), "mean_value": [9.0]}, (9, 9, 9), "255", "multiplied pixels by nan, which was ignored"),
        ({}, CAFFE_CONVENTION.mean, "255", None),
    ],
)  # fmt: skip
def test_the_data_layer_says_how_pixels_are_read(
    path: Path, given: dict[str, Any], mean: tuple[float, ...], scale: str, note: str | None
) -> None:
    found = read_caffe(write(path, network(changed("data", given), WEIGHTS)))
    assert found.convention is not None
    assert (found.convention.color_order, found.convention.scale, found.convention.mean) == ("bgr", scale, mean)
    assert len(found.notes) == (note is not None) and (note or "") in "".join(found.notes)


def test_a_packed_field_without_numbers_is_not_given(path: Path) -> None:
    """Of every setting, also of those that are used where a layer does not give them."""
    sound = network(changed("data", {}), WEIGHTS).SerializeToString()
    numbers = {1: "scale", 3: "crop_size", 4: "mean_file", 5: "mean_value"}
    for number in numbers:
        path.write_bytes(sound + enclosed(100, enclosed(2, b"Data") + enclosed(100, enclosed(number, b""))))
        found = read_caffe(path)
        assert (found.convention, found.notes) == (CAFFE_CONVENTION, ())
    net = network(changed("data", {}), WEIGHTS)
    for layer in net.layer:
        if parameter := {"Convolution": 106, "InnerProduct": 117, "LRN": 118, "Pooling": 121, "ReLU": 123}.get(
            layer.type
        ):
            layer.MergeFromString(enclosed(parameter, b"".join(enclosed(number, b"") for number in range(1, 20))))
    require_weights(read_caffe(write(path, net)))


def test_a_data_layer_that_says_nothing_does_not_hide_the_next(path: Path) -> None:
    net = network([("empty", "Data", {}), *changed("data", {"mean_value": [1.0, 2.0, 3.0]})], WEIGHTS)
    net.layer[0].transform_param.mirror = True
    found = read_caffe(write(path, net)).convention
    assert found is not None and found.mean == (3, 2, 1)


def with_blob(change: Callable[[Any], None], layer: str = "conv3", number: int = 0) -> Any:
    net = network(LAYERS, WEIGHTS)
    change(next(one for one in net.layer if one.name == layer).blobs[number])
    return net


def test_shapes_that_do_not_fit_are_refused(path: Path) -> None:
    def set_shape(*dims: int) -> Callable[[Any], None]:
        return lambda blob: blob.shape.dim.__setitem__(slice(None), dims)

    def legacy(*dims: int) -> Callable[[Any], None]:
        return lambda blob: [setattr(blob, name, dim) for name, dim in zip(("num", "channels", "height"), dims)]  # noqa: B905

    claims = [
        set_shape(25, 16, 3, 3), set_shape(1 << 62, 1 << 62), set_shape(-24, 16, 3, 3), set_shape(0), set_shape(),
        legacy(1 << 30, 1 << 30, 1), legacy(-1),
    ]  # fmt: skip
    for claim in claims:
        with pytest.raises(WorkError, match=r"the array at byte [\d,]+ is .*, but has 3,456 numbers\); download"):
            read_caffe(write(path, with_blob(claim)))
    with pytest.raises(RequestError, match=r"weights of conv3 are 16 x 24 x 3 x 3, where N x 16 x 3 x 3 would fit"):
        read_caffe(write(path, with_blob(set_shape(16, 24, 3, 3))))
    with pytest.raises(WorkError, match="more than 32 dimensions"):
        read_caffe(write(path, with_blob(set_shape(*[1] * 40))))
    with pytest.raises(RequestError, match=r"biases of conv3 are 1 x 24; expected are 24, as its outputs"):
        read_caffe(write(path, with_blob(set_shape(1, 24), number=1)))
    with pytest.raises(RequestError, match=r"weights of fc6 are .*, where N x 576 would fit the layers before it"):
        weights = WEIGHTS | {"fc6": (np.zeros((256, 500), np.float32), WEIGHTS["fc6"][1])}
        read_caffe(write(path, network(LAYERS, weights)))
    net = network(LAYERS, WEIGHTS)
    next(one for one in net.layer if one.name == "fc7").blobs.pop()
    with pytest.raises(RequestError, match="fc7 has no biases; expected are an array of weights and one of biases"):
        read_caffe(write(path, net))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300])
def test_weights_that_are_not_finite_are_refused(path: Path, value: float) -> None:
    def spoil(blob: Any) -> None:
        if value == 1e300:  # beyond float32
            blob.double_data.extend(blob.data)
            blob.ClearField("data")
        numbers = blob.double_data if value == 1e300 else blob.data
        for at in (0, 7, len(numbers) - 1):
            numbers[at] = value

    write(path, with_blob(spoil))
    with pytest.raises(RequestError, match="3 of the 3,456 weights of conv3 are not finite"):
        read_foreign(path)
    write(path, with_blob(lambda blob: blob.data.__setitem__(3, float("nan")), "fc8", 1))
    with pytest.raises(RequestError, match="1 of the 7 biases of fc8 are not finite"):
        read_foreign(path)


SOLVER_STATE = MESSAGES["SolverState"](iter=3, learned_net="x", history=[MESSAGES["BlobProto"](data=[1.0])])
PROTOTXT = b'name: "AlexNet"\nlayer {\n  name: "data"\n  type: "Input"\n}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; download or copy it again"),
        (b"<!DOCTYPE html>\n<html><body>404</body></html>", "is a web page, not weights"),
        (PROTOTXT, r"is a description in text \(.prototxt\), without weights; give the .caffemodel"),
        (b'net: "train_val.prototxt"\nbase_lr: 0.01\n', r"is a description in text \(.prototxt\)"),
        (b"some notes\n", "is a text file, not weights; give the .caffemodel"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), r"is a Caffe model in HDF5, which is not read; load it in Caffe"),
        (bytes(4096), r"is not a Caffe model \(it begins with 00 00"),
        (b"PK\x03\x04" + bytes(range(256)), "is not a Caffe model"),
        (b"\x80\x02}q\x00X\x05\x00\x00\x00", "is not a Caffe model"),
        (SOLVER_STATE.SerializeToString(), r"is the state of Caffe's solver \(.solverstate\)"),
        (MESSAGES["BlobProto"](num=1, channels=3, height=2, width=2, data=[0.0] * 12).SerializeToString(),
         r"is one array, such as a mean image \(.binaryproto\)"),
        (MESSAGES["NetParameter"](name="empty\x00").SerializeToString(), r"is a Caffe model \(empty\ufffd\) without"),
        (network(LAYERS, {}).SerializeToString(), r"is a Caffe model \(AlexNet\) without weights"),
    ],
)  # fmt: skip
def test_other_files_are_named(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(RequestError, match=message) as refused:
        read_caffe(path)
    assert str(refused.value).startswith(str(path)) and "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["weights.bin", "net.caffemodel"])
@pytest.mark.parametrize("form", ["new", "v1"])
def test_read_foreign_knows_a_model_by_its_content_or_by_its_name(tmp_path: Path, name: str, form: str) -> None:
    net = network(LAYERS, WEIGHTS, form)
    require_weights(read_foreign(write(tmp_path / name, net)))
    if name == "net.caffemodel":
        net.ClearField("name")
        require_weights(read_foreign(write(tmp_path / name, net)))
    (tmp_path / name).write_bytes(PROTOTXT)
    with pytest.raises(RequestError, match="is a description in text" if "caffe" in name else "is a text file"):
        read_foreign(tmp_path / name)


def test_files_that_cannot_be_opened_are_said(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"nothing does not exist; give a .caffemodel"):
        read_caffe(tmp_path / "nothing")
    with pytest.raises(RequestError, match="is not a regular file; give a"):
        read_caffe(tmp_path)


def test_a_file_that_is_cut_short_is_damaged_wherever_it_ends(path: Path) -> None:
    content = network(NARROW, random_weights(NARROW)).SerializeToString()
    chance = random.Random(1)
    for at in [*range(1, 40), *(chance.randrange(40, len(content)) for _ in range(80)), len(content) - 1]:
        path.write_bytes(content[:at])
        try:
            read_caffe(path)
        except WorkError as error:
            assert "is damaged (or cut short: " in str(error) and "download or copy it again" in str(error)
        except RequestError as error:
            # At the end of a field, what is left is a file without layers or weights, or without the last layers.
            assert re.search("without (layers|weights)|it ends before|is not a Caffe|text", str(error)), str(error)


@pytest.mark.parametrize(
    "content",
    [
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f" + b"x\x00" * 40,  # a name of 2^63 - 1 bytes
        b"\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01" + b"x\x00" * 40,  # of 2^63
        b"\xa2\x06\xff\xff\xff\xff\x0f" + b"x\x00" * 40,  # a layer of 4 GiB
        b"\x0a\x02ab\x0b" + bytes(50),  # a group
        b"\x0a\x02ab\xa2\x06\x04\x3a\x7f\x00\x00",  # an array longer than its layer
        b"\x0a\x02ab" + b"\xff" * 11,  # an integer of more than 64 bits
        b"\x0a\x02ab\x07\x00\x00",  # a wire type that does not exist
        b"\x0a\x02ab\x00\x00\x00",  # a field of number 0
    ],
)
def test_lies_about_lengths_are_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(WorkError, match=r"is damaged \(or cut short: .*byte"):
            read_caffe(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def peak_bytes(path: Path) -> int:
    """Memory that reading takes, the mapped file aside."""
    tracemalloc.start()
    try:
        read_caffe(path)
    except AlexNetError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


def test_memory_is_that_of_the_weights(path: Path) -> None:
    layers = alexnet_layers(width=0.25, classes=1000)
    for packed in (True, False):
        write(path, network(layers, random_weights(layers), packed=packed))
        assert 14e6 < peak_bytes(path) < path.stat().st_size + (4 << 20)


def varint(value: int) -> bytes:
    return bytes([value & 0x7F | 0x80]) + varint(value >> 7) if value > 0x7F else bytes([value])


def enclosed(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


@pytest.mark.parametrize(
    "content",
    [
        enclosed(100, b"") * 20_000,
        enclosed(100, enclosed(7, b"") * 20_000),
        enclosed(100, enclosed(1, b"conv1") + enclosed(7, enclosed(5, struct.pack("<f", 1)) * 20_000)),
        enclosed(100, enclosed(106, b"\x18\x01" * 20_000)),
        enclosed(100, enclosed(106, enclosed(3, b"\x01" * 200_000))),
        enclosed(100, enclosed(7, enclosed(7, enclosed(1, b"\x01" * 200_000)))),
        enclosed(100, enclosed(3, b"x" * 100) * 5_000),
        enclosed(1, b"x" * 400_000) + enclosed(100, b""),
    ],
)
def test_many_small_parts_take_no_memory(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert peak_bytes(path) < len(content) + (2 << 20)


def mutated(content: bytes, chance: random.Random) -> bytes:
    changed, at = bytearray(content), chance.randrange(len(content))
    if chance.random() < 0.5:
        at = min(at, chance.randrange(3000))  # most of the structure is at the beginning, and before each array
    match chance.randrange(7):
        case 0 | 1:
            changed[at] ^= 1 << chance.randrange(8)
        case 2:
            changed[at : at + chance.randrange(1, 9)] = chance.randbytes(chance.randrange(9))
        case 3:
            del changed[at:]
        case 4:
            changed[at:at] = chance.choice((b"\xff" * 10, b"\x80" * 20, b"\x0b\x0c", chance.randbytes(5)))
        case 5:
            first = chance.randrange(len(content))
            changed[at:at] = content[first : first + chance.randrange(1, 3000)]
        case 6:
            changed[at : at + 4] = chance.choice((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\xff", bytes(4)))
    return bytes(changed)


def every_setting(layers: list[Layer]) -> list[Layer]:
    """The same network, with all that its layers may say."""
    more: dict[str, dict[str, Any]] = {
        "Data": {"scale": 0.00390625, "mirror": True, "mean_value": [104.0, 117.0, 123.0]},
        "Convolution": {"bias_term": True, "dilation": [1, 1]},
        "InnerProduct": {"bias_term": True, "axis": 1, "transpose": False},
        "LRN": {"k": 1.0, "norm_region": 0},
        "Pooling": {"pad": 0, "global_pooling": False},
        "ReLU": {"negative_slope": 0.0},
    }
    by_side = {"pad": ("pad_h", "pad_w"), "kernel_size": ("kernel_h", "kernel_w"), "stride": ("stride_h", "stride_w")}
    found: list[Layer] = []
    for name, kind, given in layers:
        settings = {**given, **more.get(kind, {})}
        if kind == "Convolution" or name == "pool5":
            for setting, sides in by_side.items():
                if (value := settings.pop(setting, None)) is not None:
                    settings |= dict.fromkeys(sides, value)
        found.append((name, kind, {setting: one for setting, one in settings.items() if setting != "pad_h" or one}))
    return found


def test_every_setting_is_read(path: Path) -> None:
    for form in ("new", "v1"):
        found = read_caffe(write(path, network(every_setting(LAYERS), WEIGHTS, form)))
        require_weights(found)
        assert found.convention is not None
        assert (found.convention.mean, found.convention.scale) == ((123, 117, 104), "1") and not found.notes


def read_mutants(path: Path, num: int) -> None:
    forms = [("new", "", True), ("v1", "", True), ("v0", "", True), ("new", "double", True), ("v1", "", False)]
    weights = random_weights(NARROW)
    sound = [network(NARROW, weights, form, how, packed=packed).SerializeToString() for form, how, packed in forms]
    sound += [network(every_setting(NARROW), weights, form).SerializeToString() for form in ("new", "v1")]
    counts = {"read": 0, "refused": 0, "damaged": 0}
    for number in range(num):
        chance = random.Random(number)
        content = mutated(sound[number % len(sound)], chance)
        path.write_bytes(content)
        try:
            found = read_foreign(path)
            assert sum(one.weight.numel() + one.bias.numel() for one in found.layers) * 4 <= len(content)
            assert all(one.weight.isfinite().all() and one.bias.isfinite().all() for one in found.layers)
            counts["read"] += 1
        except AlexNetError as error:
            assert str(path) in str(error) and "\n" not in str(error) and str(error).isprintable()
            counts["damaged" if isinstance(error, WorkError) else "refused"] += 1
    print(counts)
    assert min(counts.values()) > num // 50


def test_mutated_files_end_in_weights_or_a_message(path: Path) -> None:
    read_mutants(path, 300)


@pytest.mark.slow
def test_thousands_of_mutated_files_end_in_weights_or_a_message(path: Path) -> None:
    read_mutants(path, 2_000 if os.environ.get("CI") else 10_000)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["new", "v1"])
def test_the_published_size(path: Path, form: str) -> None:
    layers = alexnet_layers()
    weights = random_weights(layers)
    write(path, network(layers, weights, form))
    assert sum(w.size + b.size for w, b in weights.values()) == 60_965_224
    assert peak_bytes(path) < os.stat(path).st_size + (80 << 20)
    require_weights(read_caffe(path), weights)
