"""The Triton kernels against float64: on a GPU if there is one, else interpreted on the CPU."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.model.norm_pool_reference import backward, forward, require_largest

from alexnet.model.kernels import operators
from alexnet.model.kernels.norm_pool import NormPool, PoolNorm
from alexnet.model.response_norm import same_map_norm

pytest.importorskip("triton", reason="Triton is not installed")
from alexnet.model.kernels import gpu

# Triton's interpreter, up to 3.6.
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0 to a scalar is deprecated")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

PAPER = NormPool(relu_before=True, alpha=0.05, k=2.0, columns=2, pool=3, stride=2)
SOURCE = NormPool(alpha=0.01, k=2.0, columns=2, pool=3, stride=2, all_ties=True, relu_after=True)
OPS = {
    "paper": PAPER,
    "source": SOURCE,
    "norm alone": NormPool(alpha=0.05, k=1.0, size=4, beta=0.6),
    "pool alone": NormPool(relu_before=True, pool=2, stride=2),
    "pool, every": NormPool(pool=3, stride=1, all_ties=True),
    "pool, ReLU": NormPool(pool=3, stride=2, relu_after=True),
}


@pytest.fixture(autouse=True)
def triton_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "_backend", lambda _: gpu)


def distinct(shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> torch.Tensor:
    """Random numbers, (B, C, H, W) channels-last."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3
    return x.to(DEVICE, dtype).contiguous(memory_format=torch.channels_last)


def errors(
    fast: Callable[..., torch.Tensor],
    exact: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> tuple[float, ...]:
    """Relative L2 errors of a result and of its gradients; `exact` is given float64, on the CPU."""
    given = [x] if bias is None else [x, bias]
    single = [tensor.clone().requires_grad_() for tensor in given]
    double = [tensor.double().cpu().requires_grad_() for tensor in given]
    result = fast(*single)
    wanted = exact(double[0] if bias is None else double[0] + double[1][:, None, None])
    assert result.dtype == x.dtype and result.shape == wanted.shape
    gradient = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1)).to(x.dtype)
    result.backward(gradient.to(DEVICE))
    wanted.backward(gradient.double())

    def relative(got: torch.Tensor, want: torch.Tensor) -> float:
        return float((got.double().cpu() - want).norm() / want.norm().clamp(min=1e-300))

    gradients = [(one.grad, other.grad) for one, other in zip(single, double, strict=True)]
    assert all(got is not None and got.dtype == tensor.dtype for (got, _), tensor in zip(gradients, given, strict=True))
    return relative(result.detach(), wanted.detach()), *(relative(got, want) for got, want in gradients)  # type: ignore[arg-type]


# Rounding numbers and their squares to bfloat16 alone causes an error of up to 2.1e-3; the interpreter truncates where
# a GPU rounds to nearest.
HALF = 2.5e-3 if DEVICE == "cuda" else 4e-3
# The largest relative error of rounding, or of truncating.
HALF_ONCE = 2**-8 if DEVICE == "cuda" else 2**-7


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("shape", [(2, 6, 7, 6), (1, 10, 5, 9)])
@pytest.mark.parametrize("biased", [False, True])
def test_norm_pool(name: str, shape: tuple[int, ...], biased: bool) -> None:
    op = OPS[name]
    x = distinct(shape, 3, torch.float32)
    bias = distinct((1, shape[1], 1, 1), 4, torch.float32).flatten() if biased else None
    assert max(errors(norm_pool_of(op), op.reference, x, bias)) < 1e-6
    for added in (bias, None if bias is None else bias.bfloat16()):
        check_half(x.bfloat16(), added, op)


@pytest.mark.parametrize("relu", [(True, False), (False, True), (False, False)])
def test_pool_norm(relu: tuple[bool, bool]) -> None:
    pool = NormPool(relu_before=relu[0], relu_after=relu[1], pool=3, stride=2)
    op = PoolNorm(pool, NormPool(alpha=0.05, k=1.0, size=4, beta=0.6))
    for bias in (None, torch.randn(6, generator=torch.Generator().manual_seed(5)).to(DEVICE)):
        assert max(errors(norm_pool_of(op), op.reference, distinct((2, 6, 7, 6), 4, torch.float32), bias)) < 1e-6


def check_half(x: torch.Tensor, bias: torch.Tensor | None, op: NormPool) -> None:
    """Compare an operation in bfloat16 and its gradients with the loops, with the kernel's winners."""
    exact = x.double().cpu().numpy()
    if bias is not None:
        exact = exact + bias.double().cpu().numpy()[:, None, None]
    wanted = forward(exact, op)
    numbers = op.as_scalars()
    leaves = [tensor.clone().requires_grad_() for tensor in (x, bias) if tensor is not None]
    result, winners = operators._norm_pool(leaves[0], None if bias is None else leaves[1], *numbers)
    gradient = distinct(wanted.shape, 1, torch.bfloat16)
    result.backward(gradient)
    # Squares are rounded before they are added: an activation smaller by that error may be taken for the maximum.
    require_largest(winners.cpu().numpy(), exact, op, 2 * HALF)
    of_x, terms = backward(gradient.double().cpu().numpy(), exact, wanted, winners.cpu().numpy(), op)

    def error(got: torch.Tensor | None, want: np.ndarray) -> float:
        assert got is not None
        return float(np.linalg.norm(got.detach().double().cpu().numpy() - want))

    assert error(result, wanted) < HALF * np.linalg.norm(wanted)
    # The gradient is the difference of two terms: they may cancel, and their rounding errors do not.
    assert error(leaves[0].grad, of_x) < HALF * terms
    if bias is not None:
        # Numbers are rounded, and their sum, which may cancel, is rounded again.
        assert leaves[1].grad is not None and leaves[1].grad.dtype == bias.dtype
        off = np.abs(leaves[1].grad.double().cpu().numpy() - of_x.sum((0, 2, 3)))
        assert (off <= 2 * HALF_ONCE * np.abs(of_x).sum((0, 2, 3))).all()


def norm_pool_of(op: NormPool | PoolNorm) -> Callable[..., torch.Tensor]:
    return lambda x, bias=None: operators.norm_pool(x, op, bias)


@pytest.mark.parametrize("shape", [(1, 3, 2, 2), (2, 200, 5, 7), (2, 5, 20, 21)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_channel_sums(shape: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_MAX_PARTIAL_SUMS", 5)  # so that a program sums more than one block of rows
    x = distinct(shape, 5, dtype)
    sums, again = (torch.full((shape[1],), torch.nan, device=DEVICE) for _ in range(2))
    gpu.channel_sums(x, sums)
    gpu.channel_sums(x, again)
    wanted = x.double().sum((0, 2, 3))
    assert float((sums.double() - wanted).abs().max()) < 1e-6 * float(x.double().abs().sum((0, 2, 3)).max())
    assert torch.equal(sums, again)


@settings(max_examples=6, deadline=None)  # each compiles its own kernels
@given(
    per_column=st.integers(1, 5),
    columns=st.integers(1, 3),
    size=st.integers(1, 6),
    pool=st.integers(1, 3),
    all_ties=st.booleans(),
    before=st.booleans(),
    after=st.booleans(),
    biased=st.booleans(),
    height=st.integers(3, 9),
    width=st.integers(3, 9),
    seed=st.integers(0, 999),
    data=st.data(),
)
def test_norm_pool_at_any_size(
    per_column: int,
    columns: int,
    size: int,
    pool: int,
    all_ties: bool,
    before: bool,
    after: bool,
    biased: bool,
    height: int,
    width: int,
    seed: int,
    data: st.DataObject,
) -> None:
    op = NormPool(
        relu_before=before,
        size=size,
        alpha=0.1,
        k=1.5,
        columns=columns,
        pool=pool,
        stride=data.draw(st.integers(1, pool)),
        all_ties=all_ties,
        relu_after=after,
    )
    x = distinct((2, per_column * columns, height, width), seed, torch.float32)
    if before and all_ties:
        x = x.abs() + 0.1  # zeros tie, and each would get a gradient, which ReLU then removes
        biased = False
    bias = distinct((1, x.shape[1], 1, 1), seed + 1, torch.float32).flatten() if biased else None
    result, *gradients = errors(norm_pool_of(op), op.reference, x, bias)
    # With few positions the two terms of all gradients may nearly cancel.
    assert result < 1e-6 and max(gradients) < 1e-5


@pytest.mark.parametrize("size", [1, 3, 5])
def test_same_map_norm(size: int) -> None:
    x = distinct((2, 5, 6, 7), 4, torch.float32)
    both = (lambda v: operators.same_map_norm(v, size, 0.5, 0.75), lambda v: same_map_norm(v, size, 0.5, 0.75))
    assert max(errors(*both, x)) < 1e-6
    assert max(errors(*both, x.bfloat16())) < HALF


@pytest.mark.parametrize("op", [PAPER, SOURCE], ids=["paper", "source"])
def test_nan_is_kept(op: NormPool) -> None:
    x = distinct((1, 4, 7, 7), 5, torch.float32)
    x[0, 1, 3, 3] = float("nan")
    assert operators.norm_pool(x, op).isnan().any()


@pytest.mark.parametrize("scale", [1e-30, 1e15])
def test_tiny_and_huge(scale: float) -> None:
    x = distinct((2, 6, 5, 5), 6, torch.float32) * scale
    assert max(errors(lambda v: operators.norm_pool(v, PAPER), PAPER.reference, x)) < 1e-5


def test_any_layout_and_no_image() -> None:
    x = distinct((2, 6, 7, 8), 7, torch.float32)
    want = operators.norm_pool(x, PAPER)
    assert torch.equal(operators.norm_pool(x.contiguous(), PAPER), want)
    assert torch.equal(operators.norm_pool(x.transpose(2, 3).contiguous().transpose(2, 3), PAPER), want)
    assert operators.norm_pool(x[:0], PAPER).shape == (0, 6, 3, 4)
    assert operators.same_map_norm(x[:0], 3, 1.0, 0.75).shape == (0, 6, 7, 8)


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
def test_operators_are_what_torch_expects() -> None:
    x = distinct((2, 6, 7, 8), 8, torch.float32).requires_grad_()
    bias = distinct((1, 6, 1, 1), 9, torch.float32).flatten().requires_grad_()
    torch.library.opcheck(operators._norm_pool, (x, bias, True, 5, 0.1, 0.75, 2.0, 2, 3, 2, False, False))
    torch.library.opcheck(operators._norm_pool, (x, None, True, 5, 0.1, 0.75, 2.0, 2, 3, 2, False, False))
    torch.library.opcheck(operators.same_map_norm, (x, 3, 0.5, 0.75))
