"""Pictures of scores: by method and task, against rho, learning rate, batch size and number of trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from nxm_sweep.notation import short
from nxm_sweep.report.cost import cost
from nxm_sweep.report.curves import curves
from nxm_sweep.report.drawing import INK, Panel, Picture, drawing, panel, rates
from nxm_sweep.report.frames import CELL, Report
from nxm_sweep.report.scores import cells_of, scores
from nxm_sweep.report.series import PANELS, Sheet, picture, places, series
from nxm_sweep.report.statistics import Statistics
from nxm_sweep.report.table import Table

_RATE, _BATCH, _RHO = "learning_rate.value", "training.batch_size", "rho.value"
SERIES = 10  # methods and patterns in one panel, at most


def draw(report: Report, table: Table, statistics: Statistics) -> list[Picture]:
    """Return every picture, those too that are left out because their data is missing; scores are times 100."""
    tasks = [task.name for task in table.tasks]
    metrics = {task.name: task.metric for task in table.tasks}
    trials = in_order(report.trials, tasks).assign(value=100 * report.trials["value"])
    trials["metric"] = trials["task"].map(metrics).fillna(trials["metric"])
    best = best_cells(trials)
    shown_trials = trials.merge(best, on=CELL)
    expected = in_order(statistics.expected.merge(best, on=CELL), tasks)
    before, after = curves(report, shown_trials)
    pictures = [
        sensitivity(shown_trials),
        heat_map(shown_trials),
        *before,
        expected_best(expected.assign(value=100 * expected["value"])),
        cost(shown_trials, [name for name in report.hyperparameters() if name != "seed"]),
        *after,
    ]
    if len(shown_trials) < len(trials):
        words = f"Of each task's methods and patterns the best {SERIES} are drawn."
        pictures = [replace(one, words=f"{one.words} {words}") if one.panels else one for one in pictures]
    return [scores(cells_of(table)), *pictures]


def best_cells(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the cells with the best selecting score, at most :data:`SERIES` of a task and model: more no legend can hold."""
    cells = trials.groupby(CELL, sort=False)["selected"].max().reset_index()
    place = cells.groupby(["task", "model"])["selected"].rank(ascending=False, method="first")
    return cells.loc[place <= SERIES, CELL]


def in_order(frame: pd.DataFrame, tasks: Sequence[str]) -> pd.DataFrame:
    """Return the rows in the order of the table's tasks."""
    places = {task: place for place, task in enumerate(tasks)}
    return frame.sort_values("task", key=lambda names: names.map(places).fillna(len(places)), kind="stable")


def sensitivity(trials: pd.DataFrame) -> Picture:
    """Draw the best score at every rho, over all other axes, with each trial as a dot behind it."""
    sheet = Sheet("rho", "Sensitivity to rho", "rho (strength of the penalty, no unit)", "score times 100")
    trials = trials.dropna(subset=["value", _RHO]) if _RHO in trials else trials.head(0)
    if trials.empty:
        return sheet.without("no trial has a penalty")
    several = trials.groupby(["task", "model"])[_RHO].transform("nunique") > 1
    if not several.any():
        found = ", ".join(short(value) for value in sorted(trials[_RHO].unique()))
        return sheet.without(f"no task was trained with two values of rho (found: {found})")

    def mark(axes: Axes, group: pd.DataFrame) -> str:
        said = []
        for row in series(group):
            best = row.frame.sort_values("rank").groupby(_RHO)["value"].first()
            dots = _thinned(row.frame, 60)
            small = {**row.look.marks(), "markersize": 3.5, "markeredgewidth": 0.3, "alpha": 0.6}
            axes.plot(dots[_RHO], dots["value"], linestyle="none", **small)
            axes.plot(best.index, best, label=row.label, linestyle=row.look.line, **row.look.marks())
            said.append(f"{row.label} {best.max():.1f} at {short(best.index[int(best.argmax())])}")
        rates(axes, sorted(group[_RHO].unique()))
        return f"best {'; '.join(said)}"

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
    found = list(places(trials))
    panels: list[Panel] = []
    for heading, group in found[:PANELS]:
        bands = {row.label: row.frame.sort_values("rank") for row in series(group)}
        tables = [
            band.pivot_table(index=_BATCH, columns=_RATE, values="value", aggfunc="first") for band in bands.values()
        ]
        best = pd.concat(tables, keys=bands).sort_index(axis="columns")
        up = "method and\nbatch size (rows)"
        with drawing(heading, "learning rate", up, height=1.0 + max(1.0, 0.2 * len(best))) as (figure, axes):
            _tiles(axes, best, group["value"].min(), group["value"].max())
            tops = {label: band.iloc[0] for label, band in bands.items()}
            said = [
                f"{label} {top['value']:.1f} at learning rate {short(top[_RATE])} and batch size {short(top[_BATCH])}"
                for label, top in tops.items()
            ]
            panels.append(panel(figure, f"{name}-{len(panels)}", f"{title}, {heading}: best {'; '.join(said)}."))
    words = "Best over all other axes; brighter is higher, on one scale per panel; a dash: no trial."
    return picture(name, title, panels, len(found), words)


def _tiles(axes: Axes, best: pd.DataFrame, low: float, high: float) -> None:
    """Coloured tiles with their numbers; cividis reads the same with any colour vision."""
    values = best.to_numpy(float)
    span = (high - low) or 1.0
    axes.pcolormesh(
        np.ma.masked_invalid(values), cmap="cividis", vmin=low, vmax=low + span, edgecolor=INK, linewidth=0.4
    )
    for (row, column), value in np.ndenumerate(values):
        color = INK if np.isnan(value) else "#000000" if (value - low) / span > 0.5 else "#ffffff"
        text = "-" if np.isnan(value) else f"{value:.1f}"
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=7, color=color)
    axes.set_xticks(np.arange(best.shape[1]) + 0.5, [short(value) for value in best.columns])
    axes.set_yticks(np.arange(best.shape[0]) + 0.5, [f"{label}  {short(batch)}" for label, batch in best.index])
    axes.set_ylim(len(best), 0)
    bands = [label for label, _ in best.index]
    for place in [place for place in range(1, len(bands)) if bands[place] != bands[place - 1]]:
        axes.axhline(place, color=INK, linewidth=1.5)
    axes.tick_params(length=0)


def expected_best(expected: pd.DataFrame) -> Picture:
    """Draw the expected best score against the number of trials.

    Args:
        expected: The cell's columns, ``trials`` (a number) and ``value``.
    """
    title = "Expected best score against number of trials"
    sheet = Sheet("expected-best", title, "trials drawn (count)", "expected best times 100")
    if expected.empty or expected["trials"].max() < 2:
        return sheet.without("no cell has two trials")

    def mark(axes: Axes, group: pd.DataFrame) -> str:
        said = []
        for row in series(group):
            line = row.frame.sort_values("trials")
            every = max(1, len(line) // 8)
            marks = {**row.look.marks(), "linestyle": row.look.line, "markevery": every}
            axes.plot(line["trials"], line["value"], label=row.label, **marks)
            said.append(f"{row.label} {line['value'].iloc[-1]:.1f} with {line['trials'].iloc[-1]:g}")
        axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
        return f"expected best {'; '.join(said)}"

    words = "Drawn without replacement from the trials that were run; each line ends at the cell's best."
    return sheet.draw(expected, mark, words)


def _thinned(frame: pd.DataFrame, most: int) -> pd.DataFrame:
    """At most some ``most`` trials, evenly over their scores from the best on: a picture of ten thousand says no more."""
    frame = frame.sort_values("value", ascending=False, kind="stable")
    return frame.iloc[:: -(-len(frame) // most)]
