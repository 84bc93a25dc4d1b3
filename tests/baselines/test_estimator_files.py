"""The file format of estimators: complete, with names that no rename in Python may change."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors

pytest.importorskip("sklearn")

from alexnet.baselines.averaged_sgd import AveragedSGDClassifier
from alexnet.baselines.descriptor_pca import DescriptorPCA
from alexnet.baselines.descriptors import DenseDescriptors, DescriptorSet
from alexnet.baselines.dictionary_encoders import LocalityEncoder, SparseEncoder
from alexnet.baselines.estimator_files import TRAINING_TENSORS, read_estimators, write_estimators
from alexnet.baselines.fisher_vectors import BagOfWordsEncoder, FisherVectorEncoder
from alexnet.baselines.linear_svm import LinearSVMClassifier
from alexnet.errors import RequestError, WorkError
from alexnet.runs.baseline_recipe import (
    DescriptorSettings,
    baseline_from_dict,
    baseline_to_dict,
    named_baseline,
)

DESCRIPTOR_SETS = [
    DescriptorSet(np.random.default_rng(n).random((20, 6), np.float32), np.random.default_rng(n).random((20, 2)))
    for n in range(3)
]
STORED = {
    "dense-descriptors": (
        {"kind", "cell_px", "step_px", "scales", "scale_factor", "max_pixels"}
        | {"smoothing_per_cell", "min_contrast", "max_descriptors", "seed"},
        set(),
    ),
    "pca": ({"dimensions"}, {"mean_", "components_"}),
    "fisher-vectors": ({"components", "pyramid", "seed"}, {"weights_", "means_", "variances_"}),
    "bag-of-words": ({"components", "pyramid", "seed"}, {"weights_", "means_", "variances_"}),
    "locality-coding": ({"atoms", "neighbors", "pyramid", "seed"}, {"atoms_"}),
    "sparse-coding": ({"atoms", "l1_penalty", "epochs", "pyramid", "seed"}, {"atoms_"}),
    "averaged-sgd": (
        {"weight_decay", "epochs", "learning_rate", "batch_size", "average_after", "positive_weight", "seed"},
        {"classes_", "coef_", "intercept_", "last_coef_", "last_intercept_", "t_", "n_features_in_"},
    ),
    "linear-svm": (
        {"c", "tolerance", "max_epochs", "positive_weight"},
        {"classes_", "coef_", "intercept_", "epochs_", "gap_", "n_features_in_"},
    ),
}


def fitted() -> dict[str, Any]:
    """An estimator of each type with settings other than the defaults."""
    rows, labels = np.random.default_rng(0).random((30, 4), np.float32), np.arange(30) % 3
    return {
        "dense-descriptors": DenseDescriptors(
            "color", cell_px="3,5", step_px=2, scales=2, scale_factor=0.6, max_pixels=900, smoothing_per_cell=0.5,
            min_contrast=0.7, max_descriptors=5, seed=4,
        ),
        "pca": DescriptorPCA(3).fit(DESCRIPTOR_SETS),
        "fisher-vectors": FisherVectorEncoder(2, pyramid="2x1", seed=3).fit(DESCRIPTOR_SETS),
        "bag-of-words": BagOfWordsEncoder(2, pyramid="1x2", seed=3).fit(DESCRIPTOR_SETS),
        "locality-coding": LocalityEncoder(7, neighbors=2, pyramid="1x1", seed=2).fit(DESCRIPTOR_SETS),
        "sparse-coding": SparseEncoder(7, l1_penalty=0.2, epochs=1, pyramid="1x1", seed=2).fit(DESCRIPTOR_SETS),
        "averaged-sgd": AveragedSGDClassifier(
            1e-3, epochs=2, learning_rate=0.5, batch_size=4, average_after=6, positive_weight=2.0, seed=1
        ).fit(rows, labels),
        "linear-svm": LinearSVMClassifier(0.3, tolerance=1e-2, max_epochs=900, positive_weight=2.0).fit(rows, labels),
    }  # fmt: skip


def test_all_settings_and_tensors_are_stored_under_the_names_of_the_format(tmp_path: Path) -> None:
    estimators = fitted()
    write_estimators(tmp_path / "file", estimators, {"note": "x"})
    with safetensors.safe_open(tmp_path / "file", framework="numpy") as file:
        content = json.loads(file.metadata()["alexnet"])
        tensors = set(file.keys())
    assert set(content) == {"format_version", "estimators", "note"} and content["format_version"] == 4
    for name, (settings, attributes) in STORED.items():
        assert content["estimators"][name]["type"] == name
        assert set(content["estimators"][name]["settings"]) == settings
        assert {tensor.partition("/")[2] for tensor in tensors if tensor.startswith(f"{name}/")} == attributes
    read, metadata = read_estimators(tmp_path / "file")
    assert metadata == {"note": "x"}
    for name, estimator in estimators.items():
        assert type(read[name]) is type(estimator) and read[name].get_params() == estimator.get_params()
        for attribute in STORED[name][1]:
            np.testing.assert_array_equal(getattr(read[name], attribute), getattr(estimator, attribute))
    assert isinstance(read["averaged-sgd"].t_, int)


def test_a_file_without_a_setting_or_tensor_is_damaged_and_other_versions_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_estimators(file, fitted(), {}, TRAINING_TENSORS)
    assert not hasattr(read_estimators(file)[0]["averaged-sgd"], "last_coef_")
    whole = file.read_bytes().replace(b'"content_sha256"', b'"of_no_checksum"')
    for old, new, error, message in (
        (b'\\"neighbors\\"', b'\\"neighbours\\"', WorkError, "has the settings .*neighbours"),
        (b'"pca/mean_"', b'"pca/mean "', WorkError, "it lacks pca/mean_"),
        (b'\\"format_version\\": 4', b'\\"format_version\\": 9', RequestError, "format version 9"),
        (
            b'\\"format_version\\": 4, \\"estimators\\"',
            b'\\"format_version\\": 9, \\"parts\\"',
            RequestError,
            "format version 9",
        ),
        (b'"alexnet"', b'"another"', RequestError, "lacks 'alexnet'"),
    ):
        assert old in whole
        changed = whole.replace(old, new)
        size = int.from_bytes(whole[:8], "little") + len(changed) - len(whole)
        file.write_bytes(size.to_bytes(8, "little") + changed[8:])
        with pytest.raises(error, match=message):
            read_estimators(file)


def test_estimators_that_were_read_compute_the_same_bits(tmp_path: Path) -> None:
    """Of any number of descriptors: BLAS adds up few in another order, which depends on the matrices' layout."""
    chance = np.random.default_rng(5)
    sets = [DescriptorSet(chance.random((n, 128), np.float32), chance.random((n, 2))) for n in (400, *range(1, 40))]
    pca = DescriptorPCA(64).fit(sets)
    projected = pca.transform(sets)
    rows = chance.random((60, 128), np.float32)
    estimators = {
        "pca": pca,
        "fisher-vectors": FisherVectorEncoder(8).fit(projected),
        "bag-of-words": BagOfWordsEncoder(8).fit(projected),
        "locality-coding": LocalityEncoder(16).fit(projected),
        "sparse-coding": SparseEncoder(16, epochs=1).fit(projected),
        "averaged-sgd": AveragedSGDClassifier(epochs=2).fit(rows, np.arange(60) % 5),
        "linear-svm": LinearSVMClassifier(c=0.1).fit(rows, np.arange(60) % 5),
    }
    write_estimators(tmp_path / "fitted.safetensors", estimators, {})
    read, _ = read_estimators(tmp_path / "fitted.safetensors")
    for name, estimator in estimators.items():
        if name == "pca":
            for before, after in zip(projected, read[name].transform(sets), strict=True):
                np.testing.assert_array_equal(after.values, before.values)
        elif name in ("averaged-sgd", "linear-svm"):
            for num_rows in range(1, 20):
                scores = estimator.decision_function(rows[:num_rows])
                np.testing.assert_array_equal(read[name].decision_function(rows[:num_rows]), scores)
        else:
            np.testing.assert_array_equal(read[name].transform(projected), estimator.transform(projected))


@pytest.mark.parametrize(("smoothing", "per_cell"), [(0.0, 0.0), (1.2, 1.3 / 6)])
def test_descriptors_of_version_3_have_their_settings_of_today(
    tmp_path: Path, smoothing: float, per_cell: float
) -> None:
    write_estimators(tmp_path / "file", {"describe": DenseDescriptors("sift", step_px=5)}, {})
    content = (tmp_path / "file").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    described = json.loads(header["__metadata__"]["alexnet"])
    settings = described["estimators"]["describe"]["settings"]
    del settings["smoothing_per_cell"], settings["min_contrast"]
    settings |= {"cell_px": 6, "smoothing": smoothing}
    header = {"__metadata__": {"alexnet": json.dumps({**described, "format_version": 3})}}
    text = json.dumps(header).encode()
    (tmp_path / "file").write_bytes(len(text).to_bytes(8, "little") + text)
    read = read_estimators(tmp_path / "file")[0]["describe"]
    expected = DenseDescriptors("sift", step_px=5, cell_px="6", smoothing_per_cell=pytest.approx(per_cell))
    assert read.get_params() == expected.get_params()
    recipe = baseline_to_dict(named_baseline("sift-fisher", None))
    recipe["descriptors"] = {"cell_px": 6, "step_px": 5, "smoothing": smoothing}
    read_recipe = baseline_from_dict(recipe).descriptors
    assert read_recipe == DescriptorSettings(step_px=5, smoothing_per_cell=read.smoothing_per_cell)
