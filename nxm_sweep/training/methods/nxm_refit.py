"""ADMM finds the support, masked fine-tuning fits the weights to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from nxm_sweep.settings import TrialSettings
from nxm_sweep.sparsity import Schedule, Target
from nxm_sweep.training.methods.nxm import AdmmSwitches, Nxm


class NxmRefit(Nxm):
    """:class:`Nxm` for a share ``admm_fraction`` of the steps; then the support is frozen and trained masked.

    In a short run pure ADMM ends far from the pattern, and the last prune costs what was learned. Here nothing is left to
    prune at the end. A share of 1 is pure ADMM, a share of 0 is ASP.

    Args:
        targets: As for :class:`Nxm`.
        rho: As for :class:`Nxm`.
        switches: As for :class:`Nxm`; the finish is ``refit`` whatever they say.
    """

    @classmethod
    def read_settings(cls, settings: TrialSettings) -> dict[str, Any]:
        admm = dataclasses.replace(settings.method.admm, finish="refit")
        method = dataclasses.replace(settings.method, admm=admm)
        return super().read_settings(dataclasses.replace(settings, method=method))

    def __init__(
        self, targets: Sequence[Target], rho: float | Schedule = 0.0, switches: AdmmSwitches | None = None
    ) -> None:
        super().__init__(targets, rho, dataclasses.replace(switches or AdmmSwitches(), finish="refit"))
