"""The slice of the training set that a sensitivity scan scores on. The validation sets have no part in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from datasets import Dataset

from nxm_sweep.training.heldout import heldout_rows


@dataclass(frozen=True, slots=True)
class Seen:
    """Which of the training rows a model was trained on.

    Args:
        first: It saw the first so many; None: all.
        heldout: The share that its trial held out to select by; None: none was.
    """

    first: int | None = None
    heldout: float | None = None


@dataclass(frozen=True, slots=True)
class ScanRows:
    """The slice of the training set that a scan scores on.

    Attributes:
        numbers: The rows' numbers in the training set, ascending.
        seen: How many of them the model was trained on; None if nobody knows.
    """

    numbers: list[int]
    seen: int | None


def scan_rows(rows: int, count: int, seen: Seen | None) -> ScanRows:
    """Return a fixed slice of the training set, of rows that the model has not seen if there are enough.

    Args:
        rows: Size of the training set.
        count: Rows wanted.
        seen: What the model was trained on; None if nobody knows. Of rows held out, the slice is drawn from them alone.

    Raises:
        DataError: There are not two rows.
    """
    if seen is None:
        return ScanRows(_draw(range(rows), count), None)
    if seen.heldout is not None:
        return ScanRows(_draw(heldout_rows(rows, seen.heldout)[1], count), 0)
    trained = min(rows, seen.first or rows)
    if rows - trained >= count:
        return ScanRows(_draw(range(trained, rows), count), 0)
    numbers = _draw(range(rows), count)
    return ScanRows(numbers, sum(number < trained for number in numbers))


def digest_rows(rows: Dataset) -> str:
    """Return the SHA-256 over every text and label, in order."""
    return hashlib.sha256(json.dumps([list(rows[name]) for name in rows.column_names]).encode()).hexdigest()


def _draw(rows: Sequence[int], count: int) -> list[int]:
    """So many of the rows, ascending, always the same."""
    if count >= len(rows):
        return list(rows)
    return [rows[place] for place in heldout_rows(len(rows), count / len(rows))[1]]
