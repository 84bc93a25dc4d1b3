"""The benchmark of codes: its rivals are what their papers say, and all methods are measured alike."""

from functools import partial

import numpy as np
import pytest

from alexnet.explore.code_training import CodeTraining
from benchmarks import codes


def test_the_rivals_are_those_of_their_papers() -> None:
    random = np.random.default_rng(0)
    centered = random.normal(size=(300, 6)).astype(np.float32) * np.array([5, 4, 3, 2, 1, 0.1], np.float32)
    axes = codes.principal_axes(centered)
    np.testing.assert_allclose(axes.T @ axes, np.eye(6), atol=1e-5)
    variances = np.var(centered @ axes, axis=0)
    assert (np.diff(variances) < 0).all()
    projected = centered @ axes[:, :4]
    rotation = codes.itq_rotation(projected, 0)
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(4), atol=1e-5)

    def lost(one: np.ndarray) -> float:
        values = projected @ one
        return float(np.square(np.sign(values) - values).sum())

    others = [np.linalg.qr(random.normal(size=(4, 4)))[0] for _ in range(20)]
    assert lost(rotation) < min(map(lost, others))
    # The share of differing bits of random projections is the angle over pi.
    pair = np.array([[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]], np.float32)
    first, second = np.unpackbits(codes._signs(pair, codes.random_axes(6, 1024, 0)), axis=1)
    assert (first != second).mean() == pytest.approx(1 / 4, abs=0.05)


@pytest.mark.slow
def test_all_methods_are_measured_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codes, "CodeTraining", partial(CodeTraining, hidden_units=16, steps=30))
    random = np.random.default_rng(1)
    vectors = np.repeat(random.normal(size=(20, 40)), 20, axis=0) + random.normal(size=(400, 40)) * 0.05
    rows = codes.compare_methods(vectors.astype(np.float32), np.repeat(np.arange(20), 20), [32, 64], 0)
    assert [(row["bits"], row["method"]) for row in rows] == [
        (32, "random projections"), (32, "auto-encoder"), (32, "principal components"), (32, "ITQ"),
        (64, "random projections"), (64, "auto-encoder"),
    ]  # fmt: skip
    for row in rows:
        assert row["queries"] == 40 and list(row["recall"]) == ["10", "100"]
        assert row["recall"]["10"] > 0.3 and row["recall"]["100"] > 0.9 and row["precision"] > 0.8


def test_times_of_generated_vectors(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--vectors", "200", "--dimensions", "12", "--queries", "3", "--bits", "32"]
    assert codes.main(words) == 0
    assert "32 bits: encoding" in capsys.readouterr().out
    assert codes.main([*words, "--features", "nowhere"]) == 2
