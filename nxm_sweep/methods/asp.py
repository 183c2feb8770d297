"""ASP, and ASP after dense fine-tuning: the control that shows what ADMM adds to training before the mask is drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

from torch import Tensor

from nxm_sweep.errors import SparsityError
from nxm_sweep.methods.base import Budget, SparseMethod
from nxm_sweep.settings import TrialSettings
from nxm_sweep.sparsity import Masking, Target


class Masked(SparseMethod):
    """Masked training: gradients before clipping, weights after every optimizer step.

    A subclass sets ``_masking`` when masking begins.
    """

    def __init__(self, targets: Sequence[Target]) -> None:
        super().__init__(targets)
        self._masking: Masking | None = None

    @property
    def masking(self) -> Masking:
        """The masks.

        Raises:
            SparsityError: Training has not started.
        """
        if self._masking is None:
            raise SparsityError("the method has no masks before start_()")
        return self._masking

    def before_clip_(self, *, scale: float = 1.0) -> None:
        self.masking.mask_gradients_()

    def after_step_(self) -> None:
        self.masking.apply_()

    def state_dict(self) -> dict[str, Tensor]:
        return self.masking.state_dict()


class Asp(Masked):
    """One-shot magnitude mask, then masked fine-tuning. The mask is applied after every optimizer step.

    Source: NVIDIA's automatic sparsity (ASP), called "masked fine-tune" in NxMTransformer (Holmes et al., 2021).
    """

    one_shot = True

    @property
    def gap(self) -> float | None:
        return 0.0

    def start_(self, budget: Budget) -> None:
        if self.importance is not None:
            self.importance.refresh_()
        self._masking = Masking(self.targets)

    def load_state_dict(self, state: Mapping[str, Tensor], budget: Budget, *, step: int) -> None:
        self._masking = Masking(self.targets)
        self._masking.load_state_dict(state)


class WarmupAsp(Masked):
    """Dense training for a share of the steps; then one magnitude mask, and masked training for the rest.

    It equals :class:`~nxm_sweep.methods.admm.NxmRefit` without a penalty.

    Args:
        targets: Matrices to prune.
        fraction: Share of the optimizer steps before the mask is drawn, in [0, 1]; 0 is ASP, 1 a single prune at the end.

    Raises:
        SparsityError: ``fraction`` lies outside [0, 1].
    """

    def __init__(self, targets: Sequence[Target], fraction: float = 0.5) -> None:
        super().__init__(targets)
        if not 0.0 <= fraction <= 1.0:
            raise SparsityError(f"fraction must lie in [0, 1] but got {fraction}")
        self.fraction = fraction
        self._step, self._budget = 0, Budget(1, 1)

    @classmethod
    def read_settings(cls, settings: TrialSettings) -> dict[str, Any]:
        return {"method": {"warmup_asp": dataclasses.asdict(settings.method.warmup_asp)}}

    @classmethod
    def from_settings(cls, targets: Sequence[Target], values: Mapping[str, Any]) -> Self:
        return cls(targets, **values["method"]["warmup_asp"])

    @property
    def prunes(self) -> bool:
        return bool(self.targets) and self._masking is None

    @property
    def gap(self) -> float | None:
        return None if self.prunes else 0.0

    def start_(self, budget: Budget) -> None:
        self._budget, self._step, self._masking = budget, 0, None
        self._mask_when_due_()

    def before_clip_(self, *, scale: float = 1.0) -> None:
        if self._masking is not None:
            super().before_clip_(scale=scale)

    def after_step_(self) -> None:
        self._step += 1
        if self._masking is not None:
            super().after_step_()
        self._mask_when_due_()

    def state_dict(self) -> dict[str, Tensor]:
        return {} if self._masking is None else super().state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor], budget: Budget, *, step: int) -> None:
        self._budget, self._step, self._masking = budget, step, None
        if state:
            self._masking = Masking(self.targets)
            self._masking.load_state_dict(state)

    def _mask_when_due_(self) -> None:
        if self._masking is None and self.fraction * self._budget.steps <= self._step < self._budget.steps:
            if self.importance is not None:
                self.importance.refresh_()
            self._masking = Masking(self.targets)
