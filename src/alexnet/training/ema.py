"""A running average of the weights: what `modern` trainings measure and keep. Not in the paper."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn


class WeightEMA:
    """Keeps a <- share * a + (1 - share) * w for every parameter, starting from the weights as they are.

    In the first steps the share is smaller, (1 + steps) / (10 + steps), so that the first, random weights are
    soon forgotten.

    Args:
        network: its parameters are followed; they are not changed.
        share: what the average keeps of itself at a step, 0 up to, not including, 1.
    """

    def __init__(self, network: nn.Module, share: float) -> None:
        self._network = network
        self._share = share
        self.tensors = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Follow the weights after an update; `steps` were done before it."""
        share = min(self._share, (1 + steps) / (10 + steps))
        parameters = [parameter.detach() for parameter in self._network.parameters()]
        torch._foreach_lerp_(list(self.tensors.values()), parameters, 1 - share)

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go on from averages that were saved."""
        for name, tensor in tensors.items():
            self.tensors[name].copy_(tensor)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The network with its averaged weights, for as long as the block lasts."""
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
