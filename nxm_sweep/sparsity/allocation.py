"""The file of a sensitivity scan: what every matrix loses, and the rules that meet a budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nxm_sweep.errors import SparsityError
from nxm_sweep.sparsity.pattern import Constraint, Pattern, parse_constraint
from nxm_sweep.sparsity.semi_structured import KERNELS, TWO_OF_FOUR
from nxm_sweep.sparsity.targets import kept_weights

_ROUNDING = 1e-9  # of the budget: 0.3 of 10 weights is 3, whatever floating point says
DENSE = "dense"


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


def settle(scan: Mapping[str, Any], density: float, *, hardware: bool) -> dict[str, Any]:
    """Return a scan with the choice that meets a budget: its ``settings``, ``chosen`` and ``rules``.

    Args:
        scan: With its ``readings``; a choice that it holds already is replaced.
        density: Share of the weights that may stay, over all scanned matrices.
        hardware: Choose 2 of 4, where a kernel takes the matrix's shape, or dense.

    Raises:
        SparsityError: The budget cannot be met.
    """
    sizes = sizes_of(scan)
    chosen = choose(
        sizes, (_option(reading) for reading in scan["readings"] if not hardware or _runs(reading)), density
    )
    return {
        **scan,
        "settings": {"density": density, "hardware": hardware},
        "chosen": {
            "density": density_of(sizes, chosen),
            "loss": None,
            "score": None,
            "matrices": {name: DENSE if held is None else str(held) for name, held in chosen.items()},
        },
        "rules": [_rule(name.removesuffix(".weight"), held) for name, held in chosen.items()],
    }


def sizes_of(scan: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of weights of every scanned matrix, in the model's order."""
    return {reading["matrix"]: reading["rows"] * reading["columns"] for reading in scan["readings"]}


def chosen_of(scan: Mapping[str, Any]) -> dict[str, Constraint | None]:
    """Return what a settled scan holds each matrix to; None is dense."""
    return {
        name: None if held == DENSE else parse_constraint(held) for name, held in scan["chosen"]["matrices"].items()
    }


def _option(reading: Mapping[str, Any]) -> Option:
    return Option(reading["matrix"], parse_constraint(reading["constraint"]), reading["kept"], reading["loss_rise"])


def _runs(reading: Mapping[str, Any]) -> bool:
    """Whether a 2:4 kernel takes the pruned matrix."""
    shape = (reading["rows"], reading["columns"])
    refusals = [rule.refusal(shape) for rule in KERNELS.values()]
    return parse_constraint(reading["constraint"]) == TWO_OF_FOUR and not all(refusals)


def _rule(match: str, held: Constraint | None) -> dict[str, Any]:
    if held is None:
        return {"match": match, "dense": True}
    if isinstance(held, Pattern):
        return {"match": match, "keep": held.keep, "group": held.group}
    return {"match": match, "density": held.density}
