"""Pictures of scores: by method and task, against rho, learning rate, batch size and number of trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from nxm_sweep.formatting import display_name, format_value
from nxm_sweep.report.figures.limits import name_clipped, robust_limits
from nxm_sweep.report.figures.panels import PANELS, Series, Sheet, make_figure, places, split_series
from nxm_sweep.report.figures.style import (
    INK,
    Panel,
    Picture,
    log_ticks,
    open_figure,
    render_panel,
    style_of,
    truncate,
)
from nxm_sweep.report.frames import CELL
from nxm_sweep.report.table import Entry, Table
from nxm_sweep.report.verdict import Verdict

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
    """Draw every cell's score with its interval: a panel per task and model, a row per method, a line at dense.

    Args:
        cells: As :func:`cells_of` returns them.
    """
    name, title = "scores", "How good is each method?"
    if cells.empty:
        return Picture(name, title, words="no cell has a score")
    intervals = cells["low"].notna()
    text = "The broken line is dense. "
    text += "Horizontal lines are the table's intervals, ticks the seeds. " if intervals.any() else ""
    if not intervals.all():
        text += "A mark without a line has no interval: the best of one seed, or too few seeds."
    return by_method(name, title, cells, _draw_seeds, words=text.strip())


def _draw_seeds(axes: Axes, row: Any, at: float) -> None:
    axes.hlines(at, row.low, row.high, color=INK, linewidth=0.9)
    if len(row.scores) > 1:
        axes.plot(row.scores, [at] * len(row.scores), linestyle="none", marker="|", markersize=6, color=INK)


def by_method(
    name: str,
    title: str,
    cells: pd.DataFrame,
    behind: Callable[[Axes, Any, float], None],
    *,
    words: str,
    say: Callable[[Any], str] = lambda row: f"{row.value:.1f}",
) -> Picture:
    """Draw a panel per task and model: a row per method with its name, mark and number, and a line at dense.

    An outlier does not squeeze the others: its mark is an arrow at the edge.

    Args:
        name: Picture name.
        title: Picture title.
        cells: A row per cell with ``value``, and ``low`` and ``high`` where there is an interval.
        behind: Draws behind a mark, from the cell and its height.
        words: Text beside the panels.
        say: Formats a cell: the number at the right.
    """
    panels: list[Panel] = []
    groups, clipped, is_cut = list(places(cells)), False, False
    for heading, group in groups[:PANELS]:
        ordered: list[tuple[Series, Any]] = [
            (row, one) for row in split_series(group) for one in row.frame.itertuples()
        ]
        dense = group.loc[group["method"] == "dense", "value"]
        ends = [group[end] for end in ("low", "high", "first") if end in group]
        reach = pd.concat(ends) if ends else group["value"]
        low, high = robust_limits(group["value"], reach, keep=dense)
        is_cut |= bool((reach < low).any() or (reach > high).any())
        clipped |= not group["value"].between(low, high).all()
        height = min(14.0, 0.75 + 0.21 * len(ordered))
        with open_figure(heading, "score times 100", "", height=height) as (figure, axes):
            axes.set_xlim(low, high)
            axes.grid(axis="x")
            if len(dense):
                axes.axvline(float(dense.iloc[0]), color=INK, linewidth=0.8, linestyle=(0, (4, 2)))
            for at, (row, cell) in enumerate(ordered):
                behind(axes, cell, at)
                _draw_mark(axes, row, float(cell.value), at)
                axes.text(1.02, at, say(cell), transform=axes.get_yaxis_transform(), va="center", fontsize=7)
            _name_rows(axes, [row.label for row, _ in ordered])
            parts = [f"{row.label} {say(cell)}" for row, cell in ordered[:SAID]]
            panels.append(render_panel(figure, f"{name}-{len(panels)}", f"{title} {heading}: {'; '.join(parts)}."))
    words += " An arrow at the edge is a score outside the axis." if clipped else ""
    words += " A line that ends at the edge goes on outside." if is_cut else ""
    return make_figure(name, title, panels, len(groups), words)


def _draw_mark(axes: Axes, row: Series, value: float, at: float) -> None:
    """Draw a score's mark; outside the axis it is an arrow at the edge."""
    low, high = axes.get_xlim()
    is_out = not low <= value <= high
    marks = {**row.style.marks(), **({"marker": "<" if value < low else ">"} if is_out else {})}
    axes.plot(min(max(value, low), high), at, linestyle="none", zorder=3, clip_on=not is_out, **marks)


def _name_rows(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def differences(verdicts: Sequence[Verdict]) -> Picture:
    """Draw the differences of the best sparse methods to ASP and to dense: a row each, a line at no difference."""
    name, title = "verdict", "The best sparse method against ASP and dense"
    rows = [(verdict, difference) for verdict in verdicts for difference in verdict.differences]
    if not rows:
        return Picture(name, title, words="no sparse method has a reference")
    several = len([verdict for verdict in verdicts if verdict.differences]) > 1
    ends = [end for _, one in rows for end in (one.low, one.high) if end is not None]
    low, high = robust_limits([0.0], keep=[0.0, *(one.mean for _, one in rows), *ends])  # nothing is outside
    methods = {one.method for _, one in rows}
    across = (
        f"{truncate(display_name('method', methods.pop()))} less the reference" if len(methods) == 1 else "difference"
    )
    with open_figure("", f"{across} (points)", "", height=0.55 + 0.24 * len(rows)) as (figure, axes):
        axes.set_xlim(low, high)
        axes.axvline(0.0, color=INK, linewidth=0.8)
        labels, parts = [], []
        for at, (verdict, one) in enumerate(rows):
            if one.low is not None and one.high is not None:
                axes.hlines(at, one.low, one.high, color=INK, linewidth=1.2)
            marks = {**style_of(one.method).marks(), "markersize": 7, "clip_on": False}
            axes.plot(one.mean, at, linestyle="none", zorder=3, **marks)
            axes.text(1.02, at, f"{one.mean:+.1f}", transform=axes.get_yaxis_transform(), va="center", fontsize=8)
            place = f"{truncate(verdict.pattern, 12)} " if several else ""
            place += f"{truncate(verdict.model, 14)} " if len({verdict.model for verdict, _ in rows}) > 1 else ""
            labels.append(f"{place}against {one.reference}")
            parts.append(f"{place}{truncate(verdict.method)} {one.mean:+.1f} against {one.reference} ({one.support})")
        _name_rows(axes, labels)
        panel = render_panel(figure, name, f"{title}: {'; '.join(parts)}.")
    return Picture(name, title, (panel,))


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
    sheet = Sheet("rho", "What does rho change?", "rho (strength of the penalty, no unit)", "score times 100")
    trials = trials.dropna(subset=["value", _RHO]) if _RHO in trials else trials.head(0)
    if trials.empty:
        return sheet.without("no trial has a penalty")
    several = trials.groupby(["task", "model"])[_RHO].transform("nunique") > 1
    if not several.any():
        values = ", ".join(format_value(value) for value in sorted(trials[_RHO].unique()))
        return sheet.without(f"no task was trained with two values of rho (found: {values})")

    def mark(axes: Axes, group: pd.DataFrame) -> str:
        parts, lowest = [], {}
        axes.set_ylim(*robust_limits(group["value"]))
        for row in split_series(group):
            best = row.frame.sort_values("rank").groupby(_RHO)["value"].first()
            dots = _thin(row.frame, 60)
            small = {**row.style.marks(), "markersize": 3.5, "markeredgewidth": 0.3, "alpha": 0.6}
            axes.plot(dots[_RHO], dots["value"], linestyle="none", **small)
            axes.plot(best.index, best, label=row.label, linestyle=row.style.line, **row.style.marks())
            lowest[row.label] = best.min()
            parts.append(f"{row.label} {best.max():.1f} at {format_value(best.index[int(best.argmax())])}")
        log_ticks(axes, sorted(group[_RHO].unique()))
        name_clipped(axes, lowest)
        return f"best {'; '.join(parts)}"

    return sheet.draw(
        trials[several],
        mark,
        "Large marks: best over all other axes; small marks: single trials, at most some 60 a line.",
    )


def heat_map(trials: pd.DataFrame) -> Picture:
    """Draw the best score for each learning rate and batch size: a panel per task and model, a band of rows per method."""
    name, title = "learning-rate-and-batch", "Which learning rate and batch size?"
    known = {_RATE, _BATCH} <= set(trials.columns)
    trials = trials.dropna(subset=["value", _RATE, _BATCH]) if known else trials.head(0)
    if trials.empty or trials[_RATE].nunique() * trials[_BATCH].nunique() < 2:
        return Picture(name, title, words="all trials have one learning rate and one batch size")
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
            panels.append(render_panel(figure, f"{name}-{len(panels)}", f"{title} {heading}: best {'; '.join(parts)}."))
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
    title = "How many trials are worth it?"
    sheet = Sheet("expected-best", title, "trials drawn (count)", "expected best times 100")
    if expected.empty or expected["trials"].max() < 2:
        return sheet.without("no cell has two trials")

    def mark(axes: Axes, group: pd.DataFrame) -> str:
        parts, lowest = [], {}
        axes.set_ylim(*robust_limits(group["value"]))
        for row in split_series(group):
            line = row.frame.sort_values("trials")
            every = max(1, len(line) // 8)
            marks = {**row.style.marks(), "linestyle": row.style.line, "markevery": every}
            axes.plot(line["trials"], line["value"], label=row.label, **marks)
            lowest[row.label] = line["value"].min()
            parts.append(f"{row.label} {line['value'].iloc[-1]:.1f} with {line['trials'].iloc[-1]:g}")
        axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
        name_clipped(axes, lowest)
        return f"expected best {'; '.join(parts)}"

    text = (
        "Of trials drawn without replacement from those that were run (unbiased estimator, Tang et al., 2020); each line "
        "ends at the cell's best."
    )
    return sheet.draw(expected, mark, text)


def _thin(frame: pd.DataFrame, most: int) -> pd.DataFrame:
    """Keep at most ``most`` trials, evenly by score from the best on: ten thousand dots show no more."""
    frame = frame.sort_values("value", ascending=False, kind="stable")
    return frame.iloc[:: -(-len(frame) // most)]
