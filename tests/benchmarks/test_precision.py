"""Emulated bfloat16 is bfloat16, and the benchmark compares the two precisions as documented."""

import dataclasses
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alexnet.data.preparation.prepare import prepare
from alexnet.errors import RequestError, WorkError
from alexnet.model.network import AlexNet
from alexnet.runs.recipe import OptimizerSettings
from alexnet.runs.recipes import ORIGINAL, PAPER, QUICK
from alexnet.system.machine import has_bfloat16, processor_flags
from alexnet.training.eager_step import EagerStep
from alexnet.training.schedule import learning_rates_at
from benchmarks import precision
from benchmarks.precision import EmulatedBfloat16, measure_precision, print_table

HALF_STEP = 2.0**-8
"""The largest relative error of rounding to 8 bits."""


def halves(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def test_sums_of_products_are_exact_but_for_one_rounding() -> None:
    """Against float64 formulas: a convolution in two columns with both its gradients, and a dense layer."""
    x, weight, bias = halves(3, 8, 9, 9, seed=1), halves(6, 4, 3, 3, seed=2), halves(6, seed=3)
    gradient = halves(3, 6, 5, 5, seed=4)

    def results(dtype: torch.dtype) -> list[torch.Tensor]:
        given = [one.to(dtype).requires_grad_() for one in (x, weight, bias)]
        convolved = F.conv2d(*given, stride=2, padding=1, groups=2)
        found = [convolved, *torch.autograd.grad(convolved, given, gradient.to(dtype))]
        return [*found, F.linear(x.to(dtype).flatten(2), weight.to(dtype).reshape(-1)[:81].expand(5, 81))]

    with EmulatedBfloat16() as emulated:
        got = results(torch.bfloat16)
    assert emulated.num_emulated >= 3
    for ours, exact in zip(got, results(torch.float64), strict=True):
        assert ours.dtype == torch.bfloat16
        # The sums are float32: errors of about 2^-22 of the terms, which may be all that remains if the terms cancel.
        assert ((ours.double() - exact).abs() <= HALF_STEP * exact.abs() + 1e-4).all()


@pytest.mark.slow
def test_a_network_equals_the_librarys() -> None:
    """Scores and gradients of a small network under autocast equal those of torch's own (slow) bfloat16 products."""
    images = 50 * torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(5))
    found = []
    for mode in (EmulatedBfloat16(), None):
        network = AlexNet(4, "quick", 0.25, generator=torch.Generator().manual_seed(0)).eval()
        with torch.autocast("cpu", torch.bfloat16):
            if mode is None:
                scores = network(images)
                F.cross_entropy(scores.float(), torch.tensor([0, 3])).backward()
            else:
                with mode:
                    scores = network(images)
                    F.cross_entropy(scores.float(), torch.tensor([0, 3])).backward()
        found.append([scores.detach(), *(one.grad for one in network.parameters())])
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).norm() <= 0.02 * theirs.norm()


def test_other_numbers_are_left_alone() -> None:
    x, weight = torch.randn(2, 3, 5, 5), torch.randn(4, 3, 3, 3)
    with EmulatedBfloat16() as emulated:
        result = F.conv2d(x, weight)
        doubled = halves(4, seed=1) * 2
    assert emulated.num_emulated == 0
    assert result.dtype == torch.float32 and torch.equal(result, F.conv2d(x, weight))
    assert doubled.dtype == torch.bfloat16


@pytest.fixture
def data(make_tree: Any, tmp_path: Path) -> Path:
    prepare(make_tree("photographs", train=16), tmp_path / "data", side=32)
    return tmp_path / "data"


@pytest.fixture
def by_sgd(monkeypatch: pytest.MonkeyPatch) -> None:
    """`quick` learns by the paper's update, whose steps follow the size of the gradients."""
    network = dataclasses.replace(QUICK.network, variant="quick")
    recipe = dataclasses.replace(QUICK, network=network, optimizer=OptimizerSettings(learning_rate=0.05))
    monkeypatch.setattr(precision, "named_recipe", lambda _: recipe)


@pytest.mark.slow
def test_figures_follow_from_the_losses(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="alexnet")
    found = measure_precision(data, "quick", 20, 16, 2, "cpu")
    losses = found["losses"]
    assert list(losses) == ["float32, seed 0", "float32, seed 1", "bfloat16, seed 0"]
    assert all(len(one) == 20 and np.isfinite(one).all() for one in losses.values())
    means = {name: np.reshape(one, (2, 10)).mean(1) for name, one in losses.items()}
    for name, one in means.items():
        assert found["mean_losses"][name] == pytest.approx(one)
    apart = math.sqrt(((means["float32, seed 0"] - means["bfloat16, seed 0"]) ** 2).mean())
    seeds = math.sqrt(((means["float32, seed 0"] - means["float32, seed 1"]) ** 2).mean())
    assert found["distance"] == pytest.approx(apart) and found["seed_distances"] == {"0 and 1": pytest.approx(seeds)}
    assert found["within_seed_spread"] == (apart <= seeds)
    # The same weights, images and dropout: the first losses differ, and only by rounding.
    first, half = losses["float32, seed 0"][0], losses["bfloat16, seed 0"][0]
    assert first != half and first == pytest.approx(half, rel=0.02)
    assert (found["emulated_operations"] > 0) == (not has_bfloat16(processor_flags()))
    assert caplog.messages[-1].startswith("bfloat16, seed 0: step 20 of 20, loss ")


@pytest.mark.slow
@pytest.mark.usefixtures("by_sgd")
def test_arithmetic_that_spoils_the_gradients_is_found_out(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check can fail: with gradients that lose what is below a hundredth."""

    def coarse(value: Any) -> Any:
        return value.float() * (value.float().abs() > 1e-2) if isinstance(value, torch.Tensor) else value

    monkeypatch.setattr(precision, "_to_float32", coarse)
    monkeypatch.setattr(precision, "choose_precision", lambda wanted, device: "float32")
    found = measure_precision(data, "quick", 60, 16, 2, "cpu")
    assert not found["within_seed_spread"], (found["distance"], found["seed_distances"])


def test_the_first_learning_rates_of_a_recipe_are_kept() -> None:
    """Learning rates of weights, biases and single layers; `paper` has one for all."""
    original = precision._with_constant_learning_rates(ORIGINAL).schedule
    assert original.stages == (dataclasses.replace(ORIGINAL.schedule.stages[0], epochs=10**6),)
    assert original.stages[0].bias_learning_rate == 2 * original.stages[0].learning_rate
    paper = precision._with_constant_learning_rates(PAPER)
    assert learning_rates_at(paper, 10**5, 10**9).of("conv1.weight") == PAPER.optimizer.learning_rate


@pytest.mark.parametrize("where", ["float32", "bfloat16"])
def test_a_training_that_diverges_is_reported(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    forward_backward = EagerStep.forward_backward

    def derived(own: EagerStep, phase: Any, batch: Any, step: int) -> float:
        if own.setup.precision == where and step == 13:
            for tensor in own.weights.tensors.values():
                tensor.data.fill_(math.nan)
        return forward_backward(own, phase, batch, step)

    monkeypatch.setattr(EagerStep, "forward_backward", derived)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    if where == "float32":
        with pytest.raises(
            WorkError, match="float32, seed 0: a loss or gradient of step 13 is not finite; nothing was"
        ):
            measure_precision(data, "quick", 20, 16, 2, "cpu")
    else:
        found = measure_precision(data, "quick", 20, 16, 2, "cpu")
        assert not found["within_seed_spread"] and found["distance"] is None
        assert len(found["losses"]["bfloat16, seed 0"]) == 13 and len(found["mean_losses"]["bfloat16, seed 0"]) == 1
        print_table(found)
    assert sorted(tmp_path.rglob("*")) == before  # nothing is written


@pytest.mark.slow
@pytest.mark.usefixtures("by_sgd")
def test_bfloat16_learns_as_float32_does(data: Path) -> None:
    found = measure_precision(data, "quick", 200, 16, 3, "cpu")
    assert found["within_seed_spread"], (found["distance"], found["seed_distances"])
    assert all(losses[-1] < 0.5 * losses[0] for losses in found["mean_losses"].values())


def test_a_batch_is_not_cut(data: Path) -> None:
    with pytest.raises(
        RequestError, match="--batch-size is 49, and an epoch of quick has 48 images; allowed is 48 or less"
    ):
        measure_precision(data, "quick", 10, 49, 2, "cpu")


@pytest.mark.parametrize(
    ("steps", "batch_size", "seeds", "text"),
    [
        (15, 8, 2, "--steps is 15; allowed are multiples of 10"),
        (0, 8, 2, "--steps is 0"),
        (10, 0, 2, "--batch-size is 0; allowed is 1 or more"),
        (10, 8, 1, "--seeds is 1; allowed are 2 or more"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path: Path, steps: int, batch_size: int, seeds: int, text: str) -> None:
    with pytest.raises(RequestError, match=text):
        measure_precision(tmp_path, "quick", steps, batch_size, seeds, "cpu")
