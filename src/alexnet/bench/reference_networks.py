"""The networks that `alexnet bench step` compares with, in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import nn


class _ColumnNorm(nn.Module):
    """torch's response normalization, one column at a time; its alpha is the paper's times the window size."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = columns

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        parts = x.chunk(self.columns, 1)
        return torch.cat([F.local_response_norm(part, 5, alpha=5e-4, beta=0.75, k=2.0) for part in parts], 1)


def paper_network(num_classes: int = 1000, *, normalized: bool = True) -> nn.Sequential:
    """The paper's network of torch's layers; `normalized=False` omits response normalization, as most copies do.

    (B, 3, 224, 224) -> (B, K). Dropout is torch's, which scales during training.
    """
    norm = _ColumnNorm(2) if normalized else nn.Identity()
    return nn.Sequential(
        nn.ZeroPad2d((0, 3, 0, 3)),
        nn.Conv2d(3, 96, 11, 4),
        nn.ReLU(inplace=True),
        norm,
        nn.MaxPool2d(3, 2),
        nn.Conv2d(96, 256, 5, padding=2, groups=2),
        nn.ReLU(inplace=True),
        norm,
        nn.MaxPool2d(3, 2),
        nn.Conv2d(256, 384, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(384, 384, 3, padding=1, groups=2),
        nn.ReLU(inplace=True),
        nn.Conv2d(384, 256, 3, padding=1, groups=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
        nn.Flatten(),
        nn.Linear(9216, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(4096, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(4096, num_classes),
    )


def torchvision_network(num_classes: int = 1000) -> nn.Sequential:
    """The layers of torchvision's `alexnet` in sequence. (B, 3, 224, 224) -> (B, K)."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
        nn.AdaptiveAvgPool2d((6, 6)),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(9216, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(4096, 4096),
        nn.ReLU(inplace=True),
        nn.Linear(4096, num_classes),
    )
