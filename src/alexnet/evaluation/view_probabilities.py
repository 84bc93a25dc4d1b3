"""A network's class probabilities for images, averaged over views: what evaluations and predictions have in common."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch

from alexnet.data.augment import MeanAt, View, crop_view, views
from alexnet.errors import RequestError, WorkError
from alexnet.evaluation.predictions import NumViews
from alexnet.model.inference import inference_network
from alexnet.model.network import AlexNet
from alexnet.model.sliding import class_maps
from alexnet.system.device import Precision, arithmetic

DIVERGED = "its training has diverged; train again with a lower learning rate"


@contextmanager
def view_probabilities(
    network: torch.nn.Module,
    num_views: NumViews,
    side: int,
    crop: int,
    mean_image: torch.Tensor,
    mean_at: MeanAt,
    *,
    num_classes: int,
    classes_in: object,
    device: torch.device,
    precision: Precision,
) -> Iterator[Callable[..., torch.Tensor]]:
    """Within the block, the network classifies images; it stays as it is, see `inference_network`.

    Args:
        network: on any device.
        num_views, mean_image, mean_at, precision: see `predict_split`.
        side: of the images, pixels.
        crop: side of a view, pixels.
        classes_in: what has the `num_classes` classes, such as a folder, for the message if they are not the network's.

    Yields:
        A function of a batch, uint8 (B, side, side, 3) on any device, that returns float32 (B, K) on `device`: the mean
        of the softmax over the views. Its second argument is the number of views that the network takes at once, 1 by
        default; the result depends on it only by rounding. The third is called with each view and its probabilities.

    Raises:
        RequestError: a number of views that is not allowed.
        WorkError: the network scores another number of classes.

    Paper: section 4.1.
    """
    view_px, chosen = _views(network, num_views, side, crop)
    num_axes = 4 if num_views == "dense" else 2
    mean_image = mean_image.to(device)

    def probabilities(
        images: torch.Tensor, views_at_once: int = 1, each: Callable[[View, torch.Tensor], object] | None = None
    ) -> torch.Tensor:
        with torch.inference_mode():
            batch = images.to(device, non_blocking=True)
            total = torch.zeros(len(batch), num_classes, device=device)
            for first in range(0, len(chosen), views_at_once):
                crops = [
                    crop_view(batch, view, view_px, mean_image, mean_at)
                    for view in chosen[first : first + views_at_once]
                ]
                with arithmetic(device, precision):
                    scores = score(crops[0] if len(crops) == 1 else torch.cat(crops))  # (n * B, K) or with (h, w)
                if scores.dim() != num_axes or scores.shape[:2] != (len(crops) * len(batch), num_classes):
                    raise WorkError(
                        f"the network scores {scores.shape[1 - num_axes]} classes and {classes_in} has {num_classes}; "
                        "evaluate it on the data set it was trained on"
                    )
                by_view = scores.float().softmax(dim=1).reshape(len(crops), *total.shape, -1).mean(dim=3)
                for view, one in zip(chosen[first:], by_view, strict=False):
                    total += one
                    if each is not None:
                        each(view, one)
            return total / len(chosen)

    with inference_network(network, device, precision) as ready:
        score = partial(class_maps, ready) if isinstance(ready, AlexNet) and num_views == "dense" else ready
        yield probabilities


def _views(network: torch.nn.Module, num_views: NumViews, side: int, crop: int) -> tuple[int, list[View]]:
    """The side of a view in pixels, and the views."""
    if num_views != "dense":
        return crop, views(num_views, side, crop)
    if not isinstance(network, AlexNet):
        raise RequestError(
            f"dense views slide the layers of an AlexNet over the image, and this is a {type(network).__name__}; "
            "choose 1, 9 or 10 views"
        )
    return side, [View(0, 0, mirrored) for mirrored in (False, True)]
