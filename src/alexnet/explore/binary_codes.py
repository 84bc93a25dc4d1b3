"""Short binary codes of an index's vectors, several lengths beside each other in the index folder.

The codes of a length are one file, `codes-<bits>.safetensors`: the codes, the encoder that computes those of new
vectors, how it was trained, what was measured, and of which vectors it is. Section 6.1 of the paper.
"""

import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from alexnet.errors import Interrupted, RequestError, WorkError
from alexnet.explore.code_measures import NUM_NEIGHBORS, CodeMeasures, held_out_queries, measure_codes
from alexnet.explore.code_training import CodeEncoder, CodeTraining, train_encoder
from alexnet.explore.hamming import MAX_BITS, WORD_BITS, HammingCodes
from alexnet.explore.nearest import Nearest, nearest, nearest_of_candidates
from alexnet.explore.vector_index import VectorIndex, build_index, has_index, open_index
from alexnet.figures.notebook_html import result_html, table_html
from alexnet.storage.arguments import is_whole
from alexnet.storage.atomic import raise_if_full
from alexnet.storage.paths import StrPath, StrPaths, as_path, described
from alexnet.storage.tensors import read_tensors, require_array, write_sealed_tensors
from alexnet.storage.typed_files import Count, DamagedFile, Finite, Sha256, Size, Versioned, damaged, parse_json
from alexnet.system.device import Device, choose_device
from alexnet.system.progress import ProgressBar, ShowProgress, lines_shown

FORMAT_VERSION = 1
DEFAULT_BITS = 256
_DESCRIPTION = "description"
"""Metadata key."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class BinaryCodes:
    """The binary codes of one length of all vectors of an index."""

    index: VectorIndex
    codes: NDArray[np.uint8]
    """(N, bits / 8), of the index's vectors in their order; the first bit is the highest of the first byte."""
    encoder: CodeEncoder
    training: CodeTraining
    measures: CodeMeasures

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self.encoder.bits

    @property
    def file(self) -> Path:
        """The file that holds them."""
        return codes_file(self.index.folder, self.bits)

    def nearest(
        self,
        queries: NDArray[Any],
        num: int,
        *,
        rerank: int | None = None,
        exclude: NDArray[np.int64] | None = None,
    ) -> Nearest:
        """The vectors of the index whose codes are nearest to those of the queries.

        Args:
            queries: vectors, (Q, D).
            num: vectors for each query, 1 or more.
            rerank: order this many nearest codes by exact Euclidean distance, and return the nearest of them; `num` or
                more. None orders by Hamming distance.
            exclude: int64 (Q,), a vector that is no neighbor of each query, such as the query itself; -1 for none.

        Returns:
            Distances are Euclidean with `rerank`, else those of Hamming, in bits; at the same distance by index.

        Raises:
            RequestError: queries of another form, a number below 1, or fewer to order than `num`.
        """
        require_rerank(rerank, num)
        codes = self.encoder.encode(queries)
        found = self._search.nearest(codes, num if rerank is None else rerank, exclude=exclude)
        return found if rerank is None else nearest_of_candidates(self.index.vectors, queries, found.indices, num)

    @cached_property
    def _search(self) -> HammingCodes:
        return HammingCodes(self.codes)

    def to_dict(self) -> dict[str, Any]:
        """What `alexnet codes --json` prints of them."""
        return {
            "bits": self.bits,
            "file": str(self.file),
            "images": len(self.codes),
            "training": asdict(self.training),
            **self.measures,
        }

    def __repr__(self) -> str:
        recall = self.measures["recall"][-1]
        return (
            f"BinaryCodes({str(self.file)!r}: {len(self.codes):,} images, {self.bits} bits, "
            f"{100 * recall['recall']:.1f} % of the nearest among {recall['among']:,})"
        )

    def _repr_html_(self) -> str:
        return result_html(f"codes {self.file}", codes_table([self]))


@dataclass(frozen=True)
class CodeSearch:
    """A search by codes."""

    codes: BinaryCodes
    rerank: int | None
    """As in `BinaryCodes.nearest`."""

    def describe(self) -> str:
        """How good its answers are."""
        measures = self.codes.measures
        measured = max(
            (one for one in measures["recall"] if one["among"] <= max(self.rerank or 0, measures["neighbors"])),
            key=lambda one: one["among"],
        )
        low, high = measured["interval"]
        return (
            f"by codes of {self.codes.bits} bits"
            + ("" if self.rerank is None else f", the first {self.rerank:,} ordered by Euclidean distance")
            + f": {100 * measured['recall']:.1f} % [{100 * low:.1f}, {100 * high:.1f}] of the exact "
            f"{measures['neighbors']} nearest are among the first {measured['among']:,}, measured on "
            f"{measures['queries']:,} indexed images"
        )

    def to_dict(self) -> dict[str, Any]:
        """What `alexnet neighbors --json` prints of it."""
        return {"bits": self.codes.bits, "rerank": self.rerank, "recall": self.codes.measures["recall"]}


def codes(
    run: StrPath,
    bits: int | Sequence[int] = DEFAULT_BITS,
    data_folder: StrPaths | None = None,
    *,
    index: StrPath | None = None,
    seed: int = 0,
    device: Device = "auto",
    progress: ShowProgress = None,
) -> tuple[BinaryCodes, ...]:
    """Train auto-encoders to binary codes on the vectors of a run's index, and keep codes and encoders beside it.

    An index is made first if there is none. Lengths that are there already, of the same vectors and settings, are kept.

    Args:
        run: a run folder or a weights file.
        bits: length of the codes, or several: multiples of 32 up to 1,024.
        data_folder: the prepared data set; None is the index's own, or what the run was trained on.
        index: folder of the index; None is `index` in the run folder.
        seed: of the weights that the training begins with, its order, and the images held out to measure.
        device: where the auto-encoders are trained; `auto` is a GPU if there is one.
        progress: see `ShowProgress`; a function is called with (training steps done, steps in total).

    Returns:
        Codes in the order of `bits`.

    Raises:
        RequestError: a length that is not allowed, an index of other weights, or one with fewer than two images.
        WorkError: all vectors or all codes are equal, the training diverges, or the disk is full.
        Interrupted: from the keyboard; finished lengths are kept.
    """
    run = as_path(run, "the run")
    lengths = _lengths(bits)
    if not is_whole(seed, 0):
        raise RequestError(f"the seed is {described(seed)}; allowed is a whole number, 0 or more")
    chosen_device = choose_device(device)
    is_there = has_index(run, index)
    opened = (
        open_index(run, index, data_folder=data_folder)
        if is_there
        else build_index(
            run, data_folder, folder=index, device=device, progress=False if callable(progress) else progress
        )
    )
    if len(opened) < 2:
        raise RequestError(f"{opened.folder} has one image; codes need an index of two or more")
    wanted = [CodeTraining(length, seed) for length in lengths]
    with lines_shown(progress), ProgressBar("codes", shown=progress) as bar, _kept_if_interrupted():
        found = {one.bits: _existing(opened, one) for one in wanted}
        missing = [one for one in wanted if found[one.bits] is None]
        if missing:
            queries = held_out_queries(len(opened), seed)
            num_neighbors = min(NUM_NEIGHBORS, len(opened) - 1)
            vectors = np.asarray(opened.vectors[queries], np.float32)
            true = nearest(opened.vectors, vectors, num_neighbors, exclude=queries).indices
        total = sum(one.steps for one in missing)
        for number, settings in enumerate(missing):
            done = sum(one.steps for one in missing[:number])

            def update(step: int, lost: float, done: int = done, settings: CodeTraining = settings) -> None:
                bar.update(done + step, total, f"{settings.bits} bits, {100 * (1 - lost):.1f} % reconstructed")

            trained = train_encoder(opened.vectors, queries, settings, device=chosen_device, progress=update)
            values = trained.encoder.encode(opened.vectors)
            measures = measure_codes(
                opened.vectors,
                trained.encoder,
                values,
                queries,
                true,
                opened.labels,
                list(zip(opened.classes, opened.class_names, strict=True)),
                trained.reconstructed,
            )
            made = BinaryCodes(opened, values, trained.encoder, settings, measures)
            _require_variety(made)
            _write(made)
            found[settings.bits] = made
    return tuple(one for length in lengths if (one := found[length]) is not None)


def open_codes(index: VectorIndex, bits: int) -> BinaryCodes:
    """Open the codes of one length of an index.

    Raises:
        RequestError: there are none, or they are of other vectors than the index's.
        DamagedFile: the file is damaged.
    """
    path = codes_file(index.folder, bits)
    command = f"`alexnet codes RUN --index {index.folder} --bits {bits}`"
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
        raise RequestError(f"{path} has codes of other vectors than those of the index; {advice}")
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


def require_rerank(rerank: int | None, num: int) -> int | None:
    """The number of nearest codes to order exactly.

    Raises:
        RequestError: it is no number, or below the number of neighbors.
    """
    if rerank is not None and (not is_whole(rerank, 1) or rerank < num):
        raise RequestError(f"--rerank is {described(rerank)}; allowed is a whole number, {num:,} (--num) or more")
    return rerank


def codes_file(folder: Path, bits: int) -> Path:
    """The file of the codes of a length in an index folder."""
    return folder / f"codes-{bits}.safetensors"


def code_lengths(folder: Path) -> list[int]:
    """The lengths of which an index folder has codes, ascending."""
    names = (re.fullmatch(r"codes-([1-9]\d{0,3})\.safetensors", path.name) for path in folder.iterdir())
    return sorted(int(name[1]) for name in names if name)


def codes_table(several: Sequence[BinaryCodes]) -> Markup:
    """The measures of several lengths, in HTML."""
    return table_html(*codes_cells(several), caption="; ".join([codes_title(several), *codes_legend(several)]))


def codes_title(several: Sequence[BinaryCodes]) -> str:
    """The title of the table of `codes_cells`."""
    measures = several[0].measures
    return f"{measures['queries']:,} queries and their {measures['neighbors']} nearest by Euclidean distance"


def codes_legend(several: Sequence[BinaryCodes]) -> list[str]:
    """What the columns of `codes_cells` are, one in a line."""
    neighbors = several[0].measures["neighbors"]
    return [
        f"in R: percent of the {neighbors} nearest among the first R by codes, and half of its 95 % interval",
        f"class: percent of the first {neighbors} that have the query's class",
        "\u00b5s: microseconds a query; +R: those added by ordering the first R by Euclidean distance",
    ]


def codes_cells(several: Sequence[BinaryCodes]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of a table that compares lengths, and the exact search, on the same queries."""
    among = [one["among"] for one in several[0].measures["recall"]]
    headings = ["bits", "bytes", *(f"in {one:,}" for one in among), "class", "µs", *(f"+{one:,}" for one in among[1:])]
    first = several[0].measures
    rows = [
        [
            "exact",
            f"{first['vector_bytes']:,}",
            *("100" for _ in among),
            _precision_text(first, "exact"),
            f"{first['exact_us']:,.0f}",
            *("" for _ in among[1:]),
        ]
    ]
    for one in several:
        measures = one.measures
        rows.append(
            [
                str(one.bits),
                f"{measures['code_bytes']:,}",
                *(_share_text(cell["recall"], cell["interval"]) for cell in measures["recall"]),
                _precision_text(measures, "codes"),
                f"{measures['encoding_us'] + measures['search_us']:,.0f}",
                *(f"{cell['microseconds']:,.0f}" for cell in measures["rerank"]),
            ]
        )
    return headings, rows


def _share_text(share: float, interval: list[float]) -> str:
    return f"{100 * share:.1f}±{100 * (interval[1] - interval[0]) / 2:.1f}"


def _precision_text(measures: CodeMeasures, which: Literal["codes", "exact"]) -> str:
    precision = measures["precision"]
    if precision is None:
        return "-"
    interval = precision["codes_interval" if which == "codes" else "exact_interval"]
    return _share_text(precision[which], interval)


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


def _lengths(bits: int | Sequence[int]) -> list[int]:
    """The lengths asked for, each once."""
    given: Sequence[Any] = [bits] if isinstance(bits, int) or not isinstance(bits, Sequence) else bits
    for one in given:
        if not is_whole(one, WORD_BITS) or one > MAX_BITS or one % WORD_BITS:
            raise RequestError(
                f"--bits is {described(one)}; allowed are multiples of {WORD_BITS} up to {MAX_BITS:,}, e.g. 64"
            )
    if not given:
        raise RequestError("bits is empty; name one length of the codes or more, such as 64")
    return list(dict.fromkeys(int(one) for one in given))


def _existing(index: VectorIndex, settings: CodeTraining) -> BinaryCodes | None:
    """The codes that are there already; None where they are to be made."""
    path = codes_file(index.folder, settings.bits)
    if not path.exists():
        return None
    try:
        found = open_codes(index, settings.bits)
    except (DamagedFile, RequestError) as error:
        reason, _, _ = str(error).partition("; make it again")
        _logger.warning(f"{reason}; it is made again")
        return None
    if found.training != settings:
        _logger.info(f"{path} is replaced: it was trained with other settings")
        return None
    _logger.info(f"{path} is complete")
    return found


def _require_variety(made: BinaryCodes) -> None:
    """Refuse codes that are all the same, and warn of bits that are."""
    measures = made.measures
    if measures["distinct_codes"] == 1:
        raise WorkError(
            f"the auto-encoder has collapsed: all {len(made.codes):,} images have the same {made.bits}-bit code; train "
            "with another --seed"
        )
    if measures["constant_bits"]:
        _logger.warning(
            f"{measures['constant_bits']} of {made.bits} bits are the same for more than 99.9 % of the images, so that "
            "they tell nothing: codes with fewer bits may find as much"
        )


def _write(made: BinaryCodes) -> None:
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


@contextmanager
def _kept_if_interrupted() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted("interrupted; finished lengths are kept; rerun the same command to continue") from error
