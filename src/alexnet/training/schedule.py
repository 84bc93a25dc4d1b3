"""The learning rates as a pure function of recipe, step and validation errors so far. Paper: section 5."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from alexnet.runs.recipe import Recipe, ScheduleSettings


@dataclass(frozen=True, kw_only=True)
class LearningRates:
    """The learning rate of every parameter at one step."""

    weights: float
    biases: float
    layers: Mapping[str, float] = field(default_factory=dict)
    """Of the weights of single layers, in place of `weights`; 0 freezes the layer, with its biases."""

    def of(self, parameter: str) -> float:
        """Learning rate of the parameter named `LAYER.weight` or `LAYER.bias`."""
        layer, _, kind = parameter.rpartition(".")
        if self.layers.get(layer) == 0:
            return 0.0
        return self.layers.get(layer, self.weights) if kind == "weight" else self.biases


def learning_rates_at(
    recipe: Recipe, step: int, num_steps: int, stage: int = 0, errors: Sequence[float] = ()
) -> LearningRates:
    """The learning rates of step `step` (0 is the first) of `num_steps`.

    Args:
        recipe: its schedule and optimizer settings are read.
        stage: `stages`: the one that the step is in.
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
        learning_rate = peak * _plateau_factor(done, schedule.num_plateaus, schedule.lr_range)
        biases = (
            peak * optimizer.bias_lr_factor * _plateau_factor(done, schedule.num_bias_plateaus, schedule.bias_lr_range)
        )
        return LearningRates(weights=learning_rate, biases=biases, layers=_by_layer(recipe, learning_rate))
    if schedule.kind == "steps":
        learning_rate = peak * schedule.gamma ** sum(done >= milestone for milestone in schedule.milestones)
    elif schedule.kind == "plateau":
        learning_rate = peak * schedule.gamma ** min(stalls(errors, schedule), schedule.plateau_drops)
    else:
        learning_rate = peak * _warmup_and_decay(schedule, (step + 0.5) / num_steps)
    biases = learning_rate * optimizer.bias_lr_factor
    return LearningRates(weights=learning_rate, biases=biases, layers=_by_layer(recipe, learning_rate))


def _by_layer(recipe: Recipe, learning_rate: float) -> dict[str, float]:
    return {name: learning_rate * factor for name, factor in recipe.optimizer.layer_lr_factors.items()}


def stalls(errors: Sequence[float], schedule: ScheduleSettings) -> int:
    """How many times the validation error has stopped improving.

    A stall is `patience` epochs in a row none of which brought the error `improvement` or more below the
    lowest that counted; an equal error is never an improvement. After a stall the count of epochs starts again, with
    that lowest error still to beat.
    """
    count, waited, lowest = 0, 0, math.inf
    for error in errors:
        # Errors are ratios of counts: rounding must not decide.
        if error <= lowest - schedule.improvement + 1e-12 and error < lowest - 1e-12:
            lowest, waited = error, 0
            continue
        waited += 1
        if waited == schedule.patience:
            count, waited = count + 1, 0
    return count


def ended(errors: Sequence[float], schedule: ScheduleSettings) -> bool:
    """Whether a `plateau` run is over: the error stalled once more than the learning rate may drop."""
    return schedule.kind == "plateau" and stalls(errors, schedule) > schedule.plateau_drops


def _plateau_factor(done: float, num_plateaus: int, lr_range: float) -> float:
    """1 on the first of `num_plateaus` parts of equal length, 1 / lr_range on the last, equal ratios between."""
    if num_plateaus == 1:
        return 1.0
    return float(lr_range ** (-min(int(done * num_plateaus), num_plateaus - 1) / (num_plateaus - 1)))


def _warmup_and_decay(schedule: ScheduleSettings, middle: float) -> float:
    """`one-cycle` and `cosine`, at the middle of a step, so that no step has a factor of 0."""
    if middle < schedule.warmup:
        return middle / schedule.warmup
    left = (1 - middle) / (1 - schedule.warmup)
    return left if schedule.kind == "one-cycle" else (1 - math.cos(math.pi * left)) / 2
