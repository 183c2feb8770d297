"""ADMM without groups: the same density per matrix, any position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nxm_sweep.sparsity import Constraint, Pattern, Schedule, Target, Unstructured
from nxm_sweep.training.methods.nxm import AdmmSwitches, Nxm


class AdmmUnstructured(Nxm):
    """ADMM towards an unstructured density, the paper's "ADMM-Unstructured".

    Args:
        targets: A target with an N:M pattern is constrained to that pattern's density instead.
        rho: As for :class:`Nxm`.
        switches: As for :class:`Nxm`.
    """

    def __init__(
        self, targets: Sequence[Target], rho: float | Schedule = 0.0, switches: AdmmSwitches | None = None
    ) -> None:
        free = (replace(target, constraint=self.final_constraint(target.constraint)) for target in targets)
        super().__init__(list(free), rho, switches)

    @staticmethod
    def final_constraint(constraint: Constraint) -> Constraint:
        return Unstructured(constraint.density) if isinstance(constraint, Pattern) else constraint
