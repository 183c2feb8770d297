"""The slice of the training set that selects."""

from __future__ import annotations

import pytest

from nxm_sweep.data.loading import heldout_rows
from nxm_sweep.errors import DataError


@pytest.mark.parametrize(
    ("rows", "fraction", "held"), [(100, 0.1, 10), (3667, 0.1, 367), (10, 0.001, 1), (10, 0.999, 9)]
)
def test_the_rows_are_parted_without_loss_or_repetition(rows: int, fraction: float, held: int) -> None:
    trained, heldout = heldout_rows(rows, fraction)
    assert len(heldout) == held
    assert sorted(trained + heldout) == list(range(rows))
    assert trained == sorted(trained)
    assert heldout == sorted(heldout)


def test_every_caller_gets_the_same_slice() -> None:
    assert heldout_rows(20, 0.2) == heldout_rows(20, 0.2)
    assert heldout_rows(20, 0.2)[1] == [7, 8, 11, 15]


def test_the_slice_is_drawn_from_all_of_the_rows() -> None:
    _, held = heldout_rows(1000, 0.1)
    assert all(any(start <= row < start + 200 for row in held) for start in range(0, 1000, 200))


def test_one_row_cannot_be_parted() -> None:
    with pytest.raises(DataError, match="a training set of 1 rows has none to hold out"):
        heldout_rows(1, 0.5)
