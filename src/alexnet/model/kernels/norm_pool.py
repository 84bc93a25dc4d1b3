"""What one fused operation computes, and its reference by torch's own operations.

Axes: B images, C channels, H x W positions.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F

from alexnet.model.layers import max_pool
from alexnet.model.response_norm import local_response_norm

MAX_WINDOW_POSITIONS = 15
"""Positions of a pooling window whose ties the kernels store as bits of an int16."""


@dataclass(frozen=True, kw_only=True)
class NormPool:
    """ReLU, response normalization, max-pooling, ReLU: each of them optional, in this order.

    This covers the paper's order (ReLU, normalization, pooling) and that of the source's first layer (normalization,
    pooling, ReLU). The fields, in order, are the scalar arguments of the operator `alexnet::norm_pool`.
    """

    relu_before: bool = False
    size: int = 5
    """Channels in a normalization window."""
    alpha: float = 0.0
    """Factor on each square; 0, with `k` 1, disables normalization."""
    beta: float = 0.75
    k: float = 1.0
    columns: int = 1
    """Equal blocks of channels that are normalized separately."""
    pool: int = 1
    """Side of a pooling window; 1 disables pooling."""
    stride: int = 1
    all_ties: bool = False
    """Whether each of several equal maxima of a window gets its gradient, not only the first."""
    relu_after: bool = False

    def as_scalars(self) -> tuple[Any, ...]:
        """The values of the fields in order."""
        return tuple(getattr(self, name) for name in _NAMES)

    @classmethod
    def from_scalars(cls, scalars: tuple[Any, ...]) -> "NormPool":
        """The inverse of `as_scalars`."""
        return cls(**dict(zip(_NAMES, scalars, strict=True)))

    @classmethod
    def scalar_schema(cls, prefix: str = "") -> str:
        """The scalars as torch's schema language declares them, `prefix` before their names."""
        types = {bool: "bool", int: "SymInt", float: "float"}
        return ", ".join(f"{types[type(field.default)]} {prefix}{field.name}" for field in fields(cls))

    @property
    def normalizes(self) -> bool:
        """Whether normalization is enabled."""
        return self.alpha != 0 or self.k != 1

    @property
    def pools(self) -> bool:
        """Whether pooling is enabled."""
        return self.pool > 1

    @property
    def is_relu(self) -> bool:
        """Whether neither normalization nor pooling is enabled."""
        return not self.normalizes and not self.pools

    def in_columns(self, columns: int) -> "NormPool":
        """The same with channels in so many blocks."""
        return replace(self, columns=columns)

    def reference(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H', W') by torch's own operations."""
        x = F.relu(x) if self.relu_before else x
        if self.normalizes:
            x = local_response_norm(x, self.size, self.alpha, self.beta, self.k, self.columns)
        if self.pools:
            x = max_pool(x, self.pool, self.stride, "every" if self.all_ties else "one")
        return F.relu(x) if self.relu_after else x


@dataclass(frozen=True)
class PoolNorm:
    """Max-pooling, with ReLU before or after it, then response normalization; Caffe's reference network's order."""

    pool: NormPool
    """Without normalization."""
    norm: NormPool
    """Without pooling and ReLU."""

    def as_scalars(self) -> tuple[Any, ...]:
        """Those of the pooling and those of the normalization: the scalar arguments of `alexnet::pool_norm`."""
        return (*self.pool.as_scalars(), *self.norm.as_scalars())

    @classmethod
    def from_scalars(cls, scalars: tuple[Any, ...]) -> "PoolNorm":
        """The inverse of `as_scalars`."""
        return cls(NormPool.from_scalars(scalars[: len(_NAMES)]), NormPool.from_scalars(scalars[len(_NAMES) :]))

    @classmethod
    def scalar_schema(cls) -> str:
        """The scalars as torch's schema language declares them."""
        return f"{NormPool.scalar_schema('pool_')}, {NormPool.scalar_schema('norm_')}"

    @property
    def normalizes(self) -> bool:
        """Whether normalization is enabled."""
        return self.norm.normalizes

    @property
    def columns(self) -> int:
        """Equal blocks of channels that are normalized separately."""
        return self.norm.columns

    def in_columns(self, columns: int) -> "PoolNorm":
        """The same with channels in so many blocks."""
        return replace(self, norm=self.norm.in_columns(columns))

    def reference(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H', W') by torch's own operations."""
        return self.norm.reference(self.pool.reference(x))


# A list of names: torch's compiler, up to 2.11, cannot read `vars` of a frozen dataclass.
_NAMES = tuple(field.name for field in fields(NormPool))
