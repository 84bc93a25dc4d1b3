"""What changes while a training runs; `training/setup.py` holds what does not."""

from dataclasses import dataclass, field

from alexnet.training.batch_metrics import RunningMetrics


@dataclass
class TrainingState:
    """How far a training has come. Weights and velocities are those of the setup's network and optimizer."""

    step: int = 0
    """Steps done."""
    trained_s: float = 0.0
    """Seconds of training so far, without validation and checkpoints."""
    validation_errors: list[float] = field(default_factory=list)
    """Top-1 error on the validation images after each validated epoch, fractions. A `plateau` schedule follows them."""
    last_validation_step: int = -1
    """Steps done when the validation images were last measured."""
    copied_layers: list[str] = field(default_factory=list)
    """Layers whose first weights came from another network."""
    unreadable: set[int] = field(default_factory=set)
    """Training images that could not be read so far."""
    since_log: RunningMetrics = field(default_factory=RunningMetrics)
    """Metrics since the last "step" event."""
    since_log_s: float = 0.0
    """`trained_s` at the last "step" event."""
    waited_s: float = 0.0
    """Seconds spent waiting for batches since the last "step" event."""
    since_epoch: RunningMetrics = field(default_factory=RunningMetrics)
    """Metrics of the current epoch."""

    @property
    def current_validation_error(self) -> float | None:
        """The validation error of the current weights, if they were measured."""
        measured = self.validation_errors and self.last_validation_step == self.step
        return self.validation_errors[-1] if measured else None
