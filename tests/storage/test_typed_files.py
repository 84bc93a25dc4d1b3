"""The reader of files that the package writes: what it accepts, and that damage of any kind gives one error."""

import json
import os
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from alexnet.errors import AlexNetError
from alexnet.storage.atomic import write_json
from alexnet.storage.typed_files import (
    MAX_DEPTH,
    SEAL,
    DamagedFile,
    FileName,
    Finite,
    read_intact_json_lines,
    read_json,
    read_json_lines,
    read_yaml,
    require_schema,
    sealed,
    sealed_line,
    write_sealed_json,
)

ADVICE = "write it again"


class _Inner(TypedDict):
    count: Annotated[int, Meta(ge=1, le=100)]
    names: list[str]


class _Document(TypedDict):
    title: str
    inner: _Inner
    loss: NotRequired[float]
    error: NotRequired[Finite | None]
    folder: NotRequired[FileName]


SOUND: dict[str, Any] = {"title": "t", "inner": {"count": 3, "names": ["a", "b"]}, "further": [1, 2.5]}


def _read(path: Path) -> _Document:
    return read_json(path, _Document, ADVICE)


def _read_yaml(path: Path) -> _Document:
    return read_yaml(path, _Document, ADVICE)


def _as_document(content: Any) -> _Document:
    return require_schema(content, _Document)


def test_sound_files_are_read_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    write_json(path, SOUND)
    assert _read(path) == SOUND
    path.write_text(yaml.safe_dump(SOUND))
    assert _read_yaml(path) == SOUND


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"title": 3}, r"title: expected str, got int"),
        ({"inner": {"count": 101, "names": []}}, r"inner\.count: expected int <= 100"),
        ({"inner": {"count": 1, "names": ["a", 2]}}, r"inner\.names\[1\]: expected str, got int"),
        ({"inner": {"count": True, "names": []}}, r"inner\.count: expected int, got bool"),
        ({"inner": {"names": []}}, r"inner: object missing required field count"),
        ({"error": float("nan")}, r"error: expected float"),
        ({"error": float("inf")}, r"error: expected float"),
        ({"folder": "a\0b"}, r"folder: this text is not allowed"),
        ({"folder": "\ud800"}, r"folder: this text is not allowed"),
    ],
)
@pytest.mark.parametrize("kind", ["json", "yaml"])
def test_the_error_names_file_key_and_advice(tmp_path: Path, change: dict[str, Any], reason: str, kind: str) -> None:
    path = tmp_path / f"one.{kind}"
    write_json(path, {**SOUND, **change})  # JSON is YAML, but for numbers that are none
    if kind == "yaml" and isinstance(change.get("error"), float):
        path.write_text(yaml.safe_dump({**SOUND, **change}))
    with pytest.raises(DamagedFile, match=f"one.{kind} is damaged .*{reason}.*; {ADVICE}$") as caught:
        (_read if kind == "json" else _read_yaml)(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"[]", "expected object, got array"),
        (b"null", "expected object, got null"),
        (b"[" * 200_000, "nesting is deeper"),
        (b'{"a":' * 200_000, "nesting is deeper"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nesting is deeper"),
        (b'{"title": "\xff"}', "byte 11 is not UTF-8"),
        (b'{"title": "\xed\xb3\xbf"}', "byte 11 is not UTF-8"),
        (b'{"title": 1, "title": 2}', "'title' occurs twice"),
        (b'{"title": ' + b"9" * 100_000 + b"}", "out of range"),
        (b'{"title": 18446744073709551616}', "out of range"),
        (b'{"title": "t"} {}', "Extra data"),
    ],
)
def test_what_is_no_sound_json_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "one.json"
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match=reason):
        _read(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"[" * 60_000, "nesting is deeper"),
        (b"title: [t", "expected"),
        (b"title: \xff", "not UTF-8"),
        (b"title: \0", "not allowed"),
        (b"title: a\ntitle: b", "'title' occurs twice"),
        (b"1: a", "key 1 is not text"),
        (b"? [a, b]\n: c", "unhashable"),
        (b"title: 2020-13-45", "month"),
        (b"title: 2020-01-02", "a date is neither"),
        (b"title: !!bool x", "x"),
        (b"title: !!timestamp x", "."),
        (b"title: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        (b"a: &a [*a]", "recursive"),
        (b"title: 18446744073709551616", "out of range"),
        (
            b"a0: &a0 [x]\n"
            + b"".join(b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 10)) for n in range(1, 20)),
            "values",
        ),
    ],
)
def test_what_is_no_sound_yaml_is_refused_quickly(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "one.yaml"
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match=reason) as caught:
        _read_yaml(path)
    assert len(str(caught.value)) < 1000


def test_numbers_that_are_none_and_names_that_are_not_utf8_are_read(tmp_path: Path) -> None:
    """Logs of diverged trainings have such losses, and file names are any bytes."""
    path = tmp_path / "one.json"
    name = os.fsdecode(b"caf\xe9")
    write_json(path, {**SOUND, "loss": float("inf"), "folder": name, "further": [float("nan")]})
    found = _read(path)
    assert found["loss"] == float("inf") and os.fsencode(found["folder"]) == b"caf\xe9"
    write_sealed_json(path, found)
    assert _read(path)["folder"] == name


def test_size_and_kind_of_file_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_bytes(b" " * 5000)
    with pytest.raises(DamagedFile, match="larger than 4,999 bytes"):
        read_json(path, _Document, ADVICE, max_bytes=4999)
    with pytest.raises(DamagedFile, match="other is missing; write it again"):
        _read(tmp_path / "other")
    with pytest.raises(DamagedFile, match="not a regular file"):
        _read(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DamagedFile, match="not a regular file"):
        _read(tmp_path / "pipe")
    with pytest.raises(DamagedFile, match="not a regular file"):
        read_json_lines(Path("/dev/zero"), _Document, ADVICE).__next__()


def test_an_unreadable_file_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "one.json"
    write_json(path, SOUND)

    def no_handles(*_: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "open", no_handles)
    with pytest.raises(AlexNetError, match=r"cannot read .*one\.json: Too many open files") as caught:
        _read(path)
    assert not isinstance(caught.value, DamagedFile)


def test_a_changed_number_of_a_sealed_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    write_sealed_json(path, {**SOUND, "loss": 0.1, "sides": (1, 2)})
    assert _read(path) == {**SOUND, "loss": 0.1, "sides": [1, 2]}
    path.write_text(path.read_text().replace("0.1", "0.2"))
    with pytest.raises(DamagedFile, match=f"changed after it was written: {SEAL} does not match"):
        _read(path)
    content = sealed(SOUND)
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    assert _read_yaml(path) == SOUND
    for end in range(1, len(path.read_text()) - 1):  # cut short
        (tmp_path / "cut").write_text(path.read_text()[:end])
        with pytest.raises(DamagedFile):
            _read_yaml(tmp_path / "cut")
    path.write_text(yaml.safe_dump({**content, "further": [1, 2.25]}))
    with pytest.raises(DamagedFile, match=f"{SEAL} does not match"):
        _read_yaml(path)


def test_each_line_is_read_alone(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    lines = [sealed_line({**SOUND, "loss": number / 10}) for number in range(4)]
    path.write_text("".join(lines) + lines[0][:-5])
    found, problems = read_intact_json_lines(path, _as_document, ADVICE)
    assert [one["loss"] for one in found] == [0.0, 0.1, 0.2, 0.3] and problems == []
    with pytest.raises(DamagedFile, match=r"line 5: .*cut short"):
        list(read_json_lines(path, _Document, ADVICE))
    path.write_text(lines[0] + lines[1].replace("0.1", "0.7") + "\n" + "[" * 200_000 + "\n[]\n" + lines[3])
    found, problems = read_intact_json_lines(path, _as_document, ADVICE)
    assert [one["loss"] for one in found] == [0.0, 0.3]
    assert [one.partition(":")[0] for one in problems] == ["line 2", "line 3", "line 4", "line 5"]
    assert "crc32 does not match" in problems[0] and "expected object" in problems[3]


def test_a_line_without_end_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with path.open("wb") as file:
        file.truncate(1 << 28)  # without blocks on the disk
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + sealed_line(SOUND).encode())
    tracemalloc.start()
    found, problems = read_intact_json_lines(path, _as_document, ADVICE)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 1 and len(problems) == 1
    assert peak_bytes < 1 << 26


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(content=st.dictionaries(st.text(), JSON, max_size=5))
def test_a_seal_fits_whatever_json_holds(content: dict[str, Any]) -> None:
    content.pop(SEAL, None)
    text = json.dumps(sealed(content), indent=2)
    found = json.loads(text)
    seal = found.pop(SEAL)
    assert sealed(found)[SEAL] == seal


@given(text=st.binary(max_size=200) | st.text(alphabet="&*[]{}:,-?!|>'\"% \nab01.:~<", max_size=60).map(str.encode))
def test_any_bytes_give_a_value_or_the_error(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(text)
    readers: list[Callable[[Path], object]] = [_read, _read_yaml, lambda one: list(read_json_lines(one, dict, ADVICE))]
    for read in readers:
        try:
            read(path)
        except DamagedFile as error:
            assert str(error).startswith(f"{path} is damaged")


def test_the_error_can_be_sent_to_another_process(tmp_path: Path) -> None:
    with pytest.raises(DamagedFile) as caught:
        read_json(tmp_path / "one", dict[str, Any], ADVICE)
    sent = pickle.loads(pickle.dumps(caught.value))
    assert (str(sent), sent.path, sent.problem) == (str(caught.value), tmp_path / "one", "is missing")
