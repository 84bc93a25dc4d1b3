"""The stages of the baselines are measured against libraries that do the same."""

import json
import os

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("cv2")
pytest.importorskip("skimage")

from alexnet.baselines.descriptor_coding import locality_codes
from alexnet.baselines.descriptors import DenseDescriptors
from benchmarks import baselines


def test_what_is_compared_with_does_the_same() -> None:
    import cv2

    random = np.random.default_rng(0)
    image = cv2.resize(random.integers(0, 256, (12, 12, 3), dtype=np.uint8), (96, 96), interpolation=cv2.INTER_CUBIC)
    describe = DenseDescriptors("color", scales=1)
    (ours,) = describe.transform([image])
    (theirs,) = baselines._opencv_color(image, describe)
    np.testing.assert_allclose(ours.values, theirs.reshape(len(ours.values), 16, 6).reshape(-1, 96), atol=2e-3)
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    sift = DenseDescriptors("sift", scales=1, smoothing_per_cell=1.6 / 6)
    (theirs,) = baselines._opencv_sift(cv2.SIFT_create(), gray, sift)
    cosine = (sift.transform([image])[0].values * theirs).sum(axis=1) / np.linalg.norm(theirs, axis=1)
    assert cosine.min() > 0.99  # OpenCV rounds gray values to integers
    atoms, values = (
        random.standard_normal((30, 9)).astype(np.float32),
        random.standard_normal((8, 9)).astype(np.float32),
    )
    indices, codes = locality_codes(values, atoms)
    nearest, other = baselines._numpy_locality(values, atoms)
    order, usual = np.argsort(indices, axis=1), np.argsort(nearest, axis=1)
    np.testing.assert_array_equal(np.take_along_axis(indices, order, 1), np.take_along_axis(nearest, usual, 1))
    np.testing.assert_allclose(np.take_along_axis(codes, order, 1), np.take_along_axis(other, usual, 1), atol=1e-2)


def test_too_few_files_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert baselines.main(["--files", "3"]) == 2
    assert "allowed are 10 and 1 or more" in capsys.readouterr().err


@pytest.mark.slow
def test_every_stage_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    files = 10 if os.environ.get("CI") else 20
    assert baselines.main(["--files", str(files), "--rounds", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert len(result["stages"]) == 11
    for stage in result["stages"].values():
        assert all(method["per_second"] > 0 for method in stage["methods"].values()) and len(stage["cpu_speedups"]) == 1
    baselines.print_table(result)
    assert "scikit-image" in capsys.readouterr().out
