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

    The term is added to the clipped gradient, so that its ratio to the gradient, all that Adam's step depends on, does not
    depend on the scale of the loss.

    Args:
        targets: What is pruned.
        decay: Strength of the sparse-refined term, which pulls what the mask cuts towards zero; 0 is plain STE.

    Raises:
        SparsityError: ``decay`` is negative or not finite.

    Source: Zhou et al. (2021), "Learning N:M fine-grained structured sparse neural networks from scratch", 2e-4 with SGD; for
        Adam, in the gradient after the clip, the code of Hu et al. (2024), "Accelerating Transformer pre-training with 2:4
        sparsity": 6e-6 (BERT), 6e-5 and 2e-4 (GPT-2), 1e-3 (DeiT).
    """

    def __init__(self, targets: Sequence[Target], decay: float = 2e-4) -> None:
        super().__init__(targets)
        if not 0.0 <= decay < float("inf"):
            raise SparsityError(f"decay must be finite and not negative but got {decay}")
        self.decay = decay
        self._unpruned: list[Tensor] = []  # W while the model holds P(W), from the first micro-batch to before_clip_
        self._cut: list[Tensor] = []  # W - P(W), from before_clip_ to after_clip_

    @classmethod
    def read_settings(cls, settings: TrialSettings) -> dict[str, Any]:
        values = dataclasses.asdict(settings.method.sr_ste)
        return {"method": {"sr_ste": values, "version": 2}}  # in the first, the term was clipped with the gradient

    @classmethod
    def from_settings(cls, targets: Sequence[Target], values: Mapping[str, Any]) -> Self:
        return cls(targets, **values["method"]["sr_ste"])

    @property
    def prunes(self) -> bool:
        return bool(self.targets)

    def start_(self, budget: Budget) -> None:
        self._unpruned, self._cut = [], []
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
            self._cut.append(unpruned - target.weight)  # target.weight is P(W) still
            target.weight.copy_(unpruned)
        self._unpruned = []

    @torch.no_grad()
    def after_clip_(self, *, scale: float = 1.0) -> None:
        for target, cut in zip(self.targets, self._cut, strict=True):
            if target.weight.grad is not None:
                target.weight.grad.add_(cut.to(target.weight.grad.dtype), alpha=scale * self.decay)
        self._cut = []

    def after_epoch_(self) -> None:
        if self.importance is not None:
            self.importance.refresh_()

    def load_state_dict(self, state: Mapping[str, Tensor], budget: Budget, *, step: int) -> None:
        self._unpruned, self._cut = [], []
