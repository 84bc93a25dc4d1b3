"""Explain why a network gives images their classes: read them, compute what is shown, find near training images."""

import difflib
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from alexnet.data.augment import View, crop_view, views
from alexnet.data.dataset import ClassInfo
from alexnet.data.download import Downloads
from alexnet.data.image_inputs import list_images
from alexnet.data.photographs import ImageInput
from alexnet.errors import AlexNetError, RequestError
from alexnet.evaluation.classify import ClassifiedImage, Ranking
from alexnet.explore.attribution import guided_gradients, score_gradients, unguided_reason
from alexnet.explore.explanation import Explanation, Explanations, NearTrainingImage
from alexnet.explore.neighbors import neighbors
from alexnet.explore.occlusion import OcclusionGrid, occlusion_map
from alexnet.explore.vector_index import VectorIndex, has_index, open_index
from alexnet.model.inference import inference_network
from alexnet.model.weights import Trained, load_trained, name_of
from alexnet.storage.arguments import is_whole
from alexnet.storage.paths import StrPath, StrPaths, as_path, described
from alexnet.system.device import Device, arithmetic, choose_device, evaluation_batch_size
from alexnet.system.progress import ShowProgress, counted
from alexnet.system.visible_text import shell_words

MAX_IMAGES = 20
"""Of one call: a picture of more is not looked at, and a PNG has a largest height."""
NUM_NEAR = 6
"""Nearest training images of each, as in figure 4 of the paper."""
_NUM_SUGGESTIONS = 3

_logger = logging.getLogger(__name__)


def explain(
    run: Trained | StrPath,
    images: ImageInput | Iterable[ImageInput],
    *,
    class_name: str | None = None,
    patch: int | None = None,
    stride: int | None = None,
    index: StrPath | None = None,
    data: StrPaths | None = None,
    batch_size: int | None = None,
    device: Device = "auto",
    progress: ShowProgress = None,
) -> Explanations:
    """Show why a network gives images their classes. One that cannot be read does not end the work.

    Everything is computed in float32 for one view, the central crop. Neither the network nor its hooks change.

    Args:
        run: a run folder, a weights file, or what `alexnet.load` returned.
        images: one image or up to 20, as `predict` takes them: files, folders, patterns, tars, zips, URLs, images of
            Pillow, arrays, tensors, see `list_images`.
        class_name: id or name of the class to explain, for all images; None is each image's most probable one.
        patch: side of the patch that hides a part of the view, pixels; None is a seventh of the view, 32 of 224.
        stride: from one place of the patch to the next, pixels, up to `patch`; None is a quarter of the patch.
        index: of the training images, among which the nearest are shown; None is that in the run folder, if any.
        data: where the index's data set is now, if it was moved.
        batch_size: occluded views that the network takes at once; None suits the device.
        device: `auto` is a GPU if there is one. The network stays on its own device.
        progress: see `ShowProgress`; a function is called with (places of patches done, places in total).

    Raises:
        RequestError: no trained network, no image that can be read, an unknown class, or an argument that is not
            allowed.
        WorkError: the network's scores are not finite.
        TemporaryError: the machine or the drive failed.
    """
    trained = run if isinstance(run, Trained) else load_trained(run)
    path = None if isinstance(run, Trained) else as_path(run, "the run")
    trained.require_trained(run="RUN" if path is None else path)
    class_index = None if class_name is None else find_class(trained.classes, class_name)
    grid = OcclusionGrid.of(trained.crop, patch, stride)
    chosen_device = choose_device(device)
    if batch_size is None:
        batch_size = evaluation_batch_size(chosen_device, trained.side)
    if not is_whole(batch_size, 1):
        raise RequestError(f"--batch-size is {described(batch_size)}; allowed is 1 or more")
    opened, near_title = _training_images(path, trained, index, data)
    squares, refused = _read(images, trained)
    (view,) = views(1, trained.side, trained.crop)
    explanations = []
    with (
        inference_network(trained.network, chosen_device, "float32") as network,
        counted("explaining", shown=progress) as update,
    ):
        unguided = unguided_reason(network)
        for number, (name, square) in enumerate(squares):

            def count(done: int, before: int = number * grid.num_places) -> None:
                update(before + done, len(squares) * grid.num_places)

            explain_one = _Explainer(trained, network, view, grid, chosen_device, batch_size, unguided is None)
            explanations.append(explain_one(name, square, class_index, count))
    if opened is not None and path is not None:
        explanations = _with_near_images(explanations, path, opened, chosen_device)
    return Explanations(
        explanations=tuple(explanations),
        refused=tuple(refused),
        title=f"{trained.network.variant} network" if path is None else name_of(path),
        network=_describe(trained),
        num_classes=len(trained.classes),
        unguided_reason=unguided,
        near_title=near_title,
    )


def find_class(classes: Sequence[ClassInfo], wanted: str) -> int:
    """The index of a class that a user names: by its id, its name, or one of several names that commas separate.

    Raises:
        RequestError: there is no such class, and what is named similarly; or several have this name.
    """
    by_id = {one.id: number for number, one in enumerate(classes)}
    if wanted in by_id:
        return by_id[wanted]
    exact = [number for number, one in enumerate(classes) if one.name == wanted]
    folded = wanted.casefold().strip()
    names = [{one.id.casefold(), one.name.casefold(), *_synonyms(one.name)} for one in classes]
    found = exact or [number for number, several in enumerate(names) if folded in several]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(classes[number].id for number in found)
        raise RequestError(f"--class is {wanted!r}, the name of {len(found)} classes; give the id of one: {ids}")
    close = difflib.get_close_matches(folded, sorted(set().union(*names)), _NUM_SUGGESTIONS)
    shown = [next(one.name for one, several in zip(classes, names, strict=True) if near in several) for near in close]
    likely = ", ".join(repr(one) for one in dict.fromkeys(shown))
    some = ", ".join(repr(one.name) for one in classes[:_NUM_SUGGESTIONS])
    raise RequestError(
        f"--class is {wanted!r}, which is not one of the network's {len(classes):,} classes; "
        + (f"did you mean {likely}?" if likely else f"give an id or a name, such as {some}")
    )


def _synonyms(name: str) -> list[str]:
    return [one.strip() for one in name.casefold().split(",")]


def _describe(trained: Trained) -> str:
    """The network and its view in words."""
    origin = "trained on" if trained.untrained_seed is None else "RANDOM weights, not trained; classes of"
    return (
        f"{trained.network.variant}, {origin} {trained.title}"
        f"{' (generated images)' if trained.generated else ''}; one view: the central {trained.crop} × {trained.crop} "
        f"of {trained.side} × {trained.side} pixels"
    )


def _read(
    images: ImageInput | Iterable[ImageInput], trained: Trained
) -> tuple[list[tuple[str | int, NDArray[np.uint8]]], list[tuple[str | int, str]]]:
    """The images that can be read, as squares, and the others with reasons."""
    squares: list[tuple[str | int, NDArray[np.uint8]]] = []
    refused: list[tuple[str | int, str]] = []
    downloads = Downloads(are_options=False)
    with closing(downloads):
        listed = list(islice(list_images(images, downloads), MAX_IMAGES + 1))
        if len(listed) > MAX_IMAGES:
            raise RequestError(f"more than {MAX_IMAGES} images are named; allowed is up to {MAX_IMAGES} at a time")
        if not listed:
            raise RequestError("no images given; pass one or more")
        for one in listed:
            try:
                squares.append((one.name, one.square(trained.side, trained.fit)))
            except RequestError as error:
                refused.append((one.name, str(error)))
    if not squares:
        several = "" if len(refused) == 1 else f"none of the {len(refused)} images can be read: "
        raise RequestError(several + refused[0][1])
    return squares, refused


@dataclass(frozen=True)
class _Explainer:
    """Explains one image after the other."""

    trained: Trained
    network: nn.Module
    view: View
    grid: OcclusionGrid
    device: torch.device
    batch_size: int
    has_guided: bool

    def __call__(
        self, name: str | int, square: NDArray[np.uint8], class_index: int | None, count: Callable[[int], None]
    ) -> Explanation:
        trained, batch = self.trained, torch.from_numpy(square[None]).to(self.device)
        pixels = crop_view(batch, self.view, trained.crop, trained.mean_image, trained.mean_at)  # (1, 3, C, C)
        with arithmetic(self.device, "float32"):
            with torch.inference_mode():
                scores = self.network(pixels).float().cpu()[0]
            probabilities = scores.double().softmax(0).numpy()
            order = np.argsort(-probabilities, kind="stable")
            chosen = int(order[0]) if class_index is None else class_index
            occlusion = occlusion_map(
                self.network, pixels[0], chosen, self.grid, batch_size=self.batch_size, progress=count
            )
            classes = torch.tensor([chosen])
            gradient = score_gradients(self.network, pixels, classes)
            guided = guided_gradients(self.network, pixels, classes) if self.has_guided else None
        classified = ClassifiedImage(name, square, probabilities.astype(np.float32))
        return Explanation(
            image=name,
            square=square,
            corner=(self.view.row, self.view.column),
            top=Ranking.of(trained)(classified).top,
            explained=trained.classes[chosen],
            rank=int(np.flatnonzero(order == chosen)[0]) + 1,
            score=float(scores[chosen]),
            occlusion=occlusion,
            gradient=gradient[0].cpu().numpy(),
            guided_gradient=None if guided is None else guided[0].cpu().numpy(),
        )


def _training_images(
    run: Path | None, trained: Trained, folder: StrPath | None, data: StrPaths | None
) -> tuple[VectorIndex | None, str]:
    """The index of the training images and what it is; or None and why there is none.

    An index that is named, or whose data set is named, must fit; another one that does not is left out with a warning.
    """
    is_wanted = folder is not None or data is not None
    if trained.untrained_seed is not None:
        if is_wanted:
            raise RequestError("an index is of trained weights, and these are not trained; omit --index and --data")
        return None, "An index is of trained weights, so there are no nearest training images."
    if run is None:
        if is_wanted:
            raise RequestError("an index needs the run that it was made of; pass the run folder or the weights file")
        return None, "Name a run folder to see the nearest training images of its index."
    if not is_wanted and not has_index(run):
        command = shell_words("alexnet", "index", run)
        return None, f"To see the nearest training images here, index them first: {command}"
    try:
        index = open_index(run, folder, data_folder=data, trained=trained)
        index.require_data()
    except AlexNetError as error:
        if is_wanted:
            raise
        _logger.warning(f"there are no nearest training images: {error}")
        return None, f"There are no nearest training images: {error}"
    return index, f"Nearest of {len(index):,} images of split {index.split}, by Euclidean distance of {index.layer}"


def _with_near_images(
    explanations: Sequence[Explanation], run: Path, index: VectorIndex, device: torch.device
) -> list[Explanation]:
    """The explanations with the nearest images of an index."""
    squares = [one.square for one in explanations]
    found = neighbors(run, squares, index=index, num=NUM_NEAR, with_pixels=False, device=device, progress=False)
    return [
        replace(one, near=tuple(NearTrainingImage(near, index.image(near.row)) for near in query.by_features))
        for one, query in zip(explanations, found.queries, strict=True)
    ]
