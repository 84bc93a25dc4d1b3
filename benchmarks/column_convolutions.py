"""The network's convolutions in two columns, in three forms, forward and backward, in turns.

    python benchmarks/column_convolutions.py [--images 32] [--rounds 5] [--device cpu|cuda] [--float32] [--json]

The forms: the library's own grouped convolution; one over all maps, with zeros for what a column does not read; one for
each column over maps of its own, whose laying out, and that of the results, is part of the time. Backward
is the gradient of weights and input together. Prints medians per layer and form, and the whole of each form over all
layers.
"""

import argparse
import json
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F

from alexnet.bench.timing import alternate, wait_for
from alexnet.model.convolution import ungrouped_weight
from alexnet.system.machine import machine_summary, source_commit

COLUMNS = 2
# Maps read and written, kernel, side: conv2, conv4 and conv5 of `paper`.
LAYERS = {"conv2": (96, 256, 5, 27), "conv4": (384, 384, 3, 13), "conv5": (384, 256, 3, 13)}


def grouped(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.conv2d(x, weight, padding=weight.shape[2] // 2, groups=COLUMNS)


def with_zeros(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.conv2d(x, ungrouped_weight(weight, COLUMNS), padding=weight.shape[2] // 2)


def side_by_side(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    parts = zip(x.chunk(COLUMNS, 1), weight.chunk(COLUMNS), strict=True)
    own = [(maps.contiguous(memory_format=torch.channels_last), weights) for maps, weights in parts]
    return torch.cat([F.conv2d(maps, weights, padding=weights.shape[2] // 2) for maps, weights in own], 1)


FORMS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "grouped": grouped,
    "with zeros": with_zeros,
    "side by side": side_by_side,
}


def measure(
    name: str, images: int, rounds: int, device: torch.device, dtype: torch.dtype
) -> dict[str, dict[str, float]]:
    """Median milliseconds of each form of a layer, forward and backward, by form."""
    maps, outputs, kernel, side = LAYERS[name]
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        values = torch.randn(*shape, generator=generator).to(device, dtype)
        return values.contiguous(memory_format=torch.channels_last)

    x = random(images, maps, side, side).requires_grad_()
    weight = (random(outputs, maps // COLUMNS, kernel, kernel) * 0.05).requires_grad_()
    gradient = random(images, outputs, side, side)
    results = {form: convolve(x, weight) for form, convolve in FORMS.items()}
    plain = results["grouped"].detach()
    for form, result in results.items():
        error = float((result.detach() - plain).norm() / plain.norm())
        if not error < (1e-2 if dtype == torch.bfloat16 else 1e-5):
            raise SystemExit(f"{form} of {name} is another convolution: it differs by {error:.2g} of the result's norm")

    def forward(form: str) -> Callable[[], None]:
        def work() -> None:
            with torch.no_grad():
                FORMS[form](x, weight)
            wait_for(device)

        return work

    def backward(form: str) -> Callable[[], None]:
        def work() -> None:
            torch.autograd.grad(results[form], (x, weight), gradient, retain_graph=True)
            wait_for(device)

        return work

    ways = {f"{form} forward": forward(form) for form in FORMS} | {f"{form} backward": backward(form) for form in FORMS}
    for work in ways.values():
        work()
    timed = alternate(ways, rounds)
    median = {way: 1e3 * statistics.median(one.wall_s) for way, one in timed.items()}
    return {form: {way: median[f"{form} {way}"] for way in ("forward", "backward")} for form in FORMS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--float32", action="store_true", help="instead of bfloat16")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    options = parser.parse_args()
    # On a GPU products of float32 numbers as they are, and the fastest algorithms, as in a training.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    device, dtype = torch.device(options.device), torch.float32 if options.float32 else torch.bfloat16
    layers = {name: measure(name, options.images, options.rounds, device, dtype) for name in LAYERS}
    if options.json:
        facts = {"images": options.images, "dtype": str(dtype), "device": options.device}
        print(json.dumps({**facts, "layers": layers, "machine": machine_summary(), "commit": source_commit()}))
        return
    for form in FORMS:
        times = ", ".join(
            f"{name} {layers[name][form]['forward']:.2f} {layers[name][form]['backward']:.2f}" for name in LAYERS
        )
        whole = sum(sum(layers[name][form].values()) for name in LAYERS)
        print(f"{form:14} {times}; in all {whole:.2f} ms")


if __name__ == "__main__":
    main()
