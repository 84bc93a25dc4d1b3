"""The indexed images that are nearest to others: by a network's activations, and by raw pixels, as in figure 4 (right).

Paper: section 6.1.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alexnet.data.dataset import PreparedData
from alexnet.data.dataset_files import NO_LABEL
from alexnet.data.download import Downloads
from alexnet.data.image_inputs import list_named
from alexnet.data.photographs import ImageInput
from alexnet.errors import Interrupted, RequestError
from alexnet.explore.approximate_index import ApproximateIndex
from alexnet.explore.binary_codes import CodeSearch, require_rerank
from alexnet.explore.code_files import open_codes
from alexnet.explore.features import features
from alexnet.explore.found_neighbors import Neighbor, Neighbors, QueryNeighbors
from alexnet.explore.image_source import file_versions, photograph_reader, require_fitting
from alexnet.explore.nearest import ABSENT, Nearest, nearest
from alexnet.explore.stored_images import PixelRows, StoredDigests, as_stored, first_row, pixel_rows
from alexnet.explore.vector_index import VectorIndex, opened_index
from alexnet.model.weights import Trained, load_trained, name_of
from alexnet.storage.paths import StrPath, StrPaths, as_path
from alexnet.system.device import Device
from alexnet.system.progress import ShowProgress, counted

MAX_QUERIES = 1000
"""Of one call: their images are kept."""
_QUERIES_BYTES = 1 << 27
_Count = Callable[[int, int], None]


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
        images: one image or many, as `features` takes them, up to 1,000. One that cannot be read is left out, see
            `Neighbors.refused`.
        index: an opened index, or its folder; None is `index` in the run folder.
        num: neighbors of each.
        data: the data set of the index, if it was moved.
        approximate: search features by the approximate index that `alexnet.index(run, approximate=...)` made: `hnsw`,
            `ivf-pq`, or True for the one that there is (of two, `hnsw`).
        codes: search features by the binary codes of this length, which `alexnet.codes` made; distances are then
            numbers of bits, unless `rerank` is given.
        rerank: order this many nearest codes by Euclidean distance, and take the nearest of them.
        with_pixels: also find the nearest by raw pixels of the stored images, RGB 0..255. That reads every image of the
            split, once for up to 128 MB of queries (170 of 256 pixels): of a million images, 200 GB, or their JPEG
            files. A second time for those among very many nearly equal images.
        device: for the network; `auto` is a GPU if there is one.
        progress: see `ShowProgress`.

    Raises:
        RequestError: there is no index or it is of other weights, its images are not where they were, no images are
            named or more than 1,000, or none can be read.
    """
    is_exact = not approximate and codes is None
    trained, opened = _opened(run, index, data, num, verify_vectors=is_exact)
    stored_in = opened.require_data()
    names, squares, refused = _read_photographs(images, trained)
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
    found = _find(opened, trained, queries, num, search, with_pixels, batch_size, device, progress)
    return Neighbors(name_of(as_path(run, "the run")), found, refused, opened, num, *_kinds(search))


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
    trained, opened = _opened(run, index, None, num, verify_vectors=not approximate and codes is None)
    opened.require_data()
    images = data.require_split(split)
    if not rows or min(rows) < 0 or max(rows) >= len(images):
        raise RequestError(f"rows are {list(rows)[:5]}; allowed are one or more of 0 to {len(images) - 1}")
    _require_few(len(rows))
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
    found = _find(opened, trained, queries, num, search, with_pixels, batch_size, device, progress)
    return Neighbors(name_of(as_path(run, "the run")), found, (), opened, num, *_kinds(search))


def _opened(
    run: StrPath, index: VectorIndex | StrPath | None, data_folder: StrPaths | None, num: int, *, verify_vectors: bool
) -> tuple[Trained, VectorIndex]:
    """The network and its index."""
    if isinstance(num, bool) or not isinstance(num, int) or num < 1:
        raise RequestError(f"--num is {num!r}; allowed is a whole number, 1 or more")
    run = as_path(run, "the run")
    trained = load_trained(run)
    return trained, opened_index(run, index, trained, data_folder=data_folder, verify_vectors=verify_vectors)


def _read_photographs(
    images: ImageInput | Iterable[ImageInput], trained: Trained
) -> tuple[list[str], NDArray[np.uint8], tuple[tuple[str, str], ...]]:
    """Names and squares, uint8 (Q, S, S, 3), of the photographs that can be read, and the others with reasons."""
    downloads = Downloads(are_options=False)
    with closing(downloads):
        listed = list_named(images, downloads)
        if not listed:
            raise RequestError("no images are given; pass one or more")
        _require_few(len(listed))
        file_versions(listed)
        squares, unreadable = photograph_reader(listed, trained)(0, len(listed))
    if not len(squares):
        several = "" if len(listed) == 1 else f"none of the {len(listed):,} images can be read: "
        raise RequestError(several + unreadable[0][1])
    names = [one.name if isinstance(one.name, str) else f"image {one.name}" for one in listed]
    refused = dict(unreadable)
    readable = [name for number, name in enumerate(names) if number not in refused]
    return readable, squares, tuple((names[number], reason) for number, reason in unreadable)


def _require_few(num: int) -> None:
    if num > MAX_QUERIES:
        raise RequestError(
            f"{num:,} images are given; allowed is up to {MAX_QUERIES:,} at a time. To measure a whole split, name it "
            "with --split"
        )


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
) -> tuple[QueryNeighbors, ...]:
    def by_features(part: slice, count: _Count) -> Nearest:
        own_rows = queries.own_rows[part]
        vectors = features(
            trained,
            queries.images[part],
            index.layer,
            batch_size=batch_size,
            device=device,
            precision=index.description["precision"],
            progress=False,
        )[index.layer].reshape(len(own_rows), -1)
        if isinstance(search, ApproximateIndex):
            return search.nearest(vectors, num, own_rows)
        if search is not None:
            return search.codes.nearest(vectors, num, rerank=search.rerank, exclude=own_rows)
        return nearest(index.vectors, vectors, num, exclude=own_rows, progress=count)

    def by_pixels(part: slice, count: _Count) -> Nearest:
        rows = PixelRows(index.require_data().splits[index.split])
        return nearest(rows, pixel_rows(queries.images[part]), num, exclude=queries.own_rows[part], progress=count)

    found = _in_parts(queries, index.vectors.shape[1], by_features, "comparing features", progress)
    found_by_pixels = None
    if with_pixels:
        try:
            found_by_pixels = _in_parts(queries, queries.images[0].size, by_pixels, "comparing pixels", progress)
        except KeyboardInterrupt as error:
            raise Interrupted("interrupted while comparing pixels, which --no-pixels omits") from error
    return tuple(
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
    )


def _in_parts(
    queries: _Queries, length: int, search: Callable[[slice, _Count], Nearest], title: str, shown: ShowProgress
) -> Nearest:
    """Search for as many queries at once as fit in the memory for their vectors, float32 of some length."""
    at_once = max(1, _QUERIES_BYTES // (4 * length))
    firsts = range(0, len(queries.names), at_once)
    found = []
    with counted(title, shown=shown) as update:
        for number, first in enumerate(firsts):

            def count(done: int, total: int, passes: int = number) -> None:
                update(passes * total + done, len(firsts) * total)

            found.append(search(slice(first, first + at_once), count))
    return Nearest(np.concatenate([one.indices for one in found]), np.concatenate([one.distances for one in found]))


def _kinds(search: ApproximateIndex | CodeSearch | None) -> tuple[ApproximateIndex | None, CodeSearch | None]:
    """What searched, as `Neighbors` has it."""
    return (
        search if isinstance(search, ApproximateIndex) else None,
        search if isinstance(search, CodeSearch) else None,
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
