"""The baselines against pipelines of well-known parts: small runs, resumption, and the parts that the script adds."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("sklearn")
pytest.importorskip("cv2")
pytest.importorskip("skimage")

from sklearn.svm import LinearSVC

from alexnet.data.preparation.prepare import prepare
from alexnet.errors import RequestError
from benchmarks import baseline_reference as script

CODING = script.CodingSettings(3, 8, 60, 16, pyramid="1x1,2x2", epochs=1)
TINY = script.Settings((4, 8), 6, 8, 4, 400, CODING, per_class=4)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three textures, photographs that are wider or higher than the other, padded to squares."""
    random = np.random.default_rng(5)
    for one in range(3):
        for number in range(6):
            height, width = ((40, 60), (60, 44))[number % 2]
            rows, columns = np.indices((height, width)) + random.integers(0, 6, 2)[:, None, None]
            bright = [rows // 3 % 2, columns // 3 % 2, (rows // 3 + columns // 3) % 2][one]
            pixels = random.integers(40, 90, 3) + 90 * bright[:, :, None] + random.integers(0, 40, (height, width, 3))
            path = tmp_path / "tree" / f"texture{one}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return prepare(tmp_path / "tree", tmp_path / "data", side=60, fit="pad").folder


def differences(result: dict[str, Any]) -> dict[tuple[str, str], float]:
    """The first difference of each stage and measure."""
    found: dict[tuple[str, str], float] = {}
    for row in result["seeds"]["0"]:
        found.setdefault((row["stage"], row["measure"]), row["difference"])
    return found


def test_all_stages_agree_and_finished_ones_are_not_repeated(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(script.SETTINGS, "small", TINY)
    out = tmp_path / "out"
    words = ["--data", str(data), "-o", str(out), "--json"]
    assert script.main(words) == 0
    first = json.loads(capsys.readouterr().out)
    of = differences(first)
    assert of["descriptors", "1 - cosine, largest"] < 1e-3 and of["descriptors", "positions, fractions of a side"] == 0
    assert of["PCA", "largest angle, degrees"] < 0.1
    assert of["Fisher vectors", "norm of the difference, median"] < 1e-3
    assert abs(of["sparse codes", "objective, the same dictionary"]) < 1e-5
    assert abs(of["mixture", "log-likelihood of a held-out descriptor with contrast"]) < 2
    (objectives,) = (row for row in first["seeds"]["0"] if row["measure"] == "objective, the same features")
    assert objectives["ours"] == pytest.approx(objectives["reference"], rel=1e-3)
    assert {name for name, _ in of} > {"classifier", "end to end", "dictionary", "sparse coding", "processor time"}

    files = {path: path.stat().st_mtime_ns for path in out.rglob("*.npz")}
    (removed,) = out.glob("seed-0/reference/mixture.npz")
    removed.unlink()
    assert script.main(words) == 0
    assert json.loads(capsys.readouterr().out)["seeds"] != {}
    assert {path for path in files if path.stat().st_mtime_ns != files[path]} == {removed}

    monkeypatch.setattr(script.Ours, "encode", lambda self, *given: -script.Reference().encode(*given))
    assert script.main(words[:-1]) == 0
    shown = capsys.readouterr().out
    assert "norm of the difference" in shown
    saved = json.loads((out / "result.json").read_text())
    assert differences(saved)["Fisher vectors", "norm of the difference, median"] == pytest.approx(2)

    assert script.main([*words, "--settings", "full"]) == 2
    assert "has stages of other data or settings; name another folder with -o" in capsys.readouterr().err


@pytest.mark.usefixtures("data")
def test_two_classes_are_refused(tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "tree" / "texture2")
    prepare(tmp_path / "tree", tmp_path / "two", side=60, fit="pad")
    with pytest.raises(RequestError, match="2 classes; allowed are 3 or more"):
        script.compare(tmp_path / "two", TINY, [0], tmp_path / "out")


def test_the_reference_classifier_is_liblinears_on_the_rows_themselves() -> None:
    random = np.random.default_rng(0)
    rows, labels = random.standard_normal((40, 300)).astype(np.float32), np.arange(40) % 4
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    model = script.Reference().classify([rows[:25], rows[25:]], labels, 10.0, 0)
    expected = LinearSVC(C=10.0, loss="hinge", tol=1e-6, max_iter=100_000).fit(rows, labels)
    np.testing.assert_allclose(model.coef, expected.coef_, atol=2e-3)
    np.testing.assert_allclose(model.intercept, expected.intercept_, atol=2e-3)
    by_hand = 0.0
    for one in range(4):
        y = np.where(labels == one, 1, -1)
        w, b = expected.coef_[one], expected.intercept_[one]
        by_hand += (w @ w + b * b) / 2 + 10 * np.maximum(0, 1 - y * (rows @ w + b)).sum()
    assert script.hinge_objective(model, [rows], labels, 10.0) == pytest.approx(by_hand, rel=1e-3)


def test_regions_are_those_of_the_baselines() -> None:
    from alexnet.baselines.spatial_pyramid import parse_pyramid, region_indices

    positions = np.random.default_rng(1).random((200, 2)).astype(np.float32)
    inside = script._regions(positions, "1x1,3x1,2x2")
    expected = region_indices(positions, parse_pyramid("1x1,3x1,2x2"))
    for region, members in enumerate(inside):
        np.testing.assert_array_equal(members, (expected == region).any(axis=0))


def test_a_region_has_the_fisher_vector_of_its_descriptors() -> None:
    random = np.random.default_rng(2)
    weights = random.dirichlet(np.ones(4))
    mixture = (weights, random.standard_normal((4, 6)), random.random((4, 6)) + 0.5)
    vocabulary = script.Vocabulary(
        random.standard_normal(128), np.linalg.qr(random.standard_normal((128, 6)))[0].T, *mixture
    )
    # None in the lower left.
    positions = random.random((90, 2)) * [1, 0.5] + np.repeat([[0, 0.5]], 90, axis=0) * (random.random((90, 1)) < 0.5)
    positions[(positions[:, 0] >= 0.5) & (positions[:, 1] < 0.5), 1] += 0.5
    found = script.DescriptorSet(random.standard_normal((90, 128)).astype(np.float32), positions.astype(np.float32))
    row = script.Reference().encode(found, vocabulary, "1x1,3x1,2x2").reshape(8, 48)
    for region, inside in enumerate(script._regions(found.positions, "1x1,3x1,2x2")):
        projected = (found.values[inside] - vocabulary.mean) @ vocabulary.axes.T
        if region == 6:
            assert len(projected) == 0 and (row[region] == 0).all()
            continue
        vector = script.fisher_vector(projected, script._scikit_mixture(vocabulary), improved=True)
        gradients = vector[4:] * np.repeat([1, -1], 24)
        np.testing.assert_allclose(row[region], gradients / np.linalg.norm(gradients) / 8**0.5, atol=1e-6)
