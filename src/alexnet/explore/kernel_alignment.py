"""Centered kernel alignment: how similarly two layers, of any sizes, represent the same images."""

import numpy as np
from numpy.typing import ArrayLike

from alexnet.errors import RequestError
from alexnet.explore.activation_rows import ActivationRows, require_equal_lengths, row_blocks


def cka(first: ArrayLike, second: ArrayLike, *, debiased: bool = False) -> float:
    """Linear centered kernel alignment (Kornblith et al., 2019) of two layers' activations for the same N images.

    With centered rows X and Y, K = X Xᵀ and L = Y Yᵀ, it is sum(K ∘ L) / sqrt(sum(K ∘ K) sum(L ∘ L)), 0..1. Rotations,
    reflections and a common scale of the units do not change it, other linear maps do. With fewer images than units it
    is too large: of unrelated noise it approaches 1. The debiased form replaces each sum by the unbiased estimator of
    the Hilbert-Schmidt independence criterion (Song et al., 2012; Nguyen, Raghu and Kornblith, 2021), which leaves out
    the products of an image with itself; of unrelated activations it is 0 on average, and may be below: -1..1.

    Computed in float64 from blocks of at most 128 MiB of rows and of their products, in N² (D1 + D2) operations.

    Args:
        first: (N, ...): an array, or one of `Features.activations`; those of a layer with positions are flattened.
        second: (N, ...) of the same images, see `require_same_images`.
        debiased: needs 4 or more images.

    Raises:
        RequestError: different numbers of images, too few, activations that are not finite, or that do not vary enough
            for the denominator to be positive.
    """
    a, b = ActivationRows(first, "the first activations"), ActivationRows(second, "the second activations")
    require_equal_lengths("the activations", [len(a), len(b)])
    num, least = len(a), 4 if debiased else 2
    if num < least:
        raise RequestError(f"the activations are of {num} images; allowed is {least} or more")
    means = a.mean(), b.mean()
    sums = np.zeros(3)  # of K ∘ L, K ∘ K, L ∘ L; debiased: off the diagonal
    diagonals = np.zeros((2, num))
    blocks = row_blocks(a, b)
    for rows in blocks:
        x, y = a.block(rows) - means[0], b.block(rows) - means[1]
        diagonals[:, rows] = (x * x).sum(axis=1), (y * y).sum(axis=1)
        for columns in blocks:
            if columns.start < rows.start:
                continue
            is_same = columns == rows
            k = x @ (x if is_same else a.block(columns) - means[0]).T
            m = y @ (y if is_same else b.block(columns) - means[1]).T
            if is_same and debiased:
                np.fill_diagonal(k, 0)
                np.fill_diagonal(m, 0)
            sums += (1 if is_same else 2) * np.array([np.vdot(k, m), np.vdot(k, k), np.vdot(m, m)])
    if debiased:
        # The rows of a centered K sum to 0, those without its diagonal to minus the diagonal.
        for index, (one, other) in enumerate(((0, 1), (0, 0), (1, 1))):
            of_totals = diagonals[one].sum() * diagonals[other].sum() / ((num - 1) * (num - 2))
            sums[index] += of_totals - 2 / (num - 2) * (diagonals[one] @ diagonals[other])
    for rows_of, mean, own, diagonal in ((a, means[0], sums[1], diagonals[0]), (b, means[1], sums[2], diagonals[1])):
        # Activations that are constant but for rounding, or a debiased sum that is not positive.
        if diagonal.sum() <= 1e-26 * num * (mean @ mean) or own <= 1e-12 * (diagonal @ diagonal):
            raise RequestError(
                f"{rows_of.name} of {num} images vary too little, or the images are too few, for CKA to be defined; "
                "use more images"
            )
    # Of equal activations, rounding may lead beyond 1.
    return float(np.clip(sums[0] / np.sqrt(sums[1] * sums[2]), -1 if debiased else 0, 1))
