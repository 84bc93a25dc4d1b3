"""Features of several runs: a folder per run, of the same images, each as of one run; finished ones are kept."""

import json
import logging
import os
import re
import runpy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.explore.test_activation_pca import save_run

from alexnet.cli.main import main
from alexnet.data.preparation.prepare import prepare
from alexnet.errors import Interrupted, RequestError, WorkError
from alexnet.explore import feature_work
from alexnet.explore.features import open_features, write_features, write_features_of_runs
from alexnet.explore.features_of_runs import names_of_runs

HERE: dict[str, Any] = {"device": "cpu", "precision": "float32"}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two data sets of different photographs, two runs of the first, and one of the second."""
    folder = tmp_path_factory.mktemp("runs")
    random = np.random.default_rng(5)
    for number in range(22):
        for name in ("source", "other"):
            path = folder / name / ("val" if number < 10 else "train") / f"color{number % 2}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (44, 44, 3), dtype=np.uint8)).save(path)
    data = prepare(folder / "source", folder / "data", side=32)
    save_run(data, folder / "runs" / "a", 6)
    save_run(data, folder / "runs" / "b", 7)
    save_run(prepare(folder / "other", folder / "other-data", side=32), folder / "runs" / "c", 8)
    return folder


def test_each_run_has_a_folder_as_of_one_run(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    loaded: list[Path] = []
    load = feature_work.load_trained
    monkeypatch.setattr(feature_work, "load_trained", lambda run, **how: loaded.append(run) or load(run, **how))
    runs = [work / "runs" / "a", work / "runs" / "b"]
    wanted: dict[str, Any] = {"layers": ["pool2", "relu4"], "pca": 3, "split": "train", **HERE}
    written = write_features_of_runs(
        runs, tmp_path / "out", batch_size=4, progress=lambda *done: seen.append(done), **wanted
    )
    assert loaded == runs  # once, for the check and the work
    assert list(written) == ["a", "b"] and seen == [(done, 24) for done in range(4, 25, 4)]
    for run in runs:
        alone = write_features(run, tmp_path / "alone" / run.name, batch_size=4, **wanted)
        for path in alone.folder.iterdir():
            assert (tmp_path / "out" / run.name / path.name).read_bytes() == path.read_bytes()
    # The validation images of each on the components of its own training images.
    val = write_features_of_runs(runs, tmp_path / "val", pca=tmp_path / "out", **HERE)
    for name in ("a", "b"):
        assert val[name].projection("relu4").digest() == written[name].projection("relu4").digest()
    assert val["a"].paths == val["b"].paths


def test_it_is_resumed_run_by_run(work: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    runs = [work / "runs" / "a", work / "runs" / "b"]

    def interrupt(done: int, total: int) -> None:
        if done > 12:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        write_features_of_runs(runs, tmp_path / "out", batch_size=2, progress=interrupt, **HERE)
    first = tmp_path / "out" / "a" / "relu4.npy"
    written_at = first.stat().st_mtime_ns
    assert not (tmp_path / "out" / "b").exists()
    caplog.set_level(logging.INFO, logger="alexnet")
    found = write_features_of_runs(runs, tmp_path / "out", batch_size=2, **HERE)
    assert first.stat().st_mtime_ns == written_at and len(found["b"].paths) == 10
    assert caplog.messages == [
        f"{tmp_path / 'out' / 'a'} is finished", f"run 2 of 2: {runs[1]}", "resuming: 4 of 10 images are done",
    ]  # fmt: skip
    whole = write_features(runs[1], tmp_path / "b", batch_size=2, **HERE)
    np.testing.assert_array_equal(found["b"].activations["relu4"], whole.activations["relu4"])
    with pytest.raises(RequestError, match="out/a has the features of another request; remove it or name another"):
        write_features_of_runs(runs, tmp_path / "out", layers="pool2", **HERE)


def test_wrong_requests_are_refused_before_work(work: Path, tmp_path: Path) -> None:
    a, b, c = (work / "runs" / name for name in "abc")
    for runs, options, message in [
        ([a, c], {}, "runs/a and .*runs/c were trained on different data; name the images for both with --data"),
        ([a, b / "weights.safetensors"], {}, "is a weights file, which names no data set; name one with --data"),
        ([a, b, a], {}, "a run is named twice: "),
        ([a, work / "runs" / ".." / "runs" / "a"], {}, "a run is named twice: "),
        ([a, a / "weights.safetensors"], {"data_folder": work / "data"}, "a run is named twice: "),
        ([], {}, "no runs are named"),
        ([a, b], {"layers": "relu9"}, "no layer 'relu9'"),
        ([a, b], {"pca": work / "runs"}, "runs/a contains no features"),
    ]:
        with pytest.raises(RequestError, match=message):
            write_features_of_runs(runs, tmp_path / "out", **{**HERE, **options})
        assert not (tmp_path / "out").exists()
    made = write_features(a, tmp_path / "one", **HERE)
    with pytest.raises(RequestError, match="one has the features of one run; name another folder"):
        write_features_of_runs([a, b], made.folder, **HERE)
    # Of images that are named, any runs.
    mixed = write_features_of_runs([a, c], tmp_path / "out", photographs=[work / "source" / "val"], **HERE)
    assert mixed["a"].paths == mixed["c"].paths and len(mixed["a"].paths) == 10


def test_photographs_that_change_meanwhile_are_noticed(work: Path, tmp_path: Path) -> None:
    photographs = shutil.copytree(work / "source" / "val" / "color0", tmp_path / "photographs")

    def lose(done: int, total: int) -> None:
        victim = next(photographs.iterdir())
        times = victim.stat()
        victim.write_bytes(b"x" * times.st_size)
        os.utime(victim, ns=(times.st_atime_ns, times.st_mtime_ns))

    runs = [work / "runs" / "a", work / "runs" / "b"]
    with pytest.raises(WorkError, match=r"out/a and .*out/b do not have the same images"):
        write_features_of_runs(runs, tmp_path / "out", photographs=[photographs], progress=lose, **HERE)


def test_names_are_short_and_differ(tmp_path: Path) -> None:
    for name in ("x/run", "y/run", "z/other"):
        (tmp_path / name).mkdir(parents=True)
    named = names_of_runs([tmp_path / "x" / "run", tmp_path / "z" / "other"])
    assert list(named) == ["run", "other"]
    named = names_of_runs([tmp_path / "x" / "run", tmp_path / "y" / "run" / "weights.safetensors"])
    assert list(named) == ["x-run", "y-run"]
    assert list(names_of_runs([Path("a/net.v2.safetensors"), Path("net.safetensors")])) == ["net.v2", "net"]


@pytest.mark.slow
def test_the_example_compares_two_runs(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    source = Path(__file__).parents[2] / "examples" / "compare_representations.py"
    assert len(source.read_text().splitlines()) < 60
    monkeypatch.chdir(tmp_path)
    example = runpy.run_path(str(source))
    example["main"](str(work / "runs" / "a"), str(work / "runs" / "b"), "relu4")
    said = capsys.readouterr().out
    assert re.search(r"^a: relu4 \(10, 64, 3, 3\)\n  linear probe: [\d.]+ % correct \(95 % interval", said, re.M)
    a, b = (open_features(f"representations/relu4/{name}").activations["relu4"].reshape(10, -1) for name in "ab")
    cross = ((a - a.mean(axis=0)).T.astype(float) @ (b - b.mean(axis=0)) / 10) ** 2
    want = cross.sum() / np.sqrt((np.cov(a.T.astype(float), bias=True) ** 2).sum())
    want /= np.sqrt((np.cov(b.T.astype(float), bias=True) ** 2).sum())
    assert f"CKA: {want:.3f}, debiased " in said
    with Image.open("representations/relu4/b.png") as picture:
        assert picture.size > (600, 600)


def test_the_command(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, image = str(work / "runs" / "a"), str(work / "runs" / "b"), str(work / "source" / "val" / "color0" / "0.png")
    out = str(tmp_path / "out")
    assert main(["features", a, b, "--out", out, "--device", "cpu"]) == 0
    said = "".join(capsys.readouterr().out.split("\n"))
    assert f"{out}/a/relu4.npy: 10 x 64 x 3 x 3" in said and f"{out}/b/relu4.npy: 10 x 64 x 3 x 3" in said
    assert main(["features", a, b, image, "--out", f"{out}2", "--device", "cpu", "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["runs"]["b"]["images"] == 1 and described["folder"] == f"{out}2" and described["duration_s"] > 0
    assert open_features(f"{out}2/b").paths == (image,)
    assert main(["features", a, image, b, "--out", f"{out}3"]) == 2
    assert "comes after an image; name the runs first" in capsys.readouterr().err
    assert main(["features", a, b, "--list"]) == 2
    assert "name one run" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["features", "--help"])
    assert capsys.readouterr().out.startswith("usage: alexnet features RUN... [IMAGE...] [options]\n")
