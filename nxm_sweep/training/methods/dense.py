"""Plain fine-tuning: the reference that every other method is compared with."""

from __future__ import annotations

from nxm_sweep.training.methods.base import SparseMethod


class Dense(SparseMethod):
    """Dense fine-tuning. Has no targets."""

    def __init__(self) -> None:
        super().__init__(())
