"""Verification against counts made by hand, on tensors, models and files."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from nxm_sweep.errors import SparsityError
from nxm_sweep.sparsity import (
    Constraint,
    MatrixCheck,
    Pattern,
    Unstructured,
    check_file,
    check_matrix,
    check_targets,
    project,
    prune_,
    select_targets,
)

TWO_OF_FOUR = Pattern(2, 4)
BY_HAND = torch.tensor(
    [
        [1.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 3.0],  # 2, 1
        [0.0, 0.0, 0.0, -0.0, 1.0, 1.0, 1.0, 0.0],  # 0, 3
        [1.0, 1.0, 1.0, 1.0, 0.0, 5.0, 6.0, 0.0],  # 4, 2
    ]
)
"""Groups of four with the number of non-zeros beside each row."""


def seeded(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_counts_by_hand() -> None:
    check = check_matrix("w", BY_HAND, TWO_OF_FOUR)
    assert check == MatrixCheck(
        matrix="w",
        constraint="2 of 4",
        shape=(3, 8),
        zeros=12,
        kept_per_group=(1, 1, 2, 1, 1),
        violations=2,
        first_violation=(1, 4),
        exact=False,
    )
    assert not check.holds


def test_counts_by_hand_of_a_density() -> None:
    check = check_matrix("w", BY_HAND, Unstructured(0.2))  # 5 of 24 may stay, 12 do; the sixth is at (1, 6)
    assert (check.zeros, check.violations, check.first_violation, check.exact) == (12, 7, (1, 6), False)
    assert check.kept_per_group == ()
    assert not check.holds


def test_density_at_and_below_what_is_allowed_holds() -> None:
    at, below = (check_matrix("w", BY_HAND, Unstructured(density)) for density in (0.5, 0.75))
    assert (at.holds, at.exact, at.first_violation) == (True, True, None)
    assert (below.holds, below.exact, below.first_violation) == (True, False, None)


def test_fewer_non_zeros_than_allowed_hold_but_are_not_exact() -> None:
    check = check_matrix("w", BY_HAND[:1], TWO_OF_FOUR)
    assert (check.holds, check.exact, check.first_violation) == (True, False, None)


@pytest.mark.parametrize("constraint", [TWO_OF_FOUR, Pattern(1, 4), Pattern(3, 32), Pattern(4, 4)], ids=str)
def test_projection_holds_exactly(constraint: Pattern) -> None:
    weight = project(seeded(6, 64), constraint)
    check = check_matrix("w", weight, constraint)
    groups = weight.reshape(-1, constraint.group).tolist()
    counts = Counter(sum(value != 0 for value in group) for group in groups)
    assert check.holds
    assert check.exact
    assert check.kept_per_group == tuple(counts[number] for number in range(constraint.group + 1))
    assert check.zeros == sum(value == 0 for group in groups for value in group)


@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_unstructured_projection_holds_exactly(density: float) -> None:
    check = check_matrix("w", project(seeded(6, 20), Unstructured(density)), Unstructured(density))
    assert (check.holds, check.exact, check.zeros) == (True, True, 120 - round(density * 120))


@pytest.mark.parametrize(("row", "column"), [(0, 0), (2, 8), (5, 12)])
def test_one_corrupted_group_is_found_where_it_begins(row: int, column: int) -> None:
    weight = project(seeded(6, 16), TWO_OF_FOUR)
    group = weight[row, column : column + 4]
    group[(group == 0).nonzero()[0]] = 1e-30
    check = check_matrix("w", weight, TWO_OF_FOUR)
    assert (check.violations, check.first_violation, check.exact) == (1, (row, column), False)
    assert check.kept_per_group == (0, 0, 23, 1, 0)


@pytest.mark.parametrize("value", [math.nan, math.inf, 5e-324])
def test_anything_but_zero_counts(value: float) -> None:
    weight = torch.tensor([[1.0, value, 2.0, 0.0]], dtype=torch.float64)
    assert check_matrix("w", weight, TWO_OF_FOUR).violations == 1


@pytest.mark.fault("model", "NaN or infinity in a weight matrix", "It holds no pattern and no density.")
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("constraint", [TWO_OF_FOUR, Unstructured(0.5)], ids=str)
def test_matrix_that_is_not_finite_holds_nothing(value: float, constraint: Pattern | Unstructured) -> None:
    weight = torch.tensor([[1.0, 1.0, 0.0, 0.0, value, 0.0, 0.0, 1.0]])
    check = check_matrix("w", weight, constraint)
    assert (check.holds, check.exact, check.violations) == (False, False, 1)
    assert check.first_violation == (0, 4)


def test_swapped_columns_break_a_pattern_but_not_its_density() -> None:
    weight = torch.tensor([[1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]])
    swapped = weight[:, [0, 1, 4, 3, 2, 5, 6, 7]]
    assert check_matrix("w", swapped, Unstructured(0.5)).exact
    assert check_matrix("w", swapped, TWO_OF_FOUR).first_violation == (0, 0)


def test_columns_that_hold_a_pattern_are_not_rows_that_do() -> None:
    weight = torch.tensor([[1.0, 1.0, 0.0, 0.0]]).T.expand(4, 4)
    assert check_matrix("w", weight, TWO_OF_FOUR).violations == 2
    assert check_matrix("w", weight.T, TWO_OF_FOUR).exact


@pytest.mark.parametrize("weight", [torch.ones(2, 6), torch.ones(8), torch.ones(2, 4, dtype=torch.int8)], ids=str)
def test_matrix_without_groups_is_refused(weight: Tensor) -> None:
    with pytest.raises(SparsityError, match=r"multiple of group|floating-point matrix"):
        check_matrix("w", weight, TWO_OF_FOUR)


def model() -> nn.Sequential:
    built = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    with torch.no_grad():
        built.get_parameter("0.weight").copy_(seeded(8, 16))
        built.get_parameter("2.weight").copy_(seeded(4, 8))
    return built


def test_targets_are_checked_as_the_model_holds_them_now() -> None:
    targets = select_targets(model(), TWO_OF_FOUR)
    assert [(check.matrix, check.violations) for check in check_targets(targets)] == [("0.weight", 32), ("2.weight", 8)]
    prune_(targets)
    assert all(check.holds and check.exact for check in check_targets(targets))
    assert check_targets([]) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_file_read_back_gives_the_checks_of_what_was_saved(tmp_path: Path, dtype: torch.dtype) -> None:
    built = model()
    targets = select_targets(built, TWO_OF_FOUR)
    prune_(targets)
    saved = {name: tensor.to(dtype) for name, tensor in built.state_dict().items()}
    constraints: dict[str, Constraint] = {"2.weight": Unstructured(0.25), "0.weight": TWO_OF_FOUR}
    save_file(saved, tmp_path / "model.safetensors")
    checks = check_file(tmp_path / "model.safetensors", constraints)
    assert checks == [check_matrix(name, saved[name], constraint) for name, constraint in constraints.items()]
    assert [check.violations for check in checks] == [8, 0]


def test_corruption_on_disk_is_detected(tmp_path: Path) -> None:
    built = model()
    prune_(select_targets(built, TWO_OF_FOUR))
    state = built.state_dict()
    state["0.weight"][3, 8:12] = 1.0
    save_file(state, tmp_path / "model.safetensors")
    first, second = check_file(tmp_path / "model.safetensors", dict.fromkeys(("0.weight", "2.weight"), TWO_OF_FOUR))
    assert (first.holds, first.violations, first.first_violation) == (False, 1, (3, 8))
    assert second.holds


def test_matrix_missing_from_the_file_is_named(tmp_path: Path) -> None:
    save_file({"w": BY_HAND}, tmp_path / "model.safetensors")
    with pytest.raises(SparsityError, match=r"model\.safetensors holds no matrix 'layer\.0\.weight'"):
        check_file(tmp_path / "model.safetensors", {"w": TWO_OF_FOUR, "layer.0.weight": TWO_OF_FOUR})
