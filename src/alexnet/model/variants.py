"""All variants of the network, one entry each in `VARIANTS`. Importing it does not load torch.

Add a variant here and everything else (recipes, `--network.variant`, its help, weights files) knows it.
docs/fidelity.md lists how the variants differ from the paper.

"The source" is the authors' own program, cuda-convnet, and its layer definition files (`layers-145` and so on). Its
networks for CIFAR-10 (`example-layers`) read pixels minus the mean image, not divided by anything.
"""

from collections.abc import Mapping
from dataclasses import replace

from alexnet.errors import RequestError
from alexnet.model.layer_specs import (
    AveragePool,
    Convolution,
    Dense,
    Dropout,
    Flatten,
    LayerSpec,
    LocallyConnected,
    MaxPool,
    NetworkSpec,
    ReLU,
    ResponseNorm,
    SameMapNorm,
    Sigmoid,
    Tanh,
)


def variant_names() -> tuple[str, ...]:
    """Names of all variants, in the order in which they are listed."""
    return tuple(VARIANTS)


def named_variant(name: str) -> NetworkSpec:
    """The variant of this name.

    Raises:
        RequestError: there is no such variant.
    """
    if not _is_text(name) or name not in VARIANTS:
        raise RequestError(f"unknown variant {name!r}; known are {', '.join(VARIANTS)}")
    return VARIANTS[name]


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _with_layers(base: NetworkSpec, source: str, layers: Mapping[str, LayerSpec]) -> NetworkSpec:
    """`base` with the layers of these names replaced."""
    return replace(base, source=source, layers=tuple(layers.get(getattr(one, "name", ""), one) for one in base.layers))


def _with_kind(base: NetworkSpec, source: str, kind: type[LayerSpec], new: LayerSpec | None) -> NetworkSpec:
    """`base` with every layer of a kind replaced by `new`, or removed (None)."""
    layers = (new if isinstance(layer, kind) else layer for layer in base.layers)
    return replace(base, source=source, layers=tuple(layer for layer in layers if layer is not None))


PAPER = NetworkSpec(
    source="Krizhevsky, Sutskever and Hinton 2012, section 3.5",
    num_classes=1000,
    image_px=224,
    layers=(
        # 224 -> 55: the last window ends three pixels beyond the image (docs/decisions/003).
        Convolution(name="conv1", out_channels=96, kernel=11, stride=4, end_padding=3, init_std=0.01, bias=0),
        ReLU(),
        ResponseNorm(size=5, alpha=1e-4, beta=0.75, k=2, columns=2),
        MaxPool(size=3, stride=2),  # 55 -> 27
        Convolution(name="conv2", out_channels=256, kernel=5, padding=2, columns=2, init_std=0.01, bias=1),
        ReLU(),
        ResponseNorm(size=5, alpha=1e-4, beta=0.75, k=2, columns=2),
        MaxPool(size=3, stride=2),  # 27 -> 13
        Convolution(name="conv3", out_channels=384, kernel=3, padding=1, init_std=0.01, bias=0),
        ReLU(),
        Convolution(name="conv4", out_channels=384, kernel=3, padding=1, columns=2, init_std=0.01, bias=1),
        ReLU(),
        Convolution(name="conv5", out_channels=256, kernel=3, padding=1, columns=2, init_std=0.01, bias=1),
        ReLU(),
        MaxPool(size=3, stride=2),  # 13 -> 6
        Flatten(),
        Dense(name="fc6", units=4096, init_std=0.01, bias=1),
        ReLU(),
        Dropout("dropout6"),
        Dense(name="fc7", units=4096, init_std=0.01, bias=1),
        ReLU(),
        Dropout("dropout7"),
        Dense(name="fc8", units=None, init_std=0.01, bias=0),
    ),
)

# From Flatten to the class scores: the same in `paper` and in all of the source's networks for ImageNet.
_HEAD = PAPER.layers[-8:]
_SOURCE_NORM = ResponseNorm(size=5, alpha=1e-4, beta=0.75, k=2, columns=2, alpha_per_element=False)
_SOURCE_POOL = MaxPool(size=3, stride=2, ties="every")

ORIGINAL = NetworkSpec(
    source="the original source, layers-145: the network behind the paper's numbers",
    num_classes=1000,
    image_px=224,
    layers=(
        Convolution(name="conv1", out_channels=96, kernel=11, stride=4, end_padding=3, init_std=0.01, bias=0),
        _SOURCE_NORM,  # of signed activations
        _SOURCE_POOL,
        ReLU(),
        Convolution(name="conv2", out_channels=256, kernel=5, padding=2, columns=2, init_std=0.01, bias=1),
        ReLU(),
        _SOURCE_NORM,
        SameMapNorm(size=5, alpha=1e-3, beta=0.75),
        _SOURCE_POOL,
        Convolution(name="conv3", out_channels=384, kernel=3, padding=1, init_std=0.03, bias=0),
        ReLU(),
        Convolution(name="conv4", out_channels=384, kernel=3, padding=1, columns=2, init_std=0.03, bias=1),
        ReLU(),
        Convolution(name="conv5", out_channels=256, kernel=3, padding=1, columns=2, init_std=0.03, bias=1),
        _SOURCE_POOL,
        ReLU(),
        *_HEAD,
    ),
)

_ONE_GPU_NORM = replace(_SOURCE_NORM, columns=1)

_SIX_CONV = replace(
    ORIGINAL,
    source="paper, section 6, and the source's layers-146: a sixth convolution over the last pooling layer",
    layers=(
        *ORIGINAL.layers[: -len(_HEAD)],
        Convolution(name="conv6", out_channels=256, kernel=3, padding=1, init_std=0.03, bias=1),
        ReLU(),
        *_HEAD,
    ),
)

_CAFFE_NORM = ResponseNorm(size=5, alpha=1e-4, beta=0.75, k=1, alpha_per_element=False)
_CAFFE_POOL = MaxPool(size=3, stride=2)


def _caffe(source: str, norm_and_pool: tuple[LayerSpec, LayerSpec], *, bias: float) -> NetworkSpec:
    """Caffe's networks for ImageNet, which differ in the order of these two layers and in the larger initial biases."""
    return NetworkSpec(
        source=source,
        num_classes=1000,
        image_px=227,
        layers=(
            Convolution(name="conv1", out_channels=96, kernel=11, stride=4, init_std=0.01, bias=0),
            ReLU(),
            *norm_and_pool,
            Convolution(name="conv2", out_channels=256, kernel=5, padding=2, columns=2, init_std=0.01, bias=bias),
            ReLU(),
            *norm_and_pool,
            Convolution(name="conv3", out_channels=384, kernel=3, padding=1, init_std=0.01, bias=0),
            ReLU(),
            Convolution(name="conv4", out_channels=384, kernel=3, padding=1, columns=2, init_std=0.01, bias=bias),
            ReLU(),
            Convolution(name="conv5", out_channels=256, kernel=3, padding=1, columns=2, init_std=0.01, bias=bias),
            ReLU(),
            _CAFFE_POOL,
            Flatten(),
            Dense(name="fc6", units=4096, init_std=0.005, bias=bias),
            ReLU(),
            Dropout("dropout6", inverted=True),
            Dense(name="fc7", units=4096, init_std=0.005, bias=bias),
            ReLU(),
            Dropout("dropout7", inverted=True),
            Dense(name="fc8", units=None, init_std=0.01, bias=0),
        ),
    )


def _minus(name: str) -> NetworkSpec:
    """`paper` without one middle layer and what follows it up to the next pooling or weights.

    Pooling stays, so every remaining layer reads images of its published side. The columns meet in conv3; without it
    they meet in conv4, so only the depth changes (docs/decisions/009).
    """
    layers: list[LayerSpec] = []
    removing = False
    for layer in PAPER.layers:
        if isinstance(layer, Convolution | Dense):
            removing = layer.name == name
        if name == "conv3" and isinstance(layer, Convolution) and layer.name == "conv4":
            layer = replace(layer, columns=1)
        if not removing or isinstance(layer, MaxPool | Flatten):
            layers.append(layer)
    return replace(PAPER, source=f"paper, section 7: `paper` without {name}", layers=tuple(layers))


_CIFAR_POOL = MaxPool(size=3, stride=2, ties="every")
# The divisor that the source used when these were published; the 13 and 11 % networks do not average.
_CIFAR_AVERAGE = AveragePool(size=3, stride=2, divisor="whole")


def _three_convolutions(*norm: LayerSpec) -> tuple[LayerSpec, ...]:
    """The convolutional part that the source's 80sec, 19pct and 18pct networks share; 32 -> 16 -> 8 -> 4 pixels."""
    return (
        Convolution(name="conv1", out_channels=32, kernel=5, padding=2, init_std=1e-4, bias=0),
        _CIFAR_POOL,
        ReLU(),
        *norm,
        Convolution(name="conv2", out_channels=32, kernel=5, padding=2, init_std=0.01, bias=0),
        ReLU(),
        _CIFAR_AVERAGE,
        *norm,
        Convolution(name="conv3", out_channels=64, kernel=5, padding=2, init_std=0.01, bias=0),
        ReLU(),
        _CIFAR_AVERAGE,
        Flatten(),
    )


def _two_local(*norm: LayerSpec, channels: int) -> tuple[LayerSpec, ...]:
    """The source's conv-local networks: two convolutions, two locally connected layers; 24 -> 12 -> 6 pixels."""
    return (
        Convolution(name="conv1", out_channels=64, kernel=5, padding=2, init_std=1e-4, bias=0),
        ReLU(),
        _CIFAR_POOL,
        *norm,
        Convolution(name="conv2", out_channels=64, kernel=5, padding=2, init_std=0.01, bias=0),
        ReLU(),
        *norm,
        _CIFAR_POOL,
        LocallyConnected(name="local3", out_channels=channels, kernel=3, padding=1, init_std=0.04, bias=0),
        ReLU(),
        LocallyConnected(name="local4", out_channels=32, kernel=3, padding=1, init_std=0.04, bias=0),
        ReLU(),
        Flatten(),
        Dense(name="fc5", units=None, init_std=0.01, bias=0),
    )


_CIFAR_FOUR_LAYER = NetworkSpec(
    source="paper, section 3.1, figure 1: four layers, three of them convolutional; the source's layers-19pct",
    num_classes=10,
    image_px=32,
    layers=(*_three_convolutions(), Dense(name="fc4", units=None, init_std=0.01, bias=0)),
)


def _quick(source: str, *, channels: tuple[int, int, int, int], first_kernel: int) -> NetworkSpec:
    """This project's networks for 32-pixel images: 28 -> 14 -> 7 -> 3 pixels."""
    first, second, third, fourth = channels
    norm = ResponseNorm(size=9, alpha=0.05, beta=0.75, k=1)
    # ReLU and max-pooling commute; after pooling, ReLU has fewer activations to process.
    pool_and_relu = (MaxPool(size=3, stride=2), ReLU())

    def convolution(name: str, out_channels: int, kernel: int = 3) -> Convolution:
        return Convolution(
            name=name, out_channels=out_channels, kernel=kernel, padding=kernel // 2, init_std=None, bias=0
        )

    return NetworkSpec(
        source=source,
        num_classes=10,
        image_px=28,
        input_scale=1 / 64,
        layers=(
            convolution("conv1", first, first_kernel),
            *pool_and_relu,
            norm,
            convolution("conv2", second),
            *pool_and_relu,
            norm,
            convolution("conv3", third),
            *pool_and_relu,
            convolution("conv4", fourth),
            ReLU(),
            Flatten(),
            Dropout("dropout5"),
            Dense(name="fc5", units=None, init_std=0.01, bias=0),
        ),
    )


VARIANTS: dict[str, NetworkSpec] = {
    "paper": PAPER,
    "original": ORIGINAL,
    "one-gpu": replace(
        ORIGINAL,
        source="paper, section 3.2, and the source's layers-145-half: one column, conv5 as wide as two",
        layers=(
            Convolution(name="conv1", out_channels=48, kernel=11, stride=4, end_padding=3, init_std=0.01, bias=0),
            _ONE_GPU_NORM,
            _SOURCE_POOL,
            ReLU(),
            Convolution(name="conv2", out_channels=128, kernel=5, padding=2, init_std=0.01, bias=1),
            ReLU(),
            _ONE_GPU_NORM,
            SameMapNorm(size=5, alpha=1e-3, beta=0.75),
            _SOURCE_POOL,
            Convolution(name="conv3", out_channels=192, kernel=3, padding=1, init_std=0.03, bias=0),
            ReLU(),
            Convolution(name="conv4", out_channels=192, kernel=3, padding=1, init_std=0.03, bias=1),
            ReLU(),
            Convolution(name="conv5", out_channels=256, kernel=3, padding=1, init_std=0.03, bias=1),
            _SOURCE_POOL,
            ReLU(),
            *_HEAD,
        ),
    ),
    "no-norm": _with_kind(
        _with_kind(ORIGINAL, "", ResponseNorm, None),
        "paper, section 3.3, and the source's layers-148: `original` without normalization of either kind",
        SameMapNorm,
        None,
    ),
    "non-overlapping": _with_layers(
        _with_kind(ORIGINAL, "", MaxPool, MaxPool(size=2, stride=2, ties="every")),
        "paper, section 3.4, and the source's layers-147: 2 x 2 windows, stride 2; borders keep the later sizes",
        {
            "conv2": Convolution(name="conv2", out_channels=256, kernel=5, padding=1, columns=2, init_std=0.01, bias=1),
            "conv5": Convolution(name="conv5", out_channels=256, kernel=3, columns=2, init_std=0.03, bias=1),
        },
    ),
    "no-communication": _with_layers(
        ORIGINAL,
        "the source's layers-150: the columns meet in the last layer only; wider conv2 and fc6",
        {
            "conv2": Convolution(name="conv2", out_channels=320, kernel=5, padding=2, columns=2, init_std=0.01, bias=1),
            "conv3": Convolution(name="conv3", out_channels=384, kernel=3, padding=1, columns=2, init_std=0.03, bias=0),
            "fc6": Dense(name="fc6", units=8192, columns=2, init_std=0.01, bias=1),
            "fc7": Dense(name="fc7", units=4096, columns=2, init_std=0.01, bias=1),
        },
    ),
    "six-conv": _SIX_CONV,
    "six-conv-22k": replace(
        _SIX_CONV,
        source="the source's layers-146-2011: six-conv with two linear layers of 1,024 before its 21,843 classes",
        num_classes=21_843,
        # The two layers of 1,024 have the same input and output, so they are computed as one of 2,048.
        layers=(
            *_SIX_CONV.layers[:-1],
            Dense(name="fc8", units=2048, init_std=0.01, bias=0),
            Dense(name="fc9", units=None, init_std=0.01, bias=0),
        ),
    ),
    "tanh": _with_kind(PAPER, "paper, section 3.1: `paper` with tanh instead of ReLU", ReLU, Tanh()),
    "sigmoid": _with_kind(PAPER, "`paper` with the logistic function instead of ReLU", ReLU, Sigmoid()),
    "minus-conv2": _minus("conv2"),
    "minus-conv3": _minus("conv3"),
    "minus-conv4": _minus("conv4"),
    "minus-conv5": _minus("conv5"),
    "minus-fc6": _minus("fc6"),
    "minus-fc7": _minus("fc7"),
    "caffe": _caffe(
        "Caffe's bvlc_alexnet: 227 pixels, normalization across the columns' border with k = 1, biases 0.1",
        (_CAFFE_NORM, _CAFFE_POOL),
        bias=0.1,
    ),
    "caffenet": _caffe(
        "Caffe's bvlc_reference_caffenet: `caffe` with pooling before normalization, biases 1",
        (_CAFFE_POOL, _CAFFE_NORM),
        bias=1,
    ),
    "torchvision": NetworkSpec(
        source="torchvision's alexnet, after Krizhevsky 2014: one column, other widths, no normalization",
        num_classes=1000,
        image_px=224,
        # It reads colors from 0 to 1, minus the mean, divided by these standard deviations.
        input_scale=(1 / (255 * 0.229), 1 / (255 * 0.224), 1 / (255 * 0.225)),
        layers=(
            Convolution(name="conv1", out_channels=64, kernel=11, stride=4, padding=2, init_std="uniform", bias=0),
            ReLU(),
            MaxPool(size=3, stride=2),  # 55 -> 27
            Convolution(name="conv2", out_channels=192, kernel=5, padding=2, init_std="uniform", bias=0),
            ReLU(),
            MaxPool(size=3, stride=2),  # 27 -> 13
            Convolution(name="conv3", out_channels=384, kernel=3, padding=1, init_std="uniform", bias=0),
            ReLU(),
            Convolution(name="conv4", out_channels=256, kernel=3, padding=1, init_std="uniform", bias=0),
            ReLU(),
            Convolution(name="conv5", out_channels=256, kernel=3, padding=1, init_std="uniform", bias=0),
            ReLU(),
            MaxPool(size=3, stride=2),  # 13 -> 6; torchvision's adaptive average changes nothing at 224 pixels
            Flatten(),
            Dropout("dropout6", inverted=True),
            Dense(name="fc6", units=4096, init_std="uniform", bias=0),
            ReLU(),
            Dropout("dropout7", inverted=True),
            Dense(name="fc7", units=4096, init_std="uniform", bias=0),
            ReLU(),
            Dense(name="fc8", units=None, init_std="uniform", bias=0),
        ),
    ),
    "cifar-80sec": NetworkSpec(
        source="the source's layers-80sec: 26 % error",
        num_classes=10,
        image_px=32,
        layers=(
            *_three_convolutions(),
            Dense(name="fc4", units=64, init_std=0.1, bias=0),
            ReLU(),
            Dense(name="fc5", units=None, init_std=0.1, bias=0),
        ),
    ),
    "cifar-18pct": NetworkSpec(
        source="the source's layers-18pct: same-map normalization, 18 % error without moving or mirroring images",
        num_classes=10,
        image_px=32,
        layers=(
            *_three_convolutions(SameMapNorm(size=3, alpha=5e-5, beta=0.75)),
            Dense(name="fc4", units=None, init_std=0.01, bias=0),
        ),
    ),
    "cifar-13pct": NetworkSpec(
        source="the source's layers-conv-local-13pct: no normalization, 13 % error",
        num_classes=10,
        image_px=24,
        layers=_two_local(channels=32),
    ),
    "cifar-11pct": NetworkSpec(
        source="paper, section 3.3, and the source's layers-conv-local-11pct: response normalization, 11 % error",
        num_classes=10,
        image_px=24,
        layers=_two_local(
            ResponseNorm(size=9, alpha=0.001, beta=0.75, k=1, alpha_per_element=False),
            channels=64,
        ),
    ),
    "cifar-four-layer": _CIFAR_FOUR_LAYER,
    "cifar-four-layer-tanh": _with_kind(
        _CIFAR_FOUR_LAYER, "paper, section 3.1, figure 1: cifar-four-layer with tanh", ReLU, Tanh()
    ),
    "quick": _quick(
        "this project: four convolutional layers in the paper's style for 32-pixel images",
        channels=(32, 64, 128, 256),
        first_kernel=5,
    ),
    "quick-3x3": _quick(
        "this project: `quick` with 3 x 3 weights in the first layer and three quarters of the channels",
        channels=(24, 48, 96, 192),
        first_kernel=3,
    ),
}
"""All variants by name."""

SAME_BUT_FOR_NAMES = {
    ("minus-conv3", "minus-conv4"): "differ in the initial value of one layer's biases only",
    ("minus-fc6", "minus-fc7"): "are the same network",
}
"""Pairs of variants that compute the same function of their weights under other layer names, and what else differs."""
