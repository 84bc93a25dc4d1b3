"""The compiled passes on a processor, against float64 loops written from their formulas."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.model.norm_pool_loops import backward, forward, require_largest, windows, winners_of

from alexnet import compiled
from alexnet.model.description import pooled_side
from alexnet.model.kernels import cpu
from alexnet.model.kernels.form import NormPool

pytestmark = pytest.mark.skipif(cpu.why_not() is not None, reason=str(cpu.why_not()))

PAPER = NormPool(rectify_before=True, size=5, alpha=1e-4, beta=0.75, k=2.0, columns=2, pool=3, stride=2, ties="one")
SOURCE = NormPool(size=5, alpha=1e-4, k=2.0, columns=2, pool=2, stride=2, ties="every", rectify_after=True)


def last(x: np.ndarray | torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.as_tensor(x).to(dtype).contiguous(memory_format=torch.channels_last)


def run(
    x: torch.Tensor, form: NormPool, gradient: np.ndarray | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Result, winners and, of a gradient of 1 unless one is given, the gradient of x."""
    sides = [pooled_side(side, form.pool, form.stride) if form.pools else side for side in x.shape[2:]]
    shape = (*x.shape[:2], *sides)
    result = last(torch.full(shape, math.nan), x.dtype)
    winners = torch.empty(0, dtype=torch.uint8)
    if form.pools:
        winners = last(torch.zeros(shape), torch.int16 if form.ties == "every" else torch.uint8)
    cpu.norm_pool(x, None, form, result, winners)
    of_x = last(torch.full(x.shape, math.nan), x.dtype)
    above = last(np.ones(shape) if gradient is None else gradient, x.dtype)
    cpu.norm_pool_backward(above, x, None, result, winners, form, of_x)
    return result, winners, of_x


def relative(got: torch.Tensor, want: np.ndarray) -> float:
    return float(np.linalg.norm(got.double().numpy() - want)) / max(float(np.linalg.norm(want)), 1e-300)


def check(x: torch.Tensor, form: NormPool, seed: int) -> None:
    """Forward and backward against the loops, with the kernel's winners where two responses are as good."""
    exact = x.double().numpy()
    want = forward(exact, form)
    gradient = last(np.random.default_rng(seed).normal(size=want.shape), x.dtype)
    result, winners, of_x = run(x, form, gradient.double().numpy())
    require_largest(winners.numpy(), exact, form, 1e-6)
    want_of_x, terms = backward(gradient.double().numpy(), exact, want, winners.numpy(), form)
    half = x.dtype == torch.bfloat16
    # bfloat16 rounds once, by up to 2^-9 of the number.
    assert relative(result, want) < (2**-8 if half else 1e-6)
    # What is left of two terms that cancel has, in float32, the error of the terms.
    error = np.linalg.norm(of_x.double().numpy() - want_of_x)
    assert error <= (4e-3 * np.linalg.norm(want_of_x) if half else 1e-6 * terms)


# Each form and dtype is compiled of its own, which takes seconds: so the tests share few.
FORMS = [PAPER, SOURCE, dataclasses.replace(PAPER, pool=1, stride=1)]


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=50, deadline=None)
@given(
    images=st.integers(1, 3),
    per_column=st.sampled_from([1, 2, 3, 5, 8, 40, 200]),
    columns=st.integers(1, 3),
    height=st.integers(3, 7),
    width=st.integers(3, 7),
    size=st.integers(1, 7),
    alpha=st.sampled_from([0.0, 1e-4, 0.3]),
    beta=st.sampled_from([0.75, 0.75, 0.4]),
    k=st.sampled_from([1.0, 2.0]),
    stride=st.integers(1, 3),
    rectify=st.tuples(st.booleans(), st.booleans()),
    scale=st.sampled_from([1e-30, 1.0, 50.0, 1e15]),
    seed=st.integers(0, 999),
)
def test_equals_the_loops(
    form: NormPool,
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
    rectify: tuple[bool, bool],
    scale: float,
    seed: int,
) -> None:
    form = dataclasses.replace(
        form,
        size=size,
        alpha=alpha,
        beta=beta,
        k=k,
        columns=columns,
        stride=min(stride, form.pool),
        rectify_before=rectify[0],
        rectify_after=rectify[1],
    )
    x = np.random.default_rng(seed).normal(size=(images, per_column * columns, height, width)) * scale
    check(last(x, torch.float32), form, seed)


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


@pytest.mark.parametrize("form", [PAPER, SOURCE])
def test_ties(form: NormPool) -> None:
    # Whole numbers of few values and no normalisation: nearly every window has several largest responses.
    form = dataclasses.replace(form, alpha=0.0, k=1.0)
    x = np.random.default_rng(2).integers(-1, 2, size=(2, 4, 8, 9)).astype(float)
    x[:, 0] = -np.inf  # also what stands beyond the edges
    _, winners, _ = run(last(x, torch.float32), form)
    inside = np.full(winners.shape, -1)  # bits beyond the edge say nothing
    if form.ties == "every":
        for r, c, places in windows(x, form):
            rows, columns = np.indices(places.shape[2:])
            inside[:, :, r, c] = sum(1 << int(mark) for mark in (rows * form.pool + columns).flat)
    np.testing.assert_array_equal(winners.numpy() & inside, winners_of(x, form))


def test_largest_is_chosen_before_rounding() -> None:
    # Both responses of the window round to the same bfloat16, once divided; the second is the larger.
    x = torch.zeros(1, 2, 3, 3)
    x[0, :, 0, 0] = torch.tensor([1.0, 100.0])
    x[0, :, 0, 1] = torch.tensor([1.0, 99.5])
    form = dataclasses.replace(PAPER, columns=1, alpha=1e-6)
    _, winners, _ = run(last(x, torch.bfloat16), form)
    assert winners[0, 0].item() == 1
    assert winners[0, 1].item() == 0


@pytest.mark.parametrize("form", [*FORMS, dataclasses.replace(PAPER, alpha=0.0, k=1.0)])
@pytest.mark.parametrize("place", [(0, 0), (2, 1), (4, 4)])
def test_nan_stays(form: NormPool, place: tuple[int, int]) -> None:
    x = last(np.random.default_rng(3).normal(size=(1, 12, 5, 5)), torch.float32)
    x[0, 4, *place] = math.nan
    result, _, _ = run(x, form)
    # In the windows and the maps that it is in: torch's own operations, a product by zeros, carry it to all maps.
    np.testing.assert_array_equal(result.isnan(), np.isnan(forward(x.double().numpy(), form)))
    assert result.isnan().any()


def test_nan_of_any_bits_stays_in_bfloat16() -> None:
    # A NaN whose bits the rounding would carry over, another that it would make an infinity.
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


def test_error_in_a_thread_is_raised() -> None:
    def fail(array: np.ndarray, low: int, high: int) -> None:
        if low > 0:
            raise ArithmeticError(f"images {low} to {high}")

    torch.set_num_threads(2)
    with pytest.raises(ArithmeticError, match="images 2 to 5"):
        cpu.over_shares(fail, (np.zeros(5),))


def test_compiles_where_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    compile_function = numba.njit

    def without_a_place(*, cache: bool = False, **options: Any) -> Any:
        if cache:
            raise RuntimeError("no locator available")
        return compile_function(**options)

    monkeypatch.setattr(numba, "njit", without_a_place)
    assert compiled.compiled()(lambda value: value + 1)(2) == 3


def box_sums(x: np.ndarray, size: int) -> np.ndarray:
    """Sums over the size x size places around each, zeros beyond the edge; (B, C, H, W)."""
    total, half = np.empty_like(x), size // 2
    for i, j in np.ndindex(*x.shape[2:]):
        total[:, :, i, j] = x[:, :, max(0, i - half) : i + half + 1, max(0, j - half) : j + half + 1].sum((2, 3))
    return total


@settings(max_examples=25, deadline=None)
@given(
    images=st.integers(1, 3),
    maps=st.sampled_from([1, 3, 8, 17]),
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
    maps: int,
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
    x = last(random.normal(size=(images, maps, height, width)) * scale, dtype)
    gradient = last(random.normal(size=x.shape), dtype)
    result, of_x = torch.full_like(x, math.nan), torch.full_like(x, math.nan)
    cpu.same_map_norm(x, size, alpha, beta, result)
    cpu.same_map_norm_backward(gradient, x, size, alpha, beta, of_x)
    a, g, factor = x.double().numpy(), gradient.double().numpy(), alpha / size**2
    d = 1 + factor * box_sums(a**2, size)
    want_of_x = g * d**-beta - 2 * factor * beta * a * box_sums(g * a * d ** (-beta - 1), size)
    limit = 1e-6 if dtype == torch.float32 else 4e-3
    assert relative(result, a * d**-beta) < limit
    assert relative(of_x, want_of_x) < limit


def test_same_map_keeps_nan() -> None:
    x = last(torch.ones(1, 3, 5, 5), torch.float32)
    x[0, 1, 2, 2] = math.nan
    result = torch.empty_like(x)
    cpu.same_map_norm(x, 3, 1.0, 0.75, result)
    assert result[0, 1, 1:4, 1:4].isnan().all()
    assert result.isnan().sum() == 9
