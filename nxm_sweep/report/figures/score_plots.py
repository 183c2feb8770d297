"""Pictures of scores: by method and task, against rho, learning rate, batch size and number of trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from nxm_sweep.formatting import format_value
from nxm_sweep.report.figures.panels import PANELS, Sheet, make_figure, places, split_series
from nxm_sweep.report.figures.style import (
    FAINT,
    INK,
    Panel,
    Picture,
    legend,
    log_ticks,
    open_figure,
    render_panel,
    truncate,
)
from nxm_sweep.report.frames import CELL
from nxm_sweep.report.table import Entry, Table

SAID = 40
"""Most scores in an alternative text."""
SERIES = 10  # most methods and patterns in one panel
_RATE, _BATCH, _RHO = "learning_rate.value", "training.batch_size", "rho.value"


def cells_of(table: Table) -> pd.DataFrame:
    """Return a row per entry of the table: its cell and, times 100, ``value``, ``low``, ``high`` (NaN: none) and ``scores``."""
    cells = [
        {"task": task.name, "method": row.method, "sparsity": row.sparsity, "model": row.model, **_scale_entry(entry)}
        for task in table.tasks
        for row in table.rows
        if (entry := row.entries.get(task.name)) is not None and entry.value is not None
    ]
    return pd.DataFrame(cells, columns=["task", "method", "sparsity", "model", "value", "low", "high", "scores"])


def _scale_entry(entry: Entry) -> dict[str, Any]:
    """Return value, interval (NaN: none) and each trial's score, times 100."""
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
    panels = [by_task(name, title, model, group, _draw_seeds) for model, group in models[:PANELS]]
    intervals = cells["low"].notna()
    text = "Lines are the table's intervals, ticks the seeds. " if intervals.any() else ""
    if not intervals.all():
        text += "A mark without a line has no interval: the best of one seed, or too few seeds."
    return make_figure(name, title, panels, len(models), text.strip())


def _draw_seeds(axes: Axes, frame: pd.DataFrame, at: NDArray[np.float64]) -> None:
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
    """Draw the cells of a model: a line per task, on it a mark per method and sparsity at ``value``.

    Args:
        name: Picture name.
        title: Picture title.
        model: Panel title.
        group: Its cells.
        behind: Draws behind the marks of a series, from its cells and their heights.
        say: Formats a cell for the alternative text.
    """
    tasks, rows = list(dict.fromkeys(group["task"])), list(split_series(group))
    height = min(14.0, 0.75 + len(tasks) * max(0.3, 0.17 * len(rows)))
    with open_figure(model, "score times 100 (each task's own metric)", "", height=height) as (figure, axes):
        for index, row in enumerate(rows):
            at = row.frame["task"].map(tasks.index).to_numpy(float) + (index - (len(rows) - 1) / 2) * 0.8 / len(rows)
            behind(axes, row.frame, at)
            axes.plot(row.frame["value"], at, linestyle="none", label=row.label, zorder=3, **row.style.marks())
        axes.set_yticks(range(len(tasks)), [truncate(task) for task in tasks])
        axes.set_ylim(len(tasks) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        for line in range(1, len(tasks)):
            axes.axhline(line - 0.5, color=FAINT, linewidth=0.5)
        axes.grid(axis="x")
        legend(axes)
        parts = [f"{truncate(row.task)} {truncate(row.method)} {say(row)}" for row in group.head(SAID).itertuples()]
        return render_panel(figure, f"{name}-{model}", f"{title}, {truncate(model)}: {'; '.join(parts)}.")


def best_cells(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the cells with the best selecting scores, at most :data:`SERIES` per task and model to fit a legend."""
    cells = trials.groupby(CELL, sort=False)["selected"].max().reset_index()
    rank = cells.groupby(["task", "model"])["selected"].rank(ascending=False, method="first")
    return cells.loc[rank <= SERIES, CELL]


def in_order(frame: pd.DataFrame, tasks: Sequence[str]) -> pd.DataFrame:
    """Sort rows by the order of the table's tasks."""
    order = {task: index for index, task in enumerate(tasks)}
    return frame.sort_values("task", key=lambda names: names.map(order).fillna(len(order)), kind="stable")


def plot_rho(trials: pd.DataFrame) -> Picture:
    """Draw the best score at every rho, over all other axes, with each trial as a dot behind."""
    sheet = Sheet("rho", "Sensitivity to rho", "rho (strength of the penalty, no unit)", "score times 100")
    trials = trials.dropna(subset=["value", _RHO]) if _RHO in trials else trials.head(0)
    if trials.empty:
        return sheet.without("no trial has a penalty")
    several = trials.groupby(["task", "model"])[_RHO].transform("nunique") > 1
    if not several.any():
        values = ", ".join(format_value(value) for value in sorted(trials[_RHO].unique()))
        return sheet.without(f"no task was trained with two values of rho (found: {values})")

    def mark(axes: Axes, group: pd.DataFrame) -> str:
        parts = []
        for row in split_series(group):
            best = row.frame.sort_values("rank").groupby(_RHO)["value"].first()
            dots = _thin(row.frame, 60)
            small = {**row.style.marks(), "markersize": 3.5, "markeredgewidth": 0.3, "alpha": 0.6}
            axes.plot(dots[_RHO], dots["value"], linestyle="none", **small)
            axes.plot(best.index, best, label=row.label, linestyle=row.style.line, **row.style.marks())
            parts.append(f"{row.label} {best.max():.1f} at {format_value(best.index[int(best.argmax())])}")
        log_ticks(axes, sorted(group[_RHO].unique()))
        return f"best {'; '.join(parts)}"

    return sheet.draw(
        trials[several],
        mark,
        "Large marks: best over all other axes; small marks: single trials, at most some 60 a line.",
    )


def heat_map(trials: pd.DataFrame) -> Picture:
    """Draw the best score for each learning rate and batch size: a panel per task and model, a band of rows per method."""
    name, title = "learning-rate-and-batch", "Learning rate and batch size"
    known = {_RATE, _BATCH} <= set(trials.columns)
    trials = trials.dropna(subset=["value", _RATE, _BATCH]) if known else trials.head(0)
    if trials.empty or trials[_RATE].nunique() * trials[_BATCH].nunique() < 2:
        return Picture(name, title, words="Left out: all trials have one learning rate and one batch size.")
    groups = list(places(trials))
    panels: list[Panel] = []
    for heading, group in groups[:PANELS]:
        bands = {row.label: row.frame.sort_values("rank") for row in split_series(group)}
        tables = [
            band.pivot_table(index=_BATCH, columns=_RATE, values="value", aggfunc="first") for band in bands.values()
        ]
        best = pd.concat(tables, keys=bands).sort_index(axis="columns")
        up = "method and\nbatch size (rows)"
        with open_figure(heading, "learning rate", up, height=1.0 + max(1.0, 0.2 * len(best))) as (figure, axes):
            _draw_tiles(axes, best, group["value"].min(), group["value"].max())
            tops = {label: band.iloc[0] for label, band in bands.items()}
            parts = [
                f"{label} {top['value']:.1f} at learning rate {format_value(top[_RATE])} "
                f"and batch size {format_value(top[_BATCH])}"
                for label, top in tops.items()
            ]
            panels.append(
                render_panel(figure, f"{name}-{len(panels)}", f"{title}, {heading}: best {'; '.join(parts)}.")
            )
    text = "Best over all other axes; brighter is higher, on one scale per panel; a dash: no trial."
    return make_figure(name, title, panels, len(groups), text)


def _draw_tiles(axes: Axes, best: pd.DataFrame, low: float, high: float) -> None:
    """Draw tiles with their numbers; cividis reads the same with any colour vision."""
    values = best.to_numpy(float)
    span = (high - low) or 1.0
    axes.pcolormesh(
        np.ma.masked_invalid(values), cmap="cividis", vmin=low, vmax=low + span, edgecolor=INK, linewidth=0.4
    )
    for (row, column), value in np.ndenumerate(values):
        color = INK if np.isnan(value) else "#000000" if (value - low) / span > 0.5 else "#ffffff"
        text = "-" if np.isnan(value) else f"{value:.1f}"
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=7, color=color)
    axes.set_xticks(np.arange(best.shape[1]) + 0.5, [format_value(value) for value in best.columns])
    axes.set_yticks(np.arange(best.shape[0]) + 0.5, [f"{label}  {format_value(batch)}" for label, batch in best.index])
    axes.set_ylim(len(best), 0)
    bands = [label for label, _ in best.index]
    for boundary in [boundary for boundary in range(1, len(bands)) if bands[boundary] != bands[boundary - 1]]:
        axes.axhline(boundary, color=INK, linewidth=1.5)
    axes.tick_params(length=0)


def expected_best(expected: pd.DataFrame) -> Picture:
    """Draw the expected best score against the number of trials.

    Args:
        expected: :data:`CELL`, ``trials`` (a count) and ``value``.
    """
    title = "Expected best score against number of trials"
    sheet = Sheet("expected-best", title, "trials drawn (count)", "expected best times 100")
    if expected.empty or expected["trials"].max() < 2:
        return sheet.without("no cell has two trials")

    def mark(axes: Axes, group: pd.DataFrame) -> str:
        parts = []
        for row in split_series(group):
            line = row.frame.sort_values("trials")
            every = max(1, len(line) // 8)
            marks = {**row.style.marks(), "linestyle": row.style.line, "markevery": every}
            axes.plot(line["trials"], line["value"], label=row.label, **marks)
            parts.append(f"{row.label} {line['value'].iloc[-1]:.1f} with {line['trials'].iloc[-1]:g}")
        axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
        return f"expected best {'; '.join(parts)}"

    text = "Drawn without replacement from the trials that were run; each line ends at the cell's best."
    return sheet.draw(expected, mark, text)


def _thin(frame: pd.DataFrame, most: int) -> pd.DataFrame:
    """Keep at most ``most`` trials, evenly by score from the best on: ten thousand dots show no more."""
    frame = frame.sort_values("value", ascending=False, kind="stable")
    return frame.iloc[:: -(-len(frame) // most)]
