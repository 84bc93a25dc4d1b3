"""An exponential moving average of the weights: what `modern` trainings validate and save. Not in the paper."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn


class WeightEMA:
    """Keeps a <- decay * a + (1 - decay) * w for every parameter, starting from the current weights.

    In the first steps the decay is smaller, (1 + steps) / (10 + steps), so that the random first weights are soon
    forgotten.

    Args:
        network: its parameters are followed; they are not changed.
        decay: fraction of the average that is kept at a step, 0 up to, not including, 1.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._network = network
        self._decay = decay
        self.tensors = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Follow the weights after an update; `steps` were done before it."""
        decay = min(self._decay, (1 + steps) / (10 + steps))
        parameters = [parameter.detach() for parameter in self._network.parameters()]
        torch._foreach_lerp_(list(self.tensors.values()), parameters, 1 - decay)

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Continue from averages that were saved."""
        for name, tensor in tensors.items():
            self.tensors[name].copy_(tensor)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the network its averaged weights, while the context is open."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, parameter in self._network.named_parameters():
            current = parameter.detach().clone()
            parameter.copy_(self.tensors[name])
            self.tensors[name].copy_(current)
