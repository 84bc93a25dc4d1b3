"""The network's convolutions in float32 on a CPU: Winograd filtering and the library's algorithm, alternated.

    python benchmarks/winograd.py [--images 64] [--rounds 5] [--json]

Prints for each convolution the median milliseconds of both algorithms, forward and backward (weight and input gradients
together; of the first layer only the weight gradient), their ratio, and the relative error (by norm, against float64,
for eight images) of outputs and weight gradients. It restarts itself with the allocator settings of a training.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from alexnet.bench.timing import alternate, median_ratio
from alexnet.model.convolution import MIN_WINOGRAD_IMAGES, Convolution2d
from alexnet.model.kernels import fallback_reason, reference_ops
from alexnet.system.machine import allocator_environment, machine_summary, source_commit

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


def layer_and_data(name: str, images: int) -> tuple[Convolution2d, torch.Tensor, torch.Tensor]:
    in_channels, out_channels, kernel, stride, padding, columns, side, end_padding = LAYERS[name]
    generator = torch.Generator().manual_seed(0)
    layer = Convolution2d(in_channels, out_channels, kernel, stride, padding, columns, end_padding)
    layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.no_grad():
        layer.weight.normal_(0, 0.01, generator=generator)
        torch.nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
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
        layer: Convolution2d, x: torch.Tensor, gradient: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        result = layer(x)
        return result.detach(), torch.autograd.grad(result, layer.weight, gradient)[0]

    got = {}
    for algorithm, chosen in ALGORITHMS.items():
        with chosen():
            got[algorithm] = output_and_gradient(layer, x, gradient)
    want = output_and_gradient(layer.double(), x.double(), gradient.double())
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
    wanted = [layer.weight, layer.bias, *([x] if x.requires_grad else [])]
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
        for work in timed_work.values():
            work()
        timed = alternate(timed_work, rounds)
        found[direction] = {
            **{f"{algorithm}_ms": 1e3 * statistics.median(timed[algorithm].wall_s) for algorithm in ALGORITHMS},
            "ratio": median_ratio(timed["library"].wall_s, timed["winograd"].wall_s),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if "GLIBC_TUNABLES" not in os.environ and sys.platform == "linux":
        os.execve(sys.executable, [sys.executable, *sys.argv], allocator_environment(tuned=True))
    reason = fallback_reason("cpu")
    if reason is not None:
        raise SystemExit(f"nothing to compare: {reason}")
    took = {name: times(name, options.images, options.rounds) for name in LAYERS}
    off = {name: errors(name) for name in LAYERS}
    if options.json:
        facts = {"images": options.images, "rounds": options.rounds, "threads": torch.get_num_threads()}
        layers = {name: {**took[name], "errors": off[name]} for name in LAYERS}
        print(json.dumps({**facts, "layers": layers, "machine": machine_summary(), "commit": source_commit()}))
        return
    for name, by_direction in took.items():
        spent = "; ".join(
            f"{direction} {found['library_ms']:.0f} and {found['winograd_ms']:.0f} ms, {found['ratio']:.2f} times"
            for direction, found in by_direction.items()
        )
        differs = ", ".join(
            f"{what} {off[name]['library'][what]:.1e} and {off[name]['winograd'][what]:.1e}"
            for what in ("result", "weight_gradient")
        )
        print(f"{name:24} {spent}; relative errors: {differs}", flush=True)


if __name__ == "__main__":
    main()
