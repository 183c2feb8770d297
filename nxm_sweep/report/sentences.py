"""The findings in words that a reader can quote."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from nxm_sweep.report.pairs import ENOUGH, coverage


def difference_sentences(differences: pd.DataFrame) -> Iterator[str]:
    """Yield a sentence per difference; those without a pair have none."""
    for row in differences.to_dict("records"):
        if row["n"] > 0:
            yield _difference(row)


def gap_sentences(gaps: pd.DataFrame, by: str) -> Iterator[str]:
    """Yield a sentence per gap between ASP and dense; ``by`` says what its scores are, as in the table."""
    kind = {"best": "best against best", "seed": "means over seeds"}[by]
    for row in gaps.to_dict("records"):
        scores = f"ASP ({100 * row['asp']:.1f}) and dense ({100 * row['dense']:.1f}), {kind}"
        if pd.isna(row["share"]):
            yield f"{_place(row)}, {_method(row)} has no gap to close between {scores}: dense is not above ASP."
        elif row["share"] < 0.0:
            yield f"{_place(row)}, {_method(row)} closes nothing of the gap between {scores}: it is below ASP."
        else:
            yield f"{_place(row)}, {_method(row)} closes {100 * row['share']:.0f}% of the gap between {scores}."


def _difference(row: dict[Any, Any]) -> str:
    points, n = 100 * row["mean"], int(row["n"])
    held = f" with {row['held']}" if row["held"] and not pd.isna(row["held"]) else ""
    words = f"{_place(row)}, {_method(row)}{held} is {abs(points):.1f} points {'above' if points >= 0 else 'below'} "
    words += f"{row['against']} ({_many(n, 'seed')}, {_many(int(row['pairs']), 'pair')} of equal hyperparameters"
    if not pd.isna(row["low"]):
        level = "95%" if n >= ENOUGH else f"not 95% but at most {coverage(n):.0%}"
        words += f"; bootstrap interval {100 * row['low']:+.1f} to {100 * row['high']:+.1f}, {level}"
    if not pd.isna(row["p"]):
        words += f"; paired permutation test p = {row['p']:.3g}"
    if not pd.isna(row["mcnemar"]):
        words += f"; McNemar's p of the two best trials {row['mcnemar']:.3g}"
    return words + ")."


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _place(row: dict[Any, Any]) -> str:
    return f"{'On average' if row['task'] == 'average' else 'On ' + str(row['task'])} ({row['model']})"


def _method(row: dict[Any, Any]) -> str:
    return f"{row['method']} ({row['sparsity']})"
