"""Networks of other programs as ours: independent forward passes, shapes that do not fit, classes, means."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.exchange.color_networks import color_weights
from torch.nn import functional

import alexnet
from alexnet.data.dataset import ClassInfo
from alexnet.errors import RequestError
from alexnet.exchange.foreign_network import ForeignLayer, ForeignNetwork, InputConvention
from alexnet.exchange.import_choices import ImportChoices
from alexnet.exchange.weights_import import Conversion, convert
from alexnet.model.layer_specs import sized_layers
from alexnet.model.variants import VARIANTS
from alexnet.runs.import_recipe import ImportedFile

FILE = ImportedFile(name="net.pth", sha256="0" * 64, size_bytes=1, format="a PyTorch file")
IMAGENET_STD = (0.229, 0.224, 0.225)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
CAFFE_BGR_MEAN = (104.00699, 116.66877, 122.67892)


def layers_of(variant: str, width: float, classes: int = 5, seed: int = 0) -> list[ForeignLayer]:
    """Random layers in a variant's shapes, scaled so that activations stay of one size."""
    random = np.random.default_rng(seed)
    layers = []
    for number, one in enumerate(sized_layers(VARIANTS[variant], classes, width)):
        if one.weight_shape:
            weight = random.normal(0, (2 / one.fan_in) ** 0.5, one.weight_shape).astype(np.float32)
            bias = random.normal(0, 0.1, one.bias_shape).astype(np.float32)
            layers.append(
                ForeignLayer(name=f"layer{number}", weight=torch.from_numpy(weight), bias=torch.from_numpy(bias))
            )
    return layers


def foreign(layers: list[ForeignLayer], **more: Any) -> ForeignNetwork:
    return ForeignNetwork(**{"what": "a PyTorch file", "layers": tuple(layers), "variants": (), **more})


def converted(network: ForeignNetwork, **choices: Any) -> Conversion:
    return convert(network, FILE, ImportChoices(**choices))


def photographs(num: int, side: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (num, side, side, 3), dtype=np.uint8)


def scores(conversion: Conversion, images: np.ndarray) -> torch.Tensor:
    """Ours, from pixels, by the public calls."""
    trained = conversion.trained
    with torch.no_grad():
        return trained.network(alexnet.preprocess(list(images), trained))


def parts(layers: list[ForeignLayer]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(one.weight, one.bias) for one in layers]


def torchvision_scores(layers: list[ForeignLayer], images: np.ndarray) -> torch.Tensor:
    """The network as torchvision has it, written out, on 224 pixels of 0..1, normalized."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    x = x[:, :, 16:240, 16:240]
    x = (x - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]
    one, two, three, four, five, six, seven, eight = parts(layers)
    x = functional.max_pool2d(functional.conv2d(x, *one, stride=4, padding=2).relu(), 3, 2)
    x = functional.max_pool2d(functional.conv2d(x, *two, padding=2).relu(), 3, 2)
    x = functional.conv2d(x, *three, padding=1).relu()
    x = functional.conv2d(x, *four, padding=1).relu()
    x = functional.max_pool2d(functional.conv2d(x, *five, padding=1).relu(), 3, 2)
    x = functional.adaptive_avg_pool2d(x, (6, 6)).flatten(1)
    return functional.linear(functional.linear(functional.linear(x, *six).relu(), *seven).relu(), *eight)


def caffe_scores(layers: list[ForeignLayer], images: np.ndarray) -> torch.Tensor:
    """Caffe's bvlc_alexnet on 227 pixels in the order blue, green, red, 0..255 minus the mean color."""
    x = torch.from_numpy(images[..., ::-1].copy()).permute(0, 3, 1, 2).float()[:, :, 14:241, 14:241]
    x = x - torch.tensor(CAFFE_BGR_MEAN)[:, None, None]
    one, two, three, four, five, six, seven, eight = parts(layers)

    def norm(x: torch.Tensor) -> torch.Tensor:
        return functional.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=1.0)

    x = functional.max_pool2d(norm(functional.conv2d(x, *one, stride=4).relu()), 3, 2, ceil_mode=True)
    x = functional.max_pool2d(norm(functional.conv2d(x, *two, padding=2, groups=2).relu()), 3, 2, ceil_mode=True)
    x = functional.conv2d(x, *three, padding=1).relu()
    x = functional.conv2d(x, *four, padding=1, groups=2).relu()
    x = functional.max_pool2d(functional.conv2d(x, *five, padding=1, groups=2).relu(), 3, 2, ceil_mode=True)
    x = x.flatten(1)
    return functional.linear(functional.linear(functional.linear(x, *six).relu(), *seven).relu(), *eight)


def test_torchvisions_network_computes_what_it_did_with_the_same_bits() -> None:
    layers = layers_of("torchvision", 0.05)
    conversion = converted(foreign(layers))
    assert (conversion.recipe.network.variant, conversion.recipe.network.width) == ("torchvision", 0.05)
    assert conversion.recipe.input.scale == "imagenet" and not conversion.recipe.input.scale_in_weights
    state = conversion.trained.network.state_dict()
    for name, one in zip([*state][::2], layers, strict=True):
        assert torch.equal(state[name], one.weight)
    images = photographs(3, 256)
    expected = torchvision_scores(layers, images)
    torch.testing.assert_close(scores(conversion, images), expected, rtol=1e-4, atol=1e-4)


def test_caffes_network_computes_what_it_did_and_only_the_first_layer_turns_its_colors() -> None:
    layers = layers_of("caffe", 0.1)
    conversion = converted(foreign(layers, variants=("caffe", "caffenet")))
    assert conversion.recipe.input.color_order == "bgr" and not conversion.recipe.input.scale_in_weights
    state = conversion.trained.network.state_dict()
    names = [*state][::2]
    assert torch.equal(state[names[0]], layers[0].weight[:, [2, 1, 0]])
    assert all(torch.equal(state[name], one.weight) for name, one in zip(names[1:], layers[1:], strict=True))
    images = photographs(3, 256)
    expected = caffe_scores(layers, images)
    torch.testing.assert_close(scores(conversion, images), expected, rtol=1e-3, atol=1e-3)


ORDERS, SCALES = st.sampled_from(["rgb", "bgr"]), st.sampled_from(["255", "1", "imagenet", "variant"])
MEANS = st.tuples(*[st.floats(0, 255, width=32)] * 3)


@given(
    order=ORDERS,
    scale=SCALES,
    mean=MEANS,
    variant=st.sampled_from(["cifar-four-layer", "caffe", "torchvision", "quick"]),
)
def test_any_reading_of_pixels_gives_the_first_layer_the_same_sums(
    order: Any, scale: Any, mean: tuple[float, float, float], variant: str
) -> None:
    width = 0.125 if variant in ("cifar-four-layer", "quick") else 0.03
    layers = layers_of(variant, width)
    convention = InputConvention(color_order=order, scale=scale, mean=mean)
    trained = converted(foreign(layers, variants=(variant,), convention=convention)).trained
    spec, crop = trained.network.spec, trained.crop
    image = photographs(1, trained.side)[0]
    first = (trained.side - crop) // 2
    pixels = image[first : first + crop, first : first + crop].astype(np.float64)
    divisors = {"255": np.ones(3), "1": np.full(3, 255.0), "imagenet": 255 * np.array(IMAGENET_STD)}
    divisors["variant"] = 1 / np.broadcast_to(np.array(spec.input_scale, np.float64), 3)
    read = (pixels - np.array(mean)) / divisors[scale]
    read = read[..., ::-1] if order == "bgr" else read
    size = layers[0].weight.shape[-1]
    window, weight = read[40 % crop // 4 :][:size, 3 : 3 + size], layers[0].weight.double().numpy()
    expected = np.einsum("hwc,ochw->o", window, weight)
    ours = alexnet.preprocess([image], trained)[0, :, 40 % crop // 4 :][:, :size, 3 : 3 + size].double().numpy()
    factor = np.broadcast_to(np.array(spec.input_scale, np.float64), 3)
    found = np.einsum(
        "chw,ochw->o", ours * factor[:, None, None], trained.network.conv1.weight.detach().double().numpy()
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max() + 1e-6)


def test_the_scale_is_multiplied_in_double_precision_and_rounded_once() -> None:
    layers = layers_of("paper", 0.03)
    convention = InputConvention(color_order="bgr", scale="imagenet", mean=(1, 2, 3))
    conversion = converted(foreign(layers, variants=("paper",), convention=convention))
    assert conversion.recipe.input.scale_in_weights
    weight = layers[0].weight.numpy().astype(np.float64)[:, ::-1]
    factors = [1 / (255 * one) for one in IMAGENET_STD]
    expected = (weight * np.array(factors)[:, None, None]).astype(np.float32)
    assert np.array_equal(conversion.trained.network.conv1.weight.detach().numpy(), expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_state_dict_of_our_own_keeps_its_bits_and_its_colors(variant: str) -> None:
    layers = layers_of(variant, 0.03125)
    conversion = converted(foreign(layers), variant=variant)
    assert not conversion.recipe.input.scale_in_weights and not conversion.is_convention_known
    state = conversion.trained.network.state_dict()
    flip = conversion.recipe.input.color_order == "bgr"  # of Caffe's
    assert flip == (variant in ("caffe", "caffenet"))
    for number, (name, one) in enumerate(zip([*state][::2], layers, strict=True)):
        assert torch.equal(state[name], one.weight.flip(1) if flip and not number else one.weight)
    told = converted(foreign(layers), variant=variant, color_order="rgb").trained.network.state_dict()
    assert all(torch.equal(told[name], one.weight) for name, one in zip([*told][::2], layers, strict=True))
    small = VARIANTS[variant].image_px <= 32
    mean = (125.31, 122.95, 113.87) if small else CAFFE_BGR_MEAN[::-1] if flip else (123.675, 116.28, 103.53)
    assert conversion.recipe.input.mean == pytest.approx(mean, abs=1e-4)


def test_only_variants_with_a_scale_of_their_own_record_it() -> None:
    scales = {one: converted(foreign(layers_of(one, 0.03125)), variant=one).recipe.input.scale for one in VARIANTS}
    assert {one for one, scale in scales.items() if scale == "variant"} == {"quick", "quick-3x3"}
    assert {one for one, scale in scales.items() if scale == "imagenet"} == {"torchvision"}
    named = converted(foreign(TORCHVISION), variant="torchvision", input_scale="variant")
    assert named.recipe.input.scale == "imagenet"


def changed(layers: list[ForeignLayer], number: int, shape: tuple[int, ...]) -> list[ForeignLayer]:
    layers = list(layers)
    layers[number] = replace(layers[number], weight=torch.zeros(shape), bias=torch.zeros(shape[0]))
    return layers


TORCHVISION = layers_of("torchvision", 0.05)
MISFITS: dict[str, tuple[list[ForeignLayer], dict[str, Any], dict[str, Any], str]] = {
    "another variant than asked for": (
        TORCHVISION,
        {},
        {"variant": "caffe"},
        r"variant 'caffe': layer6 has 20 outputs, and conv3 would have 16 at that width; they fit .torchvision.",
    ),
    "another variant than the file says": (
        TORCHVISION,
        {"variants": ("caffe",)},
        {},
        r"not those of variant 'caffe': .*they fit 'torchvision', so choose with --variant",
    ),
    "a variant that computes something else": (
        layers_of("caffe", 0.03125),
        {"variants": ("caffe",)},
        {"variant": "caffenet"},
        "net.pth is a PyTorch file of variant 'caffe', and --variant caffenet would compute something else",
    ),
    "a layer too many": (
        [*TORCHVISION, replace(TORCHVISION[-1], name="extra")],
        {},
        {"variant": "torchvision"},
        r"extra is layer 9 with weights; it has 8; they fit no variant \(paper, original",
    ),
    "a layer of another shape": (
        changed(TORCHVISION, 2, (20, 10, 5, 5)),
        {},
        {"variant": "torchvision"},
        r"layer6 has weights \(20, 10, 5, 5\), and conv3 \(20, 10, 3, 3\); they fit no variant",
    ),
    "a layer of another kind": (
        changed(TORCHVISION, 4, (13, 13)),
        {},
        {"variant": "torchvision"},
        r"layer10 has weights \(13, 13\), and conv5 is a convolution",
    ),
    "no dense layers": (
        TORCHVISION[:5],
        {},
        {"variant": "torchvision"},
        r"it lacks fc6, fc7, fc8; --features-only imports what it has",
    ),
    "no last convolution": (
        TORCHVISION[:4],
        {},
        {"variant": "torchvision", "features_only": True},
        r"it lacks conv5, fc6, fc7, fc8; they fit no variant",
    ),
    "nothing": ([], {}, {}, r"it has no layers with weights; they fit no variant"),
    "one class": (
        changed(TORCHVISION, 7, (1, TORCHVISION[7].weight.shape[1])),
        {},
        {"variant": "torchvision"},
        r"has 1 output; allowed are 2 classes or more",
    ),
    "an unknown variant": (TORCHVISION, {}, {"variant": "vgg"}, r"unknown variant 'vgg'; known are paper"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_layers_that_do_not_fit_are_refused_by_name(name: str) -> None:
    layers, more, choices, message = MISFITS[name]
    with pytest.raises(RequestError, match=message):
        converted(foreign(layers, **more), **choices)


def test_shapes_alone_leave_variants_open_which_the_notes_say() -> None:
    layers = layers_of("paper", 0.03)
    conversion = converted(foreign(layers))
    assert conversion.recipe.network.variant == "paper"
    (note,) = [one for one in conversion.notes if "--variant" in one]
    assert "'original'" in note and "'tanh'" in note
    assert not any("--variant" in one for one in converted(foreign(layers), variant="tanh").notes)


def test_dense_layers_that_the_file_lacks_keep_initial_weights_and_are_named() -> None:
    conversion = converted(foreign(TORCHVISION[:6]), variant="torchvision", features_only=True)
    assert conversion.trained.untrained_layers == conversion.recipe.network.untrained_layers == ("fc7", "fc8")
    state = conversion.trained.network.state_dict()
    assert torch.equal(state["fc6.weight"], TORCHVISION[5].weight)
    initial = alexnet.AlexNet(1000, "torchvision", 0.05, generator=torch.Generator().manual_seed(0)).state_dict()
    assert all(torch.equal(state[f"{name}.weight"], initial[f"{name}.weight"]) for name in ("fc7", "fc8"))


def test_dense_layers_are_dropped_only_if_asked_and_it_is_said() -> None:
    whole = converted(foreign(TORCHVISION), variant="torchvision")
    assert whole.trained.untrained_layers == ()
    dropped = converted(foreign(TORCHVISION), variant="torchvision", features_only=True)
    assert dropped.trained.untrained_layers == ("fc6", "fc7", "fc8") and len(dropped.foreign.layers) == 5
    assert any("dense layers of the file (layer15, layer18, layer20) were left out" in one for one in dropped.notes)


def test_classes_are_the_given_ones_those_of_the_file_ilsvrcs_or_numbers() -> None:
    own = tuple(ClassInfo(f"n{one}", f"name {one}") for one in range(5))
    other = tuple(ClassInfo(f"m{one}", "") for one in range(5))
    network = foreign(TORCHVISION, classes=own)
    assert converted(network).trained.classes == own
    assert converted(network, classes=other, class_list="x").trained.classes == other
    numbered = converted(foreign(TORCHVISION))
    assert [one.name for one in numbered.trained.classes] == [f"class {one}" for one in range(5)]
    assert any("names no classes" in one and "--classes FILE" in one for one in numbered.notes)
    assert not numbered.has_named_classes
    thousand = converted(foreign(layers_of("torchvision", 0.05, classes=1000)))
    assert [thousand.trained.classes[one].id for one in (0, 1, 999)] == ["n01440764", "n01443537", "n15075141"]
    assert thousand.trained.classes[0].name == "tench" and any("ILSVRC-2012" in one for one in thousand.notes)


def test_a_class_list_of_another_length_is_refused_with_the_numbers() -> None:
    classes = tuple(ClassInfo(str(one), str(one)) for one in range(6))
    with pytest.raises(
        RequestError, match=r"the class list x names 6 classes, and the network in net\.pth scores 5; give"
    ):
        converted(foreign(TORCHVISION), classes=classes, class_list="x")


def test_mean_images_decide_the_side_and_must_hold_the_crop() -> None:
    image = np.random.default_rng(0).uniform(0, 255, (240, 240, 3)).astype(np.float32)
    network = foreign(TORCHVISION, variants=("torchvision",), mean_image=image)
    conversion = converted(network)
    assert conversion.trained.side == 240 and conversion.recipe.input.has_mean_image
    assert np.array_equal(conversion.trained.mean_image.numpy(), image)
    given = converted(network, mean_color=(1.0, 2.0, 3.0))
    assert given.trained.side == 256 and torch.equal(given.trained.mean_image[5, 6], torch.tensor([1.0, 2.0, 3.0]))
    assert converted(network, mean_image=image[:230, :230]).trained.side == 230
    with pytest.raises(RequestError, match="the mean image is 240 x 240 x 3, and --side is 256; omit --side"):
        converted(network, side=256)
    with pytest.raises(RequestError, match="--side is 223, and the network reads crops of 224 pixels; allowed is 224"):
        converted(foreign(TORCHVISION), side=223)
    assert converted(foreign(TORCHVISION), side=224).trained.side == 224


@pytest.mark.parametrize(("variant", "width", "side"), [("caffe", 0.03, 256), ("cifar-four-layer", 0.125, 32)])
def test_the_side_follows_from_the_crop(variant: str, width: float, side: int) -> None:
    assert converted(foreign(layers_of(variant, width), variants=(variant,))).trained.side == side


def test_who_says_how_pixels_are_read_is_recorded() -> None:
    assumed = converted(foreign(TORCHVISION), variant="torchvision")
    assert not assumed.is_convention_known and assumed.recipe.input.convention_from == "variant"
    told = converted(foreign(TORCHVISION, convention=InputConvention(color_order="bgr")), variant="torchvision")
    assert told.is_convention_known and told.recipe.input.convention_from == "file"
    given = converted(
        foreign(TORCHVISION), variant="torchvision", color_order="bgr", input_scale="1", mean_color=(0.0, 0.0, 0.0)
    )
    assert given.is_convention_known
    assert (given.recipe.input.convention_from, given.recipe.input.given) == ("options", ())
    part = converted(foreign(TORCHVISION), variant="torchvision", input_scale="1")
    assert (part.recipe.input.convention_from, part.recipe.input.given) == ("variant", ("--input-scale",))


def test_the_network_of_colors_tells_colors() -> None:
    layers = [
        ForeignLayer(name=name, weight=color_weights()[f"{name}.weight"], bias=color_weights()[f"{name}.bias"])
        for name in ("conv1", "conv2", "conv3", "fc4")
    ]
    conversion = converted(foreign(layers, variants=("cifar-four-layer",)), mean_color=(0.0, 0.0, 0.0))
    images = np.zeros((3, 32, 32, 3), np.uint8)
    for color in range(3):
        images[color, ..., color] = 200
    assert scores(conversion, images).argmax(1).tolist() == [0, 1, 2]
