"""Log lines and progress on stderr."""

import io
import logging
import os

import pytest

from alexnet.system import progress
from alexnet.system.progress import ProgressBar, counted, log_to_stderr
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
