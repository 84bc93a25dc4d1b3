"""An index: the activations of one layer for the images of a split, among which neighbors are searched.

It is a folder of features, as `alexnet.explore.features.write_features` writes it, by default `index` in the run folder
with the last hidden layer of the training split. It belongs to the weights and to the data set that it was made of.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.data.concatenated import open_data
from alexnet.data.dataset import PreparedData
from alexnet.data.dataset_files import NO_LABEL
from alexnet.errors import RequestError
from alexnet.explore.approximate_index import (
    ApproximateIndex,
    build_approximate,
    has_approximate,
    import_faiss,
    open_approximate,
    require_kind,
)
from alexnet.explore.feature_reader import Features, open_features
from alexnet.explore.feature_writer import DESCRIPTION_FILE, FORMAT_VERSION
from alexnet.explore.features import write_features
from alexnet.figures.notebook_html import result_html, table_html
from alexnet.model.weights import Trained, load_trained, weights_file
from alexnet.runs.folder import RunFolder
from alexnet.storage.checksums import file_digest
from alexnet.storage.paths import StrPath, StrPaths, as_path, as_paths
from alexnet.storage.typed_files import DamagedFile
from alexnet.system.device import Device, PrecisionChoice
from alexnet.system.progress import ShowProgress, counted
from alexnet.system.visible_text import shell_words

INDEX_FOLDER = "index"
"""Of a run folder."""
TRAINING_SPLIT = "train"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class VectorIndex:
    """Activations of the images of a split, opened for reading."""

    folder: Path
    run: Path
    """The run folder or weights file of its network."""
    vectors: NDArray[np.floating[Any]]
    """(N, D), memory-mapped, float32 or float16; activations of feature maps, (C, H, W), in that order."""
    keys: Sequence[str]
    """(N,): the name of each image in its data set."""
    labels: NDArray[np.int64] | None
    """(N,), index into `classes`, `NO_LABEL` where there is none; None if no image has one."""
    classes: tuple[str, ...]
    """Ids: those of the network's classes; if the data set has others, those of the data set."""
    class_names: tuple[str, ...]
    """Readable names in the order of `classes`."""
    layer: str
    split: str
    data: PreparedData | None
    """The data set of the images; None if it is not where it was."""
    description: dict[str, Any]
    """The contents of `features.json`."""

    def __len__(self) -> int:
        return len(self.vectors)

    def __repr__(self) -> str:
        return (
            f"VectorIndex({str(self.folder)!r}: {len(self):,} images of {self.split}, {self.layer}, "
            f"{self.vectors.shape[1]:,} values each)"
        )

    def _repr_html_(self) -> str:
        rows = [
            ("images", f"{len(self):,} of split {self.split}"),
            ("layer", f"{self.layer}, {self.vectors.shape[1]:,} values, {self.vectors.dtype}"),
            ("data set", ", ".join(self.description["data"])),
        ]
        return result_html(f"index {self.folder}", table_html([], rows))

    def class_of(self, image: int) -> str | None:
        """The readable name of an image's class; None without one."""
        label = NO_LABEL if self.labels is None else int(self.labels[image])
        return None if label == NO_LABEL else self.class_names[label]

    def require_data(self) -> PreparedData:
        """The data set of the images.

        Raises:
            RequestError: it is not where it was.
        """
        if self.data is None:
            raise RequestError(
                f"the data set of which {self.folder} was made is no longer at "
                f"{' and '.join(self.description['data'])}; give its new path with --data"
            )
        return self.data

    def approximate(self, kind: str | None = None) -> ApproximateIndex:
        """The approximate index of these vectors, `hnsw` or `ivf-pq`; None is `hnsw`, or else what there is.

        Raises:
            RequestError: there is none, or faiss is not installed.
            DamagedFile: its file is not the one that was written.
        """
        return open_approximate(self.folder, self.vectors, kind, *self._identity())

    def _identity(self) -> tuple[str, int]:
        """What the files made of these vectors belong to: the weights, and the checksum of the vectors."""
        return self.description["weights_sha256"], self.description["crc32"][self.layer]

    def image(self, image: int) -> NDArray[np.uint8]:
        """An image as its data set stores it, uint8 (S, S, 3), RGB.

        Raises:
            RequestError: the data set is not where it was.
            UnreadableSample: the image cannot be read.
        """
        pixels: NDArray[np.uint8] = np.asarray(self.require_data().splits[self.split].images[image])
        return pixels


def index_folder(run: StrPath, folder: StrPath | None = None) -> Path:
    """The folder of an index: the one that is named, or else `index` in the run folder.

    Raises:
        RequestError: none is named, and `run` is a weights file.
    """
    run = as_path(run, "the run")
    if folder is not None:
        return as_path(folder, "the index")
    if not run.exists():
        raise RequestError(f"{run} does not exist; give a run folder, or a weights file that alexnet wrote")
    if not run.is_dir():
        raise RequestError(
            f"{run} is a weights file, which has no folder for an index; name one: --out of `alexnet index`, --index "
            "of `alexnet neighbors` and `alexnet codes`"
        )
    return run / INDEX_FOLDER


def has_index(run: StrPath, folder: StrPath | None = None) -> bool:
    """Whether there is an index of a run, complete; not whether it is of these weights, as `open_index` checks."""
    run = as_path(run, "the run")
    return (folder is not None or run.is_dir()) and (index_folder(run, folder) / DESCRIPTION_FILE).is_file()


def build_index(
    run: StrPath,
    data: StrPaths | None = None,
    *,
    split: str = TRAINING_SPLIT,
    layer: str | None = None,
    folder: StrPath | None = None,
    approximate: str | None = None,
    batch_size: int | None = None,
    device: Device = "auto",
    precision: PrecisionChoice = "auto",
    restart: bool = False,
    progress: ShowProgress = None,
) -> VectorIndex:
    """Compute the activations of a split and keep them as an index; the same call resumes after a kill.

    An index that is there already, of the same weights, layer and images, is opened.

    Args:
        run: a run folder or a weights file.
        data: the prepared data set, or several to concatenate; None is what the run was trained on.
        split: of the data set.
        layer: name of the network's layer; None is the last hidden one, after ReLU and before dropout.
        folder: where the index is kept; None is `index` in the run folder. Of a weights file it must be named.
        approximate: also make an approximate index: `hnsw` or `ivf-pq`, see `build_approximate`.
        device: `auto` is a GPU if there is one.
        restart: discard the work of an unfinished call.
        progress: see `ShowProgress`; a function is called with (images done, images in total).

    Raises:
        RequestError: no trained network, an unknown layer or split, or the folder holds something else, such as an
            index of other weights.
        WorkError: the disk is full, or activations are not finite.
        Interrupted: from the keyboard; finished work is kept.
    """
    run = as_path(run, "the run")
    destination = index_folder(run, folder)
    if approximate is not None:
        require_kind(approximate)
        import_faiss()
    if has_index(run, destination):
        found = open_index(run, destination, data_folder=data)
        for what, wanted, there in (("split", split, found.split), ("layer", layer or found.layer, found.layer)):
            if wanted != there:
                raise RequestError(
                    f"{destination} is an index of {what} {there}, not {wanted}; remove it, or name another folder "
                    "with --out"
                )
        _logger.info(
            f"{destination} is complete: {len(found):,} images of {found.split} of "
            f"{' and '.join(found.description['data'])}, {found.layer}"
        )
    else:
        if data is None and not run.is_dir():
            raise RequestError(
                f"{run} is a weights file, which names no data set; name one: {_command(run, destination)}"
            )
        with counted("index", shown=progress) as update:
            write_features(
                run,
                destination,
                data_folder=data,
                split=split,
                layers=layer,
                batch_size=batch_size,
                device=device,
                precision=precision,
                restart=restart,
                progress=update,
            )
        found = open_index(run, destination, data_folder=data, verify_vectors=False)
    if approximate is not None and not has_approximate(found.folder, approximate):
        with counted(approximate, shown=progress if isinstance(progress, bool) else None) as update:
            build_approximate(found.folder, found.vectors, approximate, *found._identity(), update)
    return found


def open_index(
    run: StrPath,
    folder: StrPath | None = None,
    *,
    data_folder: StrPaths | None = None,
    trained: Trained | None = None,
    verify_vectors: bool = True,
) -> VectorIndex:
    """Open the index of a run.

    Args:
        run: a run folder or a weights file.
        folder: of the index; None is `index` in the run folder. Any folder of features of one layer of a split will do.
        data_folder: where its data set is now, if it was moved.
        trained: the network of `run`, if it was loaded before; it saves the time to read it again.
        verify_vectors: read the vectors once, to compare them with their checksum: of a million of 4,096 values, 16 GB.
            Other files are always compared with theirs.

    Raises:
        RequestError: there is no index, or it is of other weights or of other images.
        DamagedFile: a file is damaged.
    """
    run = as_path(run, "the run")
    folder = index_folder(run, folder)
    if not (folder / DESCRIPTION_FILE).is_file():
        raise RequestError(f"{folder} contains no index; make one with {_command(run, folder)}")
    try:
        features = open_features(folder, verify_arrays=verify_vectors)
    except DamagedFile as error:
        advice = f"delete {folder} and make the index again with {_command(run, folder)}"
        raise DamagedFile(error.path, error.problem, advice) from error
    _require_version(run, folder, features.description)
    _require_weights(run, folder, features.description)
    split, layers = features.description.get("split"), list(features.activations)
    if split is None or features.description.get("data_checksum") is None:
        raise RequestError(
            f"{folder} has features of photographs; an index needs those of a prepared data set: "
            f"`{shell_words('alexnet', 'index', run, 'DATA', '--out', 'FOLDER')}`"
        )
    if "projections" in features.description:
        raise RequestError(f"{folder} has principal components; an index needs the activations: omit --pca")
    if len(layers) > 1:
        raise RequestError(f"{folder} has {len(layers)} layers ({', '.join(layers)}); an index has one")
    data = _open_data(run, folder, features, data_folder)
    trained = trained or load_trained(run)
    names = {one.id: one.name for one in trained.classes}
    labels, classes = features.labels, features.classes
    if labels is None and data is not None and not (np.asarray(data.splits[split].labels) == NO_LABEL).all():
        labels, classes = np.array(data.splits[split].labels), tuple(one.id for one in data.classes)
        names = {one.id: one.name for one in data.classes}
    vectors = features.activations[layers[0]]
    return VectorIndex(
        folder=folder,
        run=run,
        vectors=vectors.reshape(len(vectors), -1),
        keys=features.paths,
        labels=labels,
        classes=classes,
        class_names=tuple(names.get(one, one) for one in classes),
        layer=layers[0],
        split=split,
        data=data,
        description=features.description,
    )


def opened_index(
    run: StrPath,
    index: VectorIndex | StrPath | None,
    trained: Trained,
    *,
    data_folder: StrPaths | None = None,
    verify_vectors: bool = True,
) -> VectorIndex:
    """An index as `open_index` opens it, or one that was opened before, of the same weights."""
    if not isinstance(index, VectorIndex):
        return open_index(run, index, data_folder=data_folder, trained=trained, verify_vectors=verify_vectors)
    _require_weights(as_path(run, "the run"), index.folder, index.description)
    return index


def _command(run: Path, folder: Path) -> str:
    """The command that makes an index."""
    words = ["alexnet", "index", run, *([] if run.is_dir() else ["DATA"])]
    words += [] if folder == run / INDEX_FOLDER else ["--out", folder]
    return f"`{shell_words(*words)}`"


def _advice(run: Path, folder: Path) -> str:
    """What to do if a folder cannot be an index of this network; another folder may be of use for something else."""
    if folder == run / INDEX_FOLDER and not folder.is_symlink():
        return f"remove the folder and make the index again with {_command(run, folder)}"
    return f"name the index of this network, or make one with {_command(run, Path('FOLDER'))}"


def _require_version(run: Path, folder: Path, description: Mapping[str, Any]) -> None:
    """Refuse features in which layers have other meanings or that lack what belongs to an index."""
    if description["format_version"] < FORMAT_VERSION or not {"crc32", "precision"} <= description.keys():
        raise RequestError(
            f"{folder} has features that an earlier version of alexnet wrote, which cannot be searched; "
            f"{_advice(run, folder)}"
        )


def _require_weights(run: Path, folder: Path, description: Mapping[str, Any]) -> None:
    """Refuse an index of another network."""
    file = weights_file(run)
    if not file.is_file():
        load_trained(run)  # says what is there instead
    digest, indexed = file_digest(file), description.get("weights_sha256")
    if indexed != digest:
        raise RequestError(
            f"{folder} was made with other weights than those of {run} (sha256 {str(indexed)[:12]}..., not "
            f"{digest[:12]}...); {_advice(run, folder)}"
        )
    if description.get("untrained"):
        raise RequestError(f"{folder} has features of untrained weights; an index needs those of the trained network")


def _open_data(run: Path, folder: Path, features: Features, named: StrPaths | None) -> PreparedData | None:
    """The data set of an index: the one that is named, or else where it was, or where the run's data are now."""
    recorded = [Path(one) for one in features.description["data"]]
    if named is not None:
        places = [as_paths(named, "the data set")]
        data = open_data(places[0])
        if not _has_images(data, features):
            raise RequestError(
                f"{' and '.join(map(str, places[0]))} has other images than the data set of which {folder} was made "
                f"({' and '.join(map(str, recorded))}); name that one, or make the index again"
            )
        return data
    places = [recorded]
    if (run / "run.json").is_file():
        with suppress(DamagedFile):  # an imported run may name no data set
            places.append(RunFolder.open(run).data_folders())
    for place in places:
        with suppress(RequestError):  # it is there no more, or something else is
            if place and _has_images(data := open_data(place), features):
                return data
    return None


def _has_images(data: PreparedData, features: Features) -> bool:
    """Whether these are the images of an index."""
    split = features.description["split"]
    is_same = data.checksum == features.description["data_checksum"] and split in data.splits
    return is_same and len(data.splits[split]) == len(features.paths)
