"""The whole network against a float64 NumPy computation, and its published counts."""

import math

import numpy as np
import pytest
import torch

from alexnet import AlexNet
from alexnet.model.network import VARIANTS, Convolution, Dense

Array = np.ndarray


def test_counts_of_the_paper() -> None:
    with torch.device("meta"):
        network = AlexNet()
    shapes = {name: tuple(tensor.shape) for name, tensor in network.named_parameters()}
    names = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
    assert [shapes[f"{name}.weight"] for name in names] == [
        (96, 3, 11, 11), (256, 48, 5, 5), (384, 256, 3, 3), (384, 192, 3, 3), (256, 192, 3, 3),
        (4096, 9216), (4096, 4096), (1000, 4096),
    ]  # fmt: skip
    assert sum(math.prod(shape) for shape in shapes.values()) == 60_965_224
    assert sum(math.prod(shape) for name, shape in shapes.items() if name.startswith("conv")) == 2_334_080
    assert network(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 1000)


def test_first_biases_are_the_papers() -> None:
    network = AlexNet(10, width=0.05)
    ones = {name for name, tensor in network.named_parameters() if name.endswith("bias") and (tensor == 1).all()}
    zeros = {name for name, tensor in network.named_parameters() if name.endswith("bias") and (tensor == 0).all()}
    assert ones == {"conv2.bias", "conv4.bias", "conv5.bias", "fc6.bias", "fc7.bias"}
    assert zeros == {"conv1.bias", "conv3.bias", "fc8.bias"}


def convolve(x: Array, weight: Array, bias: Array, stride: int, padding: int, end: int, columns: int) -> Array:
    """Section 3.5 by explicit windows: x (C, H, W), weight (F, C / columns, k, k)."""
    x = np.pad(x, ((0, 0), (padding, padding + end), (padding, padding + end)))
    kernel = weight.shape[-1]
    side = (x.shape[1] - kernel) // stride + 1
    windows = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), (1, 2))[
        :, ::stride, ::stride
    ]  # (C, H', W', k, k)
    assert windows.shape[1] == side
    halves = zip(np.split(windows, columns), np.split(weight, columns), strict=True)
    return (
        np.concatenate([np.einsum("chwij,fcij->fhw", part, filters) for part, filters in halves]) + bias[:, None, None]
    )


def normalise(x: Array, columns: int) -> Array:
    per_column = len(x) // columns
    result = np.empty_like(x)
    for i in range(len(x)):
        first = i // per_column * per_column
        window = x[max(first, i - 2) : min(first + per_column, i + 3)]
        result[i] = x[i] / (2 + 1e-4 * (window**2).sum(0)) ** 0.75
    return result


def pool(x: Array) -> Array:
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))[:, ::2, ::2]
    return windows.max(axis=(3, 4))


def papers_scores(x: Array, p: dict[str, Array]) -> Array:
    """The paper's section 3.5 for one image (3, 224, 224), testing: dropout multiplies by one half."""
    h = pool(normalise(np.maximum(convolve(x, p["conv1.weight"], p["conv1.bias"], 4, 0, 3, 1), 0), 2))
    h = pool(normalise(np.maximum(convolve(h, p["conv2.weight"], p["conv2.bias"], 1, 2, 0, 2), 0), 2))
    h = np.maximum(convolve(h, p["conv3.weight"], p["conv3.bias"], 1, 1, 0, 1), 0)
    h = np.maximum(convolve(h, p["conv4.weight"], p["conv4.bias"], 1, 1, 0, 2), 0)
    h = pool(np.maximum(convolve(h, p["conv5.weight"], p["conv5.bias"], 1, 1, 0, 2), 0))
    h = h.reshape(-1)
    for name in ("fc6", "fc7"):
        h = np.maximum(p[f"{name}.weight"] @ h + p[f"{name}.bias"], 0) * 0.5
    return p["fc8.weight"] @ h + p["fc8.bias"]


def test_scores_equal_the_numpy_network() -> None:
    network = AlexNet(7, width=0.05, generator=torch.Generator().manual_seed(4)).double().eval()
    for tensor in network.parameters():  # large enough for every layer to matter, normalisation included
        tensor.data.mul_(4)
    images = np.random.default_rng(0).uniform(-120, 130, (2, 3, 224, 224))
    parameters = {name: tensor.detach().numpy() for name, tensor in network.named_parameters()}
    want = np.stack([papers_scores(image, parameters) for image in images])
    with torch.no_grad():
        got = network(torch.from_numpy(images)).numpy()
        single = network.float()(torch.from_numpy(images).float()).numpy()
    assert np.linalg.norm(got - want) < 1e-10 * np.linalg.norm(want)
    assert np.linalg.norm(single - want) < 1e-5 * np.linalg.norm(want)


def test_columns_do_not_see_each_other_before_conv3() -> None:
    network = AlexNet(5, width=0.1).double()
    x = torch.randn(1, 10, 27, 27, dtype=torch.float64, requires_grad=True)  # conv1 has 10 maps at this width
    out = network.get_submodule("conv2")(x)
    out[:, : out.shape[1] // 2].sum().backward()
    assert x.grad is not None
    assert x.grad[:, :5].abs().sum() > 0 and x.grad[:, 5:].abs().sum() == 0


def test_quick_takes_its_crop_and_names_its_layers() -> None:
    network = AlexNet(10, "quick", width=0.25)
    assert network(torch.zeros(3, 3, 28, 28)).shape == (3, 10)
    assert {name.split(".")[0] for name, _ in network.named_parameters()} == {"conv1", "conv2", "conv3", "conv4", "fc5"}


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_layer_names_are_unique_and_end_in_classes(variant: str) -> None:
    named = [layer for layer in VARIANTS[variant].layers if isinstance(layer, Convolution | Dense)]
    assert len({layer.name for layer in named}) == len(named)
    assert isinstance(named[-1], Dense) and named[-1].units is None


def test_same_seed_same_weights() -> None:
    first, second = (AlexNet(5, "quick", 0.25, generator=torch.Generator().manual_seed(9)) for _ in range(2))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            torch.zeros(1, 3, 227, 227),
            r"takes floating point \(B, 3, 224, 224\).*got torch.float32 of shape \(1, 3, 227, 227\)",
        ),
        (torch.zeros(1, 1, 224, 224), r"shape \(1, 1, 224, 224\)"),
        (torch.zeros(3, 224, 224), r"shape \(3, 224, 224\)"),
        (torch.zeros(1, 3, 224, 224, dtype=torch.uint8), "got torch.uint8"),
    ],
)
def test_wrong_images_are_refused(images: torch.Tensor, message: str) -> None:
    with torch.device("meta"):
        network = AlexNet(2)
    with pytest.raises(ValueError, match=message):
        network(images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, "num_classes is 1; a network needs 2 or more"),
        ({"variant": "alex"}, "unknown variant 'alex'; known are paper, quick"),
        ({"width": 0.0}, "width is 0"),
        ({"dropout": 1.0, "width": 0.05}, "dropout probability is 1"),
    ],
)
def test_wrong_requests_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AlexNet(**options)  # type: ignore[arg-type]
