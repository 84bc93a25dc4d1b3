"""The networks for CIFAR-10: the source's own examples, and this project's small one.

The source's examples (cuda-convnet's `example-layers`) read pixels less the mean image, not divided by anything.
Their published errors: 26, 18, 13 and 11 % for the first four. What the last three of these were trained with stands in
the recipes of the same names; how long the first was is not known.
"""

from dataclasses import replace

from alexnet.model.layer_specs import (
    Convolution,
    Dense,
    Drop,
    Flatten,
    Layer,
    LocallyConnected,
    NetworkSpec,
    Pool,
    ReLU,
    ResponseNorm,
    SameMapNorm,
    Squash,
)

_MAX = Pool(ties="every")
# As the source computed it when these were published; the 13 and 11 % networks have no averages.
_AVERAGE = Pool(kind="average", divisor="whole")
_SAME_MAP = SameMapNorm(size=3, alpha=5e-5)


def _three_convolutions(*, normalized: bool) -> tuple[Layer, ...]:
    """The convolutional part that the source's 80sec, 19pct and 18pct networks share; 32 -> 16 -> 8 -> 4 pixels."""
    norm = (_SAME_MAP,) if normalized else ()
    return (
        Convolution(name="conv1", maps=32, kernel=5, padding=2, deviation=1e-4),
        _MAX,
        ReLU(),
        *norm,
        Convolution(name="conv2", maps=32, kernel=5, padding=2),
        ReLU(),
        _AVERAGE,
        *norm,
        Convolution(name="conv3", maps=64, kernel=5, padding=2),
        ReLU(),
        _AVERAGE,
        Flatten(),
    )


def _two_local(*, normalized: bool, maps: int) -> tuple[Layer, ...]:
    """The source's conv-local networks: two convolutions, two locally connected layers; 24 -> 12 -> 6 pixels."""
    norm = (ResponseNorm(size=9, alpha=0.001, k=1, alpha_per_element=False),) if normalized else ()
    return (
        Convolution(name="conv1", maps=64, kernel=5, padding=2, deviation=1e-4),
        ReLU(),
        _MAX,
        *norm,
        Convolution(name="conv2", maps=64, kernel=5, padding=2),
        ReLU(),
        *norm,
        _MAX,
        LocallyConnected(name="local3", maps=maps, kernel=3, padding=1, deviation=0.04),
        ReLU(),
        LocallyConnected(name="local4", maps=32, kernel=3, padding=1, deviation=0.04),
        ReLU(),
        Flatten(),
        Dense(name="fc5", units=None),
    )


_FOUR_LAYER = NetworkSpec(
    source="paper, section 3.1, figure 1: four layers, three of them convolutional; the source's layers-19pct",
    image_px=32,
    layers=(*_three_convolutions(normalized=False), Dense(name="fc4", units=None)),
)

_QUICK = NetworkSpec(
    source="this project: four convolutional layers in the paper's style for 32-pixel images, trained in two minutes",
    image_px=28,
    input_scale=1 / 64,
    layers=(
        Convolution(name="conv1", maps=32, kernel=5, padding=2, deviation=None),
        # The larger of two rectified activations is the rectified larger one: pooled first there are fewer to rectify.
        Pool(),  # 28 -> 14
        ReLU(),
        ResponseNorm(size=9, alpha=0.05, k=1),
        Convolution(name="conv2", maps=64, kernel=3, padding=1, deviation=None),
        Pool(),  # 14 -> 7
        ReLU(),
        ResponseNorm(size=9, alpha=0.05, k=1),
        Convolution(name="conv3", maps=128, kernel=3, padding=1, deviation=None),
        Pool(),  # 7 -> 3
        ReLU(),
        Convolution(name="conv4", maps=256, kernel=3, padding=1, deviation=None),
        ReLU(),
        Flatten(),
        Drop("drop5"),
        Dense(name="fc5", units=None, deviation=0.01),
    ),
)

CIFAR_VARIANTS = {
    "cifar-80sec": NetworkSpec(
        source="the source's layers-80sec: 26 % error",
        image_px=32,
        layers=(
            *_three_convolutions(normalized=False),
            Dense(name="fc4", units=64, deviation=0.1),
            ReLU(),
            Dense(name="fc5", units=None, deviation=0.1),
        ),
    ),
    "cifar-18pct": NetworkSpec(
        source="the source's layers-18pct: same-map normalization, 18 % error without moving or mirroring images",
        image_px=32,
        layers=(*_three_convolutions(normalized=True), Dense(name="fc4", units=None)),
    ),
    "cifar-13pct": NetworkSpec(
        source="the source's layers-conv-local-13pct: no normalization, 13 % error",
        image_px=24,
        layers=_two_local(normalized=False, maps=32),
    ),
    "cifar-11pct": NetworkSpec(
        source="paper, section 3.3, and the source's layers-conv-local-11pct: response normalization, 11 % error",
        image_px=24,
        layers=_two_local(normalized=True, maps=64),
    ),
    "cifar-four-layer": _FOUR_LAYER,
    "cifar-four-layer-tanh": replace(
        _FOUR_LAYER,
        source="paper, section 3.1, figure 1: cifar-four-layer with tanh",
        layers=tuple(Squash("tanh") if isinstance(layer, ReLU) else layer for layer in _FOUR_LAYER.layers),
    ),
    "quick": _QUICK,
}
"""The variants for CIFAR-10 by name."""
