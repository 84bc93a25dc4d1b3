"""Photographs as the network takes them: square, cropped, minus the mean."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from alexnet.data.augment import MeanAt, crop_view
from alexnet.data.augment import views as crops_of
from alexnet.data.decode import Fit
from alexnet.data.photographs import ImageInput, square_images
from alexnet.model.weights import Trained, load_trained
from alexnet.storage.paths import StrPath, as_path

PAPER_SIDE_PX, PAPER_CROP_PX = 256, 224
"""Paper: sections 2 and 4.1."""
IMAGENET_MEAN_COLOR = (123.675, 116.28, 103.53)
"""RGB, 0..255: 255 times (0.485, 0.456, 0.406), the mean color of ImageNet's training photographs with which
torchvision's published networks are trained (its documentation of `IMAGENET1K_V1` weights)."""


@dataclass(frozen=True, eq=False)
class _Preprocessing:
    """What `Trained` says of it; without a training the paper's sizes and a mean color."""

    mean_image: torch.Tensor
    crop: int
    mean_at: MeanAt = "crop"
    fit: Fit = "crop"


def preprocess(
    images: ImageInput | Iterable[ImageInput], run: Trained | StrPath | None = None, *, views: int = 1
) -> torch.Tensor:
    """Photographs as input of a network, with the bits that `evaluate` and `predict` give it.

    Each is turned upright, made square, and cropped, and the mean is subtracted from the crop. With views,
    `network(batch.flatten(0, 1)).softmax(dim=1).unflatten(0, (-1, views)).mean(dim=1)` are the probabilities,
    up to rounding: those of `predict(..., precision="float32")` within 0.000001.

    Args:
        images: one image or many, of any types, see `ImageInput`: paths, images of Pillow, uint8 or floating-point
            arrays (H, W, 3) and tensors (3, H, W) of any size; also a batch of arrays or tensors.
        run: a run folder, a weights file, or what `alexnet.load` returned: its sizes, mean image and way of making
            photographs square. Without it, the paper's: the shorter side resized to 256 pixels, crops of 224 of the
            central square, and, in place of a mean image, `IMAGENET_MEAN_COLOR`.
        views: crops per image: 1 (the center), 9 (three by three) or 10 (corners and center, each also mirrored).

    Returns:
        float32 (N, 3, C, C), RGB, -255..255, on the CPU; with 9 or 10 views (N, views, 3, C, C).

    Raises:
        RequestError: an image cannot be read or is of no allowed form, no trained network, or another number of views.

    Paper: sections 2 and 4.1.
    """
    if run is None:
        mean_image = torch.tensor(IMAGENET_MEAN_COLOR).expand(PAPER_SIDE_PX, PAPER_SIDE_PX, 3)
        how: Trained | _Preprocessing = _Preprocessing(mean_image, PAPER_CROP_PX)
    else:
        how = run if isinstance(run, Trained) else load_trained(as_path(run, "the run"))
    side = how.mean_image.shape[0]
    chosen = crops_of(views, side, how.crop)
    squares = torch.from_numpy(square_images(images, side, how.fit))  # (N, S, S, 3)
    mean_image = how.mean_image.cpu()
    crops = [crop_view(squares, view, how.crop, mean_image, how.mean_at) for view in chosen]
    return crops[0] if views == 1 else torch.stack(crops, dim=1)
