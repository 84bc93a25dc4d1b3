"""Response normalization, both kinds, against float64 NumPy loops written from their formulas."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.errors import RequestError
from alexnet.model import kernels
from alexnet.model.kernels.norm_pool import NormPool
from alexnet.model.kernels.operators import norm_pool
from alexnet.model.response_norm import local_response_norm, same_map_norm


def norm_by_loops(x: np.ndarray, size: int, alpha: float, beta: float, k: float, columns: int) -> np.ndarray:
    """Section 3.3, read literally: for each channel the sum over the channels around it in its own column."""
    result = np.empty_like(x)
    per_column = x.shape[1] // columns
    for i in range(x.shape[1]):
        first = i // per_column * per_column
        low, high = max(first, i - size // 2), min(first + per_column - 1, i + (size - 1) // 2)
        total = sum(x[:, j] ** 2 for j in range(low, high + 1))
        result[:, i] = x[:, i] / (k + alpha * total) ** beta
    return result


def relative(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.linalg.norm(got - want) / max(np.linalg.norm(want), 1e-300))


@settings(max_examples=25, deadline=None)
@given(
    per_column=st.integers(1, 7),
    columns=st.integers(1, 3),
    size=st.integers(1, 9),
    scale=st.sampled_from([1e-3, 1.0, 300.0]),
    beta=st.sampled_from([0.75, 0.5, 1.3]),
    seed=st.integers(0, 999),
)
def test_norm_equals_the_loops(per_column: int, columns: int, size: int, scale: float, beta: float, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(2, per_column * columns, 3, 2)) * scale
    want = norm_by_loops(x, size, 1e-4, beta, 2.0, columns)
    double = local_response_norm(torch.from_numpy(x), size, 1e-4, beta, 2.0, columns).numpy()
    assert relative(double, want) < 1e-12
    single = local_response_norm(torch.from_numpy(x).float(), size, 1e-4, beta, 2.0, columns).numpy()
    assert relative(single, want) < 1e-5


# Significant bits, and the smallest difference between two numbers.
HALVES = {torch.float16: (11, 2.0**-24), torch.bfloat16: (8, 2.0**-133)}


@settings(max_examples=40, deadline=None)
@given(
    dtype=st.sampled_from(list(HALVES)),
    per_column=st.integers(1, 7),
    columns=st.integers(1, 3),
    size=st.integers(1, 9),
    scale=st.sampled_from([1e-3, 1.0, 300.0, 60_000.0]),
    beta=st.sampled_from([0.75, 0.5, 1.3]),
    seed=st.integers(0, 999),
)
def test_half_precision_rounds_only_the_result(
    dtype: torch.dtype, per_column: int, columns: int, size: int, scale: float, beta: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    shape = (2, per_column * columns, 3, 2)
    x = torch.from_numpy(random.uniform(-scale, scale, shape)).to(dtype).requires_grad_()
    got = local_response_norm(x, size, 1e-4, beta, 2.0, columns)
    want = norm_by_loops(x.detach().double().numpy(), size, 1e-4, beta, 2.0, columns)
    bits, smallest = HALVES[dtype]
    assert got.dtype == dtype
    allowed = 2.0**-bits * np.abs(want) * 1.001 + smallest
    assert (np.abs(got.detach().double().numpy() - want) <= allowed).all()
    direction = torch.from_numpy(random.normal(size=shape)).to(dtype)
    double = x.detach().double().requires_grad_()
    local_response_norm(double, size, 1e-4, beta, 2.0, columns).backward(direction.double())
    got.backward(direction)
    assert x.grad is not None and double.grad is not None and x.grad.dtype == dtype
    # The gradient is a difference, which may be far below its two terms; these are rounded as float32.
    terms = np.abs(direction.double().numpy()).max() * np.abs(want / x.detach().double().numpy()).max()
    allowed = 2.0**-bits * np.abs(double.grad.numpy()) * 1.001 + smallest + 1e-6 * terms
    assert (np.abs(x.grad.double().numpy() - double.grad.numpy()) <= allowed).all()


@settings(max_examples=60, deadline=None)
@given(
    fused=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
    spoiler=st.sampled_from([math.inf, -math.inf, math.nan, 1e300]),
    per_column=st.integers(1, 9),
    columns=st.integers(1, 3),
    size=st.integers(1, 7),
    beta=st.sampled_from([0.75, 1.3]),
    seed=st.integers(0, 999),
)
def test_infinities_stay_within_their_windows(
    fused: bool, dtype: torch.dtype, spoiler: float, per_column: int, columns: int, size: int, beta: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    channels = per_column * columns
    spoiled = int(random.integers(channels))
    x = torch.from_numpy(random.normal(size=(2, channels, 2, 2)) * 3).to(dtype)
    # What overflows only when it is squared: finite, but in float16, whose squares are float32.
    largest = torch.finfo(dtype).max
    x[1, spoiled, 1, 0] = min(spoiler, largest) if spoiler == 1e300 else spoiler
    x.requires_grad_()
    clean = x.detach().clone()
    clean[1, spoiled, 1, 0] = 0
    clean.requires_grad_()

    def norm(v: torch.Tensor) -> torch.Tensor:
        op = NormPool(size=size, alpha=1e-4, beta=beta, k=2.0, columns=columns)
        return norm_pool(v, op) if fused and kernels.supports_fused(v) else op.reference(v)

    got, want = norm(x), norm(clean)
    got.sum().backward()
    want.sum().backward()
    windows = window_by_loops(channels, size, columns)
    within = torch.zeros(2, channels, 2, 2, dtype=torch.bool)
    within[1, windows[:, spoiled], 1, 0] = True
    assert torch.equal(got[~within], want[~within])
    assert x.grad is not None and clean.grad is not None
    # A gradient reads the windows that contain its channel, and all that these contain.
    within[1, (windows.T.astype(int) @ windows)[:, spoiled] > 0, 1, 0] = True
    assert torch.equal(x.grad[~within], clean.grad[~within])
    if math.isnan(spoiler):
        assert got[1, windows[:, spoiled], 1, 0].isnan().all()
    elif got.isfinite().all() and dtype != torch.float64:  # whose squares overflow in the loops, too
        exact = norm_by_loops(x.detach().double().numpy(), size, 1e-4, beta, 2.0, columns)
        np.testing.assert_allclose(got.detach().double().numpy(), exact, rtol=2**-7, atol=1e-6)


def window_by_loops(channels: int, size: int, columns: int) -> np.ndarray:
    """(C, C): whether channel j is in the window of channel i."""
    per_column = channels // columns
    return np.array(
        [
            [i // per_column == j // per_column and -(size // 2) <= j - i <= (size - 1) // 2 for j in range(channels)]
            for i in range(channels)
        ]
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_norm_under_autocast(dtype: torch.dtype) -> None:
    x = torch.full((1, 5, 1, 1), 300.0)
    with torch.autocast("cpu", dtype):
        # What a convolution hands on under autocast.
        got = local_response_norm(x.to(dtype))
    assert got.dtype == dtype
    want = norm_by_loops(x.to(dtype).double().numpy(), 5, 1e-4, 0.75, 2.0, 1)
    np.testing.assert_allclose(got.double().numpy(), want, rtol=2.0 ** -HALVES[dtype][0] * 1.001)
    assert dtype != torch.float16 or got[0, 0, 0, 0] == 24.0


def test_even_windows_have_one_channel_more_before() -> None:
    # The paper's limits, i - n/2 .. i + n/2, would hold n + 1 channels.
    x = torch.zeros(1, 7, 1, 1, dtype=torch.float64)
    x[0, 3] = 10.0
    x[0, [0, 1, 2, 4, 5, 6]] = 1.0
    changed = (local_response_norm(x, 4, 1.0) < 0.5 * local_response_norm(torch.ones_like(x), 4, 1.0)).flatten()
    assert changed.tolist() == [False, False, True, False, True, True, False]


@settings(max_examples=10, deadline=None)
@given(per_column=st.integers(1, 5), columns=st.integers(1, 2), size=st.integers(1, 6), seed=st.integers(0, 999))
def test_norm_gradient_by_differences(per_column: int, columns: int, size: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    x = torch.from_numpy(random.normal(size=(2, per_column * columns, 2, 2)) * 3).requires_grad_()
    # A large alpha, so that the crossed term of the derivative matters.
    assert torch.autograd.gradcheck(lambda v: local_response_norm(v, size, 0.3, 0.75, 1.0, columns), (x,))


def test_norm_conventions_of_alpha() -> None:
    x = torch.randn(2, 10, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 50
    # torch divides alpha by the window's size, the paper does not; ours does both.
    torch.testing.assert_close(
        local_response_norm(x, 5, 1e-2, 0.75, 2.0, alpha_per_element=False),
        F.local_response_norm(x, 5, 1e-2, 0.75, 2.0),
    )
    torch.testing.assert_close(local_response_norm(x, 5, 1e-2, 0.75, 2.0), F.local_response_norm(x, 5, 5e-2, 0.75, 2.0))


def test_norm_takes_any_number_of_positions() -> None:
    x = torch.randn(2, 6, 3, 4, dtype=torch.float64)
    want = local_response_norm(x, 3)
    torch.testing.assert_close(local_response_norm(x.flatten(2), 3), want.flatten(2))
    torch.testing.assert_close(local_response_norm(x[:, :, 0, 0], 3), want[:, :, 0, 0])
    torch.testing.assert_close(local_response_norm(x.to(memory_format=torch.channels_last), 3), want)
    assert local_response_norm(x[:0], 3).shape == (0, 6, 3, 4)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((2, 6, 1, 1), {"columns": 4}, "6 channels, 4 columns"),
        ((2, 6, 1, 1), {"size": 0}, "size is 0; allowed are integers"),
        ((2, 6, 1, 1), {"size": 2.5}, "size is 2.5; allowed are integers"),
        ((2, 6, 1, 1), {"columns": 0}, "columns is 0; allowed are integers"),
        *(
            ((2, 6, 1, 1), {name: value}, rf"{name} of response normalization is {value}; allowed are finite")
            for name in ("alpha", "beta", "k")
            for value in (math.nan, math.inf, -math.inf)
        ),
        ((2, 0, 3, 3), {}, r"shape \(2, 0, 3, 3\)"),
        ((2, 0), {}, r"shape \(2, 0\)"),
        ((2, 6, 1, 1), {"k": 0}, "k is 0"),
        ((2, 6, 1, 1), {"alpha": -1}, "alpha is -1"),
        ((6,), {}, r"shape \(6,\)"),
    ],
)
def test_norm_refuses(shape: tuple[int, ...], options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        local_response_norm(torch.ones(shape), **options)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="int64"):
        local_response_norm(torch.ones(2, 6, 1, 1, dtype=torch.int64))


def same_map_by_loops(x: np.ndarray, size: int, alpha: float, beta: float) -> np.ndarray:
    """The source's formula: alpha / size^2 on each square, zeros beyond the edge, constant 1."""
    result, half = np.empty_like(x), size // 2
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            window = x[:, :, max(0, i - half) : i + half + 1, max(0, j - half) : j + half + 1]
            total = (window**2).sum((2, 3))
            result[:, :, i, j] = x[:, :, i, j] / (1 + alpha / size**2 * total) ** beta
    return result


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    size=st.sampled_from([1, 3, 5, 9]),
    scale=st.sampled_from([1e-3, 1.0, 300.0]),
    beta=st.sampled_from([0.75, 0.4]),
    seed=st.integers(0, 999),
)
def test_same_map_equals_the_loops(height: int, width: int, size: int, scale: float, beta: float, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(2, 3, height, width)) * scale
    want = same_map_by_loops(x, size, 1e-3, beta)
    assert relative(same_map_norm(torch.from_numpy(x), size, 1e-3, beta).numpy(), want) < 1e-12
    assert relative(same_map_norm(torch.from_numpy(x).float(), size, 1e-3, beta).numpy(), want) < 1e-5
    rounded = torch.from_numpy(x).bfloat16()
    wanted = same_map_by_loops(rounded.double().numpy(), size, 1e-3, beta)
    # Only the result is rounded to 8 bits.
    assert relative(same_map_norm(rounded, size, 1e-3, beta).double().numpy(), wanted) < 2**-8 * 1.01


def test_same_map_gradient_by_differences() -> None:
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 2, 4, 5)) * 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: same_map_norm(v, 3, 2.0, 0.75), (x,))


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.ones(2, 6, 4, 4), {"size": 4}, "size is 4; allowed are odd"),
        (torch.ones(2, 6, 4, 4), {"size": 2.5}, "size is 2.5; allowed are integers"),
        (torch.ones(2, 6, 4, 4), {"alpha": math.nan}, "alpha of same-map normalization is nan"),
        (torch.ones(2, 6, 4, 4), {"beta": math.inf}, "beta of same-map normalization is inf"),
        (torch.ones(2, 6, 4, 4), {"alpha": -1.0}, "alpha is -1"),
        (torch.ones(2, 6), {}, r"shape \(2, 6\)"),
        (torch.ones(2, 6, 4, 4, dtype=torch.int64), {}, "int64"),
    ],
)
def test_same_map_refuses(x: torch.Tensor, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        same_map_norm(x, **options)  # type: ignore[arg-type]
