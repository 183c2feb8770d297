"""The results table: a row per method, sparsity and model, a column per task, entries a best or a mean over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nxm_sweep.formatting import display_name
from nxm_sweep.report.estimates import critical
from nxm_sweep.report.findings import table_notes
from nxm_sweep.report.frames import CELL, RULES, Report
from nxm_sweep.report.labels import CONSTANT, MARK, METHOD_ORDER, place_in, settings_text
from nxm_sweep.store.records import beats, rank_key

TASK_ORDER = [f"glue/{name}" for name in ("mnli", "sst2", "qnli", "cola", "stsb", "mrpc", "rte", "qqp", "wnli")]
"""The paper's order; then the rest of GLUE."""
PAPER_FIGURES = (
    ("dense BERT-base, average of the dev scores", 81.8),
    ("ADMM-Unstructured, average of the dev scores", 81.3),
    ("NxMTransformer over masked fine-tuning (ASP), points of GLUE score", 1.7),
)
"""All known figures of the paper (NxMTransformer, NeurIPS 2021: abstract and text at Table 1)."""
_METRICS = {"matthews": "Matthews", "f1": "F1", "f1_macro": "macro F1", "pearson": "Pearson", "spearman": "Spearman"}


@dataclass(frozen=True)
class Task:
    """A column of the table.

    Attributes:
        name: Task name.
        label: Column label.
        metric: For display.
        train_rows: Training rows used; the largest number, where trials differ.
        constants: Scores of the constant answer in the metric's unit, ascending; several where trials were trained or
            scored on different rows, none where no record has one.
    """

    name: str
    label: str
    metric: str
    train_rows: int
    constants: tuple[float, ...] = ()


@dataclass(frozen=True)
class Entry:
    """The result of a cell.

    Attributes:
        value: Reported score in the metric's unit; for MNLI the mean of both validation sets. None: no trial has a record.
        text: The score times 100, as a table shows it; marked where it does not beat the constant answer.
        low: Lower end of the 95% interval of the mean over seeds; None for a best, or for one seed.
        high: Its upper end.
        trials: Finished trials of the cell.
        seeds: Seeds behind the value.
        hyperparameters: Those of the value.
        identities: Of the trials behind the value.
        scores: Reported score of each of them, in the metric's unit.
        problems: Points without a usable record, by kind: ``{"non-finite": 1}``.
        optimistic: Whether it was selected on the reported rows.
        rules: Name and digest of the rules of its trials.
        beats_constant: Whether it is above the constant answer's score; None: unknown.
    """

    value: float | None
    text: str
    low: float | None = None
    high: float | None = None
    trials: int = 0
    seeds: int = 0
    hyperparameters: str = ""
    identities: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    problems: dict[str, int] = field(default_factory=dict)
    optimistic: bool = True
    rules: tuple[str, ...] = ()
    beats_constant: bool | None = None


@dataclass(frozen=True)
class Row:
    """A method with its sparsity on a model; ``average`` is over the tasks of every row, None without any."""

    method: str
    sparsity: str
    model: str
    entries: dict[str, Entry]
    average: float | None

    @property
    def names(self) -> dict[str, str]:
        """Method, pattern and model by the heads of their columns."""
        return {"method": self.method, "pattern": self.sparsity, "model": self.model}

    @property
    def rivals(self) -> tuple[str, str, str]:
        """What rows must share to be ranked: pattern, model, and the precision where a sweep mixes several."""
        return self.sparsity, self.model, self.method.partition(" (precision=")[2].removesuffix(")")

    @property
    def is_dense(self) -> bool:
        """Whether nothing is pruned."""
        return self.method.partition(" (")[0] == "dense"


@dataclass(frozen=True)
class Table:
    """The table and its notes.

    Attributes:
        by: ``best`` or ``seed``.
        tasks: The columns.
        rows: The rows.
        averaged: Names of the averaged tasks.
        notes: Notes for the reader.
    """

    by: str
    tasks: tuple[Task, ...]
    rows: tuple[Row, ...]
    averaged: tuple[str, ...]
    notes: tuple[str, ...] = ()


def make_table(report: Report, by: str = "best") -> Table:
    """Return the results table.

    Args:
        report: Frames as read.
        by: ``best``: the trial with the best selecting score of each cell, the paper's protocol. ``seed``: the mean over the
            seeds of the hyperparameters with the best mean, with Student's 95% interval.
    """
    names = report.hyperparameters()
    scored = ("identity", "rank", "epoch", "value", "constant", "selected", "selection", "metric", "seed")
    needed = [*CELL, *RULES, *scored, *names]
    trials = report.trials.reindex(columns=list(dict.fromkeys(needed)))
    entries: dict[_Cell, Entry] = {
        _name_cell(cell): _make_entry(report, group, by, names) for cell, group in trials.groupby(CELL, sort=False)
    }
    for missing, kinds in report.problems[report.problems["task"] != ""].groupby(CELL)["kind"]:
        counts = {str(kind): int(n) for kind, n in kinds.value_counts().items()}
        entries[_name_cell(missing)] = replace(entries.get(_name_cell(missing), Entry(None, "-")), problems=counts)
    tasks = sorted({cell[0] for cell in entries}, key=place_in(TASK_ORDER))
    keys = sorted({cell[1:] for cell in entries}, key=lambda key: (key[2], place_in(METHOD_ORDER)(key[0]), key[1]))
    of_rows = {
        (method, sparsity, model): {
            task: entries[task, method, sparsity, model] for task in tasks if (task, method, sparsity, model) in entries
        }
        for method, sparsity, model in keys
    }
    averaged = [task for task in tasks if all(task in row and row[task].value is not None for row in of_rows.values())]
    rows = [
        Row(method, sparsity, model, entries=row, average=_average_entries(row, averaged))
        for (method, sparsity, model), row in of_rows.items()
    ]
    columns = tuple(_make_task(report, name) for name in tasks)
    notes = table_notes(
        report,
        by,
        optimistic=any(entry.optimistic for entry in entries.values() if entry.value is not None),
        tasks=[task.label for task in columns],
        averaged=[task.label for task in columns if task.name in averaged],
    )
    return Table(by, columns, tuple(rows), tuple(averaged), tuple(notes))


def table_frame(table: Table) -> pd.DataFrame:
    """Return the table as texts, scores times 100, for any format."""
    header = {task.name: f"{task.label} ({task.metric}; {task.train_rows:,})" for task in table.tasks}
    rows: list[dict[str, str]] = []
    for row in table.rows:
        texts = {name: display_name(name, text) for name, text in row.names.items()}
        texts |= {header[task.name]: shown(row.entries.get(task.name)) for task in table.tasks}
        if table.averaged:
            texts["average"] = "-" if row.average is None else f"{100 * row.average:.1f}"
        rows.append(texts)
    constant = {"method": CONSTANT, "pattern": "-", "model": "-"}
    constant |= {header[task.name]: constant_text(task) for task in table.tasks}
    if table.averaged:
        constant["average"] = constant_average(table)
    return pd.DataFrame([*rows, constant])


def best_entries(table: Table) -> set[tuple[int, str]]:
    """Return the places of the best sparse entries: the row's index, and the task's name (``average`` for the average).

    The best is that of the methods with one pattern on one model, where there are at least two; entries that a table
    shows as equal are all the best, and one that does not beat the constant answer is none.
    """
    groups: dict[tuple[str, str, str], list[int]] = {}
    for index, row in enumerate(table.rows):
        if not row.is_dense:
            groups.setdefault(row.rivals, []).append(index)
    best: set[tuple[int, str]] = set()
    for indices in groups.values():
        for column in ("average", *(task.name for task in table.tasks)):
            values = {index: value for index in indices if (value := _value_at(table.rows[index], column)) is not None}
            if len(values) > 1:
                best |= {(index, column) for index, value in values.items() if value == max(values.values())}
    return best


def best_cells(table: Table) -> set[tuple[int, int]]:
    """Return the places of the best sparse entries as row and column of :func:`table_frame`."""
    columns = {task.name: index for index, task in enumerate(table.tasks, start=3)}
    columns["average"] = 3 + len(table.tasks)
    return {(row, columns[name]) for row, name in best_entries(table)}


def _value_at(row: Row, column: str) -> float | None:
    """Return a row's score in a column as the table rounds it; None where it is missing or not above the constant answer."""
    if column == "average":
        return None if row.average is None else round(100 * row.average, 1)
    entry = row.entries.get(column)
    return (
        None if entry is None or entry.value is None or entry.beats_constant is False else round(100 * entry.value, 1)
    )


def difference_to_dense(table: Table, row: Row, column: str) -> float | None:
    """Return a score less that of the dense row of its model, as both stand in the table; None where one is missing.

    A dense row with the same addition to its name is preferred. ``column`` is a task's name or ``average``.
    """
    addition = row.method.removeprefix(row.method.partition(" (")[0])
    dense = [other for other in table.rows if other.is_dense and other.model == row.model]
    dense.sort(key=lambda other: other.method != f"dense{addition}")
    if row.is_dense or not dense:
        return None
    scores = [
        one.average if column == "average" else one.entries.get(column, Entry(None, "-")).value
        for one in (row, dense[0])
    ]
    return None if scores[0] is None or scores[1] is None else scores[0] - scores[1]


def constant_text(task: Task) -> str:
    """Format the constant answer's score: a range where trials differ, ``-`` where it is unknown."""
    ends = dict.fromkeys(f"{100 * score:.1f}" for score in (*task.constants[:1], *task.constants[-1:]))
    return " to ".join(ends) or "-"


def constant_average(table: Table) -> str:
    """Return the constant answer's average over the averaged tasks; ``-`` where a score is unknown or a range."""
    scores = [task.constants for task in table.tasks if task.name in table.averaged]
    if not scores or any(len(of_task) != 1 for of_task in scores):
        return "-"
    return f"{100 * fmean(score for (score,) in scores):.1f}"


def detail_frame(table: Table) -> pd.DataFrame:
    """Return one row per entry: score, number of trials, and hyperparameters."""
    labels = {task.name: task.label for task in table.tasks}
    rows = [
        {
            "task": labels[name],
            **{kind: display_name(kind, text) for kind, text in row.names.items()},
            "score": entry.text,
            "trials": entry.trials,
            "seeds": entry.seeds,
            "hyperparameters": entry.hyperparameters,
            "without a record": ", ".join(f"{count} {kind}" for kind, count in entry.problems.items()),
            "trial": ", ".join(entry.identities[:3]) + (", ..." if len(entry.identities) > 3 else ""),
        }
        for name in labels
        for row in table.rows
        if (entry := row.entries.get(name)) is not None
    ]
    return pd.DataFrame(rows)


def shown(entry: Entry | None) -> str:
    """Format an entry for a table: score, interval, and number of points without a record."""
    if entry is None:
        return "-"
    missing = sum(entry.problems.values())
    return entry.text + (f" [{missing} missing]" if missing else "")


_Cell = tuple[str, str, str, str]


def _name_cell(names: Any) -> _Cell:
    task, method, sparsity, model = map(str, names)
    return task, method, sparsity, model


def _make_entry(report: Report, trials: pd.DataFrame, by: str, names: list[str]) -> Entry:
    if by == "best":
        chosen = trials.iloc[[int(trials["rank"].to_numpy().argmin())]]
        seeds = 1
    else:
        names = [name for name in names if name != "seed"]
        chosen = best_settings(trials, names)
        seeds = chosen["seed"].nunique()
    of_sets = _pivot_scores(report.scores, chosen)
    of_trials = chosen["value"].astype(float).to_numpy()
    value, low, high = float(of_trials.mean()), None, None
    text = "/".join(f"{100 * score:.1f}" for score in of_sets.mean(axis=0))
    if len(of_trials) > 1:
        reach = half_interval(of_trials)
        low, high = value - reach, value + reach
        text += f" ± {100 * reach:.1f}"
    constant = fmean(chosen["constant"]) if chosen["constant"].notna().all() else None
    is_above = beats(value, constant)
    if is_above is False:
        text += MARK
    return Entry(
        value=value,
        text=text,
        low=low,
        high=high,
        trials=len(trials),
        seeds=int(seeds),
        hyperparameters=settings_text(chosen.iloc[0], names),
        identities=tuple(chosen["identity"]),
        scores=tuple(of_trials.tolist()),
        optimistic=bool((chosen["selection"] == "dev").any())
        and not (report.last_epoch and len(chosen) == len(trials)),
        rules=tuple(map(str, chosen[RULES].iloc[0])),
        beats_constant=is_above,
    )


def half_interval(values: NDArray[np.floating[Any]]) -> float:
    """Return half of Student's 95% interval of the mean of at least two values."""
    return float(critical(len(values)) * values.std(ddof=1) / len(values) ** 0.5)


def best_settings(trials: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return the trials of a cell's settings with the best mean selecting score among those with most seeds.

    Args:
        trials: A cell's, in grid order.
        names: Settings, without the seed.
    """
    present = [name for name in names if name in trials]
    groups = [group for _, group in trials.groupby(present, dropna=False, sort=False)] if present else [trials]
    most = max(group["seed"].nunique() for group in groups)
    full = [group for group in groups if group["seed"].nunique() == most]
    keys = [rank_key(fmean(group["selected"]), fmean(group["epoch"]), index) for index, group in enumerate(full)]
    return full[keys.index(min(keys))]


def _pivot_scores(scores: pd.DataFrame, chosen: pd.DataFrame) -> pd.DataFrame:
    """Return reported scores: the rows of ``chosen``, a column per validation set of the task (NaN: not scored)."""
    one = chosen[["value"]].astype(float)
    if chosen["task"].iloc[0] != "glue/mnli" and not chosen["task"].iloc[0].startswith("glue/mnli "):
        return one
    scores = scores[scores["identity"].isin(chosen["identity"])]
    scores = scores[scores["metric"] == chosen["metric"].iloc[0]].drop_duplicates(["identity", "set"])
    wide = scores.pivot_table(index="identity", columns="set", values="value", sort=False)
    return one if wide.empty else wide.reindex(chosen["identity"]).set_index(chosen.index)


def _make_task(report: Report, name: str) -> Task:
    trials, label = report.trials[report.trials["task"] == name], display_name("task", name)
    if trials.empty:
        return Task(name, label, "?", 0)
    constants = tuple(sorted(map(float, trials["constant"].dropna().unique())))
    return Task(name, label, metric_label(report, name), int(trials["train_rows"].max()), constants)


def metric_label(report: Report, task: str) -> str:
    """Return the display name of a task's metric; the task has a trial."""
    trials = report.trials[report.trials["task"] == task]
    metric = str(trials["metric"].iloc[0])
    if metric == "mean":
        listed = str(trials["task.metrics"].iloc[0]).strip("[]").replace('"', "").split(", ")
        metric = f"mean of {' and '.join(_METRICS.get(one, one) for one in listed)}"
    return _METRICS.get(metric, metric)


def _average_entries(row: dict[str, Entry], tasks: Sequence[str]) -> float | None:
    values = [row[task].value for task in tasks]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
