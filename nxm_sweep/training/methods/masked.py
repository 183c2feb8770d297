"""What every method that trains under masks shares."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from nxm_sweep.errors import SparsityError
from nxm_sweep.sparsity import Masking, Target
from nxm_sweep.training.methods.base import SparseMethod


class Masked(SparseMethod):
    """Masked training: gradients before clipping, weights after every optimizer step.

    Which masks, and when, a subclass says by setting ``_masking``.
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
