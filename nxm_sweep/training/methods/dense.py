"""Plain fine-tuning: the reference that every other method is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from nxm_sweep.settings import TrialSettings
from nxm_sweep.sparsity import Target
from nxm_sweep.training.methods.base import SparseMethod


class Dense(SparseMethod):
    """Dense fine-tuning. Has no targets."""

    def __init__(self) -> None:
        super().__init__(())

    @classmethod
    def from_settings(cls, targets: Sequence[Target], settings: TrialSettings) -> Self:
        return cls()
