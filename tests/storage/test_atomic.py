"""Files and folders appear whole or not at all."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet.errors import RequestError, WorkError
from alexnet.storage.atomic import require_space, staged_folder, write_bytes, write_json
from alexnet.storage.checksums import file_digest, require_digest


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_write_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"one")
    write_bytes(tmp_path / "a", b"two")
    write_json(tmp_path / "b.json", {"ä": 1})
    assert (tmp_path / "a").read_bytes() == b"two"
    assert (tmp_path / "b.json").read_text() == '{\n  "ä": 1\n}\n'
    assert names(tmp_path) == ["a", "b.json"]


def test_a_write_that_fails_keeps_the_old_file(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"old")
    with pytest.raises(TypeError):
        write_bytes(tmp_path / "a", "text")  # type: ignore[arg-type]
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_a_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    # A limit on the size of files is a full disk that any user can make.
    write_bytes(tmp_path / "a", b"old")
    program = (
        "import resource, signal, sys; from pathlib import Path; from alexnet.storage.atomic import write_bytes\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: write_bytes(Path(sys.argv[1]), bytes(100_000))\n"
        "except OSError as error: print(error.errno)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "a")], capture_output=True, text=True, check=True, timeout=400
    )
    assert int(run.stdout) == errno.EFBIG
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("killed", [True, False])
def test_what_a_killed_writer_left_is_removed_and_a_live_one_is_undisturbed(tmp_path: Path, killed: bool) -> None:
    program = (
        "import sys; from pathlib import Path; from alexnet.storage.atomic import write_chunks\n"
        "def chunks():\n"
        "    yield b'its'; print('ready', flush=True); sys.stdin.readline(); yield b' own'\n"
        "write_chunks(Path(sys.argv[1]), chunks())"
    )
    (tmp_path / ".other.1.partial").write_text("of another file")
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "a")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        if killed:
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert len(names(tmp_path)) == 2
        write_bytes(tmp_path / "a", b"new")
        assert (tmp_path / "a").read_bytes() == b"new"
        assert len(names(tmp_path)) == (2 if killed else 3)
        if not killed:
            process.communicate("go on\n")
    assert process.returncode == (-signal.SIGKILL if killed else 0)
    assert (tmp_path / "a").read_bytes() == (b"new" if killed else b"its own")
    assert names(tmp_path) == [".other.1.partial", "a"]


def test_staged_folder_appears_at_the_end(tmp_path: Path) -> None:
    goal = tmp_path / "deep" / "goal"
    with staged_folder(goal) as stage:
        (stage / "file").write_text("x")
        assert not goal.exists()
    assert names(goal) == ["file"]
    assert names(goal.parent) == ["goal"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_staged_folder_leaves_nothing_after_an_error(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), staged_folder(tmp_path / "goal") as stage:
        (stage / "file").write_text("x")
        raise error
    assert names(tmp_path) == []


def test_staged_folder_after_a_killed_process(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from alexnet.storage.atomic import staged_folder\n"
        "with staged_folder(Path(sys.argv[1])) as stage:\n"
        "    (stage / 'half').write_text('x'); print('ready', flush=True); time.sleep(60)"
    )
    goal = tmp_path / "goal"
    with subprocess.Popen([sys.executable, "-c", program, str(goal)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
    assert not goal.exists()
    with staged_folder(goal) as stage:
        (stage / "whole").write_text("x")
    assert names(goal) == ["whole"]
    assert names(tmp_path) == ["goal"]


def test_a_destination_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "goal").mkdir()
    with staged_folder(tmp_path / "goal") as stage:  # empty: allowed
        (stage / "file").write_text("x")
    with pytest.raises(RequestError, match=r"goal exists already; remove it"), staged_folder(tmp_path / "goal"):
        pass
    (tmp_path / "plain").write_text("a file")
    with pytest.raises(RequestError, match="plain exists already"), staged_folder(tmp_path / "plain"):
        pass
    with pytest.raises(RequestError, match=r"cannot write .*plain/x"), staged_folder(tmp_path / "plain" / "x"):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_destination_is_refused(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(RequestError, match="Permission denied"), staged_folder(tmp_path / "closed" / "goal"):
        pass


def test_space_is_asked_for_beforehand(tmp_path: Path) -> None:
    require_space(tmp_path / "not" / "yet", 1)
    with pytest.raises(WorkError, match=r"needs .* MiB and its disk has"):
        require_space(tmp_path / "not" / "yet", 2**60)


def test_digest(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    # The example of FIPS 180-2, appendix B.1.
    assert file_digest(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    require_digest(tmp_path / "a", "900150983cd24fb0d6963f7d28e17f72", "md5")  # RFC 1321, A.5
    with pytest.raises(WorkError, match="a is corrupt or another version"):
        require_digest(tmp_path / "a", "0" * 64)


def test_names_that_are_no_utf8_survive_json(tmp_path: Path) -> None:
    content = {"path": "caf\udce9/é/😀"}
    write_json(tmp_path / "x.json", content)
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == content
