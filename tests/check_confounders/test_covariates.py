"""Columns of text are told apart by content, and encoded so that nothing of them is lost to a linear reading."""

import numpy as np
import pytest

from tools.check_confounders.covariates import encode_covariate


@pytest.mark.parametrize(("cells", "kind"), [
    (["A", "B", "A", "C"], "category"),
    (["1", "2", "3", "1"], "category"),  # clinic codes
    ([str(number / 7) for number in range(30)], "number"),
    (["2024-01-31", "2024-02-01", "2023-12-24", "2024-01-31"], "date"),
    (["31.01.2024", "01.02.2024", "24.12.2023", ""], "date"),
    (["01/31/2024", "02/01/2024"], "date"),
    (["20240131", "20240201"], "date"),
    (["2024-01-31", "soon", "2024-01-31"], "category"),
    (["same", "same"], "constant"),
    (["", "NA"], "constant"),
    ([f"oocyte {number}" for number in range(20)], "identifier"),
])
def test_kinds(cells: list[str], kind: str) -> None:
    column = encode_covariate("c", cells)
    assert column.kind == kind
    assert column.values.shape[0] == len(cells) and np.isfinite(column.values).all()
    assert (column.values.shape[1] == 0) == (kind in ("constant", "identifier")) == (column.note is not None)


def test_categories_become_indicators() -> None:
    values = encode_covariate("microscope", ["B", "A", "B", "?"]).values
    assert values.tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]]  # the most frequent first, blank last


def test_numbers_become_ranks_and_quintiles_and_dates_follow_the_calendar() -> None:
    numbers = encode_covariate("age", [str(1.5**n) for n in range(20)]).values
    assert numbers[:, 0] == pytest.approx((np.arange(20) + 0.5) / 20)
    assert numbers[:, 1:].sum(axis=1).tolist() == [1] * 20 and numbers[:, 1:].sum(axis=0).tolist() == [4] * 5
    dates = encode_covariate("day", ["02.01.2024", "01.02.2023", "03.01.2024", "-"]).values
    assert dates[1, 0] < dates[0, 0] < dates[2, 0]
    assert dates[3].tolist() == [0.5, 0, 0, 0, 0, 0, 1]


def test_rare_categories_beyond_fifty_are_said_not_to_be_told_apart() -> None:
    column = encode_covariate("operator", [f"op{number % 60}" for number in range(200)])
    assert column.values.shape == (200, 50) and "60 values, of which only the 50 most frequent" in column.note
