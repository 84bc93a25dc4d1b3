"""`alexnet bench features`: a hidden layer's activations a second, beside the usual networks with a hook on the
layer."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from alexnet.bench.ceilings import rates_and_ceilings, ratios, summary
from alexnet.bench.evaluation_benchmark import forward_passes, multiplies_in_half
from alexnet.bench.random_images import random_data
from alexnet.bench.reference_networks import paper_network, torchvision_network
from alexnet.bench.step_benchmark import NUM_CLASSES, STORED_PX
from alexnet.bench.step_cost import forward_flops, papers_network
from alexnet.bench.timing import require_counts
from alexnet.explore.forward import activation_batches
from alexnet.explore.image_source import array_reader
from alexnet.model.activations import ActivationReader
from alexnet.model.kernels import fallback_reason
from alexnet.model.network import AlexNet
from alexnet.model.weights import Trained
from alexnet.system.device import choose_device, choose_precision, images_at_a_time
from alexnet.system.machine import machine_facts, source_commit

CROP_PX = 224
LAYERS = ("conv1", "conv5", "fc7")


def bench_features(
    batch_size: int | None,
    batches: int,
    rounds: int,
    device_name: str,
    precision_name: str,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Measure activations to random images, and from stored images to arrays.

    Args:
        batch_size: images at a time, 1 or more; None is what suits the device.
        batches: of one measurement, 1 or more.
        rounds: how often each way runs, 1 or more.
        device_name: see `choose_device`.
        precision_name: of the product's ways, see `choose_precision`.
        report: is given lines for people.

    Returns:
        Images a second of each way (medians and best), shares of a large product's rate, and how many times as fast
        `alexnet, fc7` is.

    Raises:
        RequestError: a number below 1, a device that is not there.
    """
    device = choose_device(device_name)
    if batch_size is None:
        batch_size = images_at_a_time(device, STORED_PX)
    require_counts(batch_size, batches, rounds)
    precision = choose_precision(precision_name, device)
    torch.backends.cudnn.benchmark = True  # for all ways alike
    images = 50 * torch.randn(batch_size, 3, CROP_PX, CROP_PX, device=device)
    last = images.contiguous(memory_format=torch.channels_last)
    product = AlexNet(NUM_CLASSES).eval().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    data = random_data(batch_size * batches, STORED_PX, NUM_CLASSES)
    stored = data.splits["val"].images
    mean_image = torch.from_numpy(data.statistics.mean_image)
    trained = Trained(
        network=product, classes=data.classes, mean_image=mean_image, crop=CROP_PX, title="random", generated=True
    )

    def to_arrays() -> None:
        reader = ActivationReader(product, ["fc7"])
        made = np.empty((len(stored), *reader.shape("fc7")), np.float32)
        read = array_reader(stored)
        for batch in activation_batches(trained, reader, read, 0, len(stored), batch_size, device, precision):
            made[batch.stop - len(batch.activations["fc7"]) : batch.stop] = batch.activations["fc7"]

    def hooked(network: nn.Module) -> Callable[[torch.Tensor], object]:
        return _Hooked(network.eval().to(device))

    half = precision == "bfloat16"
    ways: dict[str, Callable[[], None]] = {
        "paper, as usually written": forward_passes(
            hooked(paper_network(NUM_CLASSES)), images, batches, device, half=False
        ),
        "torchvision's network": forward_passes(
            hooked(torchvision_network(NUM_CLASSES)), images, batches, device, half=False
        ),
    }
    if multiplies_in_half(device):
        network = torchvision_network(NUM_CLASSES).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        ways["torchvision's, bfloat16"] = forward_passes(hooked(network), last, batches, device, half=True)
    for layer in LAYERS:
        ways[f"alexnet, {layer}"] = forward_passes(ActivationReader(product, [layer]), last, batches, device, half=half)
    ways["alexnet, all three"] = forward_passes(ActivationReader(product, LAYERS), last, batches, device, half=half)
    ways["stored images to arrays, fc7"] = to_arrays
    for name, way in ways.items():
        way()
        report(f"{name}: warmed up")
    images_a_way = dict.fromkeys(ways, batch_size * batches)
    rates, ceilings = rates_and_ceilings(ways, images_a_way, rounds, device, precision, report)
    whole = papers_network()
    up_to = {f"alexnet, {layer}": layer for layer in LAYERS}
    flops = {name: forward_flops(whole, up_to.get(name)) for name in rates}
    return {
        "batch_size": batch_size,
        "batches": batches,
        "rounds": rounds,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "precision": precision,
        "kernels": fallback_reason(device.type) or "fused",
        "ways": summary(rates, flops, ceilings),
        "ratios": ratios(rates, "alexnet, fc7"),
        "flops_per_image": flops["alexnet, fc7"],
        "ceilings": ceilings,
        "images_per_second": rates,
        "machine": machine_facts(),
        "commit": source_commit(),
    }


class _Hooked:
    """A network whose last hidden layer is read by a hook during a whole forward pass, as is usual."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self.activations = torch.empty(0)
        last_hidden = [module for module in network.modules() if isinstance(module, nn.ReLU)][-1]
        last_hidden.register_forward_hook(self._keep)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self._network(images)
        return self.activations

    def _keep(self, module: nn.Module, given: tuple[torch.Tensor, ...], result: torch.Tensor) -> None:
        self.activations = result
