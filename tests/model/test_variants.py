"""Every variant, forward and gradient, against NumPy in float64, written from the published descriptions.

Nothing here reads the product's own description of a network: `NETWORKS` says again what each is.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from alexnet import AlexNet
from alexnet.model.layer_specs import Convolution, Dense, NetworkSpec
from alexnet.model.spec_file import spec_to_dict
from alexnet.model.variants import SAME_BUT_FOR_NAMES, VARIANTS

Array = np.ndarray
Step = tuple[Array, Callable[[Array], Array]]
Gradients = dict[str, Array]


# One function per kind of layer: returns the activations and a function for the gradient. x is (B, C, H, W) or (B,
# D).


def conv(x: Array, p: Gradients, grads: Gradients, name: str, stride: int, pad: int, end: int, columns: int) -> Step:
    weight, bias = p[f"{name}.weight"], p[f"{name}.bias"]
    kernel = weight.shape[-1]
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad + end), (pad, pad + end)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), (2, 3))[:, :, ::stride, ::stride]
    halves = list(zip(np.split(windows, columns, 1), np.split(weight, columns), strict=True))
    out = np.concatenate([np.einsum("bchwij,fcij->bfhw", w, f, optimize=True) for w, f in halves], 1)

    def back(g: Array) -> Array:
        parts = np.split(g, columns, 1)
        grads[f"{name}.weight"] = np.concatenate(
            [np.einsum("bfhw,bchwij->fcij", part, w, optimize=True) for part, (w, _) in zip(parts, halves, strict=True)]
        )
        grads[f"{name}.bias"] = g.sum((0, 2, 3))
        spread = np.zeros_like(padded)
        for i in range(kernel):
            for j in range(kernel):
                position = spread[:, :, i : i + stride * g.shape[2] : stride, j : j + stride * g.shape[3] : stride]
                position += np.concatenate(
                    [
                        np.einsum("bfhw,fc->bchw", part, f[:, :, i, j], optimize=True)
                        for part, (_, f) in zip(parts, halves, strict=True)
                    ],
                    1,
                )
        return spread[:, :, pad : pad + x.shape[2], pad : pad + x.shape[3]]

    return out + bias[:, None, None], back


def local(x: Array, p: Gradients, grads: Gradients, name: str, pad: int) -> Step:
    weight, bias = p[f"{name}.weight"], p[f"{name}.bias"]  # (H, W, F, C, k, k), (F, H, W)
    kernel = weight.shape[-1]
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), (2, 3))
    out = np.einsum("bchwij,hwfcij->bfhw", windows, weight, optimize=True) + bias

    def back(g: Array) -> Array:
        grads[f"{name}.weight"] = np.einsum("bfhw,bchwij->hwfcij", g, windows, optimize=True)
        grads[f"{name}.bias"] = g.sum(0)
        spread = np.zeros_like(padded)
        for i in range(kernel):
            for j in range(kernel):
                spread[:, :, i : i + g.shape[2], j : j + g.shape[3]] += np.einsum(
                    "bfhw,hwfc->bchw", g, weight[..., i, j], optimize=True
                )
        return spread[:, :, pad : pad + x.shape[2], pad : pad + x.shape[3]]

    return out, back


def dense(x: Array, p: Gradients, grads: Gradients, name: str, columns: int = 1) -> Step:
    weight, bias = p[f"{name}.weight"], p[f"{name}.bias"]
    halves = list(zip(np.split(x, columns, 1), np.split(weight, columns), strict=True))

    def back(g: Array) -> Array:
        parts = np.split(g, columns, 1)
        grads[f"{name}.weight"] = np.concatenate([part.T @ h for part, (h, _) in zip(parts, halves, strict=True)])
        grads[f"{name}.bias"] = g.sum(0)
        return np.concatenate([part @ w for part, (_, w) in zip(parts, halves, strict=True)], 1)

    return np.concatenate([h @ w.T for h, w in halves], 1) + bias, back


def relu(x: Array) -> Step:
    return np.maximum(x, 0), lambda g: g * (x > 0)


def tanh(x: Array) -> Step:
    return np.tanh(x), lambda g: g * (1 - np.tanh(x) ** 2)


def sigmoid(x: Array) -> Step:
    y = 1 / (1 + np.exp(-x))
    return y, lambda g: g * y * (1 - y)


def divided(x: Array, total: Callable[[Array], Array], alpha: float, beta: float, k: float) -> Step:
    """x / (k + alpha * total(x^2)) ^ beta; `total` is linear and its own transpose."""
    d = k + alpha * total(x**2)

    def back(g: Array) -> Array:
        return g * d**-beta - 2 * alpha * beta * x * total(g * x * d ** (-beta - 1))

    return x * d**-beta, back


def norm(x: Array, size: int, alpha: float, k: float, columns: int) -> Step:
    def total(v: Array) -> Array:
        out, per_column = np.empty_like(v), v.shape[1] // columns
        for i in range(v.shape[1]):
            first = i // per_column * per_column
            out[:, i] = v[:, max(first, i - size // 2) : min(first + per_column, i + size // 2 + 1)].sum(1)
        return out

    return divided(x, total, alpha, 0.75, k)


def same_map(x: Array, size: int, alpha: float) -> Step:
    def total(v: Array) -> Array:
        half = size // 2
        padded = np.pad(v, ((0, 0), (0, 0), (half, half), (half, half)))
        return np.lib.stride_tricks.sliding_window_view(padded, (size, size), (2, 3)).sum((4, 5))

    return divided(x, total, alpha, 0.75, 1.0)


def pooled(x: Array, size: int, stride: int, kind: str) -> Step:
    """`first` and `every`: the maximum, its gradient to the first of equal activations or to each. `share`: the sum
    over a window, divided by all its positions, those beyond the edge too."""
    positions = math.ceil((x.shape[2] - size) / stride) + 1
    windows = [
        (i, j, np.s_[:, :, i * stride : i * stride + size, j * stride : j * stride + size])
        for i in range(positions)
        for j in range(positions)
    ]
    out = np.empty((*x.shape[:2], positions, positions))
    for i, j, window in windows:
        out[:, :, i, j] = x[window].sum((2, 3)) / size**2 if kind == "share" else x[window].max((2, 3))

    def back(g: Array) -> Array:
        spread = np.zeros_like(x)
        for i, j, window in windows:
            values = x[window]
            if kind == "share":
                share = np.full(values.shape, 1 / size**2)
            else:
                share = (values == out[:, :, i, j][..., None, None]).astype(float)
            if kind == "first":
                rows = share.reshape(*share.shape[:2], -1)
                share = (np.cumsum(rows, 2) * rows == 1).reshape(share.shape).astype(float)
            spread[window] += share * g[:, :, i, j][..., None, None]
        return spread

    return out, back


def scaled(x: Array, factor: Any) -> Step:
    return x * factor, lambda g: g * factor


def flat(x: Array) -> Step:
    return x.reshape(len(x), -1), lambda g: g.reshape(x.shape)


CONV1 = (conv, "conv1", 4, 0, 3, 1)
NORM_PAPER, NORM_SOURCE = (norm, 5, 1e-4, 2.0, 2), (norm, 5, 2e-5, 2.0, 2)
MAX, MAX_EVERY, HALF = (pooled, 3, 2, "first"), (pooled, 3, 2, "every"), (scaled, 0.5)


def plain(name: str, columns: int, kernel: int = 3) -> tuple[Any, ...]:
    return (conv, name, 1, kernel // 2, 0, columns)


def paper(*without: str, act: Any = relu) -> list[tuple[Any, ...]]:
    blocks: dict[str, list[tuple[Any, ...]]] = {
        "conv1": [CONV1, (act,), NORM_PAPER],
        "pool1": [MAX],
        "conv2": [plain("conv2", 2, 5), (act,), NORM_PAPER],
        "pool2": [MAX],
        "conv3": [plain("conv3", 1), (act,)],
        "conv4": [plain("conv4", 1 if "conv3" in without else 2), (act,)],
        "conv5": [plain("conv5", 2), (act,)],
        "pool5": [MAX, (flat,)],
        "fc6": [(dense, "fc6"), (act,), HALF],
        "fc7": [(dense, "fc7"), (act,), HALF],
        "fc8": [(dense, "fc8")],
    }
    return [layer for name, layers in blocks.items() if name not in without for layer in layers]


def original(
    columns: int = 2, normalized: bool = True, pool: Any = MAX_EVERY, conv6: bool = False, apart: bool = False
) -> list[tuple[Any, ...]]:
    across = [(norm, 5, 2e-5, 2.0, columns)] if normalized else []
    within = [(same_map, 5, 1e-3 / 25)] if normalized else []
    narrow = pool is not MAX_EVERY
    return [
        CONV1, *across, pool, (relu,),
        (conv, "conv2", 1, 1 if narrow else 2, 0, columns), (relu,), *across, *within, pool,
        plain("conv3", columns if apart else 1), (relu,), plain("conv4", columns), (relu,),
        (conv, "conv5", 1, 0 if narrow else 1, 0, columns), pool, (relu,),
        *([plain("conv6", 1), (relu,)] if conv6 else []),
        (flat,), (dense, "fc6", columns if apart else 1), (relu,), HALF,
        (dense, "fc7", columns if apart else 1), (relu,), HALF, (dense, "fc8"),
    ]  # fmt: skip


CAFFE_NORM = (norm, 5, 2e-5, 1.0, 1)
CAFFE = [
    (conv, "conv1", 4, 0, 0, 1), (relu,), CAFFE_NORM, MAX, plain("conv2", 2, 5), (relu,), CAFFE_NORM, MAX,
    plain("conv3", 1), (relu,), plain("conv4", 2), (relu,), plain("conv5", 2), (relu,), MAX,
    (flat,), (dense, "fc6"), (relu,), (dense, "fc7"), (relu,), (dense, "fc8"),
]  # fmt: skip
CAFFENET = [
    (conv, "conv1", 4, 0, 0, 1), (relu,), MAX, CAFFE_NORM, plain("conv2", 2, 5), (relu,), MAX, CAFFE_NORM,
    plain("conv3", 1), (relu,), plain("conv4", 2), (relu,), plain("conv5", 2), (relu,), MAX,
    (flat,), (dense, "fc6"), (relu,), (dense, "fc7"), (relu,), (dense, "fc8"),
]  # fmt: skip
COLORS = 1 / (255 * np.array([0.229, 0.224, 0.225]))
TORCHVISION = [
    (scaled, COLORS[:, None, None]), (conv, "conv1", 4, 2, 0, 1), (relu,), MAX, plain("conv2", 1, 5), (relu,), MAX,
    plain("conv3", 1), (relu,), plain("conv4", 1), (relu,), plain("conv5", 1), (relu,), MAX,
    (flat,), (dense, "fc6"), (relu,), (dense, "fc7"), (relu,), (dense, "fc8"),
]  # fmt: skip


def three_convolutions(*norms: tuple[Any, ...], act: Any = relu) -> list[tuple[Any, ...]]:
    mean = (pooled, 3, 2, "share")
    return [
        plain("conv1", 1, 5), MAX_EVERY, (act,), *norms, plain("conv2", 1, 5), (act,), mean, *norms,
        plain("conv3", 1, 5), (act,), mean, (flat,),
    ]  # fmt: skip


def two_local(*norms: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    return [
        plain("conv1", 1, 5), (relu,), MAX_EVERY, *norms, plain("conv2", 1, 5), (relu,), *norms, MAX_EVERY,
        (local, "local3", 1), (relu,), (local, "local4", 1), (relu,), (flat,), (dense, "fc5"),
    ]  # fmt: skip


def quick(first_kernel: int) -> list[tuple[Any, ...]]:
    across = (norm, 9, 0.05, 1.0, 1)
    return [
        (scaled, 1 / 64), plain("conv1", 1, first_kernel), (relu,), MAX, across,
        plain("conv2", 1), (relu,), MAX, across, plain("conv3", 1), (relu,), MAX, plain("conv4", 1), (relu,),
        (flat,), (scaled, 0.5), (dense, "fc5"),
    ]  # fmt: skip


NETWORKS: dict[str, tuple[int, list[tuple[Any, ...]]]] = {
    "paper": (224, paper()),
    "original": (224, original()),
    "one-gpu": (224, original(columns=1)),
    "no-norm": (224, original(normalized=False)),
    "non-overlapping": (224, original(pool=(pooled, 2, 2, "every"))),
    "no-communication": (224, original(apart=True)),
    "six-conv": (224, original(conv6=True)),
    "six-conv-22k": (224, [*original(conv6=True), (dense, "fc9")]),
    "tanh": (224, paper(act=tanh)),
    "sigmoid": (224, paper(act=sigmoid)),
    **{f"minus-{name}": (224, paper(name)) for name in ("conv2", "conv3", "conv4", "conv5", "fc6", "fc7")},
    "caffe": (227, CAFFE),
    "caffenet": (227, CAFFENET),
    "torchvision": (224, TORCHVISION),
    "cifar-80sec": (32, [*three_convolutions(), (dense, "fc4"), (relu,), (dense, "fc5")]),
    "cifar-18pct": (32, [*three_convolutions((same_map, 3, 5e-5 / 9)), (dense, "fc4")]),
    "cifar-13pct": (24, two_local()),
    "cifar-11pct": (24, two_local((norm, 9, 0.001 / 9, 1.0, 1))),
    "cifar-four-layer": (32, [*three_convolutions(), (dense, "fc4")]),
    "cifar-four-layer-tanh": (32, [*three_convolutions(act=tanh), (dense, "fc4")]),
    "quick": (28, quick(5)),
    "quick-3x3": (28, quick(3)),
}  # fmt: skip


def normwise(got: Array, want: Array) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_scores_and_gradients_equal_numpys(name: str) -> None:
    assert name in NETWORKS, f"describe variant {name!r} in NETWORKS, from its source"
    side, layers = NETWORKS[name]
    network = AlexNet(7, name, width=0.05 if side > 200 else 0.2).double().eval()
    random = np.random.default_rng(3)
    for key, tensor in network.named_parameters():
        # Large enough for every layer to matter, including the normalization's denominators and the saturated ends of
        # tanh and sigmoid.
        fan_in = math.prod(tensor.shape[2:] if key.startswith("local") else tensor.shape[1:])
        spread = math.sqrt(2 / fan_in) if key.endswith("weight") else 1.0
        tensor.data.copy_(torch.from_numpy(random.normal(0, spread, tuple(tensor.shape))))
    images = random.uniform(-120, 130, (2, 3, side, side))
    parameters = {key: tensor.detach().numpy().copy() for key, tensor in network.named_parameters()}

    gradients: Gradients = {}
    x, ways_back = images, []
    for function, *arguments in layers:
        weighted = (parameters, gradients) if function in (conv, local, dense) else ()
        x, back = function(x, *weighted, *arguments)
        ways_back.append(back)
    direction = random.normal(size=x.shape)
    g = direction
    for back in reversed(ways_back):
        g = back(g)

    leaf = torch.from_numpy(images).requires_grad_()
    scores = network(leaf)
    (scores * torch.from_numpy(direction)).sum().backward()
    assert normwise(scores.detach().numpy(), x) < 1e-10
    assert leaf.grad is not None and normwise(leaf.grad.numpy(), g) < 1e-10
    assert gradients.keys() == dict(network.named_parameters()).keys()
    for key, tensor in network.named_parameters():
        assert tensor.grad is not None and normwise(tensor.grad.numpy(), gradients[key]) < 1e-10, key
    with torch.no_grad():
        single = network.float()(torch.from_numpy(images).float()).double().numpy()
    assert normwise(single, x) < 1e-5


@pytest.mark.parametrize(
    ("name", "num_classes", "parameters"),
    [
        ("paper", 1000, 60_965_224),
        ("original", 1000, 60_965_224),
        ("one-gpu", 1000, 59_798_312),
        ("six-conv", 1000, 61_555_304),
        ("six-conv-22k", 21_843, 110_605_267),
        ("torchvision", 1000, 61_100_840),
        ("caffe", 1000, 60_965_224),
        ("caffenet", 1000, 60_965_224),
        ("cifar-80sec", 10, 145_578),
        ("cifar-18pct", 10, 89_578),
        ("cifar-13pct", 10, 1_116_490),
        ("cifar-11pct", 10, 2_112_970),
    ],
)
def test_published_counts(name: str, num_classes: int, parameters: int) -> None:
    with torch.device("meta"):
        network = AlexNet(num_classes, name)
    assert sum(tensor.numel() for tensor in network.parameters()) == parameters
    # The sizes of the specification, which the printed table uses, must agree.
    described = sum(
        math.prod(shape) for layer in network.sized_layers for shape in (layer.weight_shape, layer.bias_shape) if shape
    )
    assert described == parameters


def test_neurons_of_the_network_that_was_run() -> None:
    with torch.device("meta"):
        network = AlexNet(variant="original")
    assert sum(layer.neurons for layer in network.sized_layers) == 659_272
    sizes = [(layer.name, (layer.out_channels, layer.out_side)) for layer in network.sized_layers if layer.neurons]  # type: ignore[union-attr]
    assert sizes == [
        ("conv1", (96, 55)), ("conv2", (256, 27)), ("conv3", (384, 13)), ("conv4", (384, 13)), ("conv5", (256, 13)),
        ("fc6", (4096, 1)), ("fc7", (4096, 1)), ("fc8", (1000, 1)),
    ]  # fmt: skip


def test_non_overlapping_keeps_the_later_sizes() -> None:
    with torch.device("meta"):
        network = AlexNet(variant="non-overlapping")
    sides = [layer.out_side for layer in network.sized_layers if layer.out_side != layer.in_side]
    assert sides == [55, 28, 26, 13, 11, 6, 1]  # FACTS of the source: 55 -> 28 -> 26 -> 13 -> 13 -> 11 -> 6
    assert network.get_submodule("fc6").weight.shape == (4096, 9216)


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_layer_names_are_unique_and_end_in_classes(variant: str) -> None:
    with torch.device("meta"):
        network = AlexNet(11, variant)
    names = [layer.name for layer in VARIANTS[variant].layers if hasattr(layer, "name")]
    assert len(set(names)) == len(names)
    assert network.sized_layers[-1].out_channels == 11 and network.sized_layers[-1].weight_shape


def test_variants_that_are_one_network_are_listed() -> None:
    def without(spec: NetworkSpec, *keys: str) -> list[object]:
        content = spec_to_dict(spec)
        content["layers"] = [{k: v for k, v in layer.items() if k not in keys} for layer in content["layers"]]
        return list(content.items())

    pairs = list(itertools.combinations(VARIANTS, 2))
    same = {pair for pair in pairs if without(VARIANTS[pair[0]], "name") == without(VARIANTS[pair[1]], "name")}
    alike = {
        pair
        for pair in pairs
        if without(VARIANTS[pair[0]], "name", "bias") == without(VARIANTS[pair[1]], "name", "bias")
    }
    assert same == {("minus-fc6", "minus-fc7")} and alike == set(SAME_BUT_FOR_NAMES)
    biases = [
        [layer.bias for layer in VARIANTS[name].layers if isinstance(layer, Convolution | Dense)]
        for name in ("minus-conv3", "minus-conv4")
    ]
    assert biases == [[0, 1, 1, 1, 1, 1, 0], [0, 1, 0, 1, 1, 1, 0]]
