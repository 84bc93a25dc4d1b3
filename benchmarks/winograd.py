"""The network's layers in float32 on a processor: with fewer products beside the library's own way, in turns.

    python benchmarks/winograd.py [--images 64] [--rounds 5] [--json]

Prints for each convolution the median milliseconds of both ways, forward and backward (the gradients of weights and
input together; of the first layer's weights alone), their ratio, and how far the results and the gradients of the
weights are from float64, by eight images, as part of the norm. It starts itself again with the allocator of a training.
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

# Maps read and written, kernel, stride, padding, columns, side, zeros at the end: the layers of `paper`, and one more.
LAYERS = {
    "conv1": (3, 96, 11, 4, 0, 1, 224, 3),
    "conv2": (96, 256, 5, 1, 2, 2, 27, 0),
    "conv3": (256, 384, 3, 1, 1, 1, 13, 0),
    "conv4": (384, 384, 3, 1, 1, 2, 13, 0),
    "conv5": (384, 256, 3, 1, 1, 2, 13, 0),
    "conv2 of `torchvision`": (64, 192, 5, 1, 2, 1, 27, 0),
}
WAYS: dict[str, Callable[[], AbstractContextManager[None]]] = {"library": reference_ops, "fewer": nullcontext}


def layer_and_data(name: str, images: int) -> tuple[Convolution2d, torch.Tensor, torch.Tensor]:
    maps, outputs, kernel, stride, padding, columns, side, end = LAYERS[name]
    generator = torch.Generator().manual_seed(0)
    layer = Convolution2d(maps, outputs, kernel, stride, padding, columns, end)
    layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.no_grad():
        layer.weight.normal_(0, 0.01, generator=generator)
        torch.nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    x = torch.randn(images, maps, side, side, generator=generator)
    # Photographs are read by the first layer, which gives them no gradient; the others read what was rectified.
    x = (x * 60 if name == "conv1" else x.relu()).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        gradient = torch.randn(layer(x).shape, generator=generator).contiguous(memory_format=torch.channels_last)
    return layer, x.requires_grad_(name != "conv1"), gradient


def errors(name: str) -> dict[str, dict[str, float]]:
    """Of results and of the gradients of the weights, by way."""
    layer, x, gradient = layer_and_data(name, MIN_WINOGRAD_IMAGES)

    def made(layer: Convolution2d, x: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        result = layer(x)
        return result.detach(), torch.autograd.grad(result, layer.weight, gradient)[0]

    got = {}
    for way, chosen in WAYS.items():
        with chosen():
            got[way] = made(layer, x, gradient)
    want = made(layer.double(), x.double(), gradient.double())
    return {
        way: {
            what: float((one - other).norm() / other.norm())
            for what, one, other in zip(("result", "of_weight"), tensors, want, strict=True)
        }
        for way, tensors in got.items()
    }


def times(name: str, images: int, rounds: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of each way forward and backward, and the median of their ratios."""
    layer, x, gradient = layer_and_data(name, images)
    wanted = [layer.weight, layer.bias, *([x] if x.requires_grad else [])]
    results = {}
    for way, chosen in WAYS.items():
        with chosen():
            results[way] = layer(x)

    def forward(way: str) -> Callable[[], None]:
        def work() -> None:
            with WAYS[way]():
                layer(x)

        return work

    def backward(way: str) -> Callable[[], None]:
        def work() -> None:
            torch.autograd.grad(results[way], wanted, gradient, retain_graph=True)  # type: ignore[arg-type]

        return work

    found = {}
    for direction, make in (("forward", forward), ("backward", backward)):
        ways = {way: make(way) for way in WAYS}
        for work in ways.values():
            work()
        timed = alternate(ways, rounds)
        found[direction] = {
            **{f"{way}_ms": 1e3 * statistics.median(timed[way].wall_s) for way in WAYS},
            "ratio": median_ratio(timed["library"].wall_s, timed["fewer"].wall_s),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    options = parser.parse_args()
    if "GLIBC_TUNABLES" not in os.environ and sys.platform == "linux":
        os.execve(sys.executable, [sys.executable, *sys.argv], allocator_environment(tuned=True))
    reason = fallback_reason("cpu")
    if reason is not None:
        raise SystemExit(f"there is nothing to compare here: {reason}")
    took = {name: times(name, options.images, options.rounds) for name in LAYERS}
    off = {name: errors(name) for name in LAYERS}
    if options.json:
        facts = {"images": options.images, "rounds": options.rounds, "threads": torch.get_num_threads()}
        layers = {name: {**took[name], "errors": off[name]} for name in LAYERS}
        print(json.dumps({**facts, "layers": layers, "machine": machine_summary(), "commit": source_commit()}))
        return
    for name, by_direction in took.items():
        spent = "; ".join(
            f"{direction} {found['library_ms']:.0f} and {found['fewer_ms']:.0f} ms, {found['ratio']:.2f} times"
            for direction, found in by_direction.items()
        )
        differs = ", ".join(
            f"{what} {off[name]['library'][what]:.1e} and {off[name]['fewer'][what]:.1e}"
            for what in ("result", "of_weight")
        )
        print(f"{name:24} {spent}; off by {differs}", flush=True)


if __name__ == "__main__":
    main()
