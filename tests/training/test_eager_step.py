"""Steps of small networks whose threads run images of their own, against the whole batch in plain torch."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.training.small_trainings import small_recipe

from alexnet.bench.random_images import random_data
from alexnet.data.augment import Batch
from alexnet.model.kernels import reference_ops
from alexnet.model.layers import SeededDropout
from alexnet.runs.recipe import Recipe
from alexnet.training import eager_step
from alexnet.training.batches import load_device_cache, make_loader
from alexnet.training.eager_step import EagerStep
from alexnet.training.setup import TrainingSetup, build_setup
from alexnet.training.step import NotFiniteError, dropout_seed, network_input

NUM = 70  # parts of 32, 32 and 6


def recipe(**training: Any) -> Recipe:
    small = small_recipe(1, **training)
    return replace(small, optimizer=replace(small.optimizer, batch_size=NUM))


def setup_and_batch(**training: int) -> tuple[TrainingSetup, Batch]:
    setup = build_setup(random_data(NUM, 32, 10), recipe(**training))
    return setup, make_loader(setup, setup.plan.phases[0]).batch(0)


def gradients_of(setup: TrainingSetup, batch: Batch) -> tuple[float, dict[str, torch.Tensor], EagerStep]:
    step = EagerStep(setup)
    loss = step.forward_backward(setup.plan.phases[0], batch, 0)
    return loss, step.weights.gradients(), step


def test_parts_in_threads_are_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    setup, batch = setup_and_batch()
    mean_image = torch.from_numpy(setup.data.statistics.mean_image)
    images = network_input(setup, batch, mean_image, None, 1.0)
    setup.dropout_generator.manual_seed(dropout_seed(setup.recipe.training.seed, 0))
    with reference_ops():
        scores = setup.network(images)
        wanted_loss = F.cross_entropy(scores, batch.labels, label_smoothing=setup.recipe.training.label_smoothing)
        wanted = torch.autograd.grad(wanted_loss, list(setup.network.parameters()))
    lengths: list[int] = []
    forward = type(setup.forward).__call__

    def watched(own: object, images: torch.Tensor) -> torch.Tensor:
        lengths.append(len(images))
        return forward(own, images)  # type: ignore[arg-type]

    monkeypatch.setattr(type(setup.forward), "__call__", watched)
    found = {}
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        loss, gradients, step = gradients_of(setup, batch)
        assert loss == pytest.approx(wanted_loss.item(), rel=1e-6)
        for (name, got), want in zip(gradients.items(), wanted, strict=True):
            # Rarely, rounding changes which activation is the maximum.
            assert (got - want).norm() <= 1e-4 * want.norm(), name
            assert got.stride() == setup.network.get_parameter(name).stride()
        assert sorted(lengths) == [6, 32, 32]
        lengths.clear()
        errors = float((scores.argmax(1) != batch.labels).float().mean())
        found[threads] = loss, gradients
        assert step.take_metrics().means()["top1_error"] == pytest.approx(errors)
        for module in setup.network.modules():
            assert not isinstance(module, SeededDropout) or module.part is None
    for loss, gradients in found.values():
        assert loss == found[1][0]
        assert all(torch.equal(gradients[name], found[1][1][name]) for name in gradients)


def test_dropout_masks_are_those_of_the_whole_batch() -> None:
    """With weights of 0 before it, the last layer's gradient shows which units each image kept."""
    setup, batch = setup_and_batch()
    with torch.no_grad():
        setup.network.get_parameter("conv4.weight").zero_()
        setup.network.get_parameter("conv4.bias").fill_(1)
        setup.network.get_parameter("fc5.weight").zero_()
    torch.set_num_threads(2)
    batch = replace(batch, labels=torch.zeros_like(batch.labels))
    _, gradients, _ = gradients_of(setup, batch)
    setup.dropout_generator.manual_seed(dropout_seed(setup.recipe.training.seed, 0))
    units = setup.network.get_parameter("fc5.weight").shape[1]
    keep = 1 - setup.recipe.network.dropout
    masks = torch.empty(NUM, units).bernoulli_(keep, generator=setup.dropout_generator)
    # The gradient of class 0's scores is 0.1 - 1 + smoothing * 0.9 for every image.
    slope = (0.1 - 1 + 0.9 * setup.recipe.training.label_smoothing) / NUM
    torch.testing.assert_close(gradients["fc5.weight"][0], slope * masks.sum(0))


def test_a_loss_that_is_not_finite_leaves_no_gradient() -> None:
    setup, batch = setup_and_batch()
    with torch.no_grad():
        setup.network.get_parameter("conv1.weight").fill_(math.inf)
    torch.set_num_threads(2)
    step = EagerStep(setup)
    with pytest.raises(NotFiniteError, match="the loss of step 0 is nan"):
        step.forward_backward(setup.plan.phases[0], batch, 0)
    assert not step.weights.gradients()
    # The mask of that step is gone, too.
    dropout = setup.network.get_submodule("dropout5")
    assert isinstance(dropout, SeededDropout) and dropout.part is None and dropout._mask is None


@pytest.mark.parametrize("cache", ["device", "bc1"])
def test_images_in_the_device_s_memory_are_found_by_their_rows(cache: str) -> None:
    chosen = recipe(cache=cache)
    chosen = replace(chosen, data=replace(chosen.data, subset=NUM))
    setup = build_setup(random_data(3 * NUM, 32, 10), chosen)
    device_cache = load_device_cache(setup)
    batch = make_loader(setup, setup.plan.phases[0], with_images=False).batch(0)
    torch.set_num_threads(2)
    split = EagerStep(setup, device_cache)
    losses = [split.forward_backward(setup.plan.phases[0], batch, 0)]
    whole = EagerStep(setup, device_cache)
    whole._may_split = False
    losses.append(whole.forward_backward(setup.plan.phases[0], batch, 0))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_groups_of_parts_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    setup, batch = setup_and_batch()
    torch.set_num_threads(2)
    loss, wanted, _ = gradients_of(setup, batch)
    wanted = {name: tensor.clone() for name, tensor in wanted.items()}
    monkeypatch.setattr(eager_step, "PARTS_AT_ONCE", 2)
    again, found, _ = gradients_of(setup, batch)
    assert loss == again and all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize("reason", ["micro-batches", "threads", "hook", "global hook", "parameters"])
def test_other_steps_run_the_whole_batch(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    setup, batch = setup_and_batch(**({"micro_batch": 40} if reason == "micro-batches" else {}))
    torch.set_num_threads(4 if reason == "threads" else 2)
    if reason == "hook":
        setup.network.get_submodule("conv1").register_forward_hook(lambda *_: None)
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: None) if reason == "global hook" else None
    if reason == "parameters":
        monkeypatch.setattr(eager_step, "MAX_PARAMETERS", 100)
    monkeypatch.setattr(EagerStep, "_backward_in_threads", None)
    try:
        gradients_of(setup, batch)
    finally:
        if handle is not None:
            handle.remove()
