"""The network applied at every position of images larger than its crop.

Axes: B images, C channels, H x W positions of an image, h x w of the crop, K classes; k is the side of the dense
layers' input.
"""

import torch

from alexnet.errors import RequestError
from alexnet.model.layer_specs import INPUT_CHANNELS, Flatten, LocallyConnected, NamedLayer, sized_layers
from alexnet.model.network import AlexNet


def class_maps(network: AlexNet, images: torch.Tensor) -> torch.Tensor:
    """Class scores over a whole image: (B, 3, H, W) -> (B, K, h, w), as in Sermanet et al. 2013 (OverFeat).

    The convolutional layers run once over the whole image. The dense layers then act as convolutions: the first one
    reads k x k windows, the positions that it reads of a crop, and the others read one position. Adjacent results are
    the product of all strides apart: 32 pixels for `paper`, so 256-pixel images give h = w = 2. At the crop's own size
    the result is `network(images)` with h = w = 1.

    Padding (`padding`, `end_padding`) and clipped pooling windows occur at the edges of the whole image, not of each
    crop in it. So the scores equal those of the crops only for a network without either; otherwise they are close.

    Args:
        network: on the device of `images`, in evaluation mode (in training mode each position has its own dropout).
        images: floating point, RGB on the 0..255 scale minus the mean image, H and W at least the network's crop.

    Raises:
        RequestError: a variant with locally connected layers, whose weights belong to positions in the crop; images
            smaller than the crop or of another shape or dtype.
    """
    variant, crop = network.variant, network.spec.image_px
    if any(isinstance(layer, LocallyConnected) for layer in network.spec.layers):
        raise RequestError(
            f"variant {variant!r} has locally connected layers, whose weights belong to positions in its {crop}-pixel "
            "crop, so it cannot slide over a larger image; use --views 1, 9 or 10"
        )
    is_batch = images.dim() == 4 and images.shape[1] == INPUT_CHANNELS and images.is_floating_point()
    if not is_batch or min(images.shape[2:]) < crop:
        raise RequestError(
            f"variant {variant!r} slides over floating point (B, {INPUT_CHANNELS}, H, W), H and W {crop} or more, "
            f"0..255 minus the mean; got {images.dtype} of shape {tuple(images.shape)}"
        )
    layers = sized_layers(network.spec, network.spec.num_classes, network.width)  # the last one's size does not matter
    dense_side = next(layer.in_side for layer in layers if isinstance(layer.spec, Flatten))
    positions = (1, 1)
    x = network.scale(images)
    for op in network.compiled_ops:
        if isinstance(op, NamedLayer) and isinstance(op.spec, Flatten):
            windows = x.unfold(2, dense_side, 1).unfold(3, dense_side, 1)  # (B, C, h, w, k, k)
            positions = (windows.shape[2], windows.shape[3])
            # One row per position, features in the order of the layer's weights: the dense layers run unchanged.
            x = windows.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)  # (B h w, C k k)
        else:
            x = network.compute(op, x)
    return x.reshape(len(images), *positions, x.shape[1]).permute(0, 3, 1, 2)
