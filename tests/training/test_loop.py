"""A small training from end to end: it learns, resumes exactly where it stopped, and refuses what does not fit."""

import json
import re
import shlex
import shutil
import signal
import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.small_trainings import (
    assert_same_weights,
    logged_metrics,
    signal_in_step,
    small_recipe,
    train_interrupted,
    weights_of,
)

from alexnet.cli.main import main
from alexnet.cli.training_processes import print_trained
from alexnet.data.augment import Batch
from alexnet.data.dataset import PreparedData
from alexnet.data.preparation.prepare import prepare
from alexnet.errors import Interrupted, RequestError, WorkError
from alexnet.evaluation.run_evaluation import evaluate
from alexnet.model.weights import Trained, load_trained
from alexnet.parallel.process_mesh import SINGLE_PROCESS
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipe import Recipe, ScheduleSettings, Stage
from alexnet.runs.recipes import PAPER
from alexnet.training import loop
from alexnet.training import step as step_module
from alexnet.training.loop import train
from alexnet.training.step import dropout_seed

SMALL = small_recipe(epochs=6, evaluate_every=3)


def test_it_learns_and_leaves_a_whole_run_folder(data: Path, tmp_path: Path) -> None:
    run = train(data, tmp_path / "run", SMALL)
    events = run.events()
    kinds = [event["event"] for event in events]
    assert kinds[0] == "start" and kinds[-1] == "end"
    assert kinds.count("epoch") == 6 and kinds.count("validation") == 2
    assert events[-2]["top1_error"] == 0.0  # three plain colors
    metadata = run.metadata()
    assert (metadata["state"], metadata["seed"], metadata["data"]["num_classes"]) == ("finished", 0, 3)
    assert metadata["parameters"] == sum(tensor.numel() for tensor in weights_of(run.path).values())
    assert run.recipe() == SMALL
    # No half-written file, and no checkpoint but the last: none had a lower validation error than the end.
    assert not list(run.path.rglob("*.partial"))
    assert sorted(path.name for path in run.path.glob("checkpoints/*")) == [
        "step-00000018.json",
        "step-00000018.safetensors",
    ]
    with pytest.raises(RequestError, match="holds a finished run"):
        train(data, run.path, SMALL)


def is_same(found: Trained, expected: Trained) -> bool:
    own, other = found.network.state_dict(), expected.network.state_dict()
    return own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)


@pytest.mark.parametrize("seed", [0, 7])
def test_the_untrained_control_has_the_weights_with_which_the_run_began(data: Path, tmp_path: Path, seed: int) -> None:
    """A training whose steps change nothing ends with them."""
    recipe = small_recipe(epochs=1, seed=seed)
    still = replace(recipe, optimizer=replace(recipe.optimizer, learning_rate=0.0, layer_lr_factors={}))
    train(data, tmp_path / "run", recipe=still)
    control, ended = load_trained(tmp_path / "run", untrained=True), load_trained(tmp_path / "run")
    assert control.untrained_seed == seed and ended.untrained_seed is None
    assert is_same(control, ended)
    by_file = load_trained(tmp_path / "run" / "weights.safetensors", untrained=True)
    assert by_file.untrained_seed == seed
    train(data, tmp_path / "other", recipe=recipe)
    other = load_trained(tmp_path / "other", untrained=True)
    assert is_same(other, ended)
    assert not torch.equal(load_trained(tmp_path / "other").network.conv1.weight, other.network.conv1.weight)


def test_a_second_interrupt_stops_without_saving_and_the_run_resumes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(data, tmp_path / "whole", SMALL)
    signal_in_step(monkeypatch, 4, number=signal.SIGINT, times=2)
    with pytest.raises(
        Interrupted, match=r"^interrupted without saving; resume from the last checkpoint with `alexnet"
    ):
        train(data, tmp_path / "cut", SMALL)
    monkeypatch.undo()
    assert RunFolder.open(tmp_path / "cut").state == "interrupted"
    train(data, tmp_path / "cut", SMALL)
    assert_same_weights(tmp_path / "cut", whole.path)


@pytest.mark.parametrize("cut", [1, 4, 11])
def test_a_training_cut_anywhere_goes_on_exactly(
    data: Path, tmp_path: Path, cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 24 images in batches of 10: three steps an epoch, the last one partial; interrupts within and between epochs.
    whole = train(data, tmp_path / "whole", SMALL)
    signal_in_step(monkeypatch, cut)
    with pytest.raises(
        Interrupted, match=rf"^interrupted by SIGTERM after step {cut} of 18; resume with `alexnet resume "
    ):
        train(data, tmp_path / "cut", SMALL)
    monkeypatch.undo()
    assert RunFolder.open(tmp_path / "cut").state == "interrupted"
    assert load_trained(tmp_path / "cut").network.num_classes == 3  # usable as it is
    resumed = train(data, tmp_path / "cut", SMALL)
    assert_same_weights(resumed.path, whole.path)

    assert logged_metrics(whole) == logged_metrics(resumed)


@pytest.mark.parametrize("micro_batch", [1, 4, 10, 50])
def test_images_passed_a_few_at_a_time_give_the_same_weights(data: Path, tmp_path: Path, micro_batch: int) -> None:
    # Batches of 10, the last of 4; dropout is on, so the masks must be those of whole batches.
    short = replace(SMALL, schedule=replace(SMALL.schedule, epochs=2))
    whole = train(data, tmp_path / "whole", short)
    parted = replace(short, training=replace(short.training, micro_batch=micro_batch))
    run = train(data, tmp_path / "parted", parted)
    for name, tensor in weights_of(whole.path).items():
        difference = (tensor - weights_of(run.path)[name]).norm() / tensor.norm()
        assert difference < 1e-5, (name, difference)
    losses = [[event["train_loss"] for event in one.events() if event["event"] == "epoch"] for one in (whole, run)]
    assert losses[0] == pytest.approx(losses[1], abs=2e-6)


def test_a_killed_training_starts_again(data: Path, tmp_path: Path) -> None:
    run = train(data, tmp_path / "run", SMALL)
    run.update_metadata(state="running")  # as SIGKILL leaves it, before the first checkpoint
    shutil.rmtree(run.path / "checkpoints")
    with (run.path / "events.jsonl").open("a") as file:
        file.write('{"event": "step", "st')
    again = train(data, run.path, SMALL)
    assert again.state == "finished"
    assert [event["event"] for event in again.events()].count("start") == 1


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(data: Path, tmp_path: Path) -> None:
    short = replace(SMALL, schedule=replace(SMALL.schedule, epochs=1))
    first, second = (train(data, tmp_path / name, short).path for name in ("a", "b"))
    other = train(data, tmp_path / "c", replace(short, training=replace(short.training, seed=1))).path
    for name, tensor in weights_of(first).items():
        assert torch.equal(tensor, weights_of(second)[name])
    assert not torch.equal(weights_of(first)["conv1.weight"], weights_of(other)["conv1.weight"])


def test_a_loss_that_is_not_finite_stops_before_the_update(data: Path, tmp_path: Path) -> None:
    wild = replace(SMALL, optimizer=replace(SMALL.optimizer, learning_rate=1e9))
    with pytest.raises(
        WorkError,
        match=r"the loss of step \d+ is (nan|inf); the weights that gave it are kept.*learning rate usually helps",
    ):
        train(data, tmp_path / "run", wild)
    run = RunFolder.open(tmp_path / "run")
    assert run.state == "failed"
    lost, failed = run.events()[-2:]
    assert failed["event"] == "failed" and "learning rate usually helps" in failed["reason"]
    assert lost["event"] == "not_finite" and 1 <= len(lost["samples"]) <= 10
    assert (run.path / "weights-at-failure.safetensors").exists() and not run.weights.exists()
    with pytest.raises(RequestError, match="holds a failed run"):
        train(data, run.path, wild)


def test_what_does_not_fit_is_refused_before_anything_is_made(data: Path, tmp_path: Path) -> None:
    def refused(recipe: Recipe, message: str) -> None:
        with pytest.raises(RequestError, match=message):
            train(data, tmp_path / "run", recipe)
        assert not (tmp_path / "run").exists()

    refused(PAPER, "--data.crop is 224 and the images are stored at 32 pixels; .* prepare the images again")
    refused(replace(SMALL, network=replace(SMALL.network, variant="alex")), "unknown variant 'alex'")
    refused(
        replace(SMALL, data=replace(SMALL.data, crop=24)),
        "--data.crop is 24, and variant 'quick' reads 28-pixel images",
    )
    refused(replace(SMALL, data=replace(SMALL.data, subset=99)), "--data.subset is 99 and the training split has 24")
    if not torch.cuda.is_available():
        refused(replace(SMALL, training=replace(SMALL.training, device="cuda")), "device 'cuda' is not available")
    with pytest.raises(RequestError, match="alexnet prepare"):
        train(tmp_path / "nowhere", tmp_path / "run", SMALL)


def test_an_unfinished_run_of_another_recipe_is_kept(data: Path, tmp_path: Path, make_tree: Any) -> None:
    run = train(data, tmp_path / "run", SMALL)
    run.update_metadata(state="interrupted")
    with pytest.raises(RequestError, match=r"another recipe \(schedule.epochs: 6 -> 7\)"):
        train(data, run.path, replace(SMALL, schedule=replace(SMALL.schedule, epochs=7)))
    prepare(make_tree("others", train=5), tmp_path / "others-data", side=32)
    with pytest.raises(RequestError, match="unfinished run on other data"):
        train(tmp_path / "others-data", run.path, SMALL)


def test_signals_go_back_to_their_usual_effect(data: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    train(data, tmp_path / "run", replace(SMALL, schedule=replace(SMALL.schedule, epochs=1)))
    assert signal.getsignal(signal.SIGINT) is before


def test_training_outside_the_main_thread(data: Path, tmp_path: Path) -> None:
    thread = threading.Thread(
        target=train, args=(data, tmp_path / "run", replace(SMALL, schedule=replace(SMALL.schedule, epochs=1)))
    )
    thread.start()
    thread.join(400)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "finished"


def test_dropout_depends_on_seed_and_step() -> None:
    def mask(seed: int, step: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(dropout_seed(seed, step))
        return torch.empty(256).bernoulli_(0.5, generator=generator)

    masks = [mask(seed, step) for seed in (0, 1) for step in (0, 1)]
    assert torch.equal(masks[0], mask(0, 0))
    for first in range(4):
        for second in range(first):
            assert not torch.equal(masks[first], masks[second])


def test_resuming_drops_evaluations_of_the_interrupted_weights(data: Path, tmp_path: Path) -> None:
    train_interrupted(data, SMALL, tmp_path / "run", 1)
    evaluate(tmp_path / "run")
    assert list(RunFolder.open(tmp_path / "run").evaluations()) == ["val-1views"]
    assert train(data, tmp_path / "run", SMALL).evaluations() == {}
    assert not (tmp_path / "run" / "predictions").exists()


STAGED = replace(
    SMALL,
    data=replace(SMALL.data, color_noise=0.1, color_shrink=True, order="once", mean="center", crops_shared_by=4),
    schedule=ScheduleSettings(
        kind="stages",
        stages=(
            Stage(epochs=2, learning_rate=0.02, images=15),  # 2 steps an epoch
            Stage(
                epochs=1.7, learning_rate=0.02, bias_learning_rate=0.04, layer_learning_rates={"conv1": 0.01}
            ),  # 3 steps an epoch
            Stage(epochs=1, learning_rate=0.002, layer_learning_rates={"conv1": 0.0}, color_noise=False),
        ),
    ),
    training=replace(SMALL.training, evaluate_every=1, ema_decay=0.5),
)


def test_stages_change_images_rates_and_noise(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Batch, float, torch.Tensor]] = []
    to_input = step_module.to_input

    def watched(batch: Batch, *arguments: Any, **options: Any) -> torch.Tensor:
        seen.append((batch, options["divisor"], conv1().clone()))
        assert options["mean_at"] == "center"
        return to_input(batch, *arguments, **options)

    made = []
    build_setup = loop.build_setup

    def kept(*arguments: Any) -> Any:
        made.append(build_setup(*arguments))
        return made[0]

    def conv1() -> torch.Tensor:
        return made[0].network.get_submodule("conv1").weight.detach()

    monkeypatch.setattr(step_module, "to_input", watched)
    monkeypatch.setattr(loop, "build_setup", kept)
    run = train(data, tmp_path / "run", STAGED)
    # 24 images, the first 15 for two epochs: 2 + 2 steps; then round(1.7 * 3) = 5 and 3 steps.
    assert len(seen) == 12 and run.metadata()["num_steps"] == 12
    used = [set(batch.samples.tolist()) for batch, _, _ in seen]
    assert used[0] | used[1] == used[2] | used[3] == set(range(15))
    assert used[4] | used[5] | used[6] == set(range(24)) and (used[4], used[5]) == (used[7], used[8])
    assert [divisor for _, divisor, _ in seen] == [1.1] * 9 + [1.0] * 3
    assert [bool(batch.noise.any()) for batch, _, _ in seen] == [True] * 9 + [False] * 3
    moved = [not torch.equal(before, after) for (_, _, before), (_, _, after) in pairwise(seen)]
    assert moved == [True] * 9 + [False] * 2  # frozen in the last stage
    assert torch.equal(conv1(), seen[-1][2])
    # What is kept is the average, which the frozen weights are approached by and not equal to.
    assert not torch.equal(weights_of(run.path)["conv1.weight"], conv1())
    assert load_trained(run.path).mean_at == "center"
    assert [event["epoch"] for event in run.events() if event["event"] == "epoch"] == [1, 2, 3, 4, 5]


FILES = replace(STAGED, data=replace(STAGED.data, order="stored", file_images=11, crops_shared_by=1))
"""As STAGED, read file by file: 3 steps in an epoch of 15 images (10, 1, 4), 5 in one of 24 (10, 1, 10, 1, 2)."""


@pytest.mark.parametrize(("recipe", "cut"), [(STAGED, 3), (STAGED, 8), (STAGED, 10), (FILES, 5), (FILES, 13)])
def test_a_staged_and_averaged_training_goes_on_exactly(
    recipe: Recipe, cut: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # These are stored class by class, which is refused where it matters; here it does not.
    monkeypatch.setattr("alexnet.training.setup._require_mixed_classes", lambda labels, data: None)
    whole = train(data, tmp_path / "whole", recipe)
    train_interrupted(data, recipe, tmp_path / "cut", cut)
    resumed = train(data, tmp_path / "cut", recipe)
    if recipe is FILES:  # 2 epochs of 3 steps, then 2.7 of 5
        assert whole.metadata()["num_steps"] == 6 + 14
    assert_same_weights(resumed.path, whole.path)


def test_a_plateau_run_drops_its_rate_and_ends_at_the_last_stall(data: Path, tmp_path: Path) -> None:
    schedule = ScheduleSettings(kind="plateau", epochs=40, patience=2, plateau_drops=1)
    recipe = replace(SMALL, schedule=schedule, training=replace(SMALL.training, evaluate_every=1))
    run = train(data, tmp_path / "run", recipe)
    errors = [event["top1_error"] for event in run.events() if event["event"] == "validation"]
    # The three colors are soon all right: two epochs without improvement, a drop, two more, the end.
    assert len(errors) < 40 and errors[-1] == 0
    stalls = [event for event in run.events() if event["event"] == "stall"]
    assert [event["then"] for event in stalls] == ["learning rate times 0.1", "training ends"]
    assert stalls[1]["step"] - stalls[0]["step"] == 2 * 3
    assert run.state == "finished" and run.events()[-1]["step"] == 3 * len(errors)
    # The log has an event every ten steps: the last one may cover only steps after the drop, or not.
    rates = {event["learning_rate"] for event in run.events() if event["event"] == "step"}
    assert rates <= {0.02, 0.002} and 0.02 in rates


def test_a_training_starts_from_another_networks_layers(data: Path, tmp_path: Path) -> None:
    first = train(data, tmp_path / "first", SMALL)
    frozen = ScheduleSettings(
        kind="stages", stages=(Stage(epochs=1, learning_rate=0.0, bias_learning_rate=0.0),)
    )  # nothing moves: what is found afterwards is what it started from
    second = train(
        data, tmp_path / "second", replace(SMALL, schedule=frozen, training=replace(SMALL.training, seed=5)), first.path
    )
    before, after = weights_of(first.path), weights_of(second.path)
    assert second.metadata()["copied_layers"] == ["conv1", "conv2", "conv3", "conv4"]
    assert second.metadata()["start_from"] == str(first.path)
    for name in before:
        assert torch.equal(before[name], after[name]) == (not name.startswith("fc5")), name
    with pytest.raises(RequestError, match=r"nowhere does not exist; give a run folder"):
        train(data, tmp_path / "third", SMALL, tmp_path / "nowhere")
    assert not (tmp_path / "third").exists()


def test_settings_that_name_no_layer_are_refused_before_anything_is_made(data: Path, tmp_path: Path) -> None:
    for recipe, message in (
        (
            replace(SMALL, optimizer=replace(SMALL.optimizer, layer_weight_decay={"fc8": 1.0})),
            "layer_weight_decay names fc8",
        ),
        (
            replace(
                STAGED,
                schedule=ScheduleSettings(
                    kind="stages", stages=(Stage(epochs=1, learning_rate=1, layer_learning_rates={"x": 1}),)
                ),
            ),
            "stages names x",
        ),
        (
            replace(
                STAGED, schedule=ScheduleSettings(kind="stages", stages=(Stage(epochs=1, learning_rate=1, images=99),))
            ),
            "trains on 99 images and there are 24",
        ),
    ):
        with pytest.raises(RequestError, match=message):
            train(data, tmp_path / "run", recipe)
    assert not (tmp_path / "run").exists()


def test_without_validation_images_a_run_ends_with_its_last_weights_and_says_so(
    make_tree: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_tree("no-val")
    shutil.rmtree(source / "val")
    data = tmp_path / "no-val-data"
    prepare(source, data, side=32)
    caplog.set_level("INFO", logger="alexnet")
    run = train(data, tmp_path / "run", small_recipe(epochs=2))
    assert "has no validation or test split: no error is measured during training" in caplog.text
    assert "epoch 2: training loss" in caplog.text
    kinds = [event["event"] for event in run.events()]
    assert run.state == "finished" and kinds.count("epoch") == 2 and "validation" not in kinds
    assert load_trained(run.path).network.num_classes == 3
    capsys.readouterr()
    print_trained(run.path, SINGLE_PROCESS)
    assert capsys.readouterr().out.endswith(f"next: alexnet report {run.path}\n")
    with pytest.raises(
        RequestError, match=r"no validation or test split; it has train\. Name one of these with --split"
    ):
        evaluate(run.path)
    assert evaluate(run.path, split="train").num_images == 24
    plateau = replace(small_recipe(), schedule=ScheduleSettings(kind="plateau", epochs=2))
    with pytest.raises(RequestError, match=r"plateau, and .* has no validation split, whose error decides"):
        train(data, tmp_path / "plateau", plateau)
    assert not (tmp_path / "plateau").exists()


def test_crops_of_corners_are_refused_with_the_command_that_prepares_the_images(
    data: Path, make_tree: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, large = tmp_path / "photographs", tmp_path / "large images"
    prepare(source, large, side=58, exif="ignore")
    short = replace(SMALL, schedule=replace(SMALL.schedule, epochs=1))
    with pytest.raises(RequestError, match=r"stored at 58 pixels, and crops of 28 pixels would") as no:
        train(large, tmp_path / "run", short)
    assert not (tmp_path / "run").exists()
    # The commands of the message work as they are.
    (command,) = re.findall(r"`alexnet ([^`]*)`", str(no.value))
    assert main(shlex.split(command)) == 0
    prepared = PreparedData.open(tmp_path / "large images-32px")
    assert prepared.side == 32 and prepared.description["plan"]["exif"] == "ignore"
    assert train(prepared.folder, tmp_path / "run", short).state == "finished"
    # A network that reads 28 pixels, fine-tuned on large images.
    words = ["finetune", str(tmp_path / "run"), str(large), "--training.device", "cpu", "--schedule.epochs", "1"]
    assert main(words) == 2
    assert "would show only corners of the photographs" in capsys.readouterr().err
    assert main([*words, "--data.small_crops", "true"]) == 0
    fine = RunFolder.open(tmp_path / "run-finetuned")
    assert fine.state == "finished" and fine.recipe().data.small_crops
    # Half of the side is allowed.
    prepare(source, tmp_path / "half", side=56)
    assert train(tmp_path / "half", tmp_path / "half-run", short).state == "finished"


def test_a_run_of_before_that_trains_on_small_crops_goes_on(data: Path, tmp_path: Path) -> None:
    prepare(tmp_path / "photographs", tmp_path / "large", side=64)
    recipe = replace(SMALL, data=replace(SMALL.data, small_crops=True))
    train_interrupted(tmp_path / "large", recipe, tmp_path / "run", 2)
    RunFolder(tmp_path / "run").change_recipe(SMALL)  # as recipes of before are read
    assert main(["resume", str(tmp_path / "run")]) == 0
    assert RunFolder.open(tmp_path / "run").state == "finished"
