"""The weight gradient of a 3 x 3 convolution in bfloat16 on a CPU: torch's algorithm and ours, alternated.

    OMP_NUM_THREADS=1 python benchmarks/weight_gradient.py [--images 128] [--rounds 20] [--json]

Prints per layer the shortest and the median time of each algorithm and their ratios. On a machine shared with other
work, compare the shortest times.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

from alexnet.model.convolution import weight_gradient
from alexnet.system.machine import machine_summary, source_commit

# (input channels, output channels, side): conv2, conv3 and conv4 of `quick`, conv3 of `paper`.
LAYERS = ((64, 128, 14), (128, 256, 7), (256, 256, 3), (256, 384, 13))


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(in_channels: int, out_channels: int, side: int, images: int, rounds: int) -> dict[str, float]:
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
    pairs = [(seconds(library), seconds(product)) for _ in range(rounds)]
    theirs, ours = zip(*pairs, strict=True)
    return {
        "library_shortest_ms": 1e3 * min(theirs),
        "product_shortest_ms": 1e3 * min(ours),
        "library_median_ms": 1e3 * statistics.median(theirs),
        "product_median_ms": 1e3 * statistics.median(ours),
        "ratio_of_shortest": min(theirs) / min(ours),
        "median_of_ratios": statistics.median(a / b for a, b in pairs),
        "relative_difference": float(difference),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = {f"{m}->{o} at {s} px": measure(m, o, s, options.images, options.rounds) for m, o, s in LAYERS}
    if options.json:
        facts = {"commit": source_commit(), "machine": machine_summary(), "threads": torch.get_num_threads()}
        print(json.dumps({**facts, "images": options.images, "layers": rows}, indent=1))
        return
    print(f"{options.images} images, {torch.get_num_threads()} threads; shortest of {options.rounds} (median), ms")
    for name, row in rows.items():
        print(
            f"{name:20} torch {row['library_shortest_ms']:7.2f} ({row['library_median_ms']:7.2f})"
            f"   product {row['product_shortest_ms']:7.2f} ({row['product_median_ms']:7.2f})"
            f"   {row['ratio_of_shortest']:.2f}x, median of ratios {row['median_of_ratios']:.2f}x"
        )


if __name__ == "__main__":
    main()
