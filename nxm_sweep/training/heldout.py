"""The slice of the training set that selects a model where the validation set is only to be reported."""

from __future__ import annotations

import numpy as np

from nxm_sweep.errors import DataError

_SEED = 20211  # fixed: every method, seed and grid point holds the same rows out


def heldout_rows(rows: int, fraction: float) -> tuple[list[int], list[int]]:
    """Return the numbers of the rows to train on and of those to hold out, both ascending.

    They depend on the number of rows and the fraction alone.

    Args:
        rows: Size of the training set, at least 2.
        fraction: Share to hold out, in (0, 1); at least one row, and at least one stays.

    Raises:
        DataError: There are not two rows.
    """
    if rows < 2:
        raise DataError(f"a training set of {rows} rows has none to hold out", hint="selection=dev")
    count = min(rows - 1, max(1, round(rows * fraction)))
    order = np.random.default_rng(_SEED).permutation(rows)
    return sorted(order[count:].tolist()), sorted(order[:count].tolist())
