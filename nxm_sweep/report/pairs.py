"""Trials of two methods side by side: paired by everything that both read, resampled and permuted by SciPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap, permutation_test

from nxm_sweep.report.settings_text import settings_text

Trial = Mapping[str, Any]
ENOUGH = 6
"""Seeds from which a paired permutation test can reach p < 0.05: 2 / 2^6 is the first power that lies below."""
_RESAMPLES = 9999
_TOGETHER = 200  # comparisons that are resampled together
_NUMBERS = 2**20  # of a batch of resamples
_OF_A_METHOD = ("method.", "rho.", "distillation.")


@dataclass(frozen=True)
class Pairs:
    """Pairs of trials: per seed the differences of their reported scores, and the settings of the first that were held."""

    differences: dict[Any, list[float]]
    held: str

    def __len__(self) -> int:
        return sum(map(len, self.differences.values()))

    def by_seed(self) -> dict[Any, float]:
        """Return the mean difference of each seed."""
        return {seed: float(np.mean(values)) for seed, values in self.differences.items()}


def pair(mine: Sequence[Trial], reference: Sequence[Trial], settings: Sequence[str]) -> Pairs:
    """Pair trials by seed and by every setting that both methods read.

    The settings that only one of them reads (rho) are held at those with the best mean selecting score.

    Args:
        mine: Trials of a method in a cell: ``value``, ``selected``, ``seed`` and their settings, None for what is not read.
        reference: Trials of another.
        settings: Names of those that may differ.
    """
    both = [*mine, *reference]
    differing = [name for name in settings if len({trial[name] for trial in both}) > 1 and name != "seed"]
    own = [name for name in differing if name.startswith(_OF_A_METHOD) and any(trial[name] is None for trial in both)]
    shared = [name for name in differing if name not in own]
    held = _held(mine, own)
    sides = [_means(side, shared) for side in (held, _held(reference, own))]
    differences: dict[Any, list[float]] = {}
    for key, value in sides[0].items():
        if key in sides[1]:
            differences.setdefault(key[0], []).append(value - sides[1][key])
    words = settings_text(held[0], [name for name in own if len({trial[name] for trial in mine}) > 1])
    return Pairs(differences, words)


def assess(differences: Sequence[NDArray[np.float64]]) -> list[dict[str, Any]]:
    """Return mean, 95% bootstrap interval (percentiles), p of a paired permutation test (two-sided) and what limits them.

    Comparisons of the same number of seeds are resampled together, which gives the same numbers in a fraction of the time.

    Args:
        differences: Of each comparison, one difference per seed.
    """
    found = [_untested(seeds) for seeds in differences]
    lengths: dict[int, list[int]] = {}
    for place, seeds in enumerate(differences):
        if "note" not in found[place]:
            lengths.setdefault(len(seeds), []).append(place)
    for n, places in lengths.items():
        note = f"{n} seeds: p cannot fall below {2 / 2**n:.2g}, the interval covers {coverage(n):.0%} at most"
        for some in (places[start : start + _TOGETHER] for start in range(0, len(places), _TOGETHER)):
            for place, values in zip(some, _tested(np.stack([differences[place] for place in some])), strict=True):
                found[place] |= {**values, "note": note if n < ENOUGH else ""}
    return found


def _untested(differences: NDArray[np.float64]) -> dict[str, Any]:
    """How many seeds and their mean; a note, if there is nothing to be tested."""
    n = len(differences)
    if n == 0:
        return {"n": 0, "note": "no seed and hyperparameters in common"}
    mean = float(differences.mean())
    if n == 1:
        return {"n": n, "mean": mean, "note": "one seed: no interval, no test"}
    if np.ptp(differences) < 1e-12:
        note = f"all {n} seeds differ by the same amount: no test"
        return {"n": n, "mean": mean, "low": mean, "high": mean, "note": note}
    return {"n": n, "mean": mean}


def _tested(differences: NDArray[np.float64]) -> list[dict[str, float]]:
    """Interval and p of each row of a table with one column per seed."""
    draw, batch = np.random.default_rng(0), max(1, _NUMBERS // differences.size)
    resampled = bootstrap(
        (differences,), np.mean, axis=-1, n_resamples=_RESAMPLES, batch=batch, method="percentile", rng=draw
    )
    test = permutation_test(  # of one sample: of the signs
        (differences,),
        np.mean,
        axis=-1,
        vectorized=True,
        permutation_type="samples",
        n_resamples=_RESAMPLES,
        batch=batch,
        rng=draw,
    )
    interval: Any = resampled.confidence_interval
    return [
        {"low": float(low), "high": float(high), "p": float(p)}
        for low, high, p in zip(interval.low, interval.high, test.pvalue, strict=True)
    ]


def coverage(seeds: int) -> float:
    """Return how often an interval of a bootstrap over so few seeds can hold the true mean, at most.

    It lies between the smallest and the largest difference, which both lie on one side of a symmetric distribution's mean in 2
    of 2^n cases.
    """
    return min(0.95, 1.0 - 2.0 / 2.0**seeds)


def _held(trials: Sequence[Trial], own: Sequence[str]) -> list[Trial]:
    """The trials with the best of a method's own settings, of those with the most trials."""
    groups = list(_grouped(trials, own).values())
    most = max(map(len, groups))
    return max((group for group in groups if len(group) == most), key=_mean_selected)


def _mean_selected(trials: Sequence[Trial]) -> float:
    return float(np.mean([trial["selected"] for trial in trials]))


def _means(trials: Sequence[Trial], shared: Sequence[str]) -> dict[tuple[Any, ...], float]:
    """Per seed and shared settings the mean reported score."""
    groups = _grouped(trials, ["seed", *shared])
    return {key: float(np.mean([trial["value"] for trial in group])) for key, group in groups.items()}


def _grouped(trials: Sequence[Trial], names: Sequence[str]) -> dict[tuple[Any, ...], list[Trial]]:
    groups: dict[tuple[Any, ...], list[Trial]] = {}
    for trial in trials:
        groups.setdefault(tuple(trial[name] for name in names), []).append(trial)
    return groups
