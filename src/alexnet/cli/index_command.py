"""`alexnet index`: keep the activations of the training images, for finding neighbors."""

import argparse
import time
from pathlib import Path

from alexnet.cli.command_parser import CommandParser
from alexnet.cli.common_options import add_arithmetic, add_batch_size, add_json
from alexnet.cli.output import print_json, print_lines


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder or weights file")
    text = "prepared data set; several are concatenated (default: the run's own)"
    parser.add_argument("data", nargs="*", type=Path, metavar="DATA", help=text)
    parser.add_argument("--split", default="train", metavar="NAME", help="split of the data set")
    text = "layer to compare images by (default: the last hidden layer, in the paper's network relu7)"
    parser.add_argument("--layer", metavar="NAME", help=text)
    text = "folder of the index (default: RUN/index; a weights file needs one)"
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=text)
    parser.add_argument(
        "--approximate",
        choices=("hnsw", "ivf-pq"),
        metavar="KIND",
        help="also make an approximate index, for millions of images, and measure its recall: hnsw (a graph, the most "
        "accurate) or ivf-pq (64 bytes an image). Needs pip install 'alexnet[index]'",
    )
    add_batch_size(parser)
    add_arithmetic(parser)
    parser.add_argument("--restart", action="store_true", help="discard an unfinished index and start again")
    add_json(parser, "lines")


def run(options: argparse.Namespace) -> None:
    """Make the index, or add an approximate one to it."""
    from alexnet.explore.vector_index import build_index
    from alexnet.report.formatting import format_bytes

    start_s = time.monotonic()
    made = build_index(
        options.run,
        options.data or None,
        split=options.split,
        layer=options.layer,
        folder=options.out,
        approximate=options.approximate,
        batch_size=options.batch_size,
        device=options.device,
        precision=options.precision,
        restart=options.restart,
        progress=True,
    )
    approximate = None if options.approximate is None else made.approximate(options.approximate)
    if options.json:
        print_json(
            {
                "folder": str(made.folder),
                **made.description,
                "approximate": None if approximate is None else approximate.description,
                "duration_s": time.monotonic() - start_s,
            }
        )
        return
    print_lines(
        f"{made.folder}: {len(made):,} images of {made.split}, {made.layer}, {made.vectors.shape[1]:,} values each, "
        f"{format_bytes(made.vectors.nbytes)}"
    )
    if approximate is not None:
        one = approximate.description
        print_lines(
            f"{made.folder / one['file']}: {format_bytes(one['bytes'])}",
            approximate.describe(),
            f"time per query, {one['recall_sample']:,} at once: {one['microseconds']:,.0f} µs, exact "
            f"{one['exact_microseconds']:,.0f} µs",
        )
