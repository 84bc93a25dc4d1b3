"""Recipes: checked values, exact round trips, no key that does nothing."""

import shlex
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from alexnet.cli.main import main
from alexnet.data.dataset import PreparedData
from alexnet.errors import RequestError
from alexnet.report.inspection_page import write_inspection
from alexnet.runs.recipe import (
    DataSettings,
    NetworkSettings,
    OptimizerSettings,
    ScheduleSettings,
    TrainingSettings,
    refuse_unread_changes,
)
from alexnet.runs.recipe_file import read_config, recipe_differences, recipe_from_dict, recipe_to_dict
from alexnet.runs.recipes import PAPER, RECIPES, advised_training, named_recipe, recipes_for_side, side_for_crop


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_round_trip_through_yaml(name: str) -> None:
    recipe = named_recipe(name)
    assert recipe_from_dict(yaml.safe_load(yaml.safe_dump(recipe_to_dict(recipe)))) == recipe
    assert recipe.name == name and recipe.claim


def test_the_paper_recipe_states_the_paper() -> None:
    # Section 5: batch 128, momentum 0.9, decay 0.0005, rate 0.01; 4.2: dropout 0.5; 4.1: crops of 224, noise 0.1.
    assert (PAPER.optimizer.batch_size, PAPER.optimizer.momentum) == (128, 0.9)
    assert (PAPER.optimizer.weight_decay, PAPER.optimizer.learning_rate) == (0.0005, 0.01)
    assert (PAPER.network.dropout, PAPER.data.crop, PAPER.data.color_noise) == (0.5, 224, 0.1)
    # Section 5: one rate for all, divided by 10 whenever the validation error stalls, three times in all.
    assert (PAPER.schedule.kind, PAPER.schedule.gamma, PAPER.schedule.plateau_drops) == ("plateau", 0.1, 3)
    assert PAPER.optimizer.bias_lr_factor == 1.0 and not PAPER.optimizer.layer_weight_decay


@pytest.mark.parametrize(
    ("name", "ends", "rates"),
    [
        # Epochs at which a stage ends, and the weights' rates, as the notes in the source's parameter files have them.
        ("original", [25, 51, 67, 72, 79, 91], [1e-2, 1e-3, 1e-4, 1e-4, 1e-4, 1e-5]),
        ("original-2010", [23, 51, 68, 72, 78, 93], [1e-2, 1e-3, 1e-4, 1e-4, 1e-4, 1e-5]),
        ("one-gpu", [20, 48, 66, 72, 79, 96], [1e-2, 1e-3, 1e-4, 1e-4, 1e-4, 1e-5]),
        ("six-conv-pretrain", [6, 8.11], [1e-2, 1e-3]),
        ("six-conv-finetune", [0.03, 5, 7, 9, 22, 38, 42, 54], [1e-3] * 5 + [1e-4, 1e-4, 1e-5]),
        ("cifar-18pct", [120, 130, 140], [1e-3, 1e-4, 1e-5]),
        ("cifar-13pct", [100, 140, 150, 160], [1e-3, 1e-3, 1e-4, 1e-5]),
        ("cifar-11pct", [350, 500, 510, 520], [1e-3, 1e-3, 1e-4, 1e-5]),
    ],
)
def test_stages_are_the_published_ones(name: str, ends: list[float], rates: list[float]) -> None:
    stages = RECIPES[name].schedule.stages
    assert list(accumulate(stage.epochs for stage in stages)) == pytest.approx(ends)
    assert [stage.learning_rate for stage in stages] == rates


def test_the_sources_data_and_decays() -> None:
    for name in ("original", "original-2010", "one-gpu", "six-conv-pretrain", "six-conv-finetune"):
        data, optimizer = RECIPES[name].data, RECIPES[name].optimizer
        assert (data.corners, data.crops_shared_by, data.order, data.mean) == ("original", 32, "once", "center"), name
        assert (data.color_noise, data.color_scale, data.color_shrink) == (0.1, "deviations", True), name
        assert (optimizer.batch_size, optimizer.momentum, optimizer.weight_decay) == (128, 0.9, 0.0005), name
    # conv1 learns more slowly when the noise ends, and is frozen five, four or six epochs later.
    for name, off in (("original", 67), ("original-2010", 68), ("one-gpu", 66)):
        stages = RECIPES[name].schedule.stages
        assert [stage.layer_learning_rates.get("conv1") for stage in stages] == [None, None, None, 1e-5, 0.0, 0.0]
        assert sum(stage.epochs for stage in stages if stage.color_noise) == off
    decays = {
        name: RECIPES[name].optimizer.layer_weight_decay for name in ("cifar-18pct", "cifar-13pct", "cifar-11pct")
    }
    none = {"conv1": 0.0, "conv2": 0.0}
    assert decays == {"cifar-18pct": {"fc4": 1.0}, "cifar-13pct": none, "cifar-11pct": none | {"fc5": 0.01}}
    for name in decays:
        assert RECIPES[name].optimizer.weight_decay == 0.004 and RECIPES[name].network.dropout == 0
        data = RECIPES[name].data
        assert (data.order, data.file_images, data.mean, data.color_noise) == ("stored", 10_000, "center", 0.0)
        assert (data.crop, data.mirror) == ((32, False) if name == "cifar-18pct" else (24, True))
        first = RECIPES[name].schedule.stages[0]
        assert first.bias_learning_rate == 2e-3 and first.images == (0 if name == "cifar-18pct" else 40_000)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(RequestError, match=r"unknown recipe 'papers'; did you mean paper\? known are quick, paper"):
        named_recipe("papers")
    with pytest.raises(RequestError, match=r"unknown recipe keys \['color'\]"):
        recipe_from_dict({"color": 1})
    with pytest.raises(RequestError, match=r"unknown keys \['rte'\] under optimizer"):
        recipe_from_dict({"optimizer": {"rte": 1}})


@pytest.mark.parametrize(
    ("settings", "values"),
    [
        (NetworkSettings, {"width": 0}),
        (NetworkSettings, {"dropout": 1}),
        (DataSettings, {"crop": 7}),
        (DataSettings, {"color_noise": -1}),
        (DataSettings, {"subset": -1}),
        (OptimizerSettings, {"batch_size": 0}),
        (OptimizerSettings, {"learning_rate": -0.1}),
        (OptimizerSettings, {"momentum": 1}),
        (OptimizerSettings, {"weight_decay": -1}),
        (ScheduleSettings, {"epochs": 0}),
        (ScheduleSettings, {"milestones": (0.8, 0.5)}),
        (ScheduleSettings, {"milestones": (0.0,)}),
        (ScheduleSettings, {"gamma": 0}),
        (ScheduleSettings, {"warmup": 1}),
        (TrainingSettings, {"seed": -1}),
        (TrainingSettings, {"label_smoothing": 1}),
        (TrainingSettings, {"evaluate_every": 0}),
    ],
)
def test_values_out_of_range_name_their_option(settings: type, values: dict[str, object]) -> None:
    (key,) = values
    with pytest.raises(RequestError, match=rf"--\w+\.{key} is .*allowed"):
        settings(**values)


def test_config_file_changes_only_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("optimizer: {learning_rate: 2e-2}\nschedule: {epochs: 3, milestones: [0.5]}\n")
    changed = read_config(path, PAPER)
    assert changed.optimizer == replace(PAPER.optimizer, learning_rate=0.02)
    assert recipe_differences(PAPER, changed) == [
        "optimizer.learning_rate: 0.01 -> 0.02",
        "schedule.epochs: 150 -> 3",
        "schedule.milestones: (0.25, 0.55, 0.85) -> (0.5,)",
    ]


@pytest.mark.parametrize(
    "content",
    [
        "optimizer: 3",
        "[1, 2]",
        "a: [",
        "optimizer: {rates: 1}",
        "color: 1",
        "optimizer: {learning_rate: fast}",
        "optimizer: {momentum: }",
        "optimizer: {batch_size: 12.5}",
        "schedule: {milestones: 0.5}",
        "schedule: {kind: two-cycle}",
        "data: {mirror: 1}",
    ],
)
def test_wrong_config_files_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(RequestError):
        read_config(tmp_path / "c.yaml", PAPER)
    with pytest.raises(RequestError, match=r"cannot read the recipe .*none\.yaml"):
        read_config(tmp_path / "none.yaml", PAPER)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"epochs": 1},
            r"--schedule.epochs has no effect on a schedule of kind stages, .*--schedule.stages '\[\]'",
        ),
        ({"milestones": (0.5,)}, "--schedule.milestones has no effect on a schedule of kind stages, only on steps"),
        ({"patience": 9}, "--schedule.patience has no effect .* only on plateau"),
    ],
)
def test_a_change_that_would_do_nothing_is_refused(change: dict[str, Any], message: str) -> None:
    original = RECIPES["original"]
    refuse_unread_changes(original, original)
    with pytest.raises(RequestError, match=message):
        refuse_unread_changes(original, replace(original, schedule=replace(original.schedule, **change)))
    changed = replace(original, schedule=ScheduleSettings(kind="steps", epochs=3, milestones=(0.5,)))
    refuse_unread_changes(original, changed)
    with pytest.raises(RequestError, match=r"--optimizer.learning_rate has no effect on a schedule of kind stages"):
        refuse_unread_changes(original, replace(original, optimizer=replace(original.optimizer, learning_rate=0.5)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"name": 5}, "the recipe's name is 5; allowed is text"),
        ({1: 2, "foo": 3}, "unknown recipe keys"),
        ({"optimizer": {1: 2, "foo": 3}}, "unknown keys .* under optimizer"),
        ({"optimizer": {"learning_rate": "nan"}}, "--optimizer.learning_rate is nan; allowed is 0 or more"),
        (
            {"optimizer": {"layer_weight_decay": {"fc8": "x"}}},
            "layer_weight_decay is .*allowed is a mapping from names to numbers",
        ),
        ({"schedule": {"milestones": None}}, "milestones is None; allowed is a list of numbers"),
        (
            {"schedule": {"stages": 5}},
            "stages is 5; allowed is a list of stages, each with epochs, learning_rate and more",
        ),
        (
            {
                "schedule": {
                    "kind": "stages",
                    "stages": [{"epochs": 1, "learning_rate": 1}, {"epochs": "inf", "learning_rate": 1}],
                }
            },
            "stage 2: .* a stage has inf epochs",
        ),
        ({"schedule": {"kind": "stages", "stages": [{"epochs": 1}]}}, r"stage 1.*keys \['learning_rate'\] are missing"),
    ],
)
def test_wrong_contents_are_refused_in_words(content: dict[Any, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        recipe_from_dict(content)


def test_differences_of_stages_are_told_in_a_line() -> None:
    steps = replace(
        RECIPES["original"], schedule=replace(RECIPES["original"].schedule, kind="steps", stages=(), epochs=1)
    )
    lines = recipe_differences(RECIPES["original"], steps)
    assert (
        "schedule.stages: 25 epochs at 0.01, 26 epochs at 0.001, 16 epochs at 0.0001, 5 epochs at 0.0001, " in lines[2]
    )
    assert lines[2].endswith("-> no stages")


def test_recipes_are_advised_for_stored_sides_of_which_their_crops_show_most() -> None:
    for side in range(1, 600):
        assert recipes_for_side(side) == [name for name, one in RECIPES.items() if 0.5 <= one.data.crop / side <= 1]


def test_every_recipe_has_a_side_that_it_is_made_for() -> None:
    for name, one in RECIPES.items():
        side = side_for_crop(one.data.crop)
        assert side == (256 if one.data.crop > 200 else 32) and name in recipes_for_side(side)
    for crop in range(8, 600):
        assert crop <= side_for_crop(crop) <= 2 * crop


@given(st.integers(8, 1024), st.integers(1, 10**7), st.booleans(), st.booleans())
def test_the_first_training_follows_side_number_and_machine(
    side: int, num: int, has_gpu: bool, has_validation: bool
) -> None:
    advised = advised_training(side, num, has_gpu=has_gpu, has_validation=has_validation)
    assert advised.recipe in recipes_for_side(advised.side)
    assert advised.side == side or advised.recipe not in recipes_for_side(side)
    is_small = 28 <= side <= 56
    assert (advised.recipe == "paper") == (has_gpu and num >= 5_000 and not is_small)
    if advised.recipe == "paper":
        assert advised.changes == (() if has_validation else ("--schedule.kind", "steps"))
    elif num > 45_454:  # 5 epochs, as on the 50,000 images of CIFAR-10
        assert advised.changes == ()
    else:
        option, epochs = advised.changes
        assert option == "--schedule.epochs" and (int(epochs) == 400 or abs(int(epochs) * num - 250_000) <= num / 2)


@pytest.mark.parametrize(("side", "num"), [(28, 24), (32, 24), (56, 9)])
def test_prepare_advises_a_training_on_its_images(
    make_tree: Any, tmp_path: Path, side: int, num: int, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = make_tree("photographs", train=num // 3)
    assert main(["prepare", str(tree), str(tmp_path / "data"), "--side", str(side)]) == 0
    command = f"alexnet train {tmp_path / 'data'} --recipe quick --schedule.epochs 400 --run runs/first"
    assert f"\nnext: {command}\n" in capsys.readouterr().out


@pytest.mark.parametrize("has_gpu", [False, True])
def test_prepare_advises_the_paper_where_there_is_a_gpu(
    make_tree: Any, tmp_path: Path, has_gpu: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet.runs.recipes.MIN_PAPER_IMAGES", 24)
    monkeypatch.setattr(
        "alexnet.system.device.choose_device", lambda wanted: torch.device("cuda" if has_gpu else "cpu")
    )
    folder = tmp_path / "data"
    assert main(["prepare", str(make_tree("photographs")), str(folder), "--side", "256"]) == 0
    said = capsys.readouterr().out
    assert (f"\nnext: alexnet train {folder} --recipe paper --run runs/first\n" in said) == has_gpu
    why = "the recipe paper is for a GPU and at least 24 training images; here: no GPU, 24 images"
    assert (why in said) == (f"then: alexnet train {folder}-32px --recipe quick" in said) == (not has_gpu)


def test_the_advised_commands_work_as_printed(
    make_tree: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = make_tree("photographs")
    (tree / "train").rename(tree / "learn")
    (tree / "val").rename(tree / "class")
    words = ["--side", "128", "--split", "train=learn", "--hold-out", "0.25", "--seed", "3", "--max-refused", "0.5"]
    assert main(["prepare", str(tree), str(tmp_path / "it's data"), *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "no recipe fits images of 128 pixels: its crops would be larger, or show only corners" in lines[-3]
    prepare, train = (shlex.split(line.partition(": ")[2]) for line in lines[-2:])
    assert (prepare[0], train[0]) == ("alexnet", "alexnet")
    assert main(prepare[1:]) == 0
    first, second = (PreparedData.open(tmp_path / f"it's data{end}") for end in ("", "-32px"))
    assert "train learn" in write_inspection(second, tmp_path / "page.html").read_text()
    assert second.side == 32 and list(second.splits["val"].keys) == list(first.splits["val"].keys)
    assert "--max-refused" in prepare
    capsys.readouterr()
    assert main([*train[1:], "--show"]) == 0
    assert "recipe quick" in capsys.readouterr().out
