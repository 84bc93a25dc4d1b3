"""What a person sees while a training runs: a bar on a terminal, now and then a line elsewhere."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

LINE_INTERVAL_S = 15.0


class TrainingProgress:
    """Shows epoch, loss, training error, images per second and time left. Use it as a context manager.

    Args:
        name: of the run.
        first_step: steps done before.
        num_steps: steps in all.
        num_epochs: epochs in all.
        shown: False in a process whose steps another one shows.
    """

    def __init__(self, name: str, first_step: int, num_steps: int, num_epochs: float, shown: bool = True) -> None:
        self._console = Console(stderr=True, quiet=not shown)
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
                console=self._console,
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
        """Move the bar: a step was done, its loss is told with the next `update`."""
        if self._bar:
            self._bar.update(self._task, completed=step)

    def update(self, step: int, epoch: float, loss: float, error: float, images_per_second: float) -> None:
        """Show the state after `step` steps; `error` is a fraction."""
        status = (
            f"epoch {epoch:.1f}/{self._num_epochs:g}  loss {loss:.3f}  training error {100 * error:.1f} %  "
            f"{images_per_second:,.0f} images/s"
        )
        if self._bar:
            self._bar.update(self._task, completed=step, status=status)
            return
        now = time.monotonic()
        if now - self._last_line >= LINE_INTERVAL_S or step == self._num_steps:
            self._last_line = now
            left_s = (now - self._started) / max(1, step - self._first_step) * (self._num_steps - step)
            self._console.print(
                f"{self._name}  {status}  {_duration(left_s)} left", highlight=False, markup=False, soft_wrap=True
            )

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        (self._bar.console if self._bar else self._console).print(text, highlight=False, markup=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
