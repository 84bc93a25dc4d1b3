"""Recall and time of exact, approximate and coded search, on generated vectors.

The vectors look like those of a hidden layer: rectified linear functions of 32 hidden numbers, drawn around as many
centers as the square root of their number. Queries are drawn in the same way and are not indexed. Recall is the
share of the exact ten nearest that are found; codes have one row by Hamming distance alone, and one that compares 100
candidates exactly. Times are medians, all queries at once; building is timed once.

example: python benchmarks/neighbors.py --vectors 10000 --values 4096
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.cli.command_parser import CommandParser
from alexnet.cli.tables import new_table
from alexnet.errors import RequestError
from alexnet.explore.approximate_index import APPROXIMATE_KINDS, build_approximate
from alexnet.explore.code_training import CodeTraining, train_encoder
from alexnet.explore.hamming import HammingCodes
from alexnet.explore.nearest import Nearest, nearest, nearest_of_candidates
from alexnet.system.machine import machine_summary, source_commit
from alexnet.system.terminal import TerminalConsole
from script import logger, run_script

NUM_NEIGHBORS = 10
CANDIDATES = 100
HIDDEN_NUMBERS = 32
_BLOCK_ROWS = 20_000


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("--vectors", type=int, metavar="N", default=10_000, help="vectors in the index")
    parser.add_argument("--values", type=int, metavar="N", default=4096, help="values of a vector")
    parser.add_argument("--queries", type=int, metavar="N", default=200, help="queries, all at once")
    parser.add_argument("--rounds", type=int, metavar="N", default=3, help="measurements of each method")
    parser.add_argument("--bits", type=int, nargs="*", metavar="N", default=[64, 256], help="lengths of binary codes")
    text = f"approximate indexes: {', '.join(APPROXIMATE_KINDS)}"
    parser.add_argument("--kinds", nargs="*", metavar="KIND", default=list(APPROXIMATE_KINDS), help=text)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all methods on the same vectors."""
    for name in ("vectors", "values", "queries", "rounds"):
        if getattr(options, name) < 1:
            raise RequestError(f"--{name} is {getattr(options, name)}; allowed is 1 or more")
    with tempfile.TemporaryDirectory() as folder:
        vectors, queries = generate(Path(folder), options.vectors, options.values, options.queries)
        return {
            "vectors": options.vectors,
            "values": options.values,
            "queries": options.queries,
            "commit": source_commit(),
            "machine": machine_summary(),
            "threads": torch.get_num_threads(),
            "methods": measure_methods(Path(folder), vectors, queries, options.rounds, options.bits, options.kinds),
        }


def generate(
    folder: Path, num_vectors: int, length: int, num_queries: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vectors (N, D) in a file, memory-mapped, and queries (Q, D), both float32."""
    random = np.random.default_rng(0)
    centers = random.normal(size=(round(num_vectors**0.5), HIDDEN_NUMBERS)).astype(np.float32)
    weights = random.normal(size=(HIDDEN_NUMBERS, length)).astype(np.float32) / np.float32(HIDDEN_NUMBERS**0.5)

    def draw(num: int) -> NDArray[np.float32]:
        hidden = centers[random.integers(0, len(centers), num)]
        hidden = hidden + np.float32(0.5) * random.normal(size=hidden.shape).astype(np.float32)
        return np.maximum(hidden @ weights, 0)

    path = folder / "vectors.npy"
    vectors = np.lib.format.open_memmap(path, "w+", np.float32, (num_vectors, length))
    for first in range(0, num_vectors, _BLOCK_ROWS):
        vectors[first : first + _BLOCK_ROWS] = draw(min(_BLOCK_ROWS, num_vectors - first))
    vectors.flush()
    return np.load(path, mmap_mode="r"), draw(num_queries)


def measure_methods(
    folder: Path,
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    rounds: int,
    bits: list[int],
    kinds: list[str],
) -> dict[str, dict[str, float]]:
    """By method: bytes of a vector, seconds to build, microseconds a query, and recall."""
    exact = nearest(vectors, queries, NUM_NEIGHBORS)
    length = vectors.shape[1]
    result = {
        "exact": _timed(lambda: nearest(vectors, queries, NUM_NEIGHBORS), queries, exact, rounds, 4 * length, 0.0)
    }
    for kind in kinds:
        logger.info(f"{kind}: building")
        made = build_approximate(folder, vectors, kind, "0" * 64, 0)
        size = made.description["bytes"] / len(vectors)
        search = _search(made.nearest, queries, NUM_NEIGHBORS)
        result[kind] = _timed(search, queries, exact, rounds, size, made.description["build_s"])
        del made, search  # the memory
        (folder / f"{kind}.faiss").unlink()
    for num_bits in bits:
        logger.info(f"codes of {num_bits} bits: training")
        start_s = time.perf_counter()
        held_out = np.arange(min(1000, len(vectors) // 10 or 1))
        encoder = train_encoder(vectors, held_out, CodeTraining(num_bits), device=torch.device("cpu")).encoder
        codes = HammingCodes(encoder.encode(vectors))
        build_s = time.perf_counter() - start_s

        def by_code(codes: HammingCodes = codes, encode: Any = encoder.encode) -> Nearest:
            return codes.nearest(encode(queries), NUM_NEIGHBORS)

        def reranked(codes: HammingCodes = codes, encode: Any = encoder.encode) -> Nearest:
            candidates = codes.nearest(encode(queries), min(CANDIDATES, len(vectors))).indices
            return nearest_of_candidates(vectors, queries, candidates, NUM_NEIGHBORS)

        size = num_bits / 8
        result[f"codes, {num_bits} bits"] = _timed(by_code, queries, exact, rounds, size, build_s)
        result[f"codes, {num_bits} bits, {CANDIDATES} compared"] = _timed(
            reranked, queries, exact, rounds, size, build_s
        )
    return result


def _search(search: Callable[..., Nearest], *arguments: Any) -> Callable[[], Nearest]:
    return lambda: search(*arguments)


def _timed(
    search: Callable[[], Nearest],
    queries: NDArray[np.float32],
    exact: Nearest,
    rounds: int,
    bytes_per_vector: float,
    build_s: float,
) -> dict[str, float]:
    found = search()  # also compiles
    times = []
    for _ in range(rounds):
        start_s = time.perf_counter()
        search()
        times.append(time.perf_counter() - start_s)
    pairs = zip(found.indices, exact.indices, strict=True)
    return {
        "bytes_per_vector": bytes_per_vector,
        "build_s": build_s,
        "microseconds": 1e6 * statistics.median(times) / len(queries),
        "recall": float(np.mean([np.isin(true, one).mean() for one, true in pairs])),
    }


def print_table(result: Mapping[str, Any]) -> None:
    title = f"{result['vectors']:,} vectors of {result['values']:,} values, {result['queries']:,} queries at once"
    numbers = ["recall@10", "µs/query", "times exact", "bytes/vector", "build s"]
    table = new_table(title, "method", numbers)
    exact = result["methods"]["exact"]["microseconds"]
    for name, one in result["methods"].items():
        table.add_row(
            name,
            f"{100 * one['recall']:.1f} %",
            f"{one['microseconds']:,.0f}",
            f"{exact / one['microseconds']:,.1f}",
            f"{one['bytes_per_vector']:,.0f}",
            f"{one['build_s']:,.1f}",
        )
    TerminalConsole().print_table(table)


def main(words: list[str] | None = None) -> int:
    return run_script(__doc__, add_arguments, measure, print_table, words)


if __name__ == "__main__":
    raise SystemExit(main())
