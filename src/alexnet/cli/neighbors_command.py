"""`alexnet neighbors`: the indexed images that are nearest to others, by features and by pixels."""

import argparse
import logging
import time
from pathlib import Path

from alexnet.cli.command_parser import CommandParser
from alexnet.cli.common_options import add_batch_size, add_device, add_json
from alexnet.cli.output import print_json, print_lines
from alexnet.errors import RequestError

_logger = logging.getLogger(__name__)


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder or weights file")
    text = (
        "image file, folder of them, tar or zip, http(s) URL, or quoted pattern; without one, every image of --split "
        "is a query, and mean average precision is measured"
    )
    parser.add_argument("images", nargs="*", metavar="QUERY", help=text)
    parser.add_argument("--index", type=Path, metavar="FOLDER", help="folder of the index (default: RUN/index)")
    parser.add_argument("--num", type=int, metavar="N", help="neighbors of each query (default: 6)")
    text = (
        "without QUERY: data set whose images are the queries, several are concatenated; with QUERY: where the data "
        "set of the index is now, if it was moved (default: that of the index)"
    )
    parser.add_argument("--data", type=Path, nargs="+", help=text)
    text = "without QUERY: split whose images are the queries (with --data, default: val if it exists, else test)"
    parser.add_argument("--split", metavar="NAME", help=text)
    parser.add_argument(
        "--approximate",
        action="store_true",
        help="search features by the approximate index that `alexnet index --approximate` made (of two, hnsw)",
    )
    text = (
        "search features by the binary codes of this length that `alexnet codes` made; distances are bits that differ"
    )
    parser.add_argument("--codes", type=int, metavar="BITS", help=text)
    text = "order this many nearest codes by Euclidean distance, and take the nearest of them"
    parser.add_argument("--rerank", type=int, metavar="N", help=text)
    parser.add_argument(
        "--no-pixels",
        action="store_true",
        help="do not compare raw pixels, which reads every indexed image",
    )
    text = "picture to write (default: in the working directory, named after the run)"
    parser.add_argument("--out", type=Path, metavar="FILE", help=text)
    parser.add_argument("--format", metavar="NAME", help="png, svg or pdf (default: the ending of --out, or png)")
    add_batch_size(parser)
    add_device(parser)
    add_json(parser, "lines")


def run(options: argparse.Namespace) -> None:
    """Find the neighbors of photographs, or measure retrieval with a split, and draw a picture of either."""
    if options.images:
        _neighbors(options)
    elif options.data or options.split:
        _retrieval(options)
    else:
        raise RequestError(
            "neighbors needs queries; name photographs, or, to measure mean average precision, the images of a split "
            "with --split or --data"
        )


def _neighbors(options: argparse.Namespace) -> None:
    from alexnet.cli.tables import print_neighbors
    from alexnet.explore.neighbors import neighbors
    from alexnet.explore.picture_file import choose_picture
    from alexnet.figures.figure_style import figure_bytes
    from alexnet.storage.own_pictures import write_picture

    if options.split:
        raise RequestError("both photographs and a split are named; name one or the other as queries")
    start_s = time.monotonic()
    path, format = choose_picture(options.run, "neighbors", options.out, options.format)
    found = neighbors(
        options.run,
        options.images,
        index=options.index,
        num=6 if options.num is None else options.num,
        data=options.data,
        approximate=options.approximate,
        codes=options.codes,
        rerank=options.rerank,
        with_pixels=not options.no_pixels,
        batch_size=options.batch_size,
        device=options.device,
        progress=True,
    )
    for _, reason in found.refused:
        _logger.warning(f"left out: {reason}")
    assert format != "html"
    write_picture(path, figure_bytes(found.figure(), format))
    if options.json:
        print_json({**found.to_dict(), "picture": str(path), "duration_s": time.monotonic() - start_s})
        return
    print_neighbors(found.to_dict())
    if found.searched_by is not None:
        print_lines(found.searched_by)
    print_lines(f"{path}: {found.describe()}")


def _retrieval(options: argparse.Namespace) -> None:
    from alexnet.cli.tables import print_retrieval
    from alexnet.explore.picture_file import choose_picture
    from alexnet.explore.retrieval import measure_retrieval
    from alexnet.figures.figure_style import figure_bytes
    from alexnet.storage.own_pictures import write_picture

    for name, is_given in (
        ("--num", options.num is not None),
        ("--approximate", options.approximate),
        ("--codes", options.codes is not None),
        ("--rerank", options.rerank is not None),
        ("--no-pixels", options.no_pixels),
    ):
        if is_given:
            raise RequestError(
                f"{name} is for photographs; mean average precision ranks all indexed images by features, exactly"
            )
    start_s = time.monotonic()
    path, format = choose_picture(options.run, "retrieval", options.out, options.format)
    measured = measure_retrieval(
        options.run,
        options.data,
        options.split,
        index=options.index,
        batch_size=options.batch_size,
        device=options.device,
        progress=True,
    )
    assert format != "html"
    write_picture(path, figure_bytes(measured.figure(), format))
    if options.json:
        print_json({**measured.to_dict(), "picture": str(path), "duration_s": time.monotonic() - start_s})
        return
    print_retrieval(measured.to_dict())
    print_lines(f"{path}: {measured.describe()}")
