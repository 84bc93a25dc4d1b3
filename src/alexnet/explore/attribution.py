"""How a class's score changes with each pixel: its gradient, and the guided gradient, which follows what adds to it.

Both are of the score before softmax: that of the probability vanishes where the network is certain.
"""

from typing import Any

import torch
from torch import nn

from alexnet.errors import RequestError
from alexnet.model.inference import shallow_copy


class _GuidedFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        rectified = x.clamp(min=0)
        ctx.save_for_backward(rectified)
        return rectified

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        rectified: torch.Tensor = ctx.saved_tensors[0]
        return gradient.clamp(min=0) * (rectified > 0)


class GuidedReLU(nn.Module):
    """max(0, x), through which gradients pass only where they and the input are positive.

    Springenberg, Dosovitskiy, Brox and Riedmiller, Striving for simplicity, 2014.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A tensor of any shape -> the same shape."""
        rectified: torch.Tensor = _GuidedFunction.apply(x)  # type: ignore[no-untyped-call]
        return rectified


def score_gradients(network: nn.Module, images: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """The gradient of one class's score before softmax with respect to each image.

    Args:
        network: in evaluation mode; nothing is added to the gradients of its parameters.
        images: as the network reads them, (B, 3, S, S).
        classes: int64 (B,), the index of each image's class.

    Returns:
        (B, 3, S, S), score per unit of the input's 0..255 scale, of the images' dtype.
    """
    with torch.inference_mode(False), torch.enable_grad():
        images = images.clone().requires_grad_()
        scores = network(images)
        chosen = scores.gather(1, classes.to(scores.device)[:, None])
        (gradients,) = torch.autograd.grad(chosen.sum(), images)
    return gradients


def guided_gradients(network: nn.Module, images: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """As `score_gradients`, through a copy of the network in which every `nn.ReLU` passes positive gradients only.

    The network itself is neither changed nor hooked. The copy shares its parameters.

    Raises:
        RequestError: the network has no ReLU, or cannot be copied module by module.
    """
    if problem := unguided_reason(network):
        raise RequestError(problem)
    return score_gradients(_with_guided_relus(network), images, classes)


def unguided_reason(network: nn.Module) -> str | None:
    """Why a network has no guided gradient; None if it has one."""
    if any(isinstance(one, torch.jit.ScriptModule) or "forward" in one.__dict__ for one in network.modules()):
        return (
            "the guided gradient needs a network of plain modules, and a part of this one is compiled, scripted or has "
            "a forward of its own"
        )
    if not any(isinstance(one, nn.ReLU) for one in network.modules()):
        name = getattr(network, "variant", type(network).__name__)
        return f"the guided gradient changes how ReLU passes gradients, and {name} has no ReLU"
    return None


def _with_guided_relus(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.ReLU):
        return GuidedReLU()
    copy = shallow_copy(module)
    copy._compiled_call_impl = None  # would run the module that was compiled
    for name, child in module.named_children():
        copy._modules[name] = _with_guided_relus(child)
    return copy
