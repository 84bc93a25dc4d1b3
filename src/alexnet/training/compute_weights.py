"""The weights as forward and backward read them: in bfloat16, rounded once by the update that writes them."""

import torch
from torch.func import functional_call

from alexnet.training.optimizer import are_finite
from alexnet.training.setup import Training
from alexnet.training.update import update


class ComputeWeights:
    """What a step reads in place of the network's parameters, and what makes an update of it.

    In float32 these are the parameters. In bfloat16 they are rounded copies, which every update writes beside the
    parameters, and whose gradients it takes as they are: to round the weights and to widen the gradients in every
    step, as autocast does, would move 12 bytes for each weight on top of the update's 20, and 2 more to look whether
    the gradients are finite.

    Where somebody else changes the parameters, the copies follow at the next update only.

    Args:
        training: its network is read, its optimizer's buffers are updated; whole batches, no other processes.
    """

    def __init__(self, training: Training) -> None:
        self._training = training
        self._parameters = training.optimizer.moving_parameters()
        rounds = training.precision == "bfloat16"
        self.tensors = {
            name: parameter.detach().bfloat16().requires_grad_() if rounds else parameter
            for name, parameter in training.optimizer.parameters.items()
        }

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The network's scores, (b, 3, S, S) -> (b, K)."""
        scores: torch.Tensor = functional_call(self._training.network, self.tensors, (images,))
        return scores

    def clear_gradients(self) -> None:
        """Forget the gradients; their memory is freed for the next step's."""
        for tensor in self.tensors.values():
            tensor.grad = None

    def gradients(self) -> dict[str, torch.Tensor]:
        """Those that stand there, by the parameter's name."""
        return {name: tensor.grad for name, tensor in self.tensors.items() if tensor.grad is not None}

    def gradients_are_finite(self) -> bool:
        """Whether no gradient holds an infinity or something that is no number."""
        return bool(are_finite(self.gradients()))

    @torch.no_grad()
    def update(self, rates: torch.Tensor, stopped: torch.Tensor) -> None:
        """One update with the gradients that stand there.

        Args:
            rates: float32 (P, 2), see `rates_table`.
            stopped: one number, not 0 where nothing may change any more.
        """
        for (parameter, buffer, decay), read, row in zip(self._parameters, self.tensors.values(), rates, strict=True):
            assert read.grad is not None
            rounded = None if read is parameter else read.detach()
            update(parameter.detach(), buffer, read.grad, row, decay, stopped, rounded)
