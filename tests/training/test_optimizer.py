"""The update rule against the paper's two lines, worked in float64."""

import numpy as np
import torch
from torch import nn

from alexnet.runs.recipe import ScheduleSettings
from alexnet.training.optimizer import VelocitySGD
from alexnet.training.schedule import rate_at

# Two drops, a freeze, and a thaw at another rate.
RATES = [0.1, 0.1, 0.01, 0.01, 0.001, 0.0, 0.0, 0.01, 0.05]


def by_hand(start: float, gradients: list[float], decay: float, momentum: float) -> list[float]:
    """v <- m v - d e w - e g; w <- w + v; a rate of 0 does nothing at all. Paper: section 5."""
    weight, velocity, path = start, 0.0, []
    for rate, gradient in zip(RATES, gradients, strict=True):
        if rate:
            velocity = momentum * velocity - decay * rate * weight - rate * gradient
            weight += velocity
        path.append(weight)
    return path


def one_weight() -> nn.Linear:
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.weight, 0.8)
    nn.init.constant_(layer.bias, -0.3)
    return layer


def test_path_across_drops_and_a_freeze() -> None:
    gradients = [0.5, -1.0, 0.25, 2.0, -0.75, 1.0, 1.0, 0.3, -0.2]
    layer = one_weight()
    optimizer = VelocitySGD(layer, momentum=0.9, decay=0.05)
    weights, biases = [], []
    for rate, gradient in zip(RATES, gradients, strict=True):
        optimizer.clear_gradients()
        layer.weight.grad = torch.full((1, 1), gradient)
        layer.bias.grad = torch.full((1,), gradient)
        optimizer.step(rate)
        weights.append(layer.weight.item())
        biases.append(layer.bias.item())
    np.testing.assert_allclose(weights, by_hand(0.8, gradients, 0.05, 0.9), rtol=0, atol=1e-6)
    np.testing.assert_allclose(biases, by_hand(-0.3, gradients, 0.0, 0.9), rtol=0, atol=1e-6)  # no decay


def test_every_weight_moves() -> None:
    # 70 values: a fused loop that handles only whole vectors would leave some behind.
    layer = nn.Linear(35, 2)
    before = layer.weight.detach().clone()
    optimizer = VelocitySGD(layer, momentum=0.9, decay=0.0)
    layer(torch.ones(1, 35)).sum().backward()
    optimizer.step(0.1)
    assert (layer.weight != before).all()


def test_state_goes_on_where_it_was() -> None:
    def run(interrupted: bool) -> torch.Tensor:
        layer = one_weight()
        optimizer = VelocitySGD(layer, 0.9, 0.05)
        for number, rate in enumerate((0.1, 0.01, 0.01, 0.001)):
            if interrupted and number == 2:
                last_rate, velocities = optimizer.state()
                velocities = {name: tensor.clone() for name, tensor in velocities.items()}
                optimizer = VelocitySGD(layer, 0.9, 0.05)
                optimizer.restore(last_rate, velocities)
            optimizer.clear_gradients()
            (layer(torch.ones(3, 1)) ** 2).mean().backward()
            optimizer.step(rate)
        return layer.weight.detach().clone()

    assert torch.equal(run(False), run(True))


def test_steps_schedule() -> None:
    settings = ScheduleSettings(kind="steps", drops=(0.5, 0.75), factor=0.1)
    rates = [rate_at(settings, 0.02, step, 8) for step in range(8)]
    np.testing.assert_allclose(rates, [0.02] * 4 + [0.002] * 2 + [0.0002] * 2, rtol=1e-12)


def test_one_cycle_schedule_rises_then_falls() -> None:
    settings = ScheduleSettings(kind="one-cycle", warm_up=0.25)
    rates = np.array([rate_at(settings, 1.0, step, 8) for step in range(8)])
    np.testing.assert_allclose(rates, [0.25, 0.75, *(np.array([5.5, 4.5, 3.5, 2.5, 1.5, 0.5]) / 6)], rtol=1e-12)
