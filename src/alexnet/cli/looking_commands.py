"""The commands that look into a trained network."""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from alexnet.cli.measuring_commands import add_arithmetic, add_data
from alexnet.errors import RequestError

Words = Sequence[str]


def features(parser: argparse.ArgumentParser, words: Words, report: Callable[[str], None]) -> None:
    """`alexnet features`: a network's activations to many images, as arrays."""
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder, or a weights file")
    parser.add_argument(
        "photographs", nargs="*", type=Path, metavar="PHOTOGRAPH", help="files or folders, instead of a data set"
    )
    add_data(parser)
    parser.add_argument("--split", help="split to show it (default: val, else test)")
    parser.add_argument("--out", type=Path, help="folder to make")
    parser.add_argument(
        "--layer",
        action="append",
        default=[],
        help="whose activations; may be repeated (default: the last layer but one, of the paper's network fc7; "
        "--list names all)",
    )
    parser.add_argument(
        "--list", action="store_true", help="name the activations that the network has, and their sizes"
    )
    parser.add_argument(
        "--dtype", default="float32", choices=("float32", "float16"), help="of the arrays (default float32)"
    )
    parser.add_argument("--batch-size", type=int, help="images at a time (default: as suits the device)")
    add_arithmetic(parser)
    parser.add_argument("--restart", action="store_true", help="throw away what an unfinished call has done")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    options = parser.parse_intermixed_args(words)
    if options.list:
        if options.out or options.layer or options.photographs or options.data or options.split:
            raise RequestError(
                "--list only names the activations that the network has; leave the images and --out away"
            )
        _list(options.run, as_json=options.json)
        return
    if options.out is None:
        raise RequestError("features needs a folder to make; name it with --out, or take --list")
    from alexnet.explore.features import write_features
    from alexnet.system.progress import counted

    start_s = time.monotonic()
    with counted("features") as progress:
        made = write_features(
            options.run,
            options.out,
            data_folder=options.data,
            split=options.split,
            photographs=options.photographs,
            points=options.layer,
            dtype=options.dtype,
            batch_size=options.batch_size,
            device=options.device,
            precision=options.precision,
            restart=options.restart,
            report=report,
            progress=progress,
        )
    if options.json:
        print(json.dumps({"folder": str(made.folder), **made.description, "duration_s": time.monotonic() - start_s}))
        return
    for name, array in made.activations.items():
        size = " x ".join(f"{length:,}" for length in array.shape)
        print(f"{made.folder / f'{name}.npy'}: {size}, {array.dtype}, {array.nbytes / 2**20:,.1f} MiB")
    labels = "" if made.labels is None else ", their classes in labels.npy"
    print(f"the images in order: {made.folder / 'images.csv'}{labels}")


def _list(run: Path, *, as_json: bool) -> None:
    """Print the activations that a network has."""
    from alexnet.cli.tables import print_activations
    from alexnet.model.activations import ActivationReader, activation_points
    from alexnet.model.weights import load_trained

    network = load_trained(run).network
    reader = ActivationReader(network, list(activation_points(network.spec)))
    shapes = {name: reader.shape(name) for name in reader.names}
    if as_json:
        print(json.dumps({"variant": network.variant, "shapes": shapes}))
    else:
        print_activations(network.variant, shapes)
