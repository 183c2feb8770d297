"""Schedule of a strength (rho, or that of the decoupled penalty) over a run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nxm_sweep.errors import SparsityError

SCHEDULES = ("constant", "linear", "cosine", "exponential")


@dataclass(frozen=True, slots=True)
class Schedule:
    """A non-negative strength that is constant or ramps from ``start`` to ``value`` over the run.

    Args:
        value: Strength at the end of the ramp (everywhere when constant); zero switches the penalty off.
        kind: One of ``constant``, ``linear``, ``cosine`` (half a cosine), ``exponential`` (geometric).
        start: Strength at the start of a ramp.

    Raises:
        SparsityError: An unknown kind, a negative or non-finite strength, or an exponential ramp from zero.
    """

    value: float
    kind: str = "constant"
    start: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in SCHEDULES:
            raise SparsityError(f"schedule must be one of {', '.join(SCHEDULES)} but got {self.kind!r}")
        if not (math.isfinite(self.value) and self.value >= 0 and math.isfinite(self.start) and self.start >= 0):
            raise SparsityError(f"a strength must be finite and not negative but got {self.start} to {self.value}")
        if self.kind == "exponential" and 0.0 in (self.start, self.value):
            raise SparsityError("an exponential ramp needs a start and a value above 0")

    def at(self, progress: float) -> float:
        """Return the strength at ``progress`` in [0, 1] of the run."""
        match self.kind:
            case "linear":
                share = progress
            case "cosine":
                share = (1.0 - math.cos(math.pi * progress)) / 2.0
            case "exponential":
                return float(self.start ** (1.0 - progress) * self.value**progress)
            case _:
                share = 1.0
        return self.start * (1.0 - share) + self.value * share  # exact at both ends
