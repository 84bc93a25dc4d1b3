"""The paper's update rule on torch's fused optimizer. Paper: section 5.

    v <- momentum * v - decay * rate * w - rate * gradient
    w <- w + v

The rate stands inside the velocity, so a velocity gathered at one rate goes on unchanged when the rate
drops. torch.optim.SGD keeps b = -v / rate instead and multiplies by the rate of the day; the two are the
same while the rate stands still. At a change from one rate to the next, torch's momentum is multiplied by
old / new for that one step, which carries v over exactly and costs no pass over the weights.
"""

import torch
from torch import nn


class VelocitySGD:
    """Gradient descent with the paper's velocity; decay on weights, not on biases.

    A rate of 0 freezes: neither gradient nor decay nor a coasting velocity moves the weights, and the
    velocity is kept for the next rate above 0.

    Args:
        network: its parameters named `*.weight` decay, the others do not.
        momentum: share of the velocity carried over.
        decay: weight decay.
    """

    def __init__(self, network: nn.Module, momentum: float, decay: float) -> None:
        self.momentum = momentum
        self.parameters = dict(network.named_parameters())
        weights = [tensor for name, tensor in self.parameters.items() if name.endswith("weight")]
        others = [tensor for name, tensor in self.parameters.items() if not name.endswith("weight")]
        device = weights[0].device.type
        # float32 only: on a CPU the fused form passes over bfloat16 parameters without a word.
        fused = device in ("cpu", "cuda") and all(tensor.dtype == torch.float32 for tensor in weights + others)
        groups = [{"params": weights, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
        # The rate is set before each step; foreach where there is no fused form for the device or the dtype.
        self._sgd = torch.optim.SGD(groups, lr=1.0, momentum=momentum, fused=fused, foreach=not fused)
        self._last_rate: float | None = None

    def step(self, rate: float) -> None:
        """One update with the gradients that stand on the parameters."""
        if rate == 0:
            return
        carried = 1.0 if self._last_rate is None else self._last_rate / rate
        for group in self._sgd.param_groups:
            group["lr"] = rate
            group["momentum"] = self.momentum * carried
        self._sgd.step()
        self._last_rate = rate

    def clear_gradients(self) -> None:
        """Forget the gradients; their memory is freed for the next step's."""
        self._sgd.zero_grad(set_to_none=True)

    def state(self) -> tuple[float, dict[str, torch.Tensor]]:
        """The last rate (0 before the first step) and torch's buffer b = -v / rate of each parameter, by name."""
        buffers = {
            name: self._sgd.state[parameter]["momentum_buffer"]
            for name, parameter in self.parameters.items()
            if self._sgd.state[parameter].get("momentum_buffer") is not None
        }
        return self._last_rate or 0.0, buffers

    @torch.no_grad()
    def restore(self, last_rate: float, buffers: dict[str, torch.Tensor]) -> None:
        """Go on from what `state` returned."""
        self._last_rate = last_rate or None
        for name, buffer in buffers.items():
            parameter = self.parameters[name]
            # Laid out as the parameter is (channels-last, say): the fused update walks both in one order.
            self._sgd.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(buffer)
