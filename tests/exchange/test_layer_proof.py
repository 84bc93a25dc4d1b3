"""What the weights of one layer say: drawn, trained, shuffled, constant, broken; dead and duplicate units."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from alexnet.exchange.foreign_network import ForeignLayer
from alexnet.exchange.layer_proof import MIN_WEIGHTS, LayerProof, equal_layers, prove_layer
from alexnet.model.network import AlexNet
from alexnet.model.variants import VARIANTS
from alexnet.runs.run_files import StoredLayerProof
from alexnet.storage.typed_files import require_schema


def _prove(weight: torch.Tensor, bias: torch.Tensor | None = None) -> LayerProof:
    shape = weight.shape[:1] if weight.dim() < 6 else (weight.shape[2], *weight.shape[:2])
    own = torch.zeros(shape) if bias is None else bias
    found = prove_layer(ForeignLayer(name="a.weight", weight=weight, bias=own), "conv1")
    require_schema(found.to_dict(), StoredLayerProof)
    return found


def _trained_like(seed: int = 0) -> torch.Tensor:
    """Filters as training makes them: smooth, of several strengths, with heavy tails."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(64, 16, 7, 7, generator=generator)
    strengths = torch.rand(64, 1, 1, 1, generator=generator) + 0.2
    return torch.nn.functional.avg_pool2d(noise, 3, 1) * strengths


@pytest.mark.parametrize(
    ("width", "seed"), [(0.0625, 0), *(pytest.param(0.25, seed, marks=pytest.mark.slow) for seed in range(5))]
)
@pytest.mark.parametrize("variant", VARIANTS)
def test_no_variants_first_weights_are_called_trained(variant: str, width: float, seed: int) -> None:
    network = AlexNet(10, variant, width, generator=torch.Generator().manual_seed(seed))

    for layer in (one for one in network.sized_layers if one.weight_shape):
        weight = network.get_parameter(f"{layer.name}.weight").detach()
        found = _prove(weight, network.get_parameter(f"{layer.name}.bias").detach())
        assert found.verdict == ("random" if weight.numel() >= MIN_WEIGHTS else "undecided"), (layer.name, found)


def test_structure_and_its_loss_by_shuffling() -> None:
    weight = _trained_like()
    flat = weight.flatten()
    shuffled = flat[torch.randperm(len(flat), generator=torch.Generator().manual_seed(1))].reshape(weight.shape)

    assert _prove(weight).verdict == "trained"
    found = _prove(shuffled)
    assert found.verdict == "shuffled"
    assert found.distribution.startswith("not an initialization's (excess kurtosis ")
    assert found.excess_kurtosis == pytest.approx(_prove(weight).excess_kurtosis)


def test_an_orthogonal_initialization_is_random() -> None:
    weight = torch.nn.init.orthogonal_(torch.empty(128, 256), generator=torch.Generator().manual_seed(0))

    found = _prove(weight)

    assert (found.verdict, found.distribution[-12:]) == ("random", ", orthogonal")


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_constant_weights(value: float) -> None:
    found = _prove(torch.full((64, 32), value))

    assert (found.verdict, found.distribution, found.dead_units) == ("constant", f"all {value:g}", 64)
    assert found.std is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (math.nan, "weights not finite (1 of 50,176)"),
        (math.inf, "weights not finite (1 of 50,176)"),
        (-2e5, "weights absurdly large (up to 2e+05)"),
    ],
)
def test_broken_weights_and_biases(value: float, text: str) -> None:
    weight = torch.randn(64, 16, 7, 7, generator=torch.Generator().manual_seed(0))
    weight[3, 2, 1, 0] = value
    assert (_prove(weight).verdict, _prove(weight).distribution) == ("broken", text)

    found = _prove(_trained_like(), torch.tensor([value, *[0.0] * 63]))
    assert found.verdict == "broken"
    assert found.distribution.startswith("biases ")


@pytest.mark.parametrize("shape", [(10, 64), (4, 2), (2, 1), (1, 300)])
def test_few_weights_are_undecided(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    direction = weight[:, :1].sign() * weight[:1].sign()

    for one in (weight, weight + 3 * direction):
        found = _prove(one)
        assert found.verdict == "undecided"
        assert found.distribution.startswith(("fewer than 1,000 weights; ", "no unit has two different weights"))


def _pruned(weight: torch.Tensor) -> torch.Tensor:
    weight[::20] = 0
    return weight


@pytest.mark.parametrize(
    ("change", "verdict", "text"),
    [
        (lambda w: w, "random", "normal, std 0.01"),
        (_pruned, "random", "normal, std 0.01"),
        (lambda w: w * (w.abs() > 0.005), "shuffled", "38 % zeros, the others not an initialization's ("),
        (lambda w: w * 1e-25, "random", "normal, std 1e-27"),
        (lambda w: w * torch.linspace(1, 2, len(w))[:, None], "undecided", "only the norms of the units differ more"),
        (lambda w: torch.cat([w[:64], w[64:] * 1.2]), "undecided", "only the norms of the units differ more"),
    ],
)
def test_random_weights_of_all_kinds(change: Callable[[torch.Tensor], torch.Tensor], verdict: str, text: str) -> None:
    found = _prove(change(torch.randn(128, 1_152, generator=torch.Generator().manual_seed(0)) * 0.01))

    assert (found.verdict, found.distribution[: len(text)]) == (verdict, text)


def test_torchs_patterns_are_initializations() -> None:
    empty, generator = torch.empty(128, 64, 3, 3), torch.Generator().manual_seed(0)
    identity = "an identity, as eye_ and dirac_ make it"

    for weight in (torch.nn.init.dirac_(empty.clone()), torch.nn.init.eye_(torch.empty(96, 128))):
        assert (_prove(weight).verdict, _prove(weight).distribution) == ("random", identity)
    sparse = _prove(torch.nn.init.sparse_(torch.empty(200, 96), 0.9, generator=generator))
    assert (sparse.verdict, sparse.distribution) == ("random", "90 % zeros, the others normal, std 0.01")


def test_dead_and_duplicate_units_and_dead_inputs_are_counted() -> None:
    weight = _trained_like()
    weight[4] = 0
    weight[5] = 0.25
    weight[6] *= 1e-9
    weight[9] = weight[8]
    weight[10] = weight[8]
    weight[:, 3] = 0

    found = _prove(weight)

    assert found.verdict == "trained"
    assert (found.dead_units, found.duplicate_units, found.dead_inputs) == (2, 2, 1)  # not unit 5: input 3 is 0 there
    dense = _trained_like().flatten(1)
    dense[:, 7] = 0
    assert _prove(dense).dead_inputs == 1


def test_biases_in_words() -> None:
    weight, generator = _trained_like(), np.random.default_rng(0)
    bound = 1 / math.sqrt(16 * 25)
    drawn = torch.from_numpy(generator.uniform(-bound, bound, 64).astype(np.float32))

    assert _prove(weight, torch.full((64,), 0.1)).biases == "all 0.1, as initialized"
    assert _prove(weight, drawn).biases == "uniform within 1/sqrt(fan-in), as torch draws them"
    assert _prove(weight, drawn.sort().values * 3).biases.startswith("spread, -0.1")


def test_locally_connected_layers_have_units_at_every_position() -> None:
    weight = torch.randn(4, 4, 8, 6, 3, 3, generator=torch.Generator().manual_seed(0))
    weight[1, 2, 3] = 0

    found = _prove(weight)

    assert (found.verdict, found.dead_units, found.num_units, found.num_channels) == ("random", 1, 128, 8)


def test_equal_layers_and_halves_are_named() -> None:
    def layer(weight: torch.Tensor) -> ForeignLayer:
        return ForeignLayer(name="x", weight=weight, bias=torch.zeros(len(weight)))

    one, other = _trained_like(), _trained_like(1)
    layers = [layer(one), layer(other), layer(one.clone()), layer(torch.cat([other[:4], other[:4]]))]

    assert equal_layers(layers, ["conv1", "conv2", "conv3", "conv4"]) == [
        "conv3 has exactly the weights of conv1",
        "the two halves of conv4 have exactly the same weights",
    ]
    constant = layer(torch.zeros(8, 8))
    assert equal_layers([constant, constant], ["fc6", "fc7"]) == []
