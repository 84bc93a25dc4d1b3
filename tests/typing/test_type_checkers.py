"""What a user writes passes strict type checkers, and they see what is wrong: the package's types reach its users."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("user_script.py")
# Each of them replaces a line of the script by a wrong one.
WRONG = {
    "views=10": 'views="ten"',
    "evaluation.top1_error": "evaluation.top2_error",
    "hold_out=0.1": "holdout=0.1",
    "trained.classes[int": "trained.classes[str",
    'optimizer={"learning_rate": 0.02}': "optimizer=0.02",
    '[photograph, "photo.jpg", array]': "[3, array]",
    "one.top[0].name": "one.top[0].number",
    "return seen[0]": "return network.num_classes",
    "alexnet.RequestError": "alexnet.WrongError",
}


def _pyright(*scripts: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, *map(str, scripts)]
    return subprocess.run(command, capture_output=True, text=True, cwd=scripts[0].parent)


def _mypy(*scripts: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file=",
        "--strict",
        "--cache-dir=.mypy_cache",
        *map(str, scripts),
    ]
    return subprocess.run(command, capture_output=True, text=True, cwd=scripts[0].parent)


def _scripts(folder: Path) -> list[Path]:
    """The script, and one for each mistake."""
    text = SCRIPT.read_text()
    scripts = [folder / "right.py"]
    scripts[0].write_text(text)
    for number, (right, wrong) in enumerate(WRONG.items()):
        assert text.count(right) == 1, right
        scripts.append(folder / f"wrong{number}.py")
        scripts[-1].write_text(text.replace(right, wrong))
    return scripts


@pytest.mark.parametrize("checker", [_pyright, pytest.param(_mypy, marks=pytest.mark.slow)])
def test_the_script_of_a_user_passes_and_mistakes_do_not(checker: object, tmp_path: Path) -> None:
    """mypy also checks the script with the package, by pyproject.toml: here without any of its settings."""
    assert callable(checker)
    right, *wrong = _scripts(tmp_path)
    done = checker(right, *wrong)
    found = done.stdout.splitlines()
    assert done.returncode == 1, done.stderr
    assert [line for line in found if "right.py:" in line] == []
    for script, mistake in zip(wrong, WRONG.values(), strict=True):
        assert any(f"{script.name}:" in line and "error" in line for line in found), mistake
