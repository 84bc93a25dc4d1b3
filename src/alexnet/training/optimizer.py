"""The paper's update rule on torch's fused optimizer. Paper: section 5.

    v <- momentum * v - weight_decay * learning_rate * w - learning_rate * gradient
    w <- w + v

The learning rate is inside the velocity, so a velocity gathered at one learning rate carries over unchanged when the
learning rate drops. torch.optim.SGD keeps b = -v / learning_rate instead and multiplies it by the current learning
rate; the two agree while the learning rate is constant. When it changes from one step to the next, torch's momentum is
multiplied by old / new for that one step, which carries v over exactly and costs no pass over the weights.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import nn

from alexnet.errors import RequestError
from alexnet.runs.recipe import OptimizerSettings
from alexnet.training.orthogonal import orthogonalized
from alexnet.training.schedule import LearningRates
from alexnet.training.update import update


class Optimizer(Protocol):
    """What a training asks of its optimizer. A second one is a class with these members, made in `make_optimizer`."""

    parameters: Mapping[str, nn.Parameter]
    weight_decays: Mapping[str, float]
    """Of every parameter, by its name."""

    def step(self, learning_rates: LearningRates) -> None:
        """One update with the gradients of the parameters; those of frozen parameters are cleared."""

    def update_factors(self, learning_rates: LearningRates) -> list[tuple[float, ...]]:
        """The numbers that `update` needs for one step, a row for each parameter; counts the step as done."""

    def update(
        self,
        gradients: Sequence[torch.Tensor],
        factors: torch.Tensor,
        stopped: torch.Tensor,
        rounded: Sequence[torch.Tensor | None],
    ) -> None:
        """The same update with its numbers on the device, so that a captured graph can hold it.

        Args:
            gradients: one for each parameter, float32 or bfloat16.
            factors: `update_factors` as a float32 tensor on the device.
            stopped: one number on the device; anything but 0 stops all updates.
            rounded: for each parameter a bfloat16 copy to write as well, or None.
        """

    def state(self) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
        """By parameter name, of those that have moved: the last learning rate, and the buffer."""

    def restore(self, last_learning_rates: Mapping[str, float], buffers: Mapping[str, torch.Tensor]) -> None:
        """Continue from what `state` returned."""


def make_optimizer(settings: OptimizerSettings, network: nn.Module) -> Optimizer:
    """The optimizer of a recipe for the parameters of `network`.

    Raises:
        RequestError: the settings name a layer that the network does not have.
    """
    kind = Muon if settings.kind == "muon" else VelocitySGD
    return kind(network, settings.momentum, settings.weight_decay, settings.layer_weight_decay)


class VelocitySGD:
    """SGD with the paper's velocity; decay of weights, not of biases; a learning rate for every parameter.

    A learning rate of 0 freezes: neither gradient nor decay nor velocity moves the parameter, and its velocity is kept
    for the next learning rate above 0.

    Args:
        network: its parameters named `*.weight` decay, the others do not.
        momentum: fraction of the velocity that is kept.
        weight_decay: decay of the weights.
        layer_weight_decay: decay of single layers, by layer name, in place of `weight_decay`.

    Raises:
        RequestError: `layer_weight_decay` names a layer that the network does not have.
    """

    def __init__(
        self,
        network: nn.Module,
        momentum: float,
        weight_decay: float,
        layer_weight_decay: Mapping[str, float] | None = None,
    ) -> None:
        self.momentum = momentum
        self.parameters: Mapping[str, nn.Parameter] = dict(network.named_parameters())
        by_layer = dict(layer_weight_decay or {})
        require_layers(self.parameters, by_layer, "--optimizer.layer_weight_decay")
        self.weight_decays: Mapping[str, float] = {
            name: by_layer.get(name.rpartition(".")[0], weight_decay) if name.endswith("weight") else 0.0
            for name in self.parameters
        }
        tensors = list(self.parameters.values())
        # float32 only: on a CPU the fused form silently skips bfloat16 parameters.
        fused = tensors[0].device.type in ("cpu", "cuda") and all(tensor.dtype == torch.float32 for tensor in tensors)
        # A group for each parameter: every one has its own learning rate, and its own last one.
        groups = [
            {"params": [tensor], "weight_decay": self.weight_decays[name]} for name, tensor in self.parameters.items()
        ]
        # The learning rate is set before each step; foreach where there is no fused form for the device or the dtype.
        self._sgd = torch.optim.SGD(groups, lr=1.0, momentum=momentum, fused=fused, foreach=not fused)
        self._last_learning_rates: dict[str, float] = {}

    def step(self, learning_rates: LearningRates) -> None:
        """One update with the gradients of the parameters; those of frozen parameters are cleared."""
        for (name, parameter), group in zip(self.parameters.items(), self._sgd.param_groups, strict=True):
            learning_rate = learning_rates.of(name)
            if learning_rate == 0:
                parameter.grad = None  # torch skips parameters without a gradient
                continue
            group["lr"] = learning_rate
            group["momentum"] = self._momentum_at(name, learning_rate)
        self._sgd.step()

    def update_factors(self, learning_rates: LearningRates) -> list[tuple[float, ...]]:
        """Learning rate and factor on the buffer for every parameter; counts the step as done."""
        rows: list[tuple[float, ...]] = []
        for name in self.parameters:
            learning_rate = learning_rates.of(name)
            rows.append((learning_rate, self._momentum_at(name, learning_rate) if learning_rate else 0.0))
        return rows

    @torch.no_grad()
    def update(
        self,
        gradients: Sequence[torch.Tensor],
        factors: torch.Tensor,
        stopped: torch.Tensor,
        rounded: Sequence[torch.Tensor | None],
    ) -> None:
        """The same update with its numbers on the device; see `Optimizer.update`."""
        for name, gradient, row, copy in zip(self.parameters, gradients, factors, rounded, strict=True):
            self._update_one(name, gradient, row, stopped, copy)

    def _update_one(
        self,
        name: str,
        gradient: torch.Tensor,
        factors: torch.Tensor,
        stopped: torch.Tensor,
        rounded: torch.Tensor | None,
    ) -> None:
        """`update` for one parameter, with its row of the factors."""
        parameter = self.parameters[name]
        update(
            parameter.detach(), self._buffer(parameter), gradient, factors, self.weight_decays[name], stopped, rounded
        )

    def _momentum_at(self, name: str, learning_rate: float) -> float:
        """Momentum, rescaled so that the velocity carries over from the last learning rate to this one."""
        momentum = self.momentum * self._last_learning_rates.get(name, learning_rate) / learning_rate
        self._last_learning_rates[name] = learning_rate
        return momentum

    def _buffer(self, parameter: nn.Parameter) -> torch.Tensor:
        state = self._sgd.state[parameter]
        if state.get("momentum_buffer") is None:
            # The first step from zeros gives what torch gives without a buffer: the gradient and the decay.
            state["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        buffer: torch.Tensor = state["momentum_buffer"]
        return buffer

    def state(self) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
        """By parameter name, of those that have moved: the last learning rate, and torch's buffer b."""
        buffers = {
            name: self._sgd.state[parameter]["momentum_buffer"]
            for name, parameter in self.parameters.items()
            if name in self._last_learning_rates and "momentum_buffer" in self._sgd.state[parameter]
        }
        return dict(self._last_learning_rates), buffers

    @torch.no_grad()
    def restore(self, last_learning_rates: Mapping[str, float], buffers: Mapping[str, torch.Tensor]) -> None:
        """Continue from what `state` returned."""
        self._last_learning_rates = dict(last_learning_rates)
        for name, buffer in buffers.items():
            parameter = self.parameters[name]
            # With the parameter's strides (such as channels-last): the fused update reads both in memory order.
            self._sgd.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(buffer)


class Muon(VelocitySGD):
    """Momentum whose matrices are made orthogonal, for convolutions; the paper's update for all other parameters.

    The weights of a convolution are a matrix with a row for each of D filters and a column for each of their C
    weights; each column of a network in columns has its own. With the gradient g and the buffer b:

        b <- momentum * b + g
        w <- (1 - learning_rate * weight_decay) * w - learning_rate * max(1, sqrt(D / C)) * orthogonal(g + momentum * b)

    So all directions of a layer move equally fast, however unequal its gradients are, and the size of the gradients
    does not matter. K. Jordan and others, 2024. No part of the paper.

    Args:
        network, momentum, weight_decay, layer_weight_decay: as for `VelocitySGD`.
    """

    def __init__(
        self,
        network: nn.Module,
        momentum: float,
        weight_decay: float,
        layer_weight_decay: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(network, momentum, weight_decay, layer_weight_decay)
        self._groups = {
            f"{name}.weight": module.groups for name, module in network.named_modules() if isinstance(module, nn.Conv2d)
        }

    @property
    def orthogonal(self) -> tuple[str, ...]:
        """Names of the parameters that move along orthogonal matrices."""
        return tuple(self._groups)

    @torch.no_grad()
    def step(self, learning_rates: LearningRates) -> None:
        """One update with the gradients of the parameters; those of frozen and of orthogonal parameters are cleared."""
        for name in self._groups:
            parameter, learning_rate = self.parameters[name], learning_rates.of(name)
            if learning_rate and parameter.grad is not None:
                buffer = self._buffer(parameter).mul_(self.momentum).add_(parameter.grad)
                direction = self._direction(name, parameter.grad, buffer)
                parameter.mul_(1 - learning_rate * self.weight_decays[name]).sub_(direction, alpha=learning_rate)
            parameter.grad = None  # so that the paper's update skips them
        super().step(learning_rates)

    def update_factors(self, learning_rates: LearningRates) -> list[tuple[float, ...]]:
        """Learning rate and factor on the buffer for every parameter; counts the step as done."""
        rows = super().update_factors(learning_rates)
        return [
            (row[0], self.momentum) if name in self._groups and row[0] else row
            for name, row in zip(self.parameters, rows, strict=True)
        ]

    def _update_one(
        self,
        name: str,
        gradient: torch.Tensor,
        factors: torch.Tensor,
        stopped: torch.Tensor,
        rounded: torch.Tensor | None,
    ) -> None:
        if name not in self._groups:
            super()._update_one(name, gradient, factors, stopped, rounded)
            return
        parameter, buffer = self.parameters[name], self._buffer(self.parameters[name])
        learning_rate, momentum = factors[0], factors[1]
        moves = (learning_rate != 0) & (stopped == 0)
        gradient = gradient.to(parameter.dtype)
        buffer.copy_(torch.where(moves, buffer * momentum + gradient, buffer))
        moved = parameter * (1 - learning_rate * self.weight_decays[name])
        moved -= learning_rate * self._direction(name, gradient, buffer)
        parameter.copy_(torch.where(moves, moved, parameter))
        if rounded is not None:
            rounded.copy_(parameter)

    def _direction(self, name: str, gradient: torch.Tensor, buffer: torch.Tensor) -> torch.Tensor:
        """The weights' change for a learning rate of -1, of shape (D, C, k, k)."""
        ahead = gradient + self.momentum * buffer
        num = self._groups[name]
        matrices = ahead.reshape(num, len(ahead) // num, -1)  # (columns, filters of a column, weights of a filter)
        scale = math.sqrt(max(1.0, matrices.shape[1] / matrices.shape[2]))
        return scale * orthogonalized(matrices).reshape(ahead.shape)


def require_layers(parameters: Mapping[str, object], named: Mapping[str, object], option: str) -> None:
    """Check that all named layers have parameters.

    Raises:
        RequestError: one of `named` is not a layer of `parameters` (by `LAYER.weight` and `LAYER.bias`).
    """
    known = list(dict.fromkeys(name.rpartition(".")[0] for name in parameters))
    if unknown := [name for name in named if name not in known]:
        raise RequestError(f"{option} names {', '.join(unknown)}; the network has {', '.join(known)}")
