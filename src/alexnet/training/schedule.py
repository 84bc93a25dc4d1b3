"""The learning rates as a pure function of recipe, step and validation errors so far. Paper: section 5."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from alexnet.runs.recipe import Recipe, ScheduleSettings


@dataclass(frozen=True, kw_only=True)
class LearningRates:
    """The rate of every parameter at one step."""

    weights: float
    biases: float
    layers: Mapping[str, float] = field(default_factory=dict)
    """Of the weights of single layers, in place of `weights`; 0 freezes the layer, biases too."""

    def of(self, parameter: str) -> float:
        """Rate of the parameter named `LAYER.weight` or `LAYER.bias`."""
        layer, _, kind = parameter.rpartition(".")
        if self.layers.get(layer) == 0:
            return 0.0
        return self.layers.get(layer, self.weights) if kind == "weight" else self.biases


def learning_rates_at(
    recipe: Recipe, step: int, num_steps: int, stage: int = 0, errors: Sequence[float] = ()
) -> LearningRates:
    """The rates of step `step` (0 is the first) of `num_steps`.

    Args:
        recipe: its schedule and its optimizer are read.
        stage: `stages`: which one the step stands in.
        errors: `plateau`: top-1 error on the validation images after each epoch so far, fractions.
    """
    schedule, optimizer = recipe.schedule, recipe.optimizer
    if schedule.kind == "stages":
        now = schedule.stages[stage]
        return LearningRates(
            weights=now.learning_rate,
            biases=now.learning_rate if now.bias_learning_rate is None else now.bias_learning_rate,
            layers=now.layer_learning_rates,
        )
    peak, done = optimizer.learning_rate, step / num_steps
    if schedule.kind == "geometric":
        rate = peak * _plateau_factor(done, schedule.num_plateaus, schedule.lr_range)
        biases = (
            peak * optimizer.bias_lr_factor * _plateau_factor(done, schedule.num_bias_plateaus, schedule.bias_lr_range)
        )
        return LearningRates(weights=rate, biases=biases, layers=_by_layer(recipe, rate))
    if schedule.kind == "steps":
        rate = peak * schedule.gamma ** sum(done >= drop for drop in schedule.milestones)
    elif schedule.kind == "plateau":
        rate = peak * schedule.gamma ** min(stalls(errors, schedule), schedule.plateau_drops)
    else:
        rate = peak * _up_and_down(schedule, (step + 0.5) / num_steps)
    return LearningRates(weights=rate, biases=rate * optimizer.bias_lr_factor, layers=_by_layer(recipe, rate))


def _by_layer(recipe: Recipe, rate: float) -> dict[str, float]:
    return {name: rate * factor for name, factor in recipe.optimizer.layer_lr_factors.items()}


def stalls(errors: Sequence[float], schedule: ScheduleSettings) -> int:
    """How many times the validation error has stopped improving.

    A stall is `patience` epochs in a row none of which brought the error `improvement` or more below the
    lowest that counted. After a stall the waiting starts anew, with that lowest error still to beat.
    """
    count, waited, lowest = 0, 0, math.inf
    for error in errors:
        # Errors are counts over counts: a hair's breadth of rounding must not decide.
        if error <= lowest - schedule.improvement + 1e-12:
            lowest, waited = error, 0
            continue
        waited += 1
        if waited == schedule.patience:
            count, waited = count + 1, 0
    return count


def ended(errors: Sequence[float], schedule: ScheduleSettings) -> bool:
    """Whether a `plateau` run is over: the error stalled once more than the rate may drop."""
    return schedule.kind == "plateau" and stalls(errors, schedule) > schedule.plateau_drops


def _plateau_factor(done: float, plateaus: int, fall: float) -> float:
    """1 on the first of `plateaus` phases of equal length, 1 / fall on the last, equal ratios between."""
    if plateaus == 1:
        return 1.0
    return float(fall ** (-min(int(done * plateaus), plateaus - 1) / (plateaus - 1)))


def _up_and_down(schedule: ScheduleSettings, middle: float) -> float:
    """`one-cycle` and `cosine`, at the middle of a step: the first step already moves, the last still does."""
    if middle < schedule.warmup:
        return middle / schedule.warmup
    left = (1 - middle) / (1 - schedule.warmup)
    return left if schedule.kind == "one-cycle" else (1 - math.cos(math.pi * left)) / 2
