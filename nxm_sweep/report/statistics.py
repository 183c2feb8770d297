"""Paired tests between methods, shares of the gap closed, expected best score by number of trials."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nxm_sweep.formatting import display_name
from nxm_sweep.report.estimates import chooser_sets, holm
from nxm_sweep.report.findings import cautions, difference_sentences, gap_sentences, procedure
from nxm_sweep.report.frames import CELL, USUAL, Report
from nxm_sweep.report.gaps import gaps_closed
from nxm_sweep.report.labels import METHOD_ORDER, place_in
from nxm_sweep.report.pairing import Aligned, CellName, Side, Trial, align, assess, difference, reference_of, sides_of
from nxm_sweep.report.predictions import mcnemar
from nxm_sweep.report.table import TASK_ORDER

BASELINES = ("asp", "dense", "warmup_asp")
"""References of the comparisons; the last is the control of ADMM methods, where it was trained."""
_UNCONTROLLED = {"asp", "dense"}  # not compared with the control
ESTIMATOR = (
    "expected best of k trials drawn without replacement from those run (the unbiased estimator of Tang et al., 2020, for "
    "what Dodge et al., 2019, propose)"
)
_TESTED = ["n", "missing", "mean", "low", "high", "p", "p_holm", "mcnemar", "mcnemar_holm"]
_COLUMNS = [
    *("task", "model", "method", "sparsity", "against"),
    *_TESTED,
    *("choice", "selection", "settings", "against_settings", "note"),
]


@dataclass(frozen=True)
class Statistics:
    """Comparisons of the methods.

    Attributes:
        differences: One row per task (and ``average``), model, method and reference: ``sparsity``, ``against``, ``n``
            (common seeds), ``missing`` (seeds that only one has, or that were only planned), ``mean`` (method less
            reference, in the metric's unit), ``low``, ``high`` (Student's 95% interval), ``p`` (of the same test,
            two-sided), ``p_holm`` (corrected for the tests of the table), ``mcnemar`` (exact, of two trials'
            predictions) and ``mcnemar_holm``, ``choice`` (how the settings were chosen: ``none``, ``other seeds``,
            ``same seed``), ``selection`` (``dev`` or ``heldout``: the rows they were chosen on), ``settings`` and
            ``against_settings`` (those chosen most often), ``note``.
        gaps: One row per task (and ``average``), model and method: see :func:`~nxm_sweep.report.gaps.gaps_closed`.
        expected: One row per cell and number of trials: :data:`CELL`, ``trials``, ``value``.
        warnings: Cautions for the reader.
        sentences: Test procedure and findings, in prose.
    """

    differences: pd.DataFrame
    gaps: pd.DataFrame
    expected: pd.DataFrame
    warnings: tuple[str, ...]
    sentences: tuple[str, ...]


def compare(report: Report) -> Statistics:
    """Compute the statistics of a report."""
    settings = tested_settings(report)
    sides = sides_of(report, settings)
    rows = [row for against in BASELINES for row in _compute_differences(sides, settings, against)]
    if report.last_epoch:  # kept predictions are the best epoch's
        rows = [{**row, "mcnemar": None} for row in rows]
    tasks = place_in(["average", *sorted({cell[0] for cell in sides}, key=place_in(TASK_ORDER))])
    rows.sort(
        key=lambda row: (row["model"], tasks(row["task"]), place_in(METHOD_ORDER)(row["method"]), row["sparsity"])
    )
    for name in ("p", "mcnemar"):
        for row, corrected in zip(rows, holm([row.get(name) for row in rows]), strict=True):
            row[f"{name}_holm"] = corrected
    differences = pd.DataFrame(rows, columns=_COLUMNS)
    differences[_TESTED] = differences[_TESTED].astype(float)
    gaps = gaps_closed(sides, settings)
    return Statistics(
        differences=differences,
        gaps=gaps,
        expected=expected_best(report),
        warnings=tuple(cautions(report, differences)),
        sentences=(*procedure(differences), *difference_sentences(differences), *gap_sentences(gaps)),
    )


def tested_settings(report: Report) -> list[str]:
    """Return the settings that vary among trials, the usual ones first."""
    names = [name for name in report.settings() if len(report.trials[name].unique()) > 1]
    return sorted(names, key=lambda name: USUAL.index(name) if name in USUAL else len(USUAL))


def expected_best(report: Report) -> pd.DataFrame:
    """Return each cell's expected reported score of the best of k trials, for k up to its number of trials.

    With the n trials ordered by selecting score, worst first, trial i (from 1) is the best of k with probability
    ``C(i - 1, k - 1) / C(n, k)``.

    Source: see :data:`ESTIMATOR`.
    """
    rows: list[dict[str, Any]] = []
    for names, values in report.trials.sort_values("rank").groupby(CELL)["value"]:
        cell = dict(zip(CELL, names, strict=True))
        best_first = values.to_numpy(dtype=float)
        for k, weights in _compute_weights(len(values)):
            rows.append({**cell, "trials": k, "value": float(np.dot(weights, best_first[: len(weights)]))})
    return pd.DataFrame(rows, columns=[*CELL, "trials", "value"])


@cache
def _compute_weights(n: int) -> list[tuple[int, NDArray[np.float64]]]:
    """Return, per k, the probability of each of n trials, best first, of being the best of k."""
    weights = []
    for k in _thin_counts(n):
        i = np.arange(n, k, -1)  # C(i - 2, k - 1) / C(i - 1, k - 1) = (i - k) / (i - 1)
        weights.append((k, k / n * np.cumprod([1.0, *((i - k) / (i - 1))])))
    return weights


def _compute_differences(sides: dict[CellName, Side], settings: list[str], against: str) -> Iterator[dict[str, Any]]:
    """Yield the differences to a reference, single tasks before averages."""
    of_tasks: dict[tuple[str, str, str], dict[str, Aligned]] = {}
    for cell, side in sides.items():
        task, method, sparsity, model = cell
        reference = reference_of(sides, cell, against)
        skipped = {"dense", against} | (_UNCONTROLLED if against == "warmup_asp" else set())
        if method.partition(" (")[0] in skipped or reference is None:
            continue
        aligned = align([side, reference], settings)
        row: dict[str, Any] = {"task": task, "model": model, "method": method, "sparsity": sparsity, "against": against}
        row |= difference(aligned)
        yield {**row, "mcnemar": _test_best_trials(side.trials, reference.trials) if row["n"] else None}
        if row["n"]:
            of_tasks.setdefault((model, method, sparsity), {})[task] = aligned
    for (model, method, sparsity), tasks in of_tasks.items():
        if len(tasks) > 1:
            row = {"task": "average", "model": model, "method": method, "sparsity": sparsity, "against": against}
            yield row | _average_tasks(tasks)


def _average_tasks(tasks: dict[str, Aligned]) -> dict[str, Any]:
    """Average the differences over tasks on their common seeds, and assess them as a single task's."""
    seeds = sorted(set.intersection(*(set(aligned.seeds) for aligned in tasks.values())))
    expected = frozenset.union(*(aligned.expected for aligned in tasks.values()))
    choice = any(aligned.choice for aligned in tasks.values())
    heldout = all(aligned.heldout for aligned in tasks.values())
    row: dict[str, Any] = {"n": len(seeds), "selection": "heldout" if heldout else "dev"}
    note = ""
    if seeds:
        choosers = chooser_sets(len(seeds), choice)
        scores = [aligned.at(seeds).terms(choosers) for aligned in tasks.values()]
        row |= assess(np.mean([method - reference for method, reference in scores], axis=0), choosers, choice)
        note = row["note"]
    row["missing"] = len(expected) - row["n"]
    missing = f"{row['missing']} of {len(expected)} seeds are not paired in every task" if row["missing"] else ""
    over = (
        f"averages are over {', '.join(display_name('task', task) for task in sorted(tasks, key=place_in(TASK_ORDER)))}"
    )
    return {**row, "note": "; ".join(filter(None, [over, note, missing]))}


def _test_best_trials(trials: Sequence[Trial], reference: Sequence[Trial]) -> float | None:
    """Return McNemar's p of both best trials; None if the rows of the test also picked one of them."""
    if not trials or not reference:
        return None
    sides = (trials, reference)
    if any(len(side) > 1 and any(trial["selection"] == "dev" for trial in side) for side in sides):
        return None
    best = [min(side, key=lambda trial: int(trial["rank"])) for side in sides]
    return mcnemar(*(Path(trial["path"]).parent for trial in best))


def _thin_counts(n: int) -> list[int]:
    """Return 1 to n, thinned to about 50."""
    return list(range(1, n + 1)) if n <= 50 else sorted({round(k) for k in np.geomspace(1, n, 50)})
