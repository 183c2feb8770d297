"""How far weights are from their constraint, over one matrix or many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Residuals:
    """How far one Z and dual step found the weights from the constraint, over all targets together.

    Attributes:
        primal: ``||W - Z|| / max(||W||, ||Z||)``.
        dual: ``||Z - Z_before|| / ||U||``, 0 where both vanish (relative dual residual of the scaled form); where there is no
            dual, ``||Z - Z_before|| / ||Z||``.
        distance: ``||W - P(W)|| / ||W||``: what a hard prune would cut now.
        support_flips: Share of Z's kept entries that the step before had not kept.
        rho: The penalty's strength during the W-step before.
        groups: The same for each group of matrices (:attr:`Target.group`); empty inside a group.
    """

    primal: float
    dual: float
    distance: float
    support_flips: float
    rho: float
    groups: Mapping[str, Residuals] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the residuals of ``dataclasses.asdict``; the groups may be missing."""
        groups = {name: cls.from_dict(group) for name, group in values.get("groups", {}).items()}
        return cls(**{**values, "groups": groups})


@dataclass(slots=True)
class Energies:
    """Squared norms and counts over a set of matrices, from which residuals are made."""

    weight: float = 0.0
    cut: float = 0.0
    z: float = 0.0
    primal: float = 0.0
    moved: float = 0.0
    dual: float = 0.0
    flipped: int = 0
    kept: int = 0

    def add_(self, **more: float) -> None:
        """Add to the sums by name."""
        for name, value in more.items():
            setattr(self, name, getattr(self, name) + value)

    def residuals(self, rho: float) -> Residuals:
        """Return the relative residuals."""
        return Residuals(
            primal=_ratio(self.primal, max(self.weight, self.z)),
            dual=_ratio(self.moved, self.dual),
            distance=_ratio(self.cut, self.weight),
            support_flips=self.flipped / self.kept if self.kept else 0.0,
            rho=rho,
        )


def _ratio(numerator: float, denominator: float) -> float:
    """Ratio of two norms given as energies; 0 where the numerator vanishes, infinite where only the denominator does."""
    if numerator == 0.0:
        return 0.0
    return (numerator / denominator) ** 0.5 if denominator else float("inf")
