"""Share of the gap between ASP and dense that a method closes, where the gap exceeds its noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from nxm_sweep.report.estimates import Array, chooser_sets, estimate, ratio, taking_part
from nxm_sweep.report.pairing import Aligned, CellName, Side, align, reference_of

FEW_SEEDS, NOISE, NO_GAP = "too few seeds", "within its noise", "dense is below ASP"
"""Why a gap has no share: it has no interval, its interval contains 0, or there is nothing to close."""
_COLUMNS = [
    "task",
    "model",
    "method",
    "sparsity",
    "n",
    "gap",
    "gap_low",
    "gap_high",
    "gain",
    "share",
    "low",
    "high",
    "reason",
]


def gaps_closed(sides: dict[CellName, Side], settings: Sequence[str]) -> pd.DataFrame:
    """Return one row per task (and ``average``), model and method with both references.

    Columns: ``task``, ``model``, ``method``, ``sparsity``, ``n`` (common seeds of all three), ``gap`` (dense less ASP)
    with its 95% interval ``gap_low``, ``gap_high``, ``gain`` (method less ASP), ``share`` (gain / gap) with Fieller's
    95% interval ``low``, ``high``, and ``reason``. Where the gap's interval is not above 0, there is a reason and no
    share: the ratio would be one of noise to noise.

    Args:
        sides: Trials per cell.
        settings: Names of the settings that may differ.
    """
    return pd.DataFrame(list(_compute_rows(sides, settings)), columns=_COLUMNS)


def _compute_rows(sides: dict[CellName, Side], settings: Sequence[str]) -> Iterator[dict[str, Any]]:
    of_tasks: dict[tuple[str, str, str], list[Aligned]] = {}
    for cell, side in sides.items():
        task, method, sparsity, model = cell
        dense, asp = reference_of(sides, cell, "dense"), reference_of(sides, cell, "asp")
        if method.partition(" (")[0] in {"dense", "asp"} or dense is None or asp is None:
            continue
        aligned = align([side, asp, dense], settings)
        if aligned.seeds:
            of_tasks.setdefault((model, method, sparsity), []).append(aligned)
            yield {"task": task, "model": model, "method": method, "sparsity": sparsity, **_compute_share([aligned])}
    for (model, method, sparsity), tasks in of_tasks.items():
        if len(tasks) > 1:
            yield {"task": "average", "model": model, "method": method, "sparsity": sparsity, **_compute_share(tasks)}


def _compute_share(tasks: Sequence[Aligned]) -> dict[str, Any]:
    """Compute gap, gain and share of the mean over tasks."""
    seeds = sorted(set.intersection(*(set(aligned.seeds) for aligned in tasks)))
    if not seeds:
        return {"n": 0, "reason": FEW_SEEDS}
    choosers = chooser_sets(len(seeds), any(aligned.choice for aligned in tasks))
    scores = [aligned.at(seeds).terms(choosers) for aligned in tasks]
    gains: Array = np.mean([method - asp for method, asp, _ in scores], axis=0)
    gaps: Array = np.mean([dense - asp for _, asp, dense in scores], axis=0)
    known = ~np.isnan(gains) & ~np.isnan(gaps)  # the ratio is of sums over the same terms
    gains, gaps = (np.where(known, terms, np.nan) for terms in (gains, gaps))
    gap, gain = estimate(gaps, choosers), estimate(gains, choosers)
    row = {
        "n": int(taking_part(gaps, choosers).sum()),
        "gap": gap.mean,
        "gap_low": gap.low,
        "gap_high": gap.high,
        "gain": gain.mean,
    }
    if gap.low is None or gap.high is None:
        return {**row, "reason": FEW_SEEDS}
    share = ratio(gains, gaps, choosers) if gap.low > 0.0 else None
    if share is None:
        return {**row, "reason": NO_GAP if gap.high < 0.0 else NOISE}
    return {**row, **dict(zip(("share", "low", "high"), share, strict=True)), "reason": ""}
