"""The verdict: of each pattern and model the best sparse method, and its differences to ASP and to dense."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pandas as pd

from nxm_sweep.formatting import display_name
from nxm_sweep.report.estimates import holm
from nxm_sweep.report.statistics import Statistics
from nxm_sweep.report.table import Row, Table

ALPHA = 0.05
"""Level of the tests that a gain or a loss rests on, after Holm's correction for those of the verdict."""
REFERENCES = ("asp", "dense")
_MOST = 6  # verdicts in a report
_UNSTRUCTURED = "unstructured"


@dataclass(frozen=True)
class Difference:
    """A method less its reference, in points of 100.

    Attributes:
        method: The method.
        against: The reference, ``asp`` or ``dense``.
        mean: The paired difference.
        low: Lower end of its 95% interval; None without one.
        high: Its upper end.
        p: Corrected for the tests of all methods that the best was chosen from; None without a test.
        seeds: Seeds that it rests on.
        tasks: Names of the tasks behind it.
    """

    method: str
    against: str
    mean: float
    low: float | None
    high: float | None
    p: float | None
    seeds: int
    tasks: tuple[str, ...]

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes 0 and the corrected test agrees."""
        excludes = self.low is not None and self.high is not None and (self.low > 0.0 or self.high < 0.0)
        return excludes and self.p is not None and self.p < ALPHA

    @property
    def reference(self) -> str:
        """The reference's name within a sentence."""
        return "dense" if self.against == "dense" else display_name("method", self.against)

    @property
    def position(self) -> str:
        """Where the method stands, without a claim: ``4.0 points above ASP``."""
        if abs(self.mean) < 0.05:
            return f"level with {self.reference}"
        return f"{abs(self.mean):.1f} points {'above' if self.mean >= 0 else 'below'} {self.reference}"

    @property
    def support(self) -> str:
        """Format the interval and the seeds, or why there is no interval."""
        seeds = "one seed" if self.seeds == 1 else f"{self.seeds} seeds"
        if self.low is None or self.high is None:
            return f"{seeds}: no interval"
        return f"95% interval {_signed(self.low)} to {_signed(self.high)}, {seeds}"

    @property
    def text(self) -> str:
        """Return the predicate of a sentence; it claims a gain or a loss only where :attr:`is_clear`."""
        reference = self.reference
        points = f"{abs(self.mean):.1f} points"
        if self.is_clear:
            verb = f"gains {points} over" if self.mean > 0 else f"loses {points} to"
            return f"{verb} {reference} ({self.support})"
        if self.low is None:
            return f"scores {self.position} ({self.support})"
        why = self.support
        if self.low > 0.0 or (self.high is not None and self.high < 0.0):
            why += f"; p = {self.p:.2g} after Holm's correction"
        return f"cannot be told apart from {reference} ({_signed(self.mean)} points, {why})"


@dataclass(frozen=True)
class Verdict:
    """The best sparse method of a pattern and model.

    Attributes:
        before: The sentence up to the method's name.
        method: Display name of the method; empty if none is the best.
        after: The rest of the sentence.
        pattern: Display name of the pattern.
        model: Display name of the model.
        differences: What the sentence says of ASP and of dense; of ASP itself only the latter.
    """

    before: str
    method: str
    after: str
    pattern: str = ""
    model: str = ""
    differences: tuple[Difference, ...] = ()

    @property
    def sentence(self) -> str:
        """The whole sentence."""
        return f"{self.before}{self.method}{self.after}"


def make_verdicts(table: Table, statistics: Statistics) -> tuple[Verdict, ...]:
    """Return a verdict per pattern and model, N:M patterns before unstructured ones are left out.

    The best has the highest mean over the tasks that every method of its pattern and model has a score of. Differences
    are those of the statistics, so settings are chosen on other seeds than the one that is scored.
    """
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in table.rows:
        if not row.is_dense and any(entry.value is not None for entry in row.entries.values()):
            groups.setdefault(row.rivals, []).append(row)
    if any(_UNSTRUCTURED not in pattern for pattern, *_ in groups):
        groups = {key: rows for key, rows in groups.items() if _UNSTRUCTURED not in key[0]}
    if not groups:
        return (Verdict("No sparse method has a score yet.", "", ""),)
    several = len({row.model for row in table.rows}) > 1
    verdicts = [_judge(table, statistics, rows, name_model=several) for rows in groups.values()]
    if len(verdicts) > _MOST:
        rest = f"The table holds {len(verdicts) - _MOST} more patterns and models."
        verdicts = [*verdicts[:_MOST], Verdict(rest, "", "")]
    return tuple(verdicts)


def _judge(table: Table, statistics: Statistics, rows: Sequence[Row], *, name_model: bool) -> Verdict:
    """Judge the methods of one pattern and model."""
    pattern, model = display_name("pattern", rows[0].sparsity), display_name("model", rows[0].model)
    precision = rows[0].rivals[2]
    place = f"At {pattern}{f' on {model}' if name_model else ''}{f' in {precision}' if precision else ''}, "
    labels = {task.name: task.label for task in table.tasks}
    common = [name for name in labels if all(_value(row, name) is not None for row in rows)]
    if not common:
        why = f"{place}no task has a score of every method, so none is the best."
        return Verdict(why, "", "", pattern, model)
    ranked = sorted(rows, key=lambda row: -_mean(row, common))
    best, score = ranked[0], f"{100 * _mean(ranked[0], common):.1f} {_over(common, labels)}"
    count = f" has the highest score of {len(rows)} sparse methods, {score}" if len(rows) > 1 else f" scores {score}"
    compared = [(row, against) for row, against in _comparisons(ranked)]
    headlines = _find_headlines(statistics.differences, rows)
    found = [headlines.get((row.method, against)) for row, against in compared]
    subjects = ["it" if row is best else f"the next, {display_name('method', row.method)}," for row, _ in compared]
    parts = [
        f"{subject} {_say(difference, against, common, labels)}"
        for subject, difference, (_, against) in zip(subjects, found, compared, strict=True)
    ]
    untested = [one for one in found if one is not None and one.low is None and set(one.tasks) == set(common)]
    if len(parts) == len(untested) == 2 and subjects[0] == "it" and untested[0].support == untested[1].support:
        parts = [f"it scores {untested[0].position} and {untested[1].position} ({untested[0].support})"]
    differences = tuple(one for one, (row, _) in zip(found, compared, strict=True) if one is not None and row is best)
    after = f"{count}: {' and '.join(parts)}."
    return Verdict(place, display_name("method", best.method), after, pattern, model, differences)


def _say(difference: Difference | None, against: str, common: Sequence[str], labels: dict[str, str]) -> str:
    """Return the predicate on a difference; it names its tasks where they are not those of the ranking."""
    if difference is None:
        return f"has no {'dense' if against == 'dense' else display_name('method', against)} to be compared with"
    where = "" if set(difference.tasks) == set(common) else f" {_over(difference.tasks, labels)}"
    return f"{difference.text}{where}"


def _comparisons(ranked: Sequence[Row]) -> Iterator[tuple[Row, str]]:
    """Yield what is compared with what: the best with ASP and dense; where ASP is the best, the next with ASP."""
    best = ranked[0]
    if best.method.partition(" (")[0] != "asp":
        yield best, "asp"
    elif len(ranked) > 1:
        yield ranked[1], "asp"
    yield best, "dense"


def _find_headlines(differences: pd.DataFrame, rows: Sequence[Row]) -> dict[tuple[str, str], Difference]:
    """Return each method's difference to each reference over all tasks, or on the only one, where there is any.

    p is corrected for these tests of all the methods, since the best is chosen among them.
    """
    found: dict[tuple[str, str], tuple[dict[Any, Any], tuple[str, ...]]] = {}
    for row in rows:
        for against in REFERENCES:
            names = {"model": row.model, "method": row.method, "sparsity": row.sparsity, "against": against}
            of_row = differences[
                (differences[list(names)] == list(names.values())).all(axis=1) & (differences["n"] > 0)
            ]
            average, single = (of_row[(of_row["task"] == "average") == is_average] for is_average in (True, False))
            chosen = single if average.empty else average
            if not chosen.empty and pd.notna(chosen["mean"].iloc[0]):
                tasks = single["task"] if not average.empty else single["task"].iloc[:1]
                found[row.method, against] = chosen.iloc[0].to_dict(), tuple(tasks)
    corrected = holm([None if pd.isna(row["p"]) else float(row["p"]) for row, _ in found.values()])
    return {
        key: _make_difference(*key, row, p, tasks)
        for (key, (row, tasks)), p in zip(found.items(), corrected, strict=True)
    }


def _make_difference(
    method: str, against: str, row: dict[Any, Any], p: float | None, tasks: tuple[str, ...]
) -> Difference:
    low, high = (None if pd.isna(row[name]) else 100 * float(row[name]) for name in ("low", "high"))
    return Difference(method, against, 100 * float(row["mean"]), low, high, p, int(row["n"]), tasks)


def _value(row: Row, task: str) -> float | None:
    return row.entries[task].value if task in row.entries else None


def _mean(row: Row, tasks: Sequence[str]) -> float:
    return fmean(value for task in tasks if (value := _value(row, task)) is not None)


def _over(tasks: Sequence[str], labels: dict[str, str]) -> str:
    names = [labels.get(task, task) for task in tasks]
    if len(names) == 1:
        return f"on {names[0]}"
    if len(names) > 4:
        return f"on average over {len(names)} tasks"
    return f"on average over {', '.join(names[:-1])} and {names[-1]}"


def _signed(points: float) -> str:
    """Format points with their sign; a second digit where the first would hide on which side of 0 they are."""
    return f"{points:+.2f}" if abs(points) < 0.05 else f"{points:+.1f}"
