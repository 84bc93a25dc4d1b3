"""`alexnet prepare`: turn photographs into a prepared data set."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet.cli.command_parser import CommandParser
from alexnet.cli.common_options import add_json
from alexnet.cli.output import print_json, print_lines
from alexnet.errors import RequestError
from alexnet.system.visible_text import shell_words

if TYPE_CHECKING:
    from alexnet.data.dataset import PreparedData


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="folder with one folder per class (with or without train/ and val/ above them), a tar or zip of one, "
        "ImageNet's archives, CIFAR, IDX, Parquet, WebDataset shards, or a CSV file of path,label",
    )
    parser.add_argument("destination", type=Path, metavar="DEST", help="folder to create: the prepared data set")
    parser.add_argument(
        "--source-format",
        metavar="NAME",
        help="format of SOURCE: cifar, cifar-100-coarse, idx, ilsvrc, synset-tars, webdataset, parquet, csv, zip, tar "
        "or folder (default: detected)",
    )
    parser.add_argument(
        "--split",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="folder of a split in SOURCE: train, val, test, or unlabeled (images without classes); may be repeated; "
        "none if no folder is a split (default: recognized by name)",
    )
    parser.add_argument(
        "--side",
        type=int,
        metavar="PIXELS",
        help="side of the stored square images (default: 256, or the source's own for small images)",
    )
    parser.add_argument(
        "--store",
        default="auto",
        metavar="NAME",
        help="storage: pixels (exact, fastest to train on), jpeg (an eighth of the size), or auto (pixels up to 4 GiB)",
    )
    parser.add_argument(
        "--hold-out",
        type=float,
        default=0.0,
        metavar="FRACTION",
        help="fraction of each class to use for validation if the source has no validation split",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the hold-out")
    parser.add_argument(
        "--exif",
        default="auto",
        metavar="NAME",
        help="EXIF orientation: apply, ignore (as the paper did), or auto (apply, except for ImageNet's archives)",
    )
    parser.add_argument(
        "--fit",
        default="crop",
        metavar="NAME",
        help="how photographs become square: crop (the central square, as the paper did), pad (all of the photograph, "
        "with gray bars) or squash (all of it, stretched)",
    )
    parser.add_argument(
        "--on-bad",
        default="refuse",
        metavar="NAME",
        help="what to do about an unreadable file: refuse (report it and continue) or stop",
    )
    parser.add_argument(
        "--max-refused",
        type=float,
        default=0.05,
        metavar="FRACTION",
        help="fail if more than this fraction of the files is refused",
    )
    parser.add_argument("--shard-images", type=int, default=1024, metavar="N", help="images per tar shard")
    parser.add_argument("--workers", type=int, metavar="N", help="decoding threads (default: one per core)")
    parser.add_argument("--restart", action="store_true", help="discard an unfinished preparation and start again")
    add_json(parser, "lines")


def run(options: argparse.Namespace) -> None:
    """Prepare the data set and print what it holds."""
    from alexnet.data.preparation.prepare import prepare, prepared_summary

    start_s = time.monotonic()
    data = prepare(
        options.source,
        options.destination,
        source_format=options.source_format,
        split_folders=_split_folders(options.split),
        side=options.side,
        store=options.store,
        hold_out=options.hold_out,
        seed=options.seed,
        exif=options.exif,
        fit=options.fit,
        on_bad=options.on_bad,
        max_refused=options.max_refused,
        shard_images=options.shard_images,
        workers=options.workers,
        restart=options.restart,
        progress=True,
    )
    if options.json:
        print_json({**prepared_summary(data), "duration_s": time.monotonic() - start_s})
        return
    counts = ", ".join(f"{name} {len(split):,}" for name, split in data.splits.items())
    print_lines(
        f"{options.destination}: {data.title}, {data.num_classes} classes, {data.side} pixels, images: {counts}",
        f"to check it: {shell_words('alexnet', 'inspect', options.destination)}",
        *_next_steps(data, options),
    )


def _next_steps(data: "PreparedData", options: argparse.Namespace) -> list[str]:
    """The commands of a first training, see `advised_training`."""
    from alexnet.data.dataset import prepare_again_words
    from alexnet.data.preparation.prepare import MAX_REFUSED
    from alexnet.runs.recipes import MIN_PAPER_IMAGES, advised_training, recipes_for_side
    from alexnet.system.device import choose_device

    num_images, has_gpu = len(data.splits["train"]), choose_device("auto").type != "cpu"
    has_validation = "val" in data.splits
    advised = advised_training(data.side, num_images, has_gpu=has_gpu, has_validation=has_validation)
    folder, lines = options.destination, []
    if advised.side != data.side:
        if "paper" in recipes_for_side(data.side):
            why = (
                f"the recipe paper is for a GPU and at least {MIN_PAPER_IMAGES:,} training images; here: "
                f"{'a GPU' if has_gpu else 'no GPU'}, {num_images:,} images"
            )
        else:
            why = f"no recipe fits images of {data.side} pixels: its crops would be larger, or show only corners"
        words = prepare_again_words(data, advised.side)
        words += ["--max-refused", str(options.max_refused)] if options.max_refused != MAX_REFUSED else []
        folder = Path(f"{data.folder}-{advised.side}px")
        lines = [f"{why}; prepare the images at {advised.side} pixels for the recipe {advised.recipe}"]
        lines.append(f"next: {shell_words(*words)}")
    train = ("alexnet", "train", folder, "--recipe", advised.recipe, *advised.changes, "--run", "runs/first")
    return [*lines, f"{'then' if lines else 'next'}: {shell_words(*train)}"]


def _split_folders(words: Sequence[str]) -> dict[str, str] | None:
    """Folder by split; empty for `none`, None if there are no words."""
    if not words:
        return None
    if list(words) == ["none"]:
        return {}
    folders: dict[str, str] = {}
    for word in words:
        name, _, folder = word.partition("=")
        if not name or not folder or name in folders:
            raise RequestError(
                f"--split is {word!r}; allowed is NAME=FOLDER, once for each of train, val, test and unlabeled, or "
                "none alone"
            )
        folders[name] = folder
    return folders
