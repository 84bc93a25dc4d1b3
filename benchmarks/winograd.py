"""The network's convolutions in float32 on a CPU: Winograd filtering and the library's algorithm, alternated.

Prints for each convolution the median milliseconds of both algorithms, forward and backward (weight and input gradients
together; of the first layer only the weight gradient), their ratio, and the relative error (by norm, against float64,
for eight images) of outputs and weight gradients.

example: python benchmarks/winograd.py --images 64 --rounds 5
"""

import argparse
import statistics
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from alexnet.bench.timing import alternate, median_ratio, warm_up
from alexnet.cli.command_parser import CommandParser
from alexnet.errors import RequestError
from alexnet.model.convolution import MIN_WINOGRAD_IMAGES, FastConvolution
from alexnet.model.kernels import fallback_reason, reference_ops
from alexnet.system.machine import machine_summary, source_commit
from script import run_script

# Input and output channels, kernel, stride, padding, columns, side, end padding: the layers of `paper`, and one more.
LAYERS = {
    "conv1": (3, 96, 11, 4, 0, 1, 224, 3),
    "conv2": (96, 256, 5, 1, 2, 2, 27, 0),
    "conv3": (256, 384, 3, 1, 1, 1, 13, 0),
    "conv4": (384, 384, 3, 1, 1, 2, 13, 0),
    "conv5": (384, 256, 3, 1, 1, 2, 13, 0),
    "conv2 of `torchvision`": (64, 192, 5, 1, 2, 1, 27, 0),
}
ALGORITHMS: dict[str, Callable[[], AbstractContextManager[None]]] = {"library": reference_ops, "winograd": nullcontext}


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("--images", type=int, metavar="N", default=64, help="images per pass")
    parser.add_argument("--rounds", type=int, metavar="N", default=5, help="measurements of each algorithm")


def layer_and_data(name: str, images: int) -> tuple[FastConvolution, torch.Tensor, torch.Tensor]:
    in_channels, out_channels, kernel, stride, padding, columns, side, end_padding = LAYERS[name]
    generator = torch.Generator().manual_seed(0)
    conv = torch.nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=columns)
    conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    layer = FastConvolution(conv, end_padding)
    with torch.no_grad():
        conv.weight.normal_(0, 0.01, generator=generator)
        torch.nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    x = torch.randn(images, in_channels, side, side, generator=generator)
    # The first layer reads photographs and computes no gradient for them; the others read outputs of ReLU.
    x = (x * 60 if name == "conv1" else x.relu()).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        gradient = torch.randn(layer(x).shape, generator=generator).contiguous(memory_format=torch.channels_last)
    return layer, x.requires_grad_(name != "conv1"), gradient


def errors(name: str) -> dict[str, dict[str, float]]:
    """Relative errors of outputs and weight gradients, by algorithm."""
    layer, x, gradient = layer_and_data(name, MIN_WINOGRAD_IMAGES)

    def output_and_gradient(
        layer: FastConvolution, x: torch.Tensor, gradient: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        result = layer(x)
        return result.detach(), torch.autograd.grad(result, layer.conv.weight, gradient)[0]

    got = {}
    for algorithm, chosen in ALGORITHMS.items():
        with chosen():
            got[algorithm] = output_and_gradient(layer, x, gradient)
    layer.conv.double()
    want = output_and_gradient(layer, x.double(), gradient.double())
    return {
        algorithm: {
            what: float((one - other).norm() / other.norm())
            for what, one, other in zip(("result", "weight_gradient"), tensors, want, strict=True)
        }
        for algorithm, tensors in got.items()
    }


def times(name: str, images: int, rounds: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of each algorithm forward and backward, and the median of their ratios."""
    layer, x, gradient = layer_and_data(name, images)
    wanted = [layer.conv.weight, layer.conv.bias, *([x] if x.requires_grad else [])]
    results = {}
    for algorithm, chosen in ALGORITHMS.items():
        with chosen():
            results[algorithm] = layer(x)

    def forward(algorithm: str) -> Callable[[], None]:
        def work() -> None:
            with ALGORITHMS[algorithm]():
                layer(x)

        return work

    def backward(algorithm: str) -> Callable[[], None]:
        def work() -> None:
            torch.autograd.grad(results[algorithm], wanted, gradient, retain_graph=True)  # type: ignore[arg-type]

        return work

    found = {}
    for direction, make in (("forward", forward), ("backward", backward)):
        timed_work = {algorithm: make(algorithm) for algorithm in ALGORITHMS}
        warm_up(timed_work)
        timed = alternate(timed_work, rounds)
        found[direction] = {
            **{f"{algorithm}_ms": 1e3 * statistics.median(timed[algorithm].wall_s) for algorithm in ALGORITHMS},
            "ratio": median_ratio(timed["library"].wall_s, timed["winograd"].wall_s),
        }
    return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    if (reason := fallback_reason("cpu")) is not None:
        raise RequestError(f"nothing to compare: {reason}")
    return {
        "images": options.images,
        "rounds": options.rounds,
        "threads": torch.get_num_threads(),
        "layers": {name: {**times(name, options.images, options.rounds), "errors": errors(name)} for name in LAYERS},
        "machine": machine_summary(),
        "commit": source_commit(),
    }


def print_table(result: Mapping[str, Any]) -> None:
    for name, layer in result["layers"].items():
        spent = "; ".join(
            f"{direction} {layer[direction]['library_ms']:.0f} and {layer[direction]['winograd_ms']:.0f} ms, "
            f"{layer[direction]['ratio']:.2f} times"
            for direction in ("forward", "backward")
        )
        relative_errors = ", ".join(
            f"{what} {layer['errors']['library'][what]:.1e} and {layer['errors']['winograd'][what]:.1e}"
            for what in ("result", "weight_gradient")
        )
        print(f"{name:24} {spent}; relative errors: {relative_errors}")


if __name__ == "__main__":
    raise SystemExit(run_script(__doc__, add_arguments, measure, print_table))
