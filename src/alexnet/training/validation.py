"""Evaluation on the validation images, and what follows from the error: a new lowest, a stall, the end."""

import math
from contextlib import AbstractContextManager, nullcontext

from alexnet.evaluation.evaluate import Evaluation, evaluate_split
from alexnet.system.device import EVALUATION_BATCH_SIZE
from alexnet.training.schedule import ended, stalls
from alexnet.training.setup import TrainingSetup
from alexnet.training.state import TrainingState


def is_validation_due(setup: TrainingSetup, state: TrainingState) -> bool:
    """Whether the epoch that ends after the state's step is to be validated: never without validation images."""
    if not setup.data.has_evaluation_split:
        return False
    every = setup.recipe.training.evaluate_every
    return setup.plan.epoch_number(state.step) % every == 0 or state.step == setup.plan.num_steps


def validate(setup: TrainingSetup) -> Evaluation:
    """Evaluate the weights that would be saved on the validation split; all processes call it together."""
    with averaged_weights(setup):
        evaluation = evaluate_split(
            setup.network,
            setup.data,
            setup.data.evaluation_split,
            setup.recipe.data.crop,
            1,
            mean_at=setup.recipe.data.mean,
            batch_size=EVALUATION_BATCH_SIZE,
            device=setup.device,
            precision=setup.precision,
            processes=setup.mesh.replica,
        )
    setup.network.train()
    return evaluation


def averaged_weights(setup: TrainingSetup) -> AbstractContextManager[None]:
    """Give the network the weights to evaluate and save, while the context is open: the averaged ones, if any."""
    return nullcontext() if setup.ema is None else setup.ema.in_place()


def record_validation_error(setup: TrainingSetup, state: TrainingState, top1_error: float) -> tuple[bool, str]:
    """Add a validation error to the state.

    Returns:
        Whether it is the lowest so far, and what follows if a `plateau` schedule has stalled with it, else "".
    """
    schedule = setup.recipe.schedule
    lowest = top1_error < min(state.validation_errors, default=math.inf)
    before = stalls(state.validation_errors, schedule)
    state.validation_errors.append(top1_error)
    state.last_validation_step = state.step
    if schedule.kind != "plateau" or stalls(state.validation_errors, schedule) == before:
        return lowest, ""
    if ended(state.validation_errors, schedule):
        return lowest, "training ends"
    return lowest, f"learning rate times {schedule.gamma:g}"


def is_finished(setup: TrainingSetup, state: TrainingState) -> bool:
    """Whether the last step is done, or the validation error has stalled for the last time."""
    return state.step == setup.plan.num_steps or ended(state.validation_errors, setup.recipe.schedule)
