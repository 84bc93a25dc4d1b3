"""What one fused pass computes, and the same from torch's own operations: the reference, the fallback, the ONNX form.

Axes: B images, C maps (channels), H W places.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from alexnet.model.layers import max_pool
from alexnet.model.response_norm import local_response_norm

MOST_PLACES = 15
"""Places of a pooling window whose ties the kernels note as bits of 16."""


@dataclass(frozen=True, kw_only=True)
class NormPool:
    """ReLU, normalize among neighboring maps, pool, rectify: each of them or not, in this order.

    One pass serves both orders there are: the paper's (rectify, normalize, pool) and that of the source's first layer
    (normalize, pool, rectify).
    """

    rectify_before: bool = False
    size: int = 5
    """Maps in a window of the normalization."""
    alpha: float = 0.0
    """Factor on each square; 0, with `k` 1, normalizes nothing."""
    beta: float = 0.75
    k: float = 1.0
    columns: int = 1
    """Equal blocks of maps whose windows do not see each other."""
    pool: int = 1
    """Side of a pooling window, places; 1 pools nothing."""
    stride: int = 1
    ties: Literal["one", "every"] = "one"
    """Which of the largest activations of a window get its gradient: the first, or each in full."""
    rectify_after: bool = False

    @property
    def normalizes(self) -> bool:
        """Whether there is a normalization."""
        return self.alpha != 0 or self.k != 1

    @property
    def pools(self) -> bool:
        """Whether there is a pooling."""
        return self.pool > 1

    @property
    def only_rectifies(self) -> bool:
        """Whether there is neither a normalization nor a pooling."""
        return not self.normalizes and not self.pools

    def plain(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H', W') by torch's own operations."""
        x = F.relu(x) if self.rectify_before else x
        if self.normalizes:
            x = local_response_norm(x, self.size, self.alpha, self.beta, self.k, self.columns)
        if self.pools:
            x = max_pool(x, self.pool, self.stride, self.ties)
        return F.relu(x) if self.rectify_after else x
