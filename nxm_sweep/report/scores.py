"""The picture of scores by method and task: a line per task, a mark per method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from nxm_sweep.report.drawing import FAINT, INK, Panel, Picture, drawing, legend, panel, shown
from nxm_sweep.report.series import PANELS, picture, series
from nxm_sweep.report.table import Entry, Table

SAID = 40
"""Scores that an alternative text lists."""


def cells_of(table: Table) -> pd.DataFrame:
    """Return a row per entry of the table: its cell and, times 100, ``value``, ``low``, ``high`` (NaN: none) and ``scores``."""
    cells = [
        {"task": task.name, "method": row.method, "sparsity": row.sparsity, "model": row.model, **_hundredfold(entry)}
        for task in table.tasks
        for row in table.rows
        if (entry := row.entries.get(task.name)) is not None and entry.value is not None
    ]
    return pd.DataFrame(cells, columns=["task", "method", "sparsity", "model", "value", "low", "high", "scores"])


def _hundredfold(entry: Entry) -> dict[str, Any]:
    """Value, interval (NaN where there is none) and each trial's score, times 100."""
    values = {"value": entry.value, "low": entry.low, "high": entry.high}
    numbers = {name: np.nan if value is None else 100 * value for name, value in values.items()}
    return {**numbers, "scores": tuple(100 * score for score in entry.scores)}


def scores(cells: pd.DataFrame) -> Picture:
    """Draw every cell's score with its interval: a panel per model, a line per task, a mark per method and sparsity.

    Args:
        cells: As :func:`cells_of` returns them.
    """
    name, title = "scores", "Scores by method and task"
    if cells.empty:
        return Picture(name, title, words="Left out: no cell has a score.")
    models = [(str(model), group) for model, group in cells.groupby("model", sort=False)]
    panels = [by_task(name, title, model, group, _seeds) for model, group in models[:PANELS]]
    intervals = cells["low"].notna()
    words = "Lines are the table's intervals, ticks the seeds. " if intervals.any() else ""
    if not intervals.all():
        words += "A mark without a line has no interval: the best of one seed, or too few seeds."
    return picture(name, title, panels, len(models), words.strip())


def _seeds(axes: Axes, frame: pd.DataFrame, at: NDArray[np.float64]) -> None:
    axes.hlines(at, frame["low"], frame["high"], color=INK, linewidth=0.9)
    for line, each in zip(at, frame["scores"], strict=True):
        if len(each) > 1:
            axes.plot(each, [line] * len(each), linestyle="none", marker="|", markersize=6, color=INK)


def by_task(
    name: str,
    title: str,
    model: str,
    group: pd.DataFrame,
    behind: Callable[[Axes, pd.DataFrame, NDArray[np.float64]], None],
    *,
    say: Callable[[Any], str] = lambda row: f"{row.value:.1f}",
) -> Panel:
    """Draw the cells of a model: a line per task, in it a mark per method and sparsity at ``value``.

    Args:
        name: Of the picture.
        title: Of the picture.
        model: Title of the panel.
        group: Its cells.
        behind: Draws what stands behind the marks of a series: its cells, and at which heights they are.
        say: What the alternative text says of a cell.
    """
    tasks, rows = list(dict.fromkeys(group["task"])), list(series(group))
    height = min(14.0, 0.75 + len(tasks) * max(0.3, 0.17 * len(rows)))
    with drawing(model, "score times 100 (each task's own metric)", "", height=height) as (figure, axes):
        for place, row in enumerate(rows):
            at = row.frame["task"].map(tasks.index).to_numpy(float) + (place - (len(rows) - 1) / 2) * 0.8 / len(rows)
            behind(axes, row.frame, at)
            axes.plot(row.frame["value"], at, linestyle="none", label=row.label, zorder=3, **row.look.marks())
        axes.set_yticks(range(len(tasks)), [shown(task) for task in tasks])
        axes.set_ylim(len(tasks) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        for line in range(1, len(tasks)):
            axes.axhline(line - 0.5, color=FAINT, linewidth=0.5)
        axes.grid(axis="x")
        legend(axes)
        said = [f"{shown(row.task)} {shown(row.method)} {say(row)}" for row in group.head(SAID).itertuples()]
        return panel(figure, f"{name}-{model}", f"{title}, {shown(model)}: {'; '.join(said)}.")
