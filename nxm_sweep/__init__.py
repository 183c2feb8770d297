"""N:M sparsity for Transformers by ADMM (NxMTransformer), and sweeps that compare it with its baselines.

A trial, a sweep and their results::

    import nxm_sweep

    record = nxm_sweep.run(["task=glue/rte", "method=nxm_refit", "learning_rate.value=5e-5"])
    trials = nxm_sweep.run_sweep(["task=glue/rte", "method=asp,nxm_refit", "seed=range(6)"])
    trials = nxm_sweep.load("outputs")

A training script of your own takes :class:`SparseTrainer` in place of ``transformers.Trainer``, or :class:`Admm` in a plain
PyTorch loop. Nothing is loaded before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nxm_sweep.api import load, run, run_sweep, verify_model
    from nxm_sweep.errors import NxmSweepError
    from nxm_sweep.methods import METHODS, SparseMethod
    from nxm_sweep.sparsity import Admm, Pattern, Unstructured, encoder_rules, prune_, select_targets
    from nxm_sweep.training.trainer import SparseTrainer, swap_trainer

__version__ = "0.1.0"
__all__ = [
    "METHODS",
    "Admm",
    "NxmSweepError",
    "Pattern",
    "SparseMethod",
    "SparseTrainer",
    "Unstructured",
    "encoder_rules",
    "load",
    "prune_",
    "run",
    "run_sweep",
    "select_targets",
    "swap_trainer",
    "verify_model",
]
_HOMES = {
    "nxm_sweep.api": ("load", "run", "run_sweep", "verify_model"),
    "nxm_sweep.errors": ("NxmSweepError",),
    "nxm_sweep.methods": ("METHODS", "SparseMethod"),
    "nxm_sweep.sparsity": ("Admm", "Pattern", "Unstructured", "encoder_rules", "prune_", "select_targets"),
    "nxm_sweep.training.trainer": ("SparseTrainer", "swap_trainer"),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted([*__all__, "__version__"])
