"""`alexnet features`: write a network's activations as arrays."""

import argparse
import math
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet.cli.command_parser import CommandParser
from alexnet.cli.common_options import add_arithmetic, add_batch_size, add_choice, add_data, add_json, add_split
from alexnet.cli.output import print_json, print_lines
from alexnet.errors import RequestError

if TYPE_CHECKING:
    from alexnet.explore.features import Features


def add_arguments(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.add_argument("run", type=Path, metavar="RUN...", help="run folder or weights file, or several")
    text = "image file, folder of them, tar or zip, http(s) URL, or quoted pattern, instead of a data set"
    parser.add_argument("photographs", nargs="*", metavar="IMAGE", help=text)
    add_data(parser)
    add_split(parser)
    text = "folder to create; of several runs, it gets a folder named after each"
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=text)
    parser.add_argument(
        "--layer",
        action="append",
        default=[],
        metavar="NAME",
        help="layer to write; may be repeated (default: the last hidden layer, in the paper's network relu7)",
    )
    parser.add_argument(
        "--untrained",
        action="store_true",
        help="use the weights with which the run began, as a control (of a weights file: weights of seed 0)",
    )
    parser.add_argument(
        "--list", action="store_true", help="list the network's layers, their shapes and receptive fields, then exit"
    )
    add_choice(parser, "--dtype", ("float32", "float16"), help="float32 or float16")
    add_choice(parser, "--format", ("npy", "parquet"), help="npy: arrays; parquet: also a table, features.parquet")
    parser.add_argument(
        "--pca",
        type=_pca,
        metavar="N|FOLDER",
        help="write N principal components of each layer, fitted to these images, or those of a folder of features",
    )
    add_batch_size(parser)
    add_arithmetic(parser)
    parser.add_argument("--restart", action="store_true", help="discard unfinished output and start again")
    add_json(parser, "lines")


def run(options: argparse.Namespace) -> None:
    """Write the activations, or list the layers."""
    if options.list:
        if options.out or options.layer or options.photographs or options.data or options.split or options.untrained:
            raise RequestError(
                "--list only lists the network's layers; omit images, data, layers, --untrained and --out, and name "
                "one run"
            )
        _list(options.run, as_json=options.json)
        return
    if options.out is None:
        raise RequestError("features needs a folder to create; pass --out FOLDER, or --list to list the layers")
    runs, photographs = _runs_and_images(options.run, options.photographs)
    from alexnet.explore.features import write_features, write_features_of_runs
    from alexnet.explore.features_of_runs import FeatureOptions
    from alexnet.system.progress import counted

    start_s = time.monotonic()
    settings: FeatureOptions = {
        "data_folder": options.data,
        "split": options.split,
        "photographs": photographs,
        "layers": options.layer or None,
        "untrained": options.untrained,
        "dtype": options.dtype,
        "pca": options.pca,
        "file_format": options.format,
        "device": options.device,
        "precision": options.precision,
    }
    size, restart = options.batch_size, options.restart
    with counted("features") as shown:
        written = (
            {"": write_features(runs[0], options.out, batch_size=size, restart=restart, progress=shown, **settings)}
            if len(runs) == 1
            else write_features_of_runs(runs, options.out, batch_size=size, restart=restart, progress=shown, **settings)
        )
    if not options.json:
        for result in written.values():
            _print(result)
        return
    described = {name: {"folder": str(one.folder), **one.description} for name, one in written.items()}
    content = described[""] if len(runs) == 1 else {"folder": str(options.out), "runs": described}
    print_json({**content, "duration_s": time.monotonic() - start_s})


def _runs_and_images(run: Path, words: list[str]) -> tuple[list[Path], list[str]]:
    """The runs, which come first, and the images."""
    num_runs = next((number for number, word in enumerate(words) if not _is_run(word)), len(words))
    for word in words[num_runs:]:
        if _is_run(word):
            raise RequestError(f"the run {word} comes after an image; name the runs first, then the images")
    return [run, *map(Path, words[:num_runs])], words[num_runs:]


def _is_run(word: str) -> bool:
    return word.endswith(".safetensors") or (Path(word) / "run.json").is_file()


def _print(result: "Features") -> None:
    """Print the files of a folder of features."""
    from alexnet.explore.feature_writer import PARQUET_FILE
    from alexnet.report.formatting import format_bytes

    for name, array in result.activations.items():
        size = " x ".join(f"{length:,}" for length in array.shape)
        print_lines(f"{result.folder / f'{name}.npy'}: {size}, {array.dtype}, {format_bytes(array.nbytes)}")
        if projected := result.description.get("projections", {}).get(name):
            print_lines(
                f"  {array.shape[1]:,} principal components of {math.prod(projected['activation_shape']):,} numbers: "
                f"{100 * projected['explained_fraction']:.1f} % of the variance of the "
                f"{projected['fitted_to_images']:,} images that they were fitted to"
            )
    if (table := result.folder / PARQUET_FILE).is_file():
        print_lines(f"all in one table: {table}, {format_bytes(table.stat().st_size)}")
    labels = "" if result.labels is None else ", their classes in labels.npy"
    print_lines(f"images in order: {result.folder / 'images.csv'}{labels}")
    if result.description.get("untrained"):
        print_lines(f"untrained: the weights are random, of seed {result.description['untrained_seed']}")


def _pca(word: str) -> int | Path:
    return int(word) if re.fullmatch(r"[-+]?\d+", word) else Path(word)


def _list(run: Path, *, as_json: bool) -> None:
    from alexnet.cli.tables import print_activations
    from alexnet.model.activations import ActivationReader
    from alexnet.model.receptive_field import receptive_fields
    from alexnet.model.weights import load_trained

    network = load_trained(run).network
    reader = ActivationReader(network, [layer.name for layer in network.sized_layers])
    shapes = {name: reader.shape(name) for name in reader.names}
    fields = receptive_fields(network.spec)
    if as_json:
        described = {name: field.to_dict() for name, field in fields.items()}
        print_json({"variant": network.variant, "shapes": shapes, "receptive_fields": described})
    else:
        print_activations(network.variant, shapes, fields)
