"""The public functions with plain arguments: paths as text, recipes by name, changed settings, wrong requests."""

import io
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.prepared_files import write_prepared
from tests.training.small_trainings import assert_same_weights, signal_in_step, small_recipe

import alexnet
from alexnet.data.concatenated import open_data
from alexnet.data.shapes import fetch_shapes
from alexnet.explore.features import open_features, write_features
from alexnet.runs.recipe import OptimizerSettings
from alexnet.runs.recipes import QUICK
from alexnet.storage.paths import as_path, as_paths

CHANGES: dict[str, Any] = {
    "network": {"width": 0.125},
    "data": {"crop": 28},
    "optimizer": {"learning_rate": 0.02, "batch_size": 10},
    "schedule": {"epochs": 2},
    "training": {"device": "cpu", "precision": "float32"},
}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current and home folder, with a data set in `data`."""
    write_prepared(tmp_path / "data", {"train": 30, "val": 10}, side=32)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("alexnet.data.shapes.SHAPES_PER_CLASS", {"train": 1, "val": 2})
    return tmp_path


class OtherPath:
    """A path of another library."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return self.path


def with_network(change: Callable[[alexnet.AlexNet], torch.nn.Module]) -> alexnet.Trained:
    """The run `run` with its network changed in place."""
    trained = alexnet.load("run")
    change(trained.network)
    return trained


GIVEN: list[Callable[[str], Any]] = [OtherPath, lambda text: f"~/{text}", lambda text: f"{text}/"]


@pytest.mark.parametrize("as_given", GIVEN, ids=["path of another library", "from home", "with a slash"])
def test_every_call_takes_paths_of_any_kind(as_given: Any, work: Path) -> None:
    fetch_shapes(as_given("shapes"))
    assert alexnet.prepare(as_given("shapes/val"), as_given("made"), side=32).num_classes == 10
    assert alexnet.PreparedData.open(as_given("data")).folder.resolve() == work / "data"
    assert open_data([as_given("data")]).checksum == open_data(as_given("data")).checksum
    run = alexnet.train(as_given("data"), as_given("run"), "quick", **CHANGES)
    assert run.path.resolve() == work / "run" == alexnet.RunFolder.open(as_given("run")).path.resolve()
    assert alexnet.resume(as_given("run"), data=as_given("data"), schedule={"epochs": 3}).metadata()["num_steps"] == 9
    again = alexnet.train([as_given("data")], as_given("again"), as_given("run/recipe.yaml"), as_given("run"))
    assert again.recipe().schedule.epochs == 3 and again.metadata()["start_from"] == str(work / "run")
    assert alexnet.evaluate(as_given("run"), as_given("data"), "train", 9).num_images == 30
    assert alexnet.load(as_given("run")).side == 32
    images = as_given("shapes/val/ring/0000.png")
    assert alexnet.features(as_given("run"), images)["relu4"].shape[0] == 1
    assert alexnet.features(as_given("run"), [images, images])["relu4"].shape[0] == 2
    assert len(alexnet.index(as_given("run"), as_given("data"), device="cpu")) == 30
    found = alexnet.neighbors(as_given("run"), images, index=as_given("run/index"), data=as_given("data"))
    assert len(found) == 1 and len(found[0].by_features) == 6
    assert alexnet.predict(as_given("run"), [images, images]).num_refused == 0
    alexnet.save(alexnet.load(as_given("run")), as_given("saved.safetensors"))
    assert alexnet.load(as_given("saved.safetensors")).side == 32
    assert alexnet.preprocess(images, as_given("run")).shape == (1, 3, 28, 28)
    write_features(as_given("run"), as_given("written"), data_folder=as_given("data"))
    assert open_features(as_given("written")).folder.resolve() == work / "written"
    assert not (work / "~").exists()


def test_changed_settings_are_those_of_the_options(work: Path) -> None:
    recipe = alexnet.train("data", "run", "quick", **CHANGES).recipe()
    assert recipe.optimizer == OptimizerSettings(**{**vars(QUICK.optimizer), "learning_rate": 0.02, "batch_size": 10})
    assert (recipe.name, recipe.network.width, recipe.schedule.epochs) == ("quick", 0.125, 2)
    numpy = {"learning_rate": np.float32(0.25), "batch_size": np.int64(7), "layer_lr_factors": {"conv1": np.float64(0)}}
    given = alexnet.train("data", "numpy", small_recipe(1), optimizer=numpy).recipe().optimizer
    assert (given.learning_rate, given.batch_size, given.layer_lr_factors) == (0.25, 7, {"conv1": 0.0})
    assert type(given.batch_size) is int and type(given.learning_rate) is float
    Path("config.yaml").write_text("schedule: {kind: cosine, epochs: 1}\nnetwork: {variant: quick}\n")
    with pytest.raises(alexnet.RequestError, match=r"--data.crop is 224"):  # over the paper's recipe
        alexnet.train("data", "config", "config.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"optimizer": {"learning_rat": 1}},
            "unknown option --optimizer.learning_rat; did you mean --optimizer.learning_rate?",
        ),
        ({"optimizer": {"epochs": 1}}, "unknown option --optimizer.epochs; did you mean --schedule.epochs?"),
        ({"optimizer": {"rate": 1}}, "--optimizer.rate is now --optimizer.learning_rate"),
        ({"optimizer": {3: 1}}, "unknown option --optimizer.3; optimizer has kind, batch_size, "),
        ({"optimizer": {"lr": 0.1}}, ", learning_rate, "),
        ({"optimizer": {"learning_rate": -1}}, "--optimizer.learning_rate is -1.0; allowed is 0 or more"),
        ({"optimizer": {"learning_rate": "fast"}}, "--optimizer.learning_rate is 'fast'; allowed is a number"),
        ({"optimizer": {"batch_size": 12.5}}, "--optimizer.batch_size is 12.5; allowed is a whole number"),
        ({"optimizer": {"batch_size": True}}, "--optimizer.batch_size is True; allowed is a whole number"),
        ({"optimizer": 0.02}, "optimizer is 0.02; allowed is a mapping of its settings to values"),
        ({"optimizer": [1, 2]}, "optimizer is [1, 2]; allowed is a mapping of its settings to values"),
        ({"data": "data"}, "data is 'data'; allowed is a mapping of its settings to values"),
        ({"schedule": {"kind": "cosin"}}, "--schedule.kind is 'cosin'; allowed is one of steps, plateau"),
        ({"schedule": {"milestones": 0.5}}, "--schedule.milestones is 0.5; allowed is a list of numbers"),
        ({"schedule": {"milestones": [0.5]}}, "--schedule.milestones has no effect on a schedule of kind one-cycle"),
        ({"schedule": {"stages": [{"epoch": 1}]}}, "unknown keys ['epoch']"),
        ({"training": {"device": "tpu"}}, "--training.device is 'tpu'; allowed is one of auto, cpu, cuda, mps"),
        ({"network": {"variant": "papr"}}, "papr"),
        ({"recipe": "quik"}, "unknown recipe 'quik'; did you mean quick? known are quick, paper"),
        ({"recipe": ["quick"]}, "recipe is ['quick']; allowed is a recipe, its name, or a YAML file"),
        ({"recipe": 3}, "recipe is 3; allowed is a recipe, its name, or a YAML file"),
        ({"recipe": "nowhere.yaml"}, "cannot read the recipe nowhere.yaml: No such file or directory"),
        ({"recipe": "data/"}, "cannot read the recipe data: not a regular file"),
        ({"start_from": "nowhere"}, "nowhere does not exist; give a run folder"),
        ({"start_from": 3}, "start_from is 3; allowed is a path"),
        ({"data_folder": "data/dataset.json"}, "data/dataset.json"),
        ({"data_folder": []}, "no data set is named"),
        ({"data_folder": 3}, "the data set is 3; allowed is a path, as text or as a Path object"),
        ({"data_folder": "nowhere"}, "nowhere does not exist; prepare a data set"),
        ({"run_folder": 3}, "the run folder is 3; allowed is a path, as text or as a Path object"),
        ({"run_folder": ["run"]}, "the run folder is ['run']; allowed is a path"),
        ({"run_folder": b"run"}, "the run folder is b'run'; allowed is a path"),
        ({"run_folder": np.zeros((20, 20))}, "the run folder is of type ndarray; allowed is a path"),
        ({"run_folder": ""}, "the run folder is ''; allowed is a path that is not empty"),
        ({"run_folder": "a\0b"}, r"the run folder is 'a\x00b'; allowed is a path that is not empty and has no null"),
        ({"run_folder": "data"}, "data exists already; remove it"),
        ({"run_folder": "data/dataset.json"}, "data/dataset.json"),
    ],
    ids=str,
)
def test_wrong_requests_say_what_is_allowed_and_leave_nothing(changes: Any, message: str, work: Path) -> None:
    before = sorted(work.rglob("*"))
    arguments = {"data_folder": "data", "run_folder": "run", "recipe": "quick", **changes}
    with pytest.raises(alexnet.RequestError) as refused:
        alexnet.train(**arguments)
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert sorted(work.rglob("*")) == before


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: alexnet.resume("nowhere"), "nowhere is not a run folder"),
        (
            lambda: alexnet.resume("data"),
            "data is not a run folder but a prepared data set; give the folder that `alexnet train` wrote",
        ),
        (
            lambda: alexnet.resume("run/weights.safetensors"),
            "run/weights.safetensors is not a run folder but a file; give the run folder that it is in, run",
        ),
        (
            lambda: alexnet.evaluate("data/dataset.json"),
            "is not a run folder but a file; give the run folder that `alexnet train` wrote",
        ),
        (lambda: alexnet.evaluate("shapes"), "(it has no run.json); give the folder that `alexnet train` wrote"),
        (
            lambda: alexnet.evaluate("not yet"),
            "(it does not exist); `alexnet train DATA --run 'not yet'` creates one, or give the folder of a run",
        ),
        (lambda: alexnet.evaluate(alexnet.load("run")), "give the folder, or measure the network without storing"),  # type: ignore[arg-type]
        (
            lambda: alexnet.train("data", "made", "quick", alexnet.load("run")),  # type: ignore[arg-type]
            "write it with `alexnet.save(trained, 'start.safetensors')` and give that file",
        ),
        (
            lambda: alexnet.resume("run", schedule={"epochs": 1}),
            "a finished run of 6 steps, and the schedule has 3; train it for more than 2 epochs with",
        ),
        (lambda: alexnet.resume(3), "the run folder is 3"),
        (
            lambda: alexnet.resume("run", training={"seed": 3}, schedule={"epochs": 3}),
            "cannot resume with training.seed: 0 -> 3",
        ),
        (lambda: alexnet.resume("run", optimizer={"momentun": 1}), "did you mean --optimizer.momentum?"),
        (lambda: alexnet.resume("run", data="nowhere"), "nowhere does not exist"),
        (lambda: alexnet.resume("run"), "holds a finished run of 6 steps"),
        (lambda: alexnet.evaluate("nowhere"), "nowhere is not a run folder"),
        (lambda: alexnet.evaluate("run", "data/dataset.json"), "data/dataset.json"),
        (lambda: alexnet.evaluate("run", split="test"), "has no split 'test'; it has train, val"),
        (lambda: alexnet.evaluate("run", views=5), "--views is 5; allowed are 1"),
        (lambda: alexnet.evaluate("run", views="10"), "--views is '10'; allowed are 1"),
        (lambda: alexnet.evaluate("run", device="tpu"), "unknown device 'tpu'"),
        (lambda: alexnet.evaluate("run", precision="float16"), "precision is 'float16'; allowed are auto"),
        (lambda: alexnet.evaluate([1]), "the run folder is [1]"),
        (lambda: alexnet.load("nowhere"), "nowhere does not exist; give a run folder"),
        (lambda: alexnet.load(3), "the run is 3"),
        (lambda: alexnet.save(alexnet.load("run"), 3), "the file is 3"),
        (lambda: alexnet.predict(3, "shapes/val/ring"), "the run is 3"),
        (lambda: alexnet.predict("run", 3), "images are of type int"),
        (lambda: alexnet.preprocess("nowhere.png"), "nowhere.png"),
        (
            lambda: alexnet.preprocess("https://me:secret@127.0.0.1:9/x.jpg"),
            "https://***@127.0.0.1:9/x.jpg is a URL, which is not downloaded here; download it first",
        ),
        (lambda: alexnet.load("http://127.0.0.1:9/x"), "the run is a URL; allowed is a path: download it first"),
        (lambda: alexnet.predict("run", [1, 2]), "images[0] is of type int; allowed are paths, PIL images"),  # type: ignore[list-item]
        (lambda: alexnet.features("run", ["a.png", None]), "images[1] is of type NoneType; allowed are paths"),  # type: ignore[list-item]
        (lambda: alexnet.preprocess([1, 2]), "images[0] is of type int; allowed are paths, PIL images"),  # type: ignore[list-item]
        (lambda: alexnet.predict("run", io.BytesIO()), "batches of them; open it with `PIL.Image.open`"),  # type: ignore[arg-type]
        (lambda: alexnet.predict("run", [io.BytesIO()]), "batches of them; open it with `PIL.Image.open`"),  # type: ignore[list-item]
        (lambda: alexnet.preprocess([b"GIF"]), "batches of them; open it with `PIL.Image.open(io.BytesIO(content))`"),  # type: ignore[list-item]
        (lambda: alexnet.load("data"), "data is a prepared data set, not a network"),
        (lambda: alexnet.features("run", "nowhere.png"), "nowhere.png"),
        (lambda: alexnet.features(3, "a.png"), "is 3"),
        (lambda: alexnet.features("run", "data", "conv9"), "conv9"),
        (lambda: alexnet.features("run", "shapes/val", batch_size="x"), "--batch-size is 'x'; allowed is 1 or more"),  # type: ignore[arg-type]
        (
            lambda: alexnet.features(with_network(lambda network: network.double()), "shapes/val"),
            "conv1.weight of the network is float64; allowed is float32",
        ),
        (
            lambda: alexnet.features(with_network(lambda network: network.to("meta")), "shapes/val"),
            "conv1.weight of the network has no values",
        ),
        (lambda: alexnet.features("run", "shapes/val", []), "no layers are requested; variant 'quick-3x3' has conv1, "),
        (lambda: alexnet.features("run", "shapes/val", 3), "layers is 3; allowed is the name of a layer"),
        (lambda: alexnet.prepare("shapes", "made", split_folders="a"), "split_folders is 'a'; allowed is a mapping"),
        (lambda: alexnet.prepare("nowhere", "made"), "nowhere does not exist"),
        (lambda: alexnet.prepare(3, "made"), "the source is 3"),
        (lambda: alexnet.prepare("data", "run"), "run exists already; remove it"),
        (lambda: alexnet.prepare("shapes", "made", side="256"), "--side is '256'; allowed is 8 to 1024 pixels"),
        (lambda: alexnet.prepare("shapes", "made", side=True), "--side is True; allowed is 8 to 1024 pixels"),
        (lambda: alexnet.prepare("shapes", "made", hold_out="0.1"), "--hold-out is '0.1'; allowed is a fraction"),
        (lambda: alexnet.prepare("shapes", "made", workers=0.5), "--workers is 0.5; allowed is 1 or more"),
        (lambda: alexnet.prepare("shapes", "made", store="png"), "--store is 'png'; allowed is auto, pixels, jpeg"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_other_calls_refuse_as_well(call: Any, message: str, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    with pytest.raises(alexnet.RequestError) as refused:
        call()
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert not (trained / "made").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photographs, `shapes`, a data set, `data`, and a finished run, `run`."""
    folder = tmp_path_factory.mktemp("calls")
    write_prepared(folder / "data", {"train": 30, "val": 10}, side=32)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("alexnet.data.shapes.SHAPES_PER_CLASS", {"train": 1, "val": 2})
        fetch_shapes(folder / "shapes")
    alexnet.train(folder / "data", folder / "run", "quick", **CHANGES)
    return folder


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_training_computes_gradients_wherever_it_is_called(mode: Any, trained: Path, tmp_path: Path) -> None:
    with mode():
        run = alexnet.train(trained / "data", tmp_path / "run", "quick", **CHANGES)
        assert not torch.is_grad_enabled() and torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
        run = alexnet.resume(run, schedule={"epochs": 3})
    expected = alexnet.train(trained / "data", tmp_path / "expected", "quick", **CHANGES)
    assert_same_weights(run.path, alexnet.resume(expected, schedule={"epochs": 3}).path)


def test_torchs_default_type_changes_no_training(trained: Path, tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        run = alexnet.train(trained / "data", tmp_path / "run", "quick", **CHANGES)
        found = alexnet.evaluate(run, split="val")
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same_weights(run.path, trained / "run")
    assert np.array_equal(found.probabilities, alexnet.evaluate(trained / "run", split="val").probabilities)


def test_weights_of_another_variant_are_refused(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    with pytest.raises(alexnet.RequestError, match="conv1"):
        alexnet.train("data", "other", small_recipe(1), "run", network={"width": 0.25})
    assert not Path("other").exists()


def test_an_interrupt_says_how_to_resume_in_python(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = alexnet.train("data", "whole", small_recipe(2))
    with monkeypatch.context() as patched:
        signal_in_step(patched, 2, number=signal.SIGINT)
        with pytest.raises(alexnet.Interrupted) as stopped:
            alexnet.train("data", "the run", small_recipe(2))
    assert "resume with `alexnet resume 'the run'`" in stopped.value.args[0]
    (note,) = stopped.value.__notes__
    assert note == "In Python: alexnet.resume('the run')"
    resumed = eval(note.removeprefix("In Python: "))
    assert_same_weights(resumed.path, whole.path)
    with pytest.raises(alexnet.RequestError) as finished:
        alexnet.resume("the run")
    assert finished.value.__notes__ == ["In Python: alexnet.resume('the run', schedule={'epochs': N})"]
    # The same call as before completes an interrupted training too.
    with monkeypatch.context() as patched:
        signal_in_step(patched, 2, number=signal.SIGINT)
        with pytest.raises(alexnet.Interrupted):
            alexnet.train("data", "another", small_recipe(2))
    assert_same_weights(alexnet.train("data", "another", small_recipe(2)).path, whole.path)


def test_progress_is_silent_or_called(work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    alexnet.train("data", "silent", small_recipe(1))
    alexnet.evaluate("silent")
    assert capfd.readouterr() == ("", "")
    steps: list[tuple[int, int]] = []
    images: list[tuple[int, int]] = []
    alexnet.train("data", "called", small_recipe(1), progress=lambda *now: steps.append(now))
    alexnet.evaluate("called", progress=lambda *now: images.append(now))
    assert steps == [(1, 3), (2, 3), (3, 3)] and images == [(10, 10)]
    alexnet.train("data", "shown", small_recipe(1), progress=True)
    assert "shown: 3 of 3" in capfd.readouterr().err


def test_results_are_given_where_a_path_is(work: Path) -> None:
    data = alexnet.PreparedData.open("data")
    run = alexnet.train(data, "run", "quick", **CHANGES)
    again = alexnet.train([data], "again", run.path / "recipe.yaml", start_from=run)
    assert again.metadata()["start_from"] == str(work / "run")
    assert alexnet.resume(again, data=data, schedule={"epochs": 3}).state == "finished"
    assert alexnet.evaluate(run, data).num_images == 10 and alexnet.load(run).side == 32
    cpu = torch.device("cpu")
    assert alexnet.evaluate(run, device=cpu).num_images == 10
    images = np.zeros((1, 32, 32, 3), np.uint8)
    assert alexnet.features(run, images, "fc5", device=cpu)["fc5"].shape == (1, 2)
    assert len(alexnet.predict(run, images, device=cpu)) == 1
    assert alexnet.features(run, images, "fc5")["fc5"].shape == (1, 2) and len(alexnet.predict(run, images)) == 1
    write_prepared(work / "other", {"train": 4}, side=32)
    both = open_data([data, work / "other"])
    with pytest.raises(alexnet.RequestError, match="several data sets are concatenated"):
        alexnet.train(both, "both", "quick", **CHANGES)


def test_a_path_is_itself() -> None:
    path = Path("~/x")
    assert as_path(path, "a path") is path or as_path(path, "a path") == path  # only text is expanded
    assert as_path("~nobody-of-this-name/x", "a path") == Path("~nobody-of-this-name/x")
    assert as_paths("a", "a path") == [Path("a")] and as_paths(("a", Path("b")), "a path") == [Path("a"), Path("b")]
