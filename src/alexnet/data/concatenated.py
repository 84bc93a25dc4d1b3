"""Several prepared data sets as one: classes matched by id, images concatenated, statistics combined."""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet.data.dataset import UNLABELED, ClassInfo, PreparedData, Split, Statistics, renumber_labels
from alexnet.data.loader import read_crops
from alexnet.data.preparation.statistics import color_components
from alexnet.data.shards import LazyImages, StoredImages, UnreadableSample
from alexnet.errors import RequestError
from alexnet.storage.paths import StrPaths, as_paths


class ConcatenatedImages(LazyImages):
    """The images of several stores, concatenated, as one array.

    Args:
        parts: each (N_i, S, S, 3), all of the same side.
    """

    def __init__(self, parts: Sequence[StoredImages]) -> None:
        self._parts = list(parts)
        self._ends: list[int] = np.cumsum([len(part) for part in parts]).tolist()
        self.shape = (self._ends[-1], *parts[0].shape[1:])

    def decode(self, image: int) -> NDArray[np.uint8]:
        """The pixels of an image, uint8 (S, S, 3)."""
        part, own_index = _part_and_index(self._ends, image)
        try:
            pixels: NDArray[np.uint8] = self._parts[part][own_index]
        except UnreadableSample as error:
            raise UnreadableSample(str(error), image) from error
        return pixels

    def crops(self, samples: NDArray[np.int64], corners: NDArray[np.int16], crop: int) -> NDArray[np.uint8]:
        crops = np.empty((len(samples), crop, crop, 3), np.uint8)
        parts = np.searchsorted(self._ends, samples, side="right")
        for part in np.unique(parts).tolist():
            chosen, start = parts == part, self._ends[part] - len(self._parts[part])
            try:
                crops[chosen] = read_crops(self._parts[part], samples[chosen] - start, corners[chosen], crop)
            except UnreadableSample as error:
                raise UnreadableSample(str(error), error.image + start) from error
        return crops


class ConcatenatedKeys(Sequence[str]):
    """The keys of several splits, each prefixed with the path of its data set."""

    def __init__(self, parts: Sequence[tuple[str, Sequence[str]]]) -> None:
        self._parts = list(parts)
        self._ends: list[int] = np.cumsum([len(keys) for _, keys in parts]).tolist()

    def __len__(self) -> int:
        return self._ends[-1]

    # Only this form of indexing is needed.
    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        part, own_index = _part_and_index(self._ends, index)
        folder, keys = self._parts[part]
        return f"{folder}/{keys[own_index]}"


def _part_and_index(ends: Sequence[int], index: int) -> tuple[int, int]:
    """The part that contains item `index` of several parts with these ends, and the item's index in that part."""
    if not 0 <= index < ends[-1]:
        raise IndexError(f"item {index} of {ends[-1]}")
    part = bisect_right(ends, index)
    return part, index - (ends[part - 1] if part else 0)


def open_data(folders: StrPaths) -> PreparedData:
    """Open one prepared data set, or several as one.

    Classes with the same id are the same class; their order is that of the first set, then of the next. Splits of the
    same name are concatenated. Mean and covariance are those of all training images.

    Args:
        folders: one, or a list of one or more.

    Raises:
        RequestError: a folder is not a prepared data set or named twice, or the image sides or fits differ.
    """
    folders = as_paths(folders, "the data set")
    if not folders:
        raise RequestError("no data set is named; allowed is one or more")
    parts = [PreparedData.open(folder) for folder in folders]
    if len(parts) == 1:
        return parts[0]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise RequestError(f"{', '.join(map(str, folders))}: a data set is named twice; name each once")
    sides = [part.side for part in parts]
    if len(set(sides)) > 1:
        described = ", ".join(f"{part.folder} {part.side}" for part in parts)
        raise RequestError(
            f"data sets of different image sides cannot be concatenated ({described} pixels); prepare them "
            "with the same --side"
        )
    if len({part.fit for part in parts}) > 1:
        described = ", ".join(f"{part.folder}: {part.fit}" for part in parts)
        raise RequestError(
            f"data sets whose photographs were made square in different ways cannot be concatenated ({described}); "
            "prepare them with the same --fit"
        )
    classes: dict[str, ClassInfo] = {}
    for part in parts:
        for one in part.classes:
            classes.setdefault(one.id, one)
    labels = {name: label for label, name in enumerate(classes)}
    names = dict.fromkeys(name for part in parts for name in part.splits)
    digest = hashlib.sha256("\n".join(part.checksum for part in parts).encode())
    return PreparedData(
        folder=parts[0].folder,
        title=" + ".join(part.title for part in parts),
        generated=any(part.generated for part in parts),
        classes=tuple(classes.values()),
        splits={name: _concatenated_split(name, parts, labels) for name in names},
        side=sides[0],
        statistics=_concatenated_statistics(
            [part.statistics for part in parts], [len(part.splits["train"]) for part in parts]
        ),
        checksum=digest.hexdigest(),
        store=" + ".join(part.store for part in parts),
        fit=parts[0].fit,
        description={"concatenated": [{"folder": str(part.folder), "splits": list(part.splits)} for part in parts]},
    )


def _concatenated_split(name: str, parts: Sequence[PreparedData], labels: dict[str, int]) -> Split:
    having = [part for part in parts if name in part.splits]
    of_part = [renumber_labels(part.splits[name].labels, [labels[one.id] for one in part.classes]) for part in having]
    return Split(
        name,
        ConcatenatedImages([part.splits[name].images for part in having]),
        np.concatenate(of_part),
        ConcatenatedKeys([(str(part.folder), part.splits[name].keys) for part in having]),
    )


def _concatenated_statistics(parts: Sequence[Statistics], counts: Sequence[int]) -> Statistics:
    """Mean image and covariance of the union of several sets of images.

    The covariance of all pixels is the mean, weighted by the number of images, of the sets' covariances plus the
    outer products of the differences between their mean colors and the overall one.
    """
    weights = np.array(counts, np.float64) / sum(counts)
    mean_image = sum(weight * part.mean_image.astype(np.float64) for weight, part in zip(weights, parts, strict=True))
    colors = [part.mean_image.astype(np.float64).mean((0, 1)) for part in parts]  # each (3,)
    color = sum(weight * one for weight, one in zip(weights, colors, strict=True))
    covariance = sum(
        weight * (part.covariance + np.outer(one - color, one - color))
        for weight, part, one in zip(weights, parts, colors, strict=True)
    )
    eigenvalues, eigenvectors = color_components(np.asarray(covariance))
    return Statistics(np.asarray(mean_image, np.float32), np.asarray(covariance), eigenvalues, eigenvectors)


def count_leaks(folders: Sequence[Path]) -> int | None:
    """Images in the validation or test split of one data set that are in the training split of another.

    Two images count as the same if their stored bytes are. None if one set stores pixels and another JPEG files,
    whose bytes cannot be compared.
    """
    parts = [PreparedData.open(folder) for folder in folders]
    if len({part.store for part in parts}) > 1:
        return None
    leaks = 0
    for part in parts:
        trained = np.concatenate(
            [np.empty(0, _DIGEST), *(_comparable(other, "train") for other in parts if other is not part)]
        )
        measured = [name for name in part.splits if name not in ("train", UNLABELED)]
        leaks += sum(int(np.isin(_comparable(part, name), trained).sum()) for name in measured)
    return leaks


_DIGEST = np.dtype([("first", "<u8"), ("second", "<u8")])


def _comparable(part: PreparedData, split: str) -> NDArray[np.void]:
    """The digests of a split as sortable numbers, (N,)."""
    return np.ascontiguousarray(part.digests(split)).view(_DIGEST)[:, 0]
