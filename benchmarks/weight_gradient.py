"""The weight gradient of a 3 x 3 convolution in bfloat16 on a CPU: torch's algorithm and ours, alternated.

Prints per layer the shortest and the median time of each algorithm and their ratios. On a machine shared with other
work, compare the shortest times.

example: OMP_NUM_THREADS=1 python benchmarks/weight_gradient.py --images 64
"""

import argparse
import statistics
from collections.abc import Mapping
from typing import Any

import torch

from alexnet.bench.timing import alternate, median_ratio
from alexnet.cli.command_parser import CommandParser
from alexnet.model.convolution import weight_gradient
from alexnet.system.machine import machine_summary, source_commit
from script import run_script

# (input channels, output channels, side): conv2, conv3 and conv4 of `quick`, conv3 of `paper`.
LAYERS = ((64, 128, 14), (128, 256, 7), (256, 256, 3), (256, 384, 13))


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("--images", type=int, metavar="N", default=128, help="images per pass")
    parser.add_argument("--rounds", type=int, metavar="N", default=20, help="measurements of each algorithm")


def layer_times(in_channels: int, out_channels: int, side: int, images: int, rounds: int) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)

    def half(*shape: int) -> torch.Tensor:
        values = torch.randn(*shape, generator=generator).bfloat16()
        return values.to(memory_format=torch.channels_last)

    x, weight, gradient = (
        half(images, in_channels, side, side),
        half(out_channels, in_channels, 3, 3),
        half(images, out_channels, side, side),
    )

    def library() -> torch.Tensor:
        return torch.ops.aten.convolution_backward(  # type: ignore[no-any-return]
            gradient, x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [False, True, False]
        )[1]

    def product() -> torch.Tensor:
        return weight_gradient(x, gradient, 3, 3, (1, 1))

    difference = (library().double() - product().double()).norm() / product().double().norm()
    timings = alternate({"library": library, "product": product}, rounds)
    theirs, ours = timings["library"].wall_s, timings["product"].wall_s
    return {
        "library_shortest_ms": 1e3 * min(theirs),
        "product_shortest_ms": 1e3 * min(ours),
        "library_median_ms": 1e3 * statistics.median(theirs),
        "product_median_ms": 1e3 * statistics.median(ours),
        "ratio_of_shortest": min(theirs) / min(ours),
        "median_of_ratios": median_ratio(theirs, ours),
        "relative_difference": float(difference),
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "commit": source_commit(),
        "machine": machine_summary(),
        "threads": torch.get_num_threads(),
        "images": options.images,
        "rounds": options.rounds,
        "layers": {f"{m}->{o} at {s} px": layer_times(m, o, s, options.images, options.rounds) for m, o, s in LAYERS},
    }


def print_table(result: Mapping[str, Any]) -> None:
    print(f"{result['images']} images, {result['threads']} threads; shortest of {result['rounds']} (median), ms")
    for name, row in result["layers"].items():
        print(
            f"{name:20} torch {row['library_shortest_ms']:7.2f} ({row['library_median_ms']:7.2f})"
            f"   product {row['product_shortest_ms']:7.2f} ({row['product_median_ms']:7.2f})"
            f"   {row['ratio_of_shortest']:.2f}x, median of ratios {row['median_of_ratios']:.2f}x"
        )


if __name__ == "__main__":
    raise SystemExit(run_script(__doc__, add_arguments, measure, print_table))
