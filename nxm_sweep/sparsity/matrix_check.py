"""Check that weights satisfy their constraint, from the tensors only."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from nxm_sweep.errors import SparsityError
from nxm_sweep.sparsity.pattern import Constraint, Pattern
from nxm_sweep.sparsity.projection import check_projectable
from nxm_sweep.sparsity.targets import Target


@dataclass(frozen=True, slots=True)
class MatrixCheck:
    """Counts of one matrix, checked against its constraint.

    Attributes:
        matrix: Its name in the state dict.
        constraint: The constraint to satisfy, as text.
        shape: ``(rows, columns)``.
        zeros: Number of entries that are exactly zero.
        kept_per_group: For a pattern: number of groups with 0, 1, ... ``group`` non-zeros. Empty for a density.
        violations: Number of groups (or, for a density, entries) with more non-zeros than allowed, or with NaN or infinity.
        first_violation: ``(row, column)`` where the first violation begins; None if there is none.
        exact: Whether every group (or the matrix) has exactly the allowed number of non-zeros, not fewer.
    """

    matrix: str
    constraint: str
    shape: tuple[int, int]
    zeros: int
    kept_per_group: tuple[int, ...]
    violations: int
    first_violation: tuple[int, int] | None
    exact: bool

    @property
    def holds(self) -> bool:
        """Whether the constraint is satisfied."""
        return self.violations == 0


def check_matrix(matrix: str, weight: Tensor, constraint: Constraint) -> MatrixCheck:
    """Count the non-zeros of ``weight`` against ``constraint``.

    Args:
        matrix: Name for the report.
        weight: Shape ``(out_features, in_features)``.
        constraint: A pattern is counted group by group, a density over the matrix. NaN counts as a non-zero, and holds no
            constraint.

    Raises:
        SparsityError: The matrix cannot be divided into the constraint's groups.
    """
    check_projectable(weight, constraint)
    nonzero, unusable = weight.detach() != 0, ~weight.detach().isfinite()
    kept, is_finite = int(nonzero.sum()), not bool(unusable.any())
    if isinstance(constraint, Pattern):
        counts = nonzero.reshape(-1, constraint.group).sum(dim=1)
        histogram = tuple(torch.bincount(counts, minlength=constraint.group + 1).tolist())
        wrong = (counts > constraint.keep) | unusable.reshape(-1, constraint.group).any(dim=1)
        broken = wrong.nonzero().flatten() * constraint.group
        exact = histogram[constraint.keep] == len(counts) and is_finite
    else:
        allowed = constraint.count(weight.numel())
        histogram = ()
        surplus = nonzero.flatten() & (nonzero.flatten().cumsum(0) > allowed)
        broken = (surplus | unusable.flatten()).nonzero().flatten()
        exact = kept == allowed and is_finite
    rows, columns = weight.shape
    return MatrixCheck(
        matrix=matrix,
        constraint=str(constraint),
        shape=(rows, columns),
        zeros=weight.numel() - kept,
        kept_per_group=histogram,
        violations=len(broken),
        first_violation=divmod(int(broken[0]), columns) if len(broken) else None,
        exact=exact,
    )


def check_targets(targets: Sequence[Target]) -> list[MatrixCheck]:
    """Check the current weights of a model."""
    return [check_matrix(target.name, target.weight, target.constraint) for target in targets]


def check_file(
    path: Path, constraints: Mapping[str, Constraint], inputs_first: Collection[str] = ()
) -> list[MatrixCheck]:
    """Check matrices of a safetensors file, read back from disk one at a time.

    Args:
        path: The file.
        constraints: Constraint of each matrix, by its name in the file.
        inputs_first: Names of those that are stored as ``(in_features, out_features)``.

    Raises:
        SparsityError: A matrix is not in the file, or cannot be divided into groups.
    """
    with safe_open(path, framework="pt") as file:
        present = set(file.keys())
        missing = [name for name in constraints if name not in present]
        if missing:
            raise SparsityError(f"{path.name} holds no matrix {missing[0]!r}")
        stored = ((name, file.get_tensor(name), constraint) for name, constraint in constraints.items())
        return [
            check_matrix(name, tensor.T if name in inputs_first else tensor, constraint)
            for name, tensor, constraint in stored
        ]
