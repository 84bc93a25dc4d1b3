"""The prepared data set: a folder that everything after preparation reads.

- `dataset.json` describes it: format version, classes, splits, image side, store, checksums, how it was made.
- `<split>-images.npy` (`store=pixels`): uint8 (N, S, S, 3), RGB.
- `<split>-000000.tar` ... (`store=jpeg`): shards of JPEG files, and `<split>-index.npy`: int64 (N, 3), the shard of
  each image, its offset there and its length.
- `<split>-labels.npy`: int64 (N,), index into the classes; -1 for an image without a label.
- `<split>-keys.npy`, `<split>-key-ends.npy`: where each image came from.
- `<split>-digests.npy`: uint8 (N, 16), of the stored bytes. `<split>-sizes.npy`: int32 (N, 2), height and width of the
  originals.
- `statistics.npz`: mean image and color covariance of the training images.
- `refused.jsonl`: the images that could not be used, with reasons. `skipped.jsonl`: the files that are not images.
  `duplicates.jsonl`: images stored more than once.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from alexnet.data.dataset_files import DESCRIPTION_FILE, NO_LABEL, DataFiles
from alexnet.data.decode import Fit
from alexnet.data.shards import StoredImages, UnreadableSample
from alexnet.errors import AlexNetError, RequestError
from alexnet.figures.notebook_html import Cell, pictures_html, result_html, table_html
from alexnet.storage.paths import StrPath, as_path
from alexnet.system.visible_text import visible

REFUSED_FILE = "refused.jsonl"
SKIPPED_FILE = "skipped.jsonl"
DUPLICATES_FILE = "duplicates.jsonl"
STORES = ("pixels", "jpeg")
NUM_EXAMPLES = 10
"""Images that a notebook shows of a data set."""
UNLABELED = "unlabeled"
"""Name of the split of images without labels, such as a competition's test images."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassInfo:
    """A class: its stable id (the folder's name) and its readable name."""

    id: str
    name: str


def class_problem(one: ClassInfo) -> str | None:
    """Why a file cannot name a class so, as `is empty`; None if its id and its name are one line of text each."""
    for text in (one.id, one.name):
        if not text.strip():
            return "is empty"
        if visible(text) != text:
            return f"is {text!r}, which has control characters or bytes that are not UTF-8"
    return None


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean image and color covariance of the training images, in 0..255 units. Paper: sections 2 and 4.1."""

    mean_image: NDArray[np.float32]
    """Mean of the training images, (S, S, 3), 0..255."""
    covariance: NDArray[np.float64]
    """Population covariance of the RGB values over all training pixels, (3, 3), units of 0..255 squared."""
    eigenvalues: NDArray[np.float64]
    """Of the covariance, (3,), ascending, 0 or more."""
    eigenvectors: NDArray[np.float64]
    """Unit columns, (3, 3), in the order of `eigenvalues`; the largest component of each is positive."""

    def __repr__(self) -> str:
        color = ", ".join(f"{value:.1f}" for value in self.mean_image.mean((0, 1)))
        return f"Statistics(mean image {self.mean_image.shape[0]} x {self.mean_image.shape[1]}, mean color {color})"


@dataclass(frozen=True, eq=False)
class Split:
    """The images of one split; indexing `images` reads them from the disk."""

    name: str
    images: StoredImages
    """(N, S, S, 3), RGB, 0..255, read-only."""
    labels: NDArray[np.int64]
    """(N,), index into the classes; `NO_LABEL` where there is none."""
    keys: Sequence[str]
    """(N,): where each image came from, such as `train/n01440764/n01440764_10026.JPEG`."""

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Split({self.name!r}: {len(self):,} images)"

    def with_key(self, error: UnreadableSample) -> UnreadableSample:
        """The error with the key of its image."""
        return UnreadableSample(f"{self.keys[error.image]}: {error}", error.image)


@dataclass(frozen=True, eq=False)
class PreparedData:
    """A prepared data set, opened for reading."""

    folder: Path
    title: str
    generated: bool
    """Whether a program drew the images; reported with every result on them."""
    classes: tuple[ClassInfo, ...]
    splits: Mapping[str, Split]
    side: int
    """Side of the stored square images, pixels."""
    statistics: Statistics
    checksum: str
    """Of all stored images, labels and class ids, see `data_checksum`."""
    store: str = "pixels"
    """`pixels` or `jpeg`."""
    fit: Fit = "crop"
    """How its photographs were made square, see `make_square`."""
    description: Mapping[str, Any] = field(default_factory=dict)
    """The content of `dataset.json`."""

    def __fspath__(self) -> str:
        """The folder: an opened data set is also given as a path."""
        if "concatenated" in self.description:
            raise RequestError("several data sets are concatenated here; give their folders, as a list")
        return str(self.folder)

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {len(split):,}" for name, split in self.splits.items())
        return (
            f"PreparedData({str(self.folder)!r}: {self.title!r}, {self.num_classes:,} classes, {counts} images, "
            f"{self.side} pixels)"
        )

    def _repr_html_(self) -> str:
        rows: list[tuple[str, Cell]] = [
            ("title", self.title),
            *([("images", "generated by a program")] if self.generated else []),
            ("classes", self.num_classes),
            *((f"{name} images", len(split)) for name, split in self.splits.items()),
            ("stored", f"{self.side} x {self.side} pixels, {self.store}"),
        ]
        duplicates = self.description.get("duplicates", {})
        for text, number in (
            ("refused files", self.description.get("num_refused", 0)),
            ("skipped files", self.num_skipped),
            ("exact copies", duplicates.get("surplus_images", 0)),
            ("validation or test images also in train", duplicates.get("leaked_images", 0)),
        ):
            rows += [(text, int(number))] if number or text == "refused files" else []
        return result_html(f"prepared data {self.folder}", table_html([], rows), pictures_html(self._examples()))

    def _examples(self) -> list[tuple[NDArray[np.uint8], str]]:
        """The first readable training image of up to ten classes, evenly spaced, with the class's name."""
        split = self.splits["train"] if "train" in self.splits else next(iter(self.splits.values()))
        labels, examples = np.asarray(split.labels), []
        for number in np.unique(np.linspace(0, self.num_classes - 1, NUM_EXAMPLES).round().astype(int)).tolist():
            for sample in np.flatnonzero(labels == number)[:3].tolist():
                try:
                    examples.append((np.asarray(split.images[sample]), self.classes[number].name))
                    break
                except AlexNetError:  # damaged: training and `alexnet inspect` say so
                    continue
        return examples

    @property
    def num_classes(self) -> int:
        """Number of classes, K."""
        return len(self.classes)

    @property
    def evaluation_split(self) -> str:
        """Name of the split that training is measured on: `val`, or `test` where there is no `val`.

        Raises:
            RequestError: there is neither.
        """
        if not self.has_evaluation_split:
            raise RequestError(
                f"{self.folder} has no validation or test split; it has {', '.join(self.splits)}. Name one of these "
                "with --split, or prepare the data again with --hold-out 0.1"
            )
        return "val" if "val" in self.splits else "test"

    @property
    def has_evaluation_split(self) -> bool:
        """Whether there is a `val` or a `test` split."""
        return "val" in self.splits or "test" in self.splits

    @property
    def num_skipped(self) -> int:
        """Files of the source that were no images; 0 if the data set is older than this count."""
        return int(self.description.get("num_skipped", 0))

    def summary(self, folders: Sequence[Path]) -> dict[str, Any]:
        """As the run.json of a run on these data has it, see `RunData`; `folders` are those that were concatenated."""
        return {
            "folders": [str(folder.absolute()) for folder in folders],
            "title": self.title,
            "generated": self.generated,
            "checksum": self.checksum,
            "side": self.side,
            **({} if self.fit == "crop" else {"fit": self.fit}),
            "num_classes": self.num_classes,
            "splits": {name: len(split) for name, split in self.splits.items()},
        }

    def require_split(self, name: str) -> Split:
        """The split `name`.

        Raises:
            RequestError: there is no such split.
        """
        if name not in self.splits:
            raise RequestError(f"{self.folder} has no split {name!r}; it has {', '.join(self.splits)}")
        return self.splits[name]

    def require_labels(self, name: str) -> Split:
        """The split `name`, in which every image has a label.

        Raises:
            RequestError: there is no such split, or it has images without labels.
        """
        split = self.require_split(name)
        if num := int(np.count_nonzero(np.asarray(split.labels) == NO_LABEL)):
            raise RequestError(
                f"{num:,} of {len(split):,} images of split {name!r} of {self.folder} have no label, so errors cannot "
                "be counted; choose another split (`alexnet predict` and `alexnet features` need no labels)"
            )
        return split

    def original_sizes(self, split: str) -> NDArray[np.int32]:
        """Height and width of the originals of a split as they were read, int32 (N, 2), pixels."""
        parts = self.description.get("concatenated")
        if parts is None:
            return self._files(split).sizes(split)
        self.require_split(split)
        folders = [Path(part["folder"]) for part in parts if split in part["splits"]]
        return np.concatenate([DataFiles(folder).sizes(split) for folder in folders])

    def digests(self, split: str) -> NDArray[np.uint8]:
        """The first 16 bytes of the SHA-256 of each stored image, uint8 (N, 16)."""
        return self._files(split).digests(split)

    def _files(self, split: str) -> DataFiles:
        """What training does not need of a split is read when it is asked for."""
        if "concatenated" in self.description:
            raise RequestError("several data sets are concatenated here; open each of them")
        self.require_split(split)
        return DataFiles(self.folder)

    @classmethod
    def open(cls, path: StrPath) -> Self:
        """Open the prepared data set in folder `path`.

        Raises:
            RequestError: there is no such folder, it is not a prepared data set, or it has another format version.
            WorkError: it is damaged, or cannot be read.
        """
        path = as_path(path, "the data set")
        require_prepared(path)
        files = DataFiles(path)
        description = files.description
        return cls(
            folder=path,
            title=description["title"],
            generated=description["generated"],
            classes=tuple(ClassInfo(one["id"], one["name"]) for one in description["classes"]),
            splits={
                name: Split(name, files.images(name), files.labels(name), files.keys(name))
                for name in description["splits"]
            },
            side=description["side"],
            statistics=Statistics(**files.statistics()),
            checksum=description["checksum"],
            store=description["store"],
            fit=description["plan"].get("fit", "crop"),
            description=description,
        )


def prepare_again_words(data: PreparedData, side: int) -> list[str]:
    """The command that prepares the source of a data set with another side, in a folder next to it."""
    plan = data.description.get("plan", {})
    words = ["alexnet", "prepare", plan.get("source", "SOURCE"), f"{data.folder}-{side}px", "--side", str(side)]
    words += ["--source-format", plan["kind"]] if "kind" in plan else []
    if (folders := plan.get("split_folders")) is not None:
        words += [word for split, path in folders.items() for word in ("--split", f"{split}={path}")]
        words += [] if folders else ["--split", "none"]
    words += ["--hold-out", str(plan["hold_out"]), "--seed", str(plan["seed"])] if plan.get("hold_out") else []
    words += ["--exif", plan["exif"]] if "exif" in plan else []
    words += ["--fit", data.fit] if data.fit != "crop" else []
    return words


def warn_of_other_fit(data: PreparedData, fit: Fit) -> None:
    """Log a warning if the photographs of a data set were made square in another way than `fit`, that of a training."""
    if data.fit != fit:
        _logger.warning(
            f"the training images were prepared with --fit {fit}, but those of {data.folder} with --fit {data.fit}, "
            f"so objects have other sizes or shapes; to match, prepare them with --fit {fit}"
        )


def renumber_labels(labels: NDArray[np.int64], numbers: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Labels after the classes are renumbered, (N,).

    Args:
        labels: (N,), 0..K-1; `NO_LABEL` stays.
        numbers: (K,), the new number of each class.
    """
    return np.append(np.asarray(numbers, np.int64), NO_LABEL)[labels]  # the last one is that of `NO_LABEL`


def require_prepared(path: Path) -> None:
    """Refuse a folder that is no prepared data set.

    Raises:
        RequestError: there is no such folder, or it has no `dataset.json`.
    """
    if not path.is_dir():
        raise RequestError(f"{path} does not exist; prepare a data set with: alexnet prepare SOURCE {path}")
    if not (path / DESCRIPTION_FILE).is_file():
        raise RequestError(
            f"{path} is not a prepared data set (it has no {DESCRIPTION_FILE}); "
            "prepare one with: alexnet prepare SOURCE DEST"
        )
