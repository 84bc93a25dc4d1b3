"""A run evaluated on its own data and on other data: classes in another order, fewer, unknown; a single image."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.prepared_files import redescribe

from alexnet.data.dataset import PreparedData
from alexnet.data.preparation.prepare import prepare
from alexnet.errors import RequestError
from alexnet.evaluation.evaluate import evaluate_probabilities
from alexnet.evaluation.predictions import load_predictions
from alexnet.evaluation.run_evaluation import evaluate, evaluate_one_and_ten, remap_classes
from alexnet.model.network import AlexNet
from alexnet.model.weights import Trained, save_trained
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipes import QUICK

FIGURES = ("num_images", "top1_error", "top1_interval", "top5_error", "loss", "calibration", "classes_absent")


@pytest.fixture
def own(make_tree: Any, tmp_path: Path) -> PreparedData:
    return prepare(make_tree("own", classes=7, val=3), tmp_path / "own-data", side=32)


@pytest.fixture
def run(own: PreparedData, tmp_path: Path) -> RunFolder:
    """A run of the seven classes of `own`, whose weights are random, so that it is right now and then."""
    data = {"folder": str(own.folder), "checksum": own.checksum}
    run = RunFolder.create(tmp_path / "run", QUICK, {"data": data})
    network = AlexNet(7, "quick", 0.25, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        network.get_parameter("fc5.weight").mul_(10)
    mean_image = torch.from_numpy(own.statistics.mean_image.copy())
    save_trained(
        run.weights,
        Trained(network=network, classes=own.classes, mean_image=mean_image, crop=28, title="t", generated=True),
    )
    return run


def measured(run: RunFolder, **options: Any) -> dict[str, Any]:
    """The results, as the command prints them."""
    evaluation = evaluate(run.path, device="cpu", precision="float32", progress=False, **options)
    return {"run": str(run.path), **evaluation.to_dict()}


def reordered(data: PreparedData, folder: Path, order: list[int]) -> PreparedData:
    """The data set once more with its classes in another order: new class `place` is the old `order[place]`."""
    shutil.copytree(data.folder, folder)
    classes = [data.description["classes"][old] for old in order]
    for split in data.splits.values():
        np.save(folder / f"{split.name}-labels.npy", np.argsort(order)[split.labels].astype(np.int64))
    redescribe(folder, classes=classes)
    return PreparedData.open(folder)


def test_dense_results_are_stored_beside_the_others(run: RunFolder, own: PreparedData) -> None:
    results = {views: measured(run, views=views) for views in (1, 9, 10, "dense")}
    assert set(run.evaluations()) == {"val-10views", "val-1views", "val-9views", "val-dense"}
    stored = run.evaluations()["val-dense"]
    assert stored == results["dense"] and stored["num_views"] == "dense"
    names = sorted(path.name for path in (run.path / "predictions").iterdir())
    assert names == [f"val-{name}.safetensors" for name in ("10views", "1views", "9views", "dense")]
    found = load_predictions(run.path / "predictions", "val", "dense", own)
    assert evaluate_probabilities(found.probabilities, own, "val", "dense").to_dict()["loss"] == stored["loss"]
    assert 0 < results[10]["top1_error"] < 1
    np.testing.assert_array_equal(found.labels(own), own.splits["val"].labels)


def test_one_and_ten_views_are_measured_in_one_pass(
    run: RunFolder, own: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stored() -> dict[str, tuple[dict[str, Any], bytes]]:
        files = run.path / "predictions"
        return {
            name: (
                {key: value for key, value in one.items() if key != "images_per_second"},
                (files / f"{name}.safetensors").read_bytes(),
            )
            for name, one in run.evaluations().items()
        }

    alone = {views: measured(run, views=views) for views in (1, 10)}
    expected = stored()
    passes = 0
    forward = AlexNet.forward

    def counted(network: AlexNet, images: torch.Tensor) -> torch.Tensor:
        nonlocal passes
        passes += len(images)
        return forward(network, images)

    monkeypatch.setattr(AlexNet, "forward", counted)
    found = evaluate_one_and_ten(run.path, device="cpu", precision="float32", progress=False)
    assert passes == 10 * len(own.splits["val"])
    assert stored() == expected and set(expected) == {"val-1views", "val-10views"}
    assert [one.num_views for one in found] == [1, 10]
    for one in found:
        assert one.top1_error == alone[one.num_views]["top1_error"] and one.images_per_second is not None
    assert alone[1]["loss"] != alone[10]["loss"]
    assert found[0].images_per_second == pytest.approx(10 * (found[1].images_per_second or 0))


def test_the_same_classes_in_another_order_count_the_same(run: RunFolder, own: PreparedData, tmp_path: Path) -> None:
    order = [3, 0, 6, 1, 5, 2, 4]
    other = reordered(own, tmp_path / "other", order)
    assert [one.id for one in other.classes] == [f"color{old}" for old in order]
    expected, result = measured(run), measured(run, data=other.folder)
    for name in (*FIGURES, "per_class", "confused_pairs"):
        assert result[name] == expected[name], name
    assert 0 < result["top1_error"] < 1
    # It does not take the place of the run's own result.
    assert set(run.evaluations()) == {"val-1views", f"val-1views-{other.checksum[:12]}"}
    mine = load_predictions(run.path / "predictions", "val", 1, own)
    theirs = load_predictions(run.path / "predictions" / other.checksum[:12], "val", 1, other)
    assert theirs.class_ids == mine.class_ids == tuple(one.id for one in own.classes)
    np.testing.assert_array_equal(theirs.probabilities, mine.probabilities)
    np.testing.assert_array_equal(theirs.labels(other), mine.labels(own))


def test_a_subset_of_the_classes_is_answered_among_all(
    run: RunFolder, own: PreparedData, make_tree: Any, tmp_path: Path
) -> None:
    tree = make_tree("few", classes=7, val=3)
    for name in ("color0", "color2", "color3", "color4"):
        for split in ("train", "val"):
            shutil.rmtree(tree / split / name)
    few = prepare(tree, tmp_path / "few-data", side=32)
    assert [one.id for one in few.classes] == ["color1", "color5", "color6"]
    result = measured(run, data=few.folder)
    assert (result["num_images"], result["num_classes"], result["classes_absent"]) == (9, 7, 4)
    # The same images as among the run's own: each of their classes has the error that it has there.
    errors = [one["top1_error"] for one in measured(run)["per_class"]]
    expected = [errors[place] if place in (1, 5, 6) else None for place in range(7)]
    assert [one["top1_error"] for one in result["per_class"]] == expected
    assert [one["id"] for one in result["per_class"]] == [one.id for one in own.classes]
    guessed = {pair["predicted"] for pair in result["confused_pairs"]}
    assert guessed - {one.id for one in few.classes}  # wrong, and a class that the data set lacks
    found = load_predictions(run.path / "predictions" / few.checksum[:12], "val", 1, few)
    assert found.probabilities.shape == (9, 7) and found.class_ids == tuple(one.id for one in own.classes)
    assert found.labels(few).tolist() == [1, 1, 1, 5, 5, 5, 6, 6, 6]


def test_a_class_that_the_network_lacks_is_refused(run: RunFolder, make_tree: Any, tmp_path: Path) -> None:
    tree = make_tree("more", classes=3)
    for split in ("train", "val"):
        (tree / split / "color1").rename(tree / split / "aardvark")
        (tree / split / "color2").rename(tree / split / "zebra")
    more = prepare(tree, tmp_path / "more-data", side=32)
    with pytest.raises(RequestError, match=r"has 7 classes and .* has 3; the network lacks number 0 .* 'aardvark'"):
        measured(run, data=more.folder)
    assert run.evaluations() == {} and not (run.path / "predictions").exists()


def test_a_validation_set_of_one_image(run: RunFolder, make_tree: Any, tmp_path: Path) -> None:
    tree = make_tree("one", classes=7, val=1)
    for index in (0, 1, 2, 4, 5, 6):
        shutil.rmtree(tree / "val" / f"color{index}")
    one = prepare(tree, tmp_path / "one-data", side=32)
    assert len(one.splits["val"]) == 1
    for views in (1, 10, "dense"):
        result = measured(run, data=one.folder, views=views)
        assert (result["num_images"], result["classes_absent"]) == (1, 6)
        assert result["top1_error"] in (0.0, 1.0) and 0 <= result["top1_interval"][0] < result["top1_interval"][1] <= 1
        assert [bin_["num_images"] for bin_ in result["calibration"]["bins"]] == [1]
        json.dumps(result, allow_nan=False)


def test_the_networks_own_data_are_left_as_they_are(own: PreparedData) -> None:
    renamed = tuple(replace(one, name="another name") for one in own.classes)
    assert remap_classes(renamed, own) is own
