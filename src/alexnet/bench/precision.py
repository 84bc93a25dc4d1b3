"""`alexnet bench precision`: whether a training in bfloat16 learns as one in float32 does.

Some steps of a recipe are taken in float32 with several seeds, and in bfloat16 with the first of them: the same first
weights, images, crops and dropout. How far the two of one seed are apart is set beside how far the seeds are.
"""

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from alexnet.bench.rounded import RoundedProducts
from alexnet.data.concatenated import open_data
from alexnet.data.dataset import PreparedData
from alexnet.errors import RequestError, WorkError
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipe import Recipe, ScheduleSettings
from alexnet.runs.recipes import named_recipe
from alexnet.system.device import Precision, choose_device, choose_precision
from alexnet.system.machine import machine_facts, source_commit
from alexnet.training.graph_step import step_of
from alexnet.training.setup import assemble, loader_of

WINDOW = 10
"""Losses are averaged over so many steps before they are compared."""


def bench_precision(
    data_folder: Path,
    recipe_name: str,
    steps: int,
    batch_size: int | None,
    num_seeds: int,
    device_name: str,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Train for some steps in both kinds of arithmetic; nothing is written.

    Args:
        data_folder: a prepared data set.
        recipe_name: whose network, data settings and first rates are taken, of weights, biases and single layers; of a
            curve (`one-cycle`, `cosine`) its greatest rate, without the way up to it. The rates stay what they are.
        steps: of each training, a multiple of 10.
        batch_size: images a step, at most those of a pass; None is the recipe's.
        num_seeds: trainings in float32, 2 or more.
        device_name: see `choose_device`.
        report: is given lines for people.

    Returns:
        The losses, and root mean square differences of their means over ten steps: `distance` between the two trainings
        of the first seed, `seed_distances` between every two seeds in float32. `tracks` says whether the first is no
        more than the greatest of the others.

    Raises:
        RequestError: a number is out of range, or the data set cannot serve the recipe.
        WorkError: a training in float32 diverges; one that does in bfloat16 alone is a finding: its losses end there.
    """
    if steps < WINDOW or steps % WINDOW:
        raise RequestError(f"--steps is {steps}; allowed are multiples of {WINDOW}")
    if num_seeds < 2:
        raise RequestError(f"--seeds is {num_seeds}; allowed are 2 or more: their spread is what is compared with")
    if batch_size is not None and batch_size < 1:
        raise RequestError(f"--batch-size is {batch_size}; allowed is 1 or more")
    device = choose_device(device_name)
    has_half = device.type != "cpu" or choose_precision("auto", device) == "bfloat16"
    rounded = None if has_half else RoundedProducts()
    recipe = _at_first_rates(named_recipe(recipe_name))
    recipe = replace(
        recipe,
        optimizer=replace(recipe.optimizer, batch_size=batch_size or recipe.optimizer.batch_size),
        training=replace(recipe.training, device=device.type),  # type: ignore[arg-type]
    )
    data = open_data([data_folder])
    runs: dict[str, list[float]] = {}
    seconds: dict[str, float] = {}
    for name, precision, seed in (
        *((f"float32, seed {seed}", "float32", seed) for seed in range(num_seeds)),
        ("bfloat16, seed 0", "bfloat16", 0),
    ):
        start_s = time.perf_counter()
        with rounded if rounded and precision == "bfloat16" else nullcontext():
            runs[name] = _losses(data, recipe, steps, precision, seed, report, name)  # type: ignore[arg-type]
        seconds[name] = time.perf_counter() - start_s
    means = {name: _window_means(losses) for name, losses in runs.items()}
    whole = list(means.values())[:num_seeds]
    seed_distances = {
        f"{one} and {other}": _distance(whole[one], whole[other]) for one, other in combinations(range(num_seeds), 2)
    }
    diverged = len(runs["bfloat16, seed 0"]) < steps
    distance = None if diverged else _distance(whole[0], means["bfloat16, seed 0"])
    return {
        "recipe": recipe_name,
        "steps": steps,
        "batch_size": recipe.optimizer.batch_size,
        "learning_rate": recipe.schedule.stages[0].learning_rate
        if recipe.schedule.stages
        else recipe.optimizer.learning_rate,
        "device": device.type,
        "products": "float32 ones, rounded" if rounded else "the hardware's",
        "rounded_operations": rounded.num_widened if rounded else 0,
        "losses": runs,
        "seconds": seconds,
        "mean_losses": means,
        "distance": distance,
        "seed_distances": seed_distances,
        "tracks": distance is not None and distance <= max(seed_distances.values()),
        "machine": machine_facts(),
        "commit": source_commit(),
    }


def _at_first_rates(recipe: Recipe) -> Recipe:
    """The recipe as it begins, for as long as one likes."""
    if recipe.schedule.stages:
        first = replace(recipe.schedule.stages[0], epochs=10**6)
        return replace(recipe, schedule=replace(recipe.schedule, stages=(first,)))
    return replace(recipe, schedule=ScheduleSettings(kind="steps", epochs=10**6))


def _losses(
    data: PreparedData,
    recipe: Recipe,
    steps: int,
    precision: Precision,
    seed: int,
    report: Callable[[str], None],
    name: str,
) -> list[float]:
    """The loss of each step of a training that is not kept; in bfloat16 those before it diverges."""
    recipe = replace(recipe, training=replace(recipe.training, precision=precision, seed=seed))
    losses: list[float] = []
    # A training that diverges keeps its weights for whoever looks into them: here nobody does.
    with tempfile.TemporaryDirectory(prefix="alexnet-bench-") as folder:
        training = assemble(RunFolder(Path(folder)), data, recipe)
        phase = training.plan.phases[0]
        if recipe.optimizer.batch_size > phase.num_images:
            raise RequestError(
                f"--batch-size is {recipe.optimizer.batch_size} and a pass of {recipe.name} has {phase.num_images} "
                "images; allowed are as many at most"
            )
        training.network.train()
        step = step_of(training)
        with closing(loader_of(training, phase).batches(0, steps)) as batches:
            for batch in batches:
                try:
                    step.run(phase, batch)
                    training.step += 1
                    sums = step.sums()
                except WorkError as error:
                    if precision == "float32":
                        text = f"{name}: a loss or gradient of step {len(losses)} is not finite; nothing is compared"
                        raise WorkError(text) from error
                    report(f"{name}: a loss or gradient of step {len(losses)} is not finite")
                    break
                losses.append(sums.loss / sums.num)
                if training.step % WINDOW == 0:
                    report(f"{name}: step {training.step} of {steps}, loss {statistics.mean(losses[-WINDOW:]):.3f}")
    return losses


def _window_means(losses: Sequence[float]) -> list[float]:
    return [statistics.mean(losses[first : first + WINDOW]) for first in range(0, len(losses) - WINDOW + 1, WINDOW)]


def _distance(one: Sequence[float], other: Sequence[float]) -> float:
    """Root mean square difference."""
    return math.sqrt(statistics.mean((a - b) ** 2 for a, b in zip(one, other, strict=True)))
