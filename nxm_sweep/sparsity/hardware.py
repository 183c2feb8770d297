"""Which matrix shapes the 2:4 kernels of PyTorch take in fp16 and bf16."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from nxm_sweep.sparsity.pattern import Constraint, Pattern

TWO_OF_FOUR = Pattern(2, 4)


@dataclass(frozen=True, slots=True)
class ShapeRule:
    """Rows and columns must be multiples of these.

    Args:
        rows: Multiple for ``out_features``.
        columns: Multiple for ``in_features``.
    """

    rows: int
    columns: int

    def refusal(self, shape: tuple[int, int]) -> str:
        """Return why a matrix of this shape is refused, or an empty text."""
        for name, size, multiple in (("rows", shape[0], self.rows), ("columns", shape[1], self.columns)):
            if size % multiple or not size:
                return f"{size} {name}: no multiple of {multiple}"
        return ""


KERNELS: Mapping[str, ShapeRule] = MappingProxyType(
    {
        "cuSPARSELt": ShapeRule(16, 16),  # Ampere and later
        "CUTLASS": ShapeRule(32, 64),  # compute capability 8.x
    }
)
"""What each backend takes in fp16 and bf16.

Source: ``_DTYPE_SHAPE_CONSTRAINTS`` of ``torch/sparse/semi_structured.py``, PyTorch 2.13.
"""

STORED = ShapeRule(32, 32)
"""What can be packed into the layout that is stored: rows are reordered by 32, 16 columns share a metadata word, and words
are swapped in pairs.

Source: ``_calculate_meta_reordering_scatter_offsets`` of ``torch/sparse/_semi_structured_conversions.py``, PyTorch 2.13, whose
own check lets odd multiples of 16 columns pass and then fails on them.
"""


def fits(constraint: Constraint) -> bool:
    """Whether every matrix that holds the constraint is 2:4."""
    if not isinstance(constraint, Pattern):
        return False
    if 4 % constraint.group == 0:
        return 4 // constraint.group * constraint.keep <= 2
    return constraint.group % 4 == 0 and constraint.keep <= 2


def eligibility(shape: tuple[int, int], constraint: Constraint = TWO_OF_FOUR) -> str:
    """Return in words which kernels take a matrix: ``cuSPARSELt, CUTLASS``, or why none does."""
    if not fits(constraint):
        return "none (not 2 of 4)"
    refusals = {name: rule.refusal(shape) for name, rule in KERNELS.items()}
    taken = [name for name, refusal in refusals.items() if not refusal]
    return ", ".join(taken) if taken else f"none ({refusals['cuSPARSELt']})"
