"""Images in no class folder, as a competition's test images: stored, shown, and refused where labels are needed."""

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from tests.html_page import Page

import alexnet
from alexnet.cli.main import main
from alexnet.data.concatenated import count_leaks, open_data
from alexnet.data.dataset import PreparedData
from alexnet.data.preparation import finalize as finalize_module
from alexnet.data.preparation.prepare import prepare
from alexnet.errors import RequestError
from alexnet.evaluation.run_evaluation import evaluate, remap_classes
from alexnet.explore.features import features, write_features
from alexnet.model.network import AlexNet
from alexnet.model.weights import Trained, save_trained
from alexnet.report.inspection import summarize_data
from alexnet.report.inspection_page import write_inspection
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipes import QUICK

NUM = 5


@pytest.fixture
def tree(make_tree: Any) -> Path:
    """Three classes, a `test` folder of images without classes, one of which is a copy of a training image."""
    root: Path = make_tree("source")
    (root / "test").mkdir()
    for number in range(NUM - 1):
        pixels = np.random.default_rng(100 + number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "test" / f"{number}.png")
    shutil.copy(root / "train" / "color0" / "0.png", root / "test" / "copy.png")
    return root


@pytest.fixture(params=["pixels", "jpeg"])
def data(request: pytest.FixtureRequest, tree: Path, tmp_path: Path) -> PreparedData:
    return prepare(tree, tmp_path / "data", side=32, store=request.param, shard_images=3)


@pytest.fixture
def run(data: PreparedData, tmp_path: Path) -> RunFolder:
    """A run whose network has random weights."""
    run = RunFolder.create(tmp_path / "run", QUICK, {"data": {"folder": str(data.folder), "checksum": data.checksum}})
    network = AlexNet(data.num_classes, "quick", 0.25, generator=torch.Generator().manual_seed(6))
    mean = torch.from_numpy(data.statistics.mean_image.copy())
    save_trained(
        run.weights, Trained(network=network, classes=data.classes, mean_image=mean, crop=28, title="t", generated=True)
    )
    return run


def test_they_are_a_split_without_labels(data: PreparedData, tree: Path, tmp_path: Path) -> None:
    split = data.splits["unlabeled"]
    assert list(split.keys) == [*(f"test/{number}.png" for number in range(NUM - 1)), "test/copy.png"]
    assert split.labels.tolist() == [-1] * NUM and split.labels.dtype == np.int64
    assert data.evaluation_split == "val"
    # The labeled part is that of the same tree without these images.
    shutil.rmtree(tree / "test")
    without = prepare(tree, tmp_path / "without", side=32, store=data.store, shard_images=3)
    assert np.array_equal(without.statistics.mean_image, data.statistics.mean_image)
    for name, other in without.splits.items():
        assert np.array_equal(other.labels, data.splits[name].labels) and list(other.keys) == list(
            data.splits[name].keys
        )
        assert np.array_equal(without.digests(name), data.digests(name))
    assert np.array_equal(np.asarray(split.images[NUM - 1]), np.asarray(data.splits["train"].images[0]))


@pytest.mark.parametrize("store", ["pixels", "jpeg"])
def test_a_damaged_one_is_refused_and_without_any_sound_one_there_is_no_split(
    tree: Path, tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (tree / "test").iterdir():
        path.write_bytes(path.read_bytes()[:60])
    with monkeypatch.context() as patched:  # stopped when its files are removed and nothing is described yet
        patched.setattr(finalize_module, "write_sealed_json", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare(tree, tmp_path / "none", side=32, max_refused=0.5, store=store)
    data = prepare(tree, tmp_path / "none", side=32, max_refused=0.5, store=store)
    assert set(data.splits) == {"train", "val"} and not list(data.folder.glob("unlabeled*"))
    refused = [json.loads(line) for line in (data.folder / "refused.jsonl").read_text().splitlines()]
    assert len(refused) == NUM and {(one["split"], one["class"]) for one in refused} == {("unlabeled", "")}
    assert PreparedData.open(data.folder).checksum == data.checksum


def test_features_can_use_them_and_evaluations_cannot(data: PreparedData, run: RunFolder, tmp_path: Path) -> None:
    made = write_features(run.path, tmp_path / "out", data_folder=data.folder, split="unlabeled", device="cpu")
    assert made.labels is None and made.paths == tuple(data.splits["unlabeled"].keys)
    assert {row["class"] for row in csv.DictReader((tmp_path / "out" / "images.csv").read_text().splitlines())} == {""}
    images = np.array(data.splits["unlabeled"].images[0:NUM])
    assert np.array_equal(
        next(iter(made.activations.values())), next(iter(features(run.path, images, device="cpu").values()))
    )
    with pytest.raises(RequestError, match=f"{NUM} of {NUM} images of split 'unlabeled' .* have no label"):
        evaluate(run.path, data=data.folder, split="unlabeled", device="cpu")
    assert evaluate(run.path, data=data.folder, device="cpu").num_images == 12


def test_concatenated_and_renumbered_sets_keep_them_without_labels(
    data: PreparedData, tree: Path, tmp_path: Path
) -> None:
    (tree / "train" / "color0").rename(tree / "train" / "zebra")
    (tree / "val" / "color0").rename(tree / "val" / "zebra")
    other = prepare(tree, tmp_path / "other", side=32, store=data.store)
    both = open_data([data.folder, other.folder])
    assert both.num_classes == 4 and both.splits["unlabeled"].labels.tolist() == [-1] * 2 * NUM
    known = both.classes[::-1]
    assert remap_classes(known, both).splits["unlabeled"].labels.tolist() == [-1] * 2 * NUM
    # Copies of training images count as leaks only where errors are measured.
    own = {bytes(row) for row in data.digests("train")}
    assert count_leaks([data.folder, other.folder]) == sum(2 for row in data.digests("val") if bytes(row) in own)


def test_inspect_shows_them(data: PreparedData, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = summarize_data(data)
    of_split = summary["splits"]["unlabeled"]
    assert (of_split["images"], of_split["listed"], of_split["refused"]) == (NUM, NUM, 0)
    assert of_split["largest"] is of_split["smallest"] is of_split["imbalance"] is None and of_split["missing"] == []
    assert all(set(one["images"]) == {"train", "val"} for one in summary["classes"])
    assert "leak" not in {one["topic"] for one in summary["warnings"]}
    (copy,) = (one for one in summary["duplicates"]["groups"] if one["copies"] == 2)
    assert [one["class"] for one in copy["images"]] == ["color0", ""]
    html = write_inspection(data, tmp_path / "page.html").read_text()
    assert Page(html).tags.count("img") and "no labels" in html and "unlabeled, no label" in html
    assert main(["inspect", str(data.folder)]) == 0
    (line,) = (
        line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("unlabeled") and "-" in line
    )
    assert line.split()[:5] == ["unlabeled", str(NUM), str(NUM), "0", "-"]


def test_predict_classifies_a_split(
    data: PreparedData, run: RunFolder, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def predict(*words: object) -> list[dict[str, Any]]:
        assert main(["predict", str(run.path), *map(str, words), "--json"]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    answers = predict(data.folder)
    assert [one["image"] for one in answers] == list(data.splits["unlabeled"].keys)
    assert [one["image"] for one in predict(data.folder, "--split", "val", "--views", 1)] == list(
        data.splits["val"].keys
    )
    # The same network sees the same pixels when it classifies the stored images as photographs.
    for index in range(NUM):
        Image.fromarray(np.asarray(data.splits["unlabeled"].images[index])).save(tmp_path / f"{index}.png")
    for one, other in zip(answers, predict(*(tmp_path / f"{index}.png" for index in range(NUM))), strict=True):
        probabilities = [{top["id"]: top["probability"] for top in answer["top"]} for answer in (one, other)]
        assert probabilities[0] == pytest.approx(probabilities[1], abs=2e-3)
    for words, message in (
        ([data.folder, "--split", "some"], "has no split 'some'; it has"),
        ([data.folder, tree / "test"], "is a prepared data set, but other arguments are photographs"),
        ([data.folder, "--fit", "pad"], "--fit is pad, and the images of .* are square already; omit it"),
        ([tree / "test", "--split", "val"], "--split is val, and .* is not a prepared data set; omit it"),
    ):
        assert main(["predict", str(run.path), *map(str, words)]) == 2
        assert re.search(message, capsys.readouterr().err)


def test_predict_reads_a_split_from_python_too(data: PreparedData, run: RunFolder, tree: Path, tmp_path: Path) -> None:
    def keys(images: Any, **how: Any) -> list[str | int]:
        return [one.image for one in alexnet.predict(run, images, views=1, device="cpu", **how)]

    unlabeled, val = list(data.splits["unlabeled"].keys), list(data.splits["val"].keys)
    for named in (data.folder, str(data.folder), data, [data.folder], (data,)):
        assert keys(named) == unlabeled
    assert keys(data, split="val") == keys(str(data.folder), split="val") == val
    copy = shutil.copytree(data.folder, tmp_path / "copy")
    both = open_data([data.folder, copy])
    assert keys([data, str(copy)]) == keys(both) == list(both.splits["unlabeled"].keys)
    pixels = np.array(data.splits["val"].images[:])
    found = alexnet.predict(run, data, split="val", device="cpu", precision="float32").probabilities
    expected = alexnet.predict(run, pixels, device="cpu", precision="float32").probabilities
    np.testing.assert_array_equal(found, expected)
    photographs = str(tree / "test")
    calls: list[tuple[Any, dict[str, Any], str]] = [
        (data, {"split": "some"}, "has no split 'some'; it has"),
        ([data, photographs], {}, "is a prepared data set, but other arguments are photographs"),
        ([photographs, str(data.folder)], {}, "is a prepared data set, but other arguments are photographs"),
        (both, {"fit": "pad"}, "--fit is pad, and the images of .* are square already; omit it"),
        (photographs, {"split": "val"}, "--split is val, and .*test is not a prepared data set; omit it"),
        (pixels, {"split": "val"}, "--split is val, and an image in memory is not a prepared data set; omit it"),
        ([], {"split": "val"}, "--split is val, and an empty list is not a prepared data set; omit it"),
        (iter([data]), {"split": "val"}, "--split is val, and an iterator is not a prepared data set; omit it"),
    ]
    for images, how, message in calls:
        with pytest.raises(RequestError, match=message):
            keys(images, **how)
    (row,) = alexnet.predict(run, iter([str(data.folder)]), device="cpu")
    assert row.reason is not None and "is a prepared data set, not a folder of photographs" in row.reason
    with pytest.raises(RequestError, match=r"is a prepared data set, not a folder of photographs; .*data_folder"):
        alexnet.features(run, data.folder, device="cpu")
