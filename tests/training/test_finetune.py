"""Going on with a network on other images: what is frozen, how fast the rest learns, what is copied."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.training.small_trainings import small_recipe, weights_of

from alexnet.cli.main import main
from alexnet.data.dataset import PreparedData
from alexnet.errors import RequestError
from alexnet.runs.folder import RunFolder
from alexnet.runs.recipes import CIFAR_11PCT, PAPER
from alexnet.training.finetune import finetune_recipe
from alexnet.training.loop import train
from alexnet.training.schedule import learning_rates_at
from alexnet.training.seeds import train_seeds

SMALL = small_recipe(epochs=2)


def test_few_images_freeze_the_convolutions(data: Path) -> None:
    opened = PreparedData.open(data)
    recipe = finetune_recipe(SMALL, opened)
    frozen = {"conv1": 0.0, "conv2": 0.0, "conv3": 0.0, "conv4": 0.0}
    assert recipe.optimizer.layer_lr_factors == {**frozen, "fc5": 10.0}
    assert (recipe.schedule.kind, recipe.optimizer.batch_size) == ("plateau", 8)
    assert recipe.network == SMALL.network and recipe.data == SMALL.data
    assert finetune_recipe(SMALL, opened, "none").optimizer.layer_lr_factors == {"fc5": 10.0}
    assert finetune_recipe(SMALL, opened, "conv2").optimizer.layer_lr_factors == {
        "conv1": 0.0,
        "conv2": 0.0,
        "fc5": 10.0,
    }
    rates = learning_rates_at(recipe, 0, 10)
    assert [rates.of(f"{name}.weight") for name in ("conv1", "conv4", "fc5")] == [0.0, 0.0, pytest.approx(0.01)]
    assert rates.of("conv1.bias") == 0 and rates.of("fc5.bias") == pytest.approx(0.001)


def test_stages_of_the_network_are_not_those_of_the_new_training(data: Path) -> None:
    recipe = finetune_recipe(CIFAR_11PCT, PreparedData.open(data), "local3")
    assert recipe.schedule.stages == () and recipe.data.order == "each-epoch"
    assert set(recipe.optimizer.layer_lr_factors) == {"conv1", "conv2", "local3", "fc5"}


@pytest.mark.parametrize("layer", ["fc8", "conv9", ""])
def test_a_layer_that_cannot_be_frozen_is_refused(layer: str, data: Path) -> None:
    with pytest.raises(RequestError, match=r"can be frozen up to conv1, .*, fc7, or none"):
        finetune_recipe(PAPER, PreparedData.open(data), layer)


def test_the_command_keeps_what_is_frozen_and_learns_the_rest(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = train(data, tmp_path / "first", SMALL)
    words = ["finetune", str(first.path), str(data), "--freeze-until", "conv3", "--schedule.epochs", "2"]
    assert main([*words, "--training.device", "cpu", "--training.precision", "float32"]) == 0
    assert "frozen layers: conv1, conv2, conv3" in capsys.readouterr().err
    second = RunFolder.open(tmp_path / "first-finetuned")
    before, after = weights_of(first.path), weights_of(second.path)
    for name in before:
        assert torch.equal(before[name], after[name]) == name.startswith(("conv1", "conv2", "conv3")), name
    metadata = second.metadata()
    assert metadata["start_from"] == str(first.path) and metadata["copied_layers"] == [
        "conv1",
        "conv2",
        "conv3",
        "conv4",
    ]
    assert main(["finetune", str(tmp_path / "none"), str(data)]) == 2
    assert main(["finetune", str(first.path), str(data), "--freeze-until", "fc5", "--run", str(tmp_path / "x")]) == 2
    assert not (tmp_path / "x").exists()


def test_seeds_make_networks_and_only_what_is_missing(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="alexnet")
    recipe = replace(SMALL, training=replace(SMALL.training, seed=3))
    runs = train_seeds(data, recipe, tmp_path / "net", None, 2)
    assert runs == [tmp_path / "net-3", tmp_path / "net-4"]
    assert [RunFolder.open(run).metadata()["seed"] for run in runs] == [3, 4]
    assert not torch.equal(weights_of(runs[0])["conv1.weight"], weights_of(runs[1])["conv1.weight"])
    before = weights_of(runs[0])
    again = train_seeds(data, recipe, tmp_path / "net", None, 3)
    assert again == [*runs, tmp_path / "net-5"] and caplog.messages.count(f"{runs[0]}: already trained") == 1
    assert all(torch.equal(before[name], tensor) for name, tensor in weights_of(runs[0]).items())
    other = replace(recipe, optimizer=replace(recipe.optimizer, learning_rate=0.01))
    with pytest.raises(RequestError, match=r"net-3 holds a finished run of another recipe"):
        train_seeds(data, other, tmp_path / "net", None, 2)


def test_factors_of_layers_are_checked(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="layer_lr_factors is"):
        replace(SMALL.optimizer, layer_lr_factors={"conv1": -1.0})
    unknown = replace(SMALL, optimizer=replace(SMALL.optimizer, layer_lr_factors={"conv9": 0.0}))
    with pytest.raises(RequestError, match=r"--optimizer.layer_lr_factors names conv9"):
        train(data, tmp_path / "run", unknown)
