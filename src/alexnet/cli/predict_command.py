"""`alexnet predict`: classify photographs."""

import argparse
import csv
import gc
import io
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet.cli.command_parser import CommandParser
from alexnet.cli.common_options import add_arithmetic, add_batch_size, add_choice
from alexnet.cli.output import print_json, print_lines
from alexnet.errors import Interrupted, RequestError

if TYPE_CHECKING:
    from alexnet.data.dataset import PreparedData
    from alexnet.data.download import Downloads
    from alexnet.data.image_inputs import InputImage
    from alexnet.evaluation.classify import ImagePrediction

FORMATS = ("bars", "csv", "json", "ilsvrc")
MANY_VIEWS = 700
"""From this number of views on, memory from the tuned allocator saves more time than restarting with it takes."""
ARCHIVES = (".tar", ".zip")
MIB = 2**20
MAX_DOWNLOAD_MIB = 2048
MAX_TIMEOUT_S = 86_400

_logger = logging.getLogger(__name__)


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder or weights file")
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="image file, folder of them, tar or zip, http(s) URL, quoted pattern such as 'photos/**/*.jpg', - for "
        "standard input (an image, or paths and URLs, one per line), or a prepared data set",
    )
    parser.add_argument(
        "--split",
        metavar="NAME",
        help="split of the prepared data set (default: unlabeled if it exists, else val, else test)",
    )
    parser.add_argument(
        "--views", type=int, choices=(1, 9, 10), default=10, metavar="N", help="views per image: 1, 9 or 10"
    )
    parser.add_argument("--top", type=int, metavar="K", help="classes per image (default: 5)")
    parser.add_argument(
        "--fit",
        choices=("crop", "pad", "squash"),
        metavar="NAME",
        help="how a photograph becomes a square: crop (its center), pad (all of it, with borders) or squash (default: "
        "as the run's data set was prepared)",
    )
    parser.add_argument(
        "--reject",
        type=float,
        metavar="P",
        help="say unknown where the calibrated probability of the best class is below P, 0 to 1; needs a run that was "
        "evaluated with as many views",
    )
    add_choice(
        parser,
        "--format",
        FORMATS,
        help="bars; csv; json, one object per line; or ilsvrc: up to five labels per line, counted from 1, as the "
        "challenge's test server expects",
    )
    parser.add_argument("--csv", action="store_true", help="short for --format csv")
    parser.add_argument("--json", action="store_true", help="short for --format json: one JSON object per image")
    parser.add_argument(
        "--label-order",
        type=Path,
        metavar="FILE",
        help="with --format ilsvrc: text file with one class id per line, label 1 first (default: the network's order)",
    )
    add_arithmetic(parser)
    add_batch_size(parser, "views")
    for action in (
        parser.add_argument(
            "--max-download", type=float, default=32.0, metavar="MIB", help="largest file that a URL may give"
        ),
        parser.add_argument(
            "--download-timeout", type=float, default=30.0, metavar="SECONDS", help="longest time for one URL"
        ),
    ):
        parser.show_only_in_full_help(action)


def is_long(options: argparse.Namespace) -> bool:
    """Whether there may be so many views that the tuned allocator pays."""
    are_single = all("://" in name or (os.path.isfile(name) and not name.endswith(ARCHIVES)) for name in options.images)
    return not are_single or len(options.images) * options.views >= MANY_VIEWS


def run(options: argparse.Namespace) -> None:
    """Classify the images and print their most probable classes."""
    output = _chosen_format(options)
    if sys.stdout is None:
        raise RequestError("standard output is closed, so there is no place for the predictions; redirect it to a file")
    import torch  # noqa: F401

    gc.freeze()  # else the collector looks through torch's million objects again and again, a tenth of a second each
    from alexnet.data.download import Downloads
    from alexnet.evaluation.classify import (
        Ranking,
        calibrator_of,
        classify,
        fitting_ops,
        ilsvrc_lines,
        read_label_order,
        require_fitting,
    )
    from alexnet.model.weights import load_trained
    from alexnet.system.device import choose_device, choose_precision
    from alexnet.system.progress import counted

    for name, value, largest in (
        ("--max-download", options.max_download, MAX_DOWNLOAD_MIB),
        ("--download-timeout", options.download_timeout, MAX_TIMEOUT_S),
    ):
        if not 0 < value <= largest:
            raise RequestError(f"{name} is {value:g}; allowed is more than 0, up to {largest:,}")
    downloads = Downloads(int(options.max_download * MIB), options.download_timeout)
    device = choose_device(options.device)
    images, data = _images(options, downloads)
    with fitting_ops(len(images), options.views):
        trained = load_trained(options.run)
    trained.require_trained(run=options.run)
    if data is not None:
        require_fitting(data, trained)
    calibrator = calibrator_of(options.run, options.views, options.reject, options.fit)
    ranking = Ranking.of(trained, options.top, calibrator, options.reject or 0.0)
    order = read_label_order(options.label_order) if options.label_order else None
    if trained.generated:
        _logger.info("this network was trained on generated images, not on photographs")
    reasons: list[str] = []

    def predictions() -> "Iterator[ImagePrediction]":
        # Where the predictions themselves appear on a terminal, they show the progress.
        with counted("predicting", shown=not sys.stdout.isatty()) as progress:
            found = classify(
                trained,
                images,
                num_views=options.views,
                batch_size=options.batch_size,
                device=device,
                precision=choose_precision(options.precision, device),
                fit=options.fit,
                downloads=downloads,
            )
            for done, one in enumerate(map(ranking, found), start=1):
                if one.reason is not None:
                    reasons.append(one.reason)
                yield one
                progress(done, len(images))

    try:
        if output == "ilsvrc":
            print_lines(*ilsvrc_lines(predictions(), trained, order))
        elif output == "csv":
            _print_csv(predictions(), ranking.num_top, is_calibrated=calibrator is not None)
        elif output == "json":
            for one in predictions():
                print_json(one.to_dict())
        else:
            _print_bars(predictions(), is_single=len(images) == 1)
    except KeyboardInterrupt:
        if output == "ilsvrc":
            raise
        raise Interrupted("interrupted; rows up to here are complete, the other images were not predicted") from None
    if len(reasons) == len(images):
        problem = "" if len(images) == 1 else f"none of the {len(images):,} images can be read: "
        raise RequestError(problem + reasons[0])
    if reasons:
        _logger.warning(f"{len(reasons):,} of {len(images):,} images cannot be read")


def _chosen_format(options: argparse.Namespace) -> str:
    """The one format that is asked for."""
    asked = [f"--{name}" for name in ("csv", "json") if getattr(options, name)]
    if options.format != FORMATS[0]:
        asked.append(f"--format {options.format}")
    if len(asked) > 1:
        raise RequestError(f"{asked[0]} and {asked[1]} exclude each other; omit one")
    output = asked[0].split()[-1].removeprefix("--") if asked else FORMATS[0]
    if options.label_order and output != "ilsvrc":
        raise RequestError("--label-order needs --format ilsvrc")
    if output == "ilsvrc" and (options.top is not None or options.reject is not None):
        name = "--top" if options.reject is None else "--reject"
        raise RequestError(f"--format ilsvrc has five labels per line; omit {name}")
    return output


def _images(options: argparse.Namespace, downloads: "Downloads") -> "tuple[Sequence[InputImage], PreparedData | None]":
    """The images of a prepared split and its data set, or those that the arguments name and None."""
    from alexnet.data.image_inputs import list_images
    from alexnet.evaluation.classify import named_split

    if (found := named_split(options.images, options.split, options.fit)) is not None:
        return found
    return list(list_images(options.images, downloads, _standard_input)), None


def _standard_input() -> bytes:
    if sys.stdin is None:
        raise RequestError("standard input is closed, and - stands for it; give it a list of paths, or an image")
    return sys.stdin.buffer.read()


def _print_bars(predictions: "Iterable[ImagePrediction]", *, is_single: bool) -> None:
    from alexnet.evaluation.classify import percent

    for one in predictions:
        if one.reason is None:
            print_lines(str(one.image))
            if one.calibrated_probability is not None:
                print_lines(f"  {'unknown, ' if one.is_rejected else ''}{percent(one)}")
            for ranked in one.top:
                bar = "#" * round(40 * ranked.probability)
                print_lines(f"  {100 * ranked.probability:5.1f} %  {bar:40}  {ranked.name}")
        elif not is_single:  # else it is the error with which the command ends
            print_lines(one.reason)


def _print_csv(predictions: "Iterable[ImagePrediction]", num_top: int, *, is_calibrated: bool) -> None:
    """A line per image, also where a name has line breaks, which are escaped as everywhere in a terminal."""
    names = [f"top{rank}_{name}" for rank in range(1, num_top + 1) for name in ("id", "name", "probability")]
    calibration = ["calibrated_probability", "rejected"] if is_calibrated else []
    print_lines(_csv_line(["image", *names, *calibration, "reason"]))
    for one in predictions:
        if one.reason is None:
            cells: list[object] = [cell for ranked in one.top for cell in ranked]
            cells += [one.calibrated_probability, str(one.is_rejected).lower()] if is_calibrated else []
        else:
            cells = [""] * (len(names) + len(calibration))
        print_lines(_csv_line([one.image, *cells, one.reason or ""]))


def _csv_line(cells: Sequence[object]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()
