"""ADMM without groups: the same density per matrix, any position."""

from __future__ import annotations

from collections.abc import Sequence

from nxm_sweep.sparsity import Pattern, Schedule, Target, Unstructured
from nxm_sweep.training.methods.nxm import AdmmSwitches, Nxm


class AdmmUnstructured(Nxm):
    """ADMM towards an unstructured density, the paper's "ADMM-Unstructured".

    Args:
        targets: A target with an N:M pattern is constrained to that pattern's density instead.
        rho: As for :class:`Nxm`.
        switches: As for :class:`Nxm`.
    """

    def __init__(self, targets: Sequence[Target], rho: float | Schedule, switches: AdmmSwitches | None = None) -> None:
        super().__init__([_without_groups(target) for target in targets], rho, switches)


def _without_groups(target: Target) -> Target:
    if isinstance(target.constraint, Pattern):
        return Target(target.name, target.weight, Unstructured(target.constraint.density))
    return target
