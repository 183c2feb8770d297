"""Strengths of the penalty that mean the same on every loss and in every length of run; what a record says of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nxm_sweep.errors import SparsityError
from nxm_sweep.methods import AdmmSwitches, Asp, Budget, Dense, Iteration, Nxm, NxmRefit, WarmupAsp
from nxm_sweep.methods.admm import spread
from nxm_sweep.sparsity import Masking, Pattern, Schedule, Target
from tests.methods.test_family import Readings, bits, steps_of, targets_of, trainer_of
from tests.training.tiny import bert

RAMP = Schedule(100.0, "exponential", 0.1)


def one_target(seed: int = 0, shape: tuple[int, int] = (6, 8)) -> Target:
    return Target("w", nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(seed))), Pattern(2, 4))


def falling(steps: int) -> list[float]:
    return [1.0 - step / steps for step in range(steps)]


def fit_(method: Nxm, steps: int, *, factor: float = 1.0, clip: float = 1.0) -> list[float]:
    """Train W towards a dense matrix by Adam on ``factor`` times the squared error, as a Trainer would; return the rhos."""
    (target,) = method.targets
    goal = torch.randn(target.weight.shape, generator=torch.Generator().manual_seed(7))
    optimizer = torch.optim.Adam([target.weight], lr=0.3 * 20 / steps, eps=1e-12)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - step / steps)
    method.start_(Budget(steps, steps // 4, falling(steps)))
    rhos = []
    for step in range(steps):
        torch.autograd.backward(factor * (target.weight - goal).square().mean())
        method.before_clip_()
        nn.utils.clip_grad_norm_([target.weight], clip)
        method.after_clip_()
        rhos.append(method.admm.rho)
        optimizer.step()
        method.after_step_()
        schedule.step()
        optimizer.zero_grad()
        if (step + 1) % (steps // 4) == 0:
            method.after_epoch_()
    return rhos


# ---- e-folds of the decoupled penalty


@pytest.mark.parametrize("pace", ["learning_rate", "constant", "linear"])
@pytest.mark.parametrize("steps", [1, 100, 3000])
def test_the_efolds_are_spent_whole_and_at_their_pace(pace: str, steps: int) -> None:
    spent = spread(5.0, pace, steps, falling(steps))
    assert len(spent) == steps + 1
    assert spent[0] == 0.0
    assert spent[-1] == pytest.approx(5.0)
    middles = [(step + 0.5) / steps for step in range(steps)]
    wanted = {"learning_rate": [1.0 - x for x in middles], "constant": [1.0] * steps, "linear": middles}[pace]
    parts = [later - earlier for earlier, later in itertools.pairwise(spent)]
    assert parts == pytest.approx([5.0 * part / sum(wanted) for part in wanted], abs=10.0 / steps**2)


def test_a_learning_rate_that_is_not_known_beforehand_counts_as_constant() -> None:
    assert spread(6.0, "learning_rate", 3) == pytest.approx([0.0, 2.0, 4.0, 6.0])


@pytest.mark.parametrize("steps", [100, 3000])
@pytest.mark.parametrize("pace", ["learning_rate", "constant", "linear"])
def test_without_a_task_the_weights_to_be_cut_shrink_by_the_efolds(pace: str, steps: int) -> None:
    target = one_target()
    start, cut = target.weight.detach().clone(), ~target.support()
    switches = AdmmSwitches(first_iteration="no_dual", penalty="decoupled", efolds=3.0, pace=pace)
    method = Nxm([target], 0.0, switches)
    method.start_(Budget(steps, steps // 4, falling(steps)))
    steps_of(method, [0.0] * steps)
    torch.testing.assert_close(target.weight.detach(), torch.where(cut, start * math.exp(-3.0), start))


def test_a_refit_spends_its_efolds_before_it_freezes() -> None:
    target = one_target()
    start, cut = target.weight.detach().clone(), ~target.support()
    switches = AdmmSwitches(first_iteration="no_dual", penalty="decoupled", efolds=3.0, admm_fraction=0.3)
    method = NxmRefit([target], 0.0, switches)
    method.start_(Budget(100, 100, falling(100)))
    steps_of(method, [0.0] * 29)
    expected = 3.0 * sum(falling(100)[:29]) / sum(falling(100)[:30])
    torch.testing.assert_close(target.weight.detach()[cut], start[cut] * math.exp(-expected))
    assert method.prunes
    steps_of(method, [0.0])
    assert not method.prunes
    torch.testing.assert_close(target.weight.detach(), torch.where(cut, 0.0, start))


def test_the_trainer_tells_the_learning_rates_of_its_schedule(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, bert(), Dense(), lr_scheduler_type="cosine", warmup_steps=2)
    seen: list[Budget] = []
    rates: list[float] = []
    trainer.sparse_method.start_ = seen.append  # type: ignore[assignment, method-assign]
    trainer.sparse_method.after_clip_ = lambda **_: rates.append(trainer.optimizer.param_groups[0]["lr"])  # type: ignore[method-assign, union-attr]
    trainer.train()
    assert len(rates) == seen[0].steps == 6
    assert [5e-3 * rate for rate in seen[0].learning_rates] == pytest.approx(rates)


# ---- a strength for every loss and every length


@pytest.mark.parametrize(
    "switches",
    [
        AdmmSwitches("zero_dual", rho_unit="relative"),
        AdmmSwitches("project", rho_unit="relative"),
        AdmmSwitches("zero_dual", penalty="decoupled"),
    ],
)
def test_a_loss_times_100_trains_the_same(switches: AdmmSwitches) -> None:
    trained = []
    for factor in (1.0, 100.0):
        method = Nxm([one_target()], RAMP, switches)
        fit_(method, 100, factor=factor, clip=1e9)
        trained.append(method)
    one, hundred = (method.targets[0].weight.detach() for method in trained)
    torch.testing.assert_close(hundred, one, rtol=1e-4, atol=1e-5)
    one_kappa, hundred_kappa = ([entry.kappa or 0.0 for entry in method.iterations] for method in trained)
    assert hundred_kappa == pytest.approx(one_kappa, rel=1e-4)


def test_an_absolute_rho_is_another_strength_on_another_loss() -> None:
    trained = []
    for factor in (1.0, 100.0):
        method = Nxm([one_target()], 0.1, AdmmSwitches("zero_dual"))
        fit_(method, 100, factor=factor, clip=1e9)
        trained.append(method.targets[0].weight.detach())
    assert float((trained[1] - trained[0]).norm() / trained[0].norm()) > 0.1


@pytest.mark.parametrize(
    "switches",
    [
        AdmmSwitches("no_dual", rho_unit="relative"),
        AdmmSwitches("no_dual", penalty="decoupled", efolds=6.0, pace="linear"),
    ],
)
def test_runs_of_100_and_3000_steps_end_equally_far_from_the_pattern(switches: AdmmSwitches) -> None:
    ends = []
    for steps in (100, 3000):
        method = Nxm([one_target()], RAMP, switches)
        fit_(method, steps)
        ends.append([entry.residuals.distance for entry in method.iterations])
    assert len(ends[0]) == len(ends[1]) == 4
    assert ends[1] == pytest.approx(ends[0], abs=0.04)
    assert ends[0][0] > 2 * ends[0][-1]


def test_a_relative_rho_is_kappa_times_the_ratio_of_the_norms() -> None:
    """With a gradient that is constant and clipped, rho is known beforehand."""
    target = one_target()
    cut = target.weight.detach()[~target.support()].norm()
    method = Nxm([target], 2.0, AdmmSwitches("zero_dual", rho_unit="relative", interval_unit="step"))
    method.start_(Budget(40, 40))
    for step in range(40):
        target.weight.grad = torch.full_like(target.weight, 5.0)
        method.before_clip_()
        nn.utils.clip_grad_norm_([target.weight], 0.25)
        task = target.weight.grad.clone()
        before = target.weight.detach() - method.admm.z["w"] + method.admm.u["w"]
        method.after_clip_()
        expected = 2.0 * 0.25 / float(cut)
        assert method.admm.rho == pytest.approx(expected, rel=1e-5), step
        torch.testing.assert_close(target.weight.grad - task, expected * before, rtol=1e-4, atol=1e-6)
        method.after_step_()
    assert {round(entry.kappa or 0.0, 4) for entry in method.iterations} == {2.0}


def test_weights_that_hold_their_pattern_give_a_relative_rho_no_scale() -> None:
    target = one_target()
    Masking([target])
    with torch.no_grad():
        target.weight.mul_(target.support())
    with pytest.raises(SparsityError, match="no scale"):
        Nxm([target], 1.0, AdmmSwitches(rho_unit="relative")).start_(Budget(4, 4))


def test_a_relative_rho_looks_at_the_gradient_s_norm_in_every_tenth_step() -> None:
    method = Nxm(targets_of(bert()), 1.0, AdmmSwitches(rho_unit="relative"))
    method.start_(Budget(40, 40))
    steps_of(method, [0.5] * 11)
    with Readings() as readings:  # type: ignore[no-untyped-call]
        steps_of(method, [0.5] * 9)
    assert readings.count == 0
    with Readings() as readings:  # type: ignore[no-untyped-call]
        steps_of(method, [0.5])
    assert readings.count > 0


def test_a_first_gradient_that_overflows_sets_no_strength() -> None:
    method = Nxm([one_target()], 1.0, AdmmSwitches("zero_dual", rho_unit="relative", interval_unit="step"))
    method.start_(Budget(8, 8))
    steps_of(method, [math.inf])
    assert method.admm.rho == 0.0
    steps_of(method, [0.5])
    assert math.isfinite(method.admm.rho)
    assert method.admm.rho > 0.0


# ---- what an iteration says


@pytest.mark.parametrize("clip", ["total", "task"])
def test_the_clip_factor_and_kappa_are_what_the_steps_had(tmp_path: Path, clip: str) -> None:
    model = bert()
    targets = targets_of(model)
    start = torch.cat([target.weight.detach()[~target.support()] for target in targets]).norm()
    method = Nxm(targets, 0.5, AdmmSwitches(clip=clip))
    factors: list[float] = []
    squares: list[float] = []
    add = Nxm._add_penalty_

    def watched(self: Nxm, scale: float) -> None:
        squares.append(float(torch.cat([_gradient(target).flatten() for target in targets]).double().square().sum()))
        add(self, scale)

    trainer = trainer_of(tmp_path, model, method, max_grad_norm=0.2)
    method._add_penalty_ = watched.__get__(method)  # type: ignore[method-assign]
    clip_all = trainer.accelerator.clip_grad_norm_

    def clipping(parameters: Sequence[Tensor], bound: float, *args: Any) -> Any:
        norm = clip_all(parameters, bound, *args)
        factors.append(min(1.0, 0.2 / float(norm)))
        return norm

    trainer.accelerator.clip_grad_norm_ = clipping
    trainer.train()
    assert [entry.step for entry in method.iterations] == [3, 6]
    assert max(factors) < 1.0
    for entry, low in zip(method.iterations, (0, 3), strict=True):
        assert entry.mean_clip_factor == pytest.approx(sum(factors[low : low + 3]) / 3, rel=1e-3)
        weights = [0.98 ** (low + 2 - step) for step in range(low + 3)]
        mean = sum(weight * square for weight, square in zip(weights, squares, strict=False)) / sum(weights)
        assert entry.kappa == pytest.approx(0.5 * float(start) / math.sqrt(mean), rel=1e-3)
        assert entry.efolds is None


def _gradient(target: Target) -> Tensor:
    assert target.weight.grad is not None
    return target.weight.grad


def test_a_decoupled_iteration_says_the_efolds_that_are_spent(tmp_path: Path) -> None:
    method = Nxm(targets_of(model := bert()), 0.0, AdmmSwitches(penalty="decoupled", efolds=4.2))
    trainer_of(tmp_path, model, method).train()
    assert [entry.efolds for entry in method.iterations] == pytest.approx([4.2 * (6 + 5 + 4) / 21, 4.2])
    assert [entry.kappa for entry in method.iterations] == [None, None]


def test_an_iteration_that_an_earlier_version_saved_is_read() -> None:
    residuals = {"primal": 0.1, "dual": 0.2, "distance": 0.3, "support_flips": 0.4, "rho": 0.5}
    entry = Iteration.from_dict({"step": 3, "residuals": residuals, "mean_penalty_share": 0.6})
    assert (entry.kappa, entry.efolds, entry.mean_clip_factor) == (None, None, None)


# ---- the control without ADMM


def test_warm_up_trains_densely_then_under_the_magnitude_mask_of_that_moment(tmp_path: Path) -> None:
    dense = bert()
    trainer_of(tmp_path, dense, Dense(), max_steps=3, learning_rate=5e-3, lr_scheduler_type="constant").train()
    model = bert()
    method = WarmupAsp(targets_of(model), 0.5)
    trainer_of(tmp_path, model, method, lr_scheduler_type="constant").train()
    halfway = {target.name: target.support() for target in targets_of(dense)}
    for target in method.targets:
        torch.testing.assert_close(target.weight.detach() != 0.0, halfway[target.name])
    assert not method.prunes


def test_without_a_mask_yet_the_last_weights_are_pruned_to_be_scored(tmp_path: Path) -> None:
    model = bert()
    method = WarmupAsp(targets_of(model), 1.0)
    trainer_of(tmp_path, model, method).train()
    dense = bert()
    trainer_of(tmp_path, dense, Dense()).train()
    assert bits(model) == bits(dense)
    assert method.prunes


def test_warm_up_is_a_refit_without_a_penalty_bit_for_bit_and_asp_without_a_warm_up(tmp_path: Path) -> None:
    def trained(build: Any) -> dict[str, bytes]:
        model = bert()
        trainer_of(tmp_path, model, build(targets_of(model))).train()
        return bits(model)

    none = AdmmSwitches(penalty="decoupled", efolds=0.0, admm_fraction=0.5)
    assert trained(lambda targets: WarmupAsp(targets, 0.5)) == trained(lambda targets: NxmRefit(targets, 0.0, none))
    assert trained(lambda targets: WarmupAsp(targets, 0.0)) == trained(Asp)
    late = AdmmSwitches(penalty="decoupled", efolds=5.0, dense_fraction=0.5, admm_fraction=0.5)
    assert trained(lambda targets: WarmupAsp(targets, 0.5)) == trained(lambda targets: NxmRefit(targets, 0.0, late))


def test_a_late_admm_is_dense_training_and_then_admm_from_its_weights() -> None:
    torch.manual_seed(0)
    moves, rates = torch.randn(40, 6, 8) * 0.1, falling(40)
    late, fresh = one_target(), one_target()
    switches = AdmmSwitches("zero_dual", penalty="decoupled", efolds=3.0, interval=5, interval_unit="step")
    method = Nxm([late], 0.0, replace(switches, dense_fraction=0.25))
    method.start_(Budget(40, 40, rates))
    for index, move in enumerate(moves):
        with torch.no_grad():
            late.weight.add_(rates[index] * move)
        method.after_step_()
        assert (method.state_dict() == {}) == (index < 9)
    with torch.no_grad():
        for index in range(10):
            fresh.weight.add_(rates[index] * moves[index])
    alone = Nxm([fresh], 0.0, switches)
    alone.start_(Budget(30, 30, rates[10:]))
    for index in range(10, 40):
        with torch.no_grad():
            fresh.weight.add_(rates[index] * moves[index])
        alone.after_step_()
    assert torch.equal(late.weight, fresh.weight)
    assert [entry.step - 10 for entry in method.iterations] == [entry.step for entry in alone.iterations]
    assert method.iterations[-1].efolds == alone.iterations[-1].efolds == pytest.approx(3.0)


def test_a_late_admm_that_never_begins_is_dense_training(tmp_path: Path) -> None:
    trained = []
    for build in (lambda _: Dense(), lambda targets: Nxm(targets, 1.0, AdmmSwitches(dense_fraction=1.0))):
        model = bert()
        trainer_of(tmp_path, model, build(targets_of(model))).train()
        trained.append(bits(model))
    assert trained[0] == trained[1]


@pytest.mark.parametrize("fraction", [-0.1, 1.1, math.nan])
def test_a_fraction_outside_its_range_is_refused(fraction: float) -> None:
    with pytest.raises(SparsityError, match=r"fraction must lie in \[0, 1\]"):
        WarmupAsp([], fraction)
