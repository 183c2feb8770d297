"""What must be said beside the results table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from nxm_sweep.notation import short
from nxm_sweep.precision import PRECISION
from nxm_sweep.report.frames import CELL, Report
from nxm_sweep.report.names import MARK

BUDGET = ("training.epochs", "training.max_train_samples", "training.max_eval_samples", "training.max_length")
_ENTRY = {
    "best": "An entry is the best of its cell's trials, by the score that selected it.",
    "seed": (
        "An entry is the mean over the seeds of the best hyperparameters (of those with the most seeds), ± half of Student's "
        "95% interval."
    ),
}


def table_notes(
    report: Report, by: str, *, optimistic: bool, tasks: Sequence[str], averaged: Sequence[str]
) -> Iterator[str]:
    """Yield the notes.

    Args:
        report: What was read.
        by: ``best`` or ``seed``.
        optimistic: Whether an entry was selected on the rows that it is reported on.
        tasks: The columns' labels.
        averaged: Those of the tasks that the average is over.
    """
    yield "Scores times 100; a column's head names the metric and the number of training rows."
    yield "Tasks with two metrics count with their mean, MNLI with the mean of m and mm (GLUE's rule)."
    if optimistic:
        yield (
            "Optimistic: epoch and hyperparameters were selected on the rows that are reported (the paper's protocol; "
            "selection=heldout selects on training rows)."
        )
    yield _ENTRY[by]
    yield from _constant(report)
    if averaged:
        yield f"The average is over the tasks that every row has: {', '.join(averaged)}."
    elif len(tasks) > 1:
        yield "No task has a score in every row, so there is no average."
    trials = report.trials
    yield from _precisions(trials)
    yield from _uneven(trials, by)
    for name in [name for name in BUDGET if name in trials]:
        differing = trials.groupby("task")[name].nunique(dropna=False)
        for task in differing[differing > 1].index:
            values = sorted(
                {"none" if pd.isna(value) else short(value) for value in trials.loc[trials["task"] == task, name]}
            )
            yield f"Budgets differ: {task} has trials with {name} {', '.join(values)}."
    if not trials.empty and not bool(trials["exact"].all()):
        yield f"{int((~trials['exact'].astype(bool)).sum())} trials hold fewer weights than their pattern allows."
    if len(report.problems):
        kinds = ", ".join(f"{count} {kind}" for kind, count in report.problems["kind"].value_counts().items())
        yield f"Points without a usable record: {len(report.problems)} ({kinds})."


def _constant(report: Report) -> Iterator[str]:
    """Yield what the row of the constant answer is, which records lack it, and what the mark means."""
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


def _precisions(trials: pd.DataFrame) -> Iterator[str]:
    """Yield what trials were trained and scored in, per task where tasks differ."""
    if PRECISION not in trials:
        return
    of_tasks = trials[PRECISION].dropna().groupby(trials["task"]).agg(lambda values: " and ".join(sorted(set(values))))
    tasks: dict[str, list[str]] = {}
    for task, precisions in of_tasks.items():
        tasks.setdefault(precisions, []).append(str(task))
    for precisions, names in tasks.items():
        apart = ", which are not compared with each other" if " and " in precisions else ""
        where = f": {', '.join(names)}" if len(tasks) > 1 else ""
        yield f"Trained and scored in {precisions}{apart}{where}."


def _uneven(trials: pd.DataFrame, by: str) -> Iterator[str]:
    """Yield what seeds and numbers of trials do to the entries."""
    seeds = trials.groupby(CELL)["seed"].nunique()
    if by == "seed" and len(seeds) and seeds.min() < seeds.max():
        yield f"Cells have {seeds.min()} to {seeds.max()} seeds; an entry without ± rests on one."
    if by == "best" and len(seeds) and seeds.max() > 1:
        yield f"The best is also the best of up to {seeds.max()} seeds: --by seed gives means, which are less optimistic."
    for task, counts in trials.groupby(CELL).size().groupby("task") if by == "best" else ():
        if counts.min() < counts.max():
            yield (
                f"Cells of {task} have {counts.min()} to {counts.max()} trials, and the best of more is higher by chance: "
                "see the expected best score."
            )
