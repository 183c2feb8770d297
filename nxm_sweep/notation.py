"""How settings are written for people, the same in tables, pictures and progress: ``lr 2e-4``."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

_ALIASES = {"learning_rate.value": "lr", "rho.value": "rho", "training.batch_size": "batch"}


def alias(key: str) -> str:
    """Return a setting's name as people write it; most are the config key itself."""
    return _ALIASES.get(key, key)


def short(value: Any) -> str:
    """Return a setting's value: ``2e-4``, ``0.05``, ``32``, ``true``, ``null``; a text as it is."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if not isinstance(value, Real) or not math.isfinite(value):
        return str(value)
    number = float(value)
    if number.is_integer() and abs(number) < 1e6:
        return str(int(number))
    if 0.01 <= abs(number) < 1e6:
        return f"{number:g}"
    mantissa, _, exponent = f"{number:e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"
