"""What a person sees while a command or a Python call works: log lines, and below them a progress bar.

On stderr all of it goes through one console, which prints the lines above the bar. Without a terminal there is no bar,
but a line of progress at intervals. In a notebook, the bar and the lines are in the output of the cell.
"""

import importlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from alexnet.errors import RequestError
from alexnet.system.terminal import TerminalConsole
from alexnet.system.visible_text import visible, visible_html

LINE_INTERVAL_S = 30.0
MOST_SAMPLES = 64
"""Number of samples, evenly spaced, that the remaining time is estimated from; an even number."""

STDERR = TerminalConsole(stderr=True, highlight=False)
"""The console of all log lines and progress bars, except in a notebook."""
NOTEBOOK = TerminalConsole(highlight=False)
"""The console of log lines in a notebook, which shows stderr as errors."""
LEAST_NOTEBOOK_UPDATE_S = 0.2
LEAST_NOTEBOOK_WORK_S = 1.0
"""Of shorter work a notebook shows no progress."""

ShowProgress = bool | Callable[[int, int], None] | None
"""How a Python call shows its progress and log lines: like the command if stderr is a terminal or in a notebook, else
not at all (None); always (True); never (False); or by calls of a function with (units done, units in total). While the
total is unknown, the function gets the units done for it."""


def is_shown(progress: ShowProgress) -> bool:
    """Whether a call shows progress itself.

    Raises:
        RequestError: `progress` is something else than `ShowProgress` allows.
    """
    if progress is not None and not isinstance(progress, bool) and not callable(progress):
        raise RequestError(
            f"progress is {progress!r}; allowed are True, False, None (where somebody watches), or a function of "
            "(units done, units in total)"
        )
    return not callable(progress) and (sys.stderr.isatty() or in_notebook() if progress is None else progress)


def in_notebook() -> bool:
    """Whether this process runs the cells of a notebook."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


class ConsoleHandler(logging.Handler):
    """Prints log records to stderr, above the progress bar where one is shown, or in a notebook's cell."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record's message."""
        try:
            (NOTEBOOK if in_notebook() else STDERR).print(record.getMessage(), soft_wrap=True)
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


@contextmanager
def lines_shown(progress: ShowProgress) -> Iterator[None]:
    """Print what the package logs while the context is open, if progress is shown and nobody handles its log yet."""
    with log_to_stderr() if is_shown(progress) and not logging.getLogger("alexnet").hasHandlers() else nullcontext():
        yield


class _NotebookBar:
    """A progress bar in the output of a notebook's cell, of which its last text stays; of short work nothing is shown.

    Args:
        now_s: when the work starts.
    """

    def __init__(self, now_s: float) -> None:
        self._start_s = self._shown_s = now_s
        self._display: Any = None
        self._text = ""

    def update(self, done: int, total: int | None, text: str, *, now_s: float) -> None:
        """Show how much is done, not more often than eyes see; a bar without an end if the total is unknown."""
        self._text = visible(text)
        is_due = now_s - self._shown_s >= LEAST_NOTEBOOK_UPDATE_S
        if now_s - self._start_s >= LEAST_NOTEBOOK_WORK_S and (done == total or is_due):
            self._shown_s = now_s
            position = "" if total is None else f' value="{done}" max="{total}"'
            self._show(f"<progress{position}></progress> {visible_html(self._text)}")

    def close(self) -> None:
        """Leave the last text in place of the bar: an output that was shown cannot be removed."""
        if self._display is not None:
            self._show(visible_html(self._text))

    def _show(self, html: str) -> None:
        content = {"text/html": html, "text/plain": self._text}
        if self._display is None:
            display = importlib.import_module("IPython.display").display
            self._display = display(content, raw=True, display_id=True)
        else:
            self._display.update(content, raw=True)


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
        shown: how it is shown; False in all processes but the main one.
        line_interval_s: seconds between lines.
        first_and_last: whether the first and the last update print a line too, even if the work is short.
    """

    def __init__(
        self,
        name: str,
        done: int | None = None,
        total: int | None = None,
        *,
        shown: ShowProgress = True,
        line_interval_s: float = LINE_INTERVAL_S,
        first_and_last: bool = False,
    ) -> None:
        self._name, self._shown, self._line_interval_s = name, is_shown(shown), line_interval_s
        self._callback: Callable[[int, int], None] | None = shown if callable(shown) else None
        self._called_with = done
        self._first_and_last = first_and_last
        self._total, self._status = total, ""
        now_s = time.monotonic()
        self._start = None if done is None else (now_s, done)
        self._remaining = None if done is None else _RemainingTime(now_s, done)
        self._last_line_s = now_s
        self._first_is_due = first_and_last
        self._bar: Progress | None = None
        self._notebook_bar: _NotebookBar | None = None
        if self._shown and in_notebook():
            self._notebook_bar = _NotebookBar(now_s)
        elif self._shown and sys.stderr.isatty():
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
        if self._notebook_bar:
            self._notebook_bar.close()

    def advance(self, done: int) -> None:
        """Show that `done` units are done; total and status stay those of the last `update`."""
        if self._total is not None:
            self._call_back(done, self._total)
        if not self._shown or self._total is None:
            return
        now_s = time.monotonic()
        self._note(now_s, done)
        # The last line is the next update's.
        self._show(done, now_s, line=done < self._total and now_s - self._last_line_s >= self._line_interval_s)

    def update(self, done: int, total: int | None, status: str | None = None) -> None:
        """Show that `done` of `total` units are done; without a `status`, units are images and it is their rate.

        A total of None is unknown: only what is done is shown.
        """
        self._call_back(done, done if total is None else total)
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

    def _call_back(self, done: int, total: int) -> None:
        if self._callback and done != self._called_with:
            self._called_with = done
            self._callback(done, total)

    def _note(self, now_s: float, done: int) -> tuple[float, int]:
        """Add to the estimate; returns when the work started and how much was done then."""
        self._start = self._start or (now_s, done)
        self._remaining = self._remaining or _RemainingTime(*self._start)
        self._remaining.add(now_s, done)
        return self._start

    def _show(self, done: int, now_s: float, *, line: bool) -> None:
        if not self._bar and not self._notebook_bar and not line:
            return
        assert self._remaining is not None
        seconds = None if self._total is None else self._remaining.seconds(self._total)
        left = "" if seconds is None else f"{timedelta(seconds=round(seconds))} left"
        if self._bar:
            status = STDERR.visible(self._status)
            self._bar.update(self._task, completed=done, total=self._total, status=status, left=left)
            return
        of_total = "" if self._total is None else f" of {self._total:,}"
        parts = [f"{self._name}: {done:,}{of_total}", self._status, left]
        text = ", ".join(part for part in parts if part)
        if self._notebook_bar:
            self._notebook_bar.update(done, self._total, text, now_s=now_s)
        else:
            self._last_line_s = now_s
            STDERR.print(text, soft_wrap=True)


@contextmanager
def counted(name: str, *, shown: ShowProgress = True) -> Iterator[Callable[[int, int | None], None]]:
    """Show a progress bar, and log lines; yields a function to call with (images done, images in total or None)."""
    with lines_shown(shown), ProgressBar(name, shown=shown) as bar:
        yield bar.update
