"""A budget met from what each matrix loses alone: by hand, and against every possible choice."""

from __future__ import annotations

import itertools

import pytest
import torch

from nxm_sweep.errors import SparsityError
from nxm_sweep.sparsity import Constraint, Pattern
from nxm_sweep.sparsity.allocation import Option, choose, density_of

HALF, QUARTER = Pattern(2, 4), Pattern(1, 4)
Choice = dict[str, Constraint | None]
SIZES = {"a": 100, "b": 100, "c": 200}


def option(matrix: str, constraint: Pattern, rise: float) -> Option:
    return Option(matrix, constraint, round(SIZES[matrix] * constraint.density), rise)


TABLE = [  # rise per weight removed: a 0.01 then 0.04, b 0.02 then 0.08, c 0.03 then 0.05
    *(option("a", HALF, 0.5), option("a", QUARTER, 1.5)),
    *(option("b", HALF, 1.0), option("b", QUARTER, 3.0)),
    *(option("c", HALF, 3.0), option("c", QUARTER, 5.5)),
]


@pytest.mark.parametrize(
    ("density", "a", "b", "c", "kept"),
    [
        (1.0, None, None, None, 400),
        (0.9, HALF, None, None, 350),
        (0.875, HALF, None, None, 350),
        (0.8, HALF, HALF, None, 300),
        (0.74, HALF, HALF, HALF, 200),
        (0.5, HALF, HALF, HALF, 200),
        (0.45, QUARTER, HALF, HALF, 175),
        (0.4, QUARTER, HALF, QUARTER, 125),
        (0.25, QUARTER, QUARTER, QUARTER, 100),
    ],
)
def test_the_cheapest_step_per_weight_removed_comes_first(
    density: float, a: Constraint | None, b: Constraint | None, c: Constraint | None, kept: int
) -> None:
    chosen = choose(SIZES, TABLE, density)
    assert chosen == {"a": a, "b": b, "c": c}
    assert density_of(SIZES, chosen) == kept / 400


def test_an_option_above_the_hull_is_passed_over() -> None:
    options = [option("a", HALF, 2.0), option("a", QUARTER, 2.1)]  # the second half costs next to nothing
    assert choose({"a": 100}, options, 0.9) == {"a": QUARTER}


def test_a_matrix_that_gains_by_pruning_comes_first_and_the_budget_ends_it() -> None:
    options = [option("a", HALF, -0.1), option("b", HALF, -0.2), option("c", HALF, 0.0)]
    assert choose(SIZES, options, 0.9) == {"a": None, "b": HALF, "c": None}


def test_a_matrix_without_options_stays_dense() -> None:
    assert choose(SIZES, [option("c", QUARTER, 9.0)], 0.7) == {"a": None, "b": None, "c": QUARTER}


def test_of_two_options_that_keep_the_same_the_better_is_taken() -> None:
    wide = Pattern(4, 8)
    for options in ([(HALF, 0.2), (wide, 0.1)], [(wide, 0.1), (HALF, 0.2)]):
        assert choose({"a": 100}, [option("a", held, rise) for held, rise in options], 0.5) == {"a": wide}


def test_a_budget_below_the_sparsest_choice_is_refused() -> None:
    with pytest.raises(SparsityError, match=r"a density of 0\.2 cannot be reached: the sparsest choice keeps 0\.250"):
        choose(SIZES, TABLE, 0.2)


@pytest.mark.parametrize("seed", range(6))
def test_every_choice_meets_its_budget_and_none_of_all_that_keep_as_many_is_better(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    sizes = {name: int(torch.randint(1, 6, (), generator=generator)) * 8 for name in "abcd"}
    patterns = [Pattern(4, 8), Pattern(2, 8), Pattern(1, 8)]
    rises: dict[tuple[str, Constraint | None], float] = {
        (name, held): float(torch.randn((), generator=generator)) if held else 0.0
        for name in sizes
        for held in (None, *patterns)
    }
    options = [
        Option(name, held, round(sizes[name] * held.density), cost)
        for (name, held), cost in rises.items()
        if isinstance(held, Pattern)
    ]
    everything: list[Choice] = [
        dict(zip(sizes, held, strict=True)) for held in itertools.product([None, *patterns], repeat=4)
    ]
    shares: dict[Constraint | None, float] = {None: 1.0, **{held: held.density for held in patterns}}

    def kept(choice: Choice) -> int:
        return round(sum(size * shares[choice[name]] for name, size in sizes.items()))

    def rise(choice: Choice) -> float:
        return sum(rises[name, held] for name, held in choice.items())

    best: dict[int, float] = {}
    for choice in everything:
        best[kept(choice)] = min(rise(choice), best.get(kept(choice), rise(choice)))
    for percent in range(13, 101, 3):
        chosen = choose(sizes, options, percent / 100)
        assert kept(chosen) <= percent / 100 * sum(sizes.values())
        assert density_of(sizes, chosen) == pytest.approx(kept(chosen) / sum(sizes.values()))
        assert rise(chosen) == pytest.approx(best[kept(chosen)])
