"""`alexnet fetch`: download a data set or published weights, or draw a data set."""

import argparse
from typing import TYPE_CHECKING, Any

from alexnet.cli.command_parser import CommandParser
from alexnet.cli.common_options import add_json
from alexnet.cli.output import print_json, print_lines
from alexnet.errors import RequestError
from alexnet.storage.paths import as_path
from alexnet.system.suggestions import suggestion
from alexnet.system.visible_text import shell_words

if TYPE_CHECKING:
    from alexnet.data.published_data_sets import PublishedDataSet
    from alexnet.runs.recipes import AdvisedTraining

DATA_SET_NAMES = (
    "imagenette", "imagenette-320", "imagenette-160", "imagewoof", "imagewoof-320", "imagewoof-160", "cifar10",
    "cifar100", "caltech101", "flowers102", "tiny-imagenet",
)  # fmt: skip
NAMES = (*DATA_SET_NAMES, "shapes", "weights")
WEIGHTS = ("torchvision", "caffe", "caffenet")
SIZES = ("full", "320", "160")
HOLD_OUT = "0.1"
"""Of the images of a data set without a split of its own, in the command that is shown."""


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help=f"photographs: {', '.join(DATA_SET_NAMES)}; shapes: generated images, needs no network; weights: "
        "published AlexNet weights",
    )
    parser.add_argument(
        "destination",
        nargs="*",
        metavar="DEST",
        help=f"folder to create; of weights, after their name ({', '.join(WEIGHTS)}): `fetch weights caffe DEST`",
    )
    parser.add_argument(
        "--from",
        dest="source",
        metavar="PATH",
        help="local copy instead of a download: the archive, a folder with the published files, or the unpacked data "
        "set; of weights, the file, or the URL of a mirror. The environment variable ALEXNET_MIRROR names a mirror of "
        "the archives of all data sets, a URL or a folder; ALEXNET_CIFAR10 names a local copy of cifar10",
    )
    parser.add_argument(
        "--size", choices=SIZES, help="of imagenette and imagewoof: shorter side in pixels (default: full, as taken)"
    )
    parser.add_argument("--list", action="store_true", help="list the data sets: images, classes, download, license")
    add_json(parser, "the list")


def run(options: argparse.Namespace) -> None:
    """Fetch what was asked for."""
    name: str | None = options.name
    words: list[str] = options.destination
    if options.list or options.json:
        if name is not None or not options.list:
            raise RequestError("--list and --json take no name and go together: alexnet fetch --list --json")
        _list(options.json)
        return
    if name is None:
        raise RequestError(f"`alexnet fetch` needs a name, one of {', '.join(NAMES)}; see `alexnet fetch --list`")
    if name not in NAMES:
        raise RequestError(f"unknown name {name!r}; {suggestion(name, NAMES)}known are {', '.join(NAMES)}")
    if options.size is not None:
        subject = name.partition("-")[0]
        if subject not in ("imagenette", "imagewoof"):
            raise RequestError(f"--size applies to imagenette and imagewoof; omit it for {name}")
        if name != subject:
            raise RequestError(
                f"{name} has its size in its name, and --size applies to imagenette and imagewoof; omit it, or write "
                f"`alexnet fetch {subject} --size {options.size}`"
            )
        name += "" if options.size == "full" else f"-{options.size}"
    if name == "weights":
        _fetch_weights(words, options.source)
        return
    if len(words) != 1:
        raise RequestError(
            f"`alexnet fetch {name}` takes one destination, and got {len(words)}"
            + (f": {' '.join(words)}" if words else f"; for example `alexnet fetch {name} data/{name}`")
        )
    destination = as_path(words[0], "the destination")
    next_words = ["alexnet", "prepare", str(destination), f"{destination}-prepared"]
    if name == "shapes":
        from alexnet.data.shapes import fetch_shapes

        if options.source:
            raise RequestError("--from does not apply to shapes, which are generated; omit it")
        fetch_shapes(destination)
        ready = f"{destination}: ready"
    else:
        from alexnet.data.fetch import fetch_data_set
        from alexnet.data.preparation.prepare import DEFAULT_SIDE_PX
        from alexnet.data.sources.class_folders import SOURCE_FILE

        data_set = fetch_data_set(name, destination, options.source, progress=True)
        images = " and ".join(f"{num:,} {split}" for split, num in data_set.counts.items())
        print_lines(
            f"{data_set.title}: {images} images in {data_set.num_classes} classes",
            f"license: {data_set.license}",
            *(f"cite: {one}" for one in data_set.citation),
        )
        if len(data_set.counts) == 1:
            next_words += ["--hold-out", HOLD_OUT]
        ready = f"{destination}: ready, described in {destination / SOURCE_FILE}"
        if advised := _advised_training(data_set):
            next_words += ["--side", str(advised.side)]
            print_lines(
                f"on this machine, train first with the recipe {advised.recipe}, which takes images of {advised.side} "
                f"pixels; without --side they are stored at {data_set.side or DEFAULT_SIDE_PX}"
            )
    print_lines(f"{ready}; next: {shell_words(*next_words)}")


def _advised_training(data_set: "PublishedDataSet") -> "AdvisedTraining | None":
    """What to train first on this machine, if it takes images of another side than `prepare` stores by default."""
    from alexnet.data.preparation.prepare import DEFAULT_SIDE_PX
    from alexnet.runs.recipes import QUICK, advised_training, recipes_for_side

    side = data_set.side or DEFAULT_SIDE_PX
    if QUICK.name in recipes_for_side(side):
        return None  # on any machine
    from alexnet.system.device import choose_device

    has_gpu = choose_device("auto").type != "cpu"
    advised = advised_training(side, data_set.counts["train"], has_gpu=has_gpu, has_validation=True)
    return None if advised.side == side else advised


def _list(as_json: bool) -> None:
    from alexnet.cli.tables import print_data_sets
    from alexnet.data.published_data_sets import DATA_SETS

    if as_json:
        print_json({"data_sets": [_described(name, data_set) for name, data_set in DATA_SETS.items()]})
    else:
        print_data_sets(DATA_SETS)


def _described(name: str, data_set: "PublishedDataSet") -> dict[str, Any]:
    return {
        "name": name,
        "title": data_set.title,
        "subject": data_set.subject,
        "num_classes": data_set.num_classes,
        "images": dict(data_set.counts),
        "side": data_set.side,
        "download_bytes": data_set.download_bytes,
        "files": [
            {"name": file.name, "url": file.url, "md5": file.md5, "size_bytes": file.size_bytes}
            for file in data_set.files
        ],
        "license": data_set.license,
        "citation": list(data_set.citation),
        "homepage": data_set.homepage,
        "left_out": data_set.left_out or None,
    }


def _fetch_weights(words: list[str], source: str | None) -> None:
    from alexnet.exchange.published_weights import SOURCE_FILE, fetch_weights

    name, *destinations = words or [""]
    if name not in WEIGHTS:
        raise RequestError(f"`alexnet fetch weights` takes one of {', '.join(WEIGHTS)} first; got {name!r}")
    if len(destinations) != 1:
        raise RequestError(
            f"`alexnet fetch weights {name}` takes one destination, and got {len(destinations)}; for example "
            f"`alexnet fetch weights {name} weights`"
        )
    destination = as_path(destinations[0], "the destination")
    path, published = fetch_weights(name, destination, source, progress=True)
    print_lines(
        f"{published.title}: {published.published}",
        f"source: {published.url}",
        f"license: {published.license}",
        *(f"cite: {one}" for one in published.citation),
        f"{path}: ready, described in {destination / SOURCE_FILE}; next: "
        f"{shell_words('alexnet', 'import', path, '--run', f'runs/{name}')}",
    )
