"""Differences of methods whose settings were chosen: Student's interval and p, Fieller's ratio, Holm's correction.

A method is scored on a seed with the settings that were best on *other* seeds, so no score takes part in the choice it
is reported for. The estimate averages over every way to pick ``k`` choosing seeds and one more that is scored: a
U-statistic of degree ``k + 1``. Its standard error is the jackknife's over seeds (Arvesen, 1969), which errs upwards;
interval and p are Student's with ``seeds - 1`` degrees of freedom, so they agree. Without a choice, and where all seeds
choose alike, this is the paired t-test.

Simpler procedures are not calibrated. Two equal methods, normal scores, 20,000 simulated sweeps per number: in percent, how
often p is below 0.05 with 3, 6 and 10 seeds. "Flat": all settings are equally good; "sloped": they span 3 standard deviations
of a score.

====================================================  ===============  ================  ================  ================
procedure                                             1 setting each   6 against 1,      6 against 6,      6 against 6,
                                                                       flat              flat              sloped
====================================================  ===============  ================  ================  ================
settings chosen on all seeds, paired t-test           4.8, 4.9, 5.1    7.2, 8.3, 9.2     1.9, 1.1, 0.7     3.8, 3.6, 4.1
chosen on all other seeds, t-test of the differences  5.1, 4.9, 4.9    7.2, 10.1, 13.2   9.5, 16.3, 21.1   10.1, 12.5, 12.6
this                                                  4.9, 4.9, 4.8    2.9, 2.7, 3.1     1.8, 1.2, 1.2     3.5, 4.4, 5.2
====================================================  ===============  ================  ================  ================

The first row favours the method with more settings (7.0, 8.3, 9.1% "above", 0.1 to 0.2% "below"). The second treats
scores as independent although each chose settings for the other: they rise and fall together. Coverage is 100 less
these numbers. ``tests/report/test_calibration.py`` repeats the last row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from math import comb, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

Array = NDArray[np.float64]
LEVEL = 0.95
_CHOOSERS = 3  # most choosing seeds: what a study can afford to tune on
_SETS = 5000  # most sets of choosing seeds
NO_SPREAD = 1e-12
"""Differences with a smaller spread are equal up to rounding."""


@dataclass(frozen=True)
class Estimate:
    """A mean difference with Student's interval and two-sided p; None where the seeds allow neither."""

    mean: float
    low: float | None = None
    high: float | None = None
    p: float | None = None


@cache
def chooser_sets(seeds: int, choice: bool) -> NDArray[np.bool_]:
    """Return the sets of seeds that choose settings, one per row, shape ``(sets, seeds)``.

    All sets have one size: up to three seeds, and at most half of those left when one is scored. Without a choice, one
    empty set. A single seed chooses for itself.
    """
    if not choice:
        return np.zeros((1, seeds), dtype=bool)
    most = max(1, (seeds - 1) // 2)
    size = next(k for k in (_CHOOSERS, 2, 1) if k <= most and (k == 1 or comb(seeds, k) <= _SETS))
    sets = np.zeros((comb(seeds, size), seeds), dtype=bool)
    for row, chosen in enumerate(combinations(range(seeds), size)):
        sets[row, list(chosen)] = True
    return sets


def taking_part(terms: Array, choosers: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which seeds choose or are scored in any known term. Arguments as for :func:`jackknife`."""
    known = ~np.isnan(terms)
    return np.asarray(known.any(axis=0) | choosers[known.any(axis=1)].any(axis=0))


def jackknife(terms: Array, choosers: NDArray[np.bool_]) -> tuple[float, Array]:
    """Return the mean of the terms and each participating seed's pseudo-value, NaN where no term is left without it.

    Args:
        terms: Difference per set of choosing seeds and scored seed, NaN where missing. Shape ``(sets, seeds)``.
        choosers: Which seeds choose. Same shape.
    """
    part = taking_part(terms, choosers)
    if not part.all():  # a seed without a term would count as one without spread
        rows = ~choosers[:, ~part].any(axis=1)
        terms, choosers = terms[rows][:, part], choosers[rows][:, part]
    known = ~np.isnan(terms)
    filled = np.where(known, terms, 0.0)
    with_seed, count_with_seed = (
        table.sum(axis=0) + choosers.T.astype(float) @ table.sum(axis=1) for table in (filled, known.astype(float))
    )
    total, count, seeds = filled.sum(), known.sum(), terms.shape[1]
    left = count - count_with_seed
    without_seed = np.divide(total - with_seed, left, out=np.full(seeds, np.nan), where=left > 0.5)
    mean = float(total / count) if count else float("nan")
    if seeds == 1:
        return mean, np.full(1, mean)
    return mean, seeds * mean - (seeds - 1) * without_seed


def estimate(terms: Array, choosers: NDArray[np.bool_]) -> Estimate:
    """Return the mean of the terms (as :func:`jackknife` takes them) with interval and p.

    One seed, two seeds that choose for each other, and equal differences on all seeds give only a mean.
    """
    mean, values = jackknife(terms, choosers)
    if len(values) < 2 or np.isnan(values).any() or np.ptp(values) < NO_SPREAD:
        return Estimate(mean)
    error = float(values.std(ddof=1)) / sqrt(len(values))
    reach = critical(len(values)) * error
    return Estimate(mean, mean - reach, mean + reach, float(2.0 * stdtr(len(values) - 1, -abs(mean) / error)))


def ratio(numerator: Array, denominator: Array, choosers: NDArray[np.bool_]) -> tuple[float, float, float] | None:
    """Return the ratio of two means over the same seeds with its 95% interval; None where that is unbounded.

    The interval holds every ratio r for which Student's test does not reject that ``numerator - r * denominator`` is 0 on
    average. It is bounded if the denominator's own interval excludes 0, and only then is a ratio returned.

    Args:
        numerator: Terms as :func:`jackknife` takes them.
        denominator: Terms of the same shape.
        choosers: Which seeds choose.

    Source: Fieller (1954), "Some problems in interval estimation".
    """
    (top, tops), (bottom, bottoms) = jackknife(numerator, choosers), jackknife(denominator, choosers)
    if len(tops) < 2 or np.isnan([*tops, *bottoms]).any() or np.ptp(bottoms) < NO_SPREAD:
        return None
    variance = np.cov(tops, bottoms) / len(tops) * critical(len(tops)) ** 2
    a, b, c = bottom**2 - variance[1, 1], top * bottom - variance[0, 1], top**2 - variance[0, 0]
    if a <= 0.0:
        return None
    root = sqrt(max(0.0, b * b - a * c))
    return top / bottom, float((b - root) / a), float((b + root) / a)


@cache
def critical(seeds: int) -> float:
    """Return Student's two-sided critical value at :data:`LEVEL` for a mean over ``seeds`` seeds."""
    return float(stdtrit(seeds - 1, (1.0 + LEVEL) / 2.0))


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Return p-values corrected for their number; None stays None and does not count.

    Source: Holm (1979), "A simple sequentially rejective multiple test procedure".
    """
    tested = sorted((value, index) for index, value in enumerate(p) if value is not None)
    corrected: list[float | None] = [None] * len(p)
    largest = 0.0
    for rank, (value, index) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * value))
        corrected[index] = largest
    return corrected
