"""Two processes that exchange halves of a tensor, forward and backward, while each computes with what it has.

Autograd's order makes the overlap: what is computed between `begin` and `end` is derived between the sending of the
gradient of the other's half and the receiving of that of one's own.
"""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable


class ColumnPair:
    """This process's side of two that exchange.

    Args:
        group: the two processes.
        place: 0 or 1: which of the two this is.

    Attributes:
        sent: bytes sent to the other so far, by what they were for: (name, "forward" or "backward").
        waited_s: seconds in which this process has stood still for the other so far (a GPU's are not its process's).
    """

    def __init__(self, group: dist.ProcessGroup, place: int) -> None:
        self.place = place
        self.sent: Counter[tuple[str, str]] = Counter()
        self.waited_s = 0.0
        self._group = group
        self._other = dist.get_global_rank(group, 1 - place)

    def begin(self, x: torch.Tensor, other_shape: Sequence[int], what: str) -> "Exchange":
        """Start to send `x` and to receive the other's tensor, of `other_shape` and of the same dtype.

        Args:
            what: name under which its bytes are counted; both processes exchange in the same order.
        """
        exchange = Exchange(self, what)
        exchange.buffer = _Begin.apply(x, exchange, tuple(other_shape))  # type: ignore[no-untyped-call]
        return exchange

    def wait(self, works: "Iterable[_Sending]") -> None:
        """Until these transfers are over."""
        start_s = time.perf_counter()
        for work in works:
            work.wait()
        self.waited_s += time.perf_counter() - start_s

    def swap(
        self, x: torch.Tensor, other_shape: Sequence[int], what: tuple[str, str]
    ) -> "tuple[torch.Tensor, list[_Sending]]":
        """The same without derivatives: where the other's tensor will be, and what to wait for."""
        sent = _as_sent(x.detach())
        shape = [other_shape[axis] for axis in _SENT_ORDER] if len(other_shape) == 4 else list(other_shape)
        received = sent.new_empty(shape)
        self.sent[what] += sent.nbytes
        moves = []
        # Nothing is sent of nothing: both sides know both shapes.
        if sent.numel():
            moves.append(dist.P2POp(dist.isend, sent, self._other, self._group))
        if received.numel():
            moves.append(dist.P2POp(dist.irecv, received, self._other, self._group))
        works = dist.batch_isend_irecv(moves) if moves else []
        return (received.permute(0, 3, 1, 2) if len(shape) == 4 else received), [_Sending(work, sent) for work in works]


class _Sending:
    """A transfer under way, with the tensor that must not be freed before it is over."""

    def __init__(self, work: dist.Work, tensor: torch.Tensor) -> None:
        self._work, self._tensor = work, tensor

    def wait(self) -> None:
        self._work.wait()


# Maps are sent as they lie in memory: (B, H, W, C).
_SENT_ORDER = (0, 2, 3, 1)


def _as_sent(x: torch.Tensor) -> torch.Tensor:
    return (x.permute(_SENT_ORDER) if x.dim() == 4 else x).contiguous()


class Exchange:
    """One exchange under way. Each process gets the gradient of what it sent, as far as the other computed with it."""

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
        # What stands there means nothing: `_Begin` waits and takes what has come instead.
        return gradient, None


def gathered(x: torch.Tensor, pair: ColumnPair, other_shape: Sequence[int], what: str) -> torch.Tensor:
    """Both processes' columns of one matrix, side by side in their order: (B, K_0), (B, K_1) -> (B, K_0 + K_1).

    For what both go on to compute alike, such as the loss: each keeps the gradient of its own columns, which the other
    would only repeat.
    """
    result: torch.Tensor = _Gathered.apply(x, pair, tuple(other_shape), what)  # type: ignore[no-untyped-call]
    return result


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, pair: ColumnPair, other_shape: tuple[int, ...], what: str) -> torch.Tensor:
        other, works = pair.swap(x, other_shape, (what, "forward"))
        pair.wait(works)
        ctx.own = slice(0, x.shape[1]) if pair.place == 0 else slice(other_shape[1], None)
        return torch.cat([x, other] if pair.place == 0 else [other, x], dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return gradient[:, ctx.own], None, None, None
