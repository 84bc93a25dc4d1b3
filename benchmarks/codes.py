"""Binary codes by the auto-encoder, random projections, principal components and ITQ: recall, precision and time.

All methods code the vectors of a folder of features of one layer (`alexnet features`, `alexnet index`), and the same
held-out queries look for their 10 nearest by Euclidean distance. Without a folder, vectors are generated, and only
times are measured: exact search, plain matrix products, and the search among codes.

example: python benchmarks/codes.py --features runs/mine/index --bits 32 64 256
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.cli.command_parser import CommandParser
from alexnet.cli.tables import new_table
from alexnet.errors import RequestError
from alexnet.explore.code_measures import (
    AMONG,
    NUM_NEIGHBORS,
    alternating_medians,
    held_out_queries,
    recall_among,
)
from alexnet.explore.code_training import CodeTraining, train_encoder
from alexnet.explore.features import open_features
from alexnet.explore.hamming import HammingCodes, pack_bits
from alexnet.explore.nearest import nearest, nearest_of_candidates
from alexnet.system.terminal import TerminalConsole
from script import logger, run_script

Floats = NDArray[np.float32]
ITQ_ROUNDS = 50
CANDIDATES = 100


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("--features", type=Path, metavar="FOLDER", help="features of one layer; default: generated")
    parser.add_argument("--bits", type=int, nargs="+", default=[32, 64, 256], metavar="N", help="lengths of the codes")
    parser.add_argument("--vectors", type=int, default=100_000, metavar="N", help="vectors to generate")
    parser.add_argument("--dimensions", type=int, default=4096, metavar="N", help="values of a generated vector")
    parser.add_argument("--queries", type=int, default=64, metavar="N", help="queries whose time is measured")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the codes, the queries and the vectors")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    if options.features is None:
        return {"times": measure_times(options)}
    features = open_features(options.features)
    if len(features.activations) != 1:
        raise RequestError(f"{options.features} has {len(features.activations)} layers; name features of one")
    (activations,) = features.activations.values()
    vectors = np.asarray(activations, np.float32).reshape(len(activations), -1)
    return {"methods": compare_methods(vectors, features.labels, options.bits, options.seed)}


def compare_methods(
    vectors: Floats, labels: NDArray[np.int64] | None, lengths: Sequence[int], seed: int
) -> list[dict[str, Any]]:
    """Recall of the nearest among the first by each method's codes, and the share of the query's class in the first."""
    queries = held_out_queries(len(vectors), seed)
    true = nearest(vectors, vectors[queries], NUM_NEIGHBORS, exclude=queries).indices
    trained_on = np.setdiff1d(np.arange(len(vectors)), queries)
    center = vectors[trained_on].mean(axis=0)
    centered = vectors - center
    axes = principal_axes(centered[trained_on])
    rows = []
    for bits in lengths:
        methods: dict[str, Callable[[], NDArray[np.uint8]]] = {
            "random projections": partial(_signs, centered, random_axes(vectors.shape[1], bits, seed)),
            "auto-encoder": partial(_auto_encoded, vectors, queries, CodeTraining(bits, seed)),
        }
        if bits <= vectors.shape[1]:
            methods["principal components"] = partial(_signs, centered, axes[:, :bits])
            methods["ITQ"] = partial(_itq_codes, centered, trained_on, axes[:, :bits], seed)
        for name, method in methods.items():
            logger.info(f"{bits} bits, {name}")
            codes = method()
            among = [one for one in AMONG if one < len(vectors)]
            found = HammingCodes(codes).nearest(codes[queries], among[-1], exclude=queries).indices
            row = {"bits": bits, "method": name, "queries": len(queries)}
            row["recall"] = {str(one): float(recall_among(true, found[:, :one]).mean()) for one in among}
            if labels is not None:
                is_same = labels[found[:, :NUM_NEIGHBORS]] == labels[queries][:, None]
                row["precision"] = float(is_same.mean())
            rows.append(row)
    return rows


def random_axes(num_dimensions: int, bits: int, seed: int) -> Floats:
    """Directions drawn at random, (D, bits); M. Charikar: Similarity estimation techniques, STOC 2002."""
    return np.random.default_rng(seed).standard_normal((num_dimensions, bits)).astype(np.float32)


def principal_axes(centered: Floats) -> Floats:
    """Principal axes in the columns, (D, D), that of the largest variance first."""
    covariance = centered.T.astype(np.float64) @ centered
    return np.ascontiguousarray(np.linalg.eigh(covariance)[1][:, ::-1]).astype(np.float32)


def itq_rotation(projected: Floats, seed: int) -> Floats:
    """The rotation after which signs are closest to values; Y. Gong and S. Lazebnik: Iterative quantization, CVPR 2011.

    Args:
        projected: (n, bits), on the principal axes.
    """
    start = np.random.default_rng(seed).standard_normal((projected.shape[1], projected.shape[1]))
    rotation = np.linalg.qr(start)[0].astype(np.float32)
    for _ in range(ITQ_ROUNDS):
        signs = np.where(projected @ rotation >= 0, np.float32(1), np.float32(-1))
        left, _, right = np.linalg.svd(projected.T @ signs)
        rotation = left @ right
    return rotation


def _auto_encoded(vectors: Floats, queries: NDArray[np.int64], settings: CodeTraining) -> NDArray[np.uint8]:
    return train_encoder(vectors, queries, settings, device=torch.device("cpu")).encoder.encode(vectors)


def _itq_codes(centered: Floats, trained_on: NDArray[np.int64], axes: Floats, seed: int) -> NDArray[np.uint8]:
    return _signs(centered, axes @ itq_rotation(centered[trained_on] @ axes, seed))


def _signs(centered: Floats, axes: Floats) -> NDArray[np.uint8]:
    return pack_bits(centered @ axes >= 0)


def measure_times(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Microseconds a query, medians of alternating batches; vectors as ReLU leaves them, half of their values zero."""
    random = np.random.default_rng(options.seed)
    vectors = np.empty((options.vectors, options.dimensions), np.float32)
    for row in vectors:
        random.standard_normal(options.dimensions, np.float32, row)
    np.maximum(vectors, 0, out=vectors)
    queries = held_out_queries(len(vectors), options.seed)[: options.queries]
    values = vectors[queries]
    squares = np.einsum("nd,nd->n", vectors, vectors)
    methods: dict[str, Callable[[], object]] = {
        "exact search": lambda: nearest(vectors, values, NUM_NEIGHBORS, exclude=queries),
        "matrix product and partition": lambda: np.argpartition(
            squares - 2 * (values @ vectors.T), NUM_NEIGHBORS, axis=1
        ),
    }
    for bits in options.bits:
        # How well they are trained makes no difference to times.
        settings = CodeTraining(bits, options.seed, steps=1)
        encoder = train_encoder(vectors[:1000], np.array([0]), settings, device=torch.device("cpu")).encoder
        codes = encoder.encode(vectors)
        search = HammingCodes(codes)
        found = search.nearest(codes[queries], CANDIDATES, exclude=queries).indices
        methods |= {
            f"{bits} bits: encoding": partial(encoder.encode, values),
            f"{bits} bits: first {NUM_NEIGHBORS}": partial(
                search.nearest, codes[queries], NUM_NEIGHBORS, exclude=queries
            ),
            f"{bits} bits: first {CANDIDATES}": partial(search.nearest, codes[queries], CANDIDATES, exclude=queries),
            f"{bits} bits: order {CANDIDATES}": partial(nearest_of_candidates, vectors, values, found, NUM_NEIGHBORS),
        }
    medians = alternating_medians(methods)
    exact = medians["exact search"]
    return [
        {"method": name, "microseconds": 1e6 * seconds / len(queries), "speedup": exact / seconds}
        for name, seconds in medians.items()
    ]


def print_table(result: Mapping[str, Any]) -> None:
    if "times" in result:
        table = new_table("a query, threads as torch has", "method", ["\u00b5s", "times faster than exact"])
        for row in result["times"]:
            table.add_row(row["method"], f"{row['microseconds']:,.1f}", f"{row['speedup']:,.1f}")
    else:
        rows = result["methods"]
        headings = [f"in {one}" for one in rows[0]["recall"]]
        table = new_table("percent of the nearest found", "method", ["bits", *headings, "class"])
        for row in rows:
            recalls = (f"{100 * one:.1f}" for one in row["recall"].values())
            precision = f"{100 * row['precision']:.1f}" if "precision" in row else "-"
            table.add_row(row["method"], str(row["bits"]), *recalls, precision)
    TerminalConsole().print_table(table)


def main(words: Sequence[str] | None = None) -> int:
    return run_script(__doc__, add_arguments, measure, print_table, words)


if __name__ == "__main__":
    raise SystemExit(main())
