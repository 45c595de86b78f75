"""The Fréchet distance between two sets of features. Owns the formula; which encoder gave the features, and hence
what the number may be called, is the encoder's business."""

import numpy as np

from tools.evaluation.checks import as_feature_pair


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Fréchet distance between the Gaussians fitted to features `x` (N, D) and `y` (M, D), in float64.

    With A = (x - mean(x)) / sqrt(N - 1) and B likewise, trace((C_x C_y)^(1/2)) is the nuclear norm of A B^T, so

        FD = |mean(x) - mean(y)|^2 + |A|_F^2 + |B|_F^2 - 2 |A B^T|_*

    which is real and indifferent to the rank of the covariances. Rows beyond D are first folded by a QR
    decomposition, so that the singular values are those of at most a min(N, D) x min(M, D) matrix.

    Raises:
        UserError: NaN or infinite features, fewer than two images, or different numbers of columns.

    Source: Heusel et al. 2017, arXiv 1706.08500, equation 6, with unbiased covariances.
    """
    x, y = as_feature_pair(x, y)
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    a, b = _factor(x - mean_x), _factor(y - mean_y)
    shift = mean_x - mean_y
    overlap = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    distance = shift @ shift + np.sum(a * a) + np.sum(b * b) - 2.0 * overlap
    return float(max(distance, 0.0))  # rounding alone can take it below zero


def _factor(centred: np.ndarray) -> np.ndarray:
    """A matrix F (min(N, D), D) with F^T F equal to the unbiased covariance."""
    factor = centred / np.sqrt(len(centred) - 1)
    if factor.shape[0] > factor.shape[1]:
        factor = np.linalg.qr(factor, mode="r")
    return factor
