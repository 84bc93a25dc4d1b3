"""The nearest indexed images of a few evaluated ones, on a page. Paper: figure 4 (right)."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from markupsafe import Markup

from alexnet.data.dataset import PreparedData
from alexnet.data.sampler import evenly_spaced
from alexnet.data.shards import UnreadableSample
from alexnet.errors import AlexNetError
from alexnet.explore.found_neighbors import Neighbor, Neighbors, QueryNeighbors, distance_text
from alexnet.explore.neighbors import neighbors_of_rows
from alexnet.explore.vector_index import VectorIndex, has_index, open_index
from alexnet.figures.contact_sheet import shrink, thumbnail_html
from alexnet.report.answered_images import AnsweredImages
from alexnet.report.contents import Section
from alexnet.runs.folder import RunFolder
from alexnet.runs.import_recipe import ImportRecipe
from alexnet.storage.typed_files import DamagedFile
from alexnet.system.visible_text import shell_words

NUM_QUERIES = 3
NUM_NEIGHBORS = 6
_SIDE_PX = 128

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NeighborPicture:
    """An image of a row."""

    picture: Markup
    name: str
    note: str
    is_same_class: bool = False


@dataclass(frozen=True)
class NeighborSection:
    """Rows of pictures, or the reason why there are none."""

    rows: Sequence[tuple[NeighborPicture, Sequence[NeighborPicture]]] = ()
    """Each a query and its neighbors, the nearest first."""
    missing: str = ""
    note: str = ""


def neighbor_section(run: RunFolder, answers: AnsweredImages | Section) -> NeighborSection | None:
    """The neighbors of three evaluated images in the run's index; None of a run without a trained network.

    An index is never made here: the page says how.
    """
    recipe = run.any_recipe()
    is_import = isinstance(recipe, ImportRecipe)
    if not run.weights.is_file() or (isinstance(recipe, ImportRecipe) and recipe.network.untrained_layers):
        return None
    if not has_index(run.path):
        command = shell_words("alexnet", "index", run.path, *(["DATA"] if is_import else []))
        return NeighborSection(
            missing=f"This run has no index of images. Make one with {command}, and write the report again."
        )
    if isinstance(answers, Section):
        return NeighborSection(missing=answers.missing)
    num = len(answers.labels)
    rows = evenly_spaced(np.arange(num), NUM_QUERIES).tolist()
    try:
        found = neighbors_of_rows(
            run.path,
            answers.data,
            answers.split,
            rows,
            index=_opened_index(run, answers.data),
            num=NUM_NEIGHBORS,
            with_pixels=False,
            progress=False,
        )
        pictures = [_row(found, one) for one in found.queries]
    except (AlexNetError, UnreadableSample) as error:
        if isinstance(error, DamagedFile | UnreadableSample):
            _logger.warning(f"the report shows no neighbors: {error}")
        return NeighborSection(missing=f"The neighbors cannot be shown: {error}.")
    near = [one for _, row in pictures for one in row]
    same = sum(one.is_same_class for one in near)
    has_classes = any(other.class_id is not None for one in found.queries for other in one.by_features)
    return NeighborSection(
        pictures,
        note=f"Euclidean distance of {found.index.layer}, {found.index.vectors.shape[1]:,} values, to "
        f"{len(found.index):,} images of split {found.index.split}; the queries are evenly spaced in split "
        f"{answers.split}."
        + (f" Of the {len(near)} neighbors, {same} have the class of their query." if has_classes else ""),
    )


def _opened_index(run: RunFolder, data: PreparedData) -> VectorIndex:
    """The index of a run; its images may be those of `data`, wherever that is now."""
    index = open_index(run.path)
    if index.data is None and index.description["data_checksum"] == data.checksum and index.split in data.splits:
        return replace(index, data=data)
    return index


def _row(found: Neighbors, query: QueryNeighbors) -> tuple[NeighborPicture, list[NeighborPicture]]:
    name = query.class_name or query.name
    first = NeighborPicture(_picture(query.image, f"Query {query.name}, {name}", query.name), name, "query")
    return first, [_neighbor(found, query, one) for one in query.by_features]


def _neighbor(found: Neighbors, query: QueryNeighbors, one: Neighbor) -> NeighborPicture:
    name = one.class_name or one.key
    picture = _picture(found.index.image(one.row), f"Neighbor {one.key}, {name}", one.key)
    note = distance_text(one) + (", the same image" if one.is_duplicate else "")
    return NeighborPicture(picture, name, note, one.class_id is not None and one.class_id == query.class_id)


def _picture(image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], alt: str, key: str) -> Markup:
    return Markup(thumbnail_html(shrink(image, _SIDE_PX), alt, key))
