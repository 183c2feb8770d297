"""The projection against enumeration of every support, NumPy's stable sort and PyTorch's own pruners."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.ao.pruning.sparsifier.weight_norm_sparsifier import WeightNormSparsifier
from torch.nn.utils import prune

from nxm_sweep.errors import SparsityError
from nxm_sweep.sparsity import Constraint, Pattern, Unstructured, project, support
from nxm_sweep.sparsity.projection import _by_ranks, _by_sorting

BITS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32, torch.float64: torch.int64}
DTYPES = [pytest.param(dtype, id=str(dtype).removeprefix("torch.")) for dtype in BITS]
PATTERNS = [pytest.param(keep, group, id=f"{keep}of{group}") for group in range(1, 9) for keep in range(1, group + 1)]
TWO_OF_FOUR = Pattern(2, 4)


def bits(tensor: Tensor) -> Tensor:
    """Reinterpret floats as integers: equal exactly where they are bit-identical, signs of zero and NaN included."""
    return tensor.detach().contiguous().view(BITS[tensor.dtype])


def seeded(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def enumerated_support(groups: NDArray[np.int64], keep: int) -> NDArray[np.bool_]:
    """Per row of integers, of all supports of most energy the lexicographically smallest, in exact arithmetic."""
    candidates = np.array(
        [np.isin(np.arange(groups.shape[1]), kept) for kept in itertools.combinations(range(groups.shape[1]), keep)]
    )  # in lexicographic order, of which argmax takes the first best
    energies = groups**2 @ candidates.T.astype(np.int64)
    chosen: NDArray[np.bool_] = candidates[energies.argmax(axis=1)]
    return chosen


def enumerated_support_of_floats(group: list[float], keep: int) -> tuple[int, ...]:
    """As :func:`enumerated_support` for one group of any floats: fractions neither round nor underflow."""
    energies = [Fraction(value) ** 2 for value in group]
    supports = itertools.combinations(range(len(group)), keep)  # of equal keys, max returns the first
    return max(supports, key=lambda kept: sum(energies[index] for index in kept))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("keep", "group"), PATTERNS)
def test_support_is_the_best_of_all_supports_for_every_way_to_tie(keep: int, group: int, dtype: torch.dtype) -> None:
    every = np.array(
        list(itertools.product((0, 1, 2), repeat=group))
    )  # all groups of three magnitudes, zeros among them
    every = np.concatenate((every, every))
    signs = np.random.default_rng(0).choice((-1.0, 1.0), size=every.shape)
    signs[0] = -1.0  # the row of zeros
    weight = torch.from_numpy(every * signs).to(dtype)  # 0 * -1 is -0.0
    assert bool(((weight == 0) & weight.signbit()).any())
    np.testing.assert_array_equal(support(weight, Pattern(keep, group)).numpy(), enumerated_support(every, keep))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("keep", "group"), PATTERNS)
def test_support_is_the_best_of_all_supports_for_continuous_weights(keep: int, group: int, dtype: torch.dtype) -> None:
    tiny = torch.finfo(dtype).smallest_normal / 4  # subnormal, and its square underflows
    rows = torch.cat((seeded(2, 3 * group, dtype=dtype), (seeded(1, 3 * group, seed=1) * tiny).to(dtype)))
    kept = support(rows, Pattern(keep, group)).reshape(-1, group)
    for values, mask in zip(rows.reshape(-1, group).tolist(), kept.tolist(), strict=True):
        assert tuple(np.flatnonzero(mask)) == enumerated_support_of_floats(values, keep)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("constraint", [TWO_OF_FOUR, Pattern(1, 4), Pattern(5, 24), Unstructured(0.3)], ids=str)
def test_projection_keeps_bits_and_cuts_to_positive_zero(constraint: Constraint, dtype: torch.dtype) -> None:
    weight = seeded(16, 48, dtype=dtype)
    weight[:8] = (weight[:8] * 2).round()  # ties and zeros of both signs
    weight[0, :4] = torch.tensor([-0.0, -0.0, 0.0, -0.0])
    kept, projected = support(weight, constraint), project(weight, constraint)
    assert projected.dtype == dtype
    assert torch.equal(bits(projected)[kept], bits(weight)[kept])
    assert bool((bits(projected)[~kept] == 0).all())


def test_kept_negative_zero_stays_negative() -> None:
    projected = project(torch.tensor([[-0.0, 0.0, -0.0, -0.0]]), TWO_OF_FOUR)
    assert projected.signbit().tolist() == [[True, False, False, False]]


def test_infinite_weights_are_kept_before_finite_ones() -> None:
    weight = torch.tensor([[1.0, -torch.inf, 3.0, torch.inf]])
    assert support(weight, TWO_OF_FOUR).tolist() == [[False, True, False, True]]


@given(
    rows=st.lists(
        st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=6, max_size=6),
        min_size=1,
        max_size=3,
    ),
    pattern=st.sampled_from([Pattern(1, 3), Pattern(2, 3), Pattern(1, 2), Pattern(4, 6)]),
)
@settings(max_examples=150, derandomize=True, database=None, deadline=None)
def test_projection_is_idempotent_and_nearest_for_any_floats(rows: list[list[float]], pattern: Pattern) -> None:
    weight = torch.tensor(rows, dtype=torch.float32)
    projected = project(weight, pattern)
    assert torch.equal(bits(project(projected, pattern)), bits(projected))
    kept = support(weight, pattern).reshape(-1, pattern.group)
    for values, mask in zip(weight.reshape(-1, pattern.group).tolist(), kept.tolist(), strict=True):
        assert tuple(np.flatnonzero(mask)) == enumerated_support_of_floats(values, pattern.keep)


@pytest.mark.parametrize("constraint", [Pattern(3, 4), Pattern(7, 32), Unstructured(0.41)], ids=str)
def test_projecting_twice_changes_nothing(constraint: Constraint) -> None:
    once = project(seeded(8, 64).mul(3).round(), constraint)
    assert torch.equal(bits(project(once, constraint)), bits(once))


@pytest.mark.parametrize("group", [15, 16, 17, 24, 32, 64])
@pytest.mark.parametrize("ties", [False, True], ids=["continuous", "ties"])
def test_large_groups_equal_numpys_stable_sort_on_both_sides_of_the_limit(group: int, ties: bool) -> None:
    weight = seeded(6, 3 * group)
    weight = (weight * 1.5).round() if ties else weight
    order = np.argsort(-np.abs(weight.numpy().reshape(-1, group)), axis=1, kind="stable")
    for keep in (1, 2, group // 2, group - 1):
        expected = np.zeros(order.shape, dtype=bool)
        np.put_along_axis(expected, order[:, :keep], values=True, axis=1)
        kept = support(weight, Pattern(keep, group))
        np.testing.assert_array_equal(kept.numpy(), expected.reshape(weight.shape))


@pytest.mark.parametrize(("keep", "group"), [(2, 4), (3, 7), (5, 16), (11, 32)])
def test_ranking_and_sorting_keep_the_same_entries(keep: int, group: int) -> None:
    groups = seeded(200, group).mul(1.5).round().abs()
    pattern = Pattern(keep, group)
    assert torch.equal(_by_ranks(groups, pattern), _by_sorting(groups, pattern))


@pytest.mark.parametrize(("keep", "group"), PATTERNS)
def test_groups_never_straddle_rows(keep: int, group: int) -> None:
    weight = seeded(5, 3 * group)
    rows = [support(row[None], Pattern(keep, group)) for row in weight]
    assert torch.equal(support(weight, Pattern(keep, group)), torch.cat(rows))
    assert bool((torch.cat(rows).reshape(5, 3, group).sum(dim=2) == keep).all())


@pytest.mark.parametrize("constraint", [TWO_OF_FOUR, Pattern(3, 32), Unstructured(0.3)], ids=str)
def test_transposed_weight_gives_the_result_of_its_contiguous_copy(constraint: Constraint) -> None:
    weight = seeded(64, 6).mul(2).round().t()
    assert not weight.is_contiguous()
    before = bits(weight)
    assert torch.equal(support(weight, constraint), support(weight.contiguous(), constraint))
    assert torch.equal(bits(project(weight, constraint)), bits(project(weight.contiguous(), constraint)))
    assert torch.equal(bits(weight), before)


def test_projection_is_a_new_tensor_outside_the_graph() -> None:
    weight = nn.Parameter(seeded(4, 8))
    before = bits(weight).clone()
    for constraint in (TWO_OF_FOUR, Pattern(4, 4)):
        projected = project(weight, constraint)
        assert not projected.requires_grad
        projected.fill_(7.0)
    assert torch.equal(bits(weight), before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("density", [0.01, 0.25, 0.5, 0.77, 0.99])
def test_unstructured_keeps_the_exact_count_and_lower_indices_under_ties(density: float, dtype: torch.dtype) -> None:
    weight = seeded(7, 11, dtype=dtype).mul(1.2).round()
    flat = np.abs(weight.double().numpy()).flatten()
    count = round(density * 77)
    kept = support(weight, Unstructured(density)).numpy().flatten()
    assert kept.sum() == max(1, count)
    assert set(np.flatnonzero(kept)) == set(np.argsort(-flat, kind="stable")[: max(1, count)])


def test_unstructured_keeps_the_exact_count_of_a_matrix_of_equal_weights() -> None:
    kept = support(torch.zeros(5, 8), Unstructured(0.5)).flatten()
    assert kept.tolist() == [True] * 20 + [False] * 20


@pytest.mark.parametrize("seed", range(5))
def test_unstructured_equals_pytorchs_l1_pruning_without_ties(seed: int) -> None:
    linear = nn.Linear(24, 10, bias=False)
    with torch.no_grad():
        linear.weight.copy_(seeded(10, 24, seed=seed))
    expected = project(linear.weight, Unstructured(0.3))
    prune.l1_unstructured(linear, "weight", amount=240 - 72)  # type: ignore[no-untyped-call]
    assert torch.equal(linear.weight, expected)


@pytest.mark.parametrize("seed", range(5))
def test_two_of_four_equals_pytorchs_weight_norm_sparsifier_without_ties(seed: int) -> None:
    linear = nn.Linear(48, 12, bias=False)
    with torch.no_grad():
        linear.weight.copy_(seeded(12, 48, seed=seed))
    expected = project(linear.weight, TWO_OF_FOUR)
    sparsifier = WeightNormSparsifier(sparsity_level=1.0, sparse_block_shape=(1, 4), zeros_per_block=2)
    sparsifier.prepare(nn.Sequential(linear), [{"tensor_fqn": "0.weight"}])  # type: ignore[no-untyped-call]
    sparsifier.step()
    assert torch.equal(linear.weight, expected)


@pytest.mark.parametrize("constraint", [TWO_OF_FOUR, Pattern(4, 32), Unstructured(0.5)], ids=str)
def test_nan_is_refused(constraint: Constraint) -> None:
    weight = seeded(2, 32)
    weight[1, 3] = torch.nan
    with pytest.raises(SparsityError, match="holds NaN") as caught:
        project(weight, constraint)
    assert "diverged" in caught.value.hint


def test_rows_that_do_not_divide_into_groups_are_refused_even_where_the_matrix_would() -> None:
    with pytest.raises(SparsityError, match="multiple of group = 4 but got 6"):
        support(torch.ones(2, 6), TWO_OF_FOUR)


@pytest.mark.parametrize(
    "weight",
    [
        pytest.param(torch.ones(4, 4, dtype=torch.int64), id="integer"),
        pytest.param(torch.ones(4, 4, dtype=torch.bool), id="boolean"),
        pytest.param(torch.ones(4, 4, dtype=torch.complex64), id="complex"),
        pytest.param(torch.ones(8), id="1-D"),
        pytest.param(torch.ones(2, 2, 4), id="3-D"),
        pytest.param(torch.ones(0, 4), id="no rows"),
        pytest.param(torch.ones(4, 0), id="no columns"),
    ],
)
@pytest.mark.parametrize("constraint", [TWO_OF_FOUR, Pattern(4, 4), Unstructured(0.5)], ids=str)
def test_anything_but_a_floating_matrix_is_refused(weight: Tensor, constraint: Constraint) -> None:
    with pytest.raises(SparsityError, match=r"floating-point matrix|has no weights"):
        project(weight, constraint)
