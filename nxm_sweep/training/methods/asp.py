"""Masked fine-tuning, NVIDIA's ASP recipe: prune the pretrained weights once by magnitude, train under that mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from nxm_sweep.errors import SparsityError
from nxm_sweep.sparsity import Masking, Target
from nxm_sweep.training.methods.base import Budget, SparseMethod


class Asp(SparseMethod):
    """One-shot magnitude mask, then masked fine-tuning. The mask holds after every optimizer step.

    Source: NVIDIA's automatic sparsity (ASP), called "masked fine-tune" in NxMTransformer (Holmes et al., 2021).
    """

    reads = frozenset({"sparsity"})

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

    @property
    def gap(self) -> float | None:
        return 0.0

    def start_(self, budget: Budget) -> None:
        if self.importance is not None:
            self.importance.refresh_()
        self._masking = Masking(self.targets)

    def before_clip_(self, *, scale: float = 1.0) -> None:
        self.masking.mask_gradients_()

    def after_step_(self) -> None:
        self.masking.apply_()

    def state_dict(self) -> dict[str, Tensor]:
        return self.masking.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor], budget: Budget, *, step: int) -> None:
        self._masking = Masking(self.targets)
        self._masking.load_state_dict(state)
