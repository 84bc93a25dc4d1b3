"""Reads folders of activations that `write_features` wrote, of this and earlier format versions."""

import csv
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import numpy as np
from markupsafe import Markup
from msgspec import Meta
from numpy.typing import NDArray

from alexnet.data.dataset_files import NO_LABEL
from alexnet.errors import RequestError
from alexnet.explore.activation_pca import Projection, read_projection
from alexnet.explore.feature_writer import (
    DESCRIPTION_FILE,
    FORMAT_VERSION,
    IMAGES_FILE,
    LABELS_FILE,
    PARQUET_FILE,
    PROJECTED_VERSION,
    REFUSED_FILE,
    projection_file,
)
from alexnet.figures.notebook_html import result_html, table_html
from alexnet.storage.checksums import file_crc32
from alexnet.storage.npy import read_npy_header
from alexnet.storage.paths import StrPath, as_path
from alexnet.storage.read_errors import raise_unless_damage
from alexnet.storage.typed_files import Count, Size, Versioned, damaged, read_json

READABLE_VERSIONS = (1, 2, FORMAT_VERSION, PROJECTED_VERSION)
"""Up to version 2, `conv5` is the input of the next layer with weights; `conv5.linear` became `conv5` in version 3.
Version 1 has `points` where the others have `layers`. Version 4 is 3 with arrays of principal components."""
Dtype = Literal["float32", "float16"]
LayerName = Annotated[str, Meta(pattern=r"\A[\w.-]{1,100}\Z")]
"""Also the name of a file."""


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
        return f"Features({str(self.folder)!r}: {shapes_text(self.activations)})"

    def _repr_html_(self) -> str:
        return result_html(f"features {self.folder}", shapes_table(self.activations))


def open_features(folder: StrPath, *, verify: bool = True, verify_arrays: bool = True) -> Features:
    """Open a folder that `write_features` wrote.

    Args:
        verify: read all files once, to compare them with their checksums. Folders of earlier versions have none.
        verify_arrays: whether that includes the activations.

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
    crc32 = dict(files_crc32)
    if verify_arrays:
        crc32 |= {f"{name}.npy": crc for name, crc in described.get("crc32", {}).items()}
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
        if len(paths) != num_images:
            raise ValueError(f"it has {len(paths)} images, expected {num_images}")
        if not all(isinstance(one, str) for one in paths):
            raise ValueError("it has an image without a path")
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise_unless_damage(error, path)
        raise damaged(path, str(error), advice) from error
    return paths


def shapes_text(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Name, dtype and shape of each array, as text."""
    return ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in arrays.items())


def shapes_table(arrays: Mapping[str, NDArray[Any]]) -> Markup:
    """Name, shape and dtype of each array, as HTML."""
    rows = [(name, " x ".join(map(str, array.shape)), str(array.dtype)) for name, array in arrays.items()]
    return table_html(["layer", "shape", "dtype"], rows)
