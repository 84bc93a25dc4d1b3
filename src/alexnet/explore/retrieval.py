"""How well an index retrieves images of the same class: mean average precision, by class.

For each query, all indexed images are ranked by distance. Relevant are those of the query's class, but for the query
itself. Average precision is the mean, over the relevant images, of the precision at their rank: the fraction of
relevant images among those that are as near or nearer. Images at the same distance (in float32) thus share the last of
their ranks. It is what scikit-learn's `average_precision_score` computes. Mean average precision is the mean over
queries.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from alexnet.data.concatenated import open_data
from alexnet.data.dataset import PreparedData
from alexnet.data.dataset_files import NO_LABEL
from alexnet.errors import RequestError
from alexnet.evaluation.metrics import mean_interval
from alexnet.explore.forward import activation_batches
from alexnet.explore.image_source import array_reader, require_fitting
from alexnet.explore.nearest import ABSENT, distances_to_all
from alexnet.explore.stored_images import StoredDigests
from alexnet.explore.vector_index import VectorIndex, opened_index
from alexnet.figures.class_bars import ClassBar, class_bars_figure
from alexnet.figures.notebook_html import result_html, table_html
from alexnet.model.activations import ActivationReader
from alexnet.model.weights import Trained, load_trained
from alexnet.storage.paths import StrPath, StrPaths, as_path
from alexnet.system.device import Device, choose_device, choose_precision
from alexnet.system.progress import ShowProgress, counted

_DISTANCES_BYTES = 1 << 29


@dataclass(frozen=True)
class ClassRetrieval:
    """What the queries of a class retrieve."""

    id: str
    name: str
    num_queries: int
    num_indexed: int
    """Images of the class in the index."""
    mean_average_precision: float | None
    """None if there is no query, or no relevant image."""

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "class": self.id,
            "name": self.name,
            "queries": self.num_queries,
            "indexed_images": self.num_indexed,
            "mean_average_precision": self.mean_average_precision,
        }


@dataclass(frozen=True, eq=False)
class Retrieval:
    """Mean average precision of a split's images as queries."""

    index: VectorIndex
    split: str
    """Of the queries."""
    average_precision: NDArray[np.float64]
    """(Q,), of each query that has a class and relevant images."""
    rows: NDArray[np.int64]
    """(Q,): which images of the split these are."""
    nearest_is_right: NDArray[np.bool_]
    """(Q,): whether the nearest image has the query's class."""
    chance: float
    """Mean fraction of relevant images: about what a random order gives."""
    num_without: int
    """Images of the split without a class, or without a relevant image in the index."""
    by_class: tuple[ClassRetrieval, ...]
    """In the order of the query's classes."""

    @property
    def mean_average_precision(self) -> float:
        """Mean over all queries, 0..1."""
        return float(self.average_precision.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean, if the queries are a sample, see `mean_interval`."""
        return mean_interval(self.mean_average_precision, len(self.average_precision))

    @property
    def nearest_accuracy(self) -> float:
        """Fraction of queries whose nearest image has their class."""
        return float(self.nearest_is_right.mean())

    def __repr__(self) -> str:
        return (
            f"Retrieval(mean average precision {self.mean_average_precision:.3f}, {len(self.rows):,} queries of "
            f"{self.split} in {len(self.index):,} images)"
        )

    def _repr_html_(self) -> str:
        rows = [
            (one.name, one.num_queries, one.num_indexed, _three_digits(one.mean_average_precision))
            for one in self.by_class
        ]
        table = table_html(["class", "queries", "indexed images", "mean average precision"], rows)
        return result_html(self.describe(), table)

    def describe(self) -> str:
        """The result in one sentence."""
        low, high = self.interval
        return (
            f"mean average precision {self.mean_average_precision:.3f} [{low:.3f}, {high:.3f}], by chance "
            f"{self.chance:.3f}: {len(self.rows):,} images of {self.split} among {len(self.index):,} of "
            f"{self.index.split}, by {self.index.layer}; the nearest has the right class for "
            f"{100 * self.nearest_accuracy:.1f} %"
        )

    def to_dict(self) -> dict[str, Any]:
        """What `alexnet neighbors --json` prints."""
        return {
            "index": str(self.index.folder),
            "layer": self.index.layer,
            "index_split": self.index.split,
            "indexed_images": len(self.index),
            "split": self.split,
            "queries": len(self.rows),
            "queries_left_out": self.num_without,
            "mean_average_precision": self.mean_average_precision,
            "interval": list(self.interval),
            "chance": self.chance,
            "nearest_accuracy": self.nearest_accuracy,
            "classes": [one.to_dict() for one in self.by_class],
        }

    def figure(self) -> Figure:
        """Mean average precision of each class as a bar, of many classes the best and the worst."""
        bars = [
            ClassBar(one.name, one.mean_average_precision, f" ({one.num_queries:,})")
            for one in self.by_class
            if one.mean_average_precision is not None
        ]
        return class_bars_figure(
            bars,
            title=f"How well {self.index.layer} retrieves images of the same class",
            note=f"{len(self.rows):,} queries of {self.split} (numbers in brackets) among {len(self.index):,} images "
            f"of {self.index.split}",
            x_title="mean average precision",
            lines=[("all queries", self.mean_average_precision), ("random order", self.chance)],
        )


def measure_retrieval(
    run: StrPath,
    data: StrPaths | None = None,
    split: str | None = None,
    *,
    index: VectorIndex | StrPath | None = None,
    batch_size: int | None = None,
    device: Device = "auto",
    progress: ShowProgress = None,
) -> Retrieval:
    """Mean average precision with every image of a split as query.

    An image that is itself in the index (its stored bytes are the same) is left out of its own ranking.

    Args:
        run: a run folder or a weights file.
        data: the prepared data set of the queries, or several to concatenate; None is that of the index.
        split: None is the data set's evaluation split.
        index: an opened index, or its folder; None is `index` in the run folder.
        device: for the network; `auto` is a GPU if there is one.
        progress: see `ShowProgress`; called with (queries done, queries in total).

    Raises:
        RequestError: there is no index or it is of other weights, the split or the index has no labels, or no class of
            the queries is in the index; the data set of the index is not where it was, or the queries are of another
            side than the network's images.
    """
    run = as_path(run, "the run")
    trained = load_trained(run)
    opened = opened_index(run, index, trained)
    asked = opened.require_data() if data is None else open_data(data)
    is_of_index = asked.checksum == opened.description["data_checksum"]
    split = asked.evaluation_split if split is None else split
    labels = _labels_in(opened, asked, split)
    require_fitting(asked, trained)
    indexed = StoredDigests(asked if is_of_index else opened.require_data(), opened.split)
    own_rows = indexed.own_rows(StoredDigests(asked, split))
    if is_of_index and split == opened.split:
        vectors: NDArray[Any] = opened.vectors
    else:
        with counted("activations", shown=progress if isinstance(progress, bool) else None) as update:
            vectors = _activations(trained, opened, asked, split, batch_size, device, update)
    with counted("ranking", shown=progress) as update:
        return _measure(opened, asked, split, labels, vectors, own_rows, update)


def average_precision(distances: NDArray[np.floating[Any]], is_relevant: NDArray[np.bool_]) -> float:
    """Average precision of a ranking by distance.

    Args:
        distances: (N,).
        is_relevant: (N,), at least one of them.
    """
    order = np.argsort(distances, kind="stable")
    found = np.cumsum(is_relevant[order])
    is_last = np.append(np.diff(distances[order]) > 0, True)  # of the images at one distance
    found, ranks = found[is_last], np.flatnonzero(is_last) + 1
    return float((np.diff(found, prepend=0) * found / ranks).sum() / found[-1])


def _labels_in(index: VectorIndex, data: PreparedData, split: str) -> NDArray[np.int64]:
    """The labels of a split as indices into the classes of the index; `NO_LABEL` where the index has no such class."""
    labels = np.asarray(data.require_split(split).labels)
    if index.labels is None:
        raise RequestError(f"the images of {index.folder} have no classes, so nothing says which are relevant")
    if (labels == NO_LABEL).all():
        raise RequestError(f"the images of split {split!r} of {data.folder} have no labels; choose another split")
    numbers = {one: number for number, one in enumerate(index.classes)}
    translated = np.array([numbers.get(one.id, NO_LABEL) for one in data.classes] + [NO_LABEL], np.int64)[labels]
    if not np.isin(translated[translated != NO_LABEL], index.labels).any():
        raise RequestError(f"no class of {data.folder} has images in {index.folder}")
    return translated


def _activations(
    trained: Trained,
    index: VectorIndex,
    data: PreparedData,
    split: str,
    batch_size: int | None,
    device: Device,
    update: Callable[[int, int | None], None],
) -> NDArray[np.float32]:
    """The activations of a split, (N, D)."""
    images = data.splits[split].images
    reader = ActivationReader(trained.network, [index.layer])
    chosen = choose_device(device)
    precision = choose_precision(index.description["precision"], chosen)
    vectors = np.empty((len(images), index.vectors.shape[1]), np.float32)
    batches = activation_batches(trained, reader, array_reader(images), 0, len(images), batch_size, chosen, precision)
    for batch in batches:
        values = batch.activations[index.layer].reshape(-1, vectors.shape[1])
        vectors[batch.stop - len(values) : batch.stop] = values
        update(batch.stop, len(images))
    return vectors


def _measure(
    index: VectorIndex,
    data: PreparedData,
    split: str,
    labels: NDArray[np.int64],
    vectors: NDArray[Any],
    own_rows: NDArray[np.int64],
    update: Callable[[int, int | None], None],
) -> Retrieval:
    assert index.labels is not None
    num_of = np.bincount(index.labels[index.labels != NO_LABEL], minlength=len(index.classes))
    is_in_index = own_rows != ABSENT
    num_relevant = np.where(labels == NO_LABEL, 0, num_of[labels] - (is_in_index & (index.labels[own_rows] == labels)))
    rows = np.flatnonzero(num_relevant > 0)
    if not len(rows):
        raise RequestError(f"no image of split {split!r} has another image of its class in {index.folder}")
    precisions, is_right = np.empty(len(rows)), np.empty(len(rows), np.bool_)
    chunk = max(1, _DISTANCES_BYTES // (4 * len(index)))
    for first in range(0, len(rows), chunk):
        chosen = rows[first : first + chunk]
        distances = distances_to_all(index.vectors, np.asarray(vectors[chosen], np.float32))
        for number, row in enumerate(chosen.tolist()):
            others, is_relevant = distances[number], index.labels == labels[row]
            if is_in_index[row]:
                others, is_relevant = np.delete(others, own_rows[row]), np.delete(is_relevant, own_rows[row])
            precisions[first + number] = average_precision(others, is_relevant)
            is_right[first + number] = is_relevant[np.argmin(others)]
        update(first + len(chosen), len(rows))
    return Retrieval(
        index=index,
        split=split,
        average_precision=precisions,
        rows=rows,
        nearest_is_right=is_right,
        chance=float((num_relevant[rows] / (len(index) - is_in_index[rows])).mean()),
        num_without=len(labels) - len(rows),
        by_class=_by_class(index, data, labels[rows], precisions, num_of),
    )


def _by_class(
    index: VectorIndex,
    data: PreparedData,
    labels: NDArray[np.int64],
    precisions: NDArray[np.float64],
    num_of: Sequence[int] | NDArray[np.int64],
) -> tuple[ClassRetrieval, ...]:
    numbers = {one: number for number, one in enumerate(index.classes)}
    result = []
    for one in data.classes:
        number = numbers.get(one.id)
        of_class = precisions[labels == number] if number is not None else precisions[:0]
        result.append(
            ClassRetrieval(
                id=one.id,
                name=one.name,
                num_queries=len(of_class),
                num_indexed=0 if number is None else int(num_of[number]),
                mean_average_precision=float(of_class.mean()) if len(of_class) else None,
            )
        )
    return tuple(result)


def _three_digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
