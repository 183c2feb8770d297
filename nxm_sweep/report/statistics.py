"""How sure a difference is, how much of a gap a method closes, what so many trials would have found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nxm_sweep.report.estimates import chooser_sets, holm
from nxm_sweep.report.findings import cautions, difference_sentences, gap_sentences, procedure
from nxm_sweep.report.frames import CELL, USUAL, Report
from nxm_sweep.report.gaps import gaps_closed
from nxm_sweep.report.labels import METHOD_ORDER, place_in
from nxm_sweep.report.pairing import Aligned, CellName, Side, Trial, align, assess, difference, reference_of, sides_of
from nxm_sweep.report.predictions import mcnemar
from nxm_sweep.report.table import TASK_ORDER

BASELINES = ("asp", "dense")
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
    """What the trials say about the methods.

    Attributes:
        differences: One row per task (and ``average``), model, method and reference: ``sparsity``, ``against``, ``n`` (seeds
            that both have), ``missing`` (seeds that only one has, or that were planned), ``mean`` (method less reference, in
            the metric's unit), ``low``, ``high`` (Student's 95% interval), ``p`` (of the same test, two-sided), ``p_holm``
            (corrected for the tests of the table), ``mcnemar`` (exact, of two trials' predictions) and ``mcnemar_holm``,
            ``choice`` (what chose the settings: ``none``, ``other seeds``, ``same seed``), ``selection`` (``dev`` or
            ``heldout``: the rows that they were chosen on), ``settings`` and ``against_settings`` (those chosen most
            often), ``note``.
        gaps: One row per task (and ``average``), model and method: see :func:`~nxm_sweep.report.gaps.gaps_closed`.
        expected: One row per cell and number of trials: :data:`CELL`, ``trials``, ``value``.
        warnings: What a reader must know.
        sentences: How the differences were tested, and the findings in words.
    """

    differences: pd.DataFrame
    gaps: pd.DataFrame
    expected: pd.DataFrame
    warnings: tuple[str, ...]
    sentences: tuple[str, ...]


def compare(report: Report) -> Statistics:
    """Return the statistics of a report."""
    settings = tested_settings(report)
    sides = sides_of(report, settings)
    rows = [row for against in BASELINES for row in _differences(sides, settings, against)]
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
    """Return the settings that are not the same in all trials, the usual ones first."""
    names = [name for name in report.settings() if len(report.trials[name].unique()) > 1]
    return sorted(names, key=lambda name: USUAL.index(name) if name in USUAL else len(USUAL))


def expected_best(report: Report) -> pd.DataFrame:
    """Return the expected reported score of the best of k trials of each cell, for every k up to its number of trials.

    With the n trials in the order of the selecting score, trial i (from 1) is the best of k with probability
    ``C(i - 1, k - 1) / C(n, k)``.

    Source: see :data:`ESTIMATOR`.
    """
    rows: list[dict[str, Any]] = []
    for names, values in report.trials.sort_values("rank").groupby(CELL)["value"]:
        cell = dict(zip(CELL, names, strict=True))
        best_first = values.to_numpy(dtype=float)
        for k, weights in _weights(len(values)):
            rows.append({**cell, "trials": k, "value": float(np.dot(weights, best_first[: len(weights)]))})
    return pd.DataFrame(rows, columns=[*CELL, "trials", "value"])


@cache
def _weights(n: int) -> list[tuple[int, NDArray[np.float64]]]:
    """Per k, how probable it is that each of n trials, the best first, is the best of k."""
    found = []
    for k in _some(n):
        i = np.arange(n, k, -1)  # C(i - 2, k - 1) / C(i - 1, k - 1) = (i - k) / (i - 1)
        found.append((k, k / n * np.cumprod([1.0, *((i - k) / (i - 1))])))
    return found


def _differences(sides: dict[CellName, Side], settings: list[str], against: str) -> Iterator[dict[str, Any]]:
    """Rows of the differences to a reference, those of single tasks before the averages."""
    of_tasks: dict[tuple[str, str, str], dict[str, Aligned]] = {}
    for cell, mine in sides.items():
        task, method, sparsity, model = cell
        reference = reference_of(sides, cell, against)
        if method.partition(" (")[0] in {"dense", against} or reference is None:
            continue
        aligned = align([mine, reference], settings)
        row: dict[str, Any] = {"task": task, "model": model, "method": method, "sparsity": sparsity, "against": against}
        row |= difference(aligned)
        yield {**row, "mcnemar": _mcnemar(mine.trials, reference.trials) if row["n"] else None}
        if row["n"]:
            of_tasks.setdefault((model, method, sparsity), {})[task] = aligned
    for (model, method, sparsity), tasks in of_tasks.items():
        if len(tasks) > 1:
            row = {"task": "average", "model": model, "method": method, "sparsity": sparsity, "against": against}
            yield row | _average(tasks)


def _average(tasks: dict[str, Aligned]) -> dict[str, Any]:
    """The mean over tasks of the differences on each seed that all of them have, assessed as a single task's."""
    seeds = sorted(set.intersection(*(set(aligned.seeds) for aligned in tasks.values())))
    expected = frozenset.union(*(aligned.expected for aligned in tasks.values()))
    choice = any(aligned.choice for aligned in tasks.values())
    heldout = all(aligned.heldout for aligned in tasks.values())
    row: dict[str, Any] = {"n": len(seeds), "selection": "heldout" if heldout else "dev"}
    note = ""
    if seeds:
        choosers = chooser_sets(len(seeds), choice)
        scores = [aligned.at(seeds).terms(choosers) for aligned in tasks.values()]
        row |= assess(np.mean([mine - reference for mine, reference in scores], axis=0), choosers, choice)
        note = row["note"]
    row["missing"] = len(expected) - row["n"]
    missing = f"{row['missing']} of {len(expected)} seeds are not paired in every task" if row["missing"] else ""
    over = f"over {', '.join(sorted(tasks, key=place_in(TASK_ORDER)))}"
    return {**row, "note": "; ".join(filter(None, [over, note, missing]))}


def _mcnemar(mine: Sequence[Trial], reference: Sequence[Trial]) -> float | None:
    """McNemar's p of each side's best trial; None where a best trial was picked by the very rows that the test counts."""
    if not mine or not reference:
        return None
    sides = (mine, reference)
    if any(len(side) > 1 and any(trial["selection"] == "dev" for trial in side) for side in sides):
        return None
    best = [min(side, key=lambda trial: int(trial["rank"])) for side in sides]
    return mcnemar(*(Path(trial["path"]).parent for trial in best))


def _some(n: int) -> list[int]:
    """All numbers up to n, or about 50 of them."""
    return list(range(1, n + 1)) if n <= 50 else sorted({round(k) for k in np.geomspace(1, n, 50)})
