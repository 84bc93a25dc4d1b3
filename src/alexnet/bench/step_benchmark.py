"""`alexnet bench step`: training steps of this package, and of the same layers in plain PyTorch.

Every method makes the same update from random images: forward, backward, SGD with momentum. This package's method is
the step that `alexnet train --optimizer.kind sgd` runs. The paper's network is also compared with torchvision's;
`--recipe` measures another recipe's network, with its batch size.
"""

import logging
import math
import time
from collections.abc import Callable
from typing import Any

import torch

from alexnet.bench.ceilings import compare_speeds
from alexnet.bench.company import busy_processes
from alexnet.bench.fresh_process import in_fresh_process
from alexnet.bench.step_cost import ideal_step_s, meta_network, step_flops
from alexnet.bench.step_methods import measured_recipe, method_factories, num_classes
from alexnet.bench.timing import require_counts, wait_for
from alexnet.errors import RequestError
from alexnet.runs.recipe import Recipe
from alexnet.runs.recipes import named_recipe, side_for_crop
from alexnet.system.device import Precision, choose_device, choose_precision
from alexnet.system.process_usage import anonymous_bytes, sampled_memory

_logger = logging.getLogger(__name__)

STORED_BATCHES, STORED_BYTES = 32, 150_000_000
"""Images in memory for the methods that load them, the more of both: no cache holds them. 150 MB are those of CIFAR-10.
"""
SECONDS = 1.0
"""Of a measurement, if the number of steps is not given."""
MEMORY_INTERVAL_S = 0.01
PAPER_BATCH_SIZE, PAPER_STEPS = 128, 4


def measure_step(
    batch_size: int | None,
    steps: int | None,
    rounds: int,
    device_name: str,
    precision_name: str,
    only: tuple[str, ...] = (),
    recipe_name: str | None = None,
    busy: int = 0,
) -> dict[str, Any]:
    """Measure all methods in alternation.

    Args:
        batch_size: images per step, 1 or more; None is the recipe's, without a recipe 128.
        steps: per measurement, 1 or more; on CPUs a method that takes over a second per step is measured over one.
            None is 4, with a recipe as many as take a second.
        rounds: measurements of each method, 1 or more.
        device_name: see `choose_device`.
        precision_name: of this package's methods, see `choose_precision`.
        only: names of the methods to measure; empty means all.
        recipe_name: whose network, batch size and update to measure; None is the paper's network, compared with
            torchvision's too.
        busy: other processes that compute during the measurements, 0 or more.

    Returns:
        `methods`: by name images per second (median and best), fractions of the machine's ceilings, added memory, on
        CPUs also processor time, which company on the machine disturbs less than wall time.
        `speedups`: of `alexnet` over each method.

    Raises:
        RequestError: a number is too small, a method or recipe is unknown, or the device does not exist.
    """
    recipe = None if recipe_name is None else named_recipe(recipe_name)
    if batch_size is None:
        batch_size = PAPER_BATCH_SIZE if recipe is None else recipe.optimizer.batch_size
    if steps is None and recipe is None:
        steps = PAPER_STEPS
    require_counts(batch_size, 1 if steps is None else steps, rounds)
    if busy < 0:
        raise RequestError(f"--busy is {busy}; allowed is 0 or more")
    device = choose_device(device_name)
    precision = choose_precision(precision_name, device)
    torch.backends.cudnn.benchmark = True  # for all methods
    measured = measured_recipe(recipe, batch_size, device, precision)
    num_stored = max(STORED_BATCHES * batch_size, STORED_BYTES // (3 * side_for_crop(measured.data.crop) ** 2))
    factories = method_factories(measured, device, precision, num_stored, with_torchvision=recipe is None)
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
                _added_memory, name, measured, precision, recipe is None, threads=torch.get_num_threads()
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
        count = max(1, math.ceil(SECONDS / step_s)) if steps is None else steps
        steps_per_run[name] = 1 if device.type == "cpu" and step_s > 1 else count
        methods[name] = _repeated(step, steps_per_run[name], device)
        _logger.info("%s: %.3f s per step", name, step_s)
    num_images = {name: batch_size * count for name, count in steps_per_run.items()}
    network = meta_network(measured.network.variant, measured.network.width, num_classes(measured))
    flops = step_flops(network)
    with busy_processes(busy):
        result = compare_speeds(
            methods, num_images, dict.fromkeys(methods, flops), "alexnet", rounds, device, precision
        )
    element_bytes = 2 if precision == "bfloat16" else 4
    ideal_s = ideal_step_s(network, batch_size, element_bytes, result["ceilings"])
    if device.type == "cpu":
        ideal_core_s = ideal_step_s(network, batch_size, element_bytes, result["core_ceilings"])
    for name, method in result["methods"].items():
        method["fraction_of_ideal"] = method["images_per_second"] * ideal_s
        method["peak_bytes"] = peak_bytes.get(name)
        if device.type == "cpu":
            method["fraction_of_ideal_core"] = 1e3 * ideal_core_s / method["core_ms_per_image"]
    return {
        "recipe": recipe_name,
        "busy": busy,
        "batch_size": batch_size,
        "steps": steps,
        "rounds": rounds,
        "flops_per_image": flops,
        "ideal_ms_per_image": 1e3 * ideal_s,
        **result,
    }


def _added_memory(name: str, recipe: Recipe, precision: Precision, with_torchvision: bool) -> int | None:
    """Peak anonymous memory that building a method and two of its steps add to this process."""
    num_stored = 2 * recipe.optimizer.batch_size
    factories = method_factories(recipe, torch.device("cpu"), precision, num_stored, with_torchvision=with_torchvision)
    before = anonymous_bytes()
    if before is None:
        return None
    with sampled_memory(MEMORY_INTERVAL_S) as samples:
        step = factories[name]()
        step()
        step()
    return max(held for _, held in samples) - before


def _repeated(step: Callable[[], None], count: int, device: torch.device) -> Callable[[], None]:
    def repeated() -> None:
        for _ in range(count):
            step()
        wait_for(device)

    return repeated
