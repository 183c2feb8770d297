"""How sure a difference is, how much of a gap a method closes, what so many trials would have found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nxm_sweep.report.cautions import cautions
from nxm_sweep.report.frames import CELL, DENSE_RULES, RULES, Report
from nxm_sweep.report.names import METHOD_ORDER, place_in
from nxm_sweep.report.pairs import assess, pair
from nxm_sweep.report.predictions import mcnemar
from nxm_sweep.report.sentences import difference_sentences, gap_sentences
from nxm_sweep.report.table import TASK_ORDER, Table, make_table

REFERENCES = ("asp", "dense")
ESTIMATOR = (
    "expected best of k trials drawn without replacement from those run (the unbiased estimator of Tang et al., 2020, for "
    "what Dodge et al., 2019, propose)"
)
_PLACE = ["task", "model"]
_COLUMNS = [
    *_PLACE,
    "method",
    "sparsity",
    "against",
    "n",
    "pairs",
    "mean",
    "low",
    "high",
    "p",
    "mcnemar",
    "held",
    "note",
]


@dataclass(frozen=True)
class Statistics:
    """What the trials say about the methods.

    Attributes:
        differences: One row per task (and ``average``), model, method and reference: ``sparsity``, ``against``, ``n`` (seeds),
            ``pairs``, ``mean`` (method less reference, in the metric's unit), ``low``, ``high`` (95% bootstrap), ``p`` (paired
            permutation test, two-sided), ``mcnemar`` (exact, of the two best trials' predictions), ``held`` (the method's own
            settings, at their best), ``note``.
        gaps: One row per task (and ``average``), model and method: ``dense``, ``asp``, ``value``, ``share`` of the gap that is
            closed; missing where dense is not above ASP.
        expected: One row per cell and number of trials: :data:`CELL`, ``trials``, ``value``.
        warnings: What a reader must know.
        sentences: The findings in words.
    """

    differences: pd.DataFrame
    gaps: pd.DataFrame
    expected: pd.DataFrame
    warnings: tuple[str, ...]
    sentences: tuple[str, ...]


def compare(report: Report, table: Table | None = None) -> Statistics:
    """Return the statistics of a report.

    Args:
        report: What was read.
        table: Its table, between whose entries the gaps are; without one, that of bests.
    """
    table = table or make_table(report)
    rows = [row for against in REFERENCES for row in _differences(report, against)]
    for row, found in zip(rows, assess([row.pop("seeds") for row in rows]), strict=True):
        row |= {**found, "note": "; ".join(part for part in (row.pop("remark", ""), found["note"]) if part)}
    tasks = place_in(["average", *(task.name for task in table.tasks)])
    rows.sort(
        key=lambda row: (row["model"], tasks(row["task"]), place_in(METHOD_ORDER)(row["method"]), row["sparsity"])
    )
    differences = pd.DataFrame(rows, columns=_COLUMNS)
    gaps = pd.DataFrame(list(_gaps(table)), columns=[*_PLACE, "method", "sparsity", "dense", "asp", "value", "share"])
    return Statistics(
        differences=differences,
        gaps=gaps,
        expected=expected_best(report),
        warnings=tuple(cautions(report, differences)),
        sentences=(*difference_sentences(differences), *gap_sentences(gaps, table.by)),
    )


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


def _differences(report: Report, against: str) -> Iterator[dict[str, Any]]:
    """Rows without their tests; ``seeds`` holds the differences, one per seed, ``remark`` what the note begins with."""
    settings = [name for name in report.settings() if len(report.trials[name].unique()) > 1]
    cells = _cells(report, settings)
    by_rules = {(cell[0], cell[1], _rules(trials), cell[3]): trials for cell, trials in cells.items()}
    per_seed: dict[tuple[str, str, str], dict[str, dict[Any, float]]] = {}
    for (task, method, sparsity, model), mine in cells.items():
        reference = _reference(by_rules, (task, method, _rules(mine), model), against)
        if _base(method) in {"dense", against} or not reference:
            continue
        row: dict[str, Any] = {"task": task, "model": model, "method": method, "sparsity": sparsity}
        row["against"] = against
        pairs = pair(mine, reference, settings)
        row["pairs"], row["held"] = len(pairs), pairs.held
        seeds = pairs.by_seed()
        if not seeds:
            yield {**row, "seeds": np.array([])}
            continue
        per_seed.setdefault((model, method, sparsity), {})[task] = seeds
        p = mcnemar(_best_folder(mine), _best_folder(reference))
        yield {**row, "mcnemar": p, "seeds": np.array(list(seeds.values()))}
    for (model, method, sparsity), tasks in per_seed.items():
        if len(tasks) > 1:
            common = set.intersection(*(set(seeds) for seeds in tasks.values()))
            means = [float(np.mean([seeds[seed] for seeds in tasks.values()])) for seed in sorted(common)]
            over = f"over {', '.join(sorted(tasks, key=place_in(TASK_ORDER)))}"
            row = {"task": "average", "model": model, "method": method, "sparsity": sparsity, "against": against}
            yield {**row, "pairs": len(common) * len(tasks), "seeds": np.array(means), "remark": over}


_Cell = tuple[str, str, str, str]


def _cells(report: Report, settings: list[str]) -> dict[_Cell, list[dict[str, Any]]]:
    """The trials of each cell as plain rows: of few trials each, a frame would take longer."""
    needed = list(dict.fromkeys([*CELL, *RULES, "path", "value", "selected", "rank", "seed", *settings]))
    trials = report.trials.reindex(columns=needed).astype(object)
    cells: dict[_Cell, list[dict[str, Any]]] = {}
    for named in trials.where(trials.notna(), None).to_dict("records"):
        row = {str(name): value for name, value in named.items()}
        cells.setdefault((row["task"], row["method"], row["sparsity"], row["model"]), []).append(row)
    return cells


def _reference(
    by_rules: dict[tuple[Any, ...], list[dict[str, Any]]], cell: tuple[Any, ...], against: str
) -> list[dict[str, Any]]:
    """The trials that a method is compared with: with the same addition to the name (its teacher) if there are any.

    A cell is named by its rules here, from which two methods may make different patterns.
    """
    task, method, rules, model = cell
    rules = DENSE_RULES if against == "dense" else rules
    twin = by_rules.get((task, against + method.removeprefix(_base(method)), rules, model))
    return twin or by_rules.get((task, against, rules, model), [])


def _rules(trials: list[dict[str, Any]]) -> tuple[Any, ...]:
    return tuple(trials[0][name] for name in RULES)


def _gaps(table: Table) -> Iterator[dict[str, Any]]:
    best = {
        (task, row.model, row.method, (entry.rules,)): (row.sparsity, entry.value)
        for row in table.rows
        for task, entry in row.entries.items()
        if entry.value is not None
    }
    if len(table.averaged) > 1:
        for row in table.rows:
            if row.average is not None:
                rules = tuple(row.entries[task].rules for task in table.averaged)
                best["average", row.model, row.method, rules] = row.sparsity, row.average
    for (task, model, method, rules), (sparsity, value) in best.items():
        _, dense = best.get((task, model, "dense", (DENSE_RULES,) * len(rules)), ("", None))
        _, asp = best.get((task, model, "asp", rules), ("", None))
        if method in {"dense", "asp"} or dense is None or asp is None:
            continue
        yield {
            "task": task,
            "model": model,
            "method": method,
            "sparsity": sparsity,
            "dense": dense,
            "asp": asp,
            "value": value,
            "share": (value - asp) / (dense - asp) if dense - asp > 1e-12 else None,
        }


def _base(method: str) -> str:
    return method.partition(" (")[0]


def _best_folder(trials: list[dict[str, Any]]) -> Path:
    return Path(min(trials, key=lambda trial: int(trial["rank"]))["path"]).parent


def _some(n: int) -> list[int]:
    """All numbers up to n, or about 50 of them."""
    return list(range(1, n + 1)) if n <= 50 else sorted({round(k) for k in np.geomspace(1, n, 50)})
