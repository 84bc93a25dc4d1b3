"""Speed of reading hidden activations, against reference networks with a forward hook.

The reference networks run whole forward passes; this package stops at the last layer asked for.

example: python benchmarks/features.py --device cpu --batch-size 64
"""

import argparse
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from alexnet.bench.ceilings import measure_speeds, speedups, summarize
from alexnet.bench.evaluation_benchmark import CROP_PX, forward_passes, prefers_bfloat16
from alexnet.bench.random_images import random_data
from alexnet.bench.reference_networks import paper_network, torchvision_network
from alexnet.bench.step_benchmark import NUM_CLASSES, STORED_PX
from alexnet.bench.step_cost import forward_flops, meta_network
from alexnet.bench.timing import require_counts
from alexnet.cli.bench_common import add_forward_passes, measure_by_allocator_option, print_speeds
from alexnet.cli.command_parser import CommandParser
from alexnet.explore.forward import activation_batches
from alexnet.explore.image_source import array_reader
from alexnet.model.activations import ActivationReader
from alexnet.model.kernels import fallback_reason
from alexnet.model.network import AlexNet
from alexnet.model.weights import Trained
from alexnet.system.device import choose_device, choose_precision, evaluation_batch_size
from alexnet.system.machine import machine_summary, source_commit
from script import logger, run_script

LAYERS = ("conv1", "conv5", "fc7")
PRODUCT = "alexnet, fc7"


def add_arguments(parser: CommandParser) -> None:
    add_forward_passes(parser)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, *options.words]
    return measure_by_allocator_option(options, command, PRODUCT) or measure_features(
        options.batch_size, options.steps, options.rounds, options.device, options.precision
    )


def measure_features(
    batch_size: int | None, batches: int, rounds: int, device_name: str, precision_name: str
) -> dict[str, Any]:
    """Measure the activations of random images, and those of stored images written to arrays.

    Args:
        batch_size: images per forward pass, 1 or more; None is the default of `alexnet features` on the device.
        batches: forward passes per measurement, 1 or more.
        rounds: measurements of each method, 1 or more.
        device_name: see `choose_device`.
        precision_name: of this package's methods, see `choose_precision`.

    Returns:
        `methods`: by name images per second (median and best) and the fraction of the matmul ceiling. `speedups`: of
        `alexnet, fc7` over each method.

    Raises:
        RequestError: a number is below 1, or the device does not exist.
    """
    device = choose_device(device_name)
    if batch_size is None:
        batch_size = evaluation_batch_size(device, STORED_PX)
    require_counts(batch_size, batches, rounds)
    precision = choose_precision(precision_name, device)
    torch.backends.cudnn.benchmark = True  # for all methods
    images = 50 * torch.randn(batch_size, 3, CROP_PX, CROP_PX, device=device)
    channels_last = images.contiguous(memory_format=torch.channels_last)
    product = AlexNet(NUM_CLASSES).eval().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    data = random_data(batch_size * batches, STORED_PX, NUM_CLASSES)
    stored = data.splits["val"].images
    mean_image = torch.from_numpy(data.statistics.mean_image)
    trained = Trained(
        network=product, classes=data.classes, mean_image=mean_image, crop=CROP_PX, title="random", generated=True
    )

    def to_arrays() -> None:
        reader = ActivationReader(product, ["fc7"])
        rows = np.empty((len(stored), *reader.shape("fc7")), np.float32)
        read = array_reader(stored)
        for batch in activation_batches(trained, reader, read, 0, len(stored), batch_size, device, precision):
            rows[batch.stop - len(batch.activations["fc7"]) : batch.stop] = batch.activations["fc7"]

    def hooked(network: nn.Module) -> Callable[[torch.Tensor], object]:
        return _HookedNetwork(network.eval().to(device))

    passes = functools.partial(forward_passes, batches=batches, device=device)
    ours = functools.partial(passes, bfloat16=precision == "bfloat16")
    methods: dict[str, Callable[[], None]] = {
        "paper in plain PyTorch": passes(hooked(paper_network(NUM_CLASSES)), images),
        "torchvision's network": passes(hooked(torchvision_network(NUM_CLASSES)), images),
    }
    if prefers_bfloat16(device):
        network = torchvision_network(NUM_CLASSES).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        methods["torchvision's network, bfloat16"] = passes(hooked(network), channels_last, bfloat16=True)
    for layer in LAYERS:
        methods[f"alexnet, {layer}"] = ours(ActivationReader(product, [layer]), channels_last)
    methods["alexnet, all three"] = ours(ActivationReader(product, LAYERS), channels_last)
    methods["alexnet, stored images to arrays, fc7"] = to_arrays
    for name, method in methods.items():
        method()
        logger.info("%s: warmed up", name)
    speeds, ceilings = measure_speeds(methods, dict.fromkeys(methods, batch_size * batches), rounds, device, precision)
    last_layer = {f"alexnet, {layer}": layer for layer in LAYERS}
    flops = {name: forward_flops(meta_network(), last_layer.get(name)) for name in methods}
    return {
        "batch_size": batch_size,
        "batches": batches,
        "rounds": rounds,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "precision": precision,
        "kernels": fallback_reason(device.type) or "fused",
        "flops_per_image": flops[PRODUCT],
        "methods": {
            name: {**summary, "images_per_second_by_round": speeds[name]}
            for name, summary in summarize(speeds, flops, ceilings).items()
        },
        "speedups": speedups(speeds, PRODUCT),
        "ceilings": ceilings,
        "machine": machine_summary(),
        "commit": source_commit(),
    }


class _HookedNetwork:
    """A network whose last hidden layer is read by a forward hook."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self.activations = torch.empty(0)
        last_hidden = [module for module in network.modules() if isinstance(module, nn.ReLU)][-1]
        last_hidden.register_forward_hook(self._keep)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self._network(images)
        return self.activations

    def _keep(self, module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        self.activations = output


def print_table(result: Mapping[str, Any]) -> None:
    print_speeds(result, PRODUCT, lambda one: "the references run whole forward passes")


def main(words: Sequence[str] | None = None) -> int:
    return run_script(__doc__, add_arguments, measure, print_table, words)


if __name__ == "__main__":
    raise SystemExit(main())
