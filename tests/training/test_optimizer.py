"""The update rule against the paper's two lines, worked in float64."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from alexnet.errors import RequestError
from alexnet.training.optimizer import Muon, VelocitySGD
from alexnet.training.orthogonal import orthogonalized
from alexnet.training.schedule import LearningRates
from alexnet.training.setup import require_whole_layers

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


def convolution_and_dense() -> nn.Sequential:
    torch.manual_seed(3)
    # (8, 3, 3, 3) in two columns, tall; (4, 8, 3, 3), wide; a dense layer.
    conv1, conv2 = nn.Conv2d(6, 8, 3, groups=2), nn.Conv2d(8, 4, 3)
    return nn.Sequential(conv1, conv2, nn.Linear(3, 2)).double().to(memory_format=torch.channels_last)


def orthogonal_by_hand(matrix: np.ndarray) -> np.ndarray:
    """Jordan's polynomial of each singular value, four times; the singular vectors stay."""
    u, values, v = np.linalg.svd(matrix, full_matrices=False)
    values = values / np.sqrt((values**2).sum())
    for _ in range(4):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return (u * values) @ v


@given(rows=st.integers(1, 9), columns=st.integers(1, 9), num=st.integers(1, 3), seed=st.integers(0, 99))
def test_matrices_keep_their_singular_vectors(rows: int, columns: int, num: int, seed: int) -> None:
    matrices = np.random.default_rng(seed).normal(size=(num, rows, columns))
    found = orthogonalized(torch.from_numpy(matrices)).numpy()
    for matrix, one in zip(matrices, found, strict=True):
        np.testing.assert_allclose(one, orthogonal_by_hand(matrix), rtol=0, atol=1e-9)
    assert not orthogonalized(torch.zeros(1, rows, columns)).any()


def test_muon_moves_convolutions_by_orthogonal_matrices_and_the_rest_by_the_papers_rule() -> None:
    # Two steps, a freeze, a thaw at another rate; layer 1 has another decay, the biases another learning rate.
    rates = (0.1, 0.02, 0.0, 0.05)
    paths = []
    for device_side in (False, True):
        network = convolution_and_dense()
        optimizer = Muon(network, 0.9, 0.05, {"1": 0.3})
        expected = {name: tensor.detach().numpy().copy() for name, tensor in network.named_parameters()}
        buffers = {name: np.zeros_like(tensor) for name, tensor in expected.items()}
        generator = torch.Generator().manual_seed(5)
        for rate in rates:
            learning_rates = LearningRates(weights=rate, biases=0.3 * rate)
            for name, parameter in network.named_parameters():
                gradient = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
                parameter.grad = torch.empty_like(parameter).copy_(gradient)
                if rate:
                    step_by_hand(expected, buffers, name, gradient.numpy(), rate if "weight" in name else 0.3 * rate)
            if device_side:
                gradients = [one.grad for one in network.parameters() if one.grad is not None]
                factors = torch.tensor(optimizer.update_factors(learning_rates), dtype=torch.float64)
                optimizer.update(gradients, factors, torch.zeros(()), [None] * len(gradients))
            else:
                optimizer.step(learning_rates)
        for name, parameter in network.named_parameters():
            np.testing.assert_allclose(parameter.detach().numpy(), expected[name], rtol=0, atol=1e-9, err_msg=name)
        paths.append(optimizer.state()[1])
    assert paths[0].keys() == paths[1].keys() == dict(convolution_and_dense().named_parameters()).keys()


def step_by_hand(
    weights: dict[str, np.ndarray], buffers: dict[str, np.ndarray], name: str, gradient: np.ndarray, rate: float
) -> None:
    decay = 0.0 if "bias" in name else 0.3 if name == "1.weight" else 0.05
    weight, buffer = weights[name], buffers[name]
    if weight.ndim < 4:
        buffer[...] = 0.9 * buffer - decay * rate * weight - rate * gradient  # the paper's velocity
        weight += buffer
        return
    buffer[...] = 0.9 * buffer + gradient
    columns = 2 if name == "0.weight" else 1
    direction = [
        max(1.0, len(part) / part[0].size) ** 0.5 * orthogonal_by_hand(part.reshape(len(part), -1))
        for part in np.split(gradient + 0.9 * buffer, columns)
    ]
    weight[...] = (1 - rate * decay) * weight - rate * np.concatenate(direction).reshape(weight.shape)


def test_muon_stops_and_continues() -> None:
    def run(interrupted: bool) -> torch.Tensor:
        network = convolution_and_dense()
        optimizer = Muon(network, 0.9, 0.05)
        generator = torch.Generator().manual_seed(1)
        for number, rate in enumerate((0.1, 0.05, 0.02)):
            if interrupted and number == 2:
                last_rates, buffers = optimizer.state()
                buffers = {name: tensor.clone() for name, tensor in buffers.items()}
                optimizer = Muon(network, 0.9, 0.05)
                optimizer.restore(last_rates, buffers)
            for parameter in network.parameters():
                parameter.grad = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
            optimizer.step(even(rate))
        return torch.cat([tensor.detach().flatten() for tensor in network.parameters()])

    assert torch.equal(run(False), run(True))
    # A step that is not finite stops on the device: nothing moves.
    network = convolution_and_dense()
    before = [tensor.detach().clone() for tensor in network.parameters()]
    optimizer = Muon(network, 0.9, 0.05)
    factors = torch.tensor(optimizer.update_factors(even(0.1)), dtype=torch.float64)
    broken = [torch.full_like(tensor, torch.nan) for tensor in network.parameters()]
    optimizer.update(broken, factors, torch.ones(()), [None] * len(broken))
    assert all(torch.equal(one, other) for one, other in zip(network.parameters(), before, strict=True))


def test_muon_refuses_half_a_layer() -> None:
    whole, half = nn.Sequential(nn.Conv2d(3, 8, 3)), nn.Sequential(nn.Conv2d(3, 4, 3))
    require_whole_layers(Muon(whole, 0.9, 0.0), whole)
    require_whole_layers(VelocitySGD(half, 0.9, 0.0), whole)
    with pytest.raises(RequestError, match=r"--columns 2 divides 0\.weight over two processes; allowed is --columns 1"):
        require_whole_layers(Muon(half, 0.9, 0.0), whole)
