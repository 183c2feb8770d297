"""Patterns are values that refuse what no matrix can satisfy."""

from __future__ import annotations

import dataclasses
import math

import pytest

from nxm_sweep.errors import SparsityError
from nxm_sweep.sparsity import Pattern, Unstructured


@pytest.mark.parametrize(("keep", "group"), [(0, 4), (-1, 4), (5, 4), (1, 0), (0, 0), (1, -4)])
def test_pattern_refuses_what_no_group_can_hold_and_says_the_value(keep: int, group: int) -> None:
    rejected = group if group < 1 else keep
    with pytest.raises(SparsityError, match=rf"but got {rejected}$"):
        Pattern(keep, group)


@pytest.mark.parametrize("density", [0.0, -0.5, 1.0000001, math.nan, math.inf])
def test_unstructured_refuses_a_density_outside_zero_to_one(density: float) -> None:
    with pytest.raises(SparsityError, match=r"density must lie in \(0, 1\] but got"):
        Unstructured(density)


@pytest.mark.parametrize("group", range(1, 9))
def test_only_keeping_the_whole_group_is_dense(group: int) -> None:
    dense = [keep for keep in range(1, group + 1) if Pattern(keep, group).is_dense]
    assert dense == [group]


def test_only_density_one_is_dense() -> None:
    assert Unstructured(1.0).is_dense
    assert not Unstructured(0.999).is_dense


def test_density_is_the_share_that_stays() -> None:
    assert [Pattern(keep, 4).density for keep in (1, 2, 3, 4)] == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("density", "size", "count"), [(0.5, 8, 4), (0.3, 10, 3), (0.26, 10, 3), (0.24, 10, 2), (0.001, 10, 1), (1.0, 7, 7)]
)
def test_unstructured_count_is_the_rounded_share_and_at_least_one(density: float, size: int, count: int) -> None:
    assert Unstructured(density).count(size) == count


def test_names_say_which_number_is_kept() -> None:
    assert str(Pattern(2, 4)) == "2 of 4"
    assert str(Unstructured(0.5)) == "0.5 unstructured"
    assert str(Unstructured(1 / 3)) == "0.333333333333 unstructured"


def test_patterns_are_immutable_values_that_can_be_keys() -> None:
    assert len({Pattern(2, 4), Pattern(2, 4), Pattern(4, 8), Unstructured(0.5), Unstructured(0.5)}) == 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        Pattern(2, 4).keep = 3  # type: ignore[misc]
