"""The paper's update rule on torch's fused optimizer. Paper: section 5.

    v <- momentum * v - decay * rate * w - rate * gradient
    w <- w + v

The rate stands inside the velocity, so a velocity gathered at one rate goes on unchanged when the rate
drops. torch.optim.SGD keeps b = -v / rate instead and multiplies by the rate of the day; the two are the
same while the rate stands still. At a change from one rate to the next, torch's momentum is multiplied by
old / new for that one step, which carries v over exactly and costs no pass over the weights.
"""

from collections.abc import Mapping

import torch
from torch import nn

from alexnet.errors import RequestError
from alexnet.training.schedule import LearningRates


class VelocitySGD:
    """Gradient descent with the paper's velocity; decay on weights, not on biases; a rate for every parameter.

    A rate of 0 freezes: neither gradient nor decay nor a coasting velocity moves the parameter, and its
    velocity is kept for the next rate above 0.

    Args:
        network: its parameters named `*.weight` decay, the others do not.
        momentum: share of the velocity carried over.
        decay: weight decay.
        layer_weight_decay: decay of single layers, by layer name, in place of `decay`.

    Raises:
        RequestError: `layer_weight_decay` names a layer that the network does not have.
    """

    def __init__(
        self, network: nn.Module, momentum: float, decay: float, layer_weight_decay: Mapping[str, float] | None = None
    ) -> None:
        self.momentum = momentum
        self.parameters = dict(network.named_parameters())
        by_layer = dict(layer_weight_decay or {})
        require_layers(self.parameters, by_layer, "--optimizer.layer_weight_decay")
        self.decays = {
            name: by_layer.get(name.rpartition(".")[0], decay) if name.endswith("weight") else 0.0
            for name in self.parameters
        }
        tensors = list(self.parameters.values())
        # float32 only: on a CPU the fused form passes over bfloat16 parameters without a word.
        fused = tensors[0].device.type in ("cpu", "cuda") and all(tensor.dtype == torch.float32 for tensor in tensors)
        # A group for each parameter: every one has its own rate, and its own last one.
        groups = [{"params": [tensor], "weight_decay": self.decays[name]} for name, tensor in self.parameters.items()]
        # The rate is set before each step; foreach where there is no fused form for the device or the dtype.
        self._sgd = torch.optim.SGD(groups, lr=1.0, momentum=momentum, fused=fused, foreach=not fused)
        self._last_rates: dict[str, float] = {}

    def step(self, rates: LearningRates) -> None:
        """One update with the gradients that stand on the parameters; those of frozen parameters are forgotten."""
        for (name, parameter), group in zip(self.parameters.items(), self._sgd.param_groups, strict=True):
            rate = rates.of(name)
            if rate == 0:
                parameter.grad = None  # torch leaves alone what has no gradient
                continue
            group["lr"] = rate
            group["momentum"] = self._momentum_at(name, rate)
        self._sgd.step()

    def moving_parameters(self) -> list[tuple[torch.nn.Parameter, torch.Tensor, float]]:
        """Every parameter with its buffer b and its decay, for updates made elsewhere (`training/update.py`)."""
        return [(parameter, self._buffer(parameter), self.decays[name]) for name, parameter in self.parameters.items()]

    def rates_and_momenta(self, rates: LearningRates) -> list[tuple[float, float]]:
        """Rate and factor on the buffer of every parameter for a step that is made elsewhere; counts it as made."""
        rows = []
        for name in self.parameters:
            rate = rates.of(name)
            rows.append((rate, self._momentum_at(name, rate) if rate else 0.0))
        return rows

    def _momentum_at(self, name: str, rate: float) -> float:
        """Momentum times what carries the velocity over from the last rate to this one."""
        momentum = self.momentum * self._last_rates.get(name, rate) / rate
        self._last_rates[name] = rate
        return momentum

    def _buffer(self, parameter: torch.nn.Parameter) -> torch.Tensor:
        state = self._sgd.state[parameter]
        if state.get("momentum_buffer") is None:
            # From a buffer of zeros the first step makes what torch makes of none: the gradient and the decay.
            state["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        buffer: torch.Tensor = state["momentum_buffer"]
        return buffer

    def gradients(self) -> dict[str, torch.Tensor]:
        """Those that stand on the parameters, by name."""
        return {name: tensor.grad for name, tensor in self.parameters.items() if tensor.grad is not None}

    def gradients_are_finite(self) -> bool:
        """Whether no gradient holds an infinity or something that is no number."""
        return bool(are_finite(self.gradients()))

    def clear_gradients(self) -> None:
        """Forget the gradients; their memory is freed for the next step's."""
        self._sgd.zero_grad(set_to_none=True)

    def state(self) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
        """By parameter name, of those that have moved: the last rate, and torch's buffer b = -v / rate."""
        buffers = {
            name: self._sgd.state[parameter]["momentum_buffer"]
            for name, parameter in self.parameters.items()
            if name in self._last_rates and "momentum_buffer" in self._sgd.state[parameter]
        }
        return dict(self._last_rates), buffers

    @torch.no_grad()
    def restore(self, last_rates: Mapping[str, float], buffers: Mapping[str, torch.Tensor]) -> None:
        """Go on from what `state` returned."""
        self._last_rates = dict(last_rates)
        for name, buffer in buffers.items():
            parameter = self.parameters[name]
            # Laid out as the parameter is (channels-last, say): the fused update walks both in one order.
            self._sgd.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(buffer)


def are_finite(gradients: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Whether no gradient, of one or more, holds an infinity or something that is no number, bool ()."""
    # A norm is finite only where all its terms are (beyond 1e19 a float32 square is not, which is as bad).
    return torch.stack(torch._foreach_norm(list(gradients.values()))).isfinite().all()


def require_layers(parameters: Mapping[str, object], named: Mapping[str, object], option: str) -> None:
    """Refuse names of layers that have no parameters.

    Raises:
        RequestError: one of `named` is not a layer of `parameters` (by `LAYER.weight` and `LAYER.bias`).
    """
    known = list(dict.fromkeys(name.rpartition(".")[0] for name in parameters))
    if unknown := [name for name in named if name not in known]:
        raise RequestError(f"{option} names {', '.join(unknown)}; the network has {', '.join(known)}")
