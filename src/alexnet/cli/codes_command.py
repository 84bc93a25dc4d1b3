"""`alexnet codes`: train short binary codes of an index's vectors, and measure what they find."""

import argparse
import time
from pathlib import Path

from alexnet.cli.command_parser import CommandParser
from alexnet.cli.common_options import add_device, add_json
from alexnet.cli.output import print_json, print_lines


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder or weights file")
    text = "prepared data set to index if the run folder has no index, or where the index's data set is now"
    parser.add_argument("data", nargs="*", type=Path, metavar="DATA", help=text)
    text = "bits of a code, several allowed: multiples of 32 up to 1024 (default: 256)"
    parser.add_argument("--bits", nargs="+", type=int, default=[256], metavar="N", help=text)
    parser.add_argument("--index", type=Path, metavar="FOLDER", help="folder of the index (default: RUN/index)")
    text = "seed of the training and of the choice of images that measure (default: 0)"
    parser.add_argument("--seed", type=int, default=0, metavar="N", help=text)
    add_device(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> None:
    """Train, measure and print a table."""
    from alexnet.cli.tables import print_codes
    from alexnet.explore.encode_index import codes

    start_s = time.monotonic()
    found = codes(
        options.run,
        options.bits,
        options.data or None,
        index=options.index,
        seed=options.seed,
        device=options.device,
        progress=True,
    )
    if options.json:
        described = [one.to_dict() for one in found]
        print_json({"index": str(found[0].index.folder), "codes": described, "duration_s": time.monotonic() - start_s})
        return
    print_codes(found)
    print_lines(*(f"codes of {one.bits} bits: {one.file}" for one in found))
