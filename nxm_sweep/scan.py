"""The file of a sensitivity scan: what every matrix loses, and the rules that meet a budget."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nxm_sweep.errors import ConfigError
from nxm_sweep.sparsity.hardware import KERNELS, TWO_OF_FOUR
from nxm_sweep.sparsity.pattern import Constraint, Pattern, parse_constraint
from nxm_sweep.sparsity.sensitivity import Option, choose, density_of
from nxm_sweep.sweep.files import read_json, write_json

SCHEMA = 1
DENSE = "dense"
MAKE_ONE = "`python -m nxm_sweep.sensitivity TRIAL --to FILE` makes one"


def read_scan(path: Path) -> dict[str, Any]:
    """Return what a scan's file holds.

    Raises:
        ConfigError: It is missing, damaged, not a scan's, or of a later version of this package.
    """
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ConfigError(f"there is no scan {path}", hint=MAKE_ONE) from error
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"the scan {path} cannot be read: {reason}", hint=MAKE_ONE) from error
    if not isinstance(found, dict) or not isinstance(found.get("schema"), int) or "readings" not in found:
        raise ConfigError(f"{path} is no sensitivity scan", hint=MAKE_ONE)
    if found["schema"] > SCHEMA:
        raise ConfigError(f"{path} has schema {found['schema']} but this version reads up to {SCHEMA}", hint="upgrade")
    return found


class Unfinished:
    """What an interrupted scan has measured, in a file beside the one that it will write.

    Args:
        scan: The file that the scan will write; this one has ``.unfinished`` behind its name.
        setup: All that decides the measurements. A file of another setup is begun anew.

    Attributes:
        measured: The measurements, by name.
    """

    def __init__(self, scan: Path, setup: Mapping[str, Any]) -> None:
        self._path, self._setup = scan.with_name(f"{scan.name}.unfinished"), {"schema": SCHEMA, **setup}
        held = read_json(self._path)
        same = isinstance(held, dict) and held.get("setup") == self._setup
        self.measured: dict[str, dict[str, Any]] = held["measured"] if same else {}

    def add(self, name: str, found: dict[str, Any]) -> None:
        """Keep a measurement."""
        self.measured[name] = found
        write_json(self._path, {"setup": self._setup, "measured": self.measured})

    def remove(self) -> None:
        """Remove the file: the scan is whole."""
        self._path.unlink(missing_ok=True)


def settle(scan: Mapping[str, Any], density: float, *, hardware: bool) -> dict[str, Any]:
    """Return a scan with the choice that meets a budget: its ``settings``, ``chosen`` and ``rules``.

    Args:
        scan: With its ``readings``; a choice that it holds already is replaced.
        density: Share of the weights that may stay, over all scanned matrices.
        hardware: Choose 2 of 4, where a kernel takes the matrix's shape, or dense.

    Raises:
        SparsityError: The budget cannot be met.
    """
    sizes = sizes_of(scan)
    chosen = choose(
        sizes, (_option(reading) for reading in scan["readings"] if not hardware or _runs(reading)), density
    )
    return {
        **scan,
        "settings": {"density": density, "hardware": hardware},
        "chosen": {
            "density": density_of(sizes, chosen),
            "loss": None,
            "score": None,
            "matrices": {name: DENSE if held is None else str(held) for name, held in chosen.items()},
        },
        "rules": [_rule(name.removesuffix(".weight"), held) for name, held in chosen.items()],
    }


def sizes_of(scan: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of weights of every scanned matrix, in the model's order."""
    return {reading["matrix"]: reading["rows"] * reading["columns"] for reading in scan["readings"]}


def chosen_of(scan: Mapping[str, Any]) -> dict[str, Constraint | None]:
    """Return what a settled scan holds each matrix to; None is dense."""
    return {
        name: None if held == DENSE else parse_constraint(held) for name, held in scan["chosen"]["matrices"].items()
    }


def _option(reading: Mapping[str, Any]) -> Option:
    return Option(reading["matrix"], parse_constraint(reading["constraint"]), reading["kept"], reading["loss_rise"])


def _runs(reading: Mapping[str, Any]) -> bool:
    """Whether a 2:4 kernel takes the pruned matrix."""
    shape = (reading["rows"], reading["columns"])
    refusals = [rule.refusal(shape) for rule in KERNELS.values()]
    return parse_constraint(reading["constraint"]) == TWO_OF_FOUR and not all(refusals)


def _rule(match: str, held: Constraint | None) -> dict[str, Any]:
    if held is None:
        return {"match": match, "dense": True}
    if isinstance(held, Pattern):
        return {"match": match, "keep": held.keep, "group": held.group}
    return {"match": match, "density": held.density}
