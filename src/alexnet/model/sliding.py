"""The network slid over images larger than its crop: class scores at every place that its window can take.

Axes: B images, C maps, H W places of an image, h w of the window, K classes; k is the side of what the dense layers
read.
"""

import torch

from alexnet.errors import RequestError
from alexnet.model.layer_specs import INPUT_MAPS, Flatten, LocallyConnected
from alexnet.model.network import AlexNet


def class_maps(network: AlexNet, images: torch.Tensor) -> torch.Tensor:
    """Class scores over a whole image: (B, 3, H, W) -> (B, K, h, w), as Sermanet et al. 2013 (OverFeat) have it.

    The convolutional layers run over the whole image once. The dense layers are convolutions there: the first one
    reads windows of k x k places, which are all the places of a crop's maps, and those behind it read one place. The
    results are as many pixels apart as the strides multiply to: 32 for `paper`, which at 256 pixels gives h = w = 2.
    At the crop's own size the result is `network(images)` with h = w = 1.

    Zeros around the maps (`padding`, `end_padding`) and windows of pooling that are cut lie at the edges of the whole
    image, not of each crop in it: where a crop has them and the image goes on, the layers read the image. So the scores
    at a place are those of the crop there only for a network that has neither; otherwise they are near them.

    Args:
        network: on the device of `images`, in evaluation mode (in training mode dropout draws for each place).
        images: floating point, RGB on the 0..255 scale less the mean image, H and W at least the network's crop.

    Raises:
        RequestError: a variant with locally connected layers, whose weights belong to the crop's places; images that
            are smaller than the crop or of another form.
    """
    variant, crop = network.variant, network.description.image_px
    if any(isinstance(layer, LocallyConnected) for layer in network.description.layers):
        raise RequestError(
            f"variant {variant!r} has locally connected layers, whose weights belong to the places of its "
            f"{crop}-pixel crop, so it cannot be slid over a larger image; measure it with --views 1, 9 or 10"
        )
    form = images.dim() == 4 and images.shape[1] == INPUT_MAPS and images.is_floating_point()
    if not form or min(images.shape[2:]) < crop:
        raise RequestError(
            f"variant {variant!r} slides over floating point (B, {INPUT_MAPS}, H, W), H and W {crop} or more, 0..255 "
            f"less the mean; got {images.dtype} of shape {tuple(images.shape)}"
        )
    read_px = next(place.reads[1] for place in network.sized_layers if isinstance(place.layer, Flatten))
    places = (1, 1)
    x = network.scale(images)
    for stage in network.passes:
        if isinstance(stage, Flatten):
            windows = x.unfold(2, read_px, 1).unfold(3, read_px, 1)  # (B, C, h, w, k, k)
            places = (windows.shape[2], windows.shape[3])
            # A row a place, its features as the layer's weights count them, maps first: the dense layers then are
            # themselves, whatever their form, and the product is that of the convolution.
            x = windows.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)  # (B h w, C k k)
        else:
            x = network.compute(stage, x)
    return x.reshape(len(images), *places, network.num_classes).permute(0, 3, 1, 2)
