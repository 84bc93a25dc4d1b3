"""Three algorithms for the network's convolutions in two columns, forward and backward, alternated.

The algorithms: the library's grouped convolution; one convolution over all channels, with zero weights across columns;
and one convolution per column, including the time to copy its input and output. Backward is the gradient of weights and
input together. Prints medians per layer and algorithm, and the sum over all layers.

example: python benchmarks/column_convolutions.py --device cuda
"""

import argparse
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from alexnet.bench.timing import alternate, wait_for, warm_up
from alexnet.cli.command_parser import CommandParser
from alexnet.errors import WorkError
from alexnet.model.convolution import ungrouped_weight
from alexnet.system.machine import machine_summary, source_commit
from script import run_script

COLUMNS = 2
# Input and output channels, kernel, side: conv2, conv4 and conv5 of `paper`.
LAYERS = {"conv2": (96, 256, 5, 27), "conv4": (384, 384, 3, 13), "conv5": (384, 256, 3, 13)}


def grouped(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.conv2d(x, weight, padding=weight.shape[2] // 2, groups=COLUMNS)


def with_zeros(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.conv2d(x, ungrouped_weight(weight, COLUMNS), padding=weight.shape[2] // 2)


def side_by_side(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    parts = zip(x.chunk(COLUMNS, 1), weight.chunk(COLUMNS), strict=True)
    own = [(part.contiguous(memory_format=torch.channels_last), weights) for part, weights in parts]
    return torch.cat([F.conv2d(part, weights, padding=weights.shape[2] // 2) for part, weights in own], 1)


ALGORITHMS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "grouped": grouped,
    "with zeros": with_zeros,
    "side by side": side_by_side,
}


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("--images", type=int, metavar="N", default=32, help="images per pass")
    parser.add_argument("--rounds", type=int, metavar="N", default=5, help="measurements of each algorithm")
    parser.add_argument("--device", metavar="NAME", default="cpu", choices=("cpu", "cuda"), help="cpu or cuda")
    parser.add_argument("--float32", action="store_true", help="use float32 instead of bfloat16")


def layer_times(
    name: str, images: int, rounds: int, device: torch.device, dtype: torch.dtype
) -> dict[str, dict[str, float]]:
    """Median milliseconds of a layer forward and backward, by algorithm."""
    in_channels, out_channels, kernel, side = LAYERS[name]
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        values = torch.randn(*shape, generator=generator).to(device, dtype)
        return values.contiguous(memory_format=torch.channels_last)

    x = random(images, in_channels, side, side).requires_grad_()
    weight = (random(out_channels, in_channels // COLUMNS, kernel, kernel) * 0.05).requires_grad_()
    gradient = random(images, out_channels, side, side)
    results = {algorithm: convolve(x, weight) for algorithm, convolve in ALGORITHMS.items()}
    plain = results["grouped"].detach()
    for algorithm, result in results.items():
        error = float((result.detach() - plain).norm() / plain.norm())
        if not error < (1e-2 if dtype == torch.bfloat16 else 1e-5):
            raise WorkError(f"{algorithm} of {name} is wrong: its relative error is {error:.2g}")

    def forward(algorithm: str) -> Callable[[], None]:
        def work() -> None:
            with torch.no_grad():
                ALGORITHMS[algorithm](x, weight)
            wait_for(device)

        return work

    def backward(algorithm: str) -> Callable[[], None]:
        def work() -> None:
            torch.autograd.grad(results[algorithm], (x, weight), gradient, retain_graph=True)
            wait_for(device)

        return work

    timed_work = {f"{algorithm} forward": forward(algorithm) for algorithm in ALGORITHMS} | {
        f"{algorithm} backward": backward(algorithm) for algorithm in ALGORITHMS
    }
    warm_up(timed_work)
    timed = alternate(timed_work, rounds)
    median = {work_name: 1e3 * statistics.median(one.wall_s) for work_name, one in timed.items()}
    return {
        algorithm: {work_name: median[f"{algorithm} {work_name}"] for work_name in ("forward", "backward")}
        for algorithm in ALGORITHMS
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    # As in a training: no TF32, and the fastest algorithms of cuDNN.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    device, dtype = torch.device(options.device), torch.float32 if options.float32 else torch.bfloat16
    return {
        "images": options.images,
        "dtype": str(dtype),
        "device": options.device,
        "layers": {name: layer_times(name, options.images, options.rounds, device, dtype) for name in LAYERS},
        "machine": machine_summary(),
        "commit": source_commit(),
    }


def print_table(result: Mapping[str, Any]) -> None:
    layers = result["layers"]
    for algorithm in ALGORITHMS:
        times = ", ".join(
            f"{name} {layers[name][algorithm]['forward']:.2f} {layers[name][algorithm]['backward']:.2f}"
            for name in LAYERS
        )
        total = sum(sum(layers[name][algorithm].values()) for name in LAYERS)
        print(f"{algorithm:14} {times}; total {total:.2f} ms")


if __name__ == "__main__":
    raise SystemExit(run_script(__doc__, add_arguments, measure, print_table))
