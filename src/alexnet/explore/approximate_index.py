"""Approximate search for indexes that are too large for an exact pass: HNSW graphs and IVF-PQ of faiss.

faiss proposes candidates, whose distances are then computed exactly from the index's own vectors; so distances are
right, and only some of the nearest may be missing. How many is measured when the file is made, and kept with it.

faiss trusts the files that it reads. A file is read only if its SHA-256 is the one that its description in the folder
of the index has. That finds damage, not malice: whoever makes a folder writes both, and a file made for it can take all
memory or do worse. Do not open approximate indexes of strangers. An extra: `alexnet[index]`.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from alexnet.errors import RequestError
from alexnet.evaluation.metrics import mean_interval
from alexnet.explore.nearest import ABSENT, Nearest, nearest, nearest_of_candidates
from alexnet.storage.atomic import raise_if_full, replaced_file, require_space, sync_folder, unwritable
from alexnet.storage.checksums import file_digest
from alexnet.storage.lock import only_writer
from alexnet.storage.typed_files import (
    Count,
    FileName,
    Finite,
    Fraction,
    Sha256,
    Size,
    Versioned,
    damaged,
    read_json,
    write_sealed_json,
)

ApproximateKind = Literal["hnsw", "ivf-pq"]
APPROXIMATE_KINDS: tuple[ApproximateKind, ...] = get_args(ApproximateKind)
FORMAT_VERSION = 1
LEAST_IVF_PQ = 1000
"""Vectors that an IVF-PQ index needs for its codebooks."""
RECALL_AT = 10
RECALL_SAMPLE = 1000
_SEED = 0
_CANDIDATES = {"hnsw": 64, "ivf-pq": 256}
"""At least so many candidates are compared exactly."""
_HNSW_LINKS, _HNSW_CONSTRUCTION, _HNSW_SEARCH = 32, 100, 128
_PQ_BYTES, _PQ_BITS = 64, 8
_TRAINING_BYTES = 1 << 30
_BLOCK_BYTES = 1 << 26


class _Description(Versioned):
    kind: ApproximateKind
    faiss: str
    weights_sha256: Sha256
    vectors_crc32: Count
    images: Size
    length: Size
    parameters: dict[str, Count]
    file: FileName
    bytes: Size
    sha256: Sha256
    recall: Fraction
    recall_interval: list[Fraction]
    recall_at: Size
    recall_sample: Size
    recall_seed: Count
    microseconds: Finite
    exact_microseconds: Finite
    build_s: Finite


@dataclass(frozen=True, eq=False)
class ApproximateIndex:
    """An approximate index, opened for searching."""

    kind: ApproximateKind
    description: dict[str, Any]
    """What its file says of it, with the recall that was measured."""
    vectors: NDArray[np.floating[Any]]
    searcher: Any
    """Of faiss."""

    def nearest(self, queries: NDArray[np.float32], num: int, exclude: NDArray[np.int64] | None = None) -> Nearest:
        """As `alexnet.explore.nearest.nearest`, among the candidates that faiss proposes."""
        wanted = min(len(self.vectors), max(_CANDIDATES[self.kind], 4 * num) + (exclude is not None))
        if self.kind == "hnsw":
            self.searcher.hnsw.efSearch = max(_HNSW_SEARCH, 2 * wanted)
        _, candidates = self.searcher.search(np.ascontiguousarray(queries, np.float32), wanted)
        if exclude is not None:
            candidates[candidates == exclude[:, None]] = ABSENT
        return nearest_of_candidates(self.vectors, queries, candidates, num)

    def describe(self) -> str:
        """How good its answers are."""
        one = self.description
        low, high = one["recall_interval"]
        return (
            f"approximate ({self.kind}): it finds {100 * one['recall']:.2f} % [{100 * low:.2f}, {100 * high:.2f}] of "
            f"the exact {one['recall_at']} nearest, measured on {one['recall_sample']:,} indexed images"
        )


def build_approximate(
    folder: Path,
    vectors: NDArray[np.floating[Any]],
    kind: str,
    weights_sha256: str,
    vectors_crc32: int,
    progress: Callable[[int, int], None] | None = None,
) -> ApproximateIndex:
    """Make an approximate index of vectors, measure its recall, and write both to the folder of the index.

    Args:
        folder: of the index.
        vectors: (N, D).
        kind: `hnsw`, a graph over vectors in 8 bits: N (D + 256) bytes, also of memory; or `ivf-pq`, 64 bytes a vector.
        weights_sha256: of the network.
        vectors_crc32: of the vectors' file.
        progress: called with (vectors done, N).

    Raises:
        RequestError: faiss is not installed, an unknown kind, too few vectors for it, another process makes it, or the
            folder cannot be written.
        WorkError: the disk is full.
    """
    faiss = import_faiss()
    chosen = require_kind(kind)
    num_rows, length = vectors.shape
    if chosen == "ivf-pq" and num_rows < LEAST_IVF_PQ:
        raise RequestError(
            f"ivf-pq needs {LEAST_IVF_PQ:,} images or more, and {folder} has {num_rows:,}; omit it: exact search of so "
            "few is fast"
        )
    row_bytes = length + 8 * _HNSW_LINKS if chosen == "hnsw" else _PQ_BYTES + 8
    require_space(folder / f"{chosen}.faiss", num_rows * row_bytes)
    with _only_builder(folder, chosen):
        return _build(faiss, folder, vectors, chosen, weights_sha256, vectors_crc32, progress)


@contextmanager
def _only_builder(folder: Path, kind: ApproximateKind) -> Iterator[None]:
    """Keep other processes from making the same index: the description of one would not fit the file of the other."""
    file, lock = folder / f"{kind}.faiss", folder / f".{kind}.lock"
    try:
        with only_writer(lock, str(file)):
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
    except OSError as error:
        raise_if_full(error, file)
        raise unwritable(file, error) from error


def _build(
    faiss: Any,
    folder: Path,
    vectors: NDArray[np.floating[Any]],
    chosen: ApproximateKind,
    weights_sha256: str,
    vectors_crc32: int,
    progress: Callable[[int, int], None] | None,
) -> ApproximateIndex:
    num_rows, length = vectors.shape
    start_s = time.perf_counter()
    searcher, parameters = _new_searcher(faiss, chosen, vectors)
    block_rows = max(1, _BLOCK_BYTES // (4 * length))
    for first in range(0, num_rows, block_rows):
        block = np.ascontiguousarray(vectors[first : first + block_rows], np.float32)
        searcher.add(block)
        if progress is not None:
            progress(first + len(block), num_rows)
    build_s = time.perf_counter() - start_s
    made = ApproximateIndex(chosen, {}, vectors, searcher)
    path = folder / f"{chosen}.faiss"
    measured = _measure(made)
    _description_path(folder, chosen).unlink(missing_ok=True)  # it is of the file that is replaced now
    with replaced_file(path) as file:
        faiss.write_index(searcher, faiss.PyCallbackIOWriter(file.write))
    sync_folder(folder)
    content = {
        "format_version": FORMAT_VERSION,
        "kind": chosen,
        "faiss": str(faiss.__version__),
        "weights_sha256": weights_sha256,
        "vectors_crc32": vectors_crc32,
        "images": num_rows,
        "length": length,
        "parameters": parameters,
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": file_digest(path),
        **measured,
        "build_s": build_s,
    }
    write_sealed_json(_description_path(folder, chosen), content)  # last: it makes the file valid
    return ApproximateIndex(chosen, content, vectors, searcher)


def open_approximate(
    folder: Path, vectors: NDArray[np.floating[Any]], kind: str | None, weights_sha256: str, vectors_crc32: int
) -> ApproximateIndex:
    """Open an approximate index of vectors.

    Args:
        kind: None is `hnsw`, or else what there is.
        folder, vectors, weights_sha256, vectors_crc32: as `build_approximate` got them.

    Raises:
        RequestError: faiss is not installed, there is none of this kind, or it is of other vectors.
        DamagedFile: its file is not the one that was written.
    """
    there = [one for one in APPROXIMATE_KINDS if _description_path(folder, one).is_file()]
    chosen = there[0] if kind is None and there else require_kind(kind or APPROXIMATE_KINDS[0])
    if chosen not in there:
        raise RequestError(
            f"{folder} has no approximate index{f' of kind {kind}' if kind else ''}; rerun `alexnet index` with "
            f"--approximate {chosen} to add one, or omit --approximate for exact search"
        )
    path = _description_path(folder, chosen)
    advice = f"delete {path}, and rerun `alexnet index` with --approximate {chosen}"
    description = read_json(path, _Description, advice, sealed_since=1)
    if description["format_version"] != FORMAT_VERSION:
        raise RequestError(f"{path} has format {description['format_version']}, this version reads 1; {advice}")
    if (description["weights_sha256"], description["vectors_crc32"]) != (weights_sha256, vectors_crc32) or (
        description["images"],
        description["length"],
    ) != vectors.shape:
        raise RequestError(f"{path} was built from other vectors than {folder} has now; {advice}")
    file = folder / f"{chosen}.faiss"  # never a path that the description names
    if description["kind"] != chosen or description["file"] != file.name:
        raise damaged(path, f"it describes {description['file']!r}, not {file.name}", advice)
    if not file.is_file() or file.stat().st_size != description["bytes"] or file_digest(file) != description["sha256"]:
        raise damaged(file, "its checksum differs from that of its description, or it is missing", advice)
    faiss = import_faiss()
    try:
        searcher = faiss.read_index(str(file))
    except (RuntimeError, MemoryError) as error:
        raise damaged(file, f"faiss {faiss.__version__} cannot read it", advice) from error
    expected = {"hnsw": faiss.IndexHNSWSQ, "ivf-pq": faiss.IndexIVFPQ}[chosen]
    if not isinstance(searcher, expected):
        raise damaged(file, f"it holds {type(searcher).__name__}, expected {expected.__name__}", advice)
    if (searcher.ntotal, searcher.d) != vectors.shape:
        raise damaged(file, f"it holds {searcher.ntotal} vectors of {searcher.d} values", advice)
    if chosen == "ivf-pq":
        searcher.nprobe = _num_probed(searcher.nlist)
    return ApproximateIndex(chosen, {**description}, vectors, searcher)


def has_approximate(folder: Path, kind: str) -> bool:
    """Whether the folder of an index has an approximate index of this kind."""
    return _description_path(folder, require_kind(kind)).is_file()


def import_faiss() -> Any:
    """The library.

    Raises:
        RequestError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise RequestError(
            "approximate search needs faiss, which is not installed; install it with `pip install 'alexnet[index]'`, "
            "or omit --approximate for exact search"
        ) from error
    return faiss


def require_kind(kind: str) -> ApproximateKind:
    """The kind of this name.

    Raises:
        RequestError: there is none.
    """
    for one in APPROXIMATE_KINDS:
        if one == kind:
            return one
    raise RequestError(f"--approximate is {kind!r}; allowed is {' or '.join(APPROXIMATE_KINDS)}")


def _description_path(folder: Path, kind: ApproximateKind) -> Path:
    return folder / f"{kind}.json"


def _new_searcher(faiss: Any, kind: ApproximateKind, vectors: NDArray[np.floating[Any]]) -> tuple[Any, dict[str, int]]:
    """An index of faiss, trained, without vectors; and its parameters."""
    num_rows, length = vectors.shape
    if kind == "hnsw":
        searcher = faiss.IndexHNSWSQ(length, faiss.ScalarQuantizer.QT_8bit, _HNSW_LINKS)
        searcher.hnsw.efConstruction = _HNSW_CONSTRUCTION
        searcher.train(_sample(vectors, 100_000))
        return searcher, {"links": _HNSW_LINKS, "construction": _HNSW_CONSTRUCTION, "search": _HNSW_SEARCH, "bits": 8}
    num_lists = round(num_rows**0.5)
    num_parts = next(one for one in range(min(_PQ_BYTES, length), 0, -1) if length % one == 0)
    searcher = faiss.IndexIVFPQ(faiss.IndexFlatL2(length), length, num_lists, num_parts, _PQ_BITS)
    for clustering in (searcher.cp, searcher.pq.cp):
        clustering.min_points_per_centroid = 1  # else faiss prints a warning; the recall says what is wrong
    searcher.train(_sample(vectors, max(256 * 39, 50 * num_lists)))
    probed = _num_probed(num_lists)
    searcher.nprobe = probed
    return searcher, {"lists": num_lists, "probed": probed, "parts": num_parts, "bits": _PQ_BITS}


def _num_probed(num_lists: int) -> int:
    return max(8, num_lists // 16)


def _sample(vectors: NDArray[np.floating[Any]], most: int) -> NDArray[np.float32]:
    """Some vectors for training, in the order in which they are stored."""
    num = min(len(vectors), most, max(256, _TRAINING_BYTES // (4 * vectors.shape[1])))
    rows = np.sort(np.random.default_rng(_SEED).choice(len(vectors), num, replace=False))
    return np.ascontiguousarray(vectors[rows], np.float32)


def _measure(made: ApproximateIndex) -> dict[str, Any]:
    """Recall at 10 against exact search, and the time of both, with indexed vectors that are left out of their own."""
    num_rows = len(made.vectors)
    at = max(1, min(RECALL_AT, num_rows - 1))
    rows = np.sort(np.random.default_rng(_SEED).choice(num_rows, min(RECALL_SAMPLE, num_rows), replace=False))
    queries = np.ascontiguousarray(made.vectors[rows], np.float32)
    start_s = time.perf_counter()
    exact = nearest(made.vectors, queries, at, exclude=rows)
    exact_s = time.perf_counter() - start_s
    start_s = time.perf_counter()
    found = made.nearest(queries, at, rows)
    found_s = time.perf_counter() - start_s
    # By distance: of several rows at the same distance, any is right.
    hits = (found.distances <= exact.distances[:, -1:]).mean(1)
    missed = float(1 - hits.mean())
    low, high = mean_interval(missed, len(rows))
    return {
        "recall": 1 - missed,
        "recall_interval": [1 - high, 1 - low],
        "recall_at": at,
        "recall_sample": len(rows),
        "recall_seed": _SEED,
        "microseconds": 1e6 * found_s / len(rows),
        "exact_microseconds": 1e6 * exact_s / len(rows),
    }
