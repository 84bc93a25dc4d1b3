"""The update rule against the paper's two lines, worked in float64."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

from alexnet.errors import RequestError
from alexnet.training.optimizer import VelocitySGD
from alexnet.training.schedule import LearningRates

# Two drops, a freeze, and a thaw at another rate.
RATES = [0.1, 0.1, 0.01, 0.01, 0.001, 0.0, 0.0, 0.01, 0.05]


def even(rate: float) -> LearningRates:
    return LearningRates(weights=rate, biases=rate)


def by_hand(
    start: float, gradients: Sequence[float], decay: float, momentum: float, rates: Sequence[float] = RATES
) -> list[float]:
    """v <- m v - d e w - e g; w <- w + v; a rate of 0 does nothing at all. Paper: section 5."""
    weight, velocity, path = start, 0.0, []
    for rate, gradient in zip(rates, gradients, strict=True):
        if rate:
            velocity = momentum * velocity - decay * rate * weight - rate * gradient
            weight += velocity
        path.append(weight)
    return path


def one_weight(dtype: torch.dtype = torch.float32) -> nn.Module:
    layer = nn.Sequential()
    layer.add_module("fc", nn.Linear(1, 1, dtype=dtype))
    nn.init.constant_(layer.fc.weight, 0.8)  # type: ignore[arg-type]
    nn.init.constant_(layer.fc.bias, -0.3)  # type: ignore[arg-type]
    return layer


GRADIENTS = [0.5, -1.0, 0.25, 2.0, -0.75, 1.0, 1.0, 0.3, -0.2]


def walk(optimizer: VelocitySGD, rates: Sequence[LearningRates]) -> np.ndarray:
    """Weight and bias after each step."""
    path = []
    for rate, gradient in zip(rates, GRADIENTS, strict=True):
        for parameter in optimizer.parameters.values():
            parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step(rate)
        path.append([parameter.item() for parameter in optimizer.parameters.values()])
    return np.array(path)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_path_across_drops_and_a_freeze(dtype: torch.dtype, tolerance: float) -> None:
    path = walk(VelocitySGD(one_weight(dtype), momentum=0.9, weight_decay=0.05), [even(rate) for rate in RATES])
    np.testing.assert_allclose(path[:, 0], by_hand(0.8, GRADIENTS, 0.05, 0.9), rtol=0, atol=tolerance)
    np.testing.assert_allclose(path[:, 1], by_hand(-0.3, GRADIENTS, 0.0, 0.9), rtol=0, atol=tolerance)  # no decay


def test_biases_and_single_layers_go_their_own_ways() -> None:
    # Biases at a rate that does not drop, while the weights of the named layer have another decay and other rates.
    layer_learning_rates = [0.2, 0.2, 0.2, 0.02, 0.02, 0.02, 0.0, 0.0, 0.2]
    rates = [LearningRates(weights=9.0, biases=0.02, layers={"fc": rate}) for rate in layer_learning_rates]
    path = walk(VelocitySGD(one_weight(torch.float64), 0.9, 0.05, {"fc": 0.4}), rates)
    np.testing.assert_allclose(path[:, 0], by_hand(0.8, GRADIENTS, 0.4, 0.9, layer_learning_rates), rtol=0, atol=1e-12)
    frozen_too = [0.02 if rate else 0.0 for rate in layer_learning_rates]
    np.testing.assert_allclose(path[:, 1], by_hand(-0.3, GRADIENTS, 0.0, 0.9, frozen_too), rtol=0, atol=1e-12)
    with pytest.raises(RequestError, match=r"layer_weight_decay names fc9, fcx; the network has fc"):
        VelocitySGD(one_weight(), 0.9, 0.05, {"fc9": 1.0, "fc": 1.0, "fcx": 1.0})


def test_every_weight_moves() -> None:
    # 70 values: a fused loop that handles only whole vectors would leave some behind.
    layer = nn.Linear(35, 2)
    before = layer.weight.detach().clone()
    optimizer = VelocitySGD(layer, momentum=0.9, weight_decay=0.0)
    layer(torch.ones(1, 35)).sum().backward()
    optimizer.step(even(0.1))
    assert (layer.weight != before).all()


def test_state_goes_on_where_it_was() -> None:
    def run(interrupted: bool) -> torch.Tensor:
        layer = one_weight()
        optimizer = VelocitySGD(layer, 0.9, 0.05)
        for number, rate in enumerate((0.1, 0.01, 0.01, 0.001)):
            if interrupted and number == 2:
                last_rates, velocities = optimizer.state()
                velocities = {name: tensor.clone() for name, tensor in velocities.items()}
                optimizer = VelocitySGD(layer, 0.9, 0.05)
                optimizer.restore(last_rates, velocities)
            layer.zero_grad()
            (layer(torch.ones(3, 1)) ** 2).mean().backward()
            optimizer.step(LearningRates(weights=rate, biases=0.05))
        return torch.cat([tensor.detach().flatten() for tensor in layer.parameters()])

    assert torch.equal(run(False), run(True))


def test_without_momentum_there_is_a_state_all_the_same() -> None:
    network = torch.nn.Linear(3, 2)
    optimizer = VelocitySGD(network, 0.0, 0.0)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step(LearningRates(weights=0.1, biases=0.1))
    assert optimizer.state() == ({"weight": 0.1, "bias": 0.1}, {})  # torch keeps no buffer
