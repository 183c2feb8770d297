"""Budget allocation over matrices: choose constraints by their measured loss, and return them as rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nxm_sweep.errors import SparsityError
from nxm_sweep.sparsity.pattern import Constraint, Pattern, parse_constraint
from nxm_sweep.sparsity.semi_structured import KERNELS, TWO_OF_FOUR
from nxm_sweep.sparsity.targets import kept_weights

_ROUNDING = 1e-9  # of the budget: 0.3 of 10 weights is 3, despite floating-point rounding
DENSE = "dense"


@dataclass(frozen=True, slots=True)
class Option:
    """A candidate constraint for one matrix.

    Args:
        matrix: The matrix's name.
        constraint: The candidate.
        kept: Number of weights that it keeps.
        rise: Rise of the loss when only this matrix is pruned to it; negative if the loss falls.
    """

    matrix: str
    constraint: Constraint
    kept: int
    rise: float


def choose(sizes: Mapping[str, int], options: Iterable[Option], density: float) -> dict[str, Constraint | None]:
    """Return each matrix's constraint, or None for dense, such that at most a share ``density`` of all weights is kept.

    All matrices start dense. Steps are taken in order of the loss's rise per weight removed, smallest first, until the
    budget is met; a step prunes a matrix, or prunes a pruned one further. Steps follow the lower convex hull of a
    matrix's options, and options above it are never taken, so no other choice that keeps the same number of weights has
    a lower sum of rises. The last step may go below the budget by the weights of one matrix. Ties go to the earlier
    matrix.

    Args:
        sizes: Number of weights of every matrix, in the model's order.
        options: Measured candidates; a matrix without any stays dense.
        density: Largest share of the weights to keep, over all matrices.

    Raises:
        SparsityError: The options do not reach the density.
    """
    options = list(options)
    chosen: dict[str, Constraint | None] = dict.fromkeys(sizes)
    total = left = sum(sizes.values())
    hulls = (_hull_steps(size, [option for option in options if option.matrix == name]) for name, size in sizes.items())
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
    return sum(_count_kept(chosen[name], size) for name, size in sizes.items()) / sum(sizes.values())


def _count_kept(constraint: Constraint | None, size: int) -> int:
    return size if constraint is None else kept_weights(constraint, size)


def _hull_steps(size: int, options: Sequence[Option]) -> list[tuple[float, int, Option]]:
    """Return one matrix's steps from dense on: rise per weight removed (ascending), weights removed, option reached."""
    steps: list[tuple[float, int, Option]] = []
    for option in sorted(options, key=lambda option: (-option.kept, -option.rise)):
        while option.kept < size:
            kept, rise = (steps[-1][2].kept, steps[-1][2].rise) if steps else (size, 0.0)
            removed = kept - option.kept  # 0: as sparse as the previous option, and no worse
            slope = (option.rise - rise) / removed if removed else float("-inf")
            if not steps or slope >= steps[-1][0]:
                steps.append((slope, removed, option))
                break
            steps.pop()
    return steps


def settle(scan: Mapping[str, Any], density: float, *, hardware: bool) -> dict[str, Any]:
    """Return a scan with a choice that meets a budget, under ``settings``, ``chosen`` and ``rules``.

    Args:
        scan: A scan with ``readings``; an existing choice is replaced.
        density: Largest share of the weights to keep, over all scanned matrices.
        hardware: Choose 2 of 4, where a kernel supports the matrix's shape, or dense.

    Raises:
        SparsityError: The budget cannot be met.
    """
    sizes = sizes_of(scan)
    chosen = choose(
        sizes,
        (_make_option(reading) for reading in scan["readings"] if not hardware or _runs_on_kernel(reading)),
        density,
    )
    return {
        **scan,
        "settings": {"density": density, "hardware": hardware},
        "chosen": {
            "density": density_of(sizes, chosen),
            "loss": None,
            "score": None,
            "matrices": {name: DENSE if constraint is None else str(constraint) for name, constraint in chosen.items()},
        },
        "rules": [_make_rule(name.removesuffix(".weight"), constraint) for name, constraint in chosen.items()],
    }


def sizes_of(scan: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of weights of every scanned matrix, in the model's order."""
    return {reading["matrix"]: reading["rows"] * reading["columns"] for reading in scan["readings"]}


def chosen_of(scan: Mapping[str, Any]) -> dict[str, Constraint | None]:
    """Return the constraint that a settled scan gives each matrix; None is dense."""
    return {
        name: None if text == DENSE else parse_constraint(text) for name, text in scan["chosen"]["matrices"].items()
    }


def _make_option(reading: Mapping[str, Any]) -> Option:
    return Option(reading["matrix"], parse_constraint(reading["constraint"]), reading["kept"], reading["loss_rise"])


def _runs_on_kernel(reading: Mapping[str, Any]) -> bool:
    """Return whether a 2:4 kernel supports the pruned matrix."""
    shape = (reading["rows"], reading["columns"])
    refusals = [rule.refusal(shape) for rule in KERNELS.values()]
    return parse_constraint(reading["constraint"]) == TWO_OF_FOUR and not all(refusals)


def _make_rule(match: str, constraint: Constraint | None) -> dict[str, Any]:
    if constraint is None:
        return {"match": match, "dense": True}
    if isinstance(constraint, Pattern):
        return {"match": match, "keep": constraint.keep, "group": constraint.group}
    return {"match": match, "density": constraint.density}
