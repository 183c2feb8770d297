"""What a reader of the scores must know before quoting them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from nxm_sweep.notation import short
from nxm_sweep.report.frames import CELL, Report
from nxm_sweep.report.predictions import is_constant

_AXES = ("learning_rate.value", "rho.value")  # others only where three values or more were tried
_DEVIATIONS, _LOSS = (
    10.0,
    0.05,
)  # median absolute deviations, and in the metric's unit: below both lies a seed that failed
_FEW = 6  # seeds below which a difference's distribution cannot be looked at
_NOT_AXES = ("seed", "training.batch_size")


def cautions(report: Report, differences: pd.DataFrame) -> Iterator[str]:
    """Yield the warnings: too few seeds, constant scores, seeds that failed, best values at an axis's edge."""
    trials = report.trials
    compared = differences[differences["n"] > 0]
    if len(compared) and (fewest := int(compared["n"].min())) < _FEW:
        most = min(int(compared["n"].max()), _FEW - 1)
        counts = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        why = "Student's interval over so few assumes normal differences: a seed that fails now and then is not in it."
        yield f"Differences rest on {counts} seed{'s' if most > 1 else ''}: {'there is no test.' if most == 1 else why}"
    yield from _collapsed(trials)
    yield from _failed(trials, [name for name in report.hyperparameters() if name != "seed"])
    for axis in report.hyperparameters():
        if axis in _NOT_AXES or not _is_number(trials[axis]) or trials[axis].nunique() < 2:
            continue
        at_edge = list(_at_edge(trials, axis))
        if at_edge:
            yield f"The best lies at an edge of {axis}, so a wider grid may be better: {'; '.join(at_edge)}."


def _collapsed(trials: pd.DataFrame) -> Iterator[str]:
    """Name the cells with trials that learned nothing.

    They do not beat the constant answer. Of records that do not hold its score, they all scored the same, or the best of them
    gives every row the same answer.
    """
    constant, value, rank = (trials[name].to_numpy(dtype=float) for name in ("constant", "value", "rank"))
    is_below = (trials["beats_constant"] == False).to_numpy(dtype=bool)  # noqa: E712 - None is unknown
    places, cells = trials.groupby(CELL, sort=False).indices, trials[CELL].drop_duplicates()
    for names in cells.itertuples(index=False, name=None):  # arrays: cutting a frame into its cells takes seconds
        cell, place, why = np.asarray(places[names]), " ".join(map(str, names)), "the training may have collapsed"
        below, unknown = cell[is_below[cell]], cell[np.isnan(constant[cell])]
        if len(below):
            constants = dict.fromkeys(f"{100 * score:.1f}" for score in sorted(constant[below]))
            of_cell = f"{len(below)} of {len(cell)} trial{'s' if len(cell) > 1 else ''} of {place}"
            do = "does" if len(below) == 1 else "do"
            yield f"{of_cell} {do} not beat the constant answer ({', '.join(constants)}): {why}."
        if len(unknown) > 1 and len(set(value[unknown])) == 1:
            yield f"All {len(unknown)} trials of {place} scored {value[unknown[0]]:.4f}: {why}."
        elif len(unknown) and is_constant(Path(trials["path"].iloc[unknown[rank[unknown].argmin()]]).parent):
            yield f"The best trial of {place} gives every row the same answer: {why}."


def _failed(trials: pd.DataFrame, settings: list[str]) -> Iterator[str]:
    """Name the seeds that scored so far below the others of their settings that they may have failed, and move every mean."""
    point = trials.groupby([*CELL, *settings], dropna=False, sort=False).ngroup()
    scores = trials["value"].groupby(point)
    middle, count = scores.transform("median"), scores.transform("size")
    spread = (trials["value"] - middle).abs().groupby(point).transform("median")
    failed = (count > 2) & (trials["value"] < middle - np.maximum(_DEVIATIONS * spread, _LOSS))
    for row in trials.assign(middle=middle, count=count)[failed].to_dict("records"):
        cell = " ".join(str(row[name]) for name in CELL)
        yield (
            f"Seed {short(row['seed'])} of {cell} scored {100 * row['value']:.1f}, far below the median "
            f"{100 * row['middle']:.1f} of {row['count']} seeds: its training may have failed, and it moves the mean."
        )


def _at_edge(trials: pd.DataFrame, axis: str) -> Iterator[str]:
    """The cells whose best trial has the lowest or the highest value tried of an axis."""
    for names, cell in trials[[*CELL, axis, "rank"]].groupby(CELL, sort=False):
        values = np.sort(cell[axis].dropna().unique())
        best = cell[axis].to_numpy()[cell["rank"].to_numpy().argmin()]
        if len(values) > (1 if axis in _AXES else 2) and best in (values[0], values[-1]):
            yield f"{' '.join(map(str, names))}: {short(best)}, the {'lowest' if best == values[0] else 'highest'}"


def _is_number(column: pd.Series[float]) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
