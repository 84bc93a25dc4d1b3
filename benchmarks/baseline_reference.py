"""The baselines against the same pipelines of well-known parts: on the same photographs and draw, stage by stage.

Fisher vectors: OpenCV's SIFT at dense keypoints of several sizes on the unscaled photograph, scikit-learn's PCA and
Gaussian mixture (float64), scikit-image's Fisher vector in each region, signed square root and unit norm in NumPy,
scikit-learn's LinearSVC (liblinear, hinge loss). Sparse coding, on some classes and some descriptors of each
photograph: scikit-learn's MiniBatchDictionaryLearning and sparse_encode, pooled in NumPy, then LinearSVC.

Where a stage is compared alone, both sides get the reference's input of that stage; end to end, each gets its own.
OpenCV smooths by the square root of (cell / 6)^2 - 1/2^2, as VLFeat does, and so does ours here. A patch with any
contrast is described; one without is zeros.

Each stage is a file in the folder -o: the same command continues where it was stopped, and after a change of this
package computes its side again. After a change of this script, name a new folder.

example: python benchmarks/baseline_reference.py --data data/caltech --settings small -o runs/reference
"""

import argparse
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import subspace_angles
from skimage.feature import fisher_vector
from sklearn.decomposition import PCA, MiniBatchDictionaryLearning, sparse_encode
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.svm import LinearSVC

from alexnet.baselines.chunked_map import single_threaded_libraries
from alexnet.baselines.descriptor_coding import l1_codes
from alexnet.baselines.descriptor_pca import DescriptorPCA
from alexnet.baselines.descriptors import DenseDescriptors, DescriptorSet
from alexnet.baselines.dictionary_encoders import SparseEncoder
from alexnet.baselines.fisher_vectors import FisherVectorEncoder
from alexnet.baselines.linear_svm import LinearSVMClassifier
from alexnet.baselines.training_subset import draw_per_class
from alexnet.cli.command_parser import CommandParser
from alexnet.cli.common_options import add_choice
from alexnet.cli.tables import new_table
from alexnet.data.dataset import PreparedData
from alexnet.data.whole_photographs import read_photographs, with_known_borders
from alexnet.errors import RequestError
from alexnet.system.machine import machine_summary, source_commit, source_digest
from alexnet.system.terminal import TerminalConsole
from script import logger, run_script

Array = NDArray[Any]
Arrays = dict[str, Array]
IMAGES_PER_FILE = 64
FEATURES_PER_PRODUCT = 4096
NUM_STAGE_IMAGES = 40
"""Photographs on which descriptors and Fisher vectors are compared alone."""
HELD_OUT = 10
"""One in so many descriptors of a sample is not trained on."""
MAGNIFICATION = 6
"""Cell over the standard deviation of the smoothing, as in VLFeat's dense SIFT."""


@dataclass(frozen=True)
class CodingSettings:
    """Sparse coding: the part of the photographs, and the dictionary."""

    num_classes: int
    descriptors_per_image: int
    sample_size: int
    atoms: int
    cell_px: int = 4
    step_px: int = 8
    penalty: float = 0.075
    epochs: int = 2
    pyramid: str = "1x1,2x2,4x4"
    batch_size: int = 512


@dataclass(frozen=True)
class Settings:
    """Of both sides."""

    cells: tuple[int, ...]
    """Sides of a cell, in pixels; a patch has 4 x 4."""
    step_px: int
    dimensions: int
    components: int
    sample_size: int
    coding: CodingSettings
    pyramid: str = "1x1,3x1,2x2"
    per_class: int = 30
    """Training photographs of a class; the others are evaluated on."""
    c: float = 10.0
    """Factor on the losses in |w|^2 / 2 + C sum of max(0, 1 - y (w x + b)), with the squared b beside |w|^2."""


SETTINGS = {
    "small": Settings((4, 8), 6, 64, 64, 100_000, CodingSettings(10, 100, 10_000, 256)),
    "full": Settings((4, 6, 8, 10), 3, 80, 256, 500_000, CodingSettings(20, 200, 20_000, 1024)),
}


class Vocabulary(NamedTuple):
    """PCA and mixture."""

    mean: Array
    """(128,)."""
    axes: Array
    """(dimensions, 128), orthonormal rows."""
    weights: Array
    """(K,)."""
    means: Array
    """(K, dimensions)."""
    variances: Array
    """(K, dimensions)."""


class Linear(NamedTuple):
    """One-vs-rest classifiers."""

    coef: Array
    """(classes, D)."""
    intercept: Array
    """(classes,)."""


class Pipeline(Protocol):
    """The stages of one side."""

    def describe(self, image: Array, cells: Sequence[int], step_px: int, drawn: "Draw | None") -> DescriptorSet:
        """SIFT, all descriptors of an image (H, W, 3), or only the drawn ones; OpenCV's order: cell by cell, rows."""

    def fit_pca(self, values: Array, dimensions: int) -> tuple[Array, Array]:
        """Mean and axes of (n, 128)."""

    def fit_mixture(self, values: Array, components: int, seed: int) -> tuple[Array, Array, Array]:
        """Weights, means and variances of (n, dimensions)."""

    def encode(self, found: DescriptorSet, vocabulary: Vocabulary, pyramid: str) -> Array:
        """Fisher vectors of all regions, (D,): normalized each, divided by the square root of their number."""

    def classify(self, blocks: Sequence[Array], labels: Array, c: float, seed: int) -> Linear:
        """Train on rows (n, D), given in blocks."""

    def fit_dictionary(self, values: Array, settings: CodingSettings, seed: int) -> Array:
        """Atoms of unit norm, (atoms, 128)."""

    def code(self, values: Array, atoms: Array, penalty: float) -> Array:
        """Sparse codes, (n, atoms)."""

    def pool(self, found: DescriptorSet, atoms: Array, settings: CodingSettings) -> Array:
        """Largest absolute codes of each region, of unit norm together, (D,)."""


class Draw(NamedTuple):
    """A drawing of descriptors of one image without replacement."""

    num: int
    seed: tuple[int, ...]

    def __call__(self, of: int) -> Array:
        return np.sort(np.random.default_rng(self.seed).permutation(of)[: self.num])


class Reference:
    """OpenCV, scikit-learn, scikit-image, NumPy."""

    def describe(self, image: Array, cells: Sequence[int], step_px: int, drawn: Draw | None) -> DescriptorSet:
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        height, width = gray.shape
        points = []  # cell, row, column
        for cell in cells:
            if 4 * cell <= min(gray.shape):
                at = [2 * cell + (size - 4 * cell) % step_px // 2 for size in gray.shape]
                rows = np.arange(at[0], height - 2 * cell + 1, step_px)
                columns = np.arange(at[1], width - 2 * cell + 1, step_px)
                grid = np.meshgrid(rows, columns, indexing="ij")
                points.append(np.stack([np.full(grid[0].size, cell), grid[0].ravel(), grid[1].ravel()], axis=1))
        chosen = np.concatenate(points)
        if drawn is not None:
            chosen = chosen[drawn(len(chosen))]
        values = []
        for cell in cells:
            # Its cells are 3/2 of a keypoint's size. It takes the image for one of sigma 1/2, smoothed up to `sigma`.
            detector = cv2.SIFT_create(sigma=cell / MAGNIFICATION)  # type: ignore[attr-defined]
            of_cell = chosen[chosen[:, 0] == cell]
            keypoints = [cv2.KeyPoint(float(x), float(y), cell / 1.5, 0) for _, y, x in of_cell]
            if keypoints:
                values.append(detector.compute(gray, keypoints)[1] / np.float32(512))
        positions = chosen[:, 1:] / np.array([height, width])
        return DescriptorSet(np.concatenate(values), positions.astype(np.float32))

    def fit_pca(self, values: Array, dimensions: int) -> tuple[Array, Array]:
        pca = PCA(dimensions, svd_solver="full").fit(values.astype(np.float64))
        return pca.mean_, pca.components_

    def fit_mixture(self, values: Array, components: int, seed: int) -> tuple[Array, Array, Array]:
        mixture = GaussianMixture(components, covariance_type="diag", max_iter=100, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # its likelihood is compared
            mixture.fit(values.astype(np.float64))
        return mixture.weights_, mixture.means_, mixture.covariances_

    def encode(self, found: DescriptorSet, vocabulary: Vocabulary, pyramid: str) -> Array:
        mixture = _scikit_mixture(vocabulary)
        projected = (found.values - vocabulary.mean) @ vocabulary.axes.T
        regions = np.stack(_regions(found.positions, pyramid))  # (regions, n)
        # A Fisher vector is a mean over descriptors, so that of a region follows from those of its parts that are in
        # the same regions of the other levels: scikit-image looks at each descriptor once, not on every level.
        parts, part_of = np.unique(regions, axis=1, return_inverse=True)
        sums = np.zeros((parts.shape[1], 2 * vocabulary.means.size))
        for part in range(parts.shape[1]):
            inside = np.flatnonzero(part_of.ravel() == part)
            # Without the gradients to the weights, which the paper leaves out; those to the standard deviations have
            # the opposite sign.
            sums[part] = len(inside) * fisher_vector(projected[inside], mixture)[len(vocabulary.weights) :]
        sums[:, vocabulary.means.size :] *= -1
        means = (parts @ sums) / np.maximum(regions.sum(axis=1), 1)[:, None]
        vectors = [_unit(np.sign(vector) * np.sqrt(np.abs(vector))) for vector in means]
        return (np.concatenate(vectors) / math.sqrt(len(vectors))).astype(np.float32)

    def classify(self, blocks: Sequence[Array], labels: Array, c: float, seed: int) -> Linear:
        num, width = len(labels), blocks[0].shape[1]
        products = np.zeros((num, num))
        for first in range(0, width, FEATURES_PER_PRODUCT):
            part = _columns(blocks, first)
            products += part @ part.T
        # Rows with the same products have the same classifiers, and fewer columns: liblinear copies them in float64.
        values, vectors = np.linalg.eigh(products)
        kept = values > 1e-9 * values[-1]
        scales = np.sqrt(values[kept])
        svm = LinearSVC(C=c, loss="hinge", tol=1e-5, max_iter=100_000, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            svm.fit(vectors[:, kept] * scales, labels)
        # w = X^T a with a = V S^-1 w', since the rows are X = V S R^T with orthonormal R, and w = R w'.
        weights = (vectors[:, kept] / scales) @ svm.coef_.T
        coef = np.concatenate(
            [weights.T @ _columns(blocks, first) for first in range(0, width, FEATURES_PER_PRODUCT)], axis=1
        )
        return Linear(coef.astype(np.float32), svm.intercept_)

    def fit_dictionary(self, values: Array, settings: CodingSettings, seed: int) -> Array:
        drawn = np.random.default_rng(seed).permutation(np.flatnonzero(values.any(axis=1)))[: settings.atoms]
        first = values[drawn] / np.linalg.norm(values[drawn], axis=1, keepdims=True)
        learning = MiniBatchDictionaryLearning(
            settings.atoms,
            alpha=settings.penalty,
            batch_size=settings.batch_size,
            max_iter=settings.epochs,
            fit_algorithm="cd",
            tol=0.0,
            max_no_improvement=None,
            dict_init=first.astype(np.float64),
            random_state=seed,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # its objective is compared, as is that of `code`
            atoms: Array = learning.fit(values.astype(np.float64)).components_
        return np.stack([_unit(atom) for atom in atoms])

    def code(self, values: Array, atoms: Array, penalty: float) -> Array:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            codes: Array = sparse_encode(
                values.astype(np.float64), atoms.astype(np.float64), algorithm="lasso_cd", alpha=penalty
            )
        return codes

    def pool(self, found: DescriptorSet, atoms: Array, settings: CodingSettings) -> Array:
        codes = np.abs(self.code(found.values, atoms, settings.penalty))
        regions = _regions(found.positions, settings.pyramid)
        pooled = np.concatenate([codes[inside].max(axis=0, initial=0) for inside in regions])
        return _unit(pooled).astype(np.float32)


class Ours:
    """The public classes of this package."""

    def describe(self, image: Array, cells: Sequence[int], step_px: int, drawn: Draw | None) -> DescriptorSet:
        describe = DenseDescriptors(
            "sift",
            cell_px=",".join(map(str, cells)),
            step_px=step_px,
            scales=1,
            smoothing_per_cell=1 / MAGNIFICATION,
            max_pixels=image.size,
        )
        ((values, positions),) = describe.transform([image])
        at = slice(None) if drawn is None else drawn(len(values))
        return DescriptorSet(values[at], positions[at])

    def fit_pca(self, values: Array, dimensions: int) -> tuple[Array, Array]:
        pca = DescriptorPCA(dimensions).fit([_set_of(values)])
        return pca.mean_, pca.components_

    def fit_mixture(self, values: Array, components: int, seed: int) -> tuple[Array, Array, Array]:
        encoder = FisherVectorEncoder(components, seed=seed).fit([_set_of(values.astype(np.float32))])
        return encoder.weights_, encoder.means_, encoder.variances_

    def encode(self, found: DescriptorSet, vocabulary: Vocabulary, pyramid: str) -> Array:
        mean, axes, weights, means, variances = (np.asarray(one, np.float32) for one in vocabulary)
        pca, encoder = DescriptorPCA(len(axes)), FisherVectorEncoder(len(weights), pyramid=pyramid)
        pca.mean_, pca.components_ = mean, axes
        encoder.weights_, encoder.means_, encoder.variances_ = weights, means, variances
        row: Array = encoder.transform(pca.transform([found]))[0]
        return row

    def classify(self, blocks: Sequence[Array], labels: Array, c: float, seed: int) -> Linear:
        classifier = LinearSVMClassifier(c).fit(np.concatenate(blocks), labels)
        return Linear(classifier.coef_, classifier.intercept_)

    def fit_dictionary(self, values: Array, settings: CodingSettings, seed: int) -> Array:
        encoder = SparseEncoder(settings.atoms, l1_penalty=settings.penalty, epochs=settings.epochs, seed=seed)
        return encoder.fit([_set_of(values)]).atoms_

    def code(self, values: Array, atoms: Array, penalty: float) -> Array:
        atoms = np.ascontiguousarray(atoms, np.float32)
        return l1_codes(values, atoms, atoms @ atoms.T, penalty)

    def pool(self, found: DescriptorSet, atoms: Array, settings: CodingSettings) -> Array:
        encoder = SparseEncoder(settings.atoms, l1_penalty=settings.penalty, pyramid=settings.pyramid)
        encoder.atoms_ = np.ascontiguousarray(atoms, np.float32)
        row: Array = encoder.transform([found])[0]
        return row


def _unit(vector: Array) -> Array:
    """With unit norm; zeros stay zeros."""
    scaled: Array = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return scaled


def _set_of(values: Array) -> DescriptorSet:
    return DescriptorSet(values, np.zeros((len(values), 2), np.float32))


def _regions(positions: Array, pyramid: str) -> list[Array]:
    """Which descriptors are in each region: level by level, rows by columns."""
    inside = []
    for level in pyramid.split(","):
        rows, columns = map(int, level.split("x"))
        row, column = np.floor(positions[:, 0] * rows), np.floor(positions[:, 1] * columns)
        inside += [(row == one) & (column == other) for one in range(rows) for other in range(columns)]
    return inside


def _scikit_mixture(vocabulary: Vocabulary) -> Any:
    weights, means, variances = (np.asarray(one, np.float64) for one in vocabulary[2:])
    mixture = GaussianMixture(len(weights), covariance_type="diag")
    mixture.weights_, mixture.means_, mixture.covariances_ = weights / weights.sum(), means, variances
    mixture.precisions_cholesky_ = 1 / np.sqrt(variances)
    return mixture


def _columns(blocks: Sequence[Array], first: int) -> Array:
    """Some columns of all rows, float64."""
    return np.concatenate([block[:, first : first + FEATURES_PER_PRODUCT].astype(np.float64) for block in blocks])


def hinge_objective(model: Linear, blocks: Sequence[Array], labels: Array, c: float) -> float:
    """(|w|^2 + b^2) / 2 + C sum of max(0, 1 - y (w x + b)), summed over the classes."""
    scores = _scores(model, blocks)
    signs = np.where(labels[:, None] == np.arange(scores.shape[1]), 1.0, -1.0)
    squares = float(np.square(model.coef, dtype=np.float64).sum() + np.square(model.intercept, dtype=np.float64).sum())
    return squares / 2 + c * float(np.maximum(0, 1 - signs * scores).sum())


def _scores(model: Linear, blocks: Sequence[Array]) -> Array:
    return np.concatenate([block.astype(np.float32) @ model.coef.T + model.intercept for block in blocks])


def coding_objective(values: Array, codes: Array, atoms: Array, penalty: float) -> float:
    """|x - sum a_i b_i|^2 / 2 + penalty sum |a_i|, the mean over descriptors."""
    codes = codes.astype(np.float64)
    errors = np.square(values - codes @ atoms).sum(axis=1)
    return float((errors / 2 + penalty * np.abs(codes).sum(axis=1)).mean())


@dataclass(frozen=True)
class Stages:
    """The results of stages as files of a folder, each with its processor time."""

    folder: Path

    def run(self, name: str, work: Callable[[], Mapping[str, Array]]) -> Arrays:
        """The arrays that `work` returns, or that the file of an earlier call has, and `cpu_s`."""
        path = self.folder / f"{name}.npz"
        if not path.is_file():
            logger.info("%s, %s", self.folder.name, name)
            start = time.process_time()
            found = dict(work())
            found["cpu_s"] = np.array(time.process_time() - start)
            part = path.with_suffix(".part")
            with part.open("wb") as file:
                np.savez(file, **found)  # type: ignore[arg-type]
            os.replace(part, path)
        with np.load(path) as stored:
            return dict(stored)


class Photographs:
    """All photographs of a prepared set, without borders, and one drawing.

    Attributes:
        labels: (N,).
        drawn: ascending indices of the training photographs.
    """

    def __init__(self, data: PreparedData, per_class: int, seed: int) -> None:
        self.seed = seed
        self.labels: Array = np.asarray(data.splits["train"].labels)
        self.drawn: Array = draw_per_class(self.labels, per_class, seed)
        self._images = with_known_borders(data).splits["train"].images

    @property
    def few(self) -> list[int]:
        """Training photographs on which stages are compared alone."""
        found: list[int] = self.drawn[:: max(1, len(self.drawn) // NUM_STAGE_IMAGES)].tolist()
        return found

    def __getitem__(self, index: int) -> Array:
        (photograph,) = read_photographs(self._images, [index])
        return np.ascontiguousarray(photograph)


@dataclass(frozen=True)
class Side:
    """One pipeline and its files."""

    pipeline: Pipeline
    stages: Stages
    photographs: Photographs
    settings: Settings

    def sample(self) -> Arrays:
        """Descriptors of the training photographs in random order, `values` (n, 128)."""
        drawn, seed = self.photographs.drawn, self.photographs.seed
        per_image = math.ceil(self.settings.sample_size / len(drawn))

        def work() -> Arrays:
            parts = [
                self.pipeline.describe(
                    self.photographs[index], self.settings.cells, self.settings.step_px, Draw(per_image, (seed, index))
                ).values
                for index in drawn.tolist()
            ]
            values = np.concatenate(parts)
            return {"values": values[np.random.default_rng(seed).permutation(len(values))]}

        return self.stages.run("sample", work)

    def vocabulary(self, sample: Array, tag: str = "") -> tuple[Vocabulary, float]:
        """PCA of a sample, and a mixture of all but one in `HELD_OUT`; processor seconds."""

        def pca() -> Arrays:
            mean, axes = self.pipeline.fit_pca(sample, self.settings.dimensions)
            return {"mean": mean, "axes": axes}

        basis = self.stages.run(f"pca{tag}", pca)
        projected = (sample - basis["mean"]) @ basis["axes"].T
        mixture = self.mixture(projected, tag)
        cpu_s = float(basis["cpu_s"] + mixture["cpu_s"])
        arrays = (basis["mean"], basis["axes"], mixture["weights"], mixture["means"], mixture["variances"])
        return Vocabulary(*arrays), cpu_s

    def mixture(self, projected: Array, tag: str = "") -> Arrays:
        """A mixture of projected descriptors, but one in `HELD_OUT`."""

        def work() -> Arrays:
            training = projected[np.arange(len(projected)) % HELD_OUT > 0]
            parts = self.pipeline.fit_mixture(training, self.settings.components, self.photographs.seed)
            return dict(zip(("weights", "means", "variances"), parts, strict=True))

        return self.stages.run(f"mixture{tag}", work)

    def features(self, vocabulary: Vocabulary) -> tuple[list[Array], float]:
        """The rows of all photographs in blocks, as stored: (n, D) each; processor seconds."""
        num, blocks, cpu_s = len(self.photographs.labels), [], 0.0
        for first in range(0, num, IMAGES_PER_FILE):

            def work(first: int = first) -> Arrays:
                rows = []
                for index in range(first, min(first + IMAGES_PER_FILE, num)):
                    image = self.photographs[index]
                    found = self.pipeline.describe(image, self.settings.cells, self.settings.step_px, None)
                    rows.append(self.pipeline.encode(found, vocabulary, self.settings.pyramid))
                # A run of this package stores float16.
                return {"rows": np.stack(rows).astype(np.float16 if isinstance(self.pipeline, Ours) else np.float32)}

            found = self.stages.run(f"features-{first:06d}", work)
            blocks.append(found["rows"])
            cpu_s += float(found["cpu_s"])
        return blocks, cpu_s

    def classifier(self, blocks: Sequence[Array], labels: Array, tag: str = "") -> tuple[Linear, float]:
        """Classifiers of training rows; processor seconds."""

        def work() -> Arrays:
            return self.pipeline.classify(blocks, labels, self.settings.c, self.photographs.seed)._asdict()

        found = self.stages.run(f"classifier{tag}", work)
        return Linear(found["coef"], found["intercept"]), float(found["cpu_s"])


def _row(stage: str, measure: str, ours: float | None, reference: float | None, difference: float) -> dict[str, Any]:
    return {"stage": stage, "measure": measure, "ours": ours, "reference": reference, "difference": difference}


def _compared(stage: str, measure: str, ours: float, reference: float) -> dict[str, Any]:
    return _row(stage, measure, ours, reference, ours - reference)


def _compare_descriptors(ours: Side, reference: Side) -> list[dict[str, Any]]:
    photographs = [ours.photographs[index] for index in ours.photographs.few]
    # OpenCV rounds gray values, which turns descriptors of almost flat patches: given rounded ones, ours agree.
    rounded = [np.repeat(cv2.cvtColor(one, cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2) for one in photographs]
    theirs = _all_descriptors(reference, photographs)
    rows = []
    for words, images in (("the same gray values", rounded), ("the same colors", photographs)):
        mine = _all_descriptors(ours, images)
        if mine.values.shape != theirs.values.shape:
            raise RequestError(f"{len(mine.values)} descriptors of ours, {len(theirs.values)} of the reference")
        away = np.abs(mine.values - theirs.values)
        norms = [np.linalg.norm(one.values, axis=1) for one in (mine, theirs)]
        both = (norms[0] > 0) & (norms[1] > 0)
        cosines = (mine.values * theirs.values).sum(axis=1)[both] / (norms[0] * norms[1])[both]
        rows += [
            _row("descriptors", f"{words}: median |difference|", None, None, float(np.median(away))),
            _row("descriptors", "largest |difference|", None, None, float(away.max())),
            _row("descriptors", "1 - cosine, median", None, None, float(1 - np.median(cosines))),
            _row("descriptors", "1 - cosine, 99th percentile", None, None, float(1 - np.percentile(cosines, 1))),
            _row("descriptors", "1 - cosine, largest", None, None, float(1 - cosines.min())),
            _compared("descriptors", "zeros, %", *(100 * float((norm == 0).mean()) for norm in norms)),
        ]
    apart = float(np.abs(mine.positions - theirs.positions).max())
    return [*rows, _row("descriptors", "positions, fractions of a side", None, None, apart)]


def _all_descriptors(side: Side, images: Sequence[Array]) -> DescriptorSet:
    cells, step_px = side.settings.cells, side.settings.step_px
    sets = [side.pipeline.describe(image, cells, step_px, None) for image in images]
    return DescriptorSet(*(np.concatenate(parts) for parts in zip(*sets, strict=True)))


def _compare_vocabulary(ours: Side, sample: Array, mine: Vocabulary, theirs: Vocabulary) -> list[dict[str, Any]]:
    """On the reference's sample; `mine` is of our own."""
    mean, axes = ours.pipeline.fit_pca(sample, ours.settings.dimensions)
    projected = (sample - theirs.mean) @ theirs.axes.T
    fitted = ours.mixture(projected, "-same")
    same = Vocabulary(theirs.mean, theirs.axes, fitted["weights"], fitted["means"], fitted["variances"])
    held_out = projected[::HELD_OUT][sample[::HELD_OUT].any(axis=1)].astype(np.float64)
    return [
        _row("PCA", "largest angle, degrees", None, None, math.degrees(subspace_angles(axes.T, theirs.axes.T)[0])),
        _row(
            "PCA",
            "the same, of own samples",
            None,
            None,
            math.degrees(subspace_angles(mine.axes.T, theirs.axes.T)[0]),
        ),
        _row("PCA", "mean", None, None, float(np.abs(mean - theirs.mean).max())),
        _compared(
            "mixture",
            "log-likelihood of a held-out descriptor with contrast",
            *(float(_scikit_mixture(one).score(held_out)) for one in (same, theirs)),
        ),
        _compared("mixture", "least weight x K", *(float(v.weights.min() * len(v.weights)) for v in (same, theirs))),
    ]


def _compare_vectors(ours: Side, reference: Side, vocabulary: Vocabulary) -> list[dict[str, Any]]:
    settings, photographs = ours.settings, ours.photographs
    largest, apart = [], []
    for index in photographs.few:
        found = reference.pipeline.describe(photographs[index], settings.cells, settings.step_px, None)
        mine, theirs = (one.pipeline.encode(found, vocabulary, settings.pyramid) for one in (ours, reference))
        largest.append(float(np.abs(mine - theirs).max() / np.abs(theirs).max()))
        apart.append(float(np.linalg.norm(mine - theirs) / np.linalg.norm(theirs)))
    return [
        _row("Fisher vectors", "largest |difference| / largest value", None, None, max(largest)),
        _row("Fisher vectors", "norm of the difference, largest", None, None, max(apart)),
        _row("Fisher vectors", "norm of the difference, median", None, None, float(np.median(apart))),
    ]


def _accuracies(model: Linear, blocks: Sequence[Array], labels: Array) -> tuple[float, float]:
    """Percent right: the mean over classes, and over images."""
    right = _scores(model, blocks).argmax(axis=1) == labels
    return 100 * float(np.mean([right[labels == one].mean() for one in np.unique(labels)])), 100 * float(right.mean())


def _split_blocks(blocks: Sequence[Array], at: Array) -> list[Array]:
    """The rows `at` (ascending) of blocks, in blocks."""
    edges = np.cumsum([0, *(len(block) for block in blocks)])
    parts = [block[at[(at >= low) & (at < low + len(block))] - low] for block, low in zip(blocks, edges, strict=False)]
    return [part for part in parts if len(part)]


def compare_fisher(ours: Side, reference: Side) -> list[dict[str, Any]]:
    """The rows of the table on Fisher vectors."""
    photographs = ours.photographs
    labels, drawn = photographs.labels, photographs.drawn
    rest = np.setdiff1d(np.arange(len(labels)), drawn)
    rows = _compare_descriptors(ours, reference)
    samples = [side.sample() for side in (ours, reference)]
    fitted = [side.vocabulary(sample["values"]) for side, sample in zip((ours, reference), samples, strict=True)]
    vocabularies = [vocabulary for vocabulary, _ in fitted]
    rows += _compare_vocabulary(ours, samples[1]["values"], *vocabularies)
    rows += _compare_vectors(ours, reference, vocabularies[1])
    models, accuracies, seconds = [], [], []
    for side, sample, (vocabulary, fit_s) in zip((ours, reference), samples, fitted, strict=True):
        blocks, encode_s = side.features(vocabulary)
        model, train_s = side.classifier(_split_blocks(blocks, drawn), labels[drawn])
        models.append(model)
        accuracies.append(_accuracies(model, _split_blocks(blocks, rest), labels[rest]))
        seconds.append((float(sample["cpu_s"]), fit_s, encode_s, train_s))
    # The loop ended with the reference's features.
    training = _split_blocks(blocks, drawn)
    same, _ = ours.classifier(training, labels[drawn], "-same")
    objectives = [hinge_objective(one, training, labels[drawn], ours.settings.c) for one in (same, models[1])]
    accuracy = _accuracies(same, _split_blocks(blocks, rest), labels[rest])[0]
    rows += [
        _compared("classifier", "objective, the same features", *objectives),
        _compared("classifier", "mean over classes, %, the same features", accuracy, accuracies[1][0]),
        _compared("end to end", "mean over classes, %", accuracies[0][0], accuracies[1][0]),
        _compared("end to end", "mean over images, %", accuracies[0][1], accuracies[1][1]),
    ]
    for name, *of_stage in zip(("sample", "PCA and mixture", "features", "classifier"), *seconds, strict=True):
        rows.append(_compared("processor time", f"{name}, s", *of_stage))
    return [*rows, _compared("processor time", "all, s", sum(seconds[0]), sum(seconds[1]))]


def compare_coding(ours: Side, reference: Side) -> list[dict[str, Any]]:
    """The rows of the table on sparse coding, of the first classes."""
    photographs, settings = ours.photographs, ours.settings.coding
    labels, seed = photographs.labels, photographs.seed
    chosen = np.flatnonzero(labels < settings.num_classes)
    training = np.isin(chosen, photographs.drawn)

    def describe(side: Side) -> Arrays:
        sets = [
            side.pipeline.describe(
                photographs[index],
                (settings.cell_px,),
                settings.step_px,
                Draw(settings.descriptors_per_image, (seed, index)),
            )
            for index in chosen.tolist()
        ]
        return {
            "values": np.concatenate([one.values for one in sets]),
            "positions": np.concatenate([one.positions for one in sets]),
            "counts": np.array([len(one.values) for one in sets]),
        }

    found, samples, dictionaries, accuracies, seconds = [], [], [], [], []
    for side in (ours, reference):
        described = side.stages.run("coding-descriptors", partial(describe, side))
        ends = np.cumsum(described["counts"])[:-1]
        sets = [
            DescriptorSet(*parts)
            for parts in zip(np.split(described["values"], ends), np.split(described["positions"], ends), strict=True)
        ]
        trained = np.concatenate([one.values for one, is_training in zip(sets, training, strict=True) if is_training])
        order = np.random.default_rng(seed).permutation(len(trained))
        sample, held_out = trained[order[: settings.sample_size]], trained[order[settings.sample_size :][:2000]]
        if len(held_out) == 0:
            raise RequestError(
                f"a dictionary of {settings.sample_size:,} descriptors from {len(trained):,}; allowed is fewer: name a "
                "set of more photographs"
            )

        def learn(side: Side = side, sample: Array = sample) -> Arrays:
            return {"atoms": side.pipeline.fit_dictionary(sample, settings, seed)}

        dictionary = side.stages.run("coding-dictionary", learn)

        def encode(side: Side = side, sets: Any = sets, atoms: Array = dictionary["atoms"]) -> Arrays:
            return {"rows": np.stack([side.pipeline.pool(one, atoms, settings) for one in sets])}

        features = side.stages.run("coding-features", encode)
        model, train_s = side.classifier([features["rows"][training]], labels[chosen[training]], "-coding")
        accuracies.append(_accuracies(model, [features["rows"][~training]], labels[chosen[~training]]))
        seconds.append(float(described["cpu_s"] + dictionary["cpu_s"] + features["cpu_s"]) + train_s)
        found.append(sets)
        samples.append((sample, held_out))
        dictionaries.append(dictionary["atoms"])
    sample, held_out = samples[1]

    def learn_same() -> Arrays:
        return {"atoms": ours.pipeline.fit_dictionary(sample, settings, seed)}

    same = ours.stages.run("coding-dictionary-same", learn_same)["atoms"]
    theirs = dictionaries[1]

    def objective(side: Side, atoms: Array) -> float:
        return coding_objective(
            held_out, side.pipeline.code(held_out, atoms, settings.penalty), atoms, settings.penalty
        )

    by_reference = objective(reference, theirs)
    return [
        _compared("sparse codes", "objective, the same dictionary", objective(ours, theirs), by_reference),
        _compared("dictionary", "objective, own dictionaries", objective(reference, same), by_reference),
        _compared("sparse coding", "mean over classes, %", accuracies[0][0], accuracies[1][0]),
        _compared("sparse coding", "processor time, s", *seconds),
    ]


def compare(data_folder: Path, settings: Settings, seeds: Sequence[int], out: Path) -> dict[str, Any]:
    """Compare both baselines.

    Args:
        data_folder: a prepared set; the training split is used.
        out: the files of the stages, and `result.json`.

    Returns:
        `seeds`: by seed, rows with `stage`, `measure`, `ours`, `reference` and `difference`; and what was compared.

    Raises:
        RequestError: the folder holds stages of other settings or data, or there are too few photographs.
    """
    data = PreparedData.open(data_folder)
    data.require_labels("train")
    if data.num_classes < 3:
        raise RequestError(f"{data_folder} has {data.num_classes} classes; allowed are 3 or more")
    out.mkdir(parents=True, exist_ok=True)
    description = json.loads(json.dumps({"data": data.checksum, "settings": asdict(settings)}))
    stated = out / "settings.json"
    if stated.is_file() and json.loads(stated.read_text()) != description:
        raise RequestError(f"{out} has stages of other data or settings; name another folder with -o")
    stated.write_text(json.dumps(description))
    rows: dict[str, Any] = {}
    cv2.setNumThreads(1)
    with single_threaded_libraries():
        for seed in seeds:
            photographs = Photographs(data, settings.per_class, seed)
            sides = []
            for name, pipeline in ((f"ours-{source_digest()}", Ours()), ("reference", Reference())):
                folder = out / f"seed-{seed}" / name
                folder.mkdir(parents=True, exist_ok=True)
                sides.append(Side(pipeline, Stages(folder), photographs, settings))
            rows[str(seed)] = [*compare_fisher(*sides), *compare_coding(*sides)]
    result = {
        "seeds": rows,
        **description,
        "title": data.title,
        "images": len(data.splits["train"]),
        "machine": machine_summary(),
        "commit": source_commit(),
    }
    (out / "result.json").write_text(json.dumps(result, indent=1))
    return result


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("--data", type=Path, metavar="FOLDER", required=True, help="a prepared set; its training split")
    add_choice(parser, "--settings", tuple(SETTINGS), help="number of patches, Gaussians, atoms")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N", help="of the drawings")
    parser.add_argument("-o", "--out", type=Path, metavar="FOLDER", required=True, help="files of the stages")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    return compare(options.data, SETTINGS[options.settings], options.seeds, options.out)


def print_table(result: Mapping[str, Any]) -> None:
    for seed, rows in result["seeds"].items():
        table = new_table(f"ours and the reference, seed {seed}", "stage measure", ("ours", "reference", "difference"))
        before = ""
        for row in rows:
            numbers = ("-" if row[one] is None else f"{row[one]:,.6g}" for one in ("ours", "reference"))
            table.add_row(
                "" if row["stage"] == before else row["stage"], row["measure"], *numbers, f"{row['difference']:.3g}"
            )
            before = row["stage"]
        TerminalConsole().print_table(table)


def main(words: Sequence[str] | None = None) -> int:
    return run_script(__doc__, add_arguments, measure, print_table, words)


if __name__ == "__main__":
    raise SystemExit(main())
