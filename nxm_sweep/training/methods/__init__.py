"""The methods, by the name that ``conf/method`` gives them."""

from nxm_sweep.training.methods.admm_unstructured import AdmmUnstructured
from nxm_sweep.training.methods.asp import Asp
from nxm_sweep.training.methods.base import Budget, Iteration, SparseMethod
from nxm_sweep.training.methods.dense import Dense
from nxm_sweep.training.methods.gradual import Gradual
from nxm_sweep.training.methods.nxm import RECOMMENDED, AdmmSwitches, Nxm
from nxm_sweep.training.methods.nxm_refit import NxmRefit
from nxm_sweep.training.methods.sr_ste import SrSte
from nxm_sweep.training.methods.warmup_asp import WarmupAsp

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
