"""Gradual magnitude pruning: the pattern is tightened in stages, with masked training in between."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

from torch import Tensor

from nxm_sweep.errors import SparsityError
from nxm_sweep.methods.asp import Masked
from nxm_sweep.methods.base import Budget
from nxm_sweep.settings import TrialSettings
from nxm_sweep.sparsity import Constraint, Masking, Pattern, Target, Unstructured

_DENSITY_STAGES = 8  # of an unstructured density, which has no stages of its own


class Gradual(Masked):
    """Magnitude masks that tighten in stages, such as 3 of 4, then 2 of 4, evenly spaced over a first part of the run.

    An N:M pattern loses one weight per group and stage. An unstructured density falls in 8 stages on the cubic curve of
    Zhu and Gupta. The first stage is at the start, the last one at ``end_fraction`` of the steps.

    Args:
        targets: Matrices to prune.
        end_fraction: Share of the optimizer steps at which the pattern is reached, in [0, 1]; 0 is ASP.

    Raises:
        SparsityError: ``end_fraction`` lies outside [0, 1].

    Source: Zhu and Gupta (2017), "To prune, or not to prune"; the stages of an N:M pattern are our choice.
    """

    def __init__(self, targets: Sequence[Target], end_fraction: float = 0.5) -> None:
        super().__init__(targets)
        if not 0.0 <= end_fraction <= 1.0:
            raise SparsityError(f"end_fraction must lie in [0, 1] but got {end_fraction}")
        self.end_fraction = end_fraction
        self._stage = -1
        self._step, self._budget = 0, Budget(1, 1)

    @classmethod
    def read_settings(cls, settings: TrialSettings) -> dict[str, Any]:
        return {"method": {"gradual": dataclasses.asdict(settings.method.gradual)}}

    @classmethod
    def from_settings(cls, targets: Sequence[Target], values: Mapping[str, Any]) -> Self:
        return cls(targets, **values["method"]["gradual"])

    @property
    def prunes(self) -> bool:
        return bool(self.targets) and self._stage < self._last_stage

    @property
    def _last_stage(self) -> int:
        return max((len(stages(target.constraint)) for target in self.targets), default=1) - 1

    def start_(self, budget: Budget) -> None:
        self._budget, self._step, self._stage = budget, 0, -1
        self._tighten_when_due_()

    def after_step_(self) -> None:
        self._step += 1
        super().after_step_()
        self._tighten_when_due_()

    def load_state_dict(self, state: Mapping[str, Tensor], budget: Budget, *, step: int) -> None:
        self._budget, self._step = budget, step
        self._stage = self._due_stage()
        self._masking = Masking(self._targets_at(self._stage))
        self._masking.load_state_dict(state)

    def _due_stage(self) -> int:
        """Return the stage that is due: the first at step 0, the last from ``end_fraction`` of the steps on."""
        end = self.end_fraction * self._budget.steps
        return self._last_stage if self._step >= end else int(self._last_stage * self._step / end)

    def _tighten_when_due_(self) -> None:
        """Draw the masks of the stage that is due. They are subsets of the previous ones: zeros rank last."""
        due = self._due_stage()
        if due == self._stage:
            return
        if self.importance is not None:
            self.importance.refresh_()
        self._stage = due
        self._masking = Masking(self._targets_at(due))

    def _targets_at(self, stage: int) -> list[Target]:
        """Return the targets with a stage's constraint; one with fewer stages reaches its last one early."""
        return [
            dataclasses.replace(target, constraint=steps[min(stage, len(steps) - 1)])
            for target, steps in ((target, stages(target.constraint)) for target in self.targets)
        ]


def stages(constraint: Constraint) -> list[Constraint]:
    """Return the constraints of all stages, which tighten to ``constraint``, the last."""
    if isinstance(constraint, Pattern):
        loosest = max(constraint.keep, constraint.group - 1)
        return [Pattern(keep, constraint.group) for keep in range(loosest, constraint.keep - 1, -1)]
    cut = 1.0 - constraint.density
    parts = [index / _DENSITY_STAGES for index in range(1, _DENSITY_STAGES)]
    return [*(Unstructured(1.0 - cut * (1.0 - (1.0 - part) ** 3)) for part in parts), constraint]
