"""How an attempt at a point ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nxm_sweep.sweep.attempts import Failure

STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Outcome:
    """With a record (neither is set), stopped on request, or failed."""

    stopped: str | None = None
    failure: Failure | None = None


def outcome_of(result: Mapping[str, Any] | None) -> Outcome:
    """Return what a worker's answer means: None is a record, ``{"stopped": why}``, else a failure's fields."""
    if result is None:
        return Outcome()
    return Outcome(stopped=result[STOPPED]) if STOPPED in result else Outcome(failure=Failure(**result))
