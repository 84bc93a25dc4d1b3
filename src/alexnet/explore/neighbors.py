"""The indexed images that are nearest to others: by a network's activations, and by raw pixels, as in figure 4 (right).

Paper: section 6.1.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from alexnet.data.dataset import PreparedData
from alexnet.data.dataset_files import NO_LABEL
from alexnet.data.download import Downloads
from alexnet.data.image_inputs import list_named
from alexnet.data.photographs import ImageInput
from alexnet.errors import RequestError
from alexnet.explore.approximate_index import ApproximateIndex
from alexnet.explore.binary_codes import CodeSearch, require_rerank
from alexnet.explore.code_files import open_codes
from alexnet.explore.features import features
from alexnet.explore.image_source import file_versions, require_fitting
from alexnet.explore.nearest import ABSENT, Nearest, nearest
from alexnet.explore.stored_images import PixelRows, StoredDigests, as_stored, first_row, pixel_rows
from alexnet.explore.vector_index import VectorIndex, opened_index
from alexnet.figures.neighbor_rows import NeighborRows, NeighborTile, neighbor_rows_figure
from alexnet.figures.notebook_html import pictures_html, result_html
from alexnet.model.weights import Trained, load_trained
from alexnet.storage.paths import StrPath, StrPaths, as_path
from alexnet.system.device import Device
from alexnet.system.progress import ShowProgress, counted

MOST_DRAWN = 20
"""Queries in a picture."""


@dataclass(frozen=True)
class Neighbor:
    """An indexed image near a query."""

    row: int
    """Of the index."""
    key: str
    """Its name in its data set."""
    class_id: str | None
    class_name: str | None
    distance: float
    """Euclidean; of a search by codes that are not ordered exactly, the number of bits that differ."""
    is_duplicate: bool
    """Whether it is stored as the same bytes as the query."""

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "row": self.row,
            "key": self.key,
            "class": self.class_id,
            "name": self.class_name,
            "distance": self.distance,
            "duplicate": self.is_duplicate,
        }


@dataclass(frozen=True, eq=False)
class QueryNeighbors:
    """A query and its neighbors, the nearest first."""

    name: str
    """Its file, or its name in its data set."""
    image: NDArray[np.uint8]
    """uint8 (S, S, 3), RGB, as the data set of the index would store it."""
    class_id: str | None
    """None if it is not known: a photograph that is not in the index."""
    class_name: str | None
    left_out: str | None
    """The key of the indexed image that is the query itself, which is no neighbor."""
    by_features: tuple[Neighbor, ...]
    by_pixels: tuple[Neighbor, ...] | None
    """None if pixels were not compared."""

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "image": self.name,
            "class": self.class_id,
            "name": self.class_name,
            "left_out": self.left_out,
            "neighbors": [one.to_dict() for one in self.by_features],
            "pixel_neighbors": None if self.by_pixels is None else [one.to_dict() for one in self.by_pixels],
        }


_MEASURES: dict[str, Callable[[QueryNeighbors], tuple[Neighbor, ...]]] = {
    "features": lambda one: one.by_features,
    "pixels": lambda one: one.by_pixels or (),
}


@dataclass(frozen=True, eq=False)
class Neighbors:
    """Queries with their neighbors."""

    queries: tuple[QueryNeighbors, ...]
    index: VectorIndex
    num: int
    """Neighbors that were asked for; an index of fewer images gives fewer."""
    approximate: ApproximateIndex | None = None
    """What searched the features; None is an exact search. Pixels are always compared exactly."""
    codes: CodeSearch | None = None
    """The same, of a search by binary codes."""

    def __getitem__(self, which: int) -> QueryNeighbors:
        return self.queries[which]

    def __len__(self) -> int:
        return len(self.queries)

    def __repr__(self) -> str:
        return f"Neighbors({len(self):,} queries, {self.num} nearest of {len(self.index):,} images, {self.index.layer})"

    def _repr_html_(self) -> str:
        parts = []
        for one in self.queries[:MOST_DRAWN]:
            pictures = [(one.image, f"query: {one.class_name or one.name}")]
            pictures += [
                (self.index.image(other.row), f"{other.class_name or other.key}, {self._distance(other)}")
                for other in one.by_features
            ]
            parts.append(pictures_html(pictures, side=96))
        return result_html(self.title, *parts)

    @property
    def title(self) -> str:
        """What a picture of these shows."""
        return f"The nearest of {len(self.index):,} images of {self.index.split}"

    def describe(self) -> str:
        """What is seen, in one sentence."""
        by = self.index.layer if self.queries[0].by_pixels is None else f"{self.index.layer} and by raw pixels"
        queries = "1 query" if len(self) == 1 else f"{len(self):,} queries"
        text = f"{queries} and the {self.num} nearest of {len(self.index):,} images of {self.index.split}, by {by}"
        known = [one for one in self.queries if one.class_id is not None]
        if not known:
            return text
        same = [
            f"{sum(other.class_id == one.class_id for one in known for other in found(one))} of "
            f"{sum(len(found(one)) for one in known)} by {measure}"
            for measure, found in _MEASURES.items()
            if all(found(one) for one in known)
        ]
        return f"{text}; of the query's class are {', '.join(same)}"

    def to_dict(self) -> dict[str, Any]:
        """What `alexnet neighbors --json` prints."""
        return {
            "index": str(self.index.folder),
            "layer": self.index.layer,
            "split": self.index.split,
            "indexed_images": len(self.index),
            "num": self.num,
            "approximate": None if self.approximate is None else self.approximate.description,
            "codes": None if self.codes is None else self.codes.to_dict(),
            "queries": [one.to_dict() for one in self.queries],
        }

    def figure(self) -> Figure:
        """The queries, of many the first 20, each beside its neighbors."""
        return neighbor_rows_figure(
            [self._drawn(one) for one in self.queries[:MOST_DRAWN]],
            title=self.title,
            note=self._measure_text()
            + ("" if len(self) <= MOST_DRAWN else f"; the first {MOST_DRAWN} of {len(self):,} queries")
            + ("" if self.searched_by is None else f"\n{self.searched_by}"),
        )

    @property
    def searched_by(self) -> str | None:
        """What searched the features, and how good its answers are; None of an exact search."""
        by = self.approximate or self.codes
        return None if by is None else by.describe()

    @property
    def _counts_bits(self) -> bool:
        """Whether distances by features are numbers of bits."""
        return self.codes is not None and self.codes.rerank is None

    def _measure_text(self) -> str:
        """What the distances are."""
        values = f"{self.index.layer} ({self.index.vectors.shape[1]:,} values)"
        pixels = None if self.queries[0].by_pixels is None else f"of pixels ({self.queries[0].image.size:,} values)"
        if self.codes is not None and self._counts_bits:
            text = f"bits that differ in {self.codes.codes.bits}-bit codes of {values}"
            return text if pixels is None else f"{text}, and Euclidean distance {pixels}"
        return f"Euclidean distance of {values}" + ("" if pixels is None else f" and {pixels}")

    def _distance(self, one: Neighbor) -> str:
        return f"{one.distance:.0f} bits differ" if self._counts_bits else distance_text(one)

    def _drawn(self, one: QueryNeighbors) -> NeighborRows:
        tiles = self._tiles(one, one.by_features, self._distance)
        rows = [("by features" if self.codes is None else "by codes", self.index.layer, tiles)]
        if one.by_pixels is not None:
            rows.append(("by pixels", "raw RGB", self._tiles(one, one.by_pixels, distance_text)))
        name = one.class_name or Path(one.name).name
        return NeighborRows(NeighborTile(one.image, name, "query"), rows)

    def _tiles(
        self, query: QueryNeighbors, found: Sequence[Neighbor], text: Callable[[Neighbor], str]
    ) -> list[NeighborTile]:
        return [
            NeighborTile(
                image=self.index.image(one.row),
                name=one.class_name or Path(one.key).name,
                note=text(one),
                is_same_class=one.class_id is not None and one.class_id == query.class_id,
                is_duplicate=one.is_duplicate,
            )
            for one in found
        ]


def distance_text(one: Neighbor) -> str:
    """The distance of a neighbor in four digits, as captions have it."""
    return f"distance {one.distance:,.0f}" if one.distance >= 1000 else f"distance {one.distance:#.4g}"


@dataclass(frozen=True, eq=False)
class _Queries:
    """Images to find the neighbors of."""

    names: Sequence[str]
    images: NDArray[np.uint8]
    """(Q, S, S, 3), as they are stored."""
    classes: Sequence[tuple[str, str] | None]
    """Id and name of each one's class, if it is known."""
    same: Sequence[NDArray[np.int64]]
    """For each the rows of the index that hold the same bytes."""
    own_rows: NDArray[np.int64]
    """(Q,): the row of the index that is the query itself, or `ABSENT`."""


def neighbors(
    run: StrPath,
    images: ImageInput | Iterable[ImageInput],
    *,
    index: VectorIndex | StrPath | None = None,
    num: int = 6,
    data: StrPaths | None = None,
    approximate: bool | str = False,
    codes: int | None = None,
    rerank: int | None = None,
    with_pixels: bool = True,
    batch_size: int | None = None,
    device: Device = "auto",
    progress: ShowProgress = None,
) -> Neighbors:
    """The images of an index that are nearest to photographs, by Euclidean distance of their activations.

    A photograph that is in the index (its stored bytes are the same) is left out of its own neighbors; further copies
    are marked.

    Args:
        run: a run folder or a weights file.
        images: one image or many, as `features` takes them.
        index: an opened index, or its folder; None is `index` in the run folder.
        num: neighbors of each.
        data: the data set of the index, if it was moved.
        approximate: search features by the approximate index that `alexnet.index(run, approximate=...)` made: `hnsw`,
            `ivf-pq`, or True for the one that there is (of two, `hnsw`).
        codes: search features by the binary codes of this length, which `alexnet.codes` made; distances are then
            numbers of bits, unless `rerank` is given.
        rerank: order this many nearest codes by Euclidean distance, and take the nearest of them.
        with_pixels: also find the nearest by raw pixels of the stored images, RGB 0..255. That reads every image of the
            split once, whatever the number of queries: of a million images of 256 pixels, 200 GB, or their JPEG files.
        device: for the network; `auto` is a GPU if there is one.
        progress: see `ShowProgress`.

    Raises:
        RequestError: there is no index or it is of other weights, its images are not where they were, no images are
            named, or one cannot be read.
    """
    trained, opened = _opened(run, index, data, num)
    stored_in = opened.require_data()
    names, squares = _read_photographs(images, trained)
    digests = StoredDigests(stored_in, opened.split)
    same = [digests.rows_like(square) for square in squares]
    own_rows = np.array([first_row(rows) for rows in same], np.int64)
    queries = _Queries(
        names=names,
        images=np.stack([as_stored(square, stored_in) for square in squares]),
        classes=[None if row == ABSENT else _class_of(opened, row) for row in own_rows.tolist()],
        same=same,
        own_rows=own_rows,
    )
    search = _search(opened, num, approximate, codes, rerank)
    return _find(opened, trained, queries, num, search, with_pixels, batch_size, device, progress)


def neighbors_of_rows(
    run: StrPath,
    data: PreparedData,
    split: str,
    rows: Sequence[int],
    *,
    index: VectorIndex | StrPath | None = None,
    num: int = 6,
    approximate: bool | str = False,
    codes: int | None = None,
    rerank: int | None = None,
    with_pixels: bool = True,
    batch_size: int | None = None,
    device: Device = "auto",
    progress: ShowProgress = None,
) -> Neighbors:
    """As `neighbors`, of images of a split, whose classes are known.

    Args:
        data: any data set. An image that is in the index (its stored bytes are the same) is left out of its own
            neighbors.
        split: of `data`.
        rows: which of its images.
    """
    trained, opened = _opened(run, index, None, num)
    opened.require_data()
    images = data.require_split(split)
    if not rows or min(rows) < 0 or max(rows) >= len(images):
        raise RequestError(f"rows are {list(rows)[:5]}; allowed are one or more of 0 to {len(images) - 1}")
    require_fitting(data, trained)
    digests = StoredDigests(opened.require_data(), opened.split)
    of_split = StoredDigests(data, split)
    labels = [int(images.labels[row]) for row in rows]
    queries = _Queries(
        names=[images.keys[row] for row in rows],
        images=np.stack([np.asarray(images.images[row]) for row in rows]),
        classes=[None if one == NO_LABEL else (data.classes[one].id, data.classes[one].name) for one in labels],
        same=[digests.rows_equal(of_split, row) for row in rows],
        own_rows=np.array([digests.own_row(of_split, row) for row in rows], np.int64),
    )
    search = _search(opened, num, approximate, codes, rerank)
    return _find(opened, trained, queries, num, search, with_pixels, batch_size, device, progress)


def _opened(
    run: StrPath, index: VectorIndex | StrPath | None, data_folder: StrPaths | None, num: int
) -> tuple[Trained, VectorIndex]:
    """The network and its index."""
    if isinstance(num, bool) or not isinstance(num, int) or num < 1:
        raise RequestError(f"--num is {num!r}; allowed is a whole number, 1 or more")
    run = as_path(run, "the run")
    trained = load_trained(run)
    return trained, opened_index(run, index, trained, data_folder=data_folder)


def _read_photographs(
    images: ImageInput | Iterable[ImageInput], trained: Trained
) -> tuple[list[str], list[NDArray[np.uint8]]]:
    """Names and squares, uint8 (S, S, 3), of photographs."""
    downloads = Downloads(are_options=False)
    try:
        listed = list_named(images, downloads)
        if not listed:
            raise RequestError("no image is named; name one or more")
        file_versions(listed)
        squares = [one.square(trained.side, trained.fit) for one in listed]
    finally:
        downloads.close()
    return [one.name if isinstance(one.name, str) else f"image {one.name}" for one in listed], squares


def _class_of(index: VectorIndex, row: int) -> tuple[str, str] | None:
    """Id and name of the class of an indexed image."""
    label = NO_LABEL if index.labels is None else int(index.labels[row])
    return None if label == NO_LABEL else (index.classes[label], index.class_names[label])


def _search(
    index: VectorIndex, num: int, approximate: bool | str, codes: int | None, rerank: int | None
) -> ApproximateIndex | CodeSearch | None:
    """What searches the features; None is an exact search."""
    if codes is None:
        if rerank is not None:
            raise RequestError("--rerank orders what codes find; name their length with --codes, or omit it")
        return index.approximate(None if approximate is True else approximate) if approximate else None
    if approximate:
        raise RequestError("both --approximate and --codes are given; search by one of them")
    if isinstance(codes, bool) or not isinstance(codes, int):
        raise RequestError(f"--codes is {codes!r}; allowed is the number of bits of codes that `alexnet codes` made")
    return CodeSearch(open_codes(index, codes), require_rerank(rerank, num))


def _find(
    index: VectorIndex,
    trained: Trained,
    queries: _Queries,
    num: int,
    search: ApproximateIndex | CodeSearch | None,
    with_pixels: bool,
    batch_size: int | None,
    device: Device,
    progress: ShowProgress,
) -> Neighbors:
    vectors = features(
        trained,
        queries.images,
        index.layer,
        batch_size=batch_size,
        device=device,
        precision=index.description["precision"],
        progress=False,
    )[index.layer].reshape(len(queries.names), -1)
    if isinstance(search, ApproximateIndex):
        found = search.nearest(vectors, num, queries.own_rows)
    elif search is not None:
        found = search.codes.nearest(vectors, num, rerank=search.rerank, exclude=queries.own_rows)
    else:
        with counted("neighbors", shown=progress) as update:
            found = nearest(index.vectors, vectors, num, exclude=queries.own_rows, progress=update)
    found_by_pixels = None
    if with_pixels:
        pixels, split = pixel_rows(queries.images), index.require_data().splits[index.split]
        with counted("neighbors by pixels", shown=progress) as update:
            found_by_pixels = nearest(PixelRows(split), pixels, num, exclude=queries.own_rows, progress=update)
    return Neighbors(
        queries=tuple(
            QueryNeighbors(
                name=name,
                image=queries.images[number],
                class_id=None if one is None else one[0],
                class_name=None if one is None else one[1],
                left_out=None if own == ABSENT else index.keys[own],
                by_features=_neighbors(index, found, number, same),
                by_pixels=None if found_by_pixels is None else _neighbors(index, found_by_pixels, number, same),
            )
            for number, (name, one, own, same) in enumerate(
                zip(queries.names, queries.classes, queries.own_rows.tolist(), queries.same, strict=True)
            )
        ),
        index=index,
        num=num,
        approximate=search if isinstance(search, ApproximateIndex) else None,
        codes=search if isinstance(search, CodeSearch) else None,
    )


def _neighbors(index: VectorIndex, found: Nearest, number: int, same: NDArray[np.int64]) -> tuple[Neighbor, ...]:
    """The neighbors of query `number`."""
    result = []
    for row, distance in zip(found.indices[number].tolist(), found.distances[number].tolist(), strict=True):
        if row != ABSENT:
            class_id, class_name = _class_of(index, row) or (None, None)
            is_duplicate = bool((same == row).any())
            result.append(Neighbor(row, index.keys[row], class_id, class_name, distance, is_duplicate))
    return tuple(result)
