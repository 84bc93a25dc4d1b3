"""What a person sees on stderr while a command works: log lines, and below them a progress bar.

All of it goes through one console, which prints the lines above the bar. Without a terminal there is no bar, but a
line of progress at intervals.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from alexnet.system.terminal import TerminalConsole

LINE_INTERVAL_S = 30.0
MOST_SAMPLES = 64
"""Number of samples, evenly spaced, that the remaining time is estimated from; an even number."""

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


class _RemainingTime:
    """Estimates the time that is left from the speed over the later half of the units done.

    The first units, which load libraries and compile, thus soon stop counting, and periodic work such as validation
    counts in proportion.

    Args:
        now_s: when the work starts.
        done: units done before.
    """

    def __init__(self, now_s: float, done: int) -> None:
        self._samples = [(now_s, done)]
        self._last = self._samples[0]
        self._spacing = 0.0  # units between samples

    def add(self, now_s: float, done: int) -> None:
        """Note that `done` units are done."""
        if done == self._last[1]:
            return
        self._last = (now_s, done)
        if done - self._samples[-1][1] < self._spacing:
            return
        self._samples.append(self._last)
        if len(self._samples) > MOST_SAMPLES:
            self._samples = self._samples[::2]
            self._spacing = (done - self._samples[0][1]) / (len(self._samples) - 1)

    def seconds(self, total: int) -> float | None:
        """Seconds from the last note until `total` units are done; None before there are two."""
        last_s, done = self._last
        half = (self._samples[0][1] + done) / 2
        since_s, since_done = next(sample for sample in (*self._samples, self._last) if sample[1] >= half)
        return None if since_done == done else (total - done) * (last_s - since_s) / (done - since_done)


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
        self._total, self._status = total, ""
        now_s = time.monotonic()
        self._start = None if done is None else (now_s, done)
        self._remaining = None if done is None else _RemainingTime(now_s, done)
        self._last_line_s = now_s
        self._first_is_due = first_and_last
        self._bar: Progress | None = None
        if shown and sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[status]}", markup=False),
                TextColumn("{task.fields[left]}", markup=False),
            )
            self._bar = Progress(*columns, console=STDERR, transient=True)
            self._task = self._bar.add_task(STDERR.visible(name), total=total, completed=done or 0, status="", left="")

    def __enter__(self) -> "ProgressBar":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, done: int) -> None:
        """Show that `done` units are done; total and status stay those of the last `update`."""
        if not self._shown or self._total is None:
            return
        now_s = time.monotonic()
        self._note(now_s, done)
        # The last line is the next update's.
        self._show(done, now_s, line=done < self._total and now_s - self._last_line_s >= self._line_interval_s)

    def update(self, done: int, total: int, status: str | None = None) -> None:
        """Show that `done` of `total` units are done; without a `status`, units are images and it is their rate."""
        if not self._shown:
            return
        now_s = time.monotonic()
        start_s, start_done = self._note(now_s, done)
        if status is None:
            per_second = (done - start_done) / (now_s - start_s) if now_s > start_s else 0.0
            status = f"{per_second:,.0f} images/s" if per_second else ""
        self._total, self._status = total, status
        extra = self._first_is_due or (self._first_and_last and done == total)
        self._first_is_due = False
        self._show(done, now_s, line=extra or now_s - self._last_line_s >= self._line_interval_s)

    def _note(self, now_s: float, done: int) -> tuple[float, int]:
        """Add to the estimate; returns when the work started and how much was done then."""
        self._start = self._start or (now_s, done)
        self._remaining = self._remaining or _RemainingTime(*self._start)
        self._remaining.add(now_s, done)
        return self._start

    def _show(self, done: int, now_s: float, *, line: bool) -> None:
        if not self._bar and not line:
            return
        assert self._remaining is not None and self._total is not None
        seconds = self._remaining.seconds(self._total)
        left = "" if seconds is None else f"{timedelta(seconds=round(seconds))} left"
        if self._bar:
            status = STDERR.visible(self._status)
            self._bar.update(self._task, completed=done, total=self._total, status=status, left=left)
        else:
            self._last_line_s = now_s
            parts = [f"{self._name}: {done:,} of {self._total:,}", self._status, left]
            STDERR.print(", ".join(part for part in parts if part), soft_wrap=True)


@contextmanager
def counted(name: str, *, shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar; yields a function to call with (images done, images in total)."""
    with ProgressBar(name, shown=shown) as bar:
        yield bar.update
