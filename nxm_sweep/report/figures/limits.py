"""Axis limits that no outlier stretches; what lies outside is named with its value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from nxm_sweep.report.figures.style import INK

_FEWEST = 4  # values; fewer have no outlier
_DEVIATIONS = 6.0  # median absolute deviations from the median
_SMALLEST = 1.0  # points of 100: the least deviation that counts as the usual one
_NAMED = 3  # lines named below a panel
_PAD = 0.06  # of the span, on either side


def robust_limits(
    values: Iterable[float], ends: Iterable[float] = (), *, keep: Iterable[float] = ()
) -> tuple[float, float]:
    """Return the limits of an axis of scores.

    Args:
        values: Scores times 100. One more than six median absolute deviations from their median is an outlier and not
            inside, unless there are fewer than four.
        ends: Ends of intervals: inside as far as they lie within one span of the scores.
        keep: Values that are inside in any case: the reference line.
    """
    numbers = _finite(values)
    if not len(numbers):
        return 0.0, 1.0
    middle = float(np.median(numbers))
    deviation = max(_SMALLEST, float(np.median(np.abs(numbers - middle))))
    usual = numbers if len(numbers) < _FEWEST else numbers[np.abs(numbers - middle) <= _DEVIATIONS * deviation]
    inside = np.concatenate([usual, _finite(keep)])
    low, high = float(inside.min()), float(inside.max())
    span = max(high - low, _SMALLEST)
    reaching = np.clip(_finite(ends), low - span, high + span)
    low, high = min([low, *reaching]), max([high, *reaching])
    pad = max(_PAD * (high - low), (_SMALLEST - (high - low)) / 2)
    return low - pad, high + pad


def name_clipped(axes: Axes, lowest: Mapping[str, float]) -> None:
    """Name the lines that leave a panel at the bottom, with their lowest value, in its lower right corner."""
    bottom = axes.get_ylim()[0]
    outside = sorted((value, label) for label, value in lowest.items() if value < bottom)
    if outside:
        texts = [f"{label} {value:.1f}" for value, label in outside[:_NAMED]]
        rest = f" and {len(outside) - _NAMED} more" if len(outside) > _NAMED else ""
        text = f"\u25be {', '.join(texts)}{rest}"
        axes.text(0.99, 0.015, text, transform=axes.transAxes, ha="right", va="bottom", fontsize=6.5, color=INK)


def _finite(values: Iterable[float]) -> NDArray[np.float64]:
    numbers: NDArray[np.float64] = np.fromiter(values, dtype=np.float64)
    return np.asarray(numbers[np.isfinite(numbers)])
