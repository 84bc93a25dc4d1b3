"""The weights as forward and backward read them: in bfloat16, rounded once by the update that writes them."""

from collections.abc import Mapping

import torch
from torch import nn
from torch.func import functional_call

from alexnet.training.optimizer import Optimizer


class ComputeWeights:
    """The tensors that a step reads in place of the network's parameters, and their gradients.

    In float32 these are the parameters. In bfloat16 they are rounded copies, which every update writes together with
    the parameters and whose gradients it reads in bfloat16. Rounding the weights and widening the gradients in every
    step, as autocast does, would move 12 bytes per weight in addition to the update's 20, and 2 more to check that the
    gradients are finite.

    If anything else changes the parameters, the copies follow only at the next update.

    Args:
        network: its parameters are those of `optimizer`.
        optimizer: makes the updates.
        rounded: whether to keep bfloat16 copies.
    """

    def __init__(self, network: nn.Module, optimizer: Optimizer, rounded: bool) -> None:
        self._network, self._optimizer = network, optimizer
        self.is_rounded = rounded
        self.tensors: dict[str, torch.Tensor] = {
            name: parameter.detach().bfloat16().requires_grad_() if rounded else parameter
            for name, parameter in optimizer.parameters.items()
        }

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The network's scores, (b, 3, S, S) -> (b, K)."""
        scores: torch.Tensor = functional_call(self._network, self.tensors, (images,))
        return scores

    def clear_gradients(self) -> None:
        """Drop the gradients, which frees their memory for the next step's."""
        for tensor in self.tensors.values():
            tensor.grad = None

    def gradients(self) -> dict[str, torch.Tensor]:
        """The gradients that exist, by parameter name."""
        return {name: tensor.grad for name, tensor in self.tensors.items() if tensor.grad is not None}

    def gradients_are_finite(self) -> bool:
        """Whether no gradient holds an infinity or a NaN."""
        return bool(are_finite(self.gradients()))

    @torch.no_grad()
    def update(self, factors: torch.Tensor, stopped: torch.Tensor) -> None:
        """One update with the current gradients; see `Optimizer.update`."""
        gradients = []
        for tensor in self.tensors.values():
            assert tensor.grad is not None
            gradients.append(tensor.grad)
        rounded = [tensor.detach() if self.is_rounded else None for tensor in self.tensors.values()]
        self._optimizer.update(gradients, factors, stopped, rounded)


def are_finite(gradients: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Whether no gradient, of one or more, holds an infinity or a NaN, bool ()."""
    # A norm is finite only where all its terms are (beyond 1e19 a float32 square is not, which is as bad).
    return torch.stack(torch._foreach_norm(list(gradients.values()))).isfinite().all()


def factors_table(rows: list[tuple[float, ...]], device: torch.device) -> torch.Tensor:
    """`Optimizer.update_factors` as float32 (P, F), pinned where it will be copied to a GPU."""
    table = torch.tensor(rows, dtype=torch.float32)
    return table.pin_memory() if device.type == "cuda" else table
