"""`alexnet bench evaluate`: forward passes of this package and of reference networks, and ten-view evaluations."""

import functools
import logging
import statistics
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from alexnet.bench.ceilings import measure_speeds, speedups, summarize
from alexnet.bench.random_images import random_data
from alexnet.bench.reference_networks import paper_network, torchvision_network
from alexnet.bench.step_benchmark import NUM_CLASSES, STORED_PX
from alexnet.bench.step_cost import forward_flops, meta_network
from alexnet.bench.timing import require_counts, wait_for
from alexnet.evaluation.evaluate import predict_split
from alexnet.model.kernels import fallback_reason, reference_ops
from alexnet.model.network import AlexNet
from alexnet.system.device import arithmetic, choose_device, choose_precision, evaluation_batch_size
from alexnet.system.machine import has_bfloat16, machine_summary, processor_flags, source_commit

_logger = logging.getLogger(__name__)

CROP_PX = 224
ONE_VIEW, TEN_VIEWS = "alexnet evaluate, 1 view", "alexnet evaluate, 10 views"


def measure_evaluation(
    batch_size: int | None, batches: int, rounds: int, device_name: str, precision_name: str
) -> dict[str, Any]:
    """Measure forward passes of random images, and evaluations of stored images.

    Args:
        batch_size: images per forward pass, 1 or more; None is the default of `alexnet evaluate` on the device.
        batches: forward passes per measurement, and batches of stored images, 1 or more.
        rounds: measurements of each method, 1 or more.
        device_name: see `choose_device`.
        precision_name: of this package's methods, see `choose_precision`.

    Returns:
        `methods`: by name images per second (median and best) and the fraction of the matmul ceiling. `speedups`: of
        `alexnet` over each forward pass. `ten_view_cost`: time of ten views over ten times the time of one view.

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
    mean_image = torch.from_numpy(data.statistics.mean_image)
    passes = functools.partial(forward_passes, batches=batches, device=device)

    def reference_passes() -> None:
        with torch.inference_mode(), reference_ops(), arithmetic(device, precision):
            for _ in range(batches):
                product(channels_last)
        wait_for(device)

    def evaluation(num_views: int) -> Callable[[], None]:
        def run() -> None:
            predict_split(
                product,
                data,
                "val",
                CROP_PX,
                num_views,
                mean_image=mean_image,
                batch_size=batch_size,
                device=device,
                precision=precision,
            )

        return run

    def in_eval(network: nn.Module) -> nn.Module:
        return network.eval().to(device)

    methods: dict[str, Callable[[], None]] = {
        "paper in plain PyTorch": passes(in_eval(paper_network(NUM_CLASSES)), images),
        "torchvision's network": passes(in_eval(torchvision_network(NUM_CLASSES)), images),
        "alexnet, reference operations": reference_passes,
        "alexnet": passes(product, channels_last, bfloat16=precision == "bfloat16"),
        ONE_VIEW: evaluation(1),
        TEN_VIEWS: evaluation(10),
    }
    if prefers_bfloat16(device):
        network = torchvision_network(NUM_CLASSES).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        methods["torchvision's network, bfloat16"] = passes(in_eval(network), channels_last, bfloat16=True)
    for name, method in methods.items():
        method()
        _logger.info("%s: warmed up", name)
    speeds, ceilings = measure_speeds(methods, dict.fromkeys(methods, batch_size * batches), rounds, device, precision)
    flops = forward_flops(meta_network())
    flops_by_method = {name: flops * (10 if name == TEN_VIEWS else 1) for name in methods}
    one_s, ten_s = (statistics.median(1 / speed for speed in speeds[name]) for name in (ONE_VIEW, TEN_VIEWS))
    forward_speeds = {name: values for name, values in speeds.items() if name not in (ONE_VIEW, TEN_VIEWS)}
    return {
        "batch_size": batch_size,
        "batches": batches,
        "rounds": rounds,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "precision": precision,
        "kernels": fallback_reason(device.type) or "fused",
        "flops_per_image": flops,
        "methods": {
            name: {**summary, "images_per_second_by_round": speeds[name]}
            for name, summary in summarize(speeds, flops_by_method, ceilings).items()
        },
        "speedups": speedups(forward_speeds, "alexnet"),
        "ten_view_cost": ten_s / (10 * one_s),
        "ceilings": ceilings,
        "machine": machine_summary(),
        "commit": source_commit(),
    }


def forward_passes(
    network: Callable[[torch.Tensor], object],
    images: torch.Tensor,
    *,
    batches: int,
    device: torch.device,
    bfloat16: bool = False,
) -> Callable[[], None]:
    """A method that passes `images` through a network `batches` times; `bfloat16` adds autocast."""

    def run() -> None:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16) if bfloat16 else nullcontext():
            for _ in range(batches):
                network(images)
        wait_for(device)

    return run


def prefers_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware, so that reference networks are measured in it too."""
    return device.type == "cuda" or (device.type == "cpu" and has_bfloat16(processor_flags()))
