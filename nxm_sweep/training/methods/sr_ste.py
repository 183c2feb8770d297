"""SR-STE: the mask is drawn anew in every step, and gradients pass straight through it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from nxm_sweep.errors import SparsityError
from nxm_sweep.settings import TrialSettings
from nxm_sweep.sparsity import Target
from nxm_sweep.training.methods.base import Budget, SparseMethod


class SrSte(SparseMethod):
    """Forward and backward with ``P(W)``; the gradient updates W itself, with ``decay * (W - P(W))`` added to it.

    Args:
        targets: What is pruned.
        decay: Strength of the sparse-refined term, which pulls what the mask cuts towards zero; 0 is plain STE.

    Raises:
        SparsityError: ``decay`` is negative or not finite.

    Source: Zhou et al. (2021), "Learning N:M fine-grained structured sparse neural networks from scratch"; 2e-4 there.
    """

    def __init__(self, targets: Sequence[Target], decay: float = 2e-4) -> None:
        super().__init__(targets)
        if not 0.0 <= decay < float("inf"):
            raise SparsityError(f"decay must be finite and not negative but got {decay}")
        self.decay = decay
        self._unpruned: list[Tensor] = []  # W while the model holds P(W), from the first micro-batch to before_clip_

    @classmethod
    def read_settings(cls, settings: TrialSettings) -> dict[str, Any]:
        return {"method": {"sr_ste": dataclasses.asdict(settings.method.sr_ste)}}

    @classmethod
    def from_settings(cls, targets: Sequence[Target], values: Mapping[str, Any]) -> Self:
        return cls(targets, **values["method"]["sr_ste"])

    @property
    def prunes(self) -> bool:
        return bool(self.targets)

    def start_(self, budget: Budget) -> None:
        self._unpruned = []
        if self.importance is not None:
            self.importance.refresh_()

    @torch.no_grad()
    def before_forward_(self) -> None:
        if self._unpruned:
            return  # a further micro-batch of the same step
        self._unpruned = [target.weight.detach().clone() for target in self.targets]
        for target in self.targets:
            target.weight.masked_fill_(~target.support(), 0.0)

    @torch.no_grad()
    def before_clip_(self, *, scale: float = 1.0) -> None:
        for target, unpruned in zip(self.targets, self._unpruned, strict=True):
            cut = unpruned - target.weight  # W - P(W): target.weight is P(W) still
            target.weight.copy_(unpruned)
            if target.weight.grad is not None:
                target.weight.grad.add_(cut.to(target.weight.grad.dtype), alpha=scale * self.decay)
        self._unpruned = []

    def after_epoch_(self) -> None:
        if self.importance is not None:
            self.importance.refresh_()

    def load_state_dict(self, state: Mapping[str, Tensor], budget: Budget, *, step: int) -> None:
        self._unpruned = []
