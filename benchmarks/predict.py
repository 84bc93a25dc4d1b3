"""The speed of predictions for files beside that of evaluations of the same images, prepared.

Classifies all photographs of a folder of class folders with one network, in turns: as `alexnet predict` does from the
files, and as `alexnet evaluate` does from both kinds of store.

example: python benchmarks/predict.py photographs/ --views 1 --rounds 3
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from alexnet.bench.timing import alternate, require_counts, warm_up
from alexnet.cli.command_parser import CommandParser
from alexnet.cli.common_options import add_arithmetic
from alexnet.data.dataset import PreparedData
from alexnet.data.download import Downloads
from alexnet.data.image_inputs import list_images
from alexnet.data.preparation.prepare import prepare
from alexnet.evaluation.classify import classify
from alexnet.evaluation.evaluate import predict_split
from alexnet.model.network import AlexNet
from alexnet.model.weights import Trained
from alexnet.system.device import choose_device, choose_precision
from alexnet.system.machine import machine_summary, source_commit
from script import run_script

PREDICT = "predict, files"


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("photographs", type=Path, metavar="FOLDER", help="class folders of photographs")
    parser.add_argument("--variant", metavar="NAME", default="paper", help="network variant, with its first weights")
    parser.add_argument("--views", type=int, metavar="N", default=1, help="views per image: 1, 9 or 10")
    parser.add_argument("--rounds", type=int, metavar="N", default=3, help="measurements of each")
    add_arithmetic(parser)


def measure_predictions(
    photographs: Path, variant: str, views: int, rounds: int, device: str = "auto", precision: str = "auto"
) -> dict[str, Any]:
    """Measure predictions and evaluations.

    Args:
        photographs: class folders; all of their images are classified.
        variant: of the network, see `AlexNet`.
        views: 1, 9 or 10.
        rounds: 1 or more.

    Returns:
        By method, images per second and milliseconds of processor time per image, medians over the rounds.

    Raises:
        RequestError: an argument is not allowed, or an image cannot be read.
    """
    require_counts(1, 1, rounds)
    chosen = choose_device(device)
    chosen_precision = choose_precision(precision, chosen)
    with tempfile.TemporaryDirectory(prefix="alexnet-bench-") as folder:
        spec_px = AlexNet(2, variant).spec.image_px
        side = max(spec_px, round(spec_px * 256 / 224))
        data = {
            store: prepare(photographs, Path(folder, store), store=store, side=side, max_refused=0)
            for store in ("jpeg", "pixels")
        }
        one = data["jpeg"]
        network = AlexNet(one.num_classes, variant).eval().to(chosen)
        mean_image = torch.from_numpy(one.statistics.mean_image.copy())
        trained = Trained(
            network=network, classes=tuple(one.classes), mean_image=mean_image, crop=spec_px, title="", generated=False
        )
        images = list(list_images(photographs, Downloads()))

        def evaluate(prepared: PreparedData) -> None:
            for split in prepared.splits:
                predict_split(
                    network,
                    prepared,
                    split,
                    spec_px,
                    views,
                    mean_image=mean_image,
                    device=chosen,
                    precision=chosen_precision,
                )

        def predict() -> None:
            found = classify(trained, images, num_views=views, device=chosen, precision=chosen_precision)
            assert sum(one.probabilities is not None for one in found) == len(images)

        methods: dict[str, Callable[[], object]] = {
            f"evaluate, {store}": partial(evaluate, prepared) for store, prepared in data.items()
        }
        methods[PREDICT] = predict
        warm_up(methods)
        timings = alternate(methods, rounds)
    return {
        "variant": variant,
        "views": views,
        "images": len(images),
        "device": str(chosen),
        "precision": chosen_precision,
        "rounds": rounds,
        "methods": {
            name: {
                "images_per_second": len(images) / statistics.median(timing.wall_s),
                "cpu_ms_per_image": 1e3 * statistics.median(timing.cpu_s) / len(images),
            }
            for name, timing in timings.items()
        },
        "machine": machine_summary(),
        "commit": source_commit(),
    }


def print_table(result: Mapping[str, Any]) -> None:
    table = Table("", "images/s", "processor, ms per image")
    for name, one in result["methods"].items():
        table.add_row(name, f"{one['images_per_second']:.1f}", f"{one['cpu_ms_per_image']:.2f}")
    Console().print(
        f"{result['variant']}, {result['images']:,} images, {result['views']} views, {result['precision']} on "
        f"{result['device']}"
    )
    Console().print(table)


def main(words: Sequence[str] | None = None) -> int:
    def measure(options: argparse.Namespace) -> dict[str, Any]:
        return measure_predictions(
            options.photographs, options.variant, options.views, options.rounds, options.device, options.precision
        )

    return run_script(__doc__, add_arguments, measure, print_table, words)


if __name__ == "__main__":
    raise SystemExit(main())
