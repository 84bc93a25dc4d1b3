"""What a person sees on stderr while a command works: log lines, and below them a progress bar.

All of it goes through one console, which prints the lines above the bar. Without a terminal there is no bar, but a
line of progress at intervals.
"""

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from alexnet.system.terminal import TerminalConsole

LINE_INTERVAL_S = 30.0

STDERR = TerminalConsole(stderr=True, highlight=False)
"""The console of all log lines and progress bars."""


class ConsoleHandler(logging.Handler):
    """Prints log records to stderr, above the progress bar where one is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record's message."""
        try:
            STDERR.print(record.getMessage(), soft_wrap=True)
        except Exception:
            self.handleError(record)


@contextmanager
def log_to_stderr() -> Iterator[None]:
    """Print what the package logs, from level INFO on, while the context is open."""
    logger, handler = logging.getLogger("alexnet"), ConsoleHandler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


class ProgressBar:
    """A progress bar on a terminal; elsewhere, a line every `line_interval_s` seconds. Use it as a context manager.

    Args:
        name: of the work.
        done: units done before; None takes it from the first `update`.
        total: units in total; None takes it from the first `update`.
        shown: False in all processes but the main one.
        line_interval_s: seconds between lines.
        first_and_last: whether the first and the last update print a line too, even if the work is short.
    """

    def __init__(
        self,
        name: str,
        done: int | None = None,
        total: int | None = None,
        *,
        shown: bool = True,
        line_interval_s: float = LINE_INTERVAL_S,
        first_and_last: bool = False,
    ) -> None:
        self._name, self._shown, self._line_interval_s = name, shown, line_interval_s
        self._first_and_last = first_and_last
        now_s = time.monotonic()
        self._start = None if done is None else (now_s, done)
        self._last_line_s = -math.inf if first_and_last else now_s
        self._bar: Progress | None = None
        if shown and sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[status]}", markup=False),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=STDERR, transient=True)
            self._task = self._bar.add_task(STDERR.visible(name), total=total, completed=done or 0, status="")

    def __enter__(self) -> "ProgressBar":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, done: int) -> None:
        """Move the bar and keep its status; prints no line."""
        if self._bar:
            self._bar.update(self._task, completed=done)

    def update(self, done: int, total: int, status: str | None = None) -> None:
        """Show that `done` of `total` units are done; without a `status`, units are images and it is their rate."""
        if not self._shown:
            return
        now_s = time.monotonic()
        start_s, start_done = self._start = self._start or (now_s, done)
        per_second = (done - start_done) / (now_s - start_s) if now_s > start_s else 0.0
        if status is None:
            status = f"{per_second:,.0f} images/s" if per_second else ""
        if self._bar:
            self._bar.update(self._task, completed=done, total=total, status=STDERR.visible(status))
        elif now_s - self._last_line_s >= self._line_interval_s or (self._first_and_last and done == total):
            self._last_line_s = now_s
            left = f"{timedelta(seconds=round((total - done) / per_second))} left" if per_second > 0 else ""
            parts = [f"{self._name}: {done:,} of {total:,}", status, left]
            STDERR.print(", ".join(part for part in parts if part), soft_wrap=True)


@contextmanager
def counted(name: str, *, shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar; yields a function to call with (images done, images in total)."""
    with ProgressBar(name, shown=shown) as bar:
        yield bar.update
