"""`alexnet bench step`: training steps of this package, of the paper's network in plain PyTorch and of torchvision's.

Every method makes the same update from random images: forward, backward, SGD with momentum. This package's method is
the step that `alexnet train` runs.
"""

import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from alexnet.bench.ceilings import compare_speeds
from alexnet.bench.fresh_process import in_fresh_process
from alexnet.bench.random_images import random_data
from alexnet.bench.reference_networks import paper_network, torchvision_network
from alexnet.bench.step_cost import ideal_step_s, meta_network, step_flops
from alexnet.bench.timing import require_counts, wait_for
from alexnet.data.augment import Batch
from alexnet.data.dataset import PreparedData
from alexnet.errors import RequestError
from alexnet.model.kernels import reference_ops
from alexnet.runs.recipe import OptimizerSettings, Recipe, ScheduleSettings, TrainingSettings
from alexnet.system.device import Precision, choose_device, choose_precision
from alexnet.system.machine import has_bfloat16, processor_flags
from alexnet.system.process_usage import anonymous_bytes, sampled_memory
from alexnet.training.batches import load_device_cache, make_loader
from alexnet.training.eager_step import EagerStep
from alexnet.training.graph_step import make_step
from alexnet.training.setup import TrainingSetup, build_setup

_logger = logging.getLogger(__name__)

NUM_CLASSES = 1000
STORED_PX = 256
STORED_BATCHES = 32
"""Batches of images in memory for the methods that load them: more than any cache holds."""
MEMORY_INTERVAL_S = 0.01
MOMENTUM, WEIGHT_DECAY, LEARNING_RATE = 0.9, 0.0005, 1e-4
SUMS_EVERY_STEPS = 10
"""The loading methods read losses as often as a training does."""


def measure_step(
    batch_size: int, steps: int, rounds: int, device_name: str, precision_name: str, only: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Measure all methods in alternation.

    Args:
        batch_size: images per step, 1 or more.
        steps: per measurement, 1 or more; on CPUs a method that takes over a second per step is measured over one.
        rounds: measurements of each method, 1 or more.
        device_name: see `choose_device`.
        precision_name: of this package's methods, see `choose_precision`.
        only: names of the methods to measure; empty means all.

    Returns:
        `methods`: by name images per second (median and best), fractions of the machine's ceilings, added memory.
        `speedups`: of `alexnet` over each method.

    Raises:
        RequestError: a number is below 1, a method is unknown, or the device does not exist.
    """
    require_counts(batch_size, steps, rounds)
    device = choose_device(device_name)
    precision = choose_precision(precision_name, device)
    torch.backends.cudnn.benchmark = True  # for all methods
    factories = _method_factories(batch_size, device, precision, STORED_BATCHES)
    if unknown := set(only) - set(factories):
        raise RequestError(
            f"unknown method {', '.join(sorted(unknown))}; allowed on this device: {'; '.join(factories)}"
        )
    methods: dict[str, Callable[[], None]] = {}
    steps_per_run: dict[str, int] = {}
    peak_bytes: dict[str, int | None] = {}
    for name, make in factories.items():
        if only and name not in only:
            continue
        if device.type == "cpu":
            _logger.info("%s: measuring memory in a new process", name)
            peak_bytes[name] = in_fresh_process(
                _added_memory, name, batch_size, precision, threads=torch.get_num_threads()
            )
        before_bytes = torch.cuda.memory_allocated() if device.type == "cuda" else 0
        step = make()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        step()  # compiles, captures and tries algorithms
        wait_for(device)
        start_s = time.perf_counter()
        step()
        wait_for(device)
        step_s = time.perf_counter() - start_s
        if device.type == "cuda":
            peak_bytes[name] = torch.cuda.max_memory_allocated() - before_bytes
        steps_per_run[name] = 1 if device.type == "cpu" and step_s > 1 else steps
        methods[name] = _repeated(step, steps_per_run[name], device)
        _logger.info("%s: %.3f s per step", name, step_s)
    num_images = {name: batch_size * count for name, count in steps_per_run.items()}
    flops = step_flops(meta_network())
    result = compare_speeds(methods, num_images, dict.fromkeys(methods, flops), "alexnet", rounds, device, precision)
    ideal_s = ideal_step_s(batch_size, 2 if precision == "bfloat16" else 4, result["ceilings"])
    for name, method in result["methods"].items():
        method["fraction_of_ideal"] = method["images_per_second"] * ideal_s
        method["peak_bytes"] = peak_bytes.get(name)
    return {
        "batch_size": batch_size,
        "steps": steps,
        "rounds": rounds,
        "flops_per_image": flops,
        "ideal_ms_per_image": 1e3 * ideal_s,
        **result,
    }


def _method_factories(
    batch_size: int, device: torch.device, precision: Precision, stored_batches: int
) -> Mapping[str, Callable[[], Callable[[], None]]]:
    """By name, a function that builds a method and returns its step.

    On a GPU each method has its own network, because its memory is measured in this process. On a CPU memory is
    measured in a new process, and this package's methods share one network: the bfloat16 copies of a method are out of
    date in its first step after another method's, which changes values but not times.
    """
    images = 50 * torch.randn(batch_size, 3, 224, 224, device=device)
    labels = torch.randint(0, NUM_CLASSES, (batch_size,), device=device)
    data = random_data(stored_batches * batch_size, STORED_PX, NUM_CLASSES)

    def plain(network: Callable[[], nn.Module], bfloat16: bool = False) -> Callable[[], Callable[[], None]]:
        return lambda: _plain_step(network(), images, labels, bfloat16=bfloat16)

    def new_setup() -> TrainingSetup:
        return _setup(data, batch_size, device, precision)

    setup = functools.cache(new_setup) if device.type == "cpu" else new_setup
    paper = functools.partial(paper_network, NUM_CLASSES)
    unnormalized = functools.partial(paper_network, NUM_CLASSES, normalized=False)
    torchvision = functools.partial(torchvision_network, NUM_CLASSES)
    factories: dict[str, Callable[[], Callable[[], None]]] = {
        "paper in plain PyTorch": plain(paper),
        "paper in plain PyTorch, bfloat16": plain(paper, bfloat16=True),
        "torchvision's network": plain(torchvision),
        "torchvision's network, bfloat16": plain(torchvision, bfloat16=True),
        "paper without normalization": plain(unnormalized),
        "paper without normalization, bfloat16": plain(unnormalized, bfloat16=True),
        "alexnet, reference operations": lambda: _product_step(setup(), reference_ops),
        "alexnet, reference convolutions": lambda: _product_step(
            setup(), lambda: reference_ops(convolutions_only=True)
        ),
        "alexnet": lambda: _product_step(setup()),
        "alexnet with loading": lambda: _loading_step(setup()),
        "alexnet with loading from BC1": lambda: _loading_step(_with_bc1_cache(setup())),
    }
    if device.type != "cpu" or precision != "float32":
        del factories["alexnet, reference convolutions"]  # the same as `alexnet`
    if device.type == "cpu":
        del factories["paper in plain PyTorch, bfloat16"]  # torch has no response normalization in bfloat16 on CPUs
        if not has_bfloat16(processor_flags()):
            factories = {name: make for name, make in factories.items() if not name.endswith("bfloat16")}
    return factories


def _added_memory(name: str, batch_size: int, precision: Precision) -> int | None:
    """Peak anonymous memory that building a method and two of its steps add to this process."""
    make = _method_factories(batch_size, torch.device("cpu"), precision, 2)[name]
    before = anonymous_bytes()
    if before is None:
        return None
    with sampled_memory(MEMORY_INTERVAL_S) as samples:
        step = make()
        step()
        step()
    return max(held for _, held in samples) - before


def _setup(data: PreparedData, batch_size: int, device: torch.device, precision: Precision) -> TrainingSetup:
    """A training of the paper's network on images in memory; nothing is written."""
    recipe = Recipe(
        name="bench",
        optimizer=OptimizerSettings(
            batch_size=batch_size, learning_rate=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
        ),
        schedule=ScheduleSettings(kind="steps", epochs=10**6),
        training=TrainingSettings(device=device.type, precision=precision, cache="auto"),  # type: ignore[arg-type]
    )
    return build_setup(data, recipe)


def _plain_step(
    network: nn.Module, images: torch.Tensor, labels: torch.Tensor, *, bfloat16: bool
) -> Callable[[], None]:
    """A training step as in PyTorch's tutorials; `bfloat16` adds autocast and channels-last memory."""
    device = images.device
    network.to(device)
    if bfloat16:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = images.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=torch.bfloat16) if bfloat16 else nullcontext():
            loss = F.cross_entropy(network(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _product_step(
    setup: TrainingSetup, operations: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Callable[[], None]:
    """The step of `alexnet train` on a batch in memory; with `reference_ops` it is not captured as a graph."""
    with operations():
        step = EagerStep(setup) if operations is reference_ops else make_step(setup)
    phase, learning_rates = setup.plan.phases[0], setup.plan.learning_rates(setup.recipe, 0)
    batch = make_loader(setup, phase).batch(0)
    if setup.device.type == "cuda" and operations is not reference_ops:
        batch = batch.map(lambda tensor: tensor.to(setup.device))

    def product_step() -> None:
        with operations():
            step.run(phase, batch, 0, learning_rates)

    return product_step


def _with_bc1_cache(setup: TrainingSetup) -> TrainingSetup:
    """The same training with its images on the device in BC1 (`--training.cache bc1`)."""
    recipe = setup.recipe
    return replace(setup, recipe=replace(recipe, training=replace(recipe.training, cache="bc1")))


def _loading_step(setup: TrainingSetup) -> Callable[[], None]:
    """The step of `alexnet train`, batches from the loader or the device cache included."""
    device_cache = load_device_cache(setup)
    step = make_step(setup, device_cache)
    phase, learning_rates = setup.plan.phases[0], setup.plan.learning_rates(setup.recipe, 0)

    def batches() -> Iterator[Batch]:
        yield from make_loader(setup, phase, device_cache is None).batches(0, 10**9)

    loaded = batches()
    done = 0

    def loading_step() -> None:
        nonlocal done
        step.run(phase, next(loaded), 0, learning_rates)
        done += 1
        if done % SUMS_EVERY_STEPS == 0:
            step.take_metrics()

    return loading_step


def _repeated(step: Callable[[], None], count: int, device: torch.device) -> Callable[[], None]:
    def repeated() -> None:
        for _ in range(count):
            step()
        wait_for(device)

    return repeated
