"""Settings as a table shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

_ALIASES = {"learning_rate.value": "lr", "rho.value": "rho", "training.batch_size": "batch"}


def short(value: Any) -> str:
    """Return a setting as a table shows it: 2e-4, 32."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number):
        return str(value)
    number = float(value)
    if number.is_integer() and abs(number) < 1e6:
        return str(int(number))
    if abs(number) >= 0.01:
        return f"{number:g}"
    mantissa, _, exponent = f"{number:e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def settings_text(trial: Mapping[str, Any] | pd.Series[Any], names: Sequence[str]) -> str:
    """Return a trial's settings of those names in one line; those that its method does not read are left out."""
    known = [name for name in names if name in trial and pd.notna(trial[name])]
    return ", ".join(f"{_ALIASES.get(name, name)} {short(trial[name])}" for name in known)
