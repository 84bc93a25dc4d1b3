"""The nearest orthogonal matrix, roughly, by products alone: what the optimizer `muon` moves convolutions along.

K. Jordan and others, "Muon: an optimizer for hidden layers in neural networks", 2024.
"""

import torch

# Each iteration maps a singular value s to a s + b s^3 + c s^5, which takes all but the smallest near 1 in a few.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 4
# The norm is above that, or the matrix is 0 and stays 0.
_SMALLEST_NORM = 1e-12


def orthogonalized(matrices: torch.Tensor) -> torch.Tensor:
    """U V^T, roughly, of matrices with singular value decompositions U S V^T.

    The singular values of the result are between about 0.6 and 1.2, those below a hundredth of the norm smaller.

    Args:
        matrices: floating point (N, R, C).

    Returns:
        (N, R, C), of the same dtype; zeros for a matrix of zeros.
    """
    a, b, c = _COEFFICIENTS
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices  # (N, r, c) with r <= c: the products of rows are the smaller ones
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(_SMALLEST_NORM)
    for _ in range(_ITERATIONS):
        products = x @ x.mT  # (N, r, r)
        x = torch.baddbmm(x, torch.baddbmm(products, products, products, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x
