"""Plain fine-tuning: the reference that every other method is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from nxm_sweep.sparsity import Target
from nxm_sweep.training.methods.base import SparseMethod


class Dense(SparseMethod):
    """Dense fine-tuning. Has no targets."""

    sparse = False

    def __init__(self) -> None:
        super().__init__(())

    @classmethod
    def from_settings(cls, targets: Sequence[Target], values: Mapping[str, Any]) -> Self:
        return cls()
