"""Plans on disk: the cells of a sweep and their points. Reading them needs neither Hydra, Optuna nor PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nxm_sweep.store.files import read_json
from nxm_sweep.store.paths import PLANS


@dataclass(frozen=True)
class PlannedPoint:
    """A point as a plan's file has it."""

    identity: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class PlannedCell:
    """A cell as a plan's file has it; ``wanted`` counts its trainings, those that a search has yet to ask for included.

    ``names`` are those of its task, method, sparsity, model and distillation; an old plan has them in one text, without the
    last. ``pattern`` is what its targets are to hold; an old plan does not say it.
    ``seeds`` are those that a search trains each drawn point with, where there are several.
    """

    name: str
    points: Sequence[PlannedPoint]
    wanted: int
    names: Mapping[str, str] = field(default_factory=dict)
    pattern: str | None = None
    seeds: Sequence[int] = ()


def read_plans(output_dir: Path) -> list[dict[str, Any]]:
    """Return the plans written under ``output_dir``, newest first; one that a newer one holds whole is left out."""
    plans = [plan for file in (output_dir / PLANS).glob("*.json") if is_plan(plan := read_json(file))]
    plans.sort(key=lambda plan: -float(plan["written"]))
    kept: list[dict[str, Any]] = []
    seen: set[str] = set()
    for plan in plans:
        identities = {identity for cell in plan["cells"] for identity, _ in cell["points"]}
        if not identities or not identities <= seen:
            kept.append(plan)
            seen |= identities
    return kept


def is_plan(found: Any) -> bool:
    """Return whether what a file held is a plan, whole."""
    try:
        float(found["written"])
        float(rules_of(found)["lease"])
        return all(isinstance(point.identity, str) for cell in cells_of(found) for point in cell.points)
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def rules_of(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return what :func:`survey` needs to tell the points' states, as the plan's sweep had it."""
    usual = {"lease": 60.0, "max_attempts": 3, "pruning": False}
    return {name: plan.get(name, value) for name, value in usual.items()}


def cells_of(plan: Mapping[str, Any]) -> list[PlannedCell]:
    """Return the cells of a plan's file."""
    return [
        PlannedCell(
            cell["name"],
            [
                PlannedPoint(identity, dict(zip(cell["axes"], values, strict=True)))
                for identity, values in cell["points"]
            ],
            cell.get("wanted", len(cell["points"])),
            _names_of(cell),
            cell.get("pattern"),
            list(cell.get("seeds", [])),
        )
        for cell in plan["cells"]
    ]


def _names_of(cell: Mapping[str, Any]) -> dict[str, str]:
    if "names" in cell:
        return dict(cell["names"])
    words: list[str] = cell["name"].split()
    task, method, sparsity, *model = [*words, "", "", ""]
    return {"task": task, "method": method, "sparsity": sparsity, "model": " ".join(model).strip()}
