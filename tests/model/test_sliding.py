"""Sliding equals the network itself: at the crop's size, and crop by crop if nothing is padded."""

import math

import pytest
import torch

from alexnet.errors import RequestError
from alexnet.model.layer_specs import (
    Convolution,
    Dense,
    Dropout,
    Flatten,
    MaxPool,
    NetworkSpec,
    ReLU,
    ResponseNorm,
)
from alexnet.model.network import AlexNet
from alexnet.model.sliding import class_maps
from alexnet.model.variants import VARIANTS

UNPADDED = NetworkSpec(
    source="here: no layer sees an edge, so that sliding is exactly its crops, 4 pixels apart",
    image_px=19,
    input_scale=(0.02, 0.03, 0.01),
    layers=(
        Convolution(name="conv1", out_channels=8, kernel=3, stride=2, init_std=None, bias=0),  # 19 -> 9
        ReLU(),
        ResponseNorm(size=3, alpha=0.1, beta=0.75, k=2),
        MaxPool(size=3, stride=2),  # 9 -> 4
        Convolution(name="conv2", out_channels=6, kernel=3, columns=2, init_std=None, bias=0),  # 4 -> 2
        ReLU(),
        Flatten(),
        Dropout("drop3", inverted=True),
        Dense(name="fc3", units=10, init_std=None, bias=0.1),
        ReLU(),
        Dropout("drop4"),
        Dense(name="fc4", units=None, init_std=None, bias=0),
    ),
)


def sliding_network(variant: str, width: float = 1.0) -> AlexNet:
    """A network with larger initial weights: with the published ones all scores are nearly equal."""
    network = AlexNet(5, variant, width).eval()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for layer in network.sized_layers:
            if layer.weight_shape:
                spread = math.sqrt(2 / layer.fan_in)
                network.get_parameter(f"{layer.name}.weight").normal_(0, spread, generator=generator)
    return network


def pictures(num: int, rows: int, columns: int) -> torch.Tensor:
    return 60 * torch.randn(num, 3, rows, columns, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    ("variant", "width"),
    [
        ("paper", 0.125), ("original", 0.125), ("caffe", 0.125), ("caffenet", 0.125), ("torchvision", 0.125),
        ("quick", 0.25), ("no-communication", 0.0625), ("cifar-18pct", 0.5),
    ],
)  # fmt: skip
def test_at_the_crops_size_it_is_the_network(variant: str, width: float) -> None:
    network = sliding_network(variant, width)
    side = network.spec.image_px
    images = pictures(2, side, side)
    with torch.inference_mode():
        maps, scores = class_maps(network, images), network(images)
    assert maps.shape == (2, 5, 1, 1)
    torch.testing.assert_close(maps[:, :, 0, 0], scores)
    assert not torch.allclose(scores[0], scores[1], rtol=1e-3)


@pytest.mark.parametrize(("rows", "columns"), [(19, 27), (31, 23)])
def test_without_padding_it_is_the_crops(rows: int, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VARIANTS, "unpadded", UNPADDED)
    network = sliding_network("unpadded").double()
    images = pictures(3, rows, columns).double()
    with torch.inference_mode():
        maps = class_maps(network, images)
        assert maps.shape == (3, 5, (rows - 19) // 4 + 1, (columns - 19) // 4 + 1)
        for row in range(maps.shape[2]):
            for column in range(maps.shape[3]):
                crop = images[:, :, 4 * row : 4 * row + 19, 4 * column : 4 * column + 19]
                torch.testing.assert_close(maps[:, :, row, column], network(crop))
    assert maps.std(dim=(2, 3)).min() > 1e-3  # the positions do differ


def test_the_papers_images_give_two_positions_a_side() -> None:
    network = sliding_network("paper", 0.0625)
    with torch.inference_mode():
        maps = class_maps(network, pictures(1, 256, 256))
    assert maps.shape == (1, 5, 2, 2)


@pytest.mark.parametrize("variant", ["cifar-13pct", "cifar-11pct"])
def test_locally_connected_layers_cannot_slide(variant: str) -> None:
    with pytest.raises(RequestError, match=f"variant '{variant}' has locally connected layers"):
        class_maps(AlexNet(2, variant, 0.125), torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(1, 3, 27, 32),
        torch.zeros(1, 1, 32, 32),
        torch.zeros(3, 32, 32),
        torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
    ],
)
def test_wrong_images_are_refused(images: torch.Tensor) -> None:
    with pytest.raises(RequestError, match=r"'quick' slides over floating point \(B, 3, H, W\), H and W 28 or more"):
        class_maps(AlexNet(2, "quick", 0.125), images)
