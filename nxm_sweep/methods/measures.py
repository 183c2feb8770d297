"""Running measures over optimizer steps, kept on the device so that no step waits for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nxm_sweep.sparsity import Target

_MEMORY = 0.98  # of the running mean square: about 50 steps


class RunningMean:
    """Mean of a scalar over optimizer steps; non-finite values do not count.

    Args:
        state: State of :meth:`state_dict`; checkpoints of earlier versions have none.
        whole: Whether a mean may begin here if there is no state.
    """

    def __init__(self, state: Mapping[str, Tensor] | None = None, *, whole: bool = True) -> None:
        start = torch.tensor(0.0 if whole else float("nan"), dtype=torch.float64)
        self._total, self._steps = start, torch.zeros((), dtype=torch.float64)
        if state:
            self._total, self._steps = state["total"].clone(), state["steps"].clone()

    def add_(self, value: Tensor) -> None:
        """Count one step."""
        counts = value.isfinite()
        self._total = self._total.to(value.device) + torch.where(counts, value, 0.0)
        self._steps = self._steps.to(value.device) + counts

    def take(self) -> float | None:
        """Return the mean and reset it; None without a step, or if steps before a resume were not counted."""
        total, steps = float(self._total), float(self._steps)
        self._total, self._steps = torch.zeros_like(self._steps), torch.zeros_like(self._steps)
        return total / steps if steps and math.isfinite(total) else None

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a resumed run needs: ``total`` and ``steps``, fp64 scalars."""
        return {"total": self._total, "steps": self._steps}


class RunningNorm:
    """Root mean square of a norm over about the last 50 optimizer steps; non-finite values do not count.

    Args:
        state: State of :meth:`state_dict`; checkpoints of earlier versions have none.
    """

    def __init__(self, state: Mapping[str, Tensor] | None = None) -> None:
        self._square, self._weight = (torch.zeros((), dtype=torch.float64) for _ in range(2))
        if state:
            self._square, self._weight = state["square"].clone(), state["weight"].clone()

    def add_(self, norm: Tensor) -> None:
        """Count one step."""
        counts = norm.isfinite()
        square, weight = self._square.to(norm.device), self._weight.to(norm.device)
        squared = torch.where(counts, norm, 0.0).double().square()
        self._square = torch.where(counts, torch.lerp(squared, square, _MEMORY), square)
        self._weight = torch.where(counts, torch.lerp(torch.ones_like(weight), weight, _MEMORY), weight)

    def read(self) -> float:
        """Return the root mean square, 0 before the first step. Waits for the device."""
        weight = float(self._weight)
        return math.sqrt(float(self._square) / weight) if weight else 0.0

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a resumed run needs: ``square`` and ``weight``, fp64 scalars."""
        return {"square": self._square, "weight": self._weight}


def gradient_norm(targets: Sequence[Target]) -> Tensor:
    """Return the joint norm of the targets' gradients, a scalar on their device."""
    return torch.nn.utils.get_total_norm([target.gradient for target in targets if target.gradient is not None])


def share_of(penalty: Tensor, task: Tensor) -> Tensor:
    """Return ``penalty / (penalty + task)`` of two norms: 0 where both vanish, NaN where one is not finite."""
    together = penalty + task
    share = torch.where(together > 0.0, penalty / together, 0.0)
    return torch.where(together.isfinite(), share, torch.nan)
