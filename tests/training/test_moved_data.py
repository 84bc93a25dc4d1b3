"""A data set that was moved: its new place is named once, and later commands know it."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.training.small_trainings import assert_same_weights, small_recipe, train_interrupted

from alexnet.cli.main import main
from alexnet.data.preparation.prepare import prepare
from alexnet.errors import Interrupted, RequestError
from alexnet.runs.folder import RunFolder
from alexnet.training.loop import train

RECIPE = small_recipe(2)


@pytest.fixture
def folders(make_tree: Any, tmp_path: Path) -> tuple[Path, Path, Path]:
    """A run that was interrupted, a run that was not, and where the data set of both has moved to."""
    prepare(make_tree("photographs"), tmp_path / "data", side=32)
    whole = train(tmp_path / "data", tmp_path / "whole", RECIPE).path
    train_interrupted(tmp_path / "data", RECIPE, tmp_path / "run", 2)
    (tmp_path / "data").rename(tmp_path / "moved")
    return tmp_path / "run", whole, tmp_path / "moved"


def test_resume_takes_the_new_place_and_keeps_it(
    folders: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run, whole, moved = folders
    assert main(["resume", str(run)]) == 2
    said = capsys.readouterr().err
    assert f"{moved.with_name('data')}, on which {run} was trained, does not exist" in said
    assert f"`alexnet resume {run} --data DATA` records it" in said
    assert main(["resume", str(run), "--data", str(moved)]) == 0
    assert f"the data set is at {moved} now" in capsys.readouterr().err
    assert RunFolder.open(run).data_folders() == [moved]
    assert_same_weights(run, whole)
    assert main(["evaluate", str(run), "--views", "1"]) == 0
    assert main(["evaluate", str(whole), "--views", "1"]) == 2  # a finished run has nothing to resume
    said = capsys.readouterr().err
    assert "give its new path with --data; otherwise restore it" in said and "alexnet resume" not in said
    assert main(["evaluate", str(whole), "--views", "1", "--data", str(moved)]) == 0


def test_another_data_set_is_refused(
    folders: tuple[Path, Path, Path], make_tree: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _, moved = folders
    prepare(make_tree("others", side=48), tmp_path / "other", side=32)
    before = (run / "run.json").read_bytes()
    assert main(["resume", str(run), "--data", str(tmp_path / "other")]) == 2
    said = capsys.readouterr().err
    assert "unfinished run on other data" in said and "name the data set that it was started on" in said
    assert (run / "run.json").read_bytes() == before
    shutil.copytree(moved, tmp_path / "changed")
    shutil.copy(tmp_path / "other" / "train-digests.npy", tmp_path / "changed")
    assert main(["resume", str(run), "--data", str(tmp_path / "changed")]) == 1
    assert "train-digests.npy is damaged" in capsys.readouterr().err


def test_the_same_training_continued_from_the_new_place_keeps_it(folders: tuple[Path, Path, Path]) -> None:
    run, whole, moved = folders
    train_interrupted(moved, RECIPE, run, 4)
    assert RunFolder.open(run).data_folders() == [moved]
    with pytest.raises(RequestError, match="does not exist"):
        RunFolder.open(whole).require_data()
    assert main(["resume", str(run)]) == 0
    assert_same_weights(run, whole)


def test_a_baseline_keeps_the_new_place(make_tree: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(make_tree("photographs"), tmp_path / "data", side=32)
    words = [
        "--recipe",
        "sift-fisher",
        "--encoder.components",
        "16",
        "--encoder.dimensions",
        "8",
        "--descriptors.cell_px",
        "4",
        "--run",
        str(tmp_path / "run"),
    ]
    with monkeypatch.context() as patched:

        def interrupt(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        patched.setattr("alexnet.baselines.baseline_run._Stages.run_all", interrupt)
        assert main(["baseline", "sift-fisher", str(tmp_path / "data"), *words]) == Interrupted.exit_code
    (tmp_path / "data").rename(tmp_path / "moved")
    assert main(["baseline", "sift-fisher", str(tmp_path / "moved"), *words]) == 0
    assert RunFolder.open(tmp_path / "run").data_folders() == [tmp_path / "moved"]
    assert main(["evaluate", str(tmp_path / "run")]) == 0
