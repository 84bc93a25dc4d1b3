"""What is shipped is whole: every import is declared, the files agree with each other, the wheel works elsewhere."""

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

import alexnet

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Import name -> name in the package index, where the two differ.
IN_TRITON = ("gpu.py", "crop_kernel.py", "triton_trial.py", "update_gpu.py")
DISTRIBUTION = {"PIL": "pillow", "yaml": "pyyaml", "sklearn": "scikit-learn", "faiss": "faiss-cpu"}
# The room that is written in scikit-learn; the command looks for it before it loads the room.
IN_SCIKIT_LEARN = "baselines"


def names_in(requirements: list[str]) -> set[str]:
    return {re.match(r"[A-Za-z0-9_.-]+", line)[0].lower() for line in requirements}  # type: ignore[index]


def declared() -> set[str]:
    return names_in(PROJECT["dependencies"])


def foreign_imports(nodes: Iterable[ast.AST]) -> set[str]:
    imported = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            imported.add((node.module or "").split(".")[0])
    return {DISTRIBUTION.get(name, name) for name in imported - sys.stdlib_module_names - {"alexnet"}}


def test_every_import_is_declared() -> None:
    trees = [ast.parse(path.read_text()) for path in Path(alexnet.__file__).parent.rglob("*.py")]
    anywhere = foreign_imports(node for tree in trees for node in ast.walk(tree))
    extras = PROJECT["optional-dependencies"]
    optional = names_in([line for extra in extras.keys() - {"dev"} for line in extras[extra]])
    assert anywhere - optional == declared()
    # What only an extra brings is imported where it is needed, never with a module but those that are written in it.
    modules = [path for path in Path(alexnet.__file__).parent.rglob("*.py") if path.name not in IN_TRITON]
    modules = [path for path in modules if path.parent.name != IN_SCIKIT_LEARN]
    assert not optional & foreign_imports(node for path in modules for node in ast.parse(path.read_text()).body)


def test_constraints_pin_every_dependency_once() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pinned = [re.fullmatch(r"([A-Za-z0-9_.-]+)==\S+", line)[1].lower() for line in lines]  # type: ignore[index]
    assert len(set(pinned)) == len(pinned)
    assert declared() <= set(pinned)
    # torch's build for CUDA, which the package index has for Linux, requires this version of Triton and no other.
    assert "torch>=2.11" in PROJECT["dependencies"] and {"torch==2.13.0", "triton==3.7.1"} <= set(lines)


def test_version_is_the_same_everywhere() -> None:
    assert f"version: {alexnet.__version__}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {alexnet.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_readme_names_what_exists() -> None:
    readme = (ROOT / "README.md").read_text()
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", readme):
        assert (ROOT / link).exists(), f"README links to {link}"
    for room in re.findall(r"^    ([a-z]+)/ ", readme, re.MULTILINE):
        assert (ROOT / "src" / "alexnet" / room).is_dir(), f"README's tree names {room}/"
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"`?make ([a-z]+)", readme):
        assert target in targets, f"README names `make {target}`"


def test_no_library_that_brings_another_torch() -> None:
    assert not {"torchvision", "torchaudio", "timm"} & declared()


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_environment(tmp_path: Path) -> None:
    """Build the wheel, put it alone into a new environment beside its dependencies, and run the doctor there."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=300,
    )
    (wheel,) = tmp_path.glob("*.whl")
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True, timeout=300)
    python = environment / "bin" / "python"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(python),
            "install",
            "--quiet",
            "--no-deps",
            "--no-index",
            str(wheel),
        ],
        check=True,
        timeout=600,
    )
    # The declared dependencies come from here (torch alone takes minutes to install); this project's own source
    # does not: a folder named in a .pth file is searched, but the .pth files inside it are not read.
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = str(environment / "bin" / "alexnet")
    where = subprocess.run(
        [str(python), "-c", "import alexnet; print(alexnet.__file__)"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert str(environment) in where.stdout
    doctor = subprocess.run([command, "doctor"], cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    assert importlib.metadata.version("torch") in doctor.stdout
    # The report's template travels with the wheel.
    assert list(packages.glob("alexnet/report/templates/*")) and (packages / "alexnet" / "py.typed").exists()
    assert shutil.which("alexnet", path=str(environment / "bin"))
