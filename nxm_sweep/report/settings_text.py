"""Settings as a table shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from nxm_sweep.notation import alias, short


def settings_text(trial: Mapping[str, Any] | pd.Series[Any], names: Sequence[str]) -> str:
    """Return a trial's settings of those names in one line; those that its method does not read are left out."""
    known = [name for name in names if name in trial and pd.notna(trial[name])]
    return ", ".join(f"{alias(name)} {short(trial[name])}" for name in known)
