"""`alexnet bench step`: the training step beside the network as usually written, beside torchvision's, and its parts.

Every way makes the same update from the same random images: forward, backward, momentum. The product's way is the one
that `alexnet train` takes.
"""

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from alexnet.bench.ceilings import rates_and_ceilings, ratios, summary
from alexnet.bench.fresh_process import in_fresh_process
from alexnet.bench.layer_times import layer_times
from alexnet.bench.random_images import random_data
from alexnet.bench.reference_networks import paper_network, torchvision_network
from alexnet.bench.step_cost import papers_network, step_floor_s, step_flops
from alexnet.bench.timing import require_counts, wait_for
from alexnet.data.augment import Batch
from alexnet.data.dataset import PreparedData
from alexnet.errors import RequestError
from alexnet.model.kernels import fallback_reason, reference_ops
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipe import OptimizerSettings, Recipe, ScheduleSettings, TrainingSettings
from alexnet.system.device import Precision, choose_device, choose_precision
from alexnet.system.machine import (
    machine_facts,
    multiplies_bfloat16,
    processor_flags,
    source_commit,
)
from alexnet.system.process_usage import anonymous_bytes, sampled_memory
from alexnet.training.eager_step import EagerStep
from alexnet.training.graph_step import step_of
from alexnet.training.setup import Training, assemble, load_device_cache, loader_of

NUM_CLASSES = 1000
STORED_PX = 256
# Batches of images that are stored for the measure from the loader to the update: more than any cache holds.
STORED_BATCHES = 32
SAMPLE_MEMORY_S = 0.01
MOMENTUM, DECAY, RATE = 0.9, 0.0005, 1e-4


def bench_step(
    batch_size: int,
    steps: int,
    rounds: int,
    device_name: str,
    precision_name: str,
    report: Callable[[str], None],
    only: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Measure all ways in turns.

    Args:
        batch_size: images of a step, 1 or more.
        steps: of one measurement of the fast ways, 1 or more; the slow ones are measured over one.
        rounds: how often each way runs, 1 or more.
        device_name: see `choose_device`.
        precision_name: of the product's way, see `choose_precision`.
        report: is given lines for people.
        only: names of the ways to be measured; none are all.

    Returns:
        Images a second of each way (medians and best), ceilings of the machine, shares and ratios.

    Raises:
        RequestError: a number below 1, an unknown way, a device that is not there.
    """
    require_counts(batch_size, steps, rounds)
    device = choose_device(device_name)
    precision = choose_precision(precision_name, device)
    torch.backends.cudnn.benchmark = True  # for all ways alike
    makers = _ways(batch_size, device, precision, STORED_BATCHES)
    if unknown := set(only) - set(makers):
        raise RequestError(f"there is no way {', '.join(sorted(unknown))} here; there are {'; '.join(makers)}")
    ways: dict[str, Callable[[], None]] = {}
    counts: dict[str, int] = {}
    memory: dict[str, int | None] = {}
    for name, make in makers.items():
        if only and name not in only:
            continue
        if device.type == "cpu":
            report(f"{name}: its memory, in a process of its own")
            memory[name] = in_fresh_process(_added_memory, name, batch_size, precision, threads=torch.get_num_threads())
        before_bytes = torch.cuda.memory_allocated() if device.type == "cuda" else 0
        way = make()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        way()  # compiles, captures and tries algorithms
        wait_for(device)
        start_s = time.perf_counter()
        way()
        wait_for(device)
        first_s = time.perf_counter() - start_s
        if device.type == "cuda":
            memory[name] = torch.cuda.max_memory_allocated() - before_bytes
        # A way that needs a second for a step says enough with one.
        counts[name] = 1 if device.type == "cpu" and first_s > 1 else steps
        ways[name] = _repeated(way, counts[name], device)
        report(f"{name}: a step in {first_s:.3f} s")
    images_a_way = {name: batch_size * count for name, count in counts.items()}
    rates, ceilings = rates_and_ceilings(ways, images_a_way, rounds, device, precision, report)
    flops = step_flops(papers_network())
    floor_s = step_floor_s(batch_size, 2 if precision == "bfloat16" else 4, ceilings)
    found = {
        name: {**one, "share_of_floor": one["images_per_second"] * floor_s, "peak_bytes": memory.get(name)}
        for name, one in summary(rates, dict.fromkeys(rates, flops), ceilings).items()
    }
    return {
        "batch_size": batch_size,
        "steps": steps,
        "rounds": rounds,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "precision": precision,
        "kernels": fallback_reason(device.type) or "fused",
        "flops_per_image": flops,
        "floor_s_per_image": floor_s,
        "ways": found,
        "ratios": ratios(rates, "alexnet"),
        "ceilings": ceilings,
        "layers": layer_times(device, precision, batch_size),
        "images_per_second": rates,
        "machine": machine_facts(),
        "commit": source_commit(),
    }


def _ways(
    batch_size: int, device: torch.device, precision: Precision, stored_batches: int
) -> Mapping[str, Callable[[], Callable[[], None]]]:
    """By name, what makes a way, ready for its first step.

    On a GPU each has a network of its own, since its memory is measured here; on a processor, where another process
    measures that, those of the product share one. What one way has made of its weights the others, where they read
    rounded copies, see from their second step of a turn on: here it is the time that counts.
    """
    images = 50 * torch.randn(batch_size, 3, 224, 224, device=device)
    labels = torch.randint(0, NUM_CLASSES, (batch_size,), device=device)
    data = random_data(stored_batches * batch_size, STORED_PX, NUM_CLASSES)

    def paper(*, normalized: bool = True, half: bool = False) -> Callable[[], None]:
        return _usual(paper_network(NUM_CLASSES, normalized=normalized), images, labels, half=half)

    def new_training() -> Training:
        return _training(data, batch_size, device, precision)

    training = functools.cache(new_training) if device.type == "cpu" else new_training
    makers: dict[str, Callable[[], Callable[[], None]]] = {
        "paper, as usually written": paper,
        "paper, usual, bfloat16": lambda: paper(half=True),
        "torchvision's network": lambda: _usual(torchvision_network(NUM_CLASSES), images, labels, half=False),
        "torchvision's, bfloat16": lambda: _usual(torchvision_network(NUM_CLASSES), images, labels, half=True),
        "no normalization": lambda: paper(normalized=False),
        "no normalization, bfloat16": lambda: paper(normalized=False, half=True),
        "alexnet, plain operations": lambda: _product(training(), reference_ops),
        "alexnet, plain convolutions": lambda: _product(training(), lambda: reference_ops(convolutions_only=True)),
        "alexnet": lambda: _product(training()),
        "alexnet, from stored images": lambda: _from_images(training()),
        "alexnet, from blocks": lambda: _from_images(_from_blocks(training())),
    }
    if device.type != "cpu" or precision != "float32":
        del makers["alexnet, plain convolutions"]  # there they are torch's anyway
    if device.type != "cpu":
        return makers
    # torch's response normalization in bfloat16 exists on GPUs alone, and not every processor multiplies bfloat16.
    half = multiplies_bfloat16(processor_flags())
    return {
        name: make
        for name, make in makers.items()
        if name != "paper, usual, bfloat16" and (half or not name.endswith("bfloat16"))
    }


def _added_memory(name: str, batch_size: int, precision: Precision) -> int | None:
    """The most anonymous memory that a way's network and two of its steps add to this process."""
    make = _ways(batch_size, torch.device("cpu"), precision, 2)[name]
    before = anonymous_bytes()
    if before is None:
        return None
    with sampled_memory(SAMPLE_MEMORY_S) as seen:
        way = make()
        way()
        way()
    return max(held for _, held in seen) - before


def _training(data: PreparedData, batch_size: int, device: torch.device, precision: Precision) -> Training:
    """A training of the paper's network on images in memory; nothing is written."""
    recipe = Recipe(
        name="bench",
        optimizer=OptimizerSettings(batch_size=batch_size, learning_rate=RATE, momentum=MOMENTUM, weight_decay=DECAY),
        schedule=ScheduleSettings(kind="steps", epochs=10**6),
        training=TrainingSettings(device=device.type, precision=precision, cache="auto"),  # type: ignore[arg-type]
    )
    return assemble(RunFolder(Path("random")), data, recipe)


def _usual(network: nn.Module, images: torch.Tensor, labels: torch.Tensor, *, half: bool) -> Callable[[], None]:
    """A loop as tutorials have it; with `half`, autocast and channels-last memory too."""
    device = images.device
    network.to(device)
    if half:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = images.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=torch.bfloat16) if half else nullcontext():
            loss = F.cross_entropy(network(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _product(
    training: Training, within: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Callable[[], None]:
    """The step of `alexnet train`, with a batch that is there already; of torch's operations it is taken at once."""
    with within():
        step = EagerStep(training) if within is reference_ops else step_of(training)
    phase, batch = training.plan.phases[0], _batch(training)
    if training.device.type == "cuda" and within is not reference_ops:
        batch = batch.map(lambda tensor: tensor.to(training.device))

    def product() -> None:
        with within():
            step.run(phase, batch)

    return product


def _from_blocks(training: Training) -> Training:
    """The same training with its images as blocks on the device (`--training.cache bc1`)."""
    recipe = training.recipe
    return replace(training, recipe=replace(recipe, training=replace(recipe.training, cache="bc1")))


def _from_images(training: Training) -> Callable[[], None]:
    """`alexnet train` from the loader, or the images on the device, to the update."""
    device_cache = load_device_cache(training, lambda _: None)
    step = step_of(training, device_cache)
    phase = training.plan.phases[0]

    def batches() -> Iterator[Batch]:
        yield from loader_of(training, phase, device_cache is None).batches(0, 10**9)

    made = batches()
    done = 0

    def from_images() -> None:
        nonlocal done
        step.run(phase, next(made))
        done += 1
        if done % 10 == 0:
            step.sums()  # as often as a training asks

    return from_images


def _batch(training: Training) -> Batch:
    loader = loader_of(training, training.plan.phases[0])
    return loader.batch(0)


def _repeated(step: Callable[[], None], count: int, device: torch.device) -> Callable[[], None]:
    def repeated() -> None:
        for _ in range(count):
            step()
        wait_for(device)

    return repeated
