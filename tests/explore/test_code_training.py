"""The auto-encoder: its codes are those of the formula, depend on the seed alone, and tell apart what differs."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from alexnet.errors import RequestError, WorkError
from alexnet.explore import code_training
from alexnet.explore.code_training import CodeEncoder, CodeTraining, TrainedEncoder, train_encoder

SETTINGS = CodeTraining(32, hidden_units=24, steps=80, batch_size=32, learning_rate=0.01)


@pytest.fixture(scope="module")
def clusters() -> np.ndarray:
    """Eight clusters of 30 vectors, which lie together."""
    random = np.random.default_rng(0)
    centers = random.normal(size=(8, 40)) * 3 + 5
    return (np.repeat(centers, 30, axis=0) + random.normal(size=(240, 40)) * 0.1).astype(np.float32)


def train(vectors: Any, held_out: Any, settings: CodeTraining = SETTINGS, **options: Any) -> TrainedEncoder:
    return train_encoder(vectors, held_out, settings, device=torch.device("cpu"), **options)


def test_codes_are_those_of_the_formula_and_keep_what_differs(
    clusters: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    held_out = np.arange(0, 240, 10)
    trained = train(clusters, held_out, progress=lambda step, lost: seen.append(step))
    encoder = trained.encoder
    assert trained.reconstructed > 0.8 and seen == [20, 40, 60, 80] and (encoder.bits, encoder.dimensions) == (32, 40)
    arrays = {name: array.astype(np.float64) for name, array in encoder.arrays().items()}
    np.testing.assert_allclose(arrays["center"], np.delete(clusters, held_out, 0).mean(0, dtype=np.float64), rtol=1e-6)
    rest = np.delete(clusters, held_out, 0).astype(np.float64)
    np.testing.assert_allclose(arrays["scale"], np.sqrt(np.mean((rest - rest.mean(0)) ** 2)), rtol=1e-5)
    hidden = np.maximum(
        (clusters.astype(np.float64) - arrays["center"]) / arrays["scale"] @ arrays["hidden_weight"].T
        + arrays["hidden_bias"],
        0,
    )
    values = hidden @ arrays["code_weight"].T + arrays["code_bias"]
    monkeypatch.setattr(code_training, "_BLOCK_BYTES", 4 * 40 * 7)  # 7 rows
    codes = encoder.encode(clusters)
    bits = np.unpackbits(codes, axis=1)
    is_clear = np.abs(values) > 1e-4
    np.testing.assert_array_equal(bits[is_clear], (values >= 0)[is_clear])
    assert is_clear.mean() > 0.99 and codes.dtype == np.uint8
    # The codes of a cluster are closer to each other than to those of others.
    different = (bits[:, None] != bits[None]).sum(2)
    same = np.repeat(np.arange(8), 30)[:, None] == np.repeat(np.arange(8), 30)
    assert different[same].mean() < different[~same].mean() / 4


def test_the_seed_decides_and_held_out_vectors_do_not(clusters: np.ndarray) -> None:
    held_out = np.array([3, 77])
    state = torch.get_rng_state()
    first = train(clusters, held_out).encoder.arrays()
    assert torch.equal(torch.get_rng_state(), state)
    changed = clusters.copy()
    changed[held_out] = 1e6
    again = train(changed, held_out).encoder.arrays()
    other = train(clusters, held_out, replace(SETTINGS, seed=1)).encoder.arrays()
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not any(np.array_equal(first[name], other[name]) for name in first if name not in ("center", "scale"))


def test_of_many_vectors_some_are_drawn(clusters: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_training, "MAX_TRAINING_VECTORS", 50)
    center = train(clusters, np.array([0]), replace(SETTINGS, steps=1)).encoder.center
    drawn = [np.abs(clusters[1:].mean(0) - center).max(), np.abs(center).max()]
    assert 0.01 < drawn[0] < drawn[1]


def test_rounding_is_ignored_backward_and_flips_are_seen(clusters: np.ndarray) -> None:
    network = code_training._AutoEncoder(40, SETTINGS, torch.Generator().manual_seed(0))
    vectors = torch.from_numpy(clusters[:5] - clusters.mean(0))
    bits = network.bits(vectors)
    assert set(bits.detach().round(decimals=5).unique().tolist()) == {0.0, 1.0}
    bits.sum().backward()
    logits = network.code(torch.relu(network.hidden(vectors)))
    slope = torch.sigmoid(logits) * (1 - torch.sigmoid(logits))
    assert network.code.bias.grad is not None
    torch.testing.assert_close(network.code.bias.grad, slope.sum(0))
    # A decoder that sees every bit flipped learns to decode flipped codes.
    assert train(clusters, np.array([0, 50, 100]), replace(SETTINGS, flipped=1.0)).reconstructed < 0.5


def test_updates_are_those_of_adam() -> None:
    """Algorithm 1 of the paper, in float64."""
    random = np.random.default_rng(2)
    value = random.normal(size=5).astype(np.float32)
    parameter = torch.nn.Parameter(torch.from_numpy(value.copy()))
    optimizer = code_training._Adam([parameter])
    theta, first, second = value.astype(np.float64), np.zeros(5), np.zeros(5)
    for t in range(1, 30):
        gradient = random.normal(size=5).astype(np.float32)
        optimizer.step([torch.from_numpy(gradient)], 0.1 / t)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient.astype(np.float64) ** 2
        theta = theta - 0.1 / t * (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(parameter.detach().numpy(), theta, rtol=1e-4, atol=1e-6)


def test_what_cannot_be_encoded_is_refused(clusters: np.ndarray) -> None:
    with pytest.raises(WorkError, match="all images have the same activations, so codes cannot distinguish them"):
        train(np.ones((9, 4), np.float32), np.array([0]))
    with pytest.raises(WorkError, match="the training of 32-bit codes diverged"):
        train(clusters, np.array([0]), replace(SETTINGS, learning_rate=1e30, steps=5))
    encoder = train(clusters, np.array([0]), replace(SETTINGS, steps=1)).encoder
    with pytest.raises(RequestError, match=r"vectors have shape \(2, 3\); allowed is \(N, 40\)"):
        encoder.encode(np.zeros((2, 3), np.float32))


def test_arrays_of_another_form_are_refused(clusters: np.ndarray) -> None:
    arrays = train(clusters, np.array([0]), replace(SETTINGS, steps=1)).encoder.arrays()
    np.testing.assert_array_equal(
        CodeEncoder.from_arrays(arrays).encode(clusters), CodeEncoder(**arrays).encode(clusters)
    )
    endless = arrays["code_weight"].copy()
    endless[1, 1] = np.nan
    for name, value, text in (
        ("center", None, "center: expected float32 of 1 dimensions, got missing"),
        ("scale", arrays["center"], r"scale: expected shape \(1,\), got \(40,\)"),
        ("hidden_weight", arrays["hidden_weight"][:, 1:], r"hidden_weight: expected shape \(24, 40\), got \(24, 39\)"),
        ("hidden_bias", arrays["hidden_bias"].astype(np.float64), "hidden_bias: expected float32"),
        ("code_weight", endless, "code_weight: it has values that are not finite"),
    ):
        changed = {**arrays, name: value}
        with pytest.raises(ValueError, match=text):
            CodeEncoder.from_arrays(changed)
