"""Tests of trials example by example, from their kept predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from nxm_sweep.store.files import read_json
from nxm_sweep.store.paths import PREDICTIONS


def mcnemar(first: Path, second: Path) -> float | None:
    """Return McNemar's exact two-sided p of two trials' kept predictions; None if they are not comparable.

    The validation sets of a task are pooled.

    Args:
        first: A trial's folder, with ``predictions.json``.
        second: Another one's, on the same rows.
    """
    kept = [_read_predictions(folder) for folder in (first, second)]
    if kept[0] is None or kept[1] is None or not np.array_equal(kept[0][0], kept[1][0]):
        return None
    right = [pair[0] == pair[1] for pair in kept if pair is not None]
    only_first, only_second = int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second).pvalue)


def is_constant(folder: Path) -> bool:
    """Return whether a trial's kept predictions are all one class; False without predictions."""
    kept = _read_predictions(folder)
    return kept is not None and len(kept[1]) > 1 and len(np.unique(kept[1])) == 1


def _read_predictions(folder: Path) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Read labels and predicted classes; None without them, or for a regression, which has no right or wrong."""
    try:
        sets = read_json(folder / PREDICTIONS)["sets"]
        labels, predictions = (
            np.concatenate([np.asarray(sets[name][which]) for name in sorted(sets)])
            for which in ("labels", "predictions")
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    classes = labels.ndim == 1 and labels.dtype.kind in "iu" and predictions.dtype.kind in "iu"
    return (labels, predictions) if classes and labels.shape == predictions.shape else None
