"""Which matrix can be sparser than which: what each loses when it is pruned alone, and a budget met by the cheapest of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nxm_sweep.errors import SparsityError
from nxm_sweep.sparsity.pattern import Constraint
from nxm_sweep.sparsity.targets import kept_weights

_ROUNDING = 1e-9  # of the budget: 0.3 of 10 weights is 3, whatever floating point says


@dataclass(frozen=True, slots=True)
class Option:
    """A constraint that one matrix could be held to.

    Args:
        matrix: The matrix's name.
        constraint: What may stay.
        kept: How many weights stay.
        rise: What the loss rises by when this matrix alone is pruned so; below 0 if it falls.
    """

    matrix: str
    constraint: Constraint
    kept: int
    rise: float


def choose(sizes: Mapping[str, int], options: Iterable[Option], density: float) -> dict[str, Constraint | None]:
    """Return each matrix's constraint, or None for dense, such that at most a share ``density`` of all weights is kept.

    Begins with all matrices dense and takes one step after the other, the least rise of the loss per weight removed first,
    until the budget is met; a step prunes a matrix, or prunes a pruned one further. Steps follow the lower convex hull of
    a matrix's options, and one that lies above it is never taken: so no other choice that keeps the same number of weights
    has a lower sum of rises. The last step may go below the budget by the weights of one matrix. Of equal steps the earlier
    matrix's comes first.

    Args:
        sizes: Number of weights of every matrix, in the model's order.
        options: What was measured; a matrix without any stays dense.
        density: Share of the weights that may stay, over all matrices.

    Raises:
        SparsityError: The options do not reach the density.
    """
    options = list(options)
    chosen: dict[str, Constraint | None] = dict.fromkeys(sizes)
    total = left = sum(sizes.values())
    hulls = (_hull(size, [option for option in options if option.matrix == name]) for name, size in sizes.items())
    for _, removed, option in sorted((step for hull in hulls for step in hull), key=lambda step: step[0]):
        if left <= density * total * (1 + _ROUNDING):
            break
        chosen[option.matrix] = option.constraint
        left -= removed
    if left > density * total * (1 + _ROUNDING):
        raise SparsityError(
            f"a density of {density:g} cannot be reached: the sparsest choice keeps {left / total:.3f} of the weights",
            hint="raise the density, or add a sparser candidate",
        )
    return chosen


def density_of(sizes: Mapping[str, int], chosen: Mapping[str, Constraint | None]) -> float:
    """Return the share of the weights that a choice keeps."""
    return sum(_kept(chosen[name], size) for name, size in sizes.items()) / sum(sizes.values())


def _kept(constraint: Constraint | None, size: int) -> int:
    return size if constraint is None else kept_weights(constraint, size)


def _hull(size: int, options: Sequence[Option]) -> list[tuple[float, int, Option]]:
    """Steps of one matrix from dense on: rise per weight removed, which ascends; weights removed; where the step ends."""
    steps: list[tuple[float, int, Option]] = []
    for option in sorted(options, key=lambda option: (-option.kept, -option.rise)):
        while option.kept < size:
            kept, rise = (steps[-1][2].kept, steps[-1][2].rise) if steps else (size, 0.0)
            removed = kept - option.kept  # 0: as sparse as the one before, and no worse
            slope = (option.rise - rise) / removed if removed else float("-inf")
            if not steps or slope >= steps[-1][0]:
                steps.append((slope, removed, option))
                break
            steps.pop()
    return steps
