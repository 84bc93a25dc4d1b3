"""The examples do what they say: each is short and runs as a program, on a network with random weights."""

import contextlib
import io
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.exchange.test_export import small

import alexnet
from alexnet.model.weights import save_trained

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted(path for path in EXAMPLES.rglob("*") if path.is_file())


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    path = tmp_path / "photograph.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (260, 300, 3), dtype=np.uint8)).save(path)
    return path


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_examples_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 60


def run_example(name: str, *words: Path) -> str:
    """What an example prints: run as a program, in this process, which has loaded torch already."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, "argv", [name, *map(str, words)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return printed.getvalue()


def test_torchvision_style(tmp_path: Path, photograph: Path) -> None:
    save_trained(tmp_path / "run.safetensors", small())
    assert run_example("torchvision_style.py", tmp_path / "run.safetensors", photograph).rstrip().endswith(" %")


def test_timm_style(tmp_path: Path, photograph: Path) -> None:
    alexnet.export(small("paper"), tmp_path / "hub", to="hub")
    assert run_example("timm_style.py", tmp_path / "hub", photograph).rstrip().endswith(" %")


def test_onnx_runtime(tmp_path: Path, photograph: Path) -> None:
    save_trained(tmp_path / "run.safetensors", small())
    lines = run_example("onnx_runtime.py", tmp_path / "run.safetensors", photograph).splitlines()
    assert len(lines) == 3 and all(" %  " in line for line in lines)
