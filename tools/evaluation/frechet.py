"""The Fréchet distance between two sets of features. Owns the formula; which encoder gave the features, and hence
what the number may be called, is the encoder's business."""

import numpy as np

from tools.evaluation.checks import as_feature_pair

_BLOCK_ROWS = 8192  # features beyond these are folded block by block, so that they are never all held in float64


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
    x, y = as_feature_pair(x, y, convert=False)
    mean_x, a = _moments(x)
    mean_y, b = _moments(y)
    shift = mean_x - mean_y
    overlap = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    distance = shift @ shift + np.sum(a * a) + np.sum(b * b) - 2.0 * overlap
    return float(max(distance, 0.0))  # rounding alone can take it below zero


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean (D,) and a matrix F (min(N, D), D) with F^T F equal to the unbiased covariance, float64."""
    if len(values) <= _BLOCK_ROWS:
        values = values.astype(np.float64)
        mean = values.mean(axis=0)
        factor = (values - mean) / np.sqrt(len(values) - 1)
        return mean, np.linalg.qr(factor, mode="r") if factor.shape[0] > factor.shape[1] else factor
    blocks = [slice(start, start + _BLOCK_ROWS) for start in range(0, len(values), _BLOCK_ROWS)]
    mean = np.sum([values[rows].astype(np.float64).sum(axis=0) for rows in blocks], axis=0) / len(values)
    folded = np.empty((0, values.shape[1]))
    for rows in blocks:
        centred = (values[rows].astype(np.float64) - mean) / np.sqrt(len(values) - 1)
        folded = np.linalg.qr(np.concatenate([folded, centred]), mode="r")
    return mean, folded
