"""Notes, warnings and findings of a report, as sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from nxm_sweep.formatting import display_name, format_score, format_value
from nxm_sweep.report.frames import BUDGET, CELL, Report
from nxm_sweep.report.labels import MARK
from nxm_sweep.report.pairing import NONE, OTHER_SEEDS, SAME_SEED
from nxm_sweep.report.predictions import is_constant
from nxm_sweep.settings import PRECISION

_ENTRY = {
    "best": "An entry is the best of its cell's trials, by the score that selected it.",
    "seed": (
        "An entry is the mean over the seeds of the best hyperparameters (of those with the most seeds), ± half of Student's "
        "95% interval."
    ),
}
_AXES = ("learning_rate.value", "rho.value")  # others only where three values or more were tried
_DEVIATIONS, _LOSS = (
    10.0,
    0.05,
)  # median absolute deviations, and in the metric's unit: a failed seed is below both
_FEW = 6  # seeds; fewer do not show the distribution of a difference
_NOT_AXES = ("seed", "training.batch_size")
_CHOSEN_ON = {"dev": "the reported rows", "heldout": "held-out training rows"}


class Note(str):
    """A sentence beside the results table.

    Attributes:
        of_one_table: Whether it is about that table only, and not about the trials that a comparison of two shares.
    """

    __slots__ = ("of_one_table",)
    of_one_table: bool

    def __new__(cls, text: str, *, of_one_table: bool = False) -> Self:
        note = super().__new__(cls, text)
        note.of_one_table = of_one_table
        return note


def table_notes(
    report: Report, by: str, *, optimistic: bool, tasks: Sequence[str], averaged: Sequence[str]
) -> Iterator[str]:
    """Yield the table's notes.

    Args:
        report: Frames as read.
        by: ``best`` or ``seed``.
        optimistic: Whether an entry was selected on the reported rows.
        tasks: The columns' labels.
        averaged: Labels of the averaged tasks.
    """
    yield Note("Scores times 100; a column's head names the metric and the number of training rows.", of_one_table=True)
    yield "Tasks with two metrics count with their mean, MNLI with the mean of m and mm (GLUE's rule)."
    if report.last_epoch:
        yield "Scored at the last epoch: none was selected."
    if optimistic:
        epoch, protocol = ("", "") if report.last_epoch else ("epoch and ", "the paper's protocol; ")
        yield (
            f"Optimistic: {epoch}hyperparameters were selected on the rows that are reported ({protocol}selection=heldout "
            "selects on training rows)."
        )
    yield _ENTRY[by]
    yield from _note_constant(report)
    if averaged:
        yield Note(f"The average is over the tasks that every row has: {', '.join(averaged)}.", of_one_table=True)
    elif len(tasks) > 1:
        yield Note("No task has a score in every row, so there is no average.", of_one_table=True)
    trials = report.trials
    yield from _note_precisions(trials)
    yield from _note_uneven(trials, by)
    for name in [name for name in BUDGET if name in trials]:
        differing = trials.groupby("task")[name].nunique(dropna=False)
        for task in differing[differing > 1].index:
            values = sorted(
                {
                    "none" if pd.isna(value) else format_value(value)
                    for value in trials.loc[trials["task"] == task, name]
                }
            )
            yield f"Budgets differ: {display_name('task', str(task))} has trials with {name} {', '.join(values)}."
    if not trials.empty and not bool(trials["exact"].all()):
        yield f"{int((~trials['exact'].astype(bool)).sum())} trials hold fewer weights than their pattern allows."
    if len(report.problems):
        kinds = ", ".join(f"{count} {kind}" for kind, count in report.problems["kind"].value_counts().items())
        yield Note(f"Points without a usable record: {len(report.problems)} ({kinds}).", of_one_table=True)


def _note_constant(report: Report) -> Iterator[str]:
    """Explain the constant answer's row and mark, and count the records without its score."""
    yield (
        "The constant answer is the training rows' most frequent class, or their mean label for a regression, for every row; a "
        "correlation with it counts as 0. It is not tested as a method."
    )
    trials = report.trials
    missing = int(trials["constant"].isna().sum())
    if missing:
        yield f"{missing} of {len(trials)} records predate the constant answer's score and are not compared with it."
    if (trials["beats_constant"] == False).any():  # noqa: E712 - None is unknown
        yield f"{MARK}: does not beat the constant answer; the training may have collapsed."


def _note_precisions(trials: pd.DataFrame) -> Iterator[str]:
    """Yield the precisions of training and scoring, per task where they differ."""
    if PRECISION not in trials:
        return
    of_tasks = trials[PRECISION].dropna().groupby(trials["task"]).agg(lambda values: " and ".join(sorted(set(values))))
    tasks: dict[str, list[str]] = {}
    for task, precisions in of_tasks.items():
        tasks.setdefault(precisions, []).append(display_name("task", str(task)))
    for precisions, names in tasks.items():
        apart = ", which are not compared with each other" if " and " in precisions else ""
        where = f": {', '.join(names)}" if len(tasks) > 1 else ""
        yield f"Trained and scored in {precisions}{apart}{where}."


def _note_uneven(trials: pd.DataFrame, by: str) -> Iterator[str]:
    """Yield the effects of unequal seeds and numbers of trials."""
    seeds = trials.groupby(CELL)["seed"].nunique()
    if by == "seed" and len(seeds) and seeds.min() < seeds.max():
        yield Note(
            f"Cells have {seeds.min()} to {seeds.max()} seeds; an entry without ± rests on one.", of_one_table=True
        )
    if by == "best" and len(seeds) and seeds.max() > 1:
        yield Note(
            f"The best is also the best of up to {seeds.max()} seeds: --by seed gives means, which are less optimistic.",
            of_one_table=True,
        )
    for task, counts in trials.groupby(CELL).size().groupby("task") if by == "best" else ():
        if counts.min() < counts.max():
            yield Note(
                f"Cells of {display_name('task', str(task))} have {counts.min()} to {counts.max()} trials, and the best of "
                "more is higher by chance: see the expected best score.",
                of_one_table=True,
            )


def cautions(report: Report, differences: pd.DataFrame) -> Iterator[str]:
    """Yield the warnings: too few seeds, constant scores, failed seeds, best values at the edge of an axis."""
    trials = report.trials
    compared = differences[differences["n"] > 0]
    if len(compared) and (fewest := int(compared["n"].min())) < _FEW:
        most = min(int(compared["n"].max()), _FEW - 1)
        counts = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        why = "Student's interval over so few assumes normal differences: a seed that fails now and then is not in it."
        yield f"Differences rest on {counts} seed{'s' if most > 1 else ''}: {'there is no test.' if most == 1 else why}"
    yield from _warn_collapsed(trials)
    yield from _warn_failed(trials, [name for name in report.hyperparameters() if name != "seed"])
    for axis in report.hyperparameters():
        if axis in _NOT_AXES or not _is_number(trials[axis]) or trials[axis].nunique() < 2:
            continue
        at_edge = list(_find_edges(trials, axis))
        if at_edge:
            yield f"The best lies at an edge of {axis}, so a wider grid may be better: {'; '.join(at_edge)}."


def _warn_collapsed(trials: pd.DataFrame) -> Iterator[str]:
    """Name the cells with trials that learned nothing.

    They do not beat the constant answer. Where records lack its score, all of them scored the same, or the best one
    gives every row the same answer.
    """
    constant, value, rank = (trials[name].to_numpy(dtype=float) for name in ("constant", "value", "rank"))
    is_below = (trials["beats_constant"] == False).to_numpy(dtype=bool)  # noqa: E712 - None is unknown
    indices, cells = trials.groupby(CELL, sort=False).indices, trials[CELL].drop_duplicates()
    for names in cells.itertuples(index=False, name=None):  # arrays: splitting a frame into cells takes seconds
        cell, label, why = np.asarray(indices[names]), _format_cell(names), "the training may have collapsed"
        below, unknown = cell[is_below[cell]], cell[np.isnan(constant[cell])]
        if len(below):
            constants = dict.fromkeys(f"{100 * score:.1f}" for score in sorted(constant[below]))
            of_cell = f"{len(below)} of {len(cell)} trial{'s' if len(cell) > 1 else ''} of {label}"
            do = "does" if len(below) == 1 else "do"
            yield f"{of_cell} {do} not beat the constant answer ({', '.join(constants)}): {why}."
        if len(unknown) > 1 and len(set(value[unknown])) == 1:
            yield f"All {len(unknown)} trials of {label} scored {format_score(value[unknown[0]])}: {why}."
        elif len(unknown) and is_constant(Path(trials["path"].iloc[unknown[rank[unknown].argmin()]]).parent):
            yield f"The best trial of {label} gives every row the same answer: {why}."


def _warn_failed(trials: pd.DataFrame, settings: list[str]) -> Iterator[str]:
    """Name the seeds so far below the others of their settings that they may have failed; they move every mean."""
    point = trials.groupby([*CELL, *settings], dropna=False, sort=False).ngroup()
    scores = trials["value"].groupby(point)
    middle, count = scores.transform("median"), scores.transform("size")
    spread = (trials["value"] - middle).abs().groupby(point).transform("median")
    failed = (count > 2) & (trials["value"] < middle - np.maximum(_DEVIATIONS * spread, _LOSS))
    for row in trials.assign(middle=middle, count=count)[failed].to_dict("records"):
        cell = _format_cell([row[name] for name in CELL])
        yield (
            f"Seed {format_value(row['seed'])} of {cell} scored {100 * row['value']:.1f}, far below the median "
            f"{100 * row['middle']:.1f} of {row['count']} seeds: its training may have failed, and it moves the mean."
        )


def _find_edges(trials: pd.DataFrame, axis: str) -> Iterator[str]:
    """Yield the cells whose best trial has the lowest or highest value of an axis."""
    for names, cell in trials[[*CELL, axis, "rank"]].groupby(CELL, sort=False):
        values = np.sort(cell[axis].dropna().unique())
        best = cell[axis].to_numpy()[cell["rank"].to_numpy().argmin()]
        if len(values) > (1 if axis in _AXES else 2) and best in (values[0], values[-1]):
            yield f"{_format_cell(names)}: {format_value(best)}, the {'lowest' if best == values[0] else 'highest'}"


def _is_number(column: pd.Series[float]) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def procedure(differences: pd.DataFrame) -> Iterator[str]:
    """Yield the procedure behind a table's differences, by how settings were chosen."""
    tests = int(differences["p"].notna().sum())
    if tests:
        averages = ", averages included" if (differences["task"] == "average").any() else ""
        yield (
            "Differences are paired by seed. Intervals are Student's, 95% for each on its own; p is of the same test, "
            f"two-sided, with Holm's correction for the {many(tests, 'test')} of this table{averages}."
        )
    compared = differences[differences["n"] > 0]
    others, same = compared[compared["choice"] == OTHER_SEEDS], compared[compared["choice"] == SAME_SEED]
    if len(others):
        yield (
            "Each method stands with its best settings, chosen on other seeds than the one that is scored, by "
            f"{_describe_rows(others)}: no score is reported for a choice that it took part in."
        )
    if len(same):
        yield (
            f"With one seed the settings are chosen on that seed, by {_describe_rows(same)}: "
            "such a difference has no test."
        )
    if (compared["choice"] == NONE).any():
        no_choice = len(others) == len(same) == 0
        yield f"{'E' if no_choice else 'Elsewhere e'}ach method has one combination of settings, so nothing is chosen."
    if (tests := int(differences["mcnemar"].notna().sum())) > 0:
        yield (
            "McNemar's test is given where no trial was picked by the rows that it counts. It is of two trained models, "
            f"not of two methods; corrected likewise, for its {many(tests, 'test')}."
        )


def _describe_rows(differences: pd.DataFrame) -> str:
    """Return a text like ``their scores on the reported rows``."""
    return f"their scores on {' or '.join(_CHOSEN_ON[name] for name in sorted(set(differences['selection'])))}"


def difference_sentences(differences: pd.DataFrame) -> Iterator[str]:
    """Yield a sentence per difference with an interval; the table of differences holds them all."""
    for row in differences[differences["low"].notna()].to_dict("records"):
        yield _describe_difference(row)


def gap_sentences(gaps: pd.DataFrame) -> Iterator[str]:
    """Yield a sentence per share of a gap between ASP and dense; the frame has the reasons for having none."""
    for row in gaps[gaps["reason"] == ""].to_dict("records"):
        yield (
            f"{_format_task(row)}, {_format_method(row)} closes {100 * row['share']:.0f}% (95% interval "
            f"{100 * row['low']:.0f}% to {100 * row['high']:.0f}%, {many(int(row['n']), 'seed')}) of the "
            f"{100 * row['gap']:.1f} points between ASP and dense."
        )


def _describe_difference(row: dict[Any, Any]) -> str:
    points = 100 * row["mean"]
    text = f"{_format_task(row)}, {_format_method(row)}{_format_settings(row['settings'])} is {abs(points):.1f} points "
    against = "dense" if row["against"] == "dense" else display_name("method", row["against"])
    text += f"{'above' if points >= 0 else 'below'} {against}{_format_settings(row['against_settings'])} ("
    text += f"{many(int(row['n']), 'seed')}; 95% interval {100 * row['low']:+.1f} to {100 * row['high']:+.1f}"
    text += f"; p = {row['p_holm']:.3g}, corrected"
    if not pd.isna(row["mcnemar"]):
        text += f"; McNemar's p of the two trials {row['mcnemar_holm']:.3g}, corrected"
    if row["missing"] > 0:
        text += f"; {int(row['missing'])} of {int(row['n'] + row['missing'])} pairs missing"
    return text + ")."


def _format_settings(settings: Any) -> str:
    return f" with {settings}" if settings and not pd.isna(settings) else ""


def many(count: int, what: str) -> str:
    """Return a count with its noun."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _format_task(row: dict[Any, Any]) -> str:
    task = "On average" if row["task"] == "average" else f"On {display_name('task', row['task'])}"
    return f"{task} ({display_name('model', row['model'])})"


def _format_method(row: dict[Any, Any]) -> str:
    return f"{display_name('method', row['method'])} ({display_name('pattern', row['sparsity'])})"


def _format_cell(names: Sequence[Any]) -> str:
    """Return a cell's display name: task, method, pattern, model; a dense one has no pattern."""
    shown = (display_name(kind, str(name)) for kind, name in zip(CELL, names, strict=True))
    return " ".join(name for name in shown if name != "-")
