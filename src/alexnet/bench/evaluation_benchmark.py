"""`alexnet bench evaluate`: predictions a second, beside the usual networks; ten views beside ten evaluations."""

import statistics
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from alexnet.bench.ceilings import rates_and_ceilings, ratios, summary
from alexnet.bench.random_images import random_data
from alexnet.bench.reference_networks import paper_network, torchvision_network
from alexnet.bench.step_benchmark import NUM_CLASSES, STORED_PX
from alexnet.bench.step_cost import forward_flops, papers_network
from alexnet.bench.timing import require_counts, wait_for
from alexnet.evaluation.evaluate import predict_split
from alexnet.model.kernels import fallback_reason, reference_ops
from alexnet.model.network import AlexNet
from alexnet.system.device import arithmetic, choose_device, choose_precision, images_at_a_time
from alexnet.system.machine import machine_facts, multiplies_bfloat16, processor_flags, source_commit


def bench_evaluate(
    batch_size: int | None,
    batches: int,
    rounds: int,
    device_name: str,
    precision_name: str,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Measure forward passes of random images, and whole evaluations of stored ones.

    Args:
        batch_size: images of a forward pass, 1 or more; None is what suits the device.
        batches: forward passes of one measurement, and batches of the stored images, 1 or more.
        rounds: how often each way runs, 1 or more.
        device_name: see `choose_device`.
        precision_name: of the product's ways, see `choose_precision`.
        report: is given lines for people.

    Returns:
        Images a second of each forward pass and of each evaluation (medians and best), shares of a large product's rate
        and ratios; `ten_views_of_ten_passes` is the time of ten views over ten times that of one view.

    Raises:
        RequestError: a number below 1, a device that is not there.
    """
    device = choose_device(device_name)
    if batch_size is None:
        batch_size = images_at_a_time(device, STORED_PX)
    require_counts(batch_size, batches, rounds)
    precision = choose_precision(precision_name, device)
    torch.backends.cudnn.benchmark = True  # for all ways alike
    images = 50 * torch.randn(batch_size, 3, 224, 224, device=device)
    last = images.contiguous(memory_format=torch.channels_last)
    product = AlexNet(NUM_CLASSES).eval().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    data = random_data(batch_size * batches, STORED_PX, NUM_CLASSES)
    mean = torch.from_numpy(data.statistics.mean_image)

    def forward(network: Callable[[torch.Tensor], object], given: torch.Tensor, half: bool) -> Callable[[], None]:
        return forward_passes(network, given, batches, device, half=half)

    def plainly() -> None:
        with torch.inference_mode(), reference_ops(), arithmetic(device, precision):
            for _ in range(batches):
                product(last)
        wait_for(device)

    def views(num: int) -> Callable[[], None]:
        def run() -> None:
            predict_split(
                product,
                data,
                "val",
                224,
                num,
                mean_image=mean,
                batch_size=batch_size,
                device=device,
                precision=precision,
            )

        return run

    def usual(network: nn.Module) -> nn.Module:
        return network.eval().to(device)

    half = multiplies_in_half(device)
    ways: dict[str, Callable[[], None]] = {
        "paper, as usually written": forward(usual(paper_network(NUM_CLASSES)), images, False),
        "torchvision's network": forward(usual(torchvision_network(NUM_CLASSES)), images, False),
        "alexnet, plain operations": plainly,
        "alexnet": forward(product, last, precision == "bfloat16"),
        "stored images, one view": views(1),
        "stored images, ten views": views(10),
    }
    if half:
        network = torchvision_network(NUM_CLASSES).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        ways["torchvision's, bfloat16"] = forward(usual(network), last, True)
    for name, way in ways.items():
        way()
        report(f"{name}: warmed up")
    images_a_way = dict.fromkeys(ways, batch_size * batches)
    rates, ceilings = rates_and_ceilings(ways, images_a_way, rounds, device, precision, report)
    one, ten = ([1 / rate for rate in rates[f"stored images, {name}"]] for name in ("one view", "ten views"))
    flops = forward_flops(papers_network())
    of_image = {name: flops * (10 if name == "stored images, ten views" else 1) for name in rates}
    return {
        "batch_size": batch_size,
        "batches": batches,
        "rounds": rounds,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "precision": precision,
        "kernels": fallback_reason(device.type) or "fused",
        "ways": summary(rates, of_image, ceilings),
        "ratios": ratios({name: one for name, one in rates.items() if "stored" not in name}, "alexnet"),
        "ten_views_of_ten_passes": statistics.median(ten) / (10 * statistics.median(one)),
        "flops_per_image": flops,
        "ceilings": ceilings,
        "images_per_second": rates,
        "machine": machine_facts(),
        "commit": source_commit(),
    }


def forward_passes(
    network: Callable[[torch.Tensor], object], images: torch.Tensor, batches: int, device: torch.device, *, half: bool
) -> Callable[[], None]:
    """A way that shows `images` to a network `batches` times, in bfloat16 by autocast where `half`."""

    def run() -> None:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16) if half else nullcontext():
            for _ in range(batches):
                network(images)
        wait_for(device)

    return run


def multiplies_in_half(device: torch.device) -> bool:
    """Whether bfloat16 is the faster arithmetic there, so that the usual networks are measured in it too."""
    return device.type == "cuda" or (device.type == "cpu" and multiplies_bfloat16(processor_flags()))
