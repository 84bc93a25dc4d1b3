"""bfloat16 on a processor that does not multiply it: the same numbers by float32 products.

Two factors of 8 bits make a product that float32 holds exactly, and hardware for bfloat16 adds them up in float32 and
rounds the sum once. So the operations here widen what they are given, let float32 do the work and round the result: in
the speed of float32, where the library's own form for such processors takes fifty times as long.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

_aten = torch.ops.aten
PRODUCTS = {
    _aten.convolution.default,
    _aten.convolution_backward.default,
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten.baddbmm.default,
}
"""Operations that are sums of products."""


class RoundedProducts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it, sums of products of bfloat16 tensors on a processor are float32 ones, rounded to bfloat16.

    Attributes:
        num_widened: operations computed so.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_widened = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func not in PRODUCTS or not any(_is_half(one) for one in args):
            return func(*args, **(kwargs or {}))
        self.num_widened += 1
        return tree_map(_rounded, func(*(_widened(one) for one in args), **(kwargs or {})))


def _is_half(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16 and value.device.type == "cpu"


def _widened(value: Any) -> Any:
    return value.float() if _is_half(value) else value


def _rounded(value: Any) -> Any:
    return value.bfloat16() if isinstance(value, torch.Tensor) and value.dtype == torch.float32 else value
