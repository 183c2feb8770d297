"""SR-STE: the mask is redrawn at every step, and gradients pass straight through it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from nxm_sweep.errors import SparsityError
from nxm_sweep.methods.base import Budget, SparseMethod
from nxm_sweep.settings import TrialSettings
from nxm_sweep.sparsity import Target
from nxm_sweep.sparsity.masking import as_bits, keep_, kept_part, merge_


class SrSte(SparseMethod):
    """Forward and backward with ``P(W)``; the gradient updates W itself, with ``decay * (W - P(W))`` added to it.

    The term is added to the clipped gradient, so that its ratio to the gradient, which is all that Adam's step
    depends on, is independent of the scale of the loss.

    Args:
        targets: Matrices to prune.
        decay: Strength of the sparse-refined term, which pulls masked weights towards zero; 0 is plain STE.

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
        self._cut: list[Tensor] = []  # W - P(W), from the first micro-batch to after_clip_
        self._is_pruned = False  # whether the weights are P(W), until before_clip_

    @classmethod
    def read_settings(cls, settings: TrialSettings) -> dict[str, Any]:
        values = dataclasses.asdict(settings.method.sr_ste)
        return {"method": {"sr_ste": values, "version": 2}}  # version 1 clipped the term with the gradient

    @classmethod
    def from_settings(cls, targets: Sequence[Target], values: Mapping[str, Any]) -> Self:
        return cls(targets, **values["method"]["sr_ste"])

    @property
    def prunes(self) -> bool:
        return bool(self.targets)

    def start_(self, budget: Budget) -> None:
        self._cut, self._is_pruned = [], False
        if self.importance is not None:
            self.importance.refresh_()

    @torch.no_grad()
    def before_forward_(self) -> None:
        if self._is_pruned:
            return  # a further micro-batch of the same step
        for target in self.targets:
            mask = target.support()
            self._cut.append(kept_part(target.weight, as_bits(~mask)))
            keep_(target.weight, as_bits(mask))
        self._is_pruned = True

    @torch.no_grad()
    def before_clip_(self, *, scale: float = 1.0) -> None:
        for target, cut in zip(self.targets, self._cut, strict=True):
            merge_(target.weight, cut)
        self._is_pruned = False

    @torch.no_grad()
    def after_clip_(self, *, scale: float = 1.0) -> None:
        for target, cut in zip(self.targets, self._cut, strict=True):
            if target.gradient is not None:
                target.gradient.add_(cut.to(target.gradient.dtype), alpha=scale * self.decay)
        self._cut = []

    def after_epoch_(self) -> None:
        if self.importance is not None:
            self.importance.refresh_()

    def load_state_dict(self, state: Mapping[str, Tensor], budget: Budget, *, step: int) -> None:
        self._cut, self._is_pruned = [], False
