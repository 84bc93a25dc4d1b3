"""What a person sees on stderr while a command works: log lines, and below them a progress bar.

All of it goes through one console, which prints the lines above the bar. Without a terminal there is no bar, and a
line of progress now and then instead.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

LINE_EVERY_S = 30.0

STDERR = Console(stderr=True, markup=False, emoji=False, highlight=False)
"""The console of all log lines and progress bars."""


class ConsoleHandler(logging.Handler):
    """Prints log records to stderr, above the progress bar where one is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record's message."""
        try:
            STDERR.print(self.format(record), soft_wrap=True)
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


class RateColumn(ProgressColumn):
    """Images a second, over the last while."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} images/s" if task.speed else "", style="progress.data.speed")


@contextmanager
def counted(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function to be called with (done, all)."""
    if not sys.stderr.isatty():
        yield _Lines(what).tell
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=STDERR, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Lines:
    """A line every half minute, with rate and time left; work that is done sooner prints none."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._began: tuple[float, int] | None = None
        self._told_s = time.monotonic()

    def tell(self, done: int, total: int) -> None:
        now_s = time.monotonic()
        if self._began is None:
            self._began = (now_s, done)  # work that is gone on with starts above 0
        if now_s - self._told_s < LINE_EVERY_S:
            return
        self._told_s = now_s
        began_s, began_done = self._began
        rate = (done - began_done) / (now_s - began_s) if now_s > began_s else 0.0
        left = f", {timedelta(seconds=round((total - done) / rate))} left" if rate > 0 else ""
        STDERR.print(f"{self._what}: {done:,} of {total:,}, {rate:,.0f} images/s{left}", soft_wrap=True)
