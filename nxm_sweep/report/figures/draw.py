"""Draw every picture of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nxm_sweep.report.figures.cost import cost
from nxm_sweep.report.figures.score_plots import (
    SERIES,
    best_cells,
    cells_of,
    differences,
    expected_best,
    heat_map,
    in_order,
    plot_rho,
    scores,
)
from nxm_sweep.report.figures.style import Picture
from nxm_sweep.report.figures.training_curves import curves
from nxm_sweep.report.frames import CELL, Report
from nxm_sweep.report.statistics import Statistics
from nxm_sweep.report.table import Table
from nxm_sweep.report.verdict import Verdict


def draw(report: Report, table: Table, statistics: Statistics, verdicts: Sequence[Verdict]) -> list[Picture]:
    """Return every picture, that of the verdict first, including those without data; scores are times 100."""
    tasks = [task.name for task in table.tasks]
    metrics = {task.name: task.metric for task in table.tasks}
    trials = in_order(report.trials, tasks).assign(value=100 * report.trials["value"])
    trials["metric"] = trials["task"].map(metrics).fillna(trials["metric"])
    best = best_cells(trials)
    shown_trials = trials.merge(best, on=CELL)
    expected = in_order(statistics.expected.merge(best, on=CELL), tasks)
    before, after = curves(report, shown_trials)
    pictures = [
        plot_rho(shown_trials),
        heat_map(shown_trials),
        *before,
        expected_best(expected.assign(value=100 * expected["value"])),
        cost(shown_trials, [name for name in report.hyperparameters() if name != "seed"]),
        *after,
    ]
    if len(shown_trials) < len(trials):
        note = f"The best {SERIES} of each task."
        pictures = [replace(one, words=f"{one.words} {note}") if one.panels else one for one in pictures]
    return [differences(verdicts), scores(cells_of(table)), *pictures]
