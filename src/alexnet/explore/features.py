"""Activations of a trained network for many images, as arrays on disk that any program can read.

A folder with `<layer>.npy` for each layer (float32 or float16, (N, D) or (N, C, H, W)), `images.csv` with the images in
the same order (number, path, class), `labels.npy` (int64 (N,), for a data set), `refused.jsonl` (path and reason for
each photograph that could not be read) and `features.json`, which describes the network and the images. If asked for,
`features.parquet` has all of it in one table, and `<layer>.pca.npz` the principal components to which the activations
were projected.
"""

import csv
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict, get_args

import numpy as np
from markupsafe import Markup
from msgspec import Meta
from numpy.typing import NDArray

from alexnet.data.dataset_files import NO_LABEL
from alexnet.data.download import Downloads
from alexnet.data.photographs import ImageInput
from alexnet.errors import RequestError
from alexnet.explore.activation_pca import Projection, read_projection, require_fittable
from alexnet.explore.feature_parquet import require_parquet
from alexnet.explore.feature_writer import (
    CURSOR_FILE,
    DESCRIPTION_FILE,
    FORMAT_VERSION,
    IMAGES_FILE,
    LABELS_FILE,
    PARQUET_FILE,
    PROJECTED_VERSION,
    REFUSED_FILE,
    FeatureWriter,
    projection_file,
)
from alexnet.explore.forward import activation_batches
from alexnet.explore.image_source import image_reader, photograph_source, split_source
from alexnet.figures.notebook_html import result_html, table_html
from alexnet.model.activations import ActivationReader, default_layer
from alexnet.model.kernels import slow_path_message
from alexnet.model.network import AlexNet
from alexnet.model.weights import Trained, load_trained, weights_file
from alexnet.storage.arguments import is_whole
from alexnet.storage.atomic import require_free, require_space
from alexnet.storage.checksums import file_crc32, file_digest
from alexnet.storage.npy import read_npy_header
from alexnet.storage.paths import StrPath, StrPaths, as_path, described
from alexnet.storage.read_errors import raise_unless_damage
from alexnet.storage.staging import open_staging, staging_folder
from alexnet.storage.typed_files import Count, Size, Versioned, damaged, read_json
from alexnet.system.device import Device, PrecisionChoice, choose_device, choose_precision
from alexnet.system.progress import ShowProgress, counted

READABLE_VERSIONS = (1, 2, FORMAT_VERSION, PROJECTED_VERSION)
"""Up to version 2, `conv5` is the input of the next layer with weights; `conv5.linear` became `conv5` in version 3.
Version 1 has `points` where the others have `layers`. Version 4 is 3 with arrays of principal components."""
Dtype = Literal["float32", "float16"]
FileFormat = Literal["npy", "parquet"]
LayerName = Annotated[str, Meta(pattern=r"\A[\w.-]{1,100}\Z")]
"""Also the name of a file."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Features:
    """A folder of activations, opened for reading."""

    folder: Path
    activations: dict[str, NDArray[np.floating[Any]]]
    """By layer, (N, ...), memory-mapped, read-only."""
    paths: tuple[str, ...]
    """(N,): the path of each image, or its name in the data set."""
    labels: NDArray[np.int64] | None
    """(N,), index into `classes`; None for photographs, which have no labels."""
    classes: tuple[str, ...]
    """Ids of the network's classes."""
    description: dict[str, Any]
    """The contents of `features.json`."""

    def projection(self, layer: str) -> Projection:
        """The mean and the principal components to which a layer's activations were projected.

        Raises:
            RequestError: the folder holds the activations of this layer themselves, or not this layer.
            DamagedFile: the file of the projection is damaged.
        """
        described = self.description.get("projections", {}).get(layer)
        if described is None:
            raise RequestError(
                f"{self.folder} has no principal components of {layer!r}; write them with --pca N, and --layer {layer}"
            )
        num_values = math.prod(described["activation_shape"])
        path = self.folder / projection_file(layer)
        return read_projection(path, self.activations[layer].shape[1], num_values, _advice(self.folder))

    def __repr__(self) -> str:
        return f"Features({str(self.folder)!r}: {_shapes_text(self.activations)})"

    def _repr_html_(self) -> str:
        return result_html(f"features {self.folder}", _shapes_table(self.activations))


class ActivationArrays(dict[str, NDArray[np.float32]]):
    """Activations by layer, float32 (N, ...): a dictionary of arrays that is shown by their shapes."""

    def __repr__(self) -> str:
        return f"ActivationArrays({_shapes_text(self)})"

    def _repr_html_(self) -> str:
        return result_html("activations", _shapes_table(self))


def features(
    run: Trained | StrPath,
    images: ImageInput | Iterable[ImageInput],
    layers: Sequence[str] | str | None = None,
    *,
    untrained: bool = False,
    batch_size: int | None = None,
    device: Device = "auto",
    precision: PrecisionChoice = "auto",
    progress: ShowProgress = None,
) -> ActivationArrays:
    """Activations of a trained network for images, in memory; `write_features` writes those for many images to disk.

    Args:
        run: a run folder, a weights file, or what `alexnet.load` returned.
        images: one image or many, as `predict` takes them: files, folders, patterns such as `photos/**/*.jpg`, tars,
            zips, http and https URLs, images of Pillow, arrays, tensors and batches of these, see `list_images`.
            They become square as the training images did; uint8 (N, S, S, 3) of their side S is taken as it is.
        layers: names of the network's layers; None is the last hidden one, after ReLU and before dropout.
        untrained: with the weights with which the run began, as a control; see `alexnet.load`.
        device: `auto` is a GPU if there is one. The network returns to its own device and mode at the end.
        progress: see `ShowProgress`; a function is called with (images done, images in total).

    Returns:
        A dictionary: by layer, float32 (N, C, H, W), or (N, D) from `flatten` on, for the central crop: what a forward
        hook on the layer's module sees.

    Raises:
        RequestError: no trained network, an unknown layer, images of another form, or one that cannot be read.
        WorkError: activations that are not finite.
    """
    if untrained and isinstance(run, Trained):
        raise RequestError("untrained needs a run folder or a weights file; or pass alexnet.load(run, untrained=True)")
    trained = run if isinstance(run, Trained) else load_trained(run, untrained=untrained)
    downloads = Downloads(are_options=False)
    reader = ActivationReader(trained.network, _as_list(layers, trained.network))
    trained.require_trained(reader.names)
    chosen_device = choose_device(device)
    chosen_precision = choose_precision(precision, chosen_device)
    read, num_images = image_reader(images, trained, downloads)
    result = ActivationArrays((name, np.empty((num_images, *reader.shape(name)), np.float32)) for name in reader.names)
    batches = activation_batches(trained, reader, read, 0, num_images, batch_size, chosen_device, chosen_precision)
    # The downloads end first: closing the batches waits for them.
    with closing(batches), closing(downloads), counted("features", shown=progress) as update:
        for batch in batches:
            if batch.refused:
                raise RequestError(batch.refused[0][1])
            for name, values in batch.activations.items():
                result[name][batch.stop - len(values) : batch.stop] = values
            update(batch.stop, num_images)
    return result


def write_features(
    run: StrPath,
    destination: StrPath,
    *,
    data_folder: StrPaths | None = None,
    split: str | None = None,
    photographs: StrPaths = (),
    layers: Sequence[str] | str | None = None,
    untrained: bool = False,
    dtype: Dtype = "float32",
    pca: int | StrPath | None = None,
    file_format: FileFormat = "npy",
    batch_size: int | None = None,
    device: Device = "auto",
    precision: PrecisionChoice = "auto",
    restart: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Features:
    """Write a network's activations for a split or for photographs to a folder; the same call resumes after a kill.

    Args:
        run: a run folder or a weights file.
        destination: the folder to create.
        data_folder: the prepared data set, or several to concatenate; None is what the run was trained on.
        split: None is the data set's evaluation split.
        photographs: files, folders, patterns, tars, zips and URLs, see `list_images`, instead of a data set.
        layers: names of the network's layers; None is the last hidden one, after ReLU and before dropout.
        untrained: with the weights with which the run began, as a control; see `load_trained`.
        dtype: of the arrays.
        pca: number of principal components to write instead of each layer's activations, fitted to these images, see
            `fit_projection`; or a folder of features with principal components of the same network, so that a
            validation split is projected as the training split was. `Features.projection` has them.
        file_format: `parquet` writes `features.parquet` beside the arrays, see `write_feature_parquet`.
        restart: discard the work of an unfinished call.
        progress: called with (images done, total images).

    Raises:
        RequestError: no trained network, an unknown layer or split, no readable photograph, images of another side than
            the network's, principal components that cannot be fitted or are of another network, or the destination is
            taken.
        WorkError: the disk is full, or activations are not finite or exceed the dtype's range.
        Interrupted: from the keyboard; finished work is kept.
    """
    run, destination = as_path(run, "the run"), as_path(destination, "the destination")
    if dtype not in get_args(Dtype):
        raise RequestError(f"--dtype is {dtype!r}; allowed is {' or '.join(get_args(Dtype))}")
    if file_format not in get_args(FileFormat):
        raise RequestError(f"--format is {file_format!r}; allowed is {' or '.join(get_args(FileFormat))}")
    if file_format == "parquet":
        require_parquet()
    require_free(destination)
    downloads = Downloads(are_options=False)
    trained = load_trained(run, untrained=untrained)
    reader = ActivationReader(trained.network, _as_list(layers, trained.network))
    trained.require_trained(reader.names, run)
    if photographs:
        if data_folder is not None or split is not None:
            raise RequestError("both photographs and a data set or split are named; name one or the other")
        source = photograph_source(photographs, trained, downloads)
    else:
        source = split_source(run, data_folder, split, trained)
    chosen_device = choose_device(device)
    chosen_precision = choose_precision(precision, chosen_device)
    weights = {
        "weights_sha256": file_digest(weights_file(run)),
        **({} if trained.untrained_seed is None else {"untrained": True, "untrained_seed": trained.untrained_seed}),
    }
    num_images, sizes = len(source.paths), {name: math.prod(reader.shape(name)) for name in reader.names}
    num_components, projections = _pca(pca, run, weights, sizes, num_images)
    plan = {
        "format_version": FORMAT_VERSION if pca is None else PROJECTED_VERSION,
        **weights,
        "layers": list(reader.names),
        "dtype": dtype,
        "precision": chosen_precision,
        **({} if num_components is None else {"pca": num_components}),
        **({"pca_sha256": {name: one.digest() for name, one in projections.items()}} if projections else {}),
        **({} if file_format == "npy" else {"format": file_format}),
        **source.identity,
    }
    if not staging_folder(destination).exists():
        num_kept = sum(
            len(projections[name].components) if name in projections else num_components or size
            for name, size in sizes.items()
        )
        row_bytes = num_kept * (np.dtype(dtype).itemsize + (4 if file_format == "parquet" else 0))
        num_removed = 0 if num_components is None else sum(sizes.values())  # float32, after the fit
        require_space(destination, num_images * (row_bytes + 4 * num_removed))
    opened = open_staging(
        destination, plan, description_file=DESCRIPTION_FILE, cursor_file=CURSOR_FILE, restart=restart
    )
    with opened as staging, closing(downloads):
        if not staging.is_complete:
            writer = FeatureWriter(
                staging,
                trained,
                reader,
                source,
                np.dtype(dtype),
                num_components=num_components,
                projections=projections,
                as_parquet=file_format == "parquet",
            )
            if slow := slow_path_message(chosen_device.type):
                _logger.warning(slow)
            if writer.num_done:
                _logger.info(f"resuming: {writer.num_done:,} of {len(source.paths):,} images are done")
            writer.run(batch_size, chosen_device, chosen_precision, progress)
            writer.describe(run, plan)
        staging.publish(destination)
    result = open_features(destination, verify=False)
    num_refused = len(source.paths) - len(result.paths)
    if num_refused:
        _logger.warning(
            f"refused {num_refused:,} of {len(source.paths):,} files; see {destination / REFUSED_FILE} for the reasons"
        )
    return result


def open_features(folder: StrPath, *, verify: bool = True) -> Features:
    """Open a folder that `write_features` wrote.

    Args:
        verify: read all files once, to compare them with their checksums. Folders of earlier versions have none.

    Raises:
        RequestError: the folder contains no features, or features of another format version.
        DamagedFile: a file is damaged.
    """
    folder = as_path(folder, "the folder")
    path = folder / DESCRIPTION_FILE
    advice = _advice(folder)
    if not path.is_file():
        raise RequestError(
            f"{folder} contains no features (it has no {DESCRIPTION_FILE}); `alexnet features RUN --out {folder}` "
            "writes them"
        )
    version = read_json(path, Versioned, advice)["format_version"]
    if version not in READABLE_VERSIONS:
        raise RequestError(
            f"{folder} has features of format {version}, this version reads "
            f"{READABLE_VERSIONS[0]} to {READABLE_VERSIONS[-1]}; write them again"
        )
    schema: type[_WithLayers] = _Version1 if version == 1 else _WithLayers  # type: ignore[assignment]
    described: dict[str, Any] = {**read_json(path, schema, advice)}
    if version == 1:
        described["layers"] = described.pop("points")
    if problem := _inconsistency(described):
        raise damaged(path, problem, advice)
    num_images, files_crc32 = described["images"], described.get("files_crc32", {})
    crc32 = {**files_crc32, **{f"{name}.npy": crc for name, crc in described.get("crc32", {}).items()}}
    files = _Files(folder, crc32 if verify else {}, advice)
    paths = _read_paths(folder / IMAGES_FILE, num_images, advice)
    for name in (IMAGES_FILE, REFUSED_FILE, PARQUET_FILE, *map(projection_file, described.get("projections", {}))):
        files.verify(name)
    has_labels = LABELS_FILE in files_crc32 or (folder / LABELS_FILE).is_file()
    labels = files.array(LABELS_FILE, "int64", (num_images,)) if has_labels else None
    if labels is not None and not ((labels >= NO_LABEL) & (labels < len(described["classes"]))).all():
        raise damaged(folder / LABELS_FILE, "it has labels without a class", advice)
    return Features(
        folder=folder,
        activations={
            name: files.array(f"{name}.npy", described["dtype"], tuple(described["shapes"][name]))
            for name in described["layers"]
        },
        paths=paths,
        labels=None if labels is None else np.array(labels),
        classes=tuple(described["classes"]),
        description=described,
    )


def _advice(folder: Path) -> str:
    return f"delete {folder} and write it again: alexnet features RUN --out {folder}"


def _pca(
    pca: int | StrPath | None, run: Path, weights: Mapping[str, Any], sizes: Mapping[str, int], num_images: int
) -> tuple[int | None, dict[str, Projection]]:
    """The number of components to fit, or the projections of a folder, for layers of these sizes."""
    if pca is None:
        return None, {}
    if not isinstance(pca, str | os.PathLike):
        if not is_whole(pca, 1):
            raise RequestError(
                f"--pca is {described(pca)}; allowed is a number of components, 1 or more, or a folder of features"
            )
        for name, size in sizes.items():
            require_fittable(name, num_images, size, pca)
        return int(pca), {}
    fitted = open_features(pca, verify=False)
    if any(
        fitted.description.get(key) != weights.get(key) for key in ("weights_sha256", "untrained", "untrained_seed")
    ):
        raise RequestError(
            f"{fitted.folder} has principal components of other weights than those of {run}; fit them to this network: "
            f"alexnet features {run} --pca N --out FOLDER"
        )
    return None, {name: fitted.projection(name) for name in sizes}


@dataclass(frozen=True)
class _Files:
    """The files of a folder of features, each compared with its CRC-32 if `crc32` has one."""

    folder: Path
    crc32: Mapping[str, int]
    advice: str

    def array(self, name: str, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        """The array of a file, memory-mapped."""
        path = self.folder / name
        try:
            with path.open("rb") as file:
                size_bytes = os.fstat(file.fileno()).st_size
                header, _ = read_npy_header(file, size_bytes, np.dtype(dtype), shape)
            found = np.memmap(path, dtype, "r", len(header), shape)
        except (OSError, ValueError) as error:
            raise_unless_damage(error, path)
            raise damaged(path, str(error), self.advice) from error
        # The checksums of layers are of their rows: headers change when the number of images is known.
        self.verify(name, 0 if name == LABELS_FILE else len(header))
        return found

    def verify(self, name: str, offset: int = 0) -> None:
        """Compare the bytes from `offset` on with their checksum."""
        if name not in self.crc32:
            return
        path = self.folder / name
        try:
            is_same = file_crc32(path, offset) == self.crc32[name]
        except OSError as error:
            raise_unless_damage(error, path)
            raise damaged(path, str(error), self.advice) from error
        if not is_same:
            raise damaged(path, "its checksum differs", self.advice)


class _Projection(TypedDict):
    activation_shape: list[Count]


class _AnyVersion(Versioned):
    dtype: Dtype
    images: Size
    shapes: dict[str, list[Count]]
    classes: list[str]
    crc32: NotRequired[dict[str, Count]]
    files_crc32: NotRequired[dict[str, Count]]
    projections: NotRequired[dict[LayerName, _Projection]]


class _WithLayers(_AnyVersion):
    layers: list[LayerName]


class _Version1(_AnyVersion):
    points: list[LayerName]


def _inconsistency(described: Mapping[str, Any]) -> str | None:
    """What of a description does not fit together; None if all does."""
    for name in described["layers"]:
        shape = described["shapes"].get(name, [])
        if not 2 <= len(shape) <= 4 or shape[0] != described["images"] or math.prod(shape) > 1 << 50:
            return f"shapes.{name}: it is {shape}, of {described['images']} images"
    for name, one in described.get("projections", {}).items():
        shape, num_values = described["shapes"].get(name, []), math.prod(one["activation_shape"])
        if name not in described["layers"] or len(shape) != 2 or not shape[1] <= num_values <= 1 << 40:
            return f"projections.{name}: it is of {num_values} values, and the array is {shape}"
    return None


def _read_paths(path: Path, num_images: int, advice: str) -> tuple[str, ...]:
    """The images of a list of images."""
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = list(csv.DictReader(file))
        paths = tuple(row["path"] for row in rows)
        if len(paths) != num_images or not all(isinstance(one, str) for one in paths):
            raise ValueError(f"it has {len(paths)} images, expected {num_images}")
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise_unless_damage(error, path)
        raise damaged(path, str(error), advice) from error
    return paths


def _shapes_text(arrays: Mapping[str, NDArray[Any]]) -> str:
    return ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in arrays.items())


def _shapes_table(arrays: Mapping[str, NDArray[Any]]) -> Markup:
    rows = [(name, " x ".join(map(str, array.shape)), str(array.dtype)) for name, array in arrays.items()]
    return table_html(["layer", "shape", "dtype"], rows)


def _as_list(layers: Sequence[str] | str | None, network: AlexNet) -> Sequence[str]:
    if layers is None:
        return [default_layer(network.spec)]
    if not isinstance(layers, Sequence):
        raise RequestError(f"layers is {described(layers)}; allowed is the name of a layer, or a list of names")
    return [layers] if isinstance(layers, str) else layers
