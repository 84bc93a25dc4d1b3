"""What the loader's settings do to a training: threads, weights, joined data sets, images that cannot be read."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from tests.training.small_trainings import assert_same_weights, small_recipe, train_interrupted

from alexnet.data.concatenated import count_leaks
from alexnet.data.dataset import PreparedData
from alexnet.data.preparation.prepare import prepare
from alexnet.errors import RequestError, WorkError
from alexnet.evaluation.run_evaluation import evaluate
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipe import Recipe, ScheduleSettings, Stage
from alexnet.training.eager_step import EagerStep
from alexnet.training.loop import resume, train

SMALL = small_recipe(evaluate_every=4, workers=1)


def with_training(**changes: Any) -> Recipe:
    return replace(SMALL, training=replace(SMALL.training, **changes))


def damage(data: PreparedData, image: int) -> None:
    """Overwrite the middle of a stored training image."""
    shard, offset, size_bytes = data.splits["train"].images._index[image].tolist()  # type: ignore[attr-defined]
    with (data.folder / f"train-{shard:06d}.tar").open("r+b") as file:
        file.seek(offset + size_bytes // 2)
        file.write(bytes(40))


@pytest.fixture
def jpeg(make_tree: Any, tmp_path: Path) -> PreparedData:
    return prepare(make_tree("photographs"), tmp_path / "jpeg", side=32, store="jpeg")


def test_the_weights_do_not_depend_on_the_threads(jpeg: PreparedData, tmp_path: Path) -> None:
    one = train(jpeg.folder, tmp_path / "one", SMALL)
    three = train(jpeg.folder, tmp_path / "three", with_training(workers=3))
    assert_same_weights(three.path, one.path)


def test_the_log_says_what_went_by_waiting(jpeg: PreparedData, tmp_path: Path) -> None:
    events = train(jpeg.folder, tmp_path / "run", SMALL).events()
    shares = [event["wait_share"] for event in events if event["event"] == "step"]
    assert shares and all(0 <= share <= 1 for share in shares)
    assert shares[0] > 0  # the first batch is waited for


def test_an_unreadable_image_stops_and_the_run_resumes_with_replacement(
    jpeg: PreparedData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage(jpeg, 5)
    key = jpeg.splits["train"].keys[5]
    with pytest.raises(
        WorkError, match=rf"^{key}: image 5 in .*train-000000\.tar is damaged.* resume with `alexnet res"
    ):
        train(jpeg.folder, tmp_path / "run", SMALL)
    assert RunFolder.open(tmp_path / "run").state == "interrupted"
    run = resume(tmp_path / "run", training={"on_unreadable": "replace"})
    logged = [event for event in run.events() if event["event"] == "unreadable"]
    assert [(event["sample"], event["num_unreadable"]) for event in logged] == [(5, 1)]  # once, in four epochs
    assert key in logged[0]["reason"]
    assert f"{key}: image 5" in caplog.text
    assert run.state == "finished" and run.metadata()["unreadable_images"] == 1


def test_what_was_logged_before_an_interruption_is_not_logged_again(jpeg: PreparedData, tmp_path: Path) -> None:
    damage(jpeg, 5)
    recipe = with_training(on_unreadable="replace")
    train_interrupted(jpeg.folder, recipe, tmp_path / "run", 7)  # in the third epoch
    run = train(jpeg.folder, tmp_path / "run", recipe)
    assert [event["num_unreadable"] for event in run.events() if event["event"] == "unreadable"] == [1]


@pytest.mark.parametrize("policy", ["stop", "replace"])
def test_a_data_set_that_vanishes_for_a_while_does_not_cost_the_run(
    jpeg: PreparedData, tmp_path: Path, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(jpeg.folder, tmp_path / "whole", SMALL)
    shard, away = jpeg.folder / "train-000000.tar", tmp_path / "away.tar"
    step = EagerStep.run

    def step_then_lose(own: EagerStep, phase: Any, batch: Any, number: int, learning_rates: Any) -> None:
        step(own, phase, batch, number, learning_rates)
        if number + 1 == 4 and shard.exists():
            shard.rename(away)

    monkeypatch.setattr(EagerStep, "run", step_then_lose)
    # So that no batch of a later epoch is made before.
    recipe = with_training(on_unreadable=policy, checkpoint_every=0.0)
    with pytest.raises(WorkError, match="resume with `alexnet resume"):
        train(jpeg.folder, tmp_path / "run", recipe)
    monkeypatch.undo()
    assert RunFolder.open(tmp_path / "run").state == "interrupted"
    away.rename(shard)
    again = train(jpeg.folder, tmp_path / "run", recipe)
    assert_same_weights(again.path, whole.path)


def test_a_damaged_validation_image_stops_and_the_run_can_go_on(jpeg: PreparedData, tmp_path: Path) -> None:
    content = (jpeg.folder / "val-000000.tar").read_bytes()
    shard, offset, size_bytes = jpeg.splits["val"].images._index[2].tolist()  # type: ignore[attr-defined]
    assert shard == 0
    middle = offset + size_bytes // 2
    (jpeg.folder / "val-000000.tar").write_bytes(content[:middle] + bytes(40) + content[middle + 40 :])
    key = jpeg.splits["val"].keys[2]
    with pytest.raises(
        WorkError,
        match=rf"^{key} of split 'val' cannot be read, and a split is evaluated as a whole or not at all: image 2",
    ):
        train(jpeg.folder, tmp_path / "run", with_training(on_unreadable="replace"))
    (jpeg.folder / "val-000000.tar").write_bytes(content)
    assert train(jpeg.folder, tmp_path / "run", with_training(on_unreadable="replace")).state == "finished"


def test_joined_sets_train_and_are_measured_together(make_tree: Any, tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    prepare(make_tree("first"), folders[0], side=32, store="jpeg")
    prepare(make_tree("second", side=48), folders[1], side=32)
    assert count_leaks(folders) is None  # JPEG bytes say nothing of pixels
    run = train(folders, tmp_path / "run", replace(SMALL, schedule=replace(SMALL.schedule, epochs=6)))
    assert run.data_folders() == folders
    assert run.metadata()["data"]["splits"] == {"train": 48, "val": 24}
    assert evaluate(run.path).num_images == 24
    assert run.events()[-2]["top1_error"] == 0.0  # three plain colors


def test_a_leak_between_joined_sets_is_logged(make_tree: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = make_tree("first"), make_tree("second", side=48)
    copied = second / "val" / "color0" / "copy.png"
    copied.write_bytes((first / "train" / "color0" / "0.png").read_bytes())
    for name, tree in (("a", first), ("b", second)):
        prepare(tree, tmp_path / name, side=32)
    run = train([tmp_path / "a", tmp_path / "b"], tmp_path / "run", SMALL)
    assert run.metadata()["data"]["leaks"] == 1
    assert "LEAK: 1 evaluation images of one data set are among the training images" in caplog.text


def test_weights_of_classes_are_read_and_unknown_ones_refused(jpeg: PreparedData, tmp_path: Path) -> None:
    def weighted(**weights: float) -> Recipe:
        return replace(SMALL, data=replace(SMALL.data, class_weights=weights, sampling="class-balanced"))

    with pytest.raises(RequestError, match=r"--data.class_weights names hue0; .* has the classes color0, color1"):
        train(jpeg.folder, tmp_path / "run", weighted(hue0=2.0))
    assert not (tmp_path / "run").exists()
    run = train(jpeg.folder, tmp_path / "run", weighted(color0=0.0))
    # What a network never saw it does not name.
    result = evaluate(run.path).to_dict()
    assert [one["top1_error"] for one in result["per_class"]] == [1.0, 0.0, 0.0]
    assert json.loads(json.dumps(run.metadata()))["state"] == "finished"


def test_stages_weigh_their_own_images(jpeg: PreparedData, tmp_path: Path) -> None:
    def staged(**weights: float) -> Recipe:
        stages = (
            Stage(epochs=1, learning_rate=0.01),
            Stage(epochs=1, learning_rate=0.01, images=8),
        )  # the first 8 are color0
        return replace(
            SMALL,
            data=replace(SMALL.data, class_weights=weights),
            schedule=ScheduleSettings(kind="stages", stages=stages),
        )

    with pytest.raises(RequestError, match="gives no training image a weight above 0"):
        train(jpeg.folder, tmp_path / "run", staged(color0=0.0))
    assert not (tmp_path / "run").exists()
    assert train(jpeg.folder, tmp_path / "run", staged(color1=0.0)).state == "finished"


def test_images_stored_class_by_class_are_not_trained_on_in_that_order(jpeg: PreparedData, tmp_path: Path) -> None:
    labels = jpeg.splits["train"].labels
    assert (labels[1:] >= labels[:-1]).all()
    with pytest.raises(RequestError, match=r"stores its images class by class: \d+ % of them follow"):
        train(jpeg.folder, tmp_path / "run", replace(SMALL, data=replace(SMALL.data, order="stored")))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("order", ["once", "stored"])
def test_a_fixed_order_goes_with_no_weights(order: Literal["once", "stored"]) -> None:
    with pytest.raises(RequestError, match=rf"--data.order is {order}, but --data.sampling class-balanced"):
        replace(SMALL.data, order=order, sampling="class-balanced")
    with pytest.raises(RequestError, match=r"--data.file_images is -1; allowed is 0"):
        replace(SMALL.data, file_images=-1)
