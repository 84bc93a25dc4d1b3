"""Whether training in bfloat16 learns as training in float32 does.

Trains for some steps in float32 with several seeds, and in bfloat16 with the first of them: same first weights, images,
crops and dropout. Compares the distance between the losses of the two precisions with the distances between seeds.

example: python benchmarks/precision.py data/mine --recipe paper --batch-size 64
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from itertools import combinations, zip_longest
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from alexnet.cli.command_parser import CommandParser
from alexnet.cli.tables import new_table
from alexnet.data.concatenated import open_data
from alexnet.data.dataset import PreparedData
from alexnet.errors import RequestError, WorkError
from alexnet.runs.recipe import Recipe, ScheduleSettings
from alexnet.runs.recipes import named_recipe
from alexnet.system.device import Precision, choose_device, choose_precision
from alexnet.system.machine import machine_summary, source_commit
from alexnet.training.batches import make_loader
from alexnet.training.graph_step import make_step
from alexnet.training.setup import build_setup
from alexnet.training.step import NotFiniteError
from script import logger, run_script

WINDOW = 10
"""Losses are averaged over this many steps before they are compared."""
_aten = torch.ops.aten
PRODUCTS = {
    _aten.convolution.default,
    _aten.convolution_backward.default,
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten.baddbmm.default,
}
"""Operations that are sums of products."""


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("data", type=Path, metavar="DATA", help="a prepared data set")
    parser.add_argument(
        "--recipe", metavar="NAME", default="paper", help="its network and first learning rates are used"
    )
    parser.add_argument("--steps", type=int, metavar="N", default=200, help="of each training")
    parser.add_argument("--batch-size", type=int, metavar="N", help="images per step (default: the recipe's)")
    parser.add_argument("--seeds", type=int, metavar="N", default=3, help="trainings in float32")
    parser.add_argument("--device", default="auto", metavar="NAME", help="device: auto, cpu, cuda, mps")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    return measure_precision(
        options.data, options.recipe, options.steps, options.batch_size, options.seeds, options.device
    )


def measure_precision(
    data_folder: Path, recipe_name: str, steps: int, batch_size: int | None, num_seeds: int, device_name: str
) -> dict[str, Any]:
    """Train for some steps in both precisions; nothing is written.

    Args:
        data_folder: a prepared data set.
        recipe_name: its network, data settings and first learning rates (of weights, biases and single layers) are
            used; of `one-cycle` and `cosine` schedules the maximum, without warmup. The learning rates stay constant.
        steps: of each training, a multiple of 10.
        batch_size: images per step, at most those of an epoch; None is the recipe's.
        num_seeds: trainings in float32, 2 or more.
        device_name: see `choose_device`.

    Returns:
        The losses, and root mean square differences of their means over ten steps: `distance` between the precisions
        with the first seed, `seed_distances` between each two seeds in float32. `within_seed_spread`: whether
        `distance` is at most the largest of `seed_distances`.

    Raises:
        RequestError: a number is out of range, or the recipe cannot be trained on the data set.
        WorkError: a float32 training diverges. If only the bfloat16 training does, its losses end there.
    """
    if steps < WINDOW or steps % WINDOW:
        raise RequestError(f"--steps is {steps}; allowed are multiples of {WINDOW}")
    if num_seeds < 2:
        raise RequestError(
            f"--seeds is {num_seeds}; allowed are 2 or more, because the spread of seeds is the yardstick"
        )
    if batch_size is not None and batch_size < 1:
        raise RequestError(f"--batch-size is {batch_size}; allowed is 1 or more")
    device = choose_device(device_name)
    has_bfloat16 = device.type != "cpu" or choose_precision("auto", device) == "bfloat16"
    emulated = None if has_bfloat16 else EmulatedBfloat16()
    recipe = _with_constant_learning_rates(named_recipe(recipe_name))
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
        with emulated if emulated and precision == "bfloat16" else nullcontext():
            runs[name] = _losses(data, recipe, steps, precision, seed, name)  # type: ignore[arg-type]
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
        "bfloat16": "emulated" if emulated else "native",
        "emulated_operations": emulated.num_emulated if emulated else 0,
        "losses": runs,
        "seconds": seconds,
        "mean_losses": means,
        "distance": distance,
        "seed_distances": seed_distances,
        "within_seed_spread": distance is not None and distance <= max(seed_distances.values()),
        "machine": machine_summary(),
        "commit": source_commit(),
    }


def _with_constant_learning_rates(recipe: Recipe) -> Recipe:
    """The recipe with its first learning rates, for any number of steps."""
    if recipe.schedule.stages:
        first = replace(recipe.schedule.stages[0], epochs=10**6)
        return replace(recipe, schedule=replace(recipe.schedule, stages=(first,)))
    return replace(recipe, schedule=ScheduleSettings(kind="steps", epochs=10**6))


def _losses(data: PreparedData, recipe: Recipe, steps: int, precision: Precision, seed: int, name: str) -> list[float]:
    """The loss of each step of a training; in bfloat16 until it diverges."""
    recipe = replace(recipe, training=replace(recipe.training, precision=precision, seed=seed))
    losses: list[float] = []
    setup = build_setup(data, recipe)
    phase, learning_rates = setup.plan.phases[0], setup.plan.learning_rates(recipe, 0)
    if recipe.optimizer.batch_size > phase.num_images:
        raise RequestError(
            f"--batch-size is {recipe.optimizer.batch_size}, and an epoch of {recipe.name} has {phase.num_images} "
            f"images; allowed is {phase.num_images} or less"
        )
    setup.network.train()
    step = make_step(setup)
    with closing(make_loader(setup, phase).batches(0, steps)) as batches:
        for number, batch in enumerate(batches):
            try:
                step.run(phase, batch, number, learning_rates)
                metrics = step.take_metrics()
            except NotFiniteError as error:
                if precision == "float32":
                    text = f"{name}: a loss or gradient of step {number} is not finite; nothing was compared"
                    raise WorkError(text) from error
                logger.warning("%s: a loss or gradient of step %d is not finite", name, number)
                break
            losses.append(metrics.means()["loss"])
            if len(losses) % WINDOW == 0:
                loss = statistics.mean(losses[-WINDOW:])
                logger.info("%s: step %d of %d, loss %.3f", name, len(losses), steps, loss)
    return losses


def _window_means(losses: Sequence[float]) -> list[float]:
    return [statistics.mean(losses[first : first + WINDOW]) for first in range(0, len(losses) - WINDOW + 1, WINDOW)]


def _distance(one: Sequence[float], other: Sequence[float]) -> float:
    """Root mean square difference."""
    return math.sqrt(statistics.mean((a - b) ** 2 for a, b in zip(one, other, strict=True)))


class EmulatedBfloat16(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it, sums of products of bfloat16 tensors on CPUs are computed in float32 and rounded to bfloat16.

    The numbers are those of bfloat16 hardware: float32 holds the product of two 8-bit factors exactly, and the hardware
    also adds in float32 and rounds once. It is as fast as float32; torch's own bfloat16 operations take fifty times as
    long on CPUs without bfloat16 hardware.

    Attributes:
        num_emulated: operations computed in this way.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_emulated = 0

    @classmethod
    def is_infra_mode(cls) -> bool:
        """Yes: it stands for the hardware and observes nothing, so the network runs its fused operations."""
        return True

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func not in PRODUCTS or not any(_is_bfloat16(one) for one in args):
            return func(*args, **(kwargs or {}))
        self.num_emulated += 1
        return tree_map(_to_bfloat16, func(*(_to_float32(one) for one in args), **(kwargs or {})))


def _is_bfloat16(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16 and value.device.type == "cpu"


def _to_float32(value: Any) -> Any:
    return value.float() if _is_bfloat16(value) else value


def _to_bfloat16(value: Any) -> Any:
    return value.bfloat16() if isinstance(value, torch.Tensor) and value.dtype == torch.float32 else value


def print_table(result: Mapping[str, Any]) -> None:
    console = Console()
    table = new_table(f"mean loss over {WINDOW} steps, {result['recipe']}", "step", list(result["losses"]))
    for window, losses in enumerate(zip_longest(*result["mean_losses"].values()), 1):
        table.add_row(f"{WINDOW * window}", *("diverged" if loss is None else f"{loss:.3f}" for loss in losses))
    console.print(table)
    seeds = ", ".join(f"{pair}: {distance:.4f}" for pair, distance in result["seed_distances"].items())
    distance = "the training diverged" if result["distance"] is None else f"{result['distance']:.4f}"
    verdict = "within" if result["within_seed_spread"] else "NOT within"
    console.print(
        f"distance between bfloat16 and float32, seed 0: {distance}; between seeds in float32: {seeds} (root mean "
        f"square differences of the rows); {verdict} the spread of seeds",
        highlight=False,
    )
    console.print(
        f"batches of {result['batch_size']}, learning rate {result['learning_rate']:g}, {result['device']}, "
        f"{result['bfloat16']} bfloat16",
        highlight=False,
    )


def main(words: Sequence[str] | None = None) -> int:
    return run_script(__doc__, add_arguments, measure, print_table, words)


if __name__ == "__main__":
    raise SystemExit(main())
