"""Sparsity constraints as values: N:M patterns and unstructured densities."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nxm_sweep.errors import SparsityError


@dataclass(frozen=True, slots=True)
class Pattern:
    """Keep ``keep`` of every ``group`` contiguous inputs of a weight row.

    Papers and tools disagree on whether the first or the second number of "4:2" is the kept one; here both have names.

    Raises:
        SparsityError: Not ``1 <= keep <= group``.
    """

    keep: int
    group: int

    def __post_init__(self) -> None:
        if self.group < 1:
            raise SparsityError(f"group must be at least 1 but got {self.group}")
        if not 1 <= self.keep <= self.group:
            raise SparsityError(f"keep must lie between 1 and group = {self.group} but got {self.keep}")

    @property
    def density(self) -> float:
        """Share of the weights that stay, in (0, 1]."""
        return self.keep / self.group

    @property
    def is_dense(self) -> bool:
        """Whether the pattern constrains nothing."""
        return self.keep == self.group

    def __str__(self) -> str:
        return f"{self.keep} of {self.group}"


@dataclass(frozen=True, slots=True)
class Unstructured:
    """Keep a share ``density`` of a matrix's weights, wherever they lie: ``round(density * numel)``, at least one.

    Raises:
        SparsityError: Not ``0 < density <= 1``.
    """

    density: float

    def __post_init__(self) -> None:
        if not 0.0 < self.density <= 1.0:
            raise SparsityError(f"density must lie in (0, 1] but got {self.density}")

    @property
    def is_dense(self) -> bool:
        """Whether the density constrains nothing."""
        return self.density == 1.0

    def count(self, size: int) -> int:
        """Return how many of ``size`` weights stay."""
        return max(1, round(self.density * size))

    def __str__(self) -> str:
        return f"{self.density:.12g} unstructured"


Constraint = Pattern | Unstructured


def constraint(
    *, keep: int | None = None, group: int | None = None, density: float | None = None, dense: bool = False
) -> Constraint | None:
    """Return the constraint of a rule's keys: ``keep`` of every ``group``, a ``density``, or dense (None).

    Raises:
        SparsityError: None or more than one of the three is given, or a value is out of range.
    """
    given = [keep is not None or group is not None, density is not None, dense]
    if sum(given) != 1:
        raise SparsityError(
            "must give either keep and group, or density, or dense: true",
            hint="for example sparsity=2of4, or sparsity.rules=[{match: '*.query', keep: 2, group: 4}]",
        )
    if density is not None:
        return Unstructured(density)
    if dense:
        return None
    if keep is None or group is None:
        raise SparsityError("must give both keep and group")
    return Pattern(keep, group)


def parse_constraint(text: str) -> Constraint:
    """Parse ``2 of 4``, ``2of4`` or ``0.5 unstructured``; the inverse of ``str``.

    Raises:
        SparsityError: The text is no constraint, or a value is out of range.
    """
    if named := re.fullmatch(r"\s*(\d+)\s*of\s*(\d+)\s*", text):
        return Pattern(int(named[1]), int(named[2]))
    if named := re.fullmatch(r"\s*(\d*\.?\d+(?:e-?\d+)?)\s*unstructured\s*", text):
        return Unstructured(float(named[1]))
    raise SparsityError(f"{text!r} names no pattern", hint="2of4 keeps 2 of every 4 inputs")
