"""The files of binary codes: `codes-<bits>.safetensors` in an index's folder, one for each length.

A file has the codes, the encoder that computes those of new vectors, how it was trained, what was measured, and of
which vectors it is.
"""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from alexnet.errors import RequestError, WorkError
from alexnet.explore.binary_codes import BinaryCodes, codes_file
from alexnet.explore.code_measures import CodeMeasures
from alexnet.explore.code_training import CodeEncoder, CodeTraining
from alexnet.explore.vector_index import INDEX_FOLDER, VectorIndex
from alexnet.storage.atomic import raise_if_full
from alexnet.storage.tensors import read_tensors, require_array, write_sealed_tensors
from alexnet.storage.typed_files import Count, Finite, Sha256, Size, Versioned, damaged, parse_json
from alexnet.system.visible_text import shell_words

FORMAT_VERSION = 1
_DESCRIPTION = "description"
"""Metadata key."""


class _Vectors(TypedDict):
    weights_sha256: Sha256
    data_checksum: str
    split: str
    layer: str
    images: Size
    dimensions: Size
    dtype: str
    crc32: Count | None
    """None of an index whose description has none."""


class _Training(TypedDict):
    bits: Size
    seed: Count
    hidden_units: Size
    steps: Size
    batch_size: Size
    learning_rate: Finite
    flipped: Finite


class _Description(Versioned):
    vectors: _Vectors
    training: _Training
    measures: CodeMeasures


def open_codes(index: VectorIndex, bits: int) -> BinaryCodes:
    """Open the codes of one length of an index.

    Raises:
        RequestError: there are none, or they are of other vectors than the index's.
        DamagedFile: the file is damaged.
    """
    path = codes_file(index.folder, bits)
    command = _command(index, bits)
    if not path.is_file():
        lengths = code_lengths(index.folder)
        there = f"it has codes of {', '.join(map(str, lengths))} bits; " if lengths else ""
        raise RequestError(f"{index.folder} has no codes of {bits} bits; {there}make them with {command}")
    advice = f"make it again with {command}"
    arrays, metadata = read_tensors(path, "numpy", advice)
    version = parse_json(metadata.get(_DESCRIPTION, ""), Versioned, path, advice)["format_version"]
    if version != FORMAT_VERSION:
        raise RequestError(f"{path} has codes of format {version}, this version reads {FORMAT_VERSION}; {advice}")
    found = parse_json(metadata[_DESCRIPTION], _Description, path, advice)
    if found["vectors"] != _identity(index):
        raise RequestError(f"{path} has codes of different vectors than those of the index; {advice}")
    try:
        encoder = CodeEncoder.from_arrays(arrays)
        codes = require_array(arrays, "codes", np.uint8, 2)
        if (encoder.bits, encoder.dimensions) != (bits, index.vectors.shape[1]) or codes.shape != (
            len(index),
            bits // 8,
        ):
            raise ValueError(
                f"it has codes {codes.shape} of an encoder from {encoder.dimensions:,} values to {encoder.bits} bits, "
                f"expected ({len(index)}, {bits // 8}) of {index.vectors.shape[1]:,} values"
            )
    except ValueError as error:
        raise damaged(path, str(error), advice) from error
    return BinaryCodes(index, codes, encoder, CodeTraining(**found["training"]), found["measures"])


def code_lengths(folder: Path) -> list[int]:
    """The lengths of which an index folder has codes, ascending."""
    names = (re.fullmatch(r"codes-([1-9]\d{0,3})\.safetensors", path.name) for path in folder.iterdir())
    return sorted(int(name[1]) for name in names if name)


def write_codes(made: BinaryCodes) -> None:
    """Write codes into the folder of their index; a file of the same length is replaced.

    Raises:
        WorkError: the disk is full, or the folder cannot be written to.
    """
    description = {
        "format_version": FORMAT_VERSION,
        "vectors": _identity(made.index),
        "training": asdict(made.training),
        "measures": made.measures,
    }
    arrays = {"codes": made.codes, **made.encoder.arrays()}
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    try:
        write_sealed_tensors(made.file, contiguous, {_DESCRIPTION: json.dumps(description)})
    except OSError as error:
        raise_if_full(error, made.file)
        raise WorkError(f"cannot write {made.file}: {error.strerror or error}; make its folder writable") from error


def _command(index: VectorIndex, bits: int) -> str:
    """The command that makes codes of an index."""
    place = [] if index.folder == index.run / INDEX_FOLDER else ["--index", index.folder]
    return f"`{shell_words('alexnet', 'codes', index.run, *place, '--bits', str(bits))}`"


def _identity(index: VectorIndex) -> dict[str, Any]:
    """What the vectors of an index are: other vectors have another identity."""
    return {
        "weights_sha256": index.description["weights_sha256"],
        "data_checksum": index.description["data_checksum"],
        "split": index.split,
        "layer": index.layer,
        "images": len(index),
        "dimensions": index.vectors.shape[1],
        "dtype": str(index.vectors.dtype),
        "crc32": index.description.get("crc32", {}).get(index.layer),
    }
