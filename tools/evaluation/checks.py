"""What every metric on feature vectors asks of its arrays, in one place. Owns no metric."""

from collections.abc import Sequence

import numpy as np

from config.errors import UserError


def as_features(
    values: np.ndarray, *, name: str = "features", minimum: int = 2, convert: bool = True
) -> np.ndarray:
    """Return `values` as a finite float64 array (N, D) with N >= `minimum`; without `convert`, of its own float type.

    Raises:
        UserError: not two-dimensional, too few rows, no column, or a value that is NaN or infinite.
    """
    array = np.asarray(values)
    if array.ndim != 2 or array.shape[1] == 0:
        raise UserError(f"{name}: expected an array (images, features), found shape {array.shape}")
    if len(array) < minimum:
        raise UserError(f"{name}: expected at least {minimum} images, found {len(array)}; evaluate more images")
    if convert or not np.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float64)
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        rows = np.flatnonzero(~finite)
        raise UserError(
            f"{name}: {len(rows)} of {len(array)} rows hold NaN or infinite features (the first is row {rows[0]}); "
            "look at that image and at the encoder's weights"
        )
    return array


def as_feature_pair(
    x: np.ndarray, y: np.ndarray, *, minimum: int = 2, convert: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Check two sets of features with `as_features` and that both come from the same space.

    Raises:
        UserError: as `as_features`, or the two have different numbers of columns.
    """
    first = as_features(x, name="first set of features", minimum=minimum, convert=convert)
    second = as_features(y, name="second set of features", minimum=minimum, convert=convert)
    if first.shape[1] != second.shape[1]:
        raise UserError(
            f"expected features of one encoder, found {first.shape[1]} and {second.shape[1]} columns; "
            "encode both sets with the same encoder"
        )
    return first, second


def as_groups(groups: Sequence[str] | np.ndarray, count: int, *, minimum: int = 2) -> tuple[np.ndarray, int]:
    """Number the groups 0..G-1 in order of their names: an int64 array (count,) and G.

    Raises:
        UserError: not one group an image, or fewer than `minimum` groups.
    """
    names = np.asarray(groups)
    if names.shape != (count,):
        raise UserError(f"expected one group for each of {count} images, found {names.shape[0] if names.ndim else 0}")
    unique, numbers = np.unique(names, return_inverse=True)
    if len(unique) < minimum:
        raise UserError(
            f"expected at least {minimum} groups (patients, embryos) to resample, found {len(unique)}; "
            "fill the group column or use more groups"
        )
    return numbers.astype(np.int64), len(unique)
