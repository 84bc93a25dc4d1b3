"""A network from a file of another program, before it is one of this package: its layers, and what the file says."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.data.dataset import ClassInfo
from alexnet.data.decode import Fit
from alexnet.evaluation.preprocessing import IMAGENET_MEAN_COLOR

ColorOrder = Literal["rgb", "bgr"]
InputScale = Literal["255", "1", "imagenet"]
"""What a network reads: colors 0..255, colors 0..1, or colors 0..1 divided by ImageNet's standard deviations."""
IMAGENET_STD_COLOR = (0.229, 0.224, 0.225)
"""RGB, of colors 0..1; with them torchvision's published networks are trained."""
CAFFE_MEAN_COLOR = (122.67892, 116.66877, 104.00699)
"""RGB, 0..255: the mean color of the mean image that Caffe's published networks subtract (`ilsvrc_2012_mean.npy`)."""


@dataclass(frozen=True, kw_only=True)
class InputConvention:
    """How a network reads the pixels of an image: `(color in color_order - mean) * factor`."""

    color_order: ColorOrder = "rgb"
    scale: InputScale = "255"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """RGB, 0..255, whatever `color_order` and `scale` are."""

    @property
    def factor(self) -> tuple[float, float, float]:
        """Factor on colors 0..255 minus the mean, of red, green and blue."""
        match self.scale:
            case "255":
                return (1.0, 1.0, 1.0)
            case "1":
                return (1 / 255, 1 / 255, 1 / 255)
            case "imagenet":
                red, green, blue = IMAGENET_STD_COLOR
                return (1 / (255 * red), 1 / (255 * green), 1 / (255 * blue))


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
    fit: Fit | None = None
    classes: tuple[ClassInfo, ...] | None = None
    notes: tuple[str, ...] = ()
    """What a user should know, one sentence each: layers that were left out, or what differs from the variant."""
