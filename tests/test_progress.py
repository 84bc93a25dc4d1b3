"""Log lines and progress on stderr."""

import io
import logging
import math
import os
import re
import sys
from types import SimpleNamespace

import pytest

from alexnet.system import progress
from alexnet.system.progress import ProgressBar, ShowProgress, counted, in_notebook, is_shown, log_to_stderr
from alexnet.system.terminal import TerminalConsole


def test_log_records_are_printed_as_they_are_while_the_context_is_open(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("alexnet.somewhere")
    with log_to_stderr():
        logger.info("%s [bold]: :smile: 100 %%", "x" * 300)
        logger.warning("careful")
        logger.debug("not this")
    logger.info("nor this")
    assert capsys.readouterr() == ("", "x" * 300 + " [bold]: :smile: 100 %\ncareful\n")
    assert not logging.getLogger("alexnet").handlers


def test_without_a_terminal_progress_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now_s[0])
    with counted("preparing") as update:
        for seconds, done in ((0, 1000), (29, 1290), (31, 1310), (32, 1320)):
            now_s[0] = 100.0 + seconds
            update(done, 2310)
    assert capsys.readouterr().err == "preparing: 1,310 of 2,310, 10 images/s, 0:01:40 left\n"
    for shown in (True, False):
        with ProgressBar("run", 20, 40, shown=shown, first_and_last=True) as bar:
            for done, status in ((20, "loss 2.5"), (30, "loss 1.5"), (40, "loss 0.5")):
                bar.advance(done)
                bar.update(done, 40, status)
                now_s[0] += 1
    assert capsys.readouterr().err == "run: 20 of 40, loss 2.5\nrun: 40 of 40, loss 0.5, 0:00:00 left\n"


def test_of_an_unknown_total_only_the_count_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    with counted("predicting") as update:
        for done in (1000, 1400):
            update(done, None)
            clock.now_s += 40
    assert capsys.readouterr().err == "predicting: 1,400, 10 images/s\n"
    shown = io.StringIO()
    monkeypatch.setattr(progress, "STDERR", TerminalConsole(file=shown, force_terminal=True, width=80, highlight=False))
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    with ProgressBar("predicting") as bar:
        bar.update(7, None)
    assert "7/?" in shown.getvalue() and "left" not in shown.getvalue()


class Clock:
    """Stands in for the time in seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now_s)


def training_lines(
    clock: Clock,
    capsys: pytest.CaptureFixture[str],
    *,
    warmup_s: float,
    step_s: float,
    validation_s: float,
    total: int = 300,
    epoch: int = 30,
) -> list[tuple[int, float, float]]:
    """Step, seconds that a line said are left, and seconds that are left, of `total` steps in epochs of `epoch`."""
    every_s, found = 15.0, []

    def left_after(step: int) -> float:
        return (total - step) * step_s + (total // epoch - step // epoch) * validation_s

    with ProgressBar("run", 0, total, line_interval_s=every_s, first_and_last=True) as bar:
        clock.now_s += warmup_s
        for step in range(1, total + 1):
            clock.now_s += step_s
            bar.advance(step)
            if step % 10 == 0:
                bar.update(step, total, "loss 1.0")
            for line in capsys.readouterr().err.splitlines():
                assert line.startswith(f"run: {step:,} of {total:,}")
                if match := re.search(r"(\d+):(\d+):(\d+) left$", line):
                    hours, minutes, seconds = map(int, match.groups())
                    found.append((step, 3600.0 * hours + 60 * minutes + seconds, left_after(step)))
            if step % epoch == 0:
                clock.now_s += validation_s
    return found


@pytest.mark.parametrize("warmup_s", [0.0, 20.0, 400.0])
@pytest.mark.parametrize("step_s", [0.5, 10.0, 40.0])
def test_the_remaining_time_is_right_soon_after_a_slow_start(
    warmup_s: float, step_s: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = training_lines(Clock(monkeypatch), capsys, warmup_s=warmup_s, step_s=step_s, validation_s=0.0)
    # The first step alone shows no speed; soon after it, a line with the time that is left.
    assert lines[0][0] <= 2 + math.ceil(15.0 / step_s)
    assert all(said == pytest.approx(left, rel=0.01, abs=1) for _, said, left in lines)
    assert len(lines) >= 300 * step_s / 15.0 / 2 or step_s == 40.0


@pytest.mark.parametrize("validation_s", [5.0, 60.0])
def test_the_remaining_time_counts_validations(
    validation_s: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = training_lines(Clock(monkeypatch), capsys, warmup_s=60.0, step_s=2.0, validation_s=validation_s)
    late = [(said, left) for step, said, left in lines if 90 < step < 290]
    assert len(late) > 5
    assert all(abs(said - left) < 0.35 * left + validation_s for said, left in late)


def test_the_remaining_time_of_a_long_training_counts_validations(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not only the time since the last one, which took half of the time."""
    clock = Clock(monkeypatch)
    lines = training_lines(clock, capsys, warmup_s=60.0, step_s=0.5, validation_s=200.0, total=20_000, epoch=400)
    late = [(said, left) for step, said, left in lines if step > 5000]
    assert len(late) > 100
    assert all(abs(said - left) < 0.15 * left + 200.0 for said, left in late)


def test_a_resumed_work_counts_only_its_own_units(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch)
    with ProgressBar("run", 100_000, 200_000, line_interval_s=15.0) as bar:
        for done in range(100_001, 100_041):
            clock.now_s += 1.0
            bar.update(done, 200_000, "")
    assert capsys.readouterr().err.splitlines()[0] == "run: 100,015 of 200,000, 1 day, 3:46:25 left"


def test_a_terminal_shows_the_same_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, clock = io.StringIO(), Clock(monkeypatch)
    monkeypatch.setattr(progress, "STDERR", TerminalConsole(file=shown, force_terminal=True, width=80, highlight=False))
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    with ProgressBar("run", 0, 100) as bar:
        clock.now_s += 300.0
        for done in (1, 2, 3):
            clock.now_s += 1.0
            bar.advance(done)
    assert "3/100" in shown.getvalue() and "0:01:37 left" in shown.getvalue()


def test_on_a_terminal_log_records_are_printed_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    console = TerminalConsole(file=shown, force_terminal=True, width=120, highlight=False)
    monkeypatch.setattr(progress, "STDERR", console)
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    with log_to_stderr(), ProgressBar("features of \x1b[7mrun\n") as bar:
        bar.update(30, 40, "\rstatus")
        logging.getLogger("alexnet").info("a line of \x1b]0;%s\a", "title\n")
    text = shown.getvalue()
    line = r"a line of \x1b]0;title\n\x07"
    assert line in text and text.index(line) < text.rindex("30/40")
    assert r"features of \x1b[7mrun\n" in text and r"\rstatus" in text
    assert "\x1b[7m" not in text and "\x1b]" not in text and "\rstatus" not in text


def test_work_goes_on_when_nobody_reads_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed, log_to_stderr():
        monkeypatch.setattr(progress.sys, "stderr", closed)
        monkeypatch.setattr(progress, "STDERR", TerminalConsole(stderr=True))
        for _ in range(2):
            logging.getLogger("alexnet").info("a line")
        assert progress.STDERR.quiet
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)  # what is left in the buffer must go somewhere


def test_python_calls_show_progress_where_somebody_watches(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[int, int]] = []

    def shown(how: ShowProgress) -> str:
        with ProgressBar("run", 0, 3, shown=how, line_interval_s=0) as bar:
            for done in (1, 2, 3):
                bar.advance(done)
                bar.update(done, 3, "")
        return capsys.readouterr().err

    assert shown(None) == shown(False) == shown(lambda done, total: calls.append((done, total))) == ""
    assert calls == [(1, 3), (2, 3), (3, 3)]  # each once
    assert "run: 3 of 3" in shown(True)
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    assert is_shown(None) and not is_shown(False) and not is_shown(print)
    monkeypatch.setattr(progress, "STDERR", TerminalConsole(stderr=True, force_terminal=True, width=80))
    assert "3/3" in shown(None)


def test_log_lines_are_shown_with_the_progress_unless_somebody_handles_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("alexnet")

    def lines(how: ShowProgress) -> str:
        with counted("work", shown=how):
            logger.info("a line")
        return capsys.readouterr().err

    assert logging.getLogger().handlers and lines(True) == ""  # pytest's, here
    monkeypatch.setattr(logger, "propagate", False)
    assert lines(True) == "a line\n" and lines(False) == lines(None) == ""
    with log_to_stderr():
        assert lines(True) == "a line\n"
    assert not logger.handlers and logger.level == logging.NOTSET


def test_a_notebook_shows_a_bar_that_becomes_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """IPython is stood in for: of `display`, a handle whose content is replaced."""
    shown: list[dict[str, str]] = []

    class Handle:
        def update(self, content: dict[str, str], *, raw: bool) -> None:
            assert raw
            shown.append(content)

    def display(content: dict[str, str], *, raw: bool, display_id: bool) -> Handle:
        assert raw and display_id
        shown.append(content)
        return Handle()

    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=1)))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    monkeypatch.setattr(logging.getLogger("alexnet"), "propagate", False)
    clock = Clock(monkeypatch)
    with counted("<script>alert(1)</script>\x1b[31m\n", shown=None) as update:
        for done in range(1, 101):
            clock.now_s += 0.05
            update(done, 100)
        logging.getLogger("alexnet").info("a line of \x1b[31m")
    assert capsys.readouterr() == ("a line of \\x1b[31m\n", "")
    html = [one["text/html"] for one in shown]
    assert html[0].startswith("<progress") and 10 < len(html) < 30  # after a second, at most five in one
    assert html[-1] == html[-2].partition("</progress> ")[2] and "100 of 100" in html[-1]
    shown_before = len(shown)
    with counted("short", shown=None) as update:
        for done in range(3):
            clock.now_s += 0.3
            update(done + 1, 3)
    assert len(shown) == shown_before  # an empty output would stay in the notebook
    assert html[-2].startswith('<progress value="100" max="100"></progress> &lt;script&gt;')
    assert shown[-2]["text/plain"].startswith(r"<script>alert(1)</script>\x1b[31m\n: 100 of 100, 20 images/s")
    monkeypatch.undo()
    assert not in_notebook()
