"""Narrow networks that together have every kind of layer, for tests of execution modes and derivatives."""

import torch

from alexnet import AlexNet

# Both normalizations, both kinds of pooling and of ties, columns, local layers, end padding.
VARIED = ("paper", "original", "cifar-18pct", "cifar-11pct")


def varied_network(variant: str, dtype: torch.dtype = torch.float32) -> tuple[AlexNet, torch.Tensor, torch.Tensor]:
    """A narrow network in evaluation, images for it, and a direction in which its scores are summed."""
    generator = torch.Generator().manual_seed(2)
    network = AlexNet(7, variant, 0.05 if "cifar" not in variant else 0.2, generator=generator).eval()
    for name, tensor in network.named_parameters():
        if name.endswith("weight"):  # He initialization: every layer matters
            fan_in = tensor[0].numel() if not name.startswith("local") else tensor[0, 0, 0].numel()
            tensor.data.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
    side = network.spec.image_px
    images = torch.empty(2, 3, side, side).uniform_(-120, 130, generator=generator)
    return network.to(dtype), images.to(dtype), torch.randn(2, 7, generator=generator).to(dtype)


def normwise(got: torch.Tensor, want: torch.Tensor) -> float:
    """The norm of the difference relative to that of the wanted tensor."""
    difference = got.detach().double() - want.detach().double()
    return float(difference.norm() / want.detach().double().norm())
