"""Baselines that version 0.1.0 wrote, with the names that classes and settings had then."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")

from alexnet.baselines.baseline_evaluation import evaluate_baseline
from alexnet.baselines.baseline_model import load_baseline
from alexnet.baselines.estimator_files import TRAINING_TENSORS, estimator_settings, read_estimators, write_estimators
from alexnet.data.dataset import PreparedData
from alexnet.evaluation.predictions import load_predictions
from alexnet.runs.baseline_recipe import BaselineRecipe, CodingSettings, FisherSettings
from alexnet.runs.folder import RunFolder


@pytest.mark.parametrize("name", ["baseline", "baseline-sparse"])
def test_a_baseline_of_version_1_gives_the_stored_probabilities(name: str, golden: Path) -> None:
    run, data = golden / name, PreparedData.open(golden / "pixels")
    stored = load_predictions(run / "predictions", "val", 1, data).probabilities
    before = RunFolder.open(run).evaluations()["val-1views"]
    result = evaluate_baseline(run, data_folder=golden / "pixels")
    np.testing.assert_allclose(load_predictions(run / "predictions", "val", 1, data).probabilities, stored, atol=1e-6)
    for error in ("top1_error", "top5_error", "mean_class_accuracy"):
        assert result[error] == before[error]


def test_the_channels_and_settings_of_version_1_have_their_names_of_today(golden: Path) -> None:
    fisher, sparse = (load_baseline(golden / name) for name in ("baseline", "baseline-sparse"))
    assert [channel.name for channel in fisher.channels] == ["sift", "color"]
    assert [channel.name for channel in sparse.channels] == ["sift-locality", "patterns-locality"]
    descriptors, pca, encoder = map(estimator_settings, fisher.channels[1].steps)
    assert descriptors["settings"] == {
        "kind": "color", "cell_px": "2", "step_px": 4, "scales": 5, "scale_factor": 0.5**0.5, "max_pixels": 100_000,
        "smoothing_per_cell": 0.0, "min_contrast": 0.0, "max_descriptors": 0, "seed": 0,
    }  # fmt: skip
    assert pca == {"type": "pca", "settings": {"dimensions": 4}}
    assert encoder == {"type": "fisher-vectors", "settings": {"components": 16, "pyramid": "1x1", "seed": 0}}
    assert estimator_settings(sparse.channels[0].encoder) == {
        "type": "locality-coding",
        "settings": {"atoms": 8, "neighbors": 3, "pyramid": "1x1", "seed": 0},
    }
    assert estimator_settings(fisher.classifiers[0])["settings"] == {
        "weight_decay": 1e-5, "epochs": 10, "learning_rate": 1.0, "batch_size": 16, "average_after": 10,
        "positive_weight": 1.0, "seed": 0,
    }  # fmt: skip


def test_the_recipes_of_version_1_have_their_names_of_today(golden: Path) -> None:
    fisher, sparse = (RunFolder.open(golden / name).any_recipe() for name in ("baseline", "baseline-sparse"))
    assert isinstance(fisher, BaselineRecipe) and isinstance(sparse, BaselineRecipe)
    assert fisher.descriptors.kinds == "sift,color" and fisher.descriptors.cell_px == "2"
    assert fisher.encoder == FisherSettings(kind="fisher", dimensions=4, components=16, pyramid="1x1")
    assert sparse.encoder == CodingSettings(atoms=8, neighbors=3, pyramid="1x1")
    assert (fisher.classifier.learning_rate, fisher.classifier.weight_decay) == (1.0, 1e-5)
    assert fisher.protocol.evaluate_on == "split"


@pytest.mark.parametrize("name", ["baseline", "baseline-sparse"])
def test_estimators_survive_a_file_of_today(name: str, golden: Path, tmp_path: Path) -> None:
    estimators, _ = read_estimators(golden / name / "baseline.safetensors")
    write_estimators(tmp_path / "first", estimators, {"a": 1}, TRAINING_TENSORS)
    read, metadata = read_estimators(tmp_path / "first")
    assert metadata == {"a": 1} and list(read) == list(estimators)
    write_estimators(tmp_path / "second", read, {"a": 1}, TRAINING_TENSORS)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
