"""Plans on disk: the cells of a sweep and their points, read without Hydra, Optuna or PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nxm_sweep.store.paths import PLANS
from nxm_sweep.store.small_files import PlanFile, read_small_file, set_aside_damaged


@dataclass(frozen=True)
class PlannedPoint:
    """One point of a plan."""

    identity: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class PlannedCell:
    """One cell of a plan; ``wanted`` counts its trainings, including those that a search has yet to draw.

    ``names`` are those of its task, method, sparsity, model and distillation; an old plan has them in one text, without the
    last. ``pattern`` is the pattern of its targets; None in an old plan.
    ``seeds`` are the seeds of every drawn point of a search with several.
    """

    name: str
    points: Sequence[PlannedPoint]
    wanted: int
    names: Mapping[str, str] = field(default_factory=dict)
    pattern: str | None = None
    seeds: Sequence[int] = ()


def read_plans(output_dir: Path) -> list[dict[str, Any]]:
    """Return the plans under ``output_dir``, newest first, without those whose points all appear in newer ones.

    A damaged one is named on standard error.
    """
    plans = [plan for file in sorted((output_dir / PLANS).glob("*.json")) if (plan := read_plan(file)) is not None]
    plans.sort(key=lambda plan: -float(plan["written"]))
    kept: list[dict[str, Any]] = []
    seen: set[str] = set()
    for plan in plans:
        identities = {identity for cell in plan["cells"] for identity, _ in cell["points"]}
        if not identities or not identities <= seen:
            kept.append(plan)
            seen |= identities
    return kept


def read_plan(file: Path) -> dict[str, Any] | None:
    """Return a plan, or None if its file is damaged, which is named on standard error."""
    plan: dict[str, Any] | None = read_small_file(file, PlanFile)
    return plan


def set_aside_damaged_plans(output_dir: Path) -> None:
    """Set aside the damaged plans under ``output_dir``, and name them on standard error."""
    folder = output_dir / PLANS
    set_aside_damaged(folder, {file.name: PlanFile for file in sorted(folder.glob("*.json"))})


def rules_of(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rules of a plan's sweep as arguments of :func:`~nxm_sweep.store.state.read_states`."""
    usual = {"lease": 60.0, "max_attempts": 3, "pruning": False}
    return {name: plan.get(name, value) for name, value in usual.items()}


def cells_of(plan: Mapping[str, Any]) -> list[PlannedCell]:
    """Return the cells of a plan."""
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
    parts: list[str] = cell["name"].split()
    task, method, sparsity, *model = [*parts, "", "", ""]
    return {"task": task, "method": method, "sparsity": sparsity, "model": " ".join(model).strip()}
