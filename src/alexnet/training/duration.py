"""How long the rest of a training takes, from the speed of its first steps."""

import math
import statistics
from dataclasses import dataclass

from alexnet.training.setup import TrainingSetup
from alexnet.training.state import TrainingState

MEASURED_S = 5.0
"""Seconds of steps that an estimate is made from, unless these are a twentieth of the training before."""
SHORT_S = 10.0
"""What takes less is not worth a line."""
FORWARD_SHARE = 1 / 3
"""Of the time of a step: backward computes two products for each one of forward."""


@dataclass(frozen=True)
class Estimate:
    """The rest of a training; all in seconds."""

    step_s: float
    """A step, data included."""
    steps_s: float
    """The steps left."""
    validation_s: float
    """The validations left."""

    @property
    def remaining_s(self) -> float:
        """All that is left, without checkpoints."""
        return self.steps_s + self.validation_s


class FirstSteps:
    """Measures steps from the second group on: the first one compiles, loads libraries and fills caches."""

    def __init__(self) -> None:
        self._groups: list[tuple[float, int]] | None = None  # seconds, steps
        self._is_done = False

    def add(self, setup: TrainingSetup, state: TrainingState, seconds: float, steps: int) -> Estimate | None:
        """Note that consecutive steps are done; the estimate once, as soon as it is possible and worth it.

        Args:
            seconds: of these steps, data included, without validation and checkpoints.
            steps: their number.
        """
        if self._is_done:
            return None
        if self._groups is None:
            self._groups = []
            return None
        self._groups.append((seconds, steps))
        measured_s = sum(seconds for seconds, _ in self._groups)
        if measured_s < MEASURED_S and sum(steps for _, steps in self._groups) < setup.plan.num_steps / 20:
            return None
        self._is_done = True
        estimate = estimate_rest(setup, state, statistics.median(seconds / steps for seconds, steps in self._groups))
        return estimate if estimate.remaining_s >= SHORT_S else None


def estimate_rest(setup: TrainingSetup, state: TrainingState, step_s: float) -> Estimate:
    """The rest of a training whose steps take `step_s` seconds.

    A `plateau` schedule may end before.
    """
    plan, data = setup.plan, setup.data
    validation_s = 0.0
    if data.has_evaluation_split:
        epochs = plan.num_epochs - plan.epochs_at(state.step)
        validations = math.ceil(epochs / setup.recipe.training.evaluate_every - 1e-9)
        images = len(data.splits[data.evaluation_split])
        validation_s = validations * images * FORWARD_SHARE * step_s / setup.recipe.optimizer.batch_size
    return Estimate(step_s, (plan.num_steps - state.step) * step_s, validation_s)
