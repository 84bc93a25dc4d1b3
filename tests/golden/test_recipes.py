"""Recipes of version 0.1.0: read under today's keys, changed by options, listed."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from alexnet.cli.main import command_parser
from alexnet.errors import RequestError
from alexnet.runs.baseline_recipe import BASELINES
from alexnet.runs.folder import RunFolder
from alexnet.runs.overview import list_runs
from alexnet.runs.recipe import (
    DataSettings,
    NetworkSettings,
    OptimizerSettings,
    Recipe,
    ScheduleSettings,
    TrainingSettings,
)
from alexnet.runs.recipe_file import OLD_KEYS, read_config, recipe_to_dict
from alexnet.runs.recipes import PAPER


def quick_of_the_golden_run() -> Recipe:
    return Recipe(
        name="quick",
        network=NetworkSettings(variant="quick", dropout=0.1, width=0.05),
        data=DataSettings(crop=28, corners="original", color_noise=0.0),
        optimizer=OptimizerSettings(batch_size=4, learning_rate=0.02),
        schedule=ScheduleSettings(kind="one-cycle", epochs=3, warmup=0.2),
        training=TrainingSettings(precision="float32", ema_decay=0.9),
    )


def test_recipes_of_runs_are_read(golden: Path) -> None:
    recipe = RunFolder.open(golden / "finished").recipe()
    assert replace(recipe, claim="") == replace(quick_of_the_golden_run(), claim="")
    assert recipe.claim.startswith("A four-layer network")  # as it was written
    baseline = RunFolder.open(golden / "baseline-sparse").any_recipe()
    expected = BASELINES["sparse-coding"]
    assert replace(baseline, claim="") == replace(
        expected,
        claim="",
        descriptors=replace(expected.descriptors, cell_px="2", step_px=4),
        encoder=replace(expected.encoder, atoms=8, neighbors=3, pyramid="1x1"),  # type: ignore[call-arg]
        classifier=replace(expected.classifier, kind="sgd"),  # there was no other
    )


def test_an_old_recipe_file_changes_a_recipe(golden: Path) -> None:
    changed = read_config(golden / "finished" / "recipe.yaml", PAPER)
    assert replace(changed, claim="") == replace(quick_of_the_golden_run(), claim="")
    assert recipe_to_dict(changed)["data"]["mean"] == "crop"


def test_both_names_of_one_setting_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"optimizer": {"rate": 0.1, "learning_rate": 0.1}}))
    with pytest.raises(RequestError, match="optimizer has rate and learning_rate, which are the same setting"):
        read_config(path, PAPER)


@pytest.mark.parametrize("name", [name for name in OLD_KEYS if name.count(".") == 1])
def test_old_options_are_refused_with_their_new_names(name: str) -> None:
    group = name.partition(".")[0]
    commands = [("train",), ("baseline", "sift-fisher"), ("baseline", "sparse-coding")]
    messages = []
    for command in commands:
        with pytest.raises(RequestError) as refused:
            command_parser(command[0]).parse([*command[1:], "data", f"--{name}", "1", "--run", "run"])
        messages.append(str(refused.value))
    assert any(f"--{name} is now --{group}.{OLD_KEYS[name]}; see" in message for message in messages)


def test_old_runs_are_listed(golden: Path) -> None:
    listed = {Path(run["run"]).name: run for run in list_runs(golden)}
    assert listed["finished"]["state"] == "finished" and listed["interrupted"]["state"] == "interrupted"
    assert "optimizer.learning_rate: 0.05 -> 0.02" in listed["finished"]["changes"]
    assert listed["finished"]["top1_error"] is not None and listed["baseline"]["variant"] is None
