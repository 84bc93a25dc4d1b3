"""Imports from the command to every other command, and what is refused, interrupted, repeated or out of space."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.exchange.color_networks import color_weights, write_network, write_photographs
from tests.html_page import Page

import alexnet
from alexnet.cli import import_command
from alexnet.cli.main import main
from alexnet.errors import RequestError, WorkError
from alexnet.exchange import imported_run
from alexnet.exchange.proof import NUM_IMAGES
from alexnet.runs.folder import RunFolder
from alexnet.runs.import_recipe import ImportRecipe
from alexnet.runs.overview import describe_run

READING = ["--color-order", "rgb", "--input-scale", "255", "--mean", "0,0,0"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set `data`, files rgb.pth, bgr.pth and features.pth, and the run `run` of rgb.pth."""
    folder = tmp_path_factory.mktemp("imports")
    write_photographs(folder)
    write_network(folder / "rgb.pth")
    write_network(folder / "bgr.pth", "bgr")
    write_network(folder / "features.pth", names=("conv1", "conv2", "conv3"))
    write_network(folder / "no-fc4.pth", names=("conv1", "conv2", "conv3"))
    assert main(words(folder, "rgb.pth", "run", *READING, "--data", str(folder / "data"))) == 0
    return folder


def words(folder: Path, file: str, run: str, *more: str) -> list[str]:
    classes = [] if "--features-only" in more or "--classes" in more else ["--classes", str(folder / "data")]
    return ["import", str(folder / file), "--run", str(folder / run), "--variant", "cifar-four-layer", *classes, *more]


@pytest.fixture
def own(work: Path, tmp_path: Path) -> Path:
    """A copy of the files without runs, to be changed."""
    for name in ("rgb.pth", "bgr.pth", "features.pth"):
        shutil.copy(work / name, tmp_path / name)
    (tmp_path / "data").symlink_to(work / "data")
    return tmp_path


def error_of(capfd: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("alexnet: error: ")]
    assert len(lines) == 1
    return lines[0]


def test_the_run_folder_says_what_was_imported(work: Path) -> None:
    run = RunFolder.open(work / "run")
    recipe, metadata = run.any_recipe(), run.metadata()
    assert isinstance(recipe, ImportRecipe) and run.state == "finished" and metadata["finished"]
    assert recipe.imported.name == "rgb.pth" and recipe.imported.size_bytes == (work / "rgb.pth").stat().st_size
    assert (recipe.network.variant, recipe.network.width, recipe.network.num_classes) == ("cifar-four-layer", 0.11, 3)
    assert recipe.input.mean == (0.0, 0.0, 0.0) and recipe.input.convention_from == "options"
    assert "data" not in metadata and metadata["proved_on"] is not None
    assert metadata["proved_on"]["checksum"] == alexnet.PreparedData.open(work / "data").checksum
    assert metadata["parameters"] == sum(one.numel() for one in color_weights().values())
    assert sorted(one.name for one in run.path.iterdir() if not one.name.startswith(".")) == [
        *("proof.json", "recipe.yaml", "run.json", "weights.safetensors")
    ]
    state = alexnet.load(run).network.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in color_weights().items())
    described = describe_run(run.path)
    assert (described["recipe"], described["imported_from"], described["data"]) == ("import", "rgb.pth", None)


def test_the_command_says_what_was_found(work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*words(work, "rgb.pth", "run", *READING, "--data", str(work / "data")), "--json"]) == 0
    described = json.loads(capfd.readouterr().out)
    assert described["proof"]["combinations"][0]["top1_error"] == 0
    assert described["network"]["variant"] == "cifar-four-layer" and described["input"]["color_order"] == "rgb"
    assert main(words(work, "rgb.pth", "run", *READING, "--data", str(work / "data"))) == 0
    shown = capfd.readouterr()
    assert "is already imported; nothing was changed" in shown.err
    for expected in (
        "variant cifar-four-layer, width 0.11",
        "net.0",
        "verdict: ",
        "next: alexnet evaluate",
        "RGB, colors 0..255",
    ):
        assert expected in shown.out, expected


def test_every_command_works_with_an_imported_run(
    work: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, data = str(tmp_path / "run"), str(work / "data")
    shutil.copytree(work / "run", run)
    assert main(["evaluate", run, "--data", data, "--json"]) == 0
    evaluated = json.loads(capfd.readouterr().out)
    assert [one["top1_error"] for one in evaluated["evaluations"]] == [0, 0]
    assert main(["runs", str(tmp_path)]) == 0
    assert "rgb.pth" in capfd.readouterr().out
    Image.fromarray(np.full((50, 40, 3), (10, 200, 20), np.uint8)).save(tmp_path / "green.png")
    assert main(["predict", run, str(tmp_path / "green.png"), "--json", "--reject", "0.1"]) == 0
    assert json.loads(capfd.readouterr().out)["top"][0]["id"] == "b-green"
    assert main(["features", run, str(tmp_path / "green.png"), "--layer", "conv3", "--out", str(tmp_path / "f")]) == 0
    assert main(["features", run, "--data", data, "--untrained", "--out", str(tmp_path / "u")]) == 0
    assert "of seed 0" in capfd.readouterr().out
    assert main(["report", run]) == 0
    page = Page((Path(run) / "report.html").read_text(encoding="utf-8"))
    assert (
        "imported from rgb.pth" in page.text
        and "Learning curves" not in page.text
        and "trained on unknown" not in page.text
    )
    assert "Classified correctly" in page.text
    assert main(["export", run, "--to", "safetensors", "--out", str(tmp_path / "x.safetensors")]) == 0
    shutil.copytree(run, tmp_path / "other")
    assert main(["compare", run, str(tmp_path / "other"), "--data", data, "--views", "1"]) == 0
    assert main(["ensemble", run, str(tmp_path / "other"), "--data", data, "--views", "1"]) == 0
    capfd.readouterr()
    assert main(["table", run, "--data", data, "--views", "1"]) == 0
    assert "unknown data (imported from rgb.pth)" in capfd.readouterr().out


def test_it_is_finetuned_with_the_papers_settings_and_starts_other_trainings(work: Path, tmp_path: Path) -> None:
    settings = ["--schedule.epochs", "1", "--optimizer.learning_rate", "0", "--training.precision", "float32"]
    tuned = tmp_path / "tuned"
    words = ["finetune", str(work / "run"), str(work / "data"), "--run", str(tuned), "--freeze-until", "none"]
    assert main([*words, *settings]) == 0
    recipe = RunFolder.open(tuned).recipe()
    assert (recipe.network.variant, recipe.network.width, recipe.data.crop) == ("cifar-four-layer", 0.11, 32)
    assert recipe.optimizer.momentum == 0.9
    state = alexnet.load(tuned).network.state_dict()
    assert torch.equal(state["conv3.weight"], color_weights()["conv3.weight"])
    started = tmp_path / "started"
    alexnet.train(
        work / "data",
        started,
        "quick",
        work / "run",
        network={"variant": "cifar-four-layer", "width": 0.11},
        data={"crop": 32},
        schedule={"epochs": 1},
        optimizer={"kind": "sgd", "learning_rate": 0.0, "layer_lr_factors": {}},
    )
    assert torch.equal(alexnet.load(started).network.state_dict()["conv1.weight"], color_weights()["conv1.weight"])


REFUSED: dict[str, tuple[list[str], str]] = {
    "resume": (
        ["resume", "RUN"],
        "was imported from rgb.pth and has no training; train the network on with",
    ),
    "evaluate without data": (
        ["evaluate", "RUN"],
        "was imported and has no data set of its own; name a",
    ),
    "compare without data": (
        ["compare", "RUN", "OTHER"],
        "was imported and has no data set of its own",
    ),
    "a training in its folder": (["train", "DATA", "--run", "RUN", "--recipe", "quick"], "was imported from rgb.pth"),
    "reject without an evaluation": (
        ["predict", "RUN", "x.png", "--reject", "0.5"],
        "and has no saved probabilities",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_an_imported_run_cannot_do_is_said(
    name: str, work: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given, message = REFUSED[name]
    for run in ("run", "other"):
        shutil.copytree(work / "run", tmp_path / run)
    places = {"RUN": tmp_path / "run", "OTHER": tmp_path / "other", "DATA": work / "data"}
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "x.png")
    capfd.readouterr()
    assert main([str(places.get(one, tmp_path / one if one == "x.png" else one)) for one in given]) == 2
    assert message in error_of(capfd)


def test_without_a_classifier_there_are_features_and_finetuning_and_nothing_else(
    own: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, data = str(own / "features"), str(own / "data")
    assert main(words(own, "features.pth", "features")) == 2
    assert "it lacks fc4; --features-only imports what it has" in error_of(capfd)
    assert main(words(own, "features.pth", "features", "--features-only", "--data", data)) == 0
    shown = capfd.readouterr().out
    assert "not trained, because they were not imported: fc4" in shown and "next: alexnet features" in shown
    scores = "class scores need fc4, which were not imported: their weights are random."
    refused: dict[tuple[str, ...], str] = {
        ("predict", run, str(own / "data")): scores,
        ("predict", run, str(own / "data"), "--csv"): scores,
        ("evaluate", run, "--data", data): scores,
        ("ensemble", run, run + "2", "--data", data): scores,
        ("features", run, "--data", data, "--layer", "fc4", "--out", str(own / "f")): "activations of fc4 need fc4",
    }
    shutil.copytree(run, run + "2")
    for command, message in refused.items():
        capfd.readouterr()
        assert main([*command]) == 2, command
        shown_all = capfd.readouterr()
        assert message in shown_all.err and not shown_all.out, command
    assert main(["features", run, "--data", data, "--layer", "conv3", "--out", str(own / "f")]) == 0
    with pytest.raises(RequestError, match="class scores need fc4"):
        alexnet.predict(run, np.zeros((32, 32, 3), np.uint8))
    assert main(["report", run]) == 0
    assert "Features only" in Page((Path(run) / "report.html").read_text(encoding="utf-8")).text
    tuned = str(own / "tuned")
    assert main(["finetune", run, data, "--run", tuned, "--schedule.epochs", "1"]) == 0
    assert alexnet.load(tuned).untrained_layers == ()
    assert main(["evaluate", tuned, "--views", "1"]) == 0


def test_untrained_layers_are_not_copied_into_other_trainings(own: Path) -> None:
    run = alexnet.import_weights(own / "features.pth", own / "f", variant="cifar-80sec", features_only=True)
    assert alexnet.load(run).untrained_layers == ("fc4", "fc5")
    assert main(["finetune", str(run.path), str(own / "data"), "--run", str(own / "t"), "--schedule.epochs", "1"]) == 0
    assert RunFolder.open(own / "t").metadata()["copied_layers"] == ["conv1", "conv2", "conv3"]


@pytest.mark.parametrize(
    "name", [b"caf\xe9\n\x1b[31m.pth", "\u5bff\u53f8 <b>: #1.pth".encode()], ids=["bytes", "unicode"]
)
def test_names_of_files_are_text_only(name: bytes, own: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = own / os.fsdecode(name)
    (own / "rgb.pth").rename(path)
    assert main(words(own, path.name, "named", *READING)) == 0
    assert main(words(own, path.name, "named", *READING, "--json")) == 0
    assert main(["runs", str(own)]) == 0
    assert main(["report", str(own / "named")]) == 0
    shown = capfd.readouterr()
    assert "\x1b" not in shown.out + shown.err
    assert "<b>" not in (own / "named" / "report.html").read_text(encoding="utf-8")
    recipe = RunFolder.open(own / "named").any_recipe()
    assert isinstance(recipe, ImportRecipe) and os.fsencode(recipe.imported.name) == name
    assert alexnet.load(own / "named").untrained_layers == ()


def test_weights_files_name_untrained_layers_in_a_version_of_their_own(own: Path, tmp_path: Path) -> None:
    run = alexnet.import_weights(own / "features.pth", own / "f", variant="cifar-four-layer", features_only=True)
    trained = alexnet.load(run)
    assert trained.untrained_layers == ("fc4",) and "fc4" in trained._repr_html_()
    alexnet.save(trained, tmp_path / "x.safetensors")
    assert alexnet.load(tmp_path / "x.safetensors").untrained_layers == ("fc4",)
    header = (tmp_path / "x.safetensors").read_bytes()
    assert rb"\"format_version\": 6" in header and rb"\"untrained_layers\": [\"fc4\"]" in header
    assert alexnet.load(run, untrained=True).untrained_layers == ()
    with pytest.raises(RequestError, match="cannot be saved: untrained_layers: 'fc9' is not one of conv1, conv2"):
        alexnet.save(replace(trained, untrained_layers=("fc9",)), tmp_path / "y.safetensors")


def test_the_reading_that_errs_least_is_taken_where_nothing_else_is_said(own: Path) -> None:
    run = alexnet.import_weights(
        own / "bgr.pth", own / "bgr", variant="cifar-four-layer", classes=own / "data", data=own / "data", images=120
    )
    recipe, notes = run.any_recipe(), run.metadata()["notes"]
    assert isinstance(recipe, ImportRecipe) and recipe.input.color_order == "bgr"
    assert recipe.input.scale == "255"  # as good as others, and no change
    assert any("--color-order bgr" in one and "was chosen by the errors on" in one for one in notes)
    assert main(["report", str(run.path)]) == 0
    assert notes[0] in Page((run.path / "report.html").read_text(encoding="utf-8")).text
    assert alexnet.evaluate(run, own / "data").top1_error == 0
    proof = run.proof()
    assert proof is not None and proof["combinations"][0]["color_order"] == "bgr"
    assert proof["combinations"][0]["top1_error"] == 0
    assert "how they read pixels was not claimed, but chosen by these images" in proof["verdict"]
    assert "as claimed" not in proof["verdict"] and proof["status"] == "plausible"


def test_an_option_is_kept_where_the_rest_is_chosen(own: Path) -> None:
    run = alexnet.import_weights(
        own / "bgr.pth",
        own / "kept",
        variant="cifar-four-layer",
        classes=own / "data",
        color_order="rgb",
        data=own / "data",
        images=120,
    )
    recipe, notes = run.any_recipe(), run.metadata()["notes"]
    assert isinstance(recipe, ImportRecipe) and recipe.input.color_order == "rgb" and recipe.input.scale == "255"
    assert any("import with it: `alexnet import" in one and "--color-order bgr" in one for one in notes)


def test_what_an_option_says_is_kept_and_the_better_command_is_named(
    own: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(own / "data"), "--images", "120"]
    assert main(words(own, "bgr.pth", "wrong", *READING, *data)) == 0
    shown = capfd.readouterr().out
    assert alexnet.evaluate(own / "wrong", own / "data").top1_error > 0.5
    (note,) = [
        line for line in shown.splitlines() if line.startswith("note: Another reading of pixels errs less on source")
    ]
    command = note.split("`")[1].split()
    assert command[:2] == ["alexnet", "import"] and "--color-order bgr" in note
    assert main(command[1:]) == 0
    assert alexnet.evaluate(own / "wrong-2", own / "data").top1_error == 0


def test_a_repeated_import_changes_nothing_and_another_is_refused(
    own: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = words(own, "rgb.pth", "run", *READING)
    assert main(command) == 0
    before = {path: path.read_bytes() for path in (own / "run").iterdir()}
    with monkeypatch.context() as patched:
        patched.setattr(imported_run, "convert", None)
        assert main(command) == 0
    assert before == {path: path.read_bytes() for path in (own / "run").iterdir()}
    capfd.readouterr()
    assert main(words(own, "bgr.pth", "run", *READING)) == 2
    assert "is an import of another file (rgb.pth, sha256" in error_of(capfd)
    assert main(words(own, "rgb.pth", "run", *READING, "--fit", "pad")) == 2
    assert "was imported with other settings (input.fit: crop -> pad); name another folder with --run" in error_of(
        capfd
    )
    assert before == {path: path.read_bytes() for path in (own / "run").iterdir()}
    assert main([*command, "--data", str(own / "data")]) == 0  # the same network, proved on more
    run = RunFolder.open(own / "run")
    proof = run.proof()
    assert proof is not None and proof["sample"] is not None and run.metadata()["proved_on"] is not None
    assert run.weights.read_bytes() == before[run.weights]


def test_only_what_an_import_wrote_is_removed(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = words(own, "rgb.pth", "run", *READING)
    folder = own / "run"
    folder.mkdir()
    (folder / "recipe.yaml").write_text("name: mine\n", "utf-8")
    with pytest.raises(RequestError, match=r"run holds a recipe\.yaml that no import wrote; name a new folder"):
        alexnet.import_weights(own / "rgb.pth", folder)
    assert [(one.name, one.read_text("utf-8")) for one in folder.iterdir()] == [("recipe.yaml", "name: mine\n")]
    (folder / "recipe.yaml").unlink()

    def write_meanwhile(name: str, then: Any) -> Any:
        def write(*given: Any, **more: Any) -> Any:
            (folder / name).write_text("mine", "utf-8")
            return then(*given, **more)

        return write

    for name in ("notes.txt", "recipe.yaml"):
        with monkeypatch.context() as patched:
            patched.setattr(imported_run, "prove", write_meanwhile(name, imported_run.prove))
            with pytest.raises(
                RequestError, match=f"holds {name}, which was written there while the import was running"
            ):
                alexnet.import_weights(own / "rgb.pth", folder, variant="cifar-four-layer")
        assert [(one.name, one.read_text("utf-8")) for one in folder.iterdir()] == [(name, "mine")]
        (folder / name).unlink()

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(imported_run, "save_trained", write_meanwhile("notes.txt", fail))
        assert main(command) == 1
    assert [(one.name, one.read_text("utf-8")) for one in folder.iterdir()] == [("notes.txt", "mine")]


def test_a_proof_on_images_is_kept_until_there_are_others(own: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = words(own, "bgr.pth", "run", "--mean", "0,0,0")
    data = ["--data", str(own / "data"), "--images", "90"]
    assert main([*command, *data]) == 0
    run = RunFolder.open(own / "run")
    proof = run.proof()
    assert proof is not None and proof["sample"] is not None and proof["sample"]["num_images"] == 90
    recipe = run.any_recipe()
    assert isinstance(recipe, ImportRecipe) and recipe.input.convention_from == "images"
    assert recipe.input.given == ("--mean",)
    capfd.readouterr()
    assert main(command) == 0
    assert "bgr.pth is already imported; its proof on source was kept" in capfd.readouterr().err
    assert run.proof() == proof and run.metadata()["proved_on"] is not None
    data[-1] = "120"
    assert main([*command, *data]) == 0
    assert "the proof is now on source; it replaces the one on source" in capfd.readouterr().err
    again = run.proof()
    assert again is not None and again["sample"] is not None and again["sample"]["num_images"] == 120


def test_a_proof_on_images_is_kept_if_other_options_mean_the_same(own: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = words(own, "rgb.pth", "run", *READING)
    assert main([*command, "--data", str(own / "data")]) == 0
    run = RunFolder.open(own / "run")
    proof = run.proof()
    capfd.readouterr()
    assert main([*command, "--fit", "crop"]) == 0
    assert "rgb.pth is already imported; its proof on source was kept" in capfd.readouterr().err
    assert run.proof() == proof and proof is not None and proof["sample"] is not None


def test_a_killed_import_is_completed_by_the_same_command(
    own: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    command = words(own, "rgb.pth", "run", *READING)

    class KilledError(BaseException):
        pass

    def kill(*_: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(imported_run, "save_trained", kill)
        patched.setattr(imported_run, "_remove_files", lambda *_: None)  # a killed process does not clean up
        with pytest.raises(KilledError):
            main(command)
    run = RunFolder.open(own / "run")
    assert run.state == "running" and run.proof() is not None and not run.weights.exists()
    assert describe_run(run.path)["state"] == "killed"
    advice = f"rerun `alexnet import rgb.pth --run {run.path}` with the options that it had"
    for other in (
        ["predict", str(run.path), "x.png"],
        ["evaluate", str(run.path), "--data", str(own / "data")],
        ["resume", str(run.path)],
        ["export", str(run.path), "--to", "safetensors", "--out", str(own / "x")],
        ["finetune", str(run.path), str(own / "data"), "--run", str(own / "tuned")],
        ["import", str(own / "bgr.pth"), "--run", str(run.path)],
    ):
        capfd.readouterr()
        assert main(other) == 2, other
        assert advice in error_of(capfd), other
    assert main(["runs", str(own)]) == 0
    shown = capfd.readouterr().out
    assert "killed" in shown and advice in shown
    assert main(["report", str(run.path)]) == 0
    assert f"This import was not finished; {advice}" in Page((run.path / "report.html").read_text("utf-8")).text
    assert main(command) == 2
    assert "is an import that was not finished, and also holds report.html; move" in error_of(capfd)
    (run.path / "report.html").unlink()
    assert main([*command, "--fit", "pad"]) == 0  # other options too: nothing was finished
    assert run.state == "finished" and run.proof() is not None and alexnet.load(run).fit == "pad"


def test_a_process_killed_before_run_json_leaves_a_recipe_that_the_next_import_replaces(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    kept: list[str] = []

    def kill(path: Path, *_: Any) -> None:
        kept.append((path.parent / "recipe.yaml").read_text("utf-8"))
        raise KilledError

    with monkeypatch.context() as patched, pytest.raises(KilledError):
        patched.setattr("alexnet.runs.folder.write_sealed_json", kill)
        main(words(own, "rgb.pth", "run", *READING))
    (own / "run").mkdir()
    (own / "run" / "recipe.yaml").write_text(kept[0], "utf-8")
    assert main(words(own, "rgb.pth", "run", *READING, "--fit", "pad")) == 0
    assert alexnet.load(own / "run").fit == "pad"


@pytest.mark.parametrize(
    ("error", "expected"),
    [(OSError(errno.ENOSPC, "No space left on device"), 1), (KeyboardInterrupt(), 3)],
    ids=["full disk", "Ctrl-C"],
)
@pytest.mark.parametrize("where", ["save_trained", "save_proof", "recipe"])
def test_nothing_is_left_of_an_import_that_fails(
    error: BaseException, expected: int, where: str, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise error

    with monkeypatch.context() as patched:
        match where:
            case "save_trained":
                patched.setattr(imported_run, "save_trained", fail)
            case "save_proof":
                patched.setattr(RunFolder, "save_proof", fail)
            case _:
                patched.setattr("alexnet.runs.folder.write_text", fail)
        assert main(words(own, "rgb.pth", "run", *READING)) == expected
    assert not (own / "run").exists()
    assert main(words(own, "rgb.pth", "run", *READING)) == 0


def make_page(folder: Path) -> None:
    (folder / "page.pth").write_text("<!DOCTYPE html><html>403</html>")


def make_empty(folder: Path) -> None:
    (folder / "page.pth").write_bytes(b"")


def make_folder(folder: Path) -> None:
    (folder / "page.pth").mkdir()


def make_taken(folder: Path) -> None:
    shutil.copy(folder / "rgb.pth", folder / "page.pth")
    (folder / "run").mkdir()
    (folder / "run" / "notes.txt").write_text("mine")


def make_list(folder: Path) -> None:
    shutil.copy(folder / "rgb.pth", folder / "page.pth")
    (folder / "list.txt").write_text("red\ngreen\n")


def make_network(folder: Path) -> None:
    shutil.copy(folder / "rgb.pth", folder / "page.pth")


BAD: dict[str, tuple[Callable[[Path], None], list[str], str]] = {
    "a web page": (make_page, [], "is a web page"),
    "an empty file": (make_empty, [], "is empty"),
    "a folder": (make_folder, [], "page.pth"),
    "no file": (lambda folder: None, [], "page.pth does not exist"),
    "a run folder with other things": (make_taken, [], "run"),
    "a class list of another length": (
        make_list,
        ["--classes", "list.txt"],
        "names 2 classes, and the network",
    ),
    "classes that the network lacks": (make_list, ["--classes", "abc.txt", "--data", "data"], "the network lacks"),
    "classes without names": (make_network, ["--classes", "", "--data", "data"], "have no names, so those of"),
    "another variant": (make_network, ["--variant", "cifar-80sec"], "not those of variant 'cifar-80sec'"),
    "an unknown variant": (make_network, ["--variant", "vgg"], "unknown variant 'vgg'; known are"),
    "a mean of two colors": (make_network, ["--mean", "1,2"], "--mean is '1,2'; allowed are three numbers"),
    "a mean beyond 255": (make_network, ["--mean", "1,2,300"], "allowed are three numbers"),
    "a mean that is no image": (make_list, ["--mean", "list.txt"], "is not a mean image"),
    "a side below the crop": (make_network, ["--side", "31"], "--side is 31, and the network reads crops of 32"),
    "a side beyond all": (make_network, ["--side", "9999"], "--side is 9999; allowed is 1 to 4,096"),
    "no images": (make_network, ["--images", "0"], "--images is 0; allowed is 1 or more"),
    "a color order": (make_network, ["--color-order", "grb"], "--color-order: invalid choice"),
    "data of another side": (make_network, ["--side", "40", "--data", "data"], "prepare the data with --side 40"),
    "no data set": (make_network, ["--data", "list"], "prepare"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_and_leaves_no_run(
    name: str, own: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make, more, message = BAD[name]
    make(own)
    (own / "abc.txt").write_text("a\nb\nc\n")
    monkeypatch.chdir(own)
    before = sorted(path for path in own.rglob("*") if "data" not in path.parts)
    command = ["import", "page.pth", "--run", "run"]
    command += [] if "--variant" in more else ["--variant", "cifar-four-layer"]
    command += [] if "--classes" in more else ["--classes", "data"]
    given = [one for one in more if one] if "" not in more else more[2:]
    assert main([*command, *given]) == 2
    assert message in error_of(capfd)
    assert sorted(path for path in own.rglob("*") if "data" not in path.parts) == before


def test_another_run_is_not_overwritten(work: Path, own: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trained = alexnet.train(work / "data", own / "trained", "quick", network={"width": 0.125}, schedule={"epochs": 1})
    before = {path: path.read_bytes() for path in trained.path.iterdir() if path.is_file()}
    capfd.readouterr()
    assert main(words(own, "rgb.pth", "trained", *READING)) == 2
    assert "holds another run (quick); name a new folder with --run" in error_of(capfd)
    assert before == {path: path.read_bytes() for path in trained.path.iterdir() if path.is_file()}


def test_the_command_and_the_call_classify_as_many_images() -> None:
    assert import_command.NUM_IMAGES == NUM_IMAGES


def test_random_weights_are_imported_and_called_what_they_are(own: Path, capfd: pytest.CaptureFixture[str]) -> None:
    network = alexnet.AlexNet(3, "cifar-four-layer", generator=torch.Generator().manual_seed(3))
    torch.save(network.state_dict(), own / "random.pth")
    assert main(words(own, "random.pth", "random", *READING, "--data", str(own / "data"), "--images", "30")) == 0
    shown = capfd.readouterr().out
    assert "verdict: The weights are not what they claim to be" in shown and "next: alexnet report" in shown
    proof = RunFolder.open(own / "random").proof()
    assert proof is not None and proof["status"] == "contradicted"


def test_from_python_with_lists_and_numbers(own: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    run = alexnet.import_weights(
        own / "rgb.pth",
        own / "python",
        variant="cifar-four-layer",
        classes=["a-red", alexnet.ClassInfo("b-green", "green"), "c-blue"],
        color_order="rgb",
        input_scale="255",
        mean=(0, 0, 0),
        fit="pad",
        data=own / "data",
        images=30,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert run.state == "finished" and seen[-1] == (30, 30)
    trained = alexnet.load(run)
    assert [one.name for one in trained.classes] == ["a-red", "green", "c-blue"] and trained.fit == "pad"
    assert repr(run).startswith("RunFolder(") and "rgb.pth" in run._repr_html_()
    for wrong in (
        {"classes": ["a", "a", "b"]},
        {"classes": [1, 2, 3]},
        {"mean": (1, 2)},
        {"side": 32.5},
        {"images": 1.5},
    ):
        arguments: dict[str, Any] = wrong
        with pytest.raises(RequestError, match=r"allowed|each class once"):
            alexnet.import_weights(own / "rgb.pth", own / "no", **arguments)
    assert not (own / "no").exists()


def test_damaged_recipes_of_imports_are_named(work: Path, tmp_path: Path) -> None:
    run = RunFolder(shutil.copytree(work / "run", tmp_path / "run"))
    path = run.path / "recipe.yaml"
    text = "\n".join(line for line in path.read_text().splitlines() if not line.startswith("content_sha256"))
    for wrong in (
        text.replace("width: 0.11", "width: wide"),
        text.replace("scale: '255'", "scale: '7'"),
        text.replace("  crop: 32\n", ""),
        text + "\n  more: 1\n",
        text + "\nmore: 1\n",
        text[: text.index("input:")],
    ):
        assert wrong != text
        path.write_text(wrong)
        with pytest.raises(WorkError, match=r"recipe\.yaml"):
            run.any_recipe()
        assert "recipe.yaml" in describe_run(run.path)["unreadable"]


NAMELESS = {
    "empty": ("", "classes[1] is empty; give every class a name"),
    "spaces": ("  ", "classes[1] is empty; give every class a name"),
    "two lines": ("a\nb", "classes[1] is 'a\\nb', which has control characters or bytes that are not UTF-8; give"),
    "a byte": ("\udc80", "classes[1] is '\\udc80', which has control characters or bytes that are not UTF-8; give"),
}


@pytest.mark.parametrize("name", NAMELESS)
def test_names_that_no_file_could_hold_are_refused_wherever_they_come_from(name: str, own: Path) -> None:
    text, message = NAMELESS[name]
    names: list[Any] = ["cat", text, "dog"]
    for given in (names, [names[0], alexnet.ClassInfo("x", text), names[2]]):
        with pytest.raises(RequestError) as refused:
            alexnet.import_weights(own / "rgb.pth", own / "run", variant="cifar-four-layer", classes=given)
        assert message in str(refused.value) and not (own / "run").exists()
    trained = alexnet.load(alexnet.import_weights(own / "rgb.pth", own / "run", variant="cifar-four-layer"))
    classes = (trained.classes[0], alexnet.ClassInfo("x", text), trained.classes[2])
    with pytest.raises(RequestError) as refused:
        alexnet.save(replace(trained, classes=classes), own / "x.safetensors")
    assert message.partition(";")[0] in str(refused.value) and not (own / "x.safetensors").exists()
    with pytest.raises(RequestError) as refused:
        alexnet.export(replace(trained, classes=classes), own / "x.onnx", to="onnx")
    assert message.partition(";")[0] in str(refused.value) and not (own / "x.onnx").exists()


def test_no_classes_are_refused(own: Path) -> None:
    with pytest.raises(RequestError, match="the class list names 0 classes, and the network in"):
        alexnet.import_weights(own / "rgb.pth", own / "run", variant="cifar-four-layer", classes=[])


def test_a_mean_of_colors_0_to_1_is_refused_with_the_colors_that_are_meant(own: Path) -> None:
    for mean in ("0.485,0.456,0.406", (0.485, 0.456, 0.406)):
        with pytest.raises(RequestError, match=r"so give 123\.675,116\.28,103\.53 if these are colors of 0\.\.1"):
            alexnet.import_weights(own / "rgb.pth", own / "run", variant="cifar-four-layer", mean=mean)


def test_a_network_with_numbered_classes_is_not_said_to_be_evaluated(
    own: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", str(own / "rgb.pth"), "--run", str(own / "run"), "--variant", "cifar-four-layer"]) == 0
    shown = capfd.readouterr().out
    assert "classes: 3, numbered, because the file names none" in shown
    assert "next: alexnet predict" in shown and "next: alexnet evaluate" not in shown
    assert "assumed, because the file does not say (variant 'cifar-four-layer' usually reads this)" in shown


def test_a_list_is_said_as_it_was_read(own: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (own / "cars.txt").write_text("MP3 player\nF1 car\n4x4 truck\n", "utf-8")
    assert main(words(own, "rgb.pth", "run", "--classes", str(own / "cars.txt"))) == 0
    shown = capfd.readouterr().out
    assert "classes: 3, as listed in cars.txt" in shown
    assert "note: The first class of the class list cars.txt has the id 'MP3' and the name 'player'." in shown


def test_a_trained_networks_state_dict_errs_as_its_run_does(own: Path) -> None:
    run = alexnet.train(
        own / "data", own / "trained", "quick", network={"width": 0.25, "dropout": 0.5}, schedule={"epochs": 8}
    )
    trained = alexnet.load(run)
    torch.save(trained.network.state_dict(), own / "quick.pth")
    np.save(own / "mean.npy", trained.mean_image.numpy())
    plain = alexnet.import_weights(own / "quick.pth", own / "plain", variant="quick-3x3", classes=own / "data")
    again = alexnet.import_weights(
        own / "quick.pth", own / "again", variant="quick-3x3", classes=own / "data", mean=own / "mean.npy"
    )
    assert any("the paper's 0.5 was taken" in one for one in plain.metadata()["notes"])
    recipe = plain.any_recipe()
    assert isinstance(recipe, ImportRecipe) and recipe.input.scale == "variant" and not recipe.input.scale_in_weights
    assert recipe.input.mean == (125.31, 122.95, 113.87)
    for name, tensor in trained.network.state_dict().items():
        assert torch.equal(alexnet.load(plain).network.state_dict()[name], tensor)
    expected, measured = alexnet.evaluate(run), alexnet.evaluate(again, own / "data")
    assert measured.top1_error == expected.top1_error < 0.5
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    probabilities = [alexnet.predict(one, image).probabilities for one in (run, again)]
    assert np.array_equal(*probabilities)
