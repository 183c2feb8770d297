"""Trials of two methods side by side: equal budgets, common seeds, each method's settings chosen on other seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nxm_sweep.formatting import format_value
from nxm_sweep.report.estimates import NO_SPREAD, Array, chooser_sets, estimate, taking_part
from nxm_sweep.report.frames import BUDGET, CELL, DENSE_RULES, RULES, Report
from nxm_sweep.report.labels import settings_text

Trial = Mapping[str, Any]
CellName = tuple[str, str, str, str]
"""Values of :data:`~nxm_sweep.report.frames.CELL`."""
NONE, OTHER_SEEDS, SAME_SEED = "none", "other seeds", "same seed"
"""What chose the settings of a comparison: there was one combination, other seeds, the one seed that is reported."""
_TUNED = ("learning_rate.", "rho.", "method.", "distillation.", "training.batch_size", "training.gradient_accumulation")
_NAMED = 4  # seeds that a note names


@dataclass(frozen=True)
class Side:
    """One of the methods that are compared.

    Attributes:
        method: Its name.
        trials: Its trials: ``value``, ``selected``, ``selection``, ``seed`` and settings, None for what it does not read.
        lost: Seed (None where unknown) and kind of each of its points without a usable record.
        rules: Values of :data:`~nxm_sweep.report.frames.RULES`; empty without a trial.
    """

    method: str
    trials: Sequence[Trial]
    lost: Sequence[tuple[float | None, str]] = ()
    rules: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Grid:
    """Scores of a method: a row per combination of settings, a column per seed, NaN without a record.

    Attributes:
        values: Reported scores.
        selected: Scores that choose among the combinations.
        texts: The combinations in words.
    """

    values: Array
    selected: Array
    texts: tuple[str, ...]

    def choose(self, choosers: NDArray[np.bool_]) -> tuple[Array, NDArray[np.intp]]:
        """Return, per set of choosing seeds and seed, the score with the settings that those choose, and which these are.

        Settings without a record on the seed or on one of the choosing seeds are no candidates. The first wins a tie.

        Args:
            choosers: Shape ``(sets, seeds)``, each row with as many seeds.
        """
        if len(self.values) == 1 and not choosers.any():
            return self.values, np.zeros(self.values.shape, dtype=np.intp)
        known = ~np.isnan(self.values)
        on_all = known.astype(float) @ choosers.T.astype(float) > choosers.sum(axis=1) - 0.5
        sums = np.where(on_all, np.where(known, self.selected, 0.0) @ choosers.T.astype(float), -np.inf)
        candidates = np.where(known[:, np.newaxis, :], sums[:, :, np.newaxis], -np.inf)  # (settings, sets, seeds)
        best = candidates.argmax(axis=0)
        scores = np.where(np.isinf(candidates.max(axis=0)), np.nan, self.values[best, np.arange(len(known[0]))])
        return scores, best

    def columns(self, places: Sequence[int]) -> Grid:
        """Return the grid of some of the seeds."""
        return Grid(self.values[:, list(places)], self.selected[:, list(places)], self.texts)


@dataclass(frozen=True)
class Aligned:
    """Methods over the seeds that all of them have.

    Attributes:
        seeds: These seeds.
        grids: Their scores, a grid per method.
        expected: Seeds that any of them has, or was to have.
        heldout: Whether held-out rows choose the settings.
        note: Why seeds are missing or trials are left out.
    """

    seeds: tuple[float, ...]
    grids: tuple[Grid, ...]
    expected: frozenset[float]
    heldout: bool
    note: str

    @property
    def choice(self) -> bool:
        """Whether any method has several combinations of settings."""
        return any(len(grid.values) > 1 for grid in self.grids)

    def at(self, seeds: Sequence[float]) -> Aligned:
        """Return the same over some of the seeds."""
        grids = tuple(grid.columns([self.seeds.index(seed) for seed in seeds]) for grid in self.grids)
        return Aligned(tuple(seeds), grids, self.expected, self.heldout, self.note)

    def terms(self, choosers: NDArray[np.bool_]) -> list[Array]:
        """Return per method the score for each set of choosing seeds and seed; NaN where the seed itself chooses."""
        scores = [grid.choose(choosers)[0] for grid in self.grids]
        return scores if len(self.seeds) == 1 else [np.where(choosers, np.nan, table) for table in scores]


def sides_of(report: Report, settings: Sequence[str]) -> dict[CellName, Side]:
    """Return the trials and the lost points of each cell, trained or planned, as plain rows."""
    needed = list(dict.fromkeys([*CELL, *RULES, "path", "value", "selected", "rank", "selection", "seed", *settings]))
    trials = report.trials.reindex(columns=needed).astype(object)
    rows: dict[CellName, list[dict[str, Any]]] = {}
    for named in trials.where(trials.notna(), None).to_dict("records"):
        row = {str(name): value for name, value in named.items()}
        rows.setdefault((row["task"], row["method"], row["sparsity"], row["model"]), []).append(row)
    lost: dict[CellName, list[tuple[float | None, str]]] = {}
    for problem in report.problems[report.problems["task"] != ""].to_dict("records"):
        cell = (problem["task"], problem["method"], problem["sparsity"], problem["model"])
        seed = None if pd.isna(problem["seed"]) else float(problem["seed"])
        lost.setdefault(cell, []).append((seed, problem["kind"]))
    rules = {cell: tuple(trials[0][name] for name in RULES) for cell, trials in rows.items()}
    return {
        cell: Side(cell[1], rows.get(cell, []), lost.get(cell, []), rules.get(cell, ()))
        for cell in dict.fromkeys([*rows, *lost])
    }


def reference_of(sides: Mapping[CellName, Side], cell: CellName, against: str) -> Side | None:
    """Return what a cell is compared with: ``dense`` or ``asp``, with the same addition to the name if there is one.

    The reference follows the same rules, of which a method may make another pattern; by its pattern where no trial tells the
    rules.
    """
    task, method, sparsity, model = cell
    rules, pattern = (DENSE_RULES, "dense") if against == "dense" else (sides[cell].rules, sparsity)
    for name in (against + method.removeprefix(method.partition(" (")[0]), against):
        there = {key[2]: side for key, side in sides.items() if (key[0], key[1], key[3]) == (task, name, model)}
        found = next((side for side in there.values() if rules and side.rules == rules), there.get(pattern))
        if found is not None:
            return found
    return None


def align(sides: Sequence[Side], settings: Sequence[str], *, equal: bool = True) -> Aligned:
    """Return methods over their common seeds.

    Args:
        sides: The methods.
        settings: Names of the settings that may differ.
        equal: Whether to compare only trials of equal budgets, and of equal settings otherwise, save those that are tuned or
            swept.
    """
    trials, reason = _comparable(sides, settings) if equal else ([side.trials for side in sides], "")
    of_sides = [{trial["seed"] for trial in each} for each in trials]
    common = set.intersection(*of_sides)
    differing = _differing(trials, settings)
    grids = [_grid(each, sorted(common), settings, differing) for each in trials]
    lost = {seed for side in sides for seed, _ in side.lost if seed is not None}
    expected = frozenset(set.union(*of_sides) | lost)
    notes = [reason, _missing_note(sides, of_sides, expected, len(common)), _lost_note(sides)]
    heldout = all(trial["selection"] == "heldout" for each in trials for trial in each)
    return Aligned(tuple(sorted(common)), tuple(grids), expected, heldout, "; ".join(filter(None, notes)))


def difference(aligned: Aligned) -> dict[str, Any]:
    """Return how far the first of two methods is above the second.

    Keys: ``n`` (seeds that both have), ``missing`` (pairs), ``selection``, ``choice``, ``mean``, ``low``, ``high``, ``p``,
    ``settings`` and ``against_settings`` (those chosen most often), ``note``; without a common seed only ``n``, ``missing``,
    ``selection`` and ``note``.
    """
    n = len(aligned.seeds)
    row: dict[str, Any] = {"n": n, "selection": "heldout" if aligned.heldout else "dev"}
    notes = [aligned.note or "no seed in common"]
    if n:
        choosers = chooser_sets(n, aligned.choice)
        mine, reference = aligned.terms(choosers)
        row |= assess(mine - reference, choosers, aligned.choice)
        row["settings"], row["against_settings"] = (_chosen_text(grid, choosers) for grid in aligned.grids)
        alone = sum(int(((~np.isnan(grid.values)).sum(axis=1) == 1).sum()) for grid in aligned.grids) if n > 1 else 0
        notes = [row["note"], aligned.note, f"{alone} trials of settings with one seed take no part" if alone else ""]
    return {**row, "missing": len(aligned.expected) - row["n"], "note": "; ".join(filter(None, notes))}


def assess(terms: Array, choosers: NDArray[np.bool_], choice: bool) -> dict[str, Any]:
    """Return ``n``, ``choice``, ``mean``, ``low``, ``high``, ``p`` and a ``note`` on what the seeds do not allow."""
    n = int(taking_part(terms, choosers).sum())
    if n == 0:
        return {"n": 0, "note": "no combination of settings has been trained with two of the common seeds"}
    found = estimate(terms, choosers)
    note = ""
    if n == 1:
        note = "one seed: no interval, no test" + ("; it also chose the settings" if choice else "")
    elif n == 2 and choice:
        note = "2 seeds: each chose the settings of the other, so no interval and no test"
    elif found.p is None and np.ptp(terms[~np.isnan(terms)]) < NO_SPREAD:
        note = f"all {n} seeds differ by the same amount: no interval, no test"
    elif found.p is None:
        note = f"too few of the {n} seeds share settings: no interval, no test"
    made = NONE if not choice else SAME_SEED if n == 1 else OTHER_SEEDS
    tested = {"mean": found.mean, "low": found.low, "high": found.high, "p": found.p}
    return {"n": n, "choice": made, **tested, "note": note}


def _comparable(sides: Sequence[Side], settings: Sequence[str]) -> tuple[list[list[Trial]], str]:
    """The trials of each side that have an equal in all others in every budget and constant setting, and what was left out."""
    every = [trial for side in sides for trial in side.trials]
    must_agree = [
        name
        for name in settings
        if name != "seed"
        and len({trial[name] for trial in every}) > 1
        and not name.startswith(_TUNED)
        and (name in BUDGET or all(len({trial[name] for trial in side.trials}) <= 1 for side in sides))
    ]
    if not must_agree or not all(side.trials for side in sides):
        return [list(side.trials) for side in sides], ""
    found = [[tuple(trial[name] for name in must_agree) for trial in side.trials] for side in sides]
    common = set.intersection(*map(set, found))
    kept = [
        [trial for trial, key in zip(side.trials, keys, strict=True) if key in common]
        for side, keys in zip(sides, found, strict=True)
    ]
    out = len(every) - sum(map(len, kept))
    return kept, f"{out} of {len(every)} trials left out: not of equal {', '.join(must_agree)}" if out else ""


def _grid(trials: Sequence[Trial], seeds: Sequence[float], settings: Sequence[str], differing: set[str]) -> Grid:
    """The scores of one side; its combinations are named by what varies within it and by ``differing``."""
    names = [name for name in settings if name != "seed" and len({trial[name] for trial in trials}) > 1]
    scores: dict[tuple[Any, ...], dict[float, list[Trial]]] = {}
    for trial in trials:
        scores.setdefault(tuple(trial[name] for name in names), {}).setdefault(trial["seed"], []).append(trial)
    rows = [scores[key] for key in sorted(scores, key=str)]
    tables = np.full((2, len(rows), len(seeds)), np.nan)
    for place, row in enumerate(rows):
        for column, seed in enumerate(seeds):
            if same := row.get(seed):
                tables[:, place, column] = [
                    sum(trial[name] for trial in same) / len(same) for name in ("value", "selected")
                ]
    named = [name for name in settings if name in names or name in differing]
    texts = [settings_text(next(iter(row.values()))[0], named) for row in rows]
    return Grid(tables[0], tables[1], tuple(texts))


def _differing(sides: Sequence[Sequence[Trial]], settings: Sequence[str]) -> set[str]:
    """Settings that every side reads and that are not the same in all trials."""
    every = [trial for side in sides for trial in side]
    read = [name for name in settings if name != "seed" and all(trial[name] is not None for trial in every)]
    return {name for name in read if len({trial[name] for trial in every}) > 1}


def _chosen_text(grid: Grid, choosers: NDArray[np.bool_]) -> str:
    """The settings that were chosen most often, and how often if not always."""
    if len(grid.texts) == 1:
        return grid.texts[0]
    scores, best = grid.choose(choosers)
    counted = ~np.isnan(scores) & (~choosers | (choosers.shape[1] == 1))
    if not counted.any():
        return ""
    place, times = Counter(best[counted].tolist()).most_common(1)[0]
    share = times / int(counted.sum())
    text = grid.texts[place]
    return text if share > 1.0 - 1e-9 or not text else f"{text} (in {100 * share:.0f}% of the choices)"


def _missing_note(sides: Sequence[Side], found: Sequence[set[float]], expected: frozenset[float], common: int) -> str:
    """How many pairs are missing, and which side has no record of which seeds."""
    if len(expected) == common:
        return ""
    parts = []
    for side, seeds in zip(sides, found, strict=True):
        without = sorted(expected - seeds)
        named = ", ".join(format_value(seed) for seed in without[:_NAMED]) + (", ..." if len(without) > _NAMED else "")
        parts += [f"{side.method} with seed {named}"] if without else []
    return f"{len(expected) - common} of {len(expected)} pairs missing: no record of {' and of '.join(parts)}"


def _lost_note(sides: Sequence[Side]) -> str:
    """How many points of each side have no usable record, by kind."""
    counts = [(side.method, Counter(kind for _, kind in side.lost)) for side in sides if side.lost]
    kinds = [f"{method} {', '.join(f'{n} {kind}' for kind, n in found.items())}" for method, found in counts]
    return f"points without a record: {'; '.join(kinds)}" if kinds else ""
