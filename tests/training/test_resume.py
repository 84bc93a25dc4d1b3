"""Faults, caused on purpose: whatever happens, nothing is lost, nothing is silently wrong, the next command is said."""

import json
import math
import multiprocessing
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.small_trainings import (
    assert_same_weights,
    events_of,
    logged_metrics,
    signal_in_step,
    small_recipe,
    train_interrupted,
    weights_of,
)

from alexnet.cli.main import main
from alexnet.errors import RequestError, WorkError
from alexnet.evaluation.run_evaluation import evaluate
from alexnet.model.weights import load_trained
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipe import Recipe
from alexnet.storage.lock import only_writer
from alexnet.training import log
from alexnet.training.batch_metrics import RunningMetrics
from alexnet.training.checkpoint import checkpoint_folder
from alexnet.training.compute_weights import ComputeWeights
from alexnet.training.eager_step import EagerStep
from alexnet.training.loop import train
from alexnet.training.optimizer import VelocitySGD

SMALL = small_recipe(evaluate_every=2, checkpoint_every=0.0)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_gradient_that_is_not_finite_stops_before_the_update(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Any
) -> None:
    before: dict[str, torch.Tensor] = {}
    step = EagerStep.forward_backward

    def watched(own: EagerStep, *rest: Any) -> float:
        before.update({name: tensor.detach().clone() for name, tensor in own.setup.optimizer.parameters.items()})
        return step(own, *rest)

    finite = ComputeWeights.gradients_are_finite

    def spoiled(self: ComputeWeights) -> bool:
        assert finite(self)
        self.gradients()["conv2.weight"][0, 0, 0, 0] = float("nan")
        return finite(self)

    monkeypatch.setattr(ComputeWeights, "gradients_are_finite", spoiled)
    monkeypatch.setattr(EagerStep, "forward_backward", watched)
    recipe = replace(SMALL, training=replace(SMALL.training, precision=precision))
    with pytest.raises(WorkError, match=r"a gradient of step 0 is not finite; the weights that gave it are kept in"):
        train(data, tmp_path / "run", recipe)
    (failure,) = events_of(tmp_path / "run", "not_finite")
    assert failure["norms"]["conv2.weight"]["gradient"] == "nan"
    assert isinstance(failure["norms"]["conv1.weight"]["gradient"], float) and len(failure["samples"]) == 10
    kept = load_trained(tmp_path / "run" / "weights-at-failure.safetensors").network.state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in before.items())


def test_an_infinite_gradient_is_seen_wherever_it_stands() -> None:
    layer = torch.nn.Linear(35, 3)
    weights = ComputeWeights(layer, VelocitySGD(layer, 0.9, 0.0), rounded=False)
    for value in (float("inf"), -float("inf"), float("nan")):
        for place in (0, 34, 104):
            layer.weight.grad, layer.bias.grad = torch.ones(3, 35), torch.ones(3)
            assert weights.gradients_are_finite()
            layer.weight.grad.view(-1)[place] = value
            assert not weights.gradients_are_finite()


DEAD = replace(SMALL, optimizer=replace(SMALL.optimizer, learning_rate=0.0))


def test_a_training_that_learns_nothing_is_logged(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "FEWEST_STEPS", 6)
    train(data, tmp_path / "dead", replace(DEAD, schedule=replace(DEAD.schedule, warmup=0.01)))
    assert [event["epoch"] for event in events_of(tmp_path / "dead", "at_chance")] == [2, 3, 4]
    assert "the network has learned nothing yet" in caplog.text
    # Not while the learning rate still rises: three quarters of twelve steps.
    train(data, tmp_path / "warmup", replace(DEAD, schedule=replace(DEAD.schedule, warmup=0.75)))
    assert [event["epoch"] for event in events_of(tmp_path / "warmup", "at_chance")] == [3, 4]


def test_a_few_steps_do_not_show_that_a_network_learns_nothing(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(data, tmp_path / "short", DEAD)
    assert "learned nothing" not in caplog.text and not events_of(tmp_path / "short", "at_chance")


@pytest.mark.parametrize(("error", "guesses"), [(0.665, True), (0.60, True), (0.1, False), (0.9, True)])
def test_a_network_whose_error_falls_has_learned_something(
    data: Path, tmp_path: Path, error: float, guesses: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The loss is that of guessing among three classes, and an epoch has 24 images.
    def metrics(own: EagerStep) -> RunningMetrics:
        return RunningMetrics(sums={"loss": 8 * math.log(3), "top1_error": 8 * error}, num=8)

    monkeypatch.setattr(EagerStep, "take_metrics", metrics)
    monkeypatch.setattr(log, "FEWEST_STEPS", 3)
    train(data, tmp_path / "run", replace(DEAD, schedule=replace(DEAD.schedule, warmup=0.01)))
    assert len(events_of(tmp_path / "run", "at_chance")) == 4 * guesses


def test_a_training_that_explodes_is_logged(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wild = replace(
        SMALL, optimizer=replace(SMALL.optimizer, learning_rate=30.0), schedule=replace(SMALL.schedule, epochs=8)
    )
    with suppress(WorkError):  # it may go on to lose its finite numbers; that it explodes is said before
        train(data, tmp_path / "wild", wild)
    assert events_of(tmp_path / "wild", "exploding")
    assert "the training explodes; a lower learning rate usually helps" in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        MemoryError(),
    ],
)
def test_too_little_memory_names_what_needs_less(
    error: BaseException, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(EagerStep, "run", fails)
    with pytest.raises(WorkError, match=r"memory is too small for batches of 10 .*resume .* --training.micro_batch N`"):
        train(data, tmp_path / "run", SMALL)
    assert RunFolder.open(tmp_path / "run").state == "interrupted"
    # Neither its threads nor their batches outlive it while the error is kept, as a notebook keeps the last one.
    assert not [one for one in threading.enumerate() if one.name.startswith("alexnet-loader")]


def test_a_second_writer_is_refused(data: Path, tmp_path: Path) -> None:
    train_interrupted(data, SMALL, tmp_path / "run", 3)
    with (
        only_writer(tmp_path / "run" / ".lock", "x"),
        pytest.raises(RequestError, match=rf"run is being written by process {os.getpid()} on"),
    ):
        train(data, tmp_path / "run", SMALL)
    assert train(data, tmp_path / "run", SMALL).state == "finished"


def test_a_damaged_checkpoint_is_named_and_the_one_before_leads_to_the_same_weights(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = train(data, tmp_path / "whole", SMALL)
    train_interrupted(data, SMALL, tmp_path / "run", 7)
    newest = max(checkpoint_folder(tmp_path / "run").glob("step-*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-1])
    resumed = train(data, tmp_path / "run", SMALL)
    assert f"checkpoint {newest.stem} is damaged and kept as broken-{newest.stem}" in caplog.text
    assert [event["name"] for event in events_of(tmp_path / "run", "broken_checkpoint")] == [newest.stem]
    assert_same_weights(resumed.path, whole.path)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_training_by_muon_continues_with_its_buffers(precision: str, data: Path, tmp_path: Path) -> None:
    muon = replace(SMALL, optimizer=replace(SMALL.optimizer, kind="muon"))
    muon = replace(muon, training=replace(muon.training, precision=precision))  # type: ignore[arg-type]
    whole = train(data, tmp_path / "whole", muon)
    train_interrupted(data, muon, tmp_path / "run", 7)
    assert_same_weights(train(data, tmp_path / "run", muon).path, whole.path)


def test_resume_takes_what_may_change_and_refuses_the_rest(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train_interrupted(data, SMALL, run, 5)
    assert main(["resume", str(run), "--optimizer.batch_size", "5"]) == 2
    said = capsys.readouterr().err
    assert "cannot resume with optimizer.batch_size: 10 -> 5; a run may change only its schedule." in said
    assert main(["resume", str(run), "--schedule.epochs", "1"]) == 2
    assert "has done 5 steps, and the new schedule has 3; allowed is a longer one" in capsys.readouterr().err
    assert RunFolder.open(run).recipe() == SMALL  # nothing was changed by what was refused
    assert main(["resume", "--schedule.epochs", "5", str(run)]) == 0
    assert RunFolder.open(run).recipe().schedule.epochs == 5
    (changed,) = events_of(run, "recipe_changed")
    assert changed["changes"] == ["schedule.epochs: 4 -> 5"] and changed["step"] == 5
    assert len(events_of(run, "epoch")) == 5
    assert main(["resume", str(tmp_path / "nowhere")]) == 2
    assert "is not a run folder" in capsys.readouterr().err


def test_a_finished_run_is_trained_for_more_epochs_as_if_it_had_not_ended(data: Path, tmp_path: Path) -> None:
    # A schedule in which the number of epochs changes no learning rate.
    schedule = replace(SMALL.schedule, kind="plateau", epochs=5, patience=9)
    constant = replace(small_recipe(5, ema_decay=0.9), schedule=schedule)
    whole = train(data, tmp_path / "whole", constant)
    run = tmp_path / "run"
    train(data, run, replace(constant, schedule=replace(schedule, epochs=2)))
    evaluate(run, views=1)
    first = weights_of(run)
    # Interrupted on the way, too.
    with pytest.MonkeyPatch.context() as patched:
        signal_in_step(patched, 10)
        assert main(["resume", str(run), "--schedule.epochs", "5"]) == 3
    assert not RunFolder.open(run).evaluations()  # they are of other weights
    assert main(["resume", str(run)]) == 0
    assert_same_weights(run, whole.path)
    assert any(not torch.equal(tensor, first[name]) for name, tensor in weights_of(run).items())
    assert [event["step"] for event in events_of(run, "start")] == [0, 6, 10]
    (changed,) = events_of(run, "recipe_changed")
    assert changed["step"] == 6 and RunFolder.open(run).recipe().schedule.epochs == 5
    errors, expected = ([event["top1_error"] for event in events_of(one, "validation")] for one in (run, whole.path))
    assert errors == expected
    assert max(path.name for path in checkpoint_folder(run).glob("*.json")) == "step-00000015.json"


def test_a_finished_run_that_cannot_go_on_names_the_command_that_does(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(data, run, small_recipe(2))
    more = f"train it for more epochs with `alexnet resume {run} --schedule.epochs N`, or view it with `alexnet report"
    with pytest.raises(RequestError, match=re.escape(f"holds a finished run; choose another run folder, {more}")):
        train(data, run, small_recipe(2))
    for words in ([], ["--schedule.epochs", "1"]):
        assert main(["resume", str(run), *words]) == 2
        said = capsys.readouterr().err
        assert re.search(
            r"holds a finished run of 6 steps, and the schedule has [63]; train it for more than 2 epochs", said
        )
    assert RunFolder.open(run).state == "finished" and RunFolder.open(run).recipe() == small_recipe(2)
    (manifest,) = checkpoint_folder(run).glob("*.json")
    manifest.write_text(manifest.read_text().replace('"step": 6', '"step": 5'))
    assert main(["resume", str(run), "--schedule.epochs", "3"]) == 2
    assert f"whose last checkpoint, {manifest}, is damaged, so it cannot" in capsys.readouterr().err
    # A run of an earlier version, or one whose checkpoints were deleted.
    shutil.rmtree(checkpoint_folder(run))
    assert main(["resume", str(run), "--schedule.epochs", "3"]) == 2
    command = re.search(r"train again with `alexnet (.*)`, or view", capsys.readouterr().err)
    assert command
    new = command[1].replace("NEW", str(tmp_path / "new")).replace("--schedule.epochs N", "--schedule.epochs 3")
    assert main(shlex.split(new)) == 0
    assert_same_weights(tmp_path / "new", train(data, tmp_path / "other", small_recipe(3)).path)


def test_a_plateau_that_has_ended_names_the_setting_that_ended_it(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    schedule = replace(SMALL.schedule, kind="plateau", epochs=9, patience=1, plateau_drops=0, improvement=0.9)
    train(data, run, replace(small_recipe(), schedule=schedule))
    epochs = len(events_of(run, "epoch"))
    assert epochs < 9
    assert main(["resume", str(run), "--schedule.epochs", "12"]) == 2
    assert "more often than --schedule.plateau_drops 0 allows; raise it to train on" in capsys.readouterr().err
    assert main(["resume", str(run), "--schedule.plateau_drops", "1"]) == 0
    assert len(events_of(run, "epoch")) > epochs


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(folder)], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"cannot mount a small file system here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(filler: Path) -> None:
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"0" * 512)


def test_a_full_disk_loses_log_lines_and_counts_them(small_disk: Path) -> None:
    run = RunFolder.create(small_disk / "run", SMALL, {"state": "running"})
    run.log("before")
    fill(small_disk / "filler")
    for number in range(200):  # more than what is left of the log's last page
        run.log("meanwhile", number=number)
    assert 0 < run.lost_events <= 200
    (small_disk / "filler").unlink()
    run.log("after")
    kinds = [event["event"] for event in run.events()]
    assert kinds[0] == "before" and kinds[-1] == "after"
    assert kinds.count("meanwhile") == 200 - run.lost_events


def test_a_full_disk_costs_checkpoints_and_then_the_end_but_never_what_was_saved(
    data: Path, tmp_path: Path, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = train(data, tmp_path / "whole", SMALL)
    run, filler = small_disk / "run", small_disk / "filler"

    original = EagerStep.run

    def filling(own: EagerStep, phase: Any, batch: Any, step: int, learning_rates: Any) -> None:
        if step == 5 and not filler.exists():
            fill(filler)
        original(own, phase, batch, step, learning_rates)

    full = r"the disk of .*run is full; free some space, then resume with `alexnet resume "
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(EagerStep, "run", filling)
        with pytest.raises(WorkError, match=full):
            train(data, run, SMALL)
    assert "a checkpoint could not be written: No space left on device; the one before is kept" in caplog.text
    assert not list(run.rglob("*.partial")) and list(checkpoint_folder(run).glob("step-*.json"))
    with pytest.raises(WorkError, match=full):  # full from the beginning
        train(data, run, SMALL)
    filler.unlink()
    resumed = train(data, run, SMALL)
    assert_same_weights(resumed.path, whole.path)


def train_in_child(data: str, run: str, recipe: Recipe) -> None:
    torch.set_num_threads(1)
    os.environ["ALEXNET_ALLOCATOR"] = "default"
    train(Path(data), Path(run), recipe)


# One kill in the default tests, so that the way is walked; many in the slow ones.
@pytest.mark.parametrize(
    "kills", [2, pytest.param(10 if os.environ.get("CI") else 100, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_kills_at_random_moments_lead_to_the_same_weights(kills: int, data: Path, tmp_path: Path) -> None:
    recipe = replace(SMALL, schedule=replace(SMALL.schedule, epochs=6 if kills < 5 else 70))  # 18 or 210 steps
    began = time.monotonic()
    whole = train(data, tmp_path / "whole", recipe)
    per_kill_s = (time.monotonic() - began) / kills
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["alexnet.training.loop"])  # torch is loaded once, not at every start
    run, chance = tmp_path / "run", random.Random(5)
    done = 0
    for _ in range(kills):
        process = context.Process(target=train_in_child, args=(str(data), str(run), recipe))
        process.start()
        # From before its first step to some steps in; a checkpoint is written after every one.
        events = run / "events.jsonl"
        if chance.random() < 0.8:
            before = events.stat().st_mtime_ns if events.exists() else None
            while process.is_alive() and (events.stat().st_mtime_ns if events.exists() else None) == before:
                time.sleep(0.001)
        process.join(chance.uniform(0, 0.8 * per_kill_s))
        process.kill()
        process.join()
        done += process.exitcode == -signal.SIGKILL
        if (run / "run.json").exists() and json.loads((run / "run.json").read_text())["state"] == "finished":
            break
    assert done >= 1
    if RunFolder.open(run).state != "finished":
        train(data, run, recipe)
    assert_same_weights(run, whole.path)
    assert logged_metrics(RunFolder.open(run)) == logged_metrics(whole)
    epochs = [event["epoch"] for event in events_of(run, "epoch")]
    assert epochs == list(range(1, recipe.schedule.epochs + 1))  # each once, none missing
    print(f"{done} kills, {len(events_of(run, 'start'))} starts in the log, {recipe.schedule.epochs * 3} steps")
