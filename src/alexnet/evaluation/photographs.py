"""A trained network on photographs from anywhere."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alexnet.data.augment import cut_view, views
from alexnet.data.decode import UnreadableImage, decode_image, resize_and_crop
from alexnet.errors import RequestError, WorkError
from alexnet.model.weights import Trained


def classify_photographs(
    trained: Trained, paths: Sequence[Path], num_views: int = 10, num_top: int = 5
) -> list[dict[str, Any]]:
    """Name what is on each photograph, most probable class first.

    A photograph is prepared as the training images were: turned upright, shorter side to the stored size,
    central square, mean image subtracted; the probabilities of its views are averaged.

    Args:
        paths: image files of any format `alexnet prepare` reads.
        num_views: 1 (centre), 9 or 10.
        num_top: classes named for each photograph; fewer where the network knows fewer.

    Returns:
        For each path `{"image": path, "top": [{"id", "name", "probability"}, ...]}`.

    Raises:
        RequestError: a file is missing or not a readable image; nothing is returned for the others.
        WorkError: the network's scores are not finite.
    """
    chosen = views(num_views, trained.side, trained.crop)
    answers = []
    for path in paths:
        image = torch.from_numpy(_read(path, trained.side))[None]  # (1, S, S, 3) uint8
        with torch.inference_mode():
            cuts = [cut_view(image, view, trained.crop, trained.mean_image, trained.mean_at) for view in chosen]
            probabilities = torch.cat([trained.network(cut) for cut in cuts]).softmax(dim=1).mean(dim=0)  # (K,)
        if not probabilities.isfinite().all():
            raise WorkError(
                "the network gives no finite scores: its training has diverged; train again with a lower rate"
            )
        best = probabilities.topk(min(num_top, len(trained.classes)))
        top = [
            {"id": trained.classes[index].id, "name": trained.classes[index].name, "probability": round(value, 6)}
            for value, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        answers.append({"image": str(path), "top": top})
    return answers


def _read(path: Path, side: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}; name image files") from error
    try:
        # A copy: torch warns of arrays it may not write to.
        return np.array(resize_and_crop(decode_image(content, apply_orientation=True), side))
    except UnreadableImage as error:
        raise RequestError(f"{path} is not a readable image: {error}") from error
