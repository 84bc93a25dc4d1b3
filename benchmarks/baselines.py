"""Speed of each stage of the baselines, against OpenCV, scikit-image, scikit-learn or NumPy doing the same work.

All methods run in one thread, because a run processes one image per thread. The libraries do the same work on the same
images: OpenCV computes SIFT at the same positions and scales, scikit-image Fisher vectors over the whole image (as this
package does here), scikit-learn codes with the same penalty. `pip install 'alexnet[dev]'` installs them.

example: python benchmarks/baselines.py --source photographs/ --files 20
"""

import argparse
import statistics
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from skimage.feature import fisher_vector, local_binary_pattern
from sklearn.decomposition import sparse_encode
from sklearn.linear_model import SGDClassifier
from sklearn.mixture import GaussianMixture
from sklearn.svm import LinearSVC

from alexnet.baselines.averaged_sgd import AveragedSGDClassifier
from alexnet.baselines.chunked_map import single_threaded_libraries
from alexnet.baselines.descriptor_coding import l1_codes, locality_codes
from alexnet.baselines.descriptor_pca import DescriptorPCA
from alexnet.baselines.descriptors import DenseDescriptors, DescriptorSet
from alexnet.baselines.dictionary_encoders import SparseEncoder, kmeans_dictionary
from alexnet.baselines.estimator_files import copy_fitted
from alexnet.baselines.fisher_vectors import FisherVectorEncoder
from alexnet.baselines.gaussian_mixture import em_step
from alexnet.baselines.linear_svm import LinearSVMClassifier
from alexnet.baselines.local_binary_patterns import pattern_labels
from alexnet.baselines.patch_cells import PatchGrid
from alexnet.baselines.spatial_pyramid import num_regions, parse_pyramid, region_indices
from alexnet.bench.sample_photos import write_photographs
from alexnet.bench.timing import alternate, median_ratio, warm_up
from alexnet.cli.command_parser import CommandParser
from alexnet.cli.tables import new_table
from alexnet.data.preparation.prepare import prepare
from alexnet.errors import RequestError
from alexnet.runs.baseline_recipe import parse_cells
from alexnet.system.machine import machine_summary, source_commit
from script import logger, run_script

SIDE_PX = 256
GAUSSIANS, ATOMS, DIMENSIONS = 64, 1024, 64
PYRAMID = "1x1,3x1,2x2"
PENALTY, L1_DESCRIPTORS = 0.075, 400
CLASSIFIER_ROWS, CLASSES = 400, 10
SVM_ROWS, SVM_FEATURES, SVM_C = 1000, 8192, 10.0
PRODUCT = "alexnet"


@dataclass(frozen=True)
class Stage:
    """Methods for one stage of a baseline."""

    unit: str
    count: int
    """Units processed by one run of a method."""
    methods: Mapping[str, Callable[[], object]]


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("--source", type=Path, metavar="PATH", help="photographs (default: generated pictures)")
    parser.add_argument("--files", type=int, metavar="N", default=20, help="number of photographs")
    parser.add_argument("--rounds", type=int, metavar="N", default=5, help="measurements of each method")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    return measure_baselines(options.source, options.files, options.rounds)


def measure_baselines(source: Path | None, num_files: int, rounds: int) -> dict[str, Any]:
    """Measure the stages.

    Args:
        source: photographs, see `open_source`; None generates pictures with the texture of photographs.
        num_files: photographs, 10 or more.
        rounds: measurements of each method, 1 or more.

    Returns:
        `stages`: by name the `unit` counted, `methods` with `per_second` and `best_per_second` (of that unit), and
        `cpu_speedups` of this package over each library (medians over the rounds).

    Raises:
        RequestError: a number is out of range.
    """
    if num_files < 10 or rounds < 1:
        raise RequestError(f"--files is {num_files}, --rounds {rounds}; allowed are 10 and 1 or more")
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory(prefix="alexnet-bench-") as folder:
        tree = Path(folder) / "photographs"
        write_photographs(tree, source, num_files)
        images = np.array(prepare(tree, Path(folder) / "data", side=SIDE_PX).splits["train"].images)
    stages: dict[str, Any] = {}
    with single_threaded_libraries(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one pass does not converge
        for name, stage in _stages(images).items():
            logger.info("%s", name)
            warm_up(stage.methods)
            timings = alternate(stage.methods, rounds)
            ours_s = timings[PRODUCT].cpu_s
            stages[name] = {
                "unit": stage.unit,
                "methods": {
                    method: {
                        "per_second": stage.count / statistics.median(timing.wall_s),
                        "best_per_second": stage.count / min(timing.wall_s),
                        "cpu_ms_per_unit": 1e3 * statistics.median(timing.cpu_s) / stage.count,
                    }
                    for method, timing in timings.items()
                },
                "cpu_speedups": {
                    method: median_ratio(timing.cpu_s, ours_s)
                    for method, timing in timings.items()
                    if method != PRODUCT
                },
            }
    return {
        "images": len(images),
        "photographs": "generated" if source is None else source.name,
        "rounds": rounds,
        "stages": stages,
        "machine": machine_summary(),
        "commit": source_commit(),
    }


def _stages(images: NDArray[np.uint8]) -> Mapping[str, Stage]:
    """By name."""
    num = len(images)
    describe = DenseDescriptors("sift")
    descriptors = describe.transform(images)
    projection = DescriptorPCA(DIMENSIONS).fit(descriptors)
    projected = projection.transform(descriptors)
    fisher = FisherVectorEncoder(GAUSSIANS, pyramid="1x1").fit(projected)
    fisher_regions = FisherVectorEncoder(GAUSSIANS, pyramid=PYRAMID)
    copy_fitted(fisher, fisher_regions)
    sizes = DenseDescriptors("sift", cell_px="4,6,8,10", step_px=6, scales=1, smoothing_per_cell=1 / 6)
    their_mixture = _scikit_mixture(fisher)
    sample = np.concatenate([one.values for one in descriptors])
    centers = kmeans_dictionary(sample, ATOMS, 0)
    sparse = SparseEncoder(ATOMS, l1_penalty=PENALTY, epochs=1).fit(
        [DescriptorSet(sample, np.zeros((len(sample), 2), np.float32))]
    )
    gram = sparse.atoms_ @ sparse.atoms_.T
    few = [one.values[:L1_DESCRIPTORS] for one in descriptors]
    values = np.concatenate([one.values for one in projected])
    rows = fisher.transform(projected)
    rows = np.ascontiguousarray(np.tile(rows, (-(-CLASSIFIER_ROWS // num), 1))[:CLASSIFIER_ROWS])
    labels = np.arange(len(rows)) % CLASSES
    svm_data = _svm_data()
    gray = np.stack([cv2.cvtColor(one, cv2.COLOR_RGB2GRAY) for one in images])
    detector = cv2.SIFT_create()  # type: ignore[attr-defined]
    tensor, variance_floor = torch.from_numpy(values), torch.full((values.shape[1],), 1e-6)
    return {
        "dense SIFT, five scales": Stage(
            "images",
            num,
            {
                PRODUCT: lambda: describe.transform(images),
                "OpenCV": lambda: [_opencv_sift(detector, one, describe) for one in gray],
            },
        ),
        "dense SIFT, four cell sizes, smoothed": Stage(
            "images",
            num,
            {
                PRODUCT: lambda: sizes.transform(images),
                "OpenCV": lambda: [_opencv_sift(detector, one, sizes) for one in gray],
            },
        ),
        "color statistics, five scales": Stage(
            "images",
            num,
            {
                PRODUCT: lambda: DenseDescriptors("color").transform(images),
                "OpenCV": lambda: [_opencv_color(one, describe) for one in images],
            },
        ),
        "binary patterns, labels": Stage(
            "images",
            num,
            {
                PRODUCT: lambda: [pattern_labels(torch.from_numpy(one).float()[None]) for one in gray],
                "scikit-image": lambda: [local_binary_pattern(one, 8, 1, "nri_uniform") for one in gray],
            },
        ),
        f"Fisher vector, {GAUSSIANS} Gaussians": Stage(
            "images",
            num,
            {
                PRODUCT: lambda: fisher.transform(projected),
                "scikit-image": lambda: [fisher_vector(one.values, their_mixture) for one in projected],
            },
        ),
        f"Fisher vector, {GAUSSIANS} Gaussians, regions {PYRAMID}": Stage(
            "images",
            num,
            {
                PRODUCT: lambda: fisher_regions.transform(projected),
                "scikit-image": lambda: [_scikit_fisher_regions(one, their_mixture) for one in projected],
            },
        ),
        f"locality codes, {ATOMS} atoms": Stage(
            "images",
            num,
            {
                PRODUCT: lambda: [locality_codes(one.values, centers) for one in descriptors],
                "NumPy": lambda: [_numpy_locality(one.values, centers) for one in descriptors],
            },
        ),
        f"l1 codes, {ATOMS} atoms, {L1_DESCRIPTORS} descriptors": Stage(
            "images",
            min(4, num),
            {
                PRODUCT: lambda: [l1_codes(one, sparse.atoms_, gram, PENALTY) for one in few[:4]],
                "scikit-learn": lambda: [
                    sparse_encode(one, sparse.atoms_, gram=gram, algorithm="lasso_cd", alpha=PENALTY) for one in few[:4]
                ],
            },
        ),
        f"mixture, one pass, {GAUSSIANS} Gaussians": Stage(
            "descriptors",
            len(values),
            {
                PRODUCT: lambda: em_step(tensor, fisher.mixture, variance_floor),
                # With a start and max_iter=1 it makes one pass.
                "scikit-learn": lambda: _scikit_mixture(fisher, start=True).fit(values),
            },
        ),
        f"classifier, one pass, {CLASSES} classes, {rows.shape[1]:,} features": Stage(
            "images",
            len(rows),
            {
                PRODUCT: lambda: AveragedSGDClassifier(epochs=1).fit(rows, labels),
                "scikit-learn": lambda: SGDClassifier(alpha=1e-5, average=True, max_iter=1, tol=None).fit(rows, labels),
            },
        ),
        # To the same minimum: a test compares the coefficients.
        f"support vector machines, {SVM_ROWS} rows, {CLASSES} classes, {SVM_FEATURES:,} features": Stage(
            "images",
            SVM_ROWS,
            {
                PRODUCT: lambda: LinearSVMClassifier(SVM_C).fit(*svm_data),
                "scikit-learn": lambda: LinearSVC(C=SVM_C, loss="hinge", tol=1e-3, max_iter=10_000).fit(*svm_data),
            },
        ),
    }


def _svm_data() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Unit rows of classes that overlap, as Fisher vectors do, and their labels."""
    random, labels = np.random.default_rng(0), np.arange(SVM_ROWS) % CLASSES
    centers = random.standard_normal((CLASSES, SVM_FEATURES), np.float32)
    rows = centers[labels] + 8 * random.standard_normal((SVM_ROWS, SVM_FEATURES), np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), labels


def _scikit_mixture(fisher: FisherVectorEncoder, start: bool = False) -> Any:
    """scikit-learn's mixture of the same Gaussians: fitted, or unfitted to make one pass that starts from them."""
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
    mixture = GaussianMixture(len(weights), covariance_type="diag")
    mixture.weights_, mixture.means_, mixture.covariances_ = weights, means, variances
    mixture.precisions_cholesky_ = 1 / np.sqrt(variances)
    return mixture


def _opencv_sift(detector: Any, gray: NDArray[np.uint8], settings: DenseDescriptors) -> list[Any]:
    """OpenCV's descriptors at the same positions, scales and sizes."""
    scales = []
    for number in range(settings.scales):
        side = round(len(gray) * settings.scale_factor**number)
        scaled = cv2.resize(gray, (side, side), interpolation=cv2.INTER_AREA)
        for cell_px in parse_cells("cell_px", settings.cell_px):
            centers = PatchGrid(side, cell_px, 4, settings.step_px).centers
            points = [cv2.KeyPoint(float(x), float(y), cell_px / 1.5, 0) for y in centers for x in centers]
            scales.append(detector.compute(scaled, points)[1])
    return scales


def _scikit_fisher_regions(one: DescriptorSet, mixture: Any) -> list[Any]:
    """scikit-image's Fisher vectors of all regions."""
    levels = parse_pyramid(PYRAMID)
    regions = region_indices(one.positions, levels)
    inside = [(regions == number).any(axis=0) for number in range(num_regions(levels))]
    return [fisher_vector(one.values[within], mixture) for within in inside]


def _opencv_color(image: NDArray[np.uint8], settings: DenseDescriptors) -> list[Any]:
    """Means and standard deviations of all cells by OpenCV's box filter, at the same positions and scales."""
    scales = []
    for number in range(settings.scales):
        side = round(len(image) * settings.scale_factor**number)
        scaled = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        cell = int(settings.cell_px)
        means, squares = cv2.blur(scaled, (cell, cell)), cv2.blur(scaled * scaled, (cell, cell))
        deviations = np.sqrt(np.maximum(squares - means * means, 0))
        starts = PatchGrid(side, cell, 4, settings.step_px).starts
        at = (starts[:, None] + cell * np.arange(4) + cell // 2).ravel()
        both = np.concatenate([means, deviations], axis=-1)[at][:, at]  # (4n, 4n, 6)
        cut = both.reshape(len(starts), 4, len(starts), 4, 6).transpose(0, 2, 1, 3, 4)
        scales.append(cut.reshape(len(starts) ** 2, -1))
    return scales


def _numpy_locality(values: NDArray[np.float32], atoms: NDArray[np.float32], k: int = 5) -> Any:
    """Locality-constrained codes in plain NumPy."""
    distances = (atoms**2).sum(axis=1) - 2 * values @ atoms.T
    nearest = np.argpartition(distances, k, axis=1)[:, :k]
    away = atoms[nearest] - values[:, None]
    covariance = away @ away.transpose(0, 2, 1)
    covariance += 1e-4 * np.trace(covariance, axis1=1, axis2=2)[:, None, None] * np.eye(k, dtype=np.float32)
    codes = np.linalg.solve(covariance + 1e-9 * np.eye(k), np.ones((len(values), k, 1)))[:, :, 0]
    return nearest, codes / codes.sum(axis=1, keepdims=True)


def print_table(result: Mapping[str, Any]) -> None:
    console = Console()
    table = new_table("stages of the baselines, one thread", "stage method", ("per second", "CPU ms", "speedup"))
    for name, stage in result["stages"].items():
        for method, speed in stage["methods"].items():
            speedup = stage["cpu_speedups"].get(method)
            table.add_row(
                name if method == PRODUCT else "",
                method,
                f"{speed['per_second']:,.1f} {stage['unit']}",
                f"{speed['cpu_ms_per_unit']:,.3f}",
                "" if speedup is None else f"{speedup:.1f}",
            )
    console.print(table)
    console.print(
        f"{result['images']} images of {SIDE_PX} pixels ({result['photographs']}), medians of {result['rounds']} "
        "rounds; speedup: of alexnet over the method, by processor time",
        highlight=False,
        markup=False,
    )


def main(words: Sequence[str] | None = None) -> int:
    return run_script(__doc__, add_arguments, measure, print_table, words)


if __name__ == "__main__":
    raise SystemExit(main())
