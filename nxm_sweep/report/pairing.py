"""Pair trials of two methods: equal budgets, common seeds, each method's settings chosen on other seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nxm_sweep.formatting import display_name, format_value
from nxm_sweep.report.estimates import NO_SPREAD, Array, chooser_sets, estimate, taking_part
from nxm_sweep.report.frames import BUDGET, CELL, DENSE_RULES, RULES, Report
from nxm_sweep.report.labels import settings_text

Trial = Mapping[str, Any]
CellName = tuple[str, str, str, str]
"""Values of :data:`~nxm_sweep.report.frames.CELL`."""
NONE, OTHER_SEEDS, SAME_SEED = "none", "other seeds", "same seed"
"""How the settings of a comparison were chosen: one combination only, on other seeds, on the one reported seed."""
_TUNED = ("learning_rate.", "rho.", "method.", "distillation.", "training.batch_size", "training.gradient_accumulation")
_NAMED = 4  # most seeds listed in a note


@dataclass(frozen=True)
class Side:
    """A method in a comparison.

    Attributes:
        method: Its name.
        trials: Its trials: ``value``, ``selected``, ``selection``, ``seed`` and settings (None: not read).
        lost: Seed (None: unknown) and kind of each point without a usable record.
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
        selected: Scores that select a combination.
        texts: The combinations as text.
    """

    values: Array
    selected: Array
    texts: tuple[str, ...]

    def choose(self, choosers: NDArray[np.bool_]) -> tuple[Array, NDArray[np.intp]]:
        """Return, per set of choosing seeds and scored seed, the score with the chosen settings, and their row.

        Candidates have a record on the scored seed and on every choosing seed. The first wins a tie.

        Args:
            choosers: Shape ``(sets, seeds)``, the same number of seeds in each row.

        Returns:
            Both of shape ``(sets, seeds)``; the score is NaN without a candidate.
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
        """Return the grid of a subset of the seeds."""
        return Grid(self.values[:, list(places)], self.selected[:, list(places)], self.texts)


@dataclass(frozen=True)
class Aligned:
    """Methods on their common seeds.

    Attributes:
        seeds: Common seeds.
        grids: Scores, one grid per method.
        expected: Recorded or lost seeds of any method.
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
        """Restrict the methods to ``seeds``."""
        grids = tuple(grid.columns([self.seeds.index(seed) for seed in seeds]) for grid in self.grids)
        return Aligned(tuple(seeds), grids, self.expected, self.heldout, self.note)

    def terms(self, choosers: NDArray[np.bool_]) -> list[Array]:
        """Return each method's scores, shape ``(sets, seeds)``; NaN where the scored seed also chooses."""
        scores = [grid.choose(choosers)[0] for grid in self.grids]
        return scores if len(self.seeds) == 1 else [np.where(choosers, np.nan, table) for table in scores]


def sides_of(report: Report, settings: Sequence[str]) -> dict[CellName, Side]:
    """Return the trials and lost points of each cell, trained or planned, as plain rows."""
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
    """Return the reference of a cell: ``dense`` or ``asp``, preferably with the same addition to its name.

    It is matched by rules, since a method may make another pattern of them, or by pattern where the rules are unknown.
    """
    task, method, sparsity, model = cell
    rules, pattern = (DENSE_RULES, "dense") if against == "dense" else (sides[cell].rules, sparsity)
    for name in (against + method.removeprefix(method.partition(" (")[0]), against):
        candidates = {key[2]: side for key, side in sides.items() if (key[0], key[1], key[3]) == (task, name, model)}
        reference = next(
            (side for side in candidates.values() if rules and side.rules == rules), candidates.get(pattern)
        )
        if reference is not None:
            return reference
    return None


def align(sides: Sequence[Side], settings: Sequence[str], *, equal: bool = True) -> Aligned:
    """Align methods on their common seeds.

    Args:
        sides: The methods.
        settings: Names of the settings that may differ.
        equal: Whether to compare only trials of equal budgets, and of equal settings except tuned or swept ones.
    """
    trials, reason = _keep_comparable(sides, settings) if equal else ([side.trials for side in sides], "")
    of_sides = [{trial["seed"] for trial in each} for each in trials]
    common = set.intersection(*of_sides)
    differing = _find_differing(trials, settings)
    grids = [_make_grid(each, sorted(common), settings, differing) for each in trials]
    lost = {seed for side in sides for seed, _ in side.lost if seed is not None}
    expected = frozenset(set.union(*of_sides) | lost)
    notes = [reason, _describe_missing(sides, of_sides, expected, len(common)), _describe_lost(sides)]
    heldout = all(trial["selection"] == "heldout" for each in trials for trial in each)
    return Aligned(tuple(sorted(common)), tuple(grids), expected, heldout, "; ".join(filter(None, notes)))


def difference(aligned: Aligned) -> dict[str, Any]:
    """Return the difference of two methods, first less second.

    Keys: ``n`` (seeds that both have), ``missing`` (pairs), ``selection``, ``choice``, ``mean``, ``low``, ``high``, ``p``,
    ``settings`` and ``against_settings`` (those chosen most often), ``note``; without a common seed only ``n``, ``missing``,
    ``selection`` and ``note``.
    """
    n = len(aligned.seeds)
    row: dict[str, Any] = {"n": n, "selection": "heldout" if aligned.heldout else "dev"}
    notes = [aligned.note or "no seed in common"]
    if n:
        choosers = chooser_sets(n, aligned.choice)
        scores, reference = aligned.terms(choosers)
        row |= assess(scores - reference, choosers, aligned.choice)
        row["settings"], row["against_settings"] = (_describe_choice(grid, choosers) for grid in aligned.grids)
        single_seed = (
            sum(int(((~np.isnan(grid.values)).sum(axis=1) == 1).sum()) for grid in aligned.grids) if n > 1 else 0
        )
        notes = [
            row["note"],
            aligned.note,
            f"{single_seed} trials of settings with one seed take no part" if single_seed else "",
        ]
    return {**row, "missing": len(aligned.expected) - row["n"], "note": "; ".join(filter(None, notes))}


def assess(terms: Array, choosers: NDArray[np.bool_], choice: bool) -> dict[str, Any]:
    """Return ``n``, ``choice``, ``mean``, ``low``, ``high``, ``p`` and a ``note`` on what the seeds do not allow."""
    n = int(taking_part(terms, choosers).sum())
    if n == 0:
        return {"n": 0, "note": "no combination of settings has been trained with two of the common seeds"}
    result = estimate(terms, choosers)
    note = ""
    if n == 1:
        note = "one seed: no interval, no test" + ("; it also chose the settings" if choice else "")
    elif n == 2 and choice:
        note = "2 seeds: each chose the settings of the other, so no interval and no test"
    elif result.p is None and np.ptp(terms[~np.isnan(terms)]) < NO_SPREAD:
        note = f"all {n} seeds differ by the same amount: no interval, no test"
    elif result.p is None:
        note = f"too few of the {n} seeds share settings: no interval, no test"
    chosen_on = NONE if not choice else SAME_SEED if n == 1 else OTHER_SEEDS
    tested = {"mean": result.mean, "low": result.low, "high": result.high, "p": result.p}
    return {"n": n, "choice": chosen_on, **tested, "note": note}


def _keep_comparable(sides: Sequence[Side], settings: Sequence[str]) -> tuple[list[list[Trial]], str]:
    """Keep trials whose budgets and constant settings occur on every side; return them and a note on the others."""
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
    side_keys = [[tuple(trial[name] for name in must_agree) for trial in side.trials] for side in sides]
    common = set.intersection(*map(set, side_keys))
    kept = [
        [trial for trial, key in zip(side.trials, keys, strict=True) if key in common]
        for side, keys in zip(sides, side_keys, strict=True)
    ]
    out = len(every) - sum(map(len, kept))
    return kept, f"{out} of {len(every)} trials left out: not of equal {', '.join(must_agree)}" if out else ""


def _make_grid(trials: Sequence[Trial], seeds: Sequence[float], settings: Sequence[str], differing: set[str]) -> Grid:
    """Tabulate one side's scores; what varies within it, and ``differing``, name its combinations."""
    names = [name for name in settings if name != "seed" and len({trial[name] for trial in trials}) > 1]
    scores: dict[tuple[Any, ...], dict[float, list[Trial]]] = {}
    for trial in trials:
        scores.setdefault(tuple(trial[name] for name in names), {}).setdefault(trial["seed"], []).append(trial)
    rows = [scores[key] for key in sorted(scores, key=str)]
    tables = np.full((2, len(rows), len(seeds)), np.nan)
    for index, row in enumerate(rows):
        for column, seed in enumerate(seeds):
            if same := row.get(seed):
                tables[:, index, column] = [
                    sum(trial[name] for trial in same) / len(same) for name in ("value", "selected")
                ]
    named = [name for name in settings if name in names or name in differing]
    texts = [settings_text(next(iter(row.values()))[0], named) for row in rows]
    return Grid(tables[0], tables[1], tuple(texts))


def _find_differing(sides: Sequence[Sequence[Trial]], settings: Sequence[str]) -> set[str]:
    """Return the settings that every side reads and that vary among trials."""
    every = [trial for side in sides for trial in side]
    read = [name for name in settings if name != "seed" and all(trial[name] is not None for trial in every)]
    return {name for name in read if len({trial[name] for trial in every}) > 1}


def _describe_choice(grid: Grid, choosers: NDArray[np.bool_]) -> str:
    """Return the settings chosen most often, and their share if not always."""
    if len(grid.texts) == 1:
        return grid.texts[0]
    scores, best = grid.choose(choosers)
    counted = ~np.isnan(scores) & (~choosers | (choosers.shape[1] == 1))
    if not counted.any():
        return ""
    index, times = Counter(best[counted].tolist()).most_common(1)[0]
    share = times / int(counted.sum())
    text = grid.texts[index]
    return text if share > 1.0 - 1e-9 or not text else f"{text} (in {100 * share:.0f}% of the choices)"


def _describe_missing(
    sides: Sequence[Side], seeds_of_sides: Sequence[set[float]], expected: frozenset[float], common: int
) -> str:
    """Count the missing pairs and name each side's seeds without a record."""
    if len(expected) == common:
        return ""
    parts = []
    for side, seeds in zip(sides, seeds_of_sides, strict=True):
        without = sorted(expected - seeds)
        named = ", ".join(format_value(seed) for seed in without[:_NAMED]) + (", ..." if len(without) > _NAMED else "")
        parts += [f"{display_name('method', side.method)} with seed {named}"] if without else []
    return f"{len(expected) - common} of {len(expected)} pairs missing: no record of {' and of '.join(parts)}"


def _describe_lost(sides: Sequence[Side]) -> str:
    """Count each side's points without a usable record, by kind."""
    counts = [(side.method, Counter(kind for _, kind in side.lost)) for side in sides if side.lost]
    kinds = [
        f"{display_name('method', method)} {', '.join(f'{n} {kind}' for kind, n in counter.items())}"
        for method, counter in counts
    ]
    return f"points without a record: {'; '.join(kinds)}" if kinds else ""
