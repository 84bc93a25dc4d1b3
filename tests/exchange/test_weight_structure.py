"""Structure of weights against shuffled copies: none in random layers at the stated rate, found where it is small."""

import numpy as np
import pytest
import scipy.stats
import torch

from alexnet.exchange import weight_structure
from alexnet.exchange.weight_structure import ERROR_RATE, neighbor_correlation, structure, top_singular_value


@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (5, 300), (16, 4)])
def test_a_spike_has_the_largest_singular_value_of_numpys_svd(shape: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    spike = np.outer(generator.standard_normal(shape[0]), generator.standard_normal(shape[1]))
    matrix = (generator.standard_normal(shape) * 0.3 + spike).astype(np.float32)

    found = top_singular_value(torch.from_numpy(matrix))

    assert found == pytest.approx(np.linalg.svd(matrix, compute_uv=False)[0], rel=1e-4)


def test_random_weights_are_close_to_the_marchenko_pastur_edge() -> None:
    weight = torch.randn(300, 500, generator=torch.Generator().manual_seed(0))

    found = structure(weight)

    exact = np.linalg.svd(weight.numpy() - weight.numpy().mean(), compute_uv=False)[0]
    assert exact / (np.sqrt(300) + np.sqrt(500)) == pytest.approx(1, abs=0.02)
    assert found.marchenko_pastur == pytest.approx(1, abs=0.05)
    assert found.beyond_chance == ()


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
@pytest.mark.parametrize("trials", [20, pytest.param(2_000, marks=pytest.mark.slow)])
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
        wrong += bool(structure(torch.from_numpy(values.astype(np.float32))).beyond_chance)

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

    assert structure(noise).beyond_chance == ()
    for name, weight in changed.items():
        assert name in structure(weight).beyond_chance, name


def test_one_huge_weight_does_not_hide_structure() -> None:
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    weight *= torch.linspace(0.5, 1.5, 64)[:, None]
    weight[3, 5] = 5000.0

    assert "unit_spread" in structure(weight).beyond_chance


def test_a_sample_of_the_units_of_a_large_dense_layer_says_the_same() -> None:
    """Structure that all units share is in the sample as well; units of which nearly all are 0 have no sample."""
    units = 3 * weight_structure.MAX_UNITS
    noise = torch.randn(units, 60, generator=torch.Generator().manual_seed(0))
    changed = {
        "top_singular_value": noise + 0.2 * noise[:, :1].sign() * noise[:1].sign(),
        "unit_spread": noise * torch.linspace(0.8, 1.2, units)[:, None],
        "input_spread": noise * torch.linspace(0.8, 1.2, 60),
    }
    dead = torch.zeros(units, 60)
    dead[7] = 1.0

    assert structure(noise).beyond_chance == ()
    assert len(weight_structure._sampled(noise)) == weight_structure.MAX_UNITS
    for name, weight in changed.items():
        assert name in structure(weight).beyond_chance, name
    assert "unit_spread" in structure(dead).beyond_chance


def test_orthogonal_weights_are_recognized() -> None:
    weight = torch.empty(128, 512)
    torch.nn.init.orthogonal_(weight, generator=torch.Generator().manual_seed(0))

    found = structure(weight)

    assert found.is_orthogonal
    assert found.beyond_chance == ()
    assert not structure(torch.randn(128, 512, generator=torch.Generator().manual_seed(0))).is_orthogonal


def test_limits_are_quantiles_of_students_distribution() -> None:
    for copies, limit in weight_structure._LIMITS.items():
        rate = scipy.stats.t.sf(limit / np.sqrt(1 + 1 / copies), copies - 1)
        assert rate < 0.0001, copies
