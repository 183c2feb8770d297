"""The methods, by the name that ``conf/method`` gives them."""

from __future__ import annotations

from nxm_sweep.methods.admm import RECOMMENDED, AdmmSwitches, AdmmUnstructured, Nxm, NxmRefit
from nxm_sweep.methods.asp import Asp, WarmupAsp
from nxm_sweep.methods.base import Budget, Dense, Iteration, SparseMethod
from nxm_sweep.methods.gradual import Gradual
from nxm_sweep.methods.sr_ste import SrSte

METHODS: dict[str, type[SparseMethod]] = {
    "dense": Dense,
    "asp": Asp,
    "warmup_asp": WarmupAsp,
    "nxm": Nxm,
    "nxm_paper": Nxm,
    "admm_unstructured": AdmmUnstructured,
    "nxm_refit": NxmRefit,
    "sr_ste": SrSte,
    "gradual": Gradual,
}
__all__ = [
    "METHODS",
    "RECOMMENDED",
    "AdmmSwitches",
    "AdmmUnstructured",
    "Asp",
    "Budget",
    "Dense",
    "Gradual",
    "Iteration",
    "Nxm",
    "NxmRefit",
    "SparseMethod",
    "SrSte",
    "WarmupAsp",
]
