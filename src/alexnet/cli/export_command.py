"""`alexnet export`: write a trained network for another program."""

import argparse
import time
from pathlib import Path

from alexnet.cli.command_parser import CommandParser
from alexnet.cli.common_options import add_json
from alexnet.cli.output import print_json, print_lines
from alexnet.exchange.forms import FORMS, SUMMARIES


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder or weights file")
    parser.add_argument(
        "--to",
        required=True,
        choices=FORMS,
        metavar="FORM",
        help="; ".join(f"{form}: {summary}" for form, summary in SUMMARIES.items()),
    )
    text = "file or folder to create (default: in the working directory, named after the run)"
    parser.add_argument("--out", type=Path, metavar="PATH", help=text)
    text = (
        "onnx: run the file by ONNX Runtime beside torch on images of a prepared data set; a difference is an error "
        "(with --int8: the float32 network that is quantized)"
    )
    parser.add_argument("--verify", type=Path, nargs="+", metavar="DATA", help=text)
    text = "onnx: compute in 8 bits, calibrated on a prepared data set, on which the file's errors are measured"
    parser.add_argument("--int8", type=Path, nargs="+", metavar="DATA", help=text)
    add_json(parser, "lines")


def is_long(options: argparse.Namespace) -> bool:
    """Whether the network is run."""
    return bool(options.verify or options.int8)


def run(options: argparse.Namespace) -> None:
    """Export the network, and print what was written and how to load it."""
    from alexnet.exchange.export import default_path, export
    from alexnet.report.formatting import format_bytes

    start_s = time.monotonic()
    path = options.out or default_path(options.run, options.to, int8=options.int8 is not None)
    written = export(options.run, path, to=options.to, verify=options.verify, int8=options.int8)
    if options.json:
        print_json({**written.to_dict(), "duration_s": time.monotonic() - start_s})
        return
    print_lines(f"{written.path}: {format_bytes(written.size_bytes)}")
    for file in written.files:
        print_lines(f"sha256 of {file.name}: {file.sha256}")
    print_lines(
        f"input: {written.input}",
        f"output: {written.output}",
        written.describe_classes(),
        *(f"note: {note}" for note in written.notes),
        *(f"{written.verified}: {check.describe()}" for check in (written.check,) if check),
        *(check.describe() for check in (written.int8,) if check),
        "load it:",
        *(f"    {line}" for line in written.load),
    )
