"""A network from a file of another program, before it is one of this package: its layers, and what the file says."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.data.augment import MeanAt
from alexnet.data.dataset import ClassInfo
from alexnet.data.decode import Fit
from alexnet.evaluation.preprocessing import IMAGENET_MEAN_COLOR
from alexnet.model.layer_specs import NetworkSpec

ColorOrder = Literal["rgb", "bgr"]
InputScale = Literal["255", "1", "imagenet", "variant"]
"""What a network reads: colors 0..255, colors 0..1, colors 0..1 divided by ImageNet's standard deviations, or what its
variant makes of colors 0..255 itself (`quick` divides them by 64)."""
IMAGENET_STD_COLOR = (0.229, 0.224, 0.225)
"""RGB, of colors 0..1; with them torchvision's published networks are trained."""
CAFFE_MEAN_COLOR = (122.67892, 116.66877, 104.00699)
"""RGB, 0..255: the mean color of the mean image that Caffe's published networks subtract (`ilsvrc_2012_mean.npy`)."""
CIFAR_MEAN_COLOR = (125.31, 122.95, 113.87)
"""RGB, 0..255: the mean color of CIFAR-10's training images."""
_IMAGENET_PX = 64
"""From this side on, a network is of ImageNet."""


def is_of_cifar(spec: NetworkSpec) -> bool:
    """Whether a network reads images as small as CIFAR-10's."""
    return spec.image_px < _IMAGENET_PX


def own_scale(spec: NetworkSpec) -> InputScale:
    """What a variant's network reads if its weights are taken as they are."""
    named = (one for one in get_args(InputScale) if InputConvention(scale=one).is_scale_of(spec))
    return next(named)


@dataclass(frozen=True, kw_only=True)
class InputConvention:
    """How a network reads the pixels of an image: `(color in color_order - mean) * scale`."""

    color_order: ColorOrder = "rgb"
    scale: InputScale = "255"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """RGB, 0..255, whatever `color_order` and `scale` are."""

    def factor_beyond(self, spec: NetworkSpec) -> tuple[float, float, float]:
        """What red, green and blue are multiplied by, beyond what the variant's network does itself."""
        own = spec.input_scale if isinstance(spec.input_scale, tuple) else (spec.input_scale,) * 3
        match self.scale:
            case "255":
                factor = (1.0, 1.0, 1.0)
            case "1":
                factor = (1 / 255, 1 / 255, 1 / 255)
            case "imagenet":
                red, green, blue = IMAGENET_STD_COLOR
                factor = (1 / (255 * red), 1 / (255 * green), 1 / (255 * blue))
            case "variant":
                factor = own
        return (factor[0] / own[0], factor[1] / own[1], factor[2] / own[2])

    def first_weights(self, weight: torch.Tensor, spec: NetworkSpec) -> torch.Tensor:
        """The first layer's weights in a file as those of the variant's network, which reads RGB.

        Multiplied in float64 and rounded once, and only where the variant does not scale colors so itself.
        """
        in_rgb = weight.flip(1) if self.color_order == "bgr" else weight
        if self.is_scale_of(spec):
            return in_rgb
        factor = torch.tensor(self.factor_beyond(spec), dtype=torch.float64)
        return (in_rgb.double() * factor[:, None, None]).float()

    def is_scale_of(self, spec: NetworkSpec) -> bool:
        """Whether the variant's network does all of the scaling itself."""
        return self.factor_beyond(spec) == (1.0, 1.0, 1.0)


TORCHVISION_CONVENTION = InputConvention(scale="imagenet", mean=IMAGENET_MEAN_COLOR)
CAFFE_CONVENTION = InputConvention(color_order="bgr", mean=CAFFE_MEAN_COLOR)


@dataclass(frozen=True, kw_only=True, eq=False)
class ForeignLayer:
    """The weights of one layer, in this package's layout; input colors of the first layer in the file's order."""

    name: str
    """In the file."""
    weight: torch.Tensor
    """float32: (O, I / columns, k, k); locally connected (H, W, O, I, k, k); dense (O, I / columns), where the
    features of a dense layer after a convolutional one are channels first, (C, H, W)."""
    bias: torch.Tensor
    """float32: (O,); locally connected (O, H, W)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ForeignNetwork:
    """What the reader of one format found. None is what the file does not say."""

    what: str
    """For messages: `a Caffe model (bvlc_alexnet)`."""
    layers: tuple[ForeignLayer, ...]
    """Those with weights, from input to output."""
    variants: tuple[str, ...]
    """The variants that the layers may be of, the likeliest first; () where only the shapes can say."""
    convention: InputConvention | None = None
    """How the network reads pixels."""
    mean_image: NDArray[np.float32] | None = None
    """(side, side, 3) RGB, 0..255, instead of the convention's mean color."""
    mean_at: MeanAt = "crop"
    """Which part of the mean image is subtracted from a crop."""
    fit: Fit | None = None
    classes: tuple[ClassInfo, ...] | None = None
    notes: tuple[str, ...] = ()
    """What a user should know, one sentence each: layers that were left out, or what differs from the variant."""
