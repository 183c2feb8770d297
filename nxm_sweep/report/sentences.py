"""How differences were tested, and the findings, in words that a reader can quote."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from nxm_sweep.report.gaps import FEW_SEEDS, NO_GAP, NOISE
from nxm_sweep.report.pairs import NONE, OTHER_SEEDS, SAME_SEED

_CHOSEN_ON = {"dev": "the reported rows", "heldout": "held-out training rows"}
_REASONS = {
    FEW_SEEDS: "the seeds that all three have are too few, or too alike, for an interval of the gap",
    NOISE: "the gap's 95% interval includes 0",
    NO_GAP: "dense is below ASP",
}


def procedure(differences: pd.DataFrame) -> Iterator[str]:
    """Yield how the differences of a table were tested, by what there was to choose."""
    tests = int(differences["p"].notna().sum())
    if tests:
        averages = ", averages included" if (differences["task"] == "average").any() else ""
        yield (
            "Differences are paired by seed. Intervals are Student's, 95% for each on its own; p is of the same test, "
            f"two-sided, with Holm's correction for the {many(tests, 'test')} of this table{averages}."
        )
    made = differences[differences["n"] > 0]
    others, same = made[made["choice"] == OTHER_SEEDS], made[made["choice"] == SAME_SEED]
    if len(others):
        yield (
            "Each method stands with its best settings, chosen on other seeds than the one that is scored, by "
            f"{_rows(others)}: no score is reported for a choice that it took part in."
        )
    if len(same):
        yield f"With one seed the settings are chosen on that seed, by {_rows(same)}: such a difference has no test."
    if (made["choice"] == NONE).any():
        alone = len(others) == len(same) == 0
        yield f"{'E' if alone else 'Elsewhere e'}ach method has one combination of settings, so nothing is chosen."
    if (tests := int(differences["mcnemar"].notna().sum())) > 0:
        yield (
            "McNemar's test is given where no trial was picked by the rows that it counts. It is of two trained models, "
            f"not of two methods; corrected likewise, for its {many(tests, 'test')}."
        )


def _rows(differences: pd.DataFrame) -> str:
    """What chose, in words: ``their scores on the reported rows``."""
    return f"their scores on {' or '.join(_CHOSEN_ON[name] for name in sorted(set(differences['selection'])))}"


def difference_sentences(differences: pd.DataFrame) -> Iterator[str]:
    """Yield a sentence per difference, and per comparison that is impossible."""
    for row in differences.to_dict("records"):
        yield (
            _difference(row) if row["n"] > 0 else f"{_place(row)}, {_method(row)} and {row['against']}: {row['note']}."
        )


def gap_sentences(gaps: pd.DataFrame) -> Iterator[str]:
    """Yield a sentence per share of a gap between ASP and dense, and one per reason why others have none."""
    for row in gaps[gaps["reason"] == ""].to_dict("records"):
        yield (
            f"{_place(row)}, {_method(row)} closes {100 * row['share']:.0f}% (95% interval {100 * row['low']:.0f}% to "
            f"{100 * row['high']:.0f}%, {many(int(row['n']), 'seed')}) of the {100 * row['gap']:.1f} points between ASP and "
            "dense."
        )
    for reason, rows in gaps[gaps["reason"] != ""].groupby("reason", sort=False):
        places = dict.fromkeys(f"{row['task']} ({row['model']}, {row['sparsity']})" for row in rows.to_dict("records"))
        yield f"No share of the gap between ASP and dense is given on {', '.join(places)}: {_REASONS[str(reason)]}."


def _difference(row: dict[Any, Any]) -> str:
    points = 100 * row["mean"]
    words = f"{_place(row)}, {_method(row)}{_with(row['settings'])} is {abs(points):.1f} points "
    words += f"{'above' if points >= 0 else 'below'} {row['against']}{_with(row['against_settings'])} ("
    words += many(int(row["n"]), "seed")
    if not pd.isna(row["low"]):
        words += (
            f"; 95% interval {100 * row['low']:+.1f} to {100 * row['high']:+.1f}; p = {row['p_holm']:.3g}, corrected"
        )
    if not pd.isna(row["mcnemar"]):
        words += f"; McNemar's p of the two trials {row['mcnemar_holm']:.3g}, corrected"
    if row["missing"] > 0:
        words += f"; {int(row['missing'])} of {int(row['n'] + row['missing'])} pairs missing"
    return words + ")."


def _with(settings: Any) -> str:
    return f" with {settings}" if settings and not pd.isna(settings) else ""


def many(count: int, what: str) -> str:
    """Return a number with its noun."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _place(row: dict[Any, Any]) -> str:
    return f"{'On average' if row['task'] == 'average' else 'On ' + str(row['task'])} ({row['model']})"


def _method(row: dict[Any, Any]) -> str:
    return f"{row['method']} ({row['sparsity']})"
