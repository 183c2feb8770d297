"""Masked fine-tuning, NVIDIA's ASP recipe: prune the pretrained weights once by magnitude, train under that mask."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from nxm_sweep.sparsity import Masking
from nxm_sweep.training.methods.base import Budget
from nxm_sweep.training.methods.masked import Masked


class Asp(Masked):
    """One-shot magnitude mask, then masked fine-tuning. The mask holds after every optimizer step.

    Source: NVIDIA's automatic sparsity (ASP), called "masked fine-tune" in NxMTransformer (Holmes et al., 2021).
    """

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
