"""The progress of a training: a bar on a terminal, elsewhere a line now and then."""

import sys
import time
from types import TracebackType

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from alexnet.system.progress import STDERR

LINE_INTERVAL_S = 15.0


class TrainingProgress:
    """Shows epoch, metrics, images per second and time left. A context manager.

    Args:
        name: of the run.
        first_step: steps already done.
        num_steps: steps in total.
        num_epochs: epochs in total.
        shown: False in all processes but the main one.
    """

    def __init__(self, name: str, first_step: int, num_steps: int, num_epochs: float, shown: bool = True) -> None:
        self._shown = shown
        self._name, self._num_steps, self._num_epochs = name, num_steps, num_epochs
        self._started, self._first_step, self._last_line = time.monotonic(), first_step, 0.0
        self._bar: Progress | None = None
        if shown and sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[status]}", markup=False),
                TimeRemainingColumn(),
                console=STDERR,
            )
            self._task = self._bar.add_task(name, total=num_steps, completed=first_step, status="")

    def __enter__(self) -> "TrainingProgress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, step: int) -> None:
        """Move the bar after a step."""
        if self._bar:
            self._bar.update(self._task, completed=step)

    def update(self, step: int, epoch: float, metrics: str, images_per_second: float) -> None:
        """Show the metrics after `step` steps."""
        status = f"epoch {epoch:.1f}/{self._num_epochs:g}  training {metrics}  {images_per_second:,.0f} images/s"
        if self._bar:
            self._bar.update(self._task, completed=step, status=status)
            return
        now = time.monotonic()
        if self._shown and (now - self._last_line >= LINE_INTERVAL_S or step == self._num_steps):
            self._last_line = now
            left_s = (now - self._started) / max(1, step - self._first_step) * (self._num_steps - step)
            STDERR.print(f"{self._name}  {status}  {_duration(left_s)} left", soft_wrap=True)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
