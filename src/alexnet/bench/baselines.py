"""`alexnet bench baselines`: each stage of the baselines beside the same through OpenCV, scikit-image or scikit-learn.

All ways run on one thread: the stages of a run share images out among threads, so rates add up but for memory. The
libraries do the same work on the same images: OpenCV's SIFT at the same places of the same scales; scikit-image's
Fisher vector over the whole image, as ours is here; scikit-learn's codes at the same penalty.
"""

import importlib
import statistics
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.baselines.averaged_sgd import AveragedSgd
from alexnet.baselines.chunked_map import one_thread_each
from alexnet.baselines.descriptor_coding import l1_codes, locality_codes
from alexnet.baselines.descriptor_pca import DescriptorPca
from alexnet.baselines.descriptors import DenseDescriptors, DescriptorSet
from alexnet.baselines.dictionary_encoders import SparseCodes, nearest_means
from alexnet.baselines.fisher_vectors import FisherVectors
from alexnet.baselines.gaussian_mixture import Mixture, maximized
from alexnet.baselines.local_binary_patterns import pattern_labels
from alexnet.baselines.patch_cells import Grid
from alexnet.bench.sample_photos import write_photographs
from alexnet.bench.timing import alternate, median_ratio
from alexnet.data.preparation.prepare import prepare
from alexnet.errors import RequestError
from alexnet.system.machine import machine_facts, source_commit

SIDE_PX = 256
GAUSSIANS, ATOMS, DIMENSIONS = 64, 1024, 64
PENALTY, L1_DESCRIPTORS = 0.075, 400
ROWS_OF_CLASSIFIER, CLASSES = 400, 10
Way = Callable[[], object]


def bench_baselines(source: Path | None, num_files: int, rounds: int, report: Callable[[str], None]) -> dict[str, Any]:
    """Measure the stages.

    Args:
        source: photographs, see `open_source`; None draws pictures with the texture of photographs.
        num_files: how many of them, 10 or more.
        rounds: how often each way runs, 1 or more.
        report: is given lines for people.

    Returns:
        `stages`: for each its `unit`, its ways with `per_second` (of that unit) and `best_per_second`, and `ours_is`,
        how many times as fast ours is (median over the rounds).

    Raises:
        RequestError: a number out of its range, or a library that is compared with is not installed.
    """
    if num_files < 10 or rounds < 1:
        raise RequestError(f"--files is {num_files}, --rounds {rounds}; allowed are 10 and 1 or more")
    cv2, feature = _library("cv2"), _library("skimage.feature")
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory(prefix="alexnet-bench-") as folder:
        tree = Path(folder) / "photographs"
        write_photographs(tree, source, num_files)
        images = np.array(prepare(tree, Path(folder) / "data", side=SIDE_PX).splits["train"].images)
    stages: dict[str, Any] = {}
    with one_thread_each(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # passes that are meant to be too few do not converge
        for name, (unit, num, ways) in _stages(images, cv2, feature).items():
            for way in ways.values():
                way()  # what is compiled, is compiled now
            timed = alternate(ways, rounds)
            report(f"measured: {name}")
            stages[name] = {
                "unit": unit,
                "ways": {
                    way: {
                        "per_second": num / statistics.median(one.wall_s),
                        "best_per_second": num / min(one.wall_s),
                        "cpu_ms_per_unit": 1e3 * statistics.median(one.cpu_s) / num,
                    }
                    for way, one in timed.items()
                },
                "ours_is": {
                    way: median_ratio(one.cpu_s, timed["ours"].cpu_s) for way, one in timed.items() if way != "ours"
                },
            }
    return {
        "images": len(images),
        "photographs": "drawn" if source is None else source.name,
        "rounds": rounds,
        "stages": stages,
        "machine": machine_facts(),
        "commit": source_commit(),
    }


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise RequestError(
            f"{name.split('.')[0]} is not installed, and the stages are measured beside it; pip install 'alexnet[dev]'"
        ) from error


def _stages(images: NDArray[np.uint8], cv2: Any, feature: Any) -> Mapping[str, tuple[str, int, Mapping[str, Way]]]:
    """By name: the unit that is counted, how many of it a way does, the ways."""
    num = len(images)
    describe = DenseDescriptors("sift")
    found = describe.transform(images)
    projection = DescriptorPca(DIMENSIONS).fit(found)
    projected = projection.transform(found)
    fisher = FisherVectors(GAUSSIANS, pyramid="1x1").fit(projected)
    theirs = _scikit_mixture(fisher)
    sample = np.concatenate([one.values for one in found])
    centers = nearest_means(sample, ATOMS, 0)
    sparse = SparseCodes(ATOMS, penalty=PENALTY, passes=1).fit(
        [DescriptorSet(sample, np.zeros((len(sample), 2), np.float32))]
    )
    gram = sparse.atoms_ @ sparse.atoms_.T
    few = [one.values[:L1_DESCRIPTORS] for one in found]
    values = np.concatenate([one.values for one in projected])
    rows = fisher.transform(projected)
    rows = np.ascontiguousarray(np.tile(rows, (-(-ROWS_OF_CLASSIFIER // num), 1))[:ROWS_OF_CLASSIFIER])
    labels = np.arange(len(rows)) % CLASSES
    gray = np.stack([cv2.cvtColor(one, cv2.COLOR_RGB2GRAY) for one in images])
    detector = cv2.SIFT_create()
    mixture = Mixture(*(torch.from_numpy(getattr(fisher, name)) for name in fisher.arrays))
    tensor, least = torch.from_numpy(values), torch.full((values.shape[1],), 1e-6)
    from sklearn.decomposition import sparse_encode
    from sklearn.linear_model import SGDClassifier

    return {
        "dense SIFT, five scales": (
            "images",
            num,
            {
                "ours": lambda: describe.transform(images),
                "OpenCV": lambda: [_opencv_sift(cv2, detector, one, describe) for one in gray],
            },
        ),
        "color statistics, five scales": (
            "images",
            num,
            {
                "ours": lambda: DenseDescriptors("color").transform(images),
                "OpenCV": lambda: [_opencv_color(cv2, one, describe) for one in images],
            },
        ),
        "binary patterns, labels": (
            "images",
            num,
            {
                "ours": lambda: [pattern_labels(torch.from_numpy(one).float()[None]) for one in gray],
                "scikit-image": lambda: [feature.local_binary_pattern(one, 8, 1, "nri_uniform") for one in gray],
            },
        ),
        f"Fisher vector, {GAUSSIANS} Gaussians": (
            "images",
            num,
            {
                "ours": lambda: fisher.transform(projected),
                "scikit-image": lambda: [feature.fisher_vector(one.values, theirs) for one in projected],
            },
        ),
        f"locality codes, {ATOMS} atoms": (
            "images",
            num,
            {
                "ours": lambda: [locality_codes(one.values, centers) for one in found],
                "NumPy": lambda: [_numpy_locality(one.values, centers) for one in found],
            },
        ),
        f"l1 codes, {ATOMS} atoms, {L1_DESCRIPTORS} descriptors": (
            "images",
            min(4, num),
            {
                "ours": lambda: [l1_codes(one, sparse.atoms_, gram, PENALTY) for one in few[:4]],
                "scikit-learn": lambda: [
                    sparse_encode(one, sparse.atoms_, gram=gram, algorithm="lasso_cd", alpha=PENALTY) for one in few[:4]
                ],
            },
        ),
        f"a pass of the mixture, {GAUSSIANS} Gaussians": (
            "descriptors",
            len(values),
            {
                "ours": lambda: maximized(tensor, mixture, least),
                # Its first pass is the one from the given beginning; with more it would make several.
                "scikit-learn": lambda: _scikit_mixture(fisher, start=True).fit(values),
            },
        ),
        f"a pass of the classifier, {CLASSES} classes, {rows.shape[1]:,} features": (
            "images",
            len(rows),
            {
                "ours": lambda: AveragedSgd(epochs=1).fit(rows, labels),
                "scikit-learn": lambda: SGDClassifier(alpha=1e-5, average=True, max_iter=1, tol=None).fit(rows, labels),
            },
        ),
    }


def _scikit_mixture(fisher: FisherVectors, start: bool = False) -> Any:
    """scikit-learn's mixture of the same Gaussians: fitted, or one that starts from them and makes one pass."""
    from sklearn.mixture import GaussianMixture

    weights = fisher.weights_.astype(np.float64)
    weights /= weights.sum()
    means, variances = fisher.means_.astype(np.float64), fisher.variances_.astype(np.float64)
    if start:
        return GaussianMixture(
            len(weights),
            covariance_type="diag",
            max_iter=1,
            weights_init=weights,
            means_init=means,
            precisions_init=1 / variances,
        )
    made = GaussianMixture(len(weights), covariance_type="diag")
    made.weights_, made.means_, made.covariances_ = weights, means, variances
    made.precisions_cholesky_ = 1 / np.sqrt(variances)
    return made


def _opencv_sift(cv2: Any, detector: Any, gray: NDArray[np.uint8], settings: DenseDescriptors) -> list[Any]:
    """OpenCV's descriptors at our places on our scales."""
    found = []
    for number in range(settings.scales):
        side = round(len(gray) * settings.scale_factor**number)
        scaled = cv2.resize(gray, (side, side), interpolation=cv2.INTER_AREA)
        centers = Grid(side, settings.cell_px, 4, settings.step_px).centers
        points = [cv2.KeyPoint(float(x), float(y), settings.cell_px / 1.5, 0) for y in centers for x in centers]
        found.append(detector.compute(scaled, points)[1])
    return found


def _opencv_color(cv2: Any, image: NDArray[np.uint8], settings: DenseDescriptors) -> list[Any]:
    """Means and deviations of all cells by OpenCV's box filter, at our places on our scales."""
    found = []
    for number in range(settings.scales):
        side = round(len(image) * settings.scale_factor**number)
        scaled = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        cell = settings.cell_px
        means, squares = cv2.blur(scaled, (cell, cell)), cv2.blur(scaled * scaled, (cell, cell))
        deviations = np.sqrt(np.maximum(squares - means * means, 0))
        starts = Grid(side, cell, 4, settings.step_px).starts
        at = (starts[:, None] + cell * np.arange(4) + cell // 2).ravel()
        both = np.concatenate([means, deviations], axis=-1)[at][:, at]  # (4n, 4n, 6)
        cut = both.reshape(len(starts), 4, len(starts), 4, 6).transpose(0, 2, 1, 3, 4)
        found.append(cut.reshape(len(starts) ** 2, -1))
    return found


def _numpy_locality(values: NDArray[np.float32], atoms: NDArray[np.float32], k: int = 5) -> Any:
    """Locality-constrained codes as one writes them in NumPy."""
    distances = (atoms**2).sum(axis=1) - 2 * values @ atoms.T
    nearest = np.argpartition(distances, k, axis=1)[:, :k]
    away = atoms[nearest] - values[:, None]
    covariance = away @ away.transpose(0, 2, 1)
    covariance += 1e-4 * np.trace(covariance, axis1=1, axis2=2)[:, None, None] * np.eye(k, dtype=np.float32)
    codes = np.linalg.solve(covariance + 1e-9 * np.eye(k), np.ones((len(values), k, 1)))[:, :, 0]
    return nearest, codes / codes.sum(axis=1, keepdims=True)
