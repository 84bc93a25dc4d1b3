"""Speed of reading hidden activations, against reference networks with a forward hook.

The reference networks run whole forward passes; this package stops at the last layer asked for.

example: python benchmarks/features.py --device cpu --batch-size 64
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from alexnet.bench.evaluation_benchmark import CROP_PX, ForwardBenchmark
from alexnet.bench.step_cost import forward_flops, meta_network
from alexnet.cli.bench_common import add_forward_passes, measure_by_allocator_option, print_speeds
from alexnet.cli.command_parser import CommandParser
from alexnet.explore.forward import activation_batches
from alexnet.explore.image_source import array_reader
from alexnet.model.activations import ActivationReader
from alexnet.model.weights import Trained
from script import run_script

LAYERS = ("pool1", "pool5", "relu7")
PRODUCT = "alexnet, relu7"


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

    Arguments as in `ForwardBenchmark`; result as in `compare_speeds`, with `speedups` of `alexnet, relu7`.
    """
    bench = ForwardBenchmark(batch_size, batches, rounds, device_name, precision_name)
    stored = bench.data.splits["val"].images
    trained = Trained(
        network=bench.product,
        classes=bench.data.classes,
        mean_image=bench.mean_image,
        crop=CROP_PX,
        title="random",
        generated=True,
    )

    def to_arrays() -> None:
        reader = ActivationReader(bench.product, ["relu7"])
        rows = np.empty((len(stored), *reader.shape("relu7")), np.float32)
        read = array_reader(stored)
        for batch in activation_batches(
            trained, reader, read, 0, len(stored), bench.batch_size, bench.device, bench.precision
        ):
            rows[batch.stop - len(batch.activations["relu7"]) : batch.stop] = batch.activations["relu7"]

    readers = {f"alexnet, {layer}": [layer] for layer in LAYERS} | {"alexnet, all three": LAYERS}
    methods = {
        **bench.reference_methods(_HookedNetwork),
        **{name: bench.product_passes(ActivationReader(bench.product, layers)) for name, layers in readers.items()},
        "alexnet, stored images to arrays, relu7": to_arrays,
    }
    last_layer = {f"alexnet, {layer}": layer for layer in LAYERS}
    flops = {name: forward_flops(meta_network(), last_layer.get(name)) for name in methods}
    return bench.compare(methods, flops, PRODUCT)


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
