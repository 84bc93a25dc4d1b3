"""Structure of weights against shuffled copies: none in random layers at the stated rate, found where it is small."""

import dataclasses
import os

import numpy as np
import pytest
import scipy.stats
import torch

from alexnet.exchange import weight_structure
from alexnet.exchange.weight_structure import (
    ERROR_RATE,
    Structure,
    is_orthogonal,
    living_part,
    neighbor_correlation,
    structure,
    top_singular_value,
)


def _structure(weight: torch.Tensor) -> Structure:
    found = structure(weight)
    assert found is not None
    return found


MANY = 200 if os.environ.get("CI") else 2_000
"""Random layers of a slow test."""


@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (5, 300), (16, 4)])
def test_a_spike_has_the_largest_singular_value_of_numpys_svd(shape: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    spike = np.outer(generator.standard_normal(shape[0]), generator.standard_normal(shape[1]))
    matrix = (generator.standard_normal(shape) * 0.3 + spike).astype(np.float32)

    found = top_singular_value(torch.from_numpy(matrix))

    assert found == pytest.approx(np.linalg.svd(matrix, compute_uv=False)[0], rel=1e-4)


def test_a_matrix_of_zeros_has_the_singular_value_0() -> None:
    assert top_singular_value(torch.zeros(5, 4)) == 0


def test_correlation_of_neighbors_is_numpys() -> None:
    weight = torch.randn(6, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.avg_pool2d(weight, 3, 1)  # (6, 3, 3, 3), neighbors share six of nine values
    first = np.concatenate([smooth[..., 1:, :].numpy().ravel(), smooth[..., 1:].numpy().ravel()]).astype(np.float64)
    second = np.concatenate([smooth[..., :-1, :].numpy().ravel(), smooth[..., :-1].numpy().ravel()]).astype(np.float64)

    expected = (first @ second) / ((first @ first + second @ second) / 2)

    assert neighbor_correlation(smooth) == pytest.approx(expected, rel=1e-6)
    assert expected > 0.4


@pytest.mark.parametrize(
    ("shape", "draw"),
    [
        ((16, 3, 5, 5), "normal"),
        ((10, 64), "uniform"),
        ((64, 48), "normal"),
        ((32, 16, 3, 3), "heavy"),
        ((4, 4, 8, 6, 3, 3), "uniform"),
    ],
)
@pytest.mark.parametrize("trials", [20, pytest.param(MANY, marks=pytest.mark.slow)])
def test_no_more_random_layers_than_stated_have_structure(shape: tuple[int, ...], draw: str, trials: int) -> None:
    wrong = 0
    generator = np.random.default_rng(0)
    for _ in range(trials):
        match draw:
            case "normal":
                values = generator.normal(0, 0.01, shape)
            case "uniform":
                values = generator.uniform(-1, 1, shape)
            case _:
                values = generator.standard_t(3, shape)
        wrong += bool(_structure(torch.from_numpy(values.astype(np.float32))).beyond_chance)

    assert wrong <= scipy.stats.binom.ppf(0.9997, trials, ERROR_RATE)


def test_each_kind_of_structure_is_found_and_named() -> None:
    noise = torch.randn(64, 32, 5, 5, generator=torch.Generator().manual_seed(0))
    units, inputs = noise[:, :1, :1, :1].sign(), noise[:1].sign()
    changed = {
        "top_singular_value": noise + 0.15 * units * inputs,
        "unit_spread": noise * torch.linspace(0.7, 1.3, 64)[:, None, None, None],
        "input_spread": noise * torch.linspace(0.5, 1.5, 32)[:, None, None],
        "smoothness": noise + 0.3 * torch.nn.functional.avg_pool2d(noise, 3, 1, 1),
    }

    assert _structure(noise).beyond_chance == ()
    for name, weight in changed.items():
        assert name in _structure(weight).beyond_chance, name


def test_one_huge_weight_does_not_hide_structure() -> None:
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    weight *= torch.linspace(0.5, 1.5, 64)[:, None]
    weight[3, 5] = 5000.0

    assert "unit_spread" in _structure(weight).beyond_chance


def test_a_sample_of_the_units_of_a_large_dense_layer_says_the_same() -> None:
    """Structure that all units share is in the sample as well; dead units are left out."""
    units = 3 * weight_structure.MAX_UNITS
    noise = torch.randn(units, 60, generator=torch.Generator().manual_seed(0))
    changed = {
        "top_singular_value": noise + 0.2 * noise[:, :1].sign() * noise[:1].sign(),
        "unit_spread": noise * torch.linspace(0.8, 1.2, units)[:, None],
        "input_spread": noise * torch.linspace(0.8, 1.2, 60),
    }
    dead = torch.zeros(units, 60)
    dead[7] = 1.0
    assert structure(dead) is None

    assert _structure(noise).beyond_chance == ()
    assert len(weight_structure._sampled(noise)) == weight_structure.MAX_UNITS
    for name, weight in changed.items():
        assert name in _structure(weight).beyond_chance, name
    dead[8] = noise[8]
    assert len(weight_structure.living_part(dead)) == 1
    assert _structure(dead).beyond_chance == ()


@pytest.mark.parametrize("shape", [(128, 512), (512, 128), (64, 32, 3, 3)])
def test_orthogonal_weights_are_recognized(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = 1e-20 * torch.nn.init.orthogonal_(torch.empty(shape), generator=generator)
    if len(weight) <= weight[0].numel():
        weight[3] = 0

    assert is_orthogonal(living_part(weight))
    assert _structure(weight).beyond_chance == ()
    assert not is_orthogonal(torch.randn(shape, generator=generator))


@pytest.mark.parametrize("shape", [(24, 3, 11, 11), (64, 48), (4, 4, 8, 6, 3, 3)])
@pytest.mark.parametrize("change", ["5 % dead", "two columns", "scaled units", "row scales", "dead inputs"])
@pytest.mark.parametrize("trials", [10, pytest.param(MANY // 2, marks=pytest.mark.slow)])
def test_no_more_random_layers_of_uneven_units_than_stated_are_ordered(
    shape: tuple[int, ...], change: str, trials: int
) -> None:
    generator = np.random.default_rng(0)
    wrong = 0
    for _ in range(trials):
        weight = generator.normal(0, 0.01, shape).astype(np.float32)
        units = weight.reshape(-1, *shape[-3:]) if len(shape) > 2 else weight
        match change:
            case "5 % dead":
                units[generator.permutation(len(units))[: len(units) // 20]] = 0
            case "two columns":
                units[: len(units) // 2] *= 1.1
            case "scaled units":
                units[:4] *= 1.5
            case "row scales":
                units *= generator.uniform(0.5, 1.5, (len(units), *[1] * (units.ndim - 1))).astype(np.float32)
            case _:
                units[:, :2] = 0
        wrong += _structure(torch.from_numpy(weight)).is_ordered

    assert wrong <= scipy.stats.binom.ppf(0.9997, trials, ERROR_RATE)


@pytest.mark.parametrize("factor", [1e6, 1e-12, 1e-25])
def test_figures_do_not_depend_on_the_scale(factor: float) -> None:
    weight = torch.randn(48, 16, 5, 5, generator=torch.Generator().manual_seed(0)) * 0.01
    weight[:, :3] *= 1.5

    own, scaled = _structure(weight), _structure(weight * factor)

    assert own.beyond_chance == scaled.beyond_chance == ("input_spread",)
    for name in ("top_singular_value", "unit_spread", "input_spread", "smoothness", "kernel_sums"):
        assert getattr(scaled, name) == pytest.approx(getattr(own, name), rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize("shape", [(1, 2_000), (1_500, 2), (1, 64, 5, 5), (40, 1, 7, 7), (2, 3), (900, 1, 2, 2)])
def test_narrow_layers_have_finite_figures_and_no_structure(shape: tuple[int, ...]) -> None:
    """Copies of a single unit, for example, all have the same singular value: rounding is no difference."""
    for seed in range(5):
        found = _structure(torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 1e-9)

        assert found.beyond_chance == ()
        assert np.isfinite([one for one in dataclasses.astuple(found)[:5] if one is not None]).all()
        assert (found.unit_spread is None) == (shape[0] == 1)
        assert (found.kernel_sums is None) == (len(shape) == 2 or shape[1] == 1)


def test_a_difference_by_rounding_is_none() -> None:
    values = torch.zeros(3)
    for difference, expected in ((1e-6, ()), (1e-2, ("figure",))):
        _, _, beyond = weight_structure._compared(
            values,
            lambda one, more=difference: {"figure": 1.0 + more * (one is values)},  # type: ignore[misc]
            lambda one, num: iter([one.clone() for _ in range(num)]),
        )
        assert beyond == expected


def test_units_of_a_single_weight_have_no_figures() -> None:
    assert structure(torch.randn(2_000, 1)) is None


def test_limits_are_quantiles_of_students_distribution() -> None:
    for copies, limit in weight_structure._LIMITS.items():
        rate = scipy.stats.t.sf(limit / np.sqrt(1 + 1 / copies), copies - 1)
        assert rate < 0.0001, copies
