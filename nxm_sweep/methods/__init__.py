"""The methods, by their name in ``conf/method``."""

from __future__ import annotations

from importlib.metadata import entry_points

from nxm_sweep.errors import ConfigError, first_line
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


def _load_installed_methods() -> dict[str, type[SparseMethod]]:
    """Load the methods that installed packages register under the entry point group ``nxm_sweep.methods``.

    Raises:
        ConfigError: A method cannot be loaded, is no subclass of :class:`SparseMethod`, or has the name of another.
    """
    methods: dict[str, type[SparseMethod]] = {}
    for entry in entry_points(group="nxm_sweep.methods"):
        origin = f"the entry point {entry.name} = {entry.value} of the group nxm_sweep.methods"
        if entry.name in {**METHODS, **methods}:
            raise ConfigError(f"{origin} has the name of another method", hint="rename it in its package")
        try:
            method = entry.load()
        except Exception as error:  # an import can raise anything
            raise ConfigError(f"{origin} cannot be loaded: {first_line(error)}") from error
        if not (isinstance(method, type) and issubclass(method, SparseMethod)):
            raise ConfigError(f"{origin} is no subclass of nxm_sweep.SparseMethod")
        methods[entry.name] = method
    return methods


METHODS |= _load_installed_methods()
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
