"""Names as text on a terminal: nothing acts on it, nothing is lost, and a shell finds the file again."""

import os
import subprocess
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet.system.visible_text import shell_words, visible, visible_html

FAMILY = "\U0001f468\N{ZERO WIDTH JOINER}\U0001f469\N{ZERO WIDTH JOINER}\U0001f467"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain [bold] :dog: \\n 100 %", "plain [bold] :dog: \\n 100 %"),
        ("寿司\u3000握り", "寿司\u3000握り"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        (FAMILY, FAMILY),
        ("a\u00a0b café", "a\u00a0b café"),
        ("a\tb\nc\rd", r"a\tb\nc\rd"),
        ("\x1b]0;pwned\x07\x1b[31mX.png", r"\x1b]0;pwned\x07\x1b[31mX.png"),
        ("\x00\x7f\x9b31m", r"\x00\x7f\u009b31m"),
        ("gnp\u202egpj.exe\u2066", r"gnp\u202egpj.exe\u2066"),
        ("one\u2028two", r"one\u2028two"),
        (os.fsdecode(b"caf\xe9.jpg"), r"caf\xe9.jpg"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_acts_on_a_terminal_is_escaped_and_all_else_stays(text: str, expected: str) -> None:
    assert visible(text) == expected


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", r"caf\u00e9 \u5bff \U0001f415 \xe9"),
        ("latin-1", r"café \u5bff \U0001f415 \xe9"),
        ("shift_jis", r"caf\u00e9 寿 \U0001f415 \xe9"),
        ("utf-8", r"café 寿 🐕 \xe9"),
    ],
)
def test_what_an_encoding_lacks_is_escaped(encoding: str, expected: str) -> None:
    assert visible("café 寿 🐕 \udce9", encoding) == expected


@given(st.text(st.characters()), st.sampled_from(["ascii", "latin-1", "cp1252", "euc-kr", "utf-8"]))
def test_every_text_can_be_printed_in_one_line(text: str, encoding: str) -> None:
    shown = visible(text, encoding)
    shown.encode(encoding)
    assert all(unicodedata.category(letter) not in ("Cc", "Cs", "Zl", "Zp") for letter in shown)
    assert len(shown.splitlines()) <= 1 and visible(shown, encoding) == shown
    assert "<" not in visible_html(text) and '"' not in visible_html(text)


@given(st.lists(st.binary(min_size=1).filter(lambda name: b"\0" not in name), min_size=1, max_size=5))
def test_a_shell_reads_words_back_byte_for_byte(names: list[bytes]) -> None:
    command = "printf '%s\\0' " + shell_words(*map(os.fsdecode, names))
    assert command.isprintable() or len(command.splitlines()) == 1
    printed = subprocess.run(
        ["bash", "-c", command], capture_output=True, check=True, env={**os.environ, "LC_ALL": "C.UTF-8"}
    )
    assert printed.stdout == b"".join(name + b"\0" for name in names)


def test_plain_words_are_quoted_as_usual() -> None:
    assert shell_words("alexnet", "resume", Path("my runs/a")) == "alexnet resume 'my runs/a'"
    assert shell_words(1, "it's") == "1 'it'\"'\"'s'"
