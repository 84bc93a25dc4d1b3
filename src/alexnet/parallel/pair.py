"""Two processes that exchange halves of a tensor, forward and backward, while each computes with its own half.

Autograd's order gives the overlap: the backward pass of what is computed between `begin` and `end` runs between sending
the gradient of the other's half and receiving that of its half.
"""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable


class ColumnPair:
    """This process's side of a pair of processes.

    Args:
        group: the two processes.
        column: 0 or 1: this process's column.

    Attributes:
        sent: bytes sent to the other so far, by (name, "forward" or "backward").
        waited_s: seconds spent waiting for the other so far (on a GPU, only those in which the process waits).
    """

    def __init__(self, group: dist.ProcessGroup, column: int) -> None:
        self.column = column
        self.sent: Counter[tuple[str, str]] = Counter()
        self.waited_s = 0.0
        self._group = group
        self._other = dist.get_global_rank(group, 1 - column)

    def begin(self, x: torch.Tensor, other_shape: Sequence[int], what: str) -> "Exchange":
        """Start sending `x` and receiving the other's tensor, of `other_shape` and the same dtype.

        Args:
            what: name under which its bytes are counted. Both processes exchange in the same order.
        """
        exchange = Exchange(self, what)
        exchange.buffer = _Begin.apply(x, exchange, tuple(other_shape))  # type: ignore[no-untyped-call]
        return exchange

    def wait(self, works: "Iterable[_Sending]") -> None:
        """Wait until these transfers are done."""
        start_s = time.perf_counter()
        for work in works:
            work.wait()
        self.waited_s += time.perf_counter() - start_s

    def swap(
        self, x: torch.Tensor, other_shape: Sequence[int], what: tuple[str, str]
    ) -> "tuple[torch.Tensor, list[_Sending]]":
        """The same without autograd: where the other's tensor will be, and what to wait for."""
        sent = _as_sent(x.detach())
        shape = [other_shape[axis] for axis in _SENT_ORDER] if len(other_shape) == 4 else list(other_shape)
        received = sent.new_empty(shape)
        self.sent[what] += sent.nbytes
        moves = []
        # Empty tensors are not sent: both sides know both shapes.
        if sent.numel():
            moves.append(dist.P2POp(dist.isend, sent, self._other, self._group))
        if received.numel():
            moves.append(dist.P2POp(dist.irecv, received, self._other, self._group))
        works = dist.batch_isend_irecv(moves) if moves else []
        return (received.permute(0, 3, 1, 2) if len(shape) == 4 else received), [_Sending(work, sent) for work in works]


class _Sending:
    """A running transfer, with the tensor that must not be freed before it is done."""

    def __init__(self, work: dist.Work, tensor: torch.Tensor) -> None:
        self._work, self._tensor = work, tensor

    def wait(self) -> None:
        self._work.wait()


# Channels are sent in memory order: (B, H, W, C).
_SENT_ORDER = (0, 2, 3, 1)


def _as_sent(x: torch.Tensor) -> torch.Tensor:
    return (x.permute(_SENT_ORDER) if x.dim() == 4 else x).contiguous()


class Exchange:
    """A running exchange. Each process gets the gradient of what it sent from the other's computation."""

    def __init__(self, pair: ColumnPair, what: str) -> None:
        self.pair, self.what = pair, what
        self.buffer = torch.empty(0)
        self.own_shape: tuple[int, ...] = ()
        self.works: Sequence[Any] = ()
        self.returned = torch.empty(0)

    def end(self) -> torch.Tensor:
        """Wait for the other's tensor."""
        result: torch.Tensor = _End.apply(self.buffer, self)  # type: ignore[no-untyped-call]
        return result

    def wait(self) -> None:
        self.pair.wait(self.works)
        self.works = ()


class _Begin(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, exchange: Exchange, other_shape: tuple[int, ...]) -> torch.Tensor:
        ctx.exchange = exchange
        exchange.own_shape = tuple(x.shape)
        buffer, exchange.works = exchange.pair.swap(x, other_shape, (exchange.what, "forward"))
        return buffer

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        ctx.exchange.wait()
        return ctx.exchange.returned, None, None


class _End(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, buffer: torch.Tensor, exchange: Exchange) -> torch.Tensor:
        ctx.exchange = exchange
        exchange.wait()
        return buffer.view_as(buffer)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        exchange = ctx.exchange
        exchange.returned, exchange.works = exchange.pair.swap(
            gradient, exchange.own_shape, (exchange.what, "backward")
        )
        # This gradient is ignored: `_Begin` waits and returns the received one instead.
        return gradient, None


def gather_columns(x: torch.Tensor, pair: ColumnPair, other_shape: Sequence[int], what: str) -> torch.Tensor:
    """Both processes' columns of one matrix, side by side in their order: (B, K_0), (B, K_1) -> (B, K_0 + K_1).

    For computations that both processes then repeat, such as the loss: each keeps only the gradient of its own columns,
    because the other's would be the same.
    """
    result: torch.Tensor = _GatherColumns.apply(x, pair, tuple(other_shape), what)  # type: ignore[no-untyped-call]
    return result


class _GatherColumns(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, pair: ColumnPair, other_shape: tuple[int, ...], what: str) -> torch.Tensor:
        other, works = pair.swap(x, other_shape, (what, "forward"))
        pair.wait(works)
        ctx.own = slice(0, x.shape[1]) if pair.column == 0 else slice(other_shape[1], None)
        return torch.cat([x, other] if pair.column == 0 else [other, x], dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return gradient[:, ctx.own], None, None, None
