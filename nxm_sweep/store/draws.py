"""Drawn points of a search with several seeds: their trainings, means and counts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Protocol, TypeVar

from nxm_sweep.formatting import format_score, format_values
from nxm_sweep.store.records import best_of

SEED = "seed"


class Training(Protocol):
    """One training of a plan."""

    @property
    def identity(self) -> str:
        """Identity of the trial."""

    @property
    def values(self) -> Mapping[str, Any]:
        """Values of the axes, including the seed."""


T = TypeVar("T", bound=Training)


@dataclass(frozen=True)
class Mean:
    """Mean of a drawn point over the seeds that have a record, ``counted`` of ``seeds``; the others failed for good."""

    value: float
    values: Mapping[str, Any]
    counted: int
    seeds: int


def best_mean(
    trainings: Iterable[T],
    seeds: int,
    scores: Mapping[str, float | None],
    failed: Collection[str],
    epoch_of: Callable[[T], float],
) -> Mean | None:
    """Return the drawn point with the best mean, ranked by :func:`~nxm_sweep.store.records.rank_key` on mean epochs.

    None if no point is finished.

    A point counts once each of its seeds has a score or has failed for good, so that no single lucky seed wins.

    Args:
        trainings: Trainings of one cell.
        seeds: Number of seeds per point.
        scores: Score of the record, by identity.
        failed: Identities that have failed for good.
        epoch_of: Returns the epoch of a training's score.
    """
    points: dict[tuple[tuple[str, Any], ...], list[T]] = {}
    for training in trainings:
        key = tuple((name, value) for name, value in training.values.items() if name != SEED)
        points.setdefault(key, []).append(training)
    means = []
    for key, members in points.items():
        known = [member for member in members if scores.get(member.identity) is not None]
        settled = len(known) + sum(member.identity in failed for member in members)
        if known and settled == seeds:
            means.append((fmean(scores[member.identity] or 0.0 for member in known), (key, known)))
    best = best_of(means, lambda point: fmean(map(epoch_of, point[1])))
    return None if best is None else Mean(best[0], dict(best[1][0]), len(best[1][1]), seeds)


def format_mean(mean: Mean | None) -> tuple[str, str]:
    """Format a drawn point's mean, and its values with the number of seeds."""
    if mean is None:
        return format_score(None), ""
    counted = f"{mean.seeds}" if mean.counted == mean.seeds else f"{mean.counted} of {mean.seeds}"
    return format_score(mean.value), f"{format_values(mean.values)}, mean over {counted} seeds"


def format_count(cells: Iterable[tuple[int, int]]) -> str:
    """Format the size of a sweep: ``12 points``, or ``4 points x 3 seeds = 12 trainings``.

    Args:
        cells: Per cell ``(trainings, seeds)``; seeds per drawn point of a search, else 0.
    """
    counts = list(cells)
    total, seeds = sum(trainings for trainings, _ in counts), {number for _, number in counts}
    if seeds <= {0}:
        return f"{total} points"
    if len(seeds) > 1:
        return f"{total} trainings"
    (number,) = seeds
    return f"{total // number} points x {number} seeds = {total} trainings"
