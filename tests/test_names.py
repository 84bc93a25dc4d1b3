"""Names of others in everything that commands print: all are accepted, none acts on a terminal or ends the work."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from tests.html_page import Page

from alexnet.cli.main import main
from alexnet.data.sources.formats import open_source
from alexnet.errors import RequestError

CLASSES = (
    "寿司\u3000握り",
    "می\u200cخواهم",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "a\u00a0b",
    "[bold]:dog: \u202eevil",
)
"""A wide space, a joiner of Persian, an emoji of three, a fixed space; what would act as markup or reorder text."""
IMAGES = (b"plain.png", b"caf\xe9.png", b"\x1b]0;pwned\x07\x1b[31mX.png", b"new\nline\r.png", "\U0001f415.png".encode())
BAD = b"\x9b31m\xff\x1b[2J broken.png"
RUN = os.fsdecode(b"run \x1b[7m\xe9\n")


def draw(path: bytes, color: int, number: int) -> None:
    pixels = np.random.default_rng(number).integers(0, 80, (32, 32, 3))
    pixels[..., color % 3] += 150 - 40 * (color // 3)
    with open(path, "wb") as file:
        Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photographs, a prepared data set and two evaluated runs, all with the names above."""
    folder = tmp_path_factory.mktemp("names")
    for split, copies in (("train", 2), ("val", 1)):
        for color, name in enumerate(CLASSES):
            (folder / "source" / split / name).mkdir(parents=True)
            for number, image in enumerate(IMAGES * copies):
                place = os.fsencode(folder / "source" / split / name) + b"/%d " % number + image
                draw(place, color, 100 * color + 10 * copies + number)
    bad = os.fsencode(folder / "source" / "train" / CLASSES[0]) + b"/" + BAD
    with open(bad, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\nbroken")
    previous = Path.cwd()
    os.chdir(folder)
    try:
        assert main(["prepare", "source", "data", "--side", "32"]) == 0
        for run, seed in ((RUN, "1"), (RUN + "2", "2")):
            words = ["--recipe", "quick", "--network.width", "0.125", "--optimizer.batch_size", "10"]
            words += ["--schedule.epochs", "1", "--training.seed", seed]
            assert main(["train", "data", "--run", run, *words]) == 0
            assert main(["evaluate", run, "--views", "1"]) == 0
    finally:
        os.chdir(previous)
    (folder / "photographs").mkdir()
    for number, image in enumerate(IMAGES):
        draw(os.fsencode(folder / "photographs") + b"/" + image, 0, number)
    return folder


def printed(words: list[str], encoding: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command on streams that encode strictly; nothing in them acts on a terminal."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict") for _ in range(2)]
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", streams[0])
        patched.setattr(sys, "stderr", streams[1])
        code = main(words)
    out, err = (stream.buffer.getvalue().decode(encoding) for stream in streams)  # type: ignore[attr-defined]
    for text in (out, err):
        assert all(letter == "\n" or letter not in ACTIVE for letter in text), text
        assert "Traceback" not in text
    return code, out, err


ACTIVE = {*map(chr, range(32)), *map(chr, range(0x7F, 0xA0)), "\u202e", *map(chr, range(0xD800, 0xE000))}
PREPARE = ["prepare", "source", "again", "--side", "32"]
COMMANDS: dict[str, tuple[list[str], int]] = {
    "prepare": (PREPARE, 0),
    "prepare, a file that cannot be read": ([*PREPARE, "--on-bad", "stop"], 1),
    "prepare, too many of them": ([*PREPARE, "--max-refused", "0"], 1),
    "prepare, a source of another name": (["prepare", RUN + "no", "again"], 2),
    "inspect": (["inspect", "data", "--html", "page.html"], 0),
    "inspect --json": (["inspect", "data", "--json"], 0),
    "train, a finished run": (["train", "data", "--run", RUN, "--recipe", "quick"], 2),
    "train --show": (["train", "data", "--show", "--recipe", "quick"], 0),
    "train, no such option": (["train", "data", "--\x1b[31m\udce9"], 2),
    "train, no such value": (["train", "data", "--recipe", "\x1b[31m\udce9\n"], 2),
    "an unknown command": (["\x1b[31m\udce9\n"], 2),
    "resume": (["resume", RUN], 2),
    "runs": (["runs", "."], 0),
    "runs --json": (["runs", ".", "--json"], 0),
    "evaluate": (["evaluate", RUN, "--views", "1"], 0),
    "evaluate --json": (["evaluate", RUN, "--views", "1", "--json"], 0),
    "ensemble": (["ensemble", RUN, RUN + "2", "--views", "1"], 0),
    "ensemble --json": (["ensemble", RUN, RUN + "2", "--views", "1", "--json"], 0),
    "compare": (["compare", RUN, RUN + "2", "--views", "1", "--html", "page.html"], 0),
    "compare --json": (["compare", RUN, RUN + "2", "--views", "1", "--json"], 0),
    "table": (["table", RUN, RUN + "2", "--views", "1"], 0),
    "table --format latex": (["table", RUN, RUN + "2", "--views", "1", "--format", "latex"], 0),
    "table --json": (["table", RUN, RUN + "2", "--views", "1", "--json"], 0),
    "predict": (["predict", RUN, "photographs"], 0),
    "predict --json": (["predict", RUN, "photographs", "--json"], 0),
    "predict --csv": (["predict", RUN, "photographs", "no\x1b[31m\n\udce9.jpg", "--csv"], 0),
    "predict, nothing that can be read": (["predict", RUN, "no\x1b[31m\n\udce9.jpg"], 2),
    "features": (["features", RUN, "--out", "activations"], 0),
    "features of photographs --json": (["features", RUN, "photographs", "--out", "activations", "--json"], 0),
    "features --list": (["features", RUN, "--list"], 0),
    "report": (["report", RUN], 0),
}


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_ends_by_a_name_or_lets_it_act(
    name: str, encoding: str, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work)
    words, expected = COMMANDS[name]
    code, out, err = printed(words, encoding, monkeypatch)
    for made in ("again", "activations"):
        shutil.rmtree(made, ignore_errors=True)
    assert code == expected, err
    if "--json" in words:
        assert out.isascii() and all(json.loads(line) for line in out.splitlines())
        assert out.count("\n") == (len(IMAGES) if name == "predict --json" else 1)
    if "--csv" in words:
        assert len(list(csv.reader(out.splitlines()))) == out.count("\n") == 1 + len(IMAGES) + 1
    if code:
        assert err.splitlines()[-1].startswith("alexnet: error: ") or "took" in err


def test_names_in_json_find_the_files(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)

    def printed_json(*words: str) -> Any:
        return json.loads(printed([*words, "--json"], "ascii", monkeypatch)[1])

    lines = printed(["predict", RUN, "photographs", "--views", "1", "--json"], "ascii", monkeypatch)[1]
    predicted = [json.loads(line) for line in lines.splitlines()]
    assert sorted(os.fsencode(one["image"]) for one in predicted) == sorted(b"photographs/" + one for one in IMAGES)
    assert {one["name"] for one in predicted[0]["top"]} == set(CLASSES)
    inspected = printed_json("inspect", "data")
    (reason,) = inspected["refused"]["reasons"]
    (refused,) = reason["examples"]
    assert os.fsencode(refused).endswith(BAD) and (work / "source" / refused).is_file()
    assert {one["id"] for one in inspected["classes"]} == set(CLASSES)
    compared = printed_json("compare", RUN, RUN + "2", "--views", "1")
    assert compared["images"] and all((work / "source" / one["key"]).is_file() for one in compared["images"])


def test_names_in_csv_find_the_files(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    assert main(["features", RUN, "photographs", "--out", "named"]) == 0
    with open("named/images.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(IMAGES) and all(Path(row["path"]).is_file() for row in rows)


def test_pages_show_names_and_let_none_act(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    assert main(["report", RUN]) == 0
    assert main(["inspect", "data", "--html", "inspected.html"]) == 0
    assert main(["compare", RUN, RUN + "2", "--views", "1", "--html", "compared.html"]) == 0
    for path in (Path(RUN, "report.html"), Path("inspected.html"), Path("compared.html")):
        page = Page(path.read_text(encoding="utf-8"))
        assert not ACTIVE - {"\n"} & set(page.html)
        assert path.name == "compared.html" or all(name.replace("\u202e", r"\u202e") in page.text for name in CLASSES)
        shown = page.text + " ".join(str(alt) for alt in page.alts)
        assert r"\xe9.png" in shown or r"new\nline\r.png" in shown or r"\x1b]0;pwned" in shown


def test_class_names_of_a_weights_file_are_text_only(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    with safetensors.safe_open(Path(RUN, "weights.safetensors"), framework="numpy") as file:
        described = json.loads(file.metadata()["alexnet"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (the file is no mapping)
    for one in described["classes"]:
        one["name"] = "\x1b[31mX\n\x9b2J<b>" + one["name"]
    safetensors.numpy.save_file(tensors, "hostile.safetensors", {"alexnet": json.dumps(described)})
    for words in (["predict", "hostile.safetensors", "photographs"], ["features", "hostile.safetensors", "--list"]):
        code, out, err = printed(words, "utf-8", monkeypatch)
        assert code == 0, err
    assert (
        out
        and r"\x1b[31mX\n\u009b2J<b>a"
        in printed(["predict", "hostile.safetensors", "photographs"], "utf-8", monkeypatch)[1]
    )


@pytest.mark.parametrize("name", ["a\x1b[31m", "a\nb", "a\x7f", "a\x85", "\u3000", os.fsdecode(b"caf\xe9")])
def test_control_characters_and_bytes_are_no_class_names(name: str, tmp_path: Path) -> None:
    for one in (name, "other"):
        (tmp_path / one).mkdir()
        draw(os.fsencode(tmp_path / one) + b"/1.png", 0, 1)
    with pytest.raises(RequestError, match=r"is blank|has a control character|is not UTF-8") as refused:
        open_source(tmp_path)
    assert repr(name) in str(refused.value)


def run_alexnet(words: list[str], folder: Path, **settings: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "alexnet", *words]
    return subprocess.run(command, cwd=folder, env={**os.environ, **settings}, capture_output=True, timeout=300)


@pytest.mark.parametrize(
    "settings",
    [{"PYTHONIOENCODING": "utf-8:strict"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}],
    ids=str,
)
def test_names_in_the_locales_of_terminals(settings: dict[str, str], work: Path) -> None:
    done = run_alexnet(["predict", RUN, "photographs", "--views", "1"], work, **settings)
    assert done.returncode == 0 and done.stderr == b""
    assert rb"photographs/caf\xe9.png" in done.stdout and b"\x1b" not in done.stdout


@pytest.mark.parametrize("words", [["runs", "."], ["train", "--help"], ["--help"]])
def test_a_command_whose_output_nobody_reads_ends_quietly(words: list[str], work: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "alexnet", *words], cwd=work, stdout=closed, stderr=subprocess.PIPE, timeout=300
        )
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_output_that_cannot_be_written_is_an_error(work: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "alexnet", "runs", "."], cwd=work, stdout=full, stderr=subprocess.PIPE, timeout=300
        )
    assert done.returncode == 1 and done.stderr.startswith(b"alexnet: error: ")
    assert b"No space left on device" in done.stderr and done.stderr.count(b"\n") == 1
