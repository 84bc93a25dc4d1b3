"""The opening sentence says what was measured, how sure that is, and what it does not show."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.report.made_up_runs import RECIPE, describe, make_run, write_data

from alexnet.data.dataset import PreparedData
from alexnet.report.opening import chance_error, opening
from alexnet.runs.baseline_recipe import BASELINES
from alexnet.runs.folder import RunFolder
from alexnet.runs.import_recipe import ImportedFile, ImportedInput, ImportedNetwork, ImportRecipe
from alexnet.runs.recipe import Recipe


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return write_data(tmp_path_factory.mktemp("opening") / "data")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data: PreparedData) -> RunFolder:
    return make_run(tmp_path_factory.mktemp("opening") / "run", data)


def evaluation(
    wrong: int = 1487,
    num: int = 3925,
    classes: int = 10,
    counts: list[int] | None = None,
    split: str = "val",
    views: int = 10,
    absent: int = 0,
) -> dict[str, Any]:
    """Errors with the interval of Wilson's formula, written out."""
    rate, z = wrong / num, 1.959963984540054
    middle, half = rate + z * z / (2 * num), z * (rate * (1 - rate) / num + z * z / (4 * num * num)) ** 0.5
    interval = [(middle - half) / (1 + z * z / num), (middle + half) / (1 + z * z / num)]
    shares = counts or [num // classes + (number < num % classes) for number in range(classes)]
    return {
        "split": split,
        "num_views": views,
        "num_images": num,
        "num_classes": classes,
        "classes_absent": absent,
        "top1_error": rate,
        "top1_interval": interval,
        "top5_error": 0.182,
        "top5_interval": [0.17, 0.19],
        "per_class": [{"id": f"c{one}", "name": f"class {one}", "num_images": num} for one, num in enumerate(shares)],
    }


def test_the_sentence_of_a_measured_network(run: RunFolder) -> None:
    said = opening(run, evaluation(), run.events(), "imagenette")
    assert said.sentence == (
        "On 3,925 validation images of imagenette, the network misclassifies 37.9 % (95 % interval 36.4 to 39.4 %) "
        "with ten views; guessing would misclassify 90 %."
    )
    assert len(said.caveats) == 1 and "not the seed" in said.caveats[0]


def test_of_many_classes_the_five_guesses_are_told_too(run: RunFolder) -> None:
    said = opening(run, evaluation(20_350, 50_000, 1000, views=1), [], "ILSVRC-2012").sentence
    assert "misclassifies 40.7 % (95 % interval 40.3 to 41.1 %) with one view, and its five guesses miss 18.2 %" in said
    assert said.endswith("guessing would misclassify 99.9 %.")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (evaluation(90, 100), "do not show that it has learned anything"),
        (evaluation(86, 100), "do not show that it has learned anything"),
        (evaluation(100, 100), "worse than guessing: that would misclassify 90 %"),
        (evaluation(70, 100), "; guessing would misclassify 90 %."),
        (
            evaluation(25, 100, 3, [80, 10, 10]),
            "always naming class 0 would misclassify 20 %: these images do not show",
        ),
        (evaluation(5, 100, 3, [80, 10, 10]), "; always naming class 0 would misclassify 20 %."),
        (evaluation(0, 1), "On 1 validation image of"),
        (evaluation(0, 10, 1, [10]), "with a single class, that says nothing"),
        (evaluation(1, 1000), "misclassifies 0.10 % (95 % interval 0.02 to 0.56 %)"),
    ],
)
def test_it_says_when_nothing_was_learned(run: RunFolder, found: dict[str, Any], expected: str) -> None:
    assert expected in opening(run, found, [], "x").sentence


def test_chance_is_that_of_guessing_unless_one_class_has_most_images() -> None:
    assert chance_error(evaluation()) == (0.9, "guessing")
    assert chance_error(evaluation(1, 100, 3, [80, 10, 10])) == (pytest.approx(0.2), "always naming class 0")


def test_what_weakens_the_result_is_said(tmp_path: Path, data: PreparedData) -> None:
    schedule = replace(RECIPE.schedule, kind="plateau")
    run = make_run(tmp_path / "run", data, recipe=replace(RECIPE, schedule=schedule))
    run.update_metadata(state="interrupted", data={**describe(data), "leaks": 17})
    text = " ".join(opening(run, evaluation(absent=3), run.events(), "x").caveats)
    for words in (
        "The training is not finished: 4 of 4 epochs are done.",
        "may be of earlier weights of this training; the validation after epoch 4 measured 60.0 % with one view.",
        "17 images are in the training split and in another one",
        "The schedule read the errors",
        "3 of the 10 classes have no images here",
    ):
        assert words in text
    trained_on = " ".join(opening(run, evaluation(split="train"), [], "x").caveats)
    assert "was trained on these images" in trained_on and "17 images" not in trained_on


@pytest.mark.parametrize(("seen", "expected"), [(("step",), "No error has been measured yet"), ((), "has no steps")])
def test_without_an_error_it_says_that_nothing_is_known(
    tmp_path: Path, data: PreparedData, seen: tuple[str, ...], expected: str
) -> None:
    run = RunFolder.create(tmp_path / "run", RECIPE, {"data": describe(data)})
    events = [{"event": one, "step": 1, "epoch": 0.5} for one in seen]
    said = opening(run, None, events, "x").sentence
    assert expected in said


def test_without_an_evaluation_the_last_validation_is_told(run: RunFolder) -> None:
    said = opening(run, None, run.events(), "Made up").sentence
    assert said == (
        "After epoch 4, as the training itself measured it on 60 validation images of Made up, the network "
        "misclassifies 60.0 % (95 % interval 47.4 to 71.4 %) with one view; guessing would misclassify 66.7 %, "
        "so these images do not show that it has learned anything."
    )
    at_chance = [*run.events(), {"event": "at_chance", "step": 40, "epoch": 4}]
    assert "no better than that of guessing" in " ".join(opening(run, None, at_chance, "x").caveats)


def test_of_a_baseline_it_names_the_kind(tmp_path: Path, data: PreparedData) -> None:
    run = RunFolder.create(tmp_path / "run", next(iter(BASELINES.values())), {"data": describe(data)})
    said = opening(run, evaluation(views=1), [], "x")
    assert ", the baseline sift-fisher misclassifies 37.9 %" in said.sentence and "view" not in said.sentence
    assert not isinstance(run.any_recipe(), Recipe) and "seed" not in " ".join(said.caveats)


def imported(folder: Path, untrained: tuple[str, ...] = ()) -> RunFolder:
    """A run of weights that another program wrote."""
    recipe = ImportRecipe(
        imported=ImportedFile(name="old.pth", sha256="0" * 64, size_bytes=5, format="a PyTorch file"),
        network=ImportedNetwork(
            variant="torchvision",
            width=1.0,
            num_classes=10,
            classes_from="file",
            class_list="",
            features_only=bool(untrained),
            untrained_layers=untrained,
        ),
        input=ImportedInput(
            color_order="rgb",
            scale="255",
            scale_in_weights=False,
            mean=(0.0, 0.0, 0.0),
            has_mean_image=False,
            convention_from="file",
            given=(),
            side=256,
            crop=224,
            fit="crop",
        ),
    )
    return RunFolder.create(folder, recipe, {"state": "finished"})


def test_of_an_imported_network_it_says_that_its_training_is_unknown(tmp_path: Path) -> None:
    run = imported(tmp_path / "run")
    said = opening(run, evaluation(), [], "imagenette")
    assert "the network misclassifies 37.9 %" in said.sentence
    assert said.caveats == (
        "The network was imported: what it was trained on is not known, and these images may be among that.",
    )
    assert "imported from old.pth and has not been evaluated" in opening(run, None, [], "x").sentence


def test_an_import_that_was_measured_has_that_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = [
        {"is_claimed": False, "top1_error": 0.1, "top1_interval": [0.05, 0.2]},
        {"is_claimed": True, "top1_error": 0.585, "top1_interval": [0.516, 0.651]},
    ]
    proof = {"sample": {"num_images": 200, "split": "val", "title": "imagenette"}, "combinations": ways}
    monkeypatch.setattr(RunFolder, "proof", lambda self: proof)
    assert opening(imported(tmp_path / "run"), None, [], "x").sentence == (
        "As the import measured it on 200 validation images of imagenette, the network misclassifies 58.5 % (95 % "
        "interval 51.6 to 65.1 %) with one view; it has not been evaluated on more."
    )


def test_a_network_without_a_classifier_has_no_error(tmp_path: Path) -> None:
    said = opening(imported(tmp_path / "run", ("fc7", "fc8")), None, [], "x").sentence
    assert said == (
        "The network gives features and scores no classes: fc7, fc8 have random weights, so it has no error."
    )
