"""The container image: what its file copies is enough to build the package, and its commands work for any user."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ENGINE = "ALEXNET_CONTAINER_ENGINE"
"""Environment variable: the program that builds and runs images, such as docker. Without it the image is not built."""
BUILD_OPTIONS = "ALEXNET_CONTAINER_BUILD_OPTIONS"
"""Environment variable: further options of its `build`, such as `--build-arg TORCH_INDEX=URL`."""


def copied() -> list[str]:
    """What the container file copies from the repository."""
    lines = re.findall(r"^COPY (.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    return [source for line in lines for source in line.split()]


def is_sent(name: str) -> bool:
    """Whether the builder sees a file or folder at the top of the repository: the last fitting line decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#") and fnmatch(name, line.removeprefix("!")):
            sent = line.startswith("!")
    return sent


def build_wheel(folder: Path, destination: Path) -> set[str]:
    """The names of the files in the wheel of a source folder."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(destination)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)
    (wheel,) = destination.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_what_the_image_copies_builds_the_whole_package(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="hatchling is not installed; it is in the extra `dev`")
    source = tmp_path / "source"
    source.mkdir()
    for name in copied():
        assert is_sent(name), f".dockerignore withholds {name}, which the container file copies"
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    built = build_wheel(source, tmp_path / "wheel")
    package = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src" / "alexnet").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert package <= built
    assert any(name.endswith("licenses/LICENSE") for name in built)


@pytest.mark.parametrize("name", ["data", "runs", ".venv", ".git", ".hypothesis", "tests"])
def test_data_runs_and_environments_stay_outside_the_image(name: str) -> None:
    assert not is_sent(name)


def pins(lines: str) -> dict[str, str]:
    """Versions by the normalized name of the package, without what they add for a build (2.13.0+cpu)."""
    found = re.findall(r"^([\w.-]+)==([^\s+]+)", lines, re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in found}


@pytest.fixture(scope="module")
def image() -> Iterator[tuple[str, str]]:
    """The engine, and the name of the image that it built."""
    engine = os.environ.get(ENGINE)
    if not engine:
        pytest.skip(f"the environment variable {ENGINE} names no program that builds images, such as docker")
    name = f"alexnet-test-{os.getpid()}"
    options = shlex.split(os.environ.get(BUILD_OPTIONS, ""))
    subprocess.run([engine, "build", "-t", name, *options, str(ROOT)], check=True, timeout=3600)
    yield engine, name
    subprocess.run([engine, "rmi", "--force", name], check=True, timeout=300)
    subprocess.run([engine, "volume", "rm", name], check=True, timeout=300)


@pytest.mark.slow
def test_a_user_without_an_account_trains_in_the_container(image: tuple[str, str], tmp_path: Path) -> None:
    engine, name = image
    user = (os.getuid(), os.getgid()) if os.getuid() else (12345, 12345)
    work = tmp_path / "work"
    work.mkdir()
    os.chown(work, *user)
    tmp_path.chmod(0o755)

    def call(*command: str, entrypoint: str = "alexnet") -> str:
        options = ["--rm", "--init", "--user", f"{user[0]}:{user[1]}", "--entrypoint", entrypoint]
        volumes = ["-v", f"{work}:/work", "-v", f"{name}:/home/alexnet"]
        done = subprocess.run(
            [engine, "run", *options, *volumes, name, *command], capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "fused normalization and pooling" in call("doctor")
    call("fetch", "shapes", "shapes")
    call("prepare", "shapes", "data/shapes")
    call(
        "train", "data/shapes", "--recipe", "quick", "--network.width", "0.5", "--schedule.epochs", "1", "--run", "run"
    )
    assert "val" in call("evaluate", "run")
    call("report", "run")
    assert "ring" in call("predict", "run", "shapes/val/ring/0000.png", "--top", "10")
    written = [work, *work.rglob("*")]
    assert {(path.stat().st_uid, path.stat().st_gid) for path in written} == {user}
    assert (work / "run" / "report.html").stat().st_size > 10_000
    # Machine code is kept from one command to the next.
    assert int(call("-c", "find /home/alexnet/.cache/numba -name '*.nbc' | wc -l", entrypoint="sh")) > 10
    # Without --user the image's own account is used, which is not root's.
    who = subprocess.run([engine, "run", "--rm", "--entrypoint", "id", name, "-u"], capture_output=True, check=True)
    assert who.stdout.strip() == b"1000"

    installed = pins(call("-m", "pip", "list", "--format=freeze", "--exclude", "pip", entrypoint="python"))
    del installed["alexnet"]
    pinned = pins((ROOT / "constraints.txt").read_text())
    assert {package: pinned.get(package) for package in installed} == installed
