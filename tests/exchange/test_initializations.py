"""Which initializations a layer's weights fit: drawn ones are recognized at the stated rate, others are not."""

import math
import os

import numpy as np
import pytest
import scipy.stats
import torch

from alexnet.exchange import initializations
from alexnet.exchange.initializations import ERROR_RATE, TRUNCATED_STD, distribution, is_uniform_within


def _drawn(kind: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    weight, generator = torch.empty(shape), torch.Generator().manual_seed(seed)
    match kind:
        case "uniform, within 1/sqrt(fan-in), as torch draws it":
            torch.nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
        case "uniform, within sqrt(6/(fan-in + fan-out)), as Xavier draws it":
            torch.nn.init.xavier_uniform_(weight, generator=generator)
        case "uniform, within sqrt(6/fan-in), as He draws it":
            torch.nn.init.kaiming_uniform_(weight, nonlinearity="relu", generator=generator)
        case "normal, std sqrt(2/fan-in), as He draws it":
            torch.nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)
        case "normal, std sqrt(2/fan-out), as He draws it":
            torch.nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu", generator=generator)
        case "normal, std sqrt(2/(fan-in + fan-out)), as Xavier draws it":
            torch.nn.init.xavier_normal_(weight, generator=generator)
        case "normal, std sqrt(1/fan-in), as LeCun draws it":
            torch.nn.init.kaiming_normal_(weight, nonlinearity="linear", generator=generator)
        case "normal, std 0.01":
            torch.nn.init.normal_(weight, std=0.01, generator=generator)
        case "truncated normal, std 0.0176 (0.02 before truncation)":
            torch.nn.init.trunc_normal_(weight, std=0.02, a=-0.04, b=0.04, generator=generator)
        case _:
            raise AssertionError(kind)
    return weight


KINDS = (
    "uniform, within 1/sqrt(fan-in), as torch draws it",
    "uniform, within sqrt(6/(fan-in + fan-out)), as Xavier draws it",
    "uniform, within sqrt(6/fan-in), as He draws it",
    "normal, std sqrt(2/fan-in), as He draws it",
    "normal, std sqrt(2/fan-out), as He draws it",
    "normal, std sqrt(2/(fan-in + fan-out)), as Xavier draws it",
    "normal, std sqrt(1/fan-in), as LeCun draws it",
    "normal, std 0.01",
    "truncated normal, std 0.0176 (0.02 before truncation)",
)


@pytest.mark.parametrize("kind", KINDS)
def test_torchs_initializations_are_named_with_the_rule_of_their_scale(kind: str) -> None:
    weight = _drawn(kind, (80, 48, 5, 5), seed=1)

    found = distribution(weight.numpy(), fan_in=48 * 25, fan_out=80 * 25)

    assert found.text == kind
    assert found.std == pytest.approx(float(weight.numpy().std()), rel=1e-3)
    assert found.excess_kurtosis == pytest.approx(scipy.stats.kurtosis(weight.numpy().ravel()), abs=2e-3)


@pytest.mark.parametrize(
    ("num", "trials"),
    [(200, 200), (5_000, 100), pytest.param(60_000, 200 if os.environ.get("CI") else 2_000, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("family", ["normal", "uniform", "truncated normal"])
def test_no_more_drawn_layers_than_stated_are_said_not_to_be_drawn(family: str, num: int, trials: int) -> None:
    generator = np.random.default_rng(num)
    refused = 0
    for _ in range(trials):
        match family:
            case "normal":
                values = generator.normal(0, 0.3, num)
            case "uniform":
                values = generator.uniform(-0.2, 0.2, num)
            case _:
                values = scipy.stats.truncnorm.rvs(-2, 2, scale=0.1, size=num, random_state=generator)
        refused += distribution(values.astype(np.float32), 10, 10).family is None

    # At a rate of 0.001, more than this many have a probability of 0.0003.
    assert refused <= scipy.stats.binom.ppf(0.9997, trials, ERROR_RATE)


def test_other_distributions_are_not_said_to_be_initializations() -> None:
    generator = np.random.default_rng(0)
    num = 20_000
    others = {
        "laplace": generator.laplace(0, 1, num),
        "student": generator.standard_t(8, num),
        "shifted normal": generator.normal(0.05, 1, num),
        "two normals": np.concatenate([generator.normal(0, 1, num // 2), generator.normal(0, 1.5, num // 2)]),
        "asymmetric": generator.gamma(50, 1, num) - 50,
        "two points": generator.choice([-1.0, 1.0], num),
    }

    for name, values in others.items():
        assert distribution(values.astype(np.float32), 10, 10).family is None, name


def test_distances_are_those_of_scipys_kolmogorov_smirnov_test() -> None:
    values = np.sort(np.random.default_rng(3).normal(0, 0.5, 2_000))
    expected = {
        "normal": scipy.stats.kstest(values, scipy.stats.norm(0, 0.5).cdf),
        "uniform": scipy.stats.kstest(values, scipy.stats.uniform(-2, 4).cdf),
        "truncated normal": scipy.stats.kstest(
            values, scipy.stats.truncnorm(-2, 2, scale=0.5 / scipy.stats.truncnorm.std(-2, 2)).cdf
        ),
    }

    for family, one in expected.items():
        found = initializations._distance(values, family, 0.5, 2.0)
        assert found == pytest.approx(one.statistic, abs=1e-9), family
    # The limit is the quantile of the Kolmogorov distribution.
    assert scipy.stats.kstwobign.sf(initializations._KOLMOGOROV_LIMIT) < 0.0004


def test_moments_are_those_of_scipys_distributions() -> None:
    frozen = {
        "normal": scipy.stats.norm(),
        "uniform": scipy.stats.uniform(-math.sqrt(3), 2 * math.sqrt(3)),
        "truncated normal": scipy.stats.truncnorm(-2, 2, scale=1 / TRUNCATED_STD),
    }

    for name, one in frozen.items():
        family = initializations._FAMILIES[name]
        assert [family.fourth, family.sixth, family.eighth] == pytest.approx([one.moment(n) for n in (4, 6, 8)])
    assert scipy.stats.truncnorm.std(-2, 2) == pytest.approx(TRUNCATED_STD)


def test_weights_rounded_to_bfloat16_are_still_recognized() -> None:
    for kind in (KINDS[0], KINDS[3], KINDS[-1]):
        weight = _drawn(kind, (512, 1024), seed=2).bfloat16().float()
        assert distribution(weight.numpy(), 1024, 512).family == kind.split(",")[0]


def test_a_sample_of_a_large_layer_names_its_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initializations, "MAX_MOMENT_WEIGHTS", 20_000)
    for seed in range(20):
        weight = _drawn(KINDS[0], (1000, 1024), seed)
        assert distribution(weight.numpy(), 1024, 1000).text == KINDS[0], seed


def test_biases_of_torch_are_uniform_and_others_are_not() -> None:
    generator = np.random.default_rng(0)
    assert is_uniform_within(generator.uniform(-0.1, 0.1, 256).astype(np.float32), 0.1)
    assert not is_uniform_within(generator.uniform(-0.2, 0.2, 256).astype(np.float32), 0.1)
    assert not is_uniform_within(generator.uniform(-0.05, 0.05, 256).astype(np.float32), 0.1)
