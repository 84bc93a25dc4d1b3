"""`alexnet bench evaluate`: forward passes of this package and of reference networks, and ten-view evaluations."""

import statistics
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from alexnet.bench.ceilings import compare_speeds
from alexnet.bench.random_images import random_data
from alexnet.bench.reference_networks import paper_network, torchvision_network
from alexnet.bench.step_cost import forward_flops, meta_network
from alexnet.bench.timing import require_counts, wait_for, warm_up
from alexnet.evaluation.evaluate import predict_split
from alexnet.model.kernels import reference_ops
from alexnet.model.network import AlexNet
from alexnet.system.device import choose_device, choose_precision, evaluation_batch_size
from alexnet.system.machine import has_bfloat16, processor_flags

NUM_CLASSES, STORED_PX, CROP_PX = 1000, 256, 224
ONE_VIEW, TEN_VIEWS = "alexnet evaluate, 1 view", "alexnet evaluate, 10 views"

Network = Callable[[torch.Tensor], object]


class ForwardBenchmark:
    """Forward passes of networks over the same random images.

    Args:
        batch_size: images per forward pass, 1 or more; None is the default of `alexnet evaluate` on the device.
        batches: forward passes per measurement, 1 or more.
        rounds: measurements of each method, 1 or more.
        device_name: see `choose_device`.
        precision_name: of this package's methods, see `choose_precision`.

    Raises:
        RequestError: a number is below 1, or the device does not exist.
    """

    def __init__(
        self, batch_size: int | None, batches: int, rounds: int, device_name: str, precision_name: str
    ) -> None:
        self.device = choose_device(device_name)
        self.batch_size = evaluation_batch_size(self.device, STORED_PX) if batch_size is None else batch_size
        self.batches, self.rounds = batches, rounds
        require_counts(self.batch_size, batches, rounds)
        self.precision = choose_precision(precision_name, self.device)
        torch.backends.cudnn.benchmark = True  # for all methods
        self._images = 50 * torch.randn(self.batch_size, 3, CROP_PX, CROP_PX, device=self.device)
        self.product = AlexNet(NUM_CLASSES).eval()
        """This package's network."""
        self.product.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.data = random_data(self.batch_size * batches, STORED_PX, NUM_CLASSES)
        self.mean_image = torch.from_numpy(self.data.statistics.mean_image)

    def reference_methods(self, wrap: Callable[[nn.Module], Network] = lambda network: network) -> dict[str, Any]:
        """By name, passes of the reference networks, each wrapped by `wrap`; in bfloat16 too if the hardware has it."""

        def passes(network: nn.Module, bfloat16: bool = False) -> Callable[[], None]:
            return self._passes(wrap(network.eval().to(self.device)), bfloat16=bfloat16, channels_last=bfloat16)

        methods = {
            "paper in plain PyTorch": passes(paper_network(NUM_CLASSES)),
            "torchvision's network": passes(torchvision_network(NUM_CLASSES)),
        }
        if self.device.type == "cuda" or (self.device.type == "cpu" and has_bfloat16(processor_flags())):
            network = torchvision_network(NUM_CLASSES).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            methods["torchvision's network, bfloat16"] = passes(network, bfloat16=True)
        return methods

    def product_passes(
        self, network: Network, context: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> Callable[[], None]:
        """A method that passes the images through this package's network, or a part of it, within `context`."""
        return self._passes(network, bfloat16=self.precision == "bfloat16", channels_last=True, context=context)

    def _passes(
        self,
        network: Network,
        *,
        bfloat16: bool,
        channels_last: bool,
        context: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Callable[[], None]:
        images = self._images.contiguous(memory_format=torch.channels_last) if channels_last else self._images

        def run() -> None:
            autocast = torch.autocast(self.device.type, torch.bfloat16) if bfloat16 else nullcontext()
            with torch.inference_mode(), autocast, context():
                for _ in range(self.batches):
                    network(images)
            wait_for(self.device)

        return run

    def compare(
        self, methods: Mapping[str, Callable[[], None]], flops: Mapping[str, float], product: str
    ) -> dict[str, Any]:
        """The settings and `compare_speeds` of methods that each process all images."""
        warm_up(methods)
        num_images = dict.fromkeys(methods, self.batch_size * self.batches)
        return {
            "batch_size": self.batch_size,
            "batches": self.batches,
            "rounds": self.rounds,
            "flops_per_image": flops[product],
            **compare_speeds(methods, num_images, flops, product, self.rounds, self.device, self.precision),
        }


def measure_evaluation(
    batch_size: int | None, batches: int, rounds: int, device_name: str, precision_name: str
) -> dict[str, Any]:
    """Measure forward passes of random images, and evaluations of stored images; arguments as in `ForwardBenchmark`.

    Returns:
        See `compare_speeds`; `speedups` are of `alexnet` over each forward pass. `ten_view_cost`: time of ten views
        over ten times the time of one view.
    """
    bench = ForwardBenchmark(batch_size, batches, rounds, device_name, precision_name)

    def evaluation(num_views: int) -> Callable[[], None]:
        def run() -> None:
            predict_split(
                bench.product,
                bench.data,
                "val",
                CROP_PX,
                num_views,
                mean_image=bench.mean_image,
                batch_size=bench.batch_size,
                device=bench.device,
                precision=bench.precision,
            )

        return run

    methods = {
        **bench.reference_methods(),
        "alexnet, reference operations": bench.product_passes(bench.product, reference_ops),
        "alexnet": bench.product_passes(bench.product),
        ONE_VIEW: evaluation(1),
        TEN_VIEWS: evaluation(10),
    }
    flops = forward_flops(meta_network())
    result = bench.compare(methods, {name: flops * (10 if name == TEN_VIEWS else 1) for name in methods}, "alexnet")
    one_s, ten_s = (
        statistics.median(1 / speed for speed in result["methods"][name]["images_per_second_by_round"])
        for name in (ONE_VIEW, TEN_VIEWS)
    )
    for name in (ONE_VIEW, TEN_VIEWS):
        del result["speedups"][name]
    return {**result, "ten_view_cost": ten_s / (10 * one_s)}
