"""Events in the run folder, log lines and progress of a training. Nothing is decided here."""

import logging
import math
from collections.abc import Mapping

import numpy as np
import torch

from alexnet.evaluation.evaluate import Evaluation
from alexnet.runs.folder import RunFolder
from alexnet.system.number_text import duration_text
from alexnet.system.process_usage import resident_bytes
from alexnet.system.progress import ProgressBar
from alexnet.training.batch_metrics import format_metrics
from alexnet.training.duration import FirstSteps
from alexnet.training.schedule import LearningRates
from alexnet.training.setup import TrainingSetup
from alexnet.training.state import TrainingState

# A loss below this fraction of ln K is better than guessing.
LEFT_CHANCE = 0.95
# Fewer steps do not show whether a network learns.
FEWEST_STEPS = 100
# A loss of this many times ln K is far worse than guessing.
EXPLODING = 4.0

_logger = logging.getLogger(__name__)


class TrainingLog:
    """Writes the events of one training.

    Args:
        run: events go there.
        setup: of the training.
        state: read for the step and the metrics of each event; not changed.
        progress: shows the metrics.
    """

    def __init__(self, run: RunFolder, setup: TrainingSetup, state: TrainingState, progress: ProgressBar) -> None:
        self._run, self._setup, self._state, self._progress = run, setup, state, progress
        self._chance_loss = math.log(setup.data.num_classes)
        labels = setup.data.splits["train"].labels[setup.samples]
        self._chance_error = 1 - float(np.bincount(labels).max()) / len(labels)
        self._left_chance = any(event["event"] == "left_chance" for event in run.events())
        self._reported_lost_events = False
        self._first_steps, self._logged_step = FirstSteps(), state.step

    def steps(self, learning_rates: LearningRates) -> None:
        """The metrics since the last such event, with the learning rates of the last step."""
        state = self._state
        means = state.since_log.means()
        loss = means["loss"]
        epoch = self._setup.plan.epochs_at(state.step)
        seconds = max(1e-9, state.trained_s - state.since_log_s)
        images_per_second = state.since_log.num / seconds
        self._run.log(
            "step",
            step=state.step,
            epoch=round(epoch, 4),
            **_rounded(means),
            learning_rate=learning_rates.weights,
            bias_learning_rate=learning_rates.biases,
            layer_learning_rates=dict(learning_rates.layers),
            images_per_second=round(images_per_second, 1),
            wait_share=round(state.waited_s / seconds, 5),
            elapsed_s=round(state.trained_s, 3),
            **memory_in_use(self._setup.device),
        )
        plan = self._setup.plan
        status = f"epoch {epoch:.1f}/{plan.num_epochs:g}, training {format_metrics(means)}"
        self._progress.update(state.step, plan.num_steps, f"{status}, {images_per_second:,.0f} images/s")
        self._estimate(seconds)
        if not self._left_chance and loss < LEFT_CHANCE * self._chance_loss:
            self._left_chance = True
            self._run.log("left_chance", step=state.step, loss=round(loss, 6))
            _logger.info(
                f"step {state.step}: the loss has fallen below ln {self._setup.data.num_classes}, "
                "the network is learning"
            )
        if loss > EXPLODING * self._chance_loss:
            self._run.log("exploding", step=state.step, loss=round(loss, 6))
            _logger.warning(
                f"step {state.step}: the loss is {loss:.3g}, far above that of guessing: the training explodes; "
                "a lower learning rate usually helps"
            )
        if self._run.lost_events and not self._reported_lost_events:
            self._reported_lost_events = True
            _logger.warning(f"the disk of {self._run.path} is full: the log loses events; the training continues")

    def _estimate(self, seconds: float) -> None:
        """How long the training takes, once, from steps of which the last ones took `seconds`."""
        state, schedule = self._state, self._setup.recipe.schedule
        steps, self._logged_step = state.step - self._logged_step, state.step
        estimate = self._first_steps.add(self._setup, state, seconds, steps)
        if estimate is None:
            return
        self._run.log(
            "estimate",
            step=state.step,
            step_s=float(f"{estimate.step_s:.6g}"),
            remaining_steps_s=round(estimate.steps_s, 1),
            remaining_validation_s=round(estimate.validation_s, 1),
        )
        validation = f", {about(estimate.validation_s)} of it for validation" if estimate.validation_s >= 1 else ""
        bound = "at most" if schedule.kind == "plateau" else "about"
        _logger.info(
            f"step {state.step}: the rest of the training takes {bound} {about(estimate.remaining_s)} on this machine"
            f"{validation} (measured: {self._setup.recipe.optimizer.batch_size / estimate.step_s:,.0f} images/s)"
        )

    def epoch(self) -> None:
        """The training metrics of the epoch that ends."""
        state = self._state
        epoch = self._setup.plan.epoch_number(state.step)
        means = state.since_epoch.means()
        self._run.log(
            "epoch",
            epoch=epoch,
            step=state.step,
            **{f"train_{name}": value for name, value in _rounded(means).items()},
            elapsed_s=round(state.trained_s, 3),
        )
        if self._is_guessing(means):
            self._run.log("at_chance", step=state.step, epoch=epoch, loss=round(means["loss"], 6))
            verdict = "has lost what it had learned" if self._left_chance else "has learned nothing yet"
            _logger.warning(
                f"epoch {epoch}: the loss was {means['loss']:.3f} over the whole epoch, and guessing gives "
                f"{self._chance_loss:.3f}: the network {verdict}"
            )
        if not self._setup.data.has_evaluation_split:  # or the line of the validation says it
            _logger.info(f"epoch {epoch}: training {format_metrics(means)}")

    def _is_guessing(self, means: Mapping[str, float]) -> bool:
        """Whether an epoch of enough steps, after any warmup, was no better than always naming the largest class."""
        state, schedule = self._state, self._setup.recipe.schedule
        warmup = schedule.warmup * self._setup.plan.num_steps if schedule.kind in ("one-cycle", "cosine") else 0
        if state.step < max(FEWEST_STEPS, warmup) or means["loss"] <= LEFT_CHANCE * self._chance_loss:
            return False
        deviation = math.sqrt(self._chance_error * (1 - self._chance_error) / state.since_epoch.num)
        return means["top1_error"] > self._chance_error - 3 * deviation

    def validation(self, evaluation: Evaluation) -> None:
        """The errors on the validation images, after the epoch's training metrics."""
        state = self._state
        epoch = self._setup.plan.epoch_number(state.step)
        self._run.log(
            "validation",
            epoch=epoch,
            step=state.step,
            split=evaluation.split,
            top1_error=evaluation.top1_error,
            top5_error=evaluation.top5_error,
            loss=evaluation.loss,
            num_images=evaluation.num_images,
        )
        _logger.info(
            f"epoch {epoch}: training {format_metrics(state.since_epoch.means())}; {evaluation.split} "
            f"{format_metrics({'loss': evaluation.loss, 'top1_error': evaluation.top1_error})}"
        )

    def stall(self, consequence: str) -> None:
        """The validation error has stalled on a `plateau` schedule."""
        self._run.log("stall", step=self._state.step, then=consequence)
        patience = self._setup.recipe.schedule.patience
        _logger.info(f"the validation error has not improved for {patience} epochs: {consequence}")

    def unreadable(self, sample: int, reason: str) -> None:
        """A training image could not be read and was replaced; the state counts it already."""
        num = len(self._state.unreadable)
        self._run.log("unreadable", step=self._state.step, sample=sample, reason=reason, num_unreadable=num)
        _logger.warning(f"step {self._state.step}: {reason}; the next image is used in its place ({num} so far)")

    def checkpoint_failed(self, error: OSError) -> None:
        """A checkpoint could not be written; the training continues."""
        reason = error.strerror or str(error)
        self._run.log("checkpoint_failed", step=self._state.step, reason=reason)
        _logger.warning(
            f"a checkpoint could not be written: {reason}; the one before is kept, and the training continues. "
            f"Free some space on the disk of {self._run.path}"
        )

    def stalled_process(self, message: str) -> None:
        """A process stalls the others."""
        self._run.log("held_up", step=self._state.step, by=message)
        _logger.warning(message)

    def not_finite(
        self, step: int, loss: float, samples: list[int], norms: Mapping[str, Mapping[str, float | None]]
    ) -> None:
        """A loss or gradient was not finite; `norms` of weights and gradients, by parameter name."""
        as_json = {
            name: {kind: None if norm is None else _json_number(norm) for kind, norm in one.items()}
            for name, one in norms.items()
        }
        self._run.log("not_finite", step=step, loss=_json_number(loss), samples=samples, norms=as_json)

    def interrupted(self, signal_name: str | None) -> None:
        """A signal stops the training."""
        self._run.log("interrupted", step=self._state.step, by=signal_name)

    def end(self) -> None:
        """The training is finished."""
        self._run.log("end", step=self._state.step, trained_s=round(self._state.trained_s, 3))


def memory_in_use(device: torch.device) -> dict[str, int]:
    """Resident bytes of this process, and on a GPU the most that tensors have taken so far."""
    found = {}
    if (resident := resident_bytes()) is not None:
        found["resident_bytes"] = resident
    if device.type == "cuda":
        found["device_bytes"] = torch.cuda.max_memory_allocated(device)
    return found


def about(seconds: float) -> str:
    """A time of which seconds are not known exactly: to the second below a minute, else to ten seconds."""
    return duration_text(round(seconds, -1)) if seconds >= 60 else f"{seconds:.0f} s"


def _rounded(means: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in means.items()}


def _json_number(value: float) -> float | str:
    """JSON has no infinities and no NaN: those become text."""
    return value if math.isfinite(value) else str(value)
