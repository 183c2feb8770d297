"""ADMM against autograd, NumPy, the optimality conditions and enumeration of every support."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nxm_sweep.errors import SparsityError
from nxm_sweep.sparsity import Admm, Constraint, Pattern, Residuals, Target, Unstructured, project, select_targets
from nxm_sweep.sparsity.admm import FIRST_ITERATIONS

Matrix: TypeAlias = NDArray[np.float64]

TWO_OF_FOUR = Pattern(2, 4)


def seeded(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def some_targets(constraint: Constraint = TWO_OF_FOUR, dtype: torch.dtype = torch.float64) -> list[Target]:
    """Two matrices of different shapes and scales."""
    weights = {"a.weight": seeded(6, 8, seed=1), "b.weight": 3.0 * seeded(4, 16, seed=2)}
    return [Target(name, nn.Parameter(weight.to(dtype)), constraint) for name, weight in weights.items()]


@torch.no_grad()
def move_(targets: list[Target], seed: int) -> None:
    """Stand in for a W-step."""
    for target in targets:
        target.weight.add_(0.5 * seeded(*target.weight.shape, seed=seed).to(target.weight.dtype))


def moved_admm(rho: float = 0.3, dtype: torch.dtype = torch.float64, first_iteration: str = "project") -> Admm:
    """ADMM in mid-run: W, Z and U all differ."""
    admm = Admm(some_targets(dtype=dtype), rho, first_iteration=first_iteration)
    for seed in (3, 4):
        move_(admm.targets, seed)
        admm.update_()
    move_(admm.targets, 5)
    return admm


def array(tensor: Tensor) -> Matrix:
    result: Matrix = tensor.detach().double().numpy().copy()
    return result


def projected(matrix: Matrix, constraint: Constraint) -> Matrix:
    """The projection in NumPy: keep the largest by a stable sort of each group, or of the matrix."""
    group, keep = (
        (constraint.group, constraint.keep)
        if isinstance(constraint, Pattern)
        else (matrix.size, round(constraint.density * matrix.size))
    )
    result = matrix.copy().reshape(-1, group)
    np.put_along_axis(result, np.argsort(-np.abs(result), axis=1, kind="stable")[:, keep:], values=0.0, axis=1)
    return result.reshape(matrix.shape)


# ---- the first iteration, the penalty and its gradient


def test_first_iteration_project_starts_with_the_dual_of_one_step() -> None:
    targets = some_targets()
    admm = Admm(targets, 0.1, first_iteration="project")
    for target in targets:
        weight, nearest = array(target.weight), projected(array(target.weight), TWO_OF_FOUR)
        np.testing.assert_array_equal(array(admm.z[target.name]), nearest)
        np.testing.assert_array_equal(array(admm.u[target.name]), weight - nearest)


def test_first_iteration_zero_dual_starts_with_no_dual() -> None:
    targets = some_targets()
    admm = Admm(targets, 0.1, first_iteration="zero_dual")
    for target in targets:
        np.testing.assert_array_equal(array(admm.z[target.name]), projected(array(target.weight), TWO_OF_FOUR))
        assert not admm.u[target.name].any()


def test_project_is_the_default_first_iteration() -> None:
    targets = some_targets()
    expected = Admm(targets, 0.1, first_iteration="project").u
    assert all(torch.equal(dual, expected[name]) for name, dual in Admm(targets, 0.1).u.items())


def test_starting_leaves_the_weights_alone() -> None:
    targets = some_targets()
    before = [target.weight.detach().clone() for target in targets]
    Admm(targets, 0.1)
    assert all(torch.equal(target.weight, weight) for target, weight in zip(targets, before, strict=True))


def test_penalty_is_half_rho_times_the_squared_gap() -> None:
    admm = moved_admm(rho=0.3)
    gaps = [array(t.weight) - array(admm.z[t.name]) + array(admm.u[t.name]) for t in admm.targets]
    np.testing.assert_allclose(float(admm.penalty().detach()), 0.15 * sum((gap**2).sum() for gap in gaps), rtol=1e-12)


@pytest.mark.parametrize("first_iteration", FIRST_ITERATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_penalty_gradient_is_autograds_added_to_the_gradient_at_hand(
    first_iteration: str, dtype: torch.dtype, scale: float
) -> None:
    admm = moved_admm(rho=0.3, dtype=dtype, first_iteration=first_iteration)
    weights = [target.weight for target in admm.targets]
    derived = torch.autograd.grad(admm.penalty(), weights)
    at_hand = [seeded(*weight.shape, seed=9, dtype=dtype) for weight in weights]
    for weight, gradient in zip(weights, at_hand, strict=True):
        weight.grad = gradient.clone()
    admm.add_penalty_gradient_(scale)
    for weight, gradient, penalty in zip(weights, at_hand, derived, strict=True):
        assert float(penalty.abs().max()) > 0.1
        torch.testing.assert_close(weight.grad, gradient + scale * penalty)


def test_penalty_gradient_is_created_where_there_is_none() -> None:
    admm = moved_admm()
    derived = torch.autograd.grad(admm.penalty(), [target.weight for target in admm.targets])
    admm.add_penalty_gradient_()
    for target, penalty in zip(admm.targets, derived, strict=True):
        torch.testing.assert_close(target.weight.grad, penalty)


def test_rho_zero_leaves_gradients_untouched() -> None:
    first, second = (admm := moved_admm(rho=0.0)).targets
    first.weight.grad = torch.full_like(first.weight, -0.0)
    admm.add_penalty_gradient_()
    assert bool(first.weight.grad.signbit().all())
    assert second.weight.grad is None
    assert float(admm.penalty().detach()) == 0.0


@pytest.mark.parametrize("strength", [0.0, 0.02, 0.5, 1.0])
def test_decay_goes_its_share_of_the_way_to_z_minus_u(strength: float) -> None:
    admm = moved_admm(rho=0.0)  # the decoupled penalty has its own strength
    before = {target.name: array(target.weight) for target in admm.targets}
    admm.decay_(strength)
    for target in admm.targets:
        goal = array(admm.z[target.name]) - array(admm.u[target.name])
        expected = (1 - strength) * before[target.name] + strength * goal
        np.testing.assert_allclose(array(target.weight), expected, rtol=1e-12, atol=1e-14)


# ---- the Z and dual steps


@pytest.mark.parametrize("constraint", [TWO_OF_FOUR, Pattern(1, 4), Unstructured(0.25)], ids=str)
@pytest.mark.parametrize("first_iteration", FIRST_ITERATIONS)
def test_every_update_follows_the_three_formulas(constraint: Constraint, first_iteration: str) -> None:
    targets = some_targets(constraint)
    admm = Admm(targets, 0.7, first_iteration=first_iteration)
    dual = {
        t.name: (array(t.weight) - projected(array(t.weight), constraint)) * (first_iteration == "project")
        for t in targets
    }
    for seed in range(4):
        move_(targets, seed)
        held = [array(target.weight) for target in targets]
        admm.update_()
        for target, weight in zip(targets, held, strict=True):
            z = projected(weight + dual[target.name], constraint)
            dual[target.name] = (dual[target.name] + weight - z) * (first_iteration != "no_dual")
            np.testing.assert_allclose(array(admm.z[target.name]), z, rtol=1e-12, atol=1e-14)
            np.testing.assert_allclose(array(admm.u[target.name]), dual[target.name], rtol=1e-12, atol=1e-14)
            np.testing.assert_array_equal(array(target.weight), weight)  # an update moves no weight


def test_residuals_are_the_norms_over_all_targets_together() -> None:
    admm = moved_admm(rho=0.3)
    weights = np.concatenate([array(t.weight).ravel() for t in admm.targets])
    z_before = np.concatenate([array(admm.z[t.name]).ravel() for t in admm.targets])
    nearest = np.concatenate([projected(array(t.weight), TWO_OF_FOUR).ravel() for t in admm.targets])
    found = admm.update_()
    z = np.concatenate([array(admm.z[t.name]).ravel() for t in admm.targets])
    dual = np.concatenate([array(admm.u[t.name]).ravel() for t in admm.targets])
    norm = np.linalg.norm
    assert found.primal == pytest.approx(norm(weights - z) / max(norm(weights), norm(z)), rel=1e-12)
    assert found.dual == pytest.approx(norm(z - z_before) / norm(dual), rel=1e-12)
    assert found.distance == pytest.approx(norm(weights - nearest) / norm(weights), rel=1e-12)
    assert found.support_flips == np.mean(z_before[z != 0] == 0)
    assert 0.0 < found.support_flips < 1.0
    assert found.rho == 0.3


def test_primal_residual_is_relative_to_z_where_z_is_larger() -> None:
    target = Target("w", nn.Parameter(torch.tensor([[1.0, 0.5, 0.25, 0.125]])), TWO_OF_FOUR)
    admm = Admm([target], 1.0)
    admm.u["w"] = torch.tensor([[3.0, 4.0, 0.0, 0.0]])
    found = admm.update_()  # Z = (4, 4.5, 0, 0), W - Z = (-3, -4, 0.25, 0.125)
    assert found.primal == pytest.approx(math.sqrt((25 + 0.25**2 + 0.125**2) / (4**2 + 4.5**2)))


def test_weights_that_satisfy_the_pattern_have_no_residuals() -> None:
    weight = project(seeded(4, 8), TWO_OF_FOUR)
    for first_iteration in FIRST_ITERATIONS:
        admm = Admm([Target("w", nn.Parameter(weight.clone()), TWO_OF_FOUR)], 0.5, first_iteration=first_iteration)
        nothing = Residuals(primal=0.0, dual=0.0, distance=0.0, support_flips=0.0, rho=0.5)
        assert admm.update_() == dataclasses.replace(nothing, groups={"w": nothing})


def test_support_flips_is_the_share_of_kept_entries_that_are_new() -> None:
    target = Target("w", nn.Parameter(torch.tensor([[4.0, 3.0, 2.0, 1.0]])), TWO_OF_FOUR)
    admm = Admm([target], 1.0, first_iteration="zero_dual")
    assert admm.update_().support_flips == 0.0
    with torch.no_grad():
        target.weight.copy_(torch.tensor([[4.0, 0.0, 9.0, 1.0]]))
    assert admm.update_().support_flips == 0.5


def test_a_kept_entry_that_is_zero_is_no_flip() -> None:
    target = Target("w", nn.Parameter(torch.tensor([[0.0, 2.0, 0.0, 0.0]])), TWO_OF_FOUR)
    admm = Admm([target], 1.0, first_iteration="zero_dual")
    assert admm.masks["w"].tolist() == [[True, True, False, False]]  # the lower index wins the tie of zeros
    assert admm.update_().support_flips == 0.0


@pytest.mark.parametrize("constraint", [TWO_OF_FOUR, Pattern(1, 4), Pattern(8, 16), Unstructured(0.25)], ids=str)
@pytest.mark.parametrize("factors", [False, True])
def test_the_masks_of_a_loaded_state_are_those_of_the_last_z_step(constraint: Constraint, *, factors: bool) -> None:
    """Matrices of few distinct values, most of them zero, in which ties and kept zeros abound."""
    draw = torch.Generator().manual_seed(0)
    weight = torch.randint(-1, 2, (32, 16), generator=draw).float() * (torch.rand(32, 16, generator=draw) < 0.2)
    admm = Admm([Target("w", nn.Parameter(weight), constraint)], 1.0)
    if factors:
        admm.targets[0].factors.values = torch.randint(1, 3, (16,), generator=draw) * 1e-30
        with torch.no_grad():
            admm.targets[0].weight.mul_(1e-12)  # some scores underflow to zero
    admm.update_()
    assert bool((admm.masks["w"] & (admm.z["w"] == 0)).any())
    resumed = Admm(admm.targets, 1.0)
    resumed.load_state_dict(admm.state_dict())
    assert torch.equal(resumed.masks["w"], admm.masks["w"])


# ---- on problems small enough to enumerate


def least_squares(seed: int) -> tuple[Tensor, Tensor]:
    """Correlated inputs of shape (32, 8) and noisy outputs of shape (32, 1)."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    orthonormal, _ = torch.linalg.qr(normal(32, 8))
    inputs = orthonormal @ (torch.eye(8, dtype=torch.float64) + 0.3 * normal(8, 8))
    return inputs, inputs @ normal(8, 1) + 0.1 * normal(32, 1)


def best_by_enumeration(inputs: Matrix, outputs: Matrix, rho: float) -> tuple[Matrix, list[Matrix]]:
    """Solve least squares on all 36 supports of two groups of 2:4.

    Returns the best solution, and the solutions that are fixed points of ADMM. There W = Z and rho U = -gradient, so
    Z = P(Z + U) asks that in each group no cut entry of U exceeds a kept entry of Z.
    """
    solutions, fixed_points = [], []
    pairs = list(itertools.combinations(range(4), 2))
    for first, second in itertools.product(pairs, pairs):
        kept = [*first, *(4 + index for index in second)]
        solution = np.zeros(8)
        solution[kept] = np.linalg.lstsq(inputs[:, kept], outputs, rcond=None)[0]
        residual = inputs @ solution - outputs
        solutions.append((0.5 * float(residual @ residual), solution))
        dual = np.abs(inputs.T @ residual / rho)
        dual[kept] = 0.0
        smallest_kept = np.sort(np.abs(solution.reshape(2, 4)), axis=1)[:, 2]
        if bool((dual.reshape(2, 4).max(axis=1) <= smallest_kept).all()):
            fixed_points.append(solution)
    return min(solutions, key=lambda pair: pair[0])[1], fixed_points


@pytest.mark.parametrize("first_iteration", ["project", "zero_dual"])
@pytest.mark.parametrize("seed", [6, 18, 19, 25, 29])
def test_admm_finds_the_optimum_that_enumeration_finds_and_magnitude_misses(seed: int, first_iteration: str) -> None:
    """Five seeds below 40 at rho = 0.6 where the dense solution's magnitudes mislead and ADMM does not.

    In each, of the 36 supports one alone is a fixed point of ADMM, and that one is the best. The problem is not convex, so
    ADMM has no guarantee: on a sixth such seed it misses the fixed point, and elsewhere it may cycle or settle elsewhere.
    """
    rho = 0.6
    inputs, outputs = least_squares(seed)
    best, fixed_points = best_by_enumeration(array(inputs), array(outputs)[:, 0], rho)
    assert len(fixed_points) == 1
    assert fixed_points[0] is best
    dense = torch.linalg.lstsq(inputs, outputs).solution.T.contiguous()
    assert not np.array_equal(array(project(dense, TWO_OF_FOUR))[0] != 0, best != 0)

    weight = nn.Parameter(dense.clone())
    found: list[Residuals] = []
    newton = torch.linalg.inv(inputs.T @ inputs + rho * torch.eye(8, dtype=torch.float64))  # makes a W-step exact
    with Admm([Target("w", weight, TWO_OF_FOUR)], rho, first_iteration=first_iteration) as admm:
        for _ in range(150):
            weight.grad = None
            (0.5 * (inputs @ weight.T - outputs).square().sum()).backward()  # type: ignore[no-untyped-call]
            admm.add_penalty_gradient_()
            assert weight.grad is not None
            with torch.no_grad():
                weight.sub_(weight.grad @ newton)
            found.append(admm.update_())
    np.testing.assert_allclose(array(weight)[0], best, atol=1e-6)
    assert found[-1].primal < 1e-6
    gradient = array(inputs).T @ (array(inputs) @ best - array(outputs)[:, 0])
    np.testing.assert_allclose(rho * array(admm.u["w"])[0], -gradient, atol=1e-5)  # rho U is the multiplier


# ---- rho


@pytest.mark.parametrize("rho", [0.001, 0.15, 0.3, 2.0])
def test_a_new_rho_leaves_rho_times_u_unchanged(rho: float) -> None:
    admm = moved_admm(rho=0.3)
    before = {name: 0.3 * array(dual) for name, dual in admm.u.items()}
    admm.set_rho_(rho)
    assert admm.rho == rho
    for name, dual in admm.u.items():
        np.testing.assert_allclose(rho * array(dual), before[name], rtol=1e-12)


@pytest.mark.parametrize(("before", "after"), [(0.0, 0.5), (0.5, 0.0)])
def test_switching_rho_on_or_off_leaves_u(before: float, after: float) -> None:
    admm = moved_admm(rho=before)
    duals = {name: dual.clone() for name, dual in admm.u.items()}
    admm.set_rho_(after)
    assert admm.rho == after
    assert all(torch.equal(dual, duals[name]) for name, dual in admm.u.items())


@pytest.mark.parametrize("rho", [-1e-9, -1.0, math.nan, math.inf])
def test_negative_or_non_finite_rho_is_refused(rho: float) -> None:
    with pytest.raises(SparsityError, match="rho must be finite and not negative but got"):
        Admm(some_targets(), rho)
    admm = moved_admm(rho=0.3)
    with pytest.raises(SparsityError, match="rho must be finite and not negative but got"):
        admm.set_rho_(rho)
    assert admm.rho == 0.3


# ---- what is refused, and what has nothing to do


def test_unknown_first_iteration_is_refused_with_the_choices() -> None:
    with pytest.raises(SparsityError, match="one of project, zero_dual, no_dual but got 'magic'"):
        Admm(some_targets(), 0.1, first_iteration="magic")


def test_frozen_target_is_refused_by_name() -> None:
    targets = some_targets()
    targets[1].weight.requires_grad_(False)
    with pytest.raises(SparsityError, match=r"b\.weight does not require a gradient"):
        Admm(targets, 0.1)


def test_keeping_the_whole_group_leaves_admm_nothing_to_do() -> None:
    linear = nn.Linear(8, 4)
    targets = select_targets(nn.Sequential(linear), Pattern(4, 4))
    assert targets == []
    before = linear.weight.detach().clone()
    with Admm(targets, 0.1) as admm:
        admm.add_penalty_gradient_()
        admm.decay_(0.5)
        assert float(admm.penalty()) == 0.0
        assert admm.update_() == Residuals(primal=0.0, dual=0.0, distance=0.0, support_flips=0.0, rho=0.1)
    assert torch.equal(linear.weight, before)
    assert linear.weight.grad is None


# ---- pruning


def test_block_prunes_when_it_ends() -> None:
    targets = some_targets()
    expected = [projected(array(target.weight), TWO_OF_FOUR) for target in targets]
    with Admm(targets, 0.1):
        assert all(bool((target.weight != 0).all()) for target in targets)
    for target, nearest in zip(targets, expected, strict=True):
        np.testing.assert_array_equal(array(target.weight), nearest)


def test_block_that_raises_leaves_the_weights_unpruned() -> None:
    targets = some_targets()
    before = [target.weight.detach().clone() for target in targets]
    with pytest.raises(KeyboardInterrupt), Admm(targets, 0.1):
        raise KeyboardInterrupt
    assert all(torch.equal(target.weight, weight) for target, weight in zip(targets, before, strict=True))


def test_pruned_shows_the_projection_and_gives_back_every_bit() -> None:
    targets = some_targets(dtype=torch.float32)
    with torch.no_grad():
        targets[0].weight[0, :4] = torch.tensor([-0.0, 0.0, -0.0, -0.0])
    before = [target.weight.detach().clone() for target in targets]
    admm = Admm(targets, 0.1)
    with admm.pruned():
        for target, weight in zip(targets, before, strict=True):
            np.testing.assert_array_equal(array(target.weight), projected(array(weight), TWO_OF_FOUR))
    for target, weight in zip(targets, before, strict=True):
        assert torch.equal(target.weight.detach().view(torch.int32), weight.view(torch.int32))


# ---- precision


def test_low_precision_weights_keep_full_precision_state() -> None:
    admm = moved_admm(rho=0.3, dtype=torch.bfloat16)
    weight, name = admm.targets[0].weight, admm.targets[0].name
    assert {tensor.dtype for tensor in (*admm.z.values(), *admm.u.values())} == {torch.float32}
    gap = array(weight) - array(admm.z[name]) + array(admm.u[name])
    admm.add_penalty_gradient_()
    assert weight.grad is not None
    assert weight.grad.dtype == weight.dtype == torch.bfloat16
    np.testing.assert_allclose(array(weight.grad), 0.3 * gap, rtol=2**-7)
    # bf16 cannot hold 1 + 2**-9: what one step adds to the dual must not be rounded away
    admm.u[name] = torch.full_like(admm.u[name], 2.0**-9)
    with torch.no_grad():
        weight.copy_(torch.tensor([4.0, 3.0, 1.0, 0.5]).repeat(6, 2))
    admm.update_()
    assert admm.u[name][0].tolist() == [0.0, 0.0, 1.0 + 2.0**-9, 0.5 + 2.0**-9] * 2


def test_double_precision_weights_keep_double_precision_state() -> None:
    admm = moved_admm(dtype=torch.float64)
    assert {tensor.dtype for tensor in (*admm.z.values(), *admm.u.values())} == {torch.float64}


# ---- state


def train_(admm: Admm, steps: range) -> list[Residuals]:
    """Run SGD towards fixed goals; rho grows, so it is part of what a resumed run needs."""
    found = []
    for step in steps:
        for target in admm.targets:
            target.weight.grad = target.weight.detach() - seeded(*target.weight.shape, seed=20).float()
        admm.add_penalty_gradient_()
        with torch.no_grad():
            for target in admm.targets:
                assert target.weight.grad is not None
                target.weight.sub_(0.1 * target.weight.grad)
        if step % 3 == 2:
            found.append(admm.update_())
            admm.set_rho_(1.3 * admm.rho)
    return found


def test_a_run_resumed_from_its_state_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole = Admm(some_targets(dtype=torch.float32), 0.2)
    train_(whole, range(10))
    save_file(whole.state_dict(), tmp_path / "admm.safetensors")
    weights = [target.weight.detach().clone() for target in whole.targets]
    expected = train_(whole, range(10, 20))

    resumed = Admm(some_targets(dtype=torch.float32), 99.0, first_iteration="zero_dual")
    with torch.no_grad():
        for target, weight in zip(resumed.targets, weights, strict=True):
            target.weight.copy_(weight)
    resumed.load_state_dict(load_file(tmp_path / "admm.safetensors"))
    assert train_(resumed, range(10, 20)) == expected
    assert resumed.rho == whole.rho
    for old, new in zip(whole.targets, resumed.targets, strict=True):
        assert torch.equal(old.weight, new.weight)
        assert torch.equal(whole.z[old.name], resumed.z[new.name])
        assert torch.equal(whole.u[old.name], resumed.u[new.name])


def test_loaded_state_is_a_copy() -> None:
    state = {name: tensor.clone() for name, tensor in moved_admm().state_dict().items()}
    before = {name: tensor.clone() for name, tensor in state.items()}
    admm = Admm(some_targets(), 0.1)
    admm.load_state_dict(state)
    move_(admm.targets, 6)
    admm.update_()
    assert all(torch.equal(state[name], tensor) for name, tensor in before.items())


def test_state_of_other_targets_is_refused_by_name() -> None:
    state = moved_admm().state_dict()
    admm = Admm(some_targets(), 0.1)
    for missing in ("rho", "z.a.weight", "u.b.weight"):
        with pytest.raises(SparsityError, match=f"of other targets: {missing}"):
            admm.load_state_dict({name: tensor for name, tensor in state.items() if name != missing})
    with pytest.raises(SparsityError, match=r"of other targets: z\.c\.weight"):
        admm.load_state_dict({**state, "z.c.weight": torch.zeros(1, 4)})
    with pytest.raises(SparsityError, match=r"a\.weight has shape \(6, 8\) but its saved state \(8, 6\)"):
        admm.load_state_dict({**state, "u.a.weight": torch.zeros(8, 6)})
    assert admm.rho == 0.1
