"""Sparsity rules beside those of the config: shorthand rules, and the file of a sensitivity scan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nxm_sweep.errors import ConfigError, SparsityError, first_line
from nxm_sweep.settings import RuleSettings, SparsitySettings, from_dict
from nxm_sweep.sparsity.pattern import Unstructured, parse_constraint

_NO_RULE = "sparsity.rules must hold at least one rule but got []"


def complete_rules_(sparsity: SparsitySettings, folder: Path, *, of_sweep: bool = False) -> None:
    """Add the rules of ``sparsity.scan`` and ``sparsity.also``, in place.

    Args:
        sparsity: As composed; its rules are complete afterwards.
        folder: Base of a relative path.
        of_sweep: Whether a scan beside other rules belongs to other cells, and is dropped here.

    Raises:
        ConfigError: The scan cannot be read or conflicts with rules, a shorthand rule is invalid, or there is no rule.
    """
    if sparsity.scan is not None:
        if not sparsity.rules:
            sparsity.rules = read_scanned_rules(folder / Path(sparsity.scan).expanduser())
        elif of_sweep:
            sparsity.scan = None
        else:
            raise ConfigError(
                "sparsity.scan and sparsity.rules both say what is pruned", hint="the rules of a scan: sparsity=mixed"
            )
    if sparsity.also:
        sparsity.rules = [*sparsity.rules, *map(_parse_rule, sparsity.also)]
        sparsity.name, sparsity.also = f"{sparsity.name}+rules", []
    if not sparsity.rules:
        raise ConfigError(_NO_RULE, hint=f"sparsity=mixed takes those of a scan, sparsity.scan=FILE: {MAKE_ONE}")


def read_scanned_rules(path: Path) -> list[RuleSettings]:
    """Return the rules chosen by a scan.

    Raises:
        ConfigError: As :func:`nxm_sweep.config.sparsity_rules.read_scan`, or it holds no rules.
    """
    try:
        rules = [from_dict(RuleSettings, rule) for rule in read_scan(path)["rules"]]
    except (LookupError, TypeError) as error:
        raise ConfigError(f"the scan {path} holds no rules", hint=MAKE_ONE) from error
    if not rules:
        raise ConfigError(f"the scan {path} holds no rules", hint=MAKE_ONE)
    return rules


def _parse_rule(text: str) -> RuleSettings:
    """Parse a rule such as ``encoder.layer.[0-3].*: dense`` or ``*.intermediate.*: 1 of 4``."""
    hint = "for example '*.intermediate.*: 1 of 4', or ': dense'"
    match, _, pattern = (part.strip() for part in text.rpartition(":"))
    if not match:
        raise ConfigError(f"sparsity.also holds {text!r}, which has not the form GLOB: PATTERN", hint=hint)
    if pattern == "dense":
        return RuleSettings(match, dense=True)
    try:
        constraint = parse_constraint(pattern)
    except SparsityError as error:
        raise ConfigError(f"sparsity.also holds {text!r}: {error.message}", hint=hint) from error
    if isinstance(constraint, Unstructured):
        return RuleSettings(match, density=constraint.density)
    return RuleSettings(match, keep=constraint.keep, group=constraint.group)


SCHEMA = 1
MAKE_ONE = "`python -m nxm_sweep.sensitivity TRIAL --to FILE` makes one"


def read_scan(path: Path) -> dict[str, Any]:
    """Return the content of a scan's file.

    Raises:
        ConfigError: It is missing, damaged, not a scan, or has a later schema.
    """
    try:
        scan = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ConfigError(f"there is no scan {path}", hint=MAKE_ONE) from error
    except (OSError, ValueError) as error:
        reason = first_line(error)
        raise ConfigError(f"the scan {path} cannot be read: {reason}", hint=MAKE_ONE) from error
    if not isinstance(scan, dict) or not isinstance(scan.get("schema"), int) or "readings" not in scan:
        raise ConfigError(f"{path} is no sensitivity scan", hint=MAKE_ONE)
    if scan["schema"] > SCHEMA:
        raise ConfigError(f"{path} has schema {scan['schema']} but this version reads up to {SCHEMA}", hint="upgrade")
    return scan
