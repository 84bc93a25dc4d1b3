"""The compiled kernels on a CPU, against float64 loops written from their formulas."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.model.norm_pool_reference import (
    backward,
    forward,
    pool_norm_backward,
    pool_norm_forward,
    require_largest,
    windows,
    winners_of,
)

from alexnet.model.kernels import cpu, operators
from alexnet.model.kernels.norm_pool import NormPool, PoolNorm
from alexnet.model.layer_specs import pooled_side
from alexnet.system import numba_jit

pytestmark = pytest.mark.skipif(cpu.unavailable_reason() is not None, reason=str(cpu.unavailable_reason()))

PAPER = NormPool(relu_before=True, size=5, alpha=1e-4, beta=0.75, k=2.0, columns=2, pool=3, stride=2)
SOURCE = NormPool(size=5, alpha=1e-4, k=2.0, columns=2, pool=2, stride=2, all_ties=True, relu_after=True)
NORM_ALONE = dataclasses.replace(PAPER, relu_before=False, pool=1, stride=1)
CAFFE = PoolNorm(NormPool(pool=3, stride=2, relu_after=True), NormPool(size=9, alpha=1e-2))
POOL_ALONE = dataclasses.replace(PAPER, relu_before=False, alpha=0.0, k=1.0)
DTYPES = [torch.float32, torch.bfloat16]


def last(x: np.ndarray | torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.as_tensor(x).to(dtype).contiguous(memory_format=torch.channels_last)


def run(
    x: torch.Tensor, op: NormPool, gradient: np.ndarray | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Result, winners and, of a gradient of 1 unless one is given, the gradient of x."""
    sides = [pooled_side(side, op.pool, op.stride) if op.pools else side for side in x.shape[2:]]
    shape = (*x.shape[:2], *sides)
    result = last(torch.full(shape, math.nan), x.dtype)
    winners = torch.empty(0, dtype=torch.uint8)
    if op.pools:
        winners = last(torch.zeros(shape), torch.int16 if op.all_ties else torch.uint8)
    cpu.norm_pool(x, None, op, result, winners)
    of_x = last(torch.full(x.shape, math.nan), x.dtype)
    above = last(np.ones(shape) if gradient is None else gradient, x.dtype)
    cpu.norm_pool_backward(above, x, None, result, winners, op, of_x)
    return result, winners, of_x


def run_pool_norm(
    x: torch.Tensor, op: PoolNorm, gradient: np.ndarray | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Result, winners, what was normalized and, of a gradient of 1 unless one is given, the gradient of x."""
    shape = (*x.shape[:2], *(pooled_side(side, op.pool.pool, op.pool.stride) for side in x.shape[2:]))
    result, pooled = (last(torch.full(shape, math.nan), x.dtype) for _ in range(2))
    winners = last(torch.zeros(shape), torch.int16 if op.pool.all_ties else torch.uint8)
    cpu.pool_norm(x, op, result, winners, pooled)
    of_x = last(torch.full(x.shape, math.nan), x.dtype)
    above = last(np.ones(shape) if gradient is None else gradient, x.dtype)
    cpu.pool_norm_backward(above, winners, pooled, op, of_x)
    return result, winners, pooled, of_x


def relative(got: torch.Tensor, want: np.ndarray) -> float:
    return float(np.linalg.norm(got.double().numpy() - want)) / max(float(np.linalg.norm(want)), 1e-300)


# bfloat16 has 8 significant bits, the last worth 2^-7 of the power of two below a number. The nearest bfloat16 is off
# by half of that at most. Of many random numbers the errors are spread evenly over the last bit: their root mean
# square is 2^-7 / sqrt(12) of the powers of two, and less of the numbers.
AT_MOST, OF_MANY = 2**-8, 2**-7 / math.sqrt(12)


def require_close(got: torch.Tensor, want: np.ndarray, terms: float = 0.0, rounding: float = AT_MOST) -> None:
    """Check that the error is that of float32 and, in bfloat16, of one rounding.

    `terms` is the norm of the terms whose difference `want` is: when they cancel, their errors in float32 do not.
    """
    assert got.shape == want.shape
    size = float(np.linalg.norm(want))
    limit = (rounding if got.dtype == torch.bfloat16 else 0.0) * size + 1e-6 * max(size, terms)
    assert float(np.linalg.norm(got.double().numpy() - want)) <= limit


def require_loops(
    x: np.ndarray,
    gradient: np.ndarray,
    op: NormPool,
    result: torch.Tensor,
    winners: torch.Tensor,
    of_x: torch.Tensor,
    rounding: float = AT_MOST,
) -> np.ndarray:
    """Compare an operation with the loops, with its own winners where activations tie; return the exact gradient of
    x."""
    want = forward(x, op)
    require_largest(winners.numpy(), x, op, 1e-6)
    want_of_x, terms = backward(gradient, x, want, winners.numpy(), op)
    require_close(result, want, rounding=rounding)
    require_close(of_x, want_of_x, terms, rounding)
    return want_of_x


def check(
    x: torch.Tensor, op: NormPool, seed: int, rounding: float = AT_MOST
) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Compare forward and backward with the loops; return the result, the gradient of x, and its exact value."""
    exact = x.double().numpy()
    gradient = last(np.random.default_rng(seed).normal(size=forward(exact, op).shape), x.dtype).double().numpy()
    result, winners, of_x = run(x, op, gradient)
    return result, of_x, require_loops(exact, gradient, op, result, winners, of_x, rounding)


# Each op and dtype is compiled separately, which takes seconds, so the tests share a few.
OPS = [PAPER, SOURCE, dataclasses.replace(PAPER, pool=1, stride=1)]


@pytest.mark.parametrize("op", OPS)
@settings(max_examples=50, deadline=None)
@given(
    images=st.integers(1, 3),
    per_column=st.sampled_from([1, 2, 3, 5, 8, 40, 200]),
    columns=st.integers(1, 3),
    height=st.integers(3, 7),
    width=st.integers(3, 7),
    size=st.integers(1, 9),
    alpha=st.sampled_from([0.0, 1e-4, 0.3]),
    beta=st.sampled_from([0.75, 0.75, 0.4]),
    k=st.sampled_from([1.0, 2.0]),
    stride=st.integers(1, 3),
    relu=st.tuples(st.booleans(), st.booleans()),
    scale=st.sampled_from([1e-30, 1.0, 50.0, 1e15]),
    seed=st.integers(0, 999),
)
def test_equals_the_loops(
    op: NormPool,
    images: int,
    per_column: int,
    columns: int,
    height: int,
    width: int,
    size: int,
    alpha: float,
    beta: float,
    k: float,
    stride: int,
    relu: tuple[bool, bool],
    scale: float,
    seed: int,
) -> None:
    op = dataclasses.replace(
        op,
        size=size,
        alpha=alpha,
        beta=beta,
        k=k,
        columns=columns,
        stride=min(stride, op.pool),
        relu_before=relu[0],
        relu_after=relu[1],
    )
    x = np.random.default_rng(seed).normal(size=(images, per_column * columns, height, width)) * scale
    check(last(x, torch.float32), op, seed)


@settings(max_examples=20, deadline=None)
@given(
    per_column=st.sampled_from([1, 3, 16, 48]),
    side=st.integers(3, 9),
    size=st.integers(1, 6),
    seed=st.integers(0, 999),
)
def test_bfloat16_equals_the_loops(per_column: int, side: int, size: int, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(2, per_column * 2, side, side)) * 30
    check(last(x, torch.bfloat16), dataclasses.replace(PAPER, size=size), seed)


def check_pool_norm(x: torch.Tensor, op: PoolNorm, seed: int) -> None:
    """Compare forward and backward with the loops, with the kernel's own winners where activations tie."""
    exact = x.double().numpy()
    want = pool_norm_forward(exact, op)
    gradient = last(np.random.default_rng(seed).normal(size=want.shape), x.dtype).double().numpy()
    result, winners, pooled, of_x = run_pool_norm(x, op, gradient)
    np.testing.assert_array_equal(pooled.double().numpy(), forward(exact, op.pool))
    require_largest(winners.numpy(), exact, op.pool, 0.0)
    want_of_x, terms = pool_norm_backward(gradient, exact, winners.numpy(), op)
    require_close(result, want)
    require_close(of_x, want_of_x, terms)


@settings(max_examples=40, deadline=None)
@given(
    images=st.integers(1, 3),
    per_column=st.sampled_from([1, 2, 3, 5, 8, 40, 200]),
    columns=st.integers(1, 3),
    height=st.integers(3, 9),
    width=st.integers(3, 9),
    size=st.sampled_from([1, 4, 5, 9, 9, 11]),
    alpha=st.sampled_from([0.0, 1e-4, 0.3]),
    beta=st.sampled_from([0.75, 0.75, 0.4]),
    k=st.sampled_from([1.0, 2.0]),
    stride=st.integers(1, 3),
    relu=st.tuples(st.booleans(), st.booleans()),
    is_half=st.booleans(),
    rounds=st.booleans(),
    seed=st.integers(0, 999),
)
def test_pool_norm_equals_the_loops(
    images: int,
    per_column: int,
    columns: int,
    height: int,
    width: int,
    size: int,
    alpha: float,
    beta: float,
    k: float,
    stride: int,
    relu: tuple[bool, bool],
    is_half: bool,
    rounds: bool,
    seed: int,
) -> None:
    # Two combinations, each of which is compiled.
    pool = NormPool(pool=3, stride=2) if is_half else NormPool(pool=3, stride=stride, all_ties=True)
    pool = dataclasses.replace(pool, relu_before=relu[0], relu_after=relu[1])
    norm = NormPool(size=size, alpha=alpha, beta=beta, k=k, columns=columns)
    x = np.random.default_rng(seed).normal(size=(images, per_column * columns, height, width)) * 3
    x = x.round() if rounds else x  # many windows have several maxima
    check_pool_norm(last(x, torch.bfloat16 if is_half else torch.float32), PoolNorm(pool, norm), seed)


@pytest.mark.parametrize("scale", [1, 30])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-3)])
def test_accuracy_of_a_layer(dtype: torch.dtype, limit: float, scale: float) -> None:
    x = last(np.random.default_rng(5).normal(size=(2, 96, 27, 27)) * scale, dtype)
    result, of_x, want_of_x = check(x, PAPER, 6)
    assert relative(result, forward(x.double().numpy(), PAPER)) <= limit
    assert relative(of_x, want_of_x) <= limit


@pytest.mark.parametrize("scale", [1e-15, 30, 1e15])
@pytest.mark.parametrize("op", [PAPER, SOURCE, NORM_ALONE, POOL_ALONE])
def test_every_operation_is_rounded_once_in_bfloat16(op: NormPool, scale: float) -> None:
    x = last(np.random.default_rng(7).normal(size=(2, 32, 9, 10)) * scale, torch.bfloat16)
    # After normalization, huge activations with small neighbors outweigh all others.
    result, _, _ = check(x, op, 8, AT_MOST if scale > 30 else OF_MANY)
    if not op.normalizes:  # the maximum of rounded numbers is itself rounded
        np.testing.assert_array_equal(result.double().numpy(), forward(x.double().numpy(), op))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", [PAPER, SOURCE])
def test_ties(op: NormPool, dtype: torch.dtype) -> None:
    # Few different integers and no normalization: nearly every window has several maxima.
    op = dataclasses.replace(op, alpha=0.0, k=1.0)
    x = np.random.default_rng(2).integers(-1, 2, size=(2, 4, 8, 9)).astype(float)
    x[:, 0] = -np.inf  # the same value as beyond the edges
    _, winners, _ = run(last(x, dtype), op)
    inside = np.full(winners.shape, -1)  # bits beyond the edge have no meaning
    if op.all_ties:
        for r, c, positions in windows(x, op):
            rows, columns = np.indices(positions.shape[2:])
            inside[:, :, r, c] = sum(1 << int(mark) for mark in (rows * op.pool + columns).flat)
    np.testing.assert_array_equal(winners.numpy() & inside, winners_of(x, op))


def test_the_maximum_is_chosen_before_rounding() -> None:
    # After division both activations of the window round to the same bfloat16; the second is larger.
    x = torch.zeros(1, 2, 3, 3)
    x[0, :, 0, 0] = torch.tensor([1.0, 100.0])
    x[0, :, 0, 1] = torch.tensor([1.0, 99.5])
    op = dataclasses.replace(PAPER, columns=1, alpha=1e-6)
    _, winners, _ = run(last(x, torch.bfloat16), op)
    assert winners[0, 0].item() == 1
    assert winners[0, 1].item() == 0


@pytest.mark.parametrize("op", [*OPS, dataclasses.replace(PAPER, alpha=0.0, k=1.0)])
@pytest.mark.parametrize("position", [(0, 0), (2, 1), (4, 4)])
def test_nan_is_kept(op: NormPool, position: tuple[int, int]) -> None:
    x = last(np.random.default_rng(3).normal(size=(1, 12, 5, 5)), torch.float32)
    x[0, 4, *position] = math.nan
    result, _, _ = run(x, op)
    # Only in its windows and channels: torch's own operations multiply by zeros and so spread it to all channels.
    np.testing.assert_array_equal(result.isnan(), np.isnan(forward(x.double().numpy(), op)))
    assert result.isnan().any()


@pytest.mark.parametrize("position", [(0, 0), (2, 1), (5, 5)])
def test_nan_is_kept_by_pooling_and_normalization(position: tuple[int, int]) -> None:
    x = last(np.random.default_rng(3).normal(size=(1, 12, 6, 6)), torch.float32)
    x[0, 4, *position] = math.nan
    x[0, 9, *position] = -math.inf
    result, winners, pooled, of_x = run_pool_norm(x, CAFFE)
    exact = x.double().numpy()
    np.testing.assert_array_equal(pooled.isnan(), np.isnan(forward(exact, CAFFE.pool)))
    np.testing.assert_array_equal(result.isnan(), np.isnan(pool_norm_forward(exact, CAFFE)))
    # The windows that contain the NaN, also those that reach beyond the edge, have chosen it.
    for row, column in zip(*np.nonzero(pooled[0, 4].isnan().numpy()), strict=True):
        assert divmod(int(winners[0, 4, row, column]), 3) == (position[0] - 2 * row, position[1] - 2 * column)
    assert of_x[0, 4, *position] == 0  # not above 0
    assert not of_x[0, 9].isnan().all()


def test_nan_of_any_bits_is_kept_in_bfloat16() -> None:
    # The first would overflow when rounded, the second would become an infinity.
    bits = torch.tensor([0x7FFF, 0xFFFF - 0x10000, 0x7F81, 0x7FC0], dtype=torch.int16)
    x = last(torch.ones(1, 4, 3, 3), torch.bfloat16)
    x[0, :, 1, 1] = bits.view(torch.bfloat16)
    result, _, of_x = run(x, dataclasses.replace(PAPER, size=1))
    assert result.isnan().all()
    assert (of_x[0, :, 1, 1] == 0).all()  # not above 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("images", [1, 2, 5])
def test_threads_change_nothing(dtype: torch.dtype, images: int) -> None:
    random = torch.Generator().manual_seed(1)
    x = last(torch.randn(images, 12, 9, 9, generator=random) * 30, dtype)
    gradient = torch.randn(images, 12, 4, 4, generator=random).numpy()
    alone = run(x, PAPER, gradient)
    for threads in (2, 3):
        torch.set_num_threads(threads)
        for one, several in zip(alone, run(x, PAPER, gradient), strict=True):
            assert torch.equal(one, several)


def test_threads_change_nothing_after_pooling() -> None:
    random = torch.Generator().manual_seed(1)
    x = last(torch.randn(5, 12, 9, 9, generator=random) * 30, torch.float32)
    gradient = torch.randn(5, 12, 4, 4, generator=random).numpy()
    alone = run_pool_norm(x, CAFFE, gradient)
    for threads in (2, 3):
        torch.set_num_threads(threads)
        for one, several in zip(alone, run_pool_norm(x, CAFFE, gradient), strict=True):
            assert torch.equal(one, several)


def test_error_in_a_thread_is_raised() -> None:
    def fail(array: np.ndarray, low: int, high: int) -> None:
        if low > 0:
            raise ArithmeticError(f"images {low} to {high}")

    torch.set_num_threads(2)
    with pytest.raises(ArithmeticError, match="images 2 to 5"):
        cpu.parallel_for_arrays(fail, (np.zeros(5),))


def test_compiles_without_a_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    compile_function = numba.njit

    def without_a_place(*, cache: bool = False, **options: Any) -> Any:
        if cache:
            raise RuntimeError("no locator available")
        return compile_function(**options)

    monkeypatch.setattr(numba, "njit", without_a_place)
    assert numba_jit.jit()(lambda value: value + 1)(2) == 3


def box_sums(x: np.ndarray, size: int) -> np.ndarray:
    """Sums over the size x size positions around each, zeros beyond the edge; (B, C, H, W)."""
    total, half = np.empty_like(x), size // 2
    for i, j in np.ndindex(*x.shape[2:]):
        total[:, :, i, j] = x[:, :, max(0, i - half) : i + half + 1, max(0, j - half) : j + half + 1].sum((2, 3))
    return total


def require_same_map(
    x: torch.Tensor,
    gradient: torch.Tensor,
    size: int,
    alpha: float,
    beta: float,
    result: torch.Tensor,
    of_x: torch.Tensor,
) -> None:
    """Compare same-map normalization with the loops."""
    a, g, factor = x.double().numpy(), gradient.double().numpy(), alpha / size**2
    d = 1 + factor * box_sums(a**2, size)
    direct, crossed = g * d**-beta, 2 * factor * beta * a * box_sums(g * a * d ** (-beta - 1), size)
    require_close(result, a * d**-beta)
    require_close(of_x, direct - crossed, float(np.linalg.norm(np.stack([direct, crossed]))))


@settings(max_examples=25, deadline=None)
@given(
    images=st.integers(1, 3),
    channels=st.sampled_from([1, 3, 8, 17]),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    size=st.sampled_from([1, 3, 5, 9]),
    alpha=st.sampled_from([5e-5, 1.0]),
    beta=st.sampled_from([0.75, 0.75, 0.4]),
    scale=st.sampled_from([1e-30, 1.0, 50.0, 1e15]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 999),
)
def test_same_map_equals_the_loops(
    images: int,
    channels: int,
    height: int,
    width: int,
    size: int,
    alpha: float,
    beta: float,
    scale: float,
    dtype: torch.dtype,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    x = last(random.normal(size=(images, channels, height, width)) * scale, dtype)
    gradient = last(random.normal(size=x.shape), dtype)
    result, of_x = torch.full_like(x, math.nan), torch.full_like(x, math.nan)
    cpu.same_map_norm(x, size, alpha, beta, result)
    cpu.same_map_norm_backward(gradient, x, size, alpha, beta, of_x)
    require_same_map(x, gradient, size, alpha, beta, result, of_x)


def test_same_map_keeps_nan() -> None:
    x = last(torch.ones(1, 3, 5, 5), torch.float32)
    x[0, 1, 2, 2] = math.nan
    result = torch.empty_like(x)
    cpu.same_map_norm(x, 3, 1.0, 0.75, result)
    assert result[0, 1, 1:4, 1:4].isnan().all()
    assert result.isnan().sum() == 9


# The rest calls the operators through torch, as layers do.


@pytest.fixture
def unwritten_is_nan() -> Iterator[None]:
    """Fill new tensors with NaN, so that no result is correct by chance."""
    torch.set_deterministic_debug_mode("error")
    yield
    torch.set_deterministic_debug_mode("default")


LAYOUTS = ["channels first", "slice", "expanded", "no image"]


def lying(layout: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    """7-bit integers (B, C, H, W), whose sums are exact in bfloat16 too, not channels-last; or no images."""
    images, channels, height, width = shape
    memory = {
        "channels first": (images, channels, height, width),
        "slice": (2 * images, channels + 2, 2 * height, width + 1),
        "expanded": (1, channels, 1, width),
        "no image": (0, channels, height, width),
    }[layout]
    x = (30 * torch.randn(memory, generator=torch.Generator().manual_seed(seed))).round().clamp(-127, 127).to(dtype)
    if layout == "slice":
        x = x.contiguous(memory_format=torch.channels_last)[::2, 2:, 1::2, :-1]
    x = x.expand(shape) if layout == "expanded" else x
    assert layout == "no image" or not x.is_contiguous(memory_format=torch.channels_last)
    return x


def check_norm_pool(layout: str, dtype: torch.dtype, op: NormPool, biased: bool) -> None:
    leaves = [lying(layout, (2, 6, 7, 8), dtype, 1).requires_grad_()]
    exact = leaves[0].detach().double().numpy()
    if biased:
        leaves.append(lying("channels first", (1, 6, 1, 2), torch.float32, 2)[0, :, 0, 0].contiguous().requires_grad_())
        exact = exact + leaves[1].detach().double().numpy()[:, None, None]
    numbers = op.as_scalars()
    result, winners = operators._norm_pool(leaves[0], leaves[1] if biased else None, *numbers)
    gradient = lying(layout, tuple(result.shape), dtype, 3)
    of_x, *of_bias = torch.autograd.grad(result, leaves, gradient)
    assert result.dtype == of_x.dtype == dtype and result.is_contiguous(memory_format=torch.channels_last)
    want_of_x = require_loops(exact, gradient.double().numpy(), op, result.detach(), winners, of_x)
    for got in of_bias:
        assert got.dtype == torch.float32  # that of the biases
        # A sum of numbers that were each rounded.
        off, sizes = np.abs(got.double().numpy() - want_of_x.sum((0, 2, 3))), np.abs(want_of_x).sum((0, 2, 3))
        assert (off <= ((AT_MOST if dtype == torch.bfloat16 else 0.0) + 2e-6) * sizes).all()


def check_pool_norm_of(layout: str, dtype: torch.dtype, op: PoolNorm) -> None:
    x = lying(layout, (2, 6, 7, 8), dtype, 1).requires_grad_()
    result, winners, _ = operators._pool_norm(x, *op.as_scalars())
    gradient = lying(layout, tuple(result.shape), dtype, 3)
    (of_x,) = torch.autograd.grad(result, x, gradient)
    assert result.dtype == of_x.dtype == dtype and result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(result, operators.norm_pool(x, op))
    exact = x.detach().double().numpy()
    require_close(result.detach(), pool_norm_forward(exact, op))
    require_close(of_x, *pool_norm_backward(gradient.double().numpy(), exact, winners.numpy(), op))


def check_same_map_norm(layout: str, dtype: torch.dtype) -> None:
    x = lying(layout, (2, 5, 6, 7), dtype, 4).requires_grad_()
    gradient = lying(layout, tuple(x.shape), dtype, 5)
    result = operators.same_map_norm(x, 3, 0.01, 0.75)
    (of_x,) = torch.autograd.grad(result, x, gradient)
    assert result.dtype == of_x.dtype == dtype and result.is_contiguous(memory_format=torch.channels_last)
    require_same_map(x.detach(), gradient, 3, 0.01, 0.75, result.detach(), of_x)


def check_space_to_depth(layout: str, dtype: torch.dtype) -> None:
    x = lying(layout, (2, 3, 7, 8), dtype, 6)
    for wanted in DTYPES:
        result = operators.space_to_depth(x, 3, 4, 2, wanted)
        assert result.dtype == wanted and result.is_contiguous(memory_format=torch.channels_last)
        # The last row of blocks is beyond the edge, and the last two columns of positions are in no block.
        np.testing.assert_array_equal(result.double().numpy(), blocks(x.double().numpy(), 3, 4, 2))


def blocks(x: np.ndarray, stride: int, rows: int, columns: int) -> np.ndarray:
    """The positions of each block as channels, row by row, at each the channels of x; zeros beyond the edge."""
    images, channels, height, width = x.shape
    result = np.zeros((images, stride, stride, channels, rows, columns))
    for i, j, row, column in np.ndindex(stride, stride, rows, columns):
        if row * stride + i < height and column * stride + j < width:
            result[:, i, j, :, row, column] = x[:, :, row * stride + i, column * stride + j]
    return result.reshape(images, stride * stride * channels, rows, columns)


@pytest.mark.usefixtures("unwritten_is_nan")
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("op", [PAPER, SOURCE, NormPool(relu_before=True)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_norm_pool_of_any_layout(layout: str, dtype: torch.dtype, op: NormPool, biased: bool) -> None:
    check_norm_pool(layout, dtype, op, biased)


@pytest.mark.usefixtures("unwritten_is_nan")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pool_norm_of_any_layout(layout: str, dtype: torch.dtype) -> None:
    check_pool_norm_of(layout, dtype, CAFFE)


@pytest.mark.parametrize("dtype", DTYPES)
def test_pool_norm_with_biases_is_pooling_then_normalization(dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(4)
    x, bias = last(torch.randn(2, 6, 7, 8, generator=random), dtype), torch.randn(6, generator=random)
    leaves = [x.requires_grad_(), bias.requires_grad_()]
    fused, gradient = operators.norm_pool(*leaves[:1], CAFFE, leaves[1]), torch.randn(2, 6, 3, 4, generator=random)
    apart = operators.norm_pool(operators.norm_pool(x, CAFFE.pool, bias), CAFFE.norm)
    assert torch.equal(fused, apart)
    for one, other in zip(*(torch.autograd.grad(y, leaves, gradient.to(dtype)) for y in (fused, apart)), strict=True):
        assert torch.equal(one, other)


@pytest.mark.usefixtures("unwritten_is_nan")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_map_norm_and_space_to_depth_of_any_layout(layout: str, dtype: torch.dtype) -> None:
    check_same_map_norm(layout, dtype)
    check_space_to_depth(layout, dtype)


def test_space_to_depth_has_no_gradient() -> None:
    for images in (0, 2):
        x = torch.ones(images, 3, 6, 6, requires_grad=True)
        with pytest.raises(RuntimeError, match="space_to_depth has no gradient"):
            operators.space_to_depth(x, 3, 2, 2, torch.float32).sum().backward()


def test_space_to_depth_of_empty_images_is_zero() -> None:
    x = torch.ones(2, 3, 0, 5)
    assert torch.equal(operators.space_to_depth(x, 2, 2, 2, torch.float32), torch.zeros(2, 12, 2, 2))


@pytest.mark.parametrize("dtype", DTYPES)
def test_autocast_does_not_change_operators(dtype: torch.dtype) -> None:
    with torch.autocast("cpu", torch.bfloat16):  # backward, too
        for op in (PAPER, SOURCE):
            check_norm_pool("channels first", dtype, op, biased=True)
        check_pool_norm_of("channels first", dtype, CAFFE)
        check_same_map_norm("channels first", dtype)
        check_space_to_depth("channels first", dtype)
