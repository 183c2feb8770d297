"""SR-STE, gradual pruning and importance metrics under the trainer; the limits in which methods are one another."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainingArguments

from nxm_sweep.errors import SparsityError
from nxm_sweep.methods import AdmmSwitches, Asp, Budget, Dense, Gradual, Nxm, NxmRefit, SparseMethod, SrSte
from nxm_sweep.methods.gradual import stages
from nxm_sweep.settings import ImportanceSettings
from nxm_sweep.sparsity import Constraint, Pattern, Target, Unstructured, check_targets, encoder_rules, select_targets
from nxm_sweep.training.trainer import SparseTrainer
from nxm_sweep.trial.build import build_importance
from tests.training.tiny import bert

STEPS_PER_EPOCH = 3


def targets_of(model: nn.Module, constraint: Constraint | None = None) -> list[Target]:
    return select_targets(model, encoder_rules(constraint or Pattern(2, 4)))


def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    return {name: torch.tensor([row[name] for row in rows]) for name in ("input_ids", "labels")}


def trainer_of(
    folder: Path,
    model: nn.Module,
    method: SparseMethod,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    metric: str = "magnitude",
    **changes: Any,
) -> SparseTrainer:
    draw = random.Random(0)
    rows = [
        {"input_ids": [draw.randrange(1, 40) for _ in range(6)], "labels": draw.randrange(2)}
        for _ in range(8 * STEPS_PER_EPOCH)
    ]
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": 2,
        "per_device_train_batch_size": 8,
        "learning_rate": 5e-3,
        "weight_decay": 0.5,
        "optim": "adamw_torch_fused",
        "save_strategy": "no",
        "logging_strategy": "no",
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    trainer = SparseTrainer(
        model=model,
        args=TrainingArguments(**{**settings, **changes}),
        sparse_method=method,
        train_dataset=rows,
        data_collator=collate,
        optimizers=(optimizer, None),
    )
    method.importance = build_importance(ImportanceSettings(metric, rows=8), trainer)
    return trainer


def bits(model: nn.Module) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


def largest(scores: Tensor, keep: int) -> Tensor:
    """True where ``scores`` is among the ``keep`` largest of its four, by PyTorch's topk."""
    groups = scores.detach().reshape(-1, 4)
    kept = torch.zeros_like(groups, dtype=torch.bool)
    return kept.scatter_(1, groups.topk(keep, dim=1).indices, value=True).reshape(scores.shape)


# ---- SR-STE


@pytest.mark.parametrize("clip", [1e9, 0.1])
def test_sr_ste_follows_its_formula(clip: float) -> None:
    """``W <- W - rate * (clipped gradient at P(W) + decay * (W - P(W)))``, by autograd on a copy."""
    decay, rate = 0.3, 0.1
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(4, 8))
    method = SrSte([Target("w", weight, Pattern(2, 4))], decay)
    optimizer = torch.optim.SGD([weight], lr=rate)
    expected = weight.detach().clone()
    method.start_(Budget(5, 5))
    for _ in range(5):
        inputs, labels = torch.randn(2, 3, 8), torch.randn(2, 3, 4)
        for rows, wanted in zip(inputs, labels, strict=True):  # two micro-batches
            method.before_forward_()
            (rows @ weight.T - wanted).square().sum().backward()
        method.before_clip_()
        nn.utils.clip_grad_norm_([weight], clip)
        method.after_clip_()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step_()

        masked = (expected * largest(expected.abs(), 2)).requires_grad_()
        loss = sum((rows @ masked.T - wanted).square().sum() for rows, wanted in zip(inputs, labels, strict=True))
        (gradient,) = torch.autograd.grad(torch.as_tensor(loss), masked)
        gradient = gradient * min(1.0, clip / float(gradient.norm()))
        expected = expected - rate * (gradient + decay * (expected - masked.detach()))
        torch.testing.assert_close(weight.detach(), expected)
    with method.pruned():
        assert all(check.exact for check in check_targets(method.targets))


def test_sr_ste_trains_with_the_pattern_and_keeps_the_weights_it_cuts(tmp_path: Path) -> None:
    model = bert()
    targets = targets_of(model)
    exact: list[bool] = []

    def look(module: nn.Module, _: Any) -> None:
        if module.training:
            exact.append(all(check.exact for check in check_targets(targets)))

    model.bert.embeddings.register_forward_pre_hook(look)
    trainer_of(tmp_path, model, SrSte(targets)).train()
    assert exact == [True] * 6
    assert all(bool((target.weight != 0).all()) for target in targets)


def test_a_negative_decay_is_refused() -> None:
    with pytest.raises(SparsityError, match="decay must be finite and not negative but got -1"):
        SrSte([], -1.0)


# ---- gradual


@pytest.mark.parametrize(
    ("constraint", "expected"),
    [
        (Pattern(2, 4), [Pattern(3, 4), Pattern(2, 4)]),
        (Pattern(1, 4), [Pattern(3, 4), Pattern(2, 4), Pattern(1, 4)]),
        (Pattern(7, 8), [Pattern(7, 8)]),
        (Pattern(4, 4), [Pattern(4, 4)]),
    ],
)
def test_a_pattern_loses_one_weight_of_each_group_a_stage(constraint: Pattern, expected: list[Pattern]) -> None:
    assert stages(constraint) == expected


def test_a_density_falls_on_the_cubic_curve() -> None:
    densities = [stage.density for stage in stages(Unstructured(0.5)) if isinstance(stage, Unstructured)]
    assert densities == pytest.approx([1 - 0.5 * (1 - (1 - index / 8) ** 3) for index in range(1, 9)])
    assert densities[-1] == 0.5


def test_gradual_tightens_at_equal_distances_and_never_gives_a_weight_back(tmp_path: Path) -> None:
    model = bert()
    targets = targets_of(model, Pattern(1, 4))
    method = Gradual(targets, end_fraction=0.7)  # of 6 steps: stages at 0, 2.1 and 4.2
    kept: list[set[int]] = []
    masks: list[list[Tensor]] = []
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.5)
    trainer = trainer_of(tmp_path, model, method, optimizer=optimizer)

    def look(*_: Any) -> None:
        counts = [(target.weight != 0).reshape(-1, 4).sum(dim=1).tolist() for target in targets]
        kept.append(set(itertools.chain.from_iterable(counts)))
        masks.append([target.weight != 0 for target in targets])

    optimizer.register_step_pre_hook(look)
    trainer.train()
    look()
    assert kept == [{3}, {3}, {3}, {2}, {2}, {1}, {1}]
    for before, after in itertools.pairwise(masks):
        assert not any(bool((new & ~old).any()) for old, new in zip(before, after, strict=True))
    assert not method.prunes


def test_gradual_that_ends_where_it_starts_is_asp_bit_for_bit(tmp_path: Path) -> None:
    trained = []
    for make in (Asp, lambda targets: Gradual(targets, 0.0)):
        model = bert()
        trainer_of(tmp_path, model, make(targets_of(model))).train()
        trained.append(bits(model))
    assert trained[0] == trained[1]


@pytest.mark.parametrize("fraction", [-0.1, 1.1])
def test_an_end_fraction_outside_its_range_is_refused(fraction: float) -> None:
    with pytest.raises(SparsityError, match=r"end_fraction must lie in \[0, 1\]"):
        Gradual([], fraction)


# ---- the limits in which methods are one another


@pytest.mark.parametrize(
    ("fraction", "make"),
    [(1.0, lambda targets: Nxm(targets, 4e-3, AdmmSwitches(interval=1, interval_unit="per_epoch"))), (0.0, Asp)],
    ids=["pure ADMM", "ASP"],
)
def test_nxm_refit_at_its_ends(
    tmp_path: Path, fraction: float, make: Callable[[Sequence[Target]], SparseMethod]
) -> None:
    switches = AdmmSwitches(admm_fraction=fraction, interval=1, interval_unit="per_epoch")
    trained = []
    for build in (make, lambda targets: NxmRefit(targets, 4e-3, switches)):
        model = bert()
        trainer_of(tmp_path, model, build(targets_of(model))).train()
        trained.append(bits(model))
    assert trained[0] == trained[1]


def test_rho_zero_is_dense_training_and_one_prune(tmp_path: Path) -> None:
    dense, model = bert(), bert()
    trainer_of(tmp_path, dense, Dense()).train()
    method = Nxm(targets_of(model), 0.0)
    trainer_of(tmp_path, model, method).train()
    assert bits(model) == bits(dense)
    with method.pruned():
        for pruned, trained in zip(targets_of(model), targets_of(dense), strict=True):
            assert torch.equal(pruned.weight, trained.weight * largest(trained.weight.abs(), 2))


@pytest.mark.parametrize(
    ("per_epoch", "due"), [(1, [3, 6]), (2, [2, 3, 5, 6]), (3, [1, 2, 3, 4, 5, 6]), (5, [1, 2, 3, 4, 5, 6])]
)
def test_so_many_z_steps_an_epoch(tmp_path: Path, per_epoch: int, due: list[int]) -> None:
    model = bert()
    method = Nxm(targets_of(model), 4e-3, AdmmSwitches(interval=per_epoch, interval_unit="per_epoch"))
    trainer_of(tmp_path, model, method).train()
    assert [iteration.step for iteration in method.iterations] == due


def z_refit(weight: nn.Parameter) -> NxmRefit:
    """Z-steps after steps 2 and 4 of 10; the support is frozen after step 5."""
    switches = AdmmSwitches(frozen_support="z", admm_fraction=0.5, interval=2, interval_unit="step")
    return NxmRefit([Target("w", weight, Pattern(2, 4))], 1.0, switches)


def step_(method: NxmRefit, weight: nn.Parameter, index: int) -> Tensor:
    """Move the weights as an optimizer would; return W + U as the Z-step of this optimizer step sees it."""
    with torch.no_grad():
        weight.add_(0.7 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(index)))
        weight[:2] = 0.0  # groups of zeros: what Z keeps of them is zero too
        weight[0, 1] = 1.0
        method.admm.u["w"][:2] = 0.0
    seen = weight.detach() + method.admm.u["w"]
    method.after_step_()
    return seen


def test_the_support_of_the_last_z_is_what_its_projection_kept() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(64, 16))
    method = z_refit(weight)
    method.start_(Budget(10, 10))
    seen = [step_(method, weight, index) for index in range(1, 6)]
    assert [iteration.step for iteration in method.iterations] == [2, 4]
    order = (-seen[3].abs()).reshape(-1, 4).numpy().argsort(axis=1, kind="stable")  # of the Z-step after step 4
    expected = torch.zeros(order.shape, dtype=torch.bool).scatter_(1, torch.from_numpy(order[:, :2]), value=True)
    kept = method.state_dict()["mask.w"].bool()
    assert torch.equal(kept, expected.reshape(weight.shape))
    after_the_dual_step = largest(weight.detach().abs(), 2)
    assert not torch.equal(kept, after_the_dual_step)


@pytest.mark.parametrize("stopped_after", [3, 4])
def test_a_run_resumed_before_the_freeze_freezes_the_support_of_the_same_z(stopped_after: int) -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(64, 16))
    method = z_refit(weight)
    method.start_(Budget(10, 10))
    for index in range(1, stopped_after + 1):
        step_(method, weight, index)
    state = {name: value.clone() for name, value in method.state_dict().items()}
    assert not any("mask" in name for name in state)  # so that earlier versions' checkpoints are as good
    resumed_weight = nn.Parameter(weight.detach().clone())
    resumed = z_refit(resumed_weight)
    resumed.load_state_dict(state, Budget(10, 10), step=stopped_after)
    for index in range(stopped_after + 1, 6):
        step_(method, weight, index)
        step_(resumed, resumed_weight, index)
    assert torch.equal(resumed.state_dict()["mask.w"], method.state_dict()["mask.w"])
    assert torch.equal(resumed_weight, weight)


def test_a_frozen_z_from_the_start_is_asp(tmp_path: Path) -> None:
    trained = []
    for make in (Asp, lambda targets: NxmRefit(targets, 4e-3, AdmmSwitches(frozen_support="z", admm_fraction=0.0))):
        model = bert()
        trainer_of(tmp_path, model, make(targets_of(model))).train()
        trained.append(bits(model))
    assert trained[0] == trained[1]


# ---- what an iteration says


def test_groups_of_matrices_add_up_to_the_whole(tmp_path: Path) -> None:
    model = bert()
    targets = targets_of(model)
    method = Nxm(targets, 4e-3)
    trainer_of(tmp_path, model, method).train()
    whole = method.iterations[-1].residuals
    sizes = {target.group: 0 for target in targets}
    for target in targets:
        sizes[target.group] += target.weight.numel()
    assert list(whole.groups) == [
        "bert.encoder.layer.*.attention.self.query",
        "bert.encoder.layer.*.attention.self.key",
        "bert.encoder.layer.*.attention.self.value",
        "bert.encoder.layer.*.attention.output.dense",
        "bert.encoder.layer.*.intermediate.dense",
        "bert.encoder.layer.*.output.dense",
    ]
    flips = sum(whole.groups[group].support_flips * size for group, size in sizes.items()) / sum(sizes.values())
    assert whole.support_flips == pytest.approx(flips)
    distances = [group.distance for group in whole.groups.values()]
    assert min(distances) < whole.distance < max(distances)


@pytest.mark.parametrize("clip", ["total", "task"])
@pytest.mark.parametrize(("interval", "steps"), [(1, (3, 6)), (2, (2, 3, 5, 6))])
def test_the_penalty_share_is_the_mean_over_the_steps_since_the_z_step_before(
    tmp_path: Path, clip: str, interval: int, steps: tuple[int, ...]
) -> None:
    model = bert()
    targets = targets_of(model)
    method = Nxm(targets, 4e-2, AdmmSwitches(clip=clip, interval=interval, interval_unit="per_epoch"))
    shares: list[float] = []
    add = Nxm._add_penalty_

    def watched(self: Nxm, scale: float) -> None:
        task = torch.cat([target.weight.grad.flatten() for target in targets if target.weight.grad is not None]).clone()
        add(self, scale)
        whole = torch.cat([target.weight.grad.flatten() for target in targets if target.weight.grad is not None])
        penalty, rest = float((whole - task).norm()), float(task.norm())
        shares.append(penalty / (penalty + rest))

    method._add_penalty_ = watched.__get__(method)  # type: ignore[method-assign]
    trainer_of(tmp_path, model, method).train()
    assert [iteration.step for iteration in method.iterations] == list(steps)
    means = [sum(shares[low:high]) / (high - low) for low, high in itertools.pairwise((0, *steps))]
    assert len(set(shares)) == 6
    assert [entry.mean_penalty_share for entry in method.iterations] == pytest.approx(means, rel=1e-4)


def steps_of(method: Nxm, gradients: Sequence[float]) -> None:
    """Take optimizer steps under task gradients that are constant."""
    for gradient in gradients:
        for target in method.targets:
            target.weight.grad = torch.full_like(target.weight, gradient)
        method.before_clip_()
        method.after_clip_()
        method.after_step_()


def weight_of_ones() -> Nxm:
    """W = 1, Z = (1, 1, 0, 0), U = 0, rho = 1: in every step the penalty's gradient is (0, 0, 1, 1)."""
    switches = AdmmSwitches(first_iteration="zero_dual", interval=3, interval_unit="step")
    return Nxm([Target("w", nn.Parameter(torch.ones(1, 4)), Pattern(2, 4))], 1.0, switches)


def test_a_step_whose_gradient_overflows_has_no_share_in_the_mean() -> None:
    method = weight_of_ones()
    method.start_(Budget(6, 6))
    steps_of(method, [float("inf"), float("nan"), 0.5])
    assert method.iterations[0].mean_penalty_share == pytest.approx(2**0.5 / (2**0.5 + 1.0))


@pytest.mark.parametrize(("saved_at", "expected"), [(3, 2**0.5 / (2**0.5 + 1.0)), (4, None)])
def test_a_mean_whose_steps_an_earlier_version_did_not_count_is_missing(saved_at: int, expected: float | None) -> None:
    method = weight_of_ones()
    method.start_(Budget(9, 9))
    steps_of(method, [2.0] * saved_at)
    state = {name: value for name, value in method.state_dict().items() if "penalty_share" not in name}
    resumed = weight_of_ones()
    resumed.load_state_dict(state, Budget(9, 9), step=saved_at)
    resumed.admm.u["w"].zero_()
    steps_of(resumed, [0.5] * (6 - saved_at))
    assert [iteration.step for iteration in resumed.iterations] == [6]
    assert resumed.iterations[0].mean_penalty_share == (None if expected is None else pytest.approx(expected))


def test_a_decoupled_penalty_has_no_share_of_the_gradient() -> None:
    method = Nxm(weight_of_ones().targets, 1.0, AdmmSwitches(penalty="decoupled", interval_unit="step"))
    method.start_(Budget(2, 2))
    steps_of(method, [1.0, 1.0])
    assert [iteration.mean_penalty_share for iteration in method.iterations] == [None, None]


class Readings(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts how often the host reads a number from a tensor, which on a GPU waits for all that is queued."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("clip", ["total", "task"])
def test_a_step_reads_no_number_back(clip: str) -> None:
    method = Nxm(targets_of(bert()), 4e-3, AdmmSwitches(clip=clip))
    method.start_(Budget(8, 4))
    with Readings() as readings:  # type: ignore[no-untyped-call]
        steps_of(method, [0.5, 0.5])
    assert readings.count == 0
    with Readings() as readings:  # type: ignore[no-untyped-call]
        method.after_epoch_()  # an iteration does
    assert readings.count > 0


# ---- importance metrics


def test_input_norms_rank_as_wanda_does(tmp_path: Path) -> None:
    model = bert()
    targets = targets_of(model)
    trainer = trainer_of(tmp_path, model, Asp(targets), metric="input_norm")
    rows = collate([trainer.train_dataset[index] for index in range(8)])  # type: ignore[index]
    seen: dict[int, Tensor] = {}
    modules = {id(module.weight): module for module in model.modules() if isinstance(module, nn.Linear)}
    for key, module in modules.items():
        module.register_forward_hook(lambda _module, inputs, _output, key=key: seen.__setitem__(key, inputs[0]))
    model.train(mode=False)
    with torch.no_grad():
        model(**rows)
    expected = []
    for target in targets:
        inputs = seen[id(target.weight)].reshape(-1, target.weight.shape[1])
        expected.append(largest(target.weight.abs() * inputs.norm(dim=0), 2))
    by_magnitude = [largest(target.weight.abs(), 2) for target in targets]
    assert not all(torch.equal(kept, other) for kept, other in zip(expected, by_magnitude, strict=True))
    model.train()
    state = torch.get_rng_state()
    trainer.sparse_method.start_(Budget(6, 3))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    for kept, target in zip(expected, targets, strict=True):
        assert torch.equal(target.weight != 0, kept), target.name


def test_second_moments_are_the_calibration_rows_at_first_and_adams_afterwards(tmp_path: Path) -> None:
    model = bert()
    targets = targets_of(model)
    trainer = trainer_of(tmp_path, model, Nxm(targets, 4e-3), metric="second_moment")
    rows = collate([trainer.train_dataset[index] for index in range(8)])  # type: ignore[index]
    method = trainer.sparse_method
    assert method.importance is not None
    method.importance.refresh_()
    assert all(weight.grad is None for weight in model.parameters())
    model.train(mode=False)
    model(**rows).loss.backward()
    for target in targets:
        assert target.weight.grad is not None
        assert torch.equal(target.support(), largest((target.weight * target.weight.grad).abs(), 2))
    model.zero_grad()
    trainer.train()
    assert trainer.optimizer is not None
    for target in targets:
        moment = trainer.optimizer.state[target.weight]["exp_avg_sq"]
        assert torch.equal(target.support(), largest(target.weight.abs() * moment.sqrt(), 2))


def test_magnitude_still_ranks_where_a_factor_vanishes() -> None:
    target = Target("w", nn.Parameter(torch.tensor([[1.0, 2.0, 3.0, 4.0]])), Pattern(2, 4))
    target.factors.values = torch.tensor([[3.0, 1e-6, 1e-6, 1e-6]])
    assert target.support().tolist() == [[True, False, False, True]]


@pytest.mark.parametrize("metric", ["input_norm", "second_moment"])
@pytest.mark.parametrize(
    "make",
    [
        Asp,
        SrSte,
        Gradual,
        lambda targets: Nxm(targets, 4e-3),
        lambda targets: NxmRefit(targets, 4e-3, AdmmSwitches(admm_fraction=0.6)),
    ],
    ids=["asp", "sr_ste", "gradual", "nxm", "nxm_refit"],
)
def test_a_resumed_run_ranks_by_the_saved_factors(
    tmp_path: Path, make: Callable[[Sequence[Target]], SparseMethod], metric: str
) -> None:
    model = bert()
    whole = trainer_of(tmp_path / "whole", model, make(targets_of(model)), metric=metric, save_strategy="epoch")
    whole.train()
    resumed = bert()
    with torch.no_grad():
        resumed.classifier.weight.zero_()  # the checkpoint's must replace it
    trainer = trainer_of(tmp_path / "resumed", resumed, make(targets_of(resumed)), metric=metric)
    trainer.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert bits(resumed) == bits(model)
    with whole.sparse_method.pruned(), trainer.sparse_method.pruned():
        assert bits(resumed) == bits(model)


def test_a_target_without_factors_ranks_by_magnitude() -> None:
    target = Target("w", nn.Parameter(torch.tensor([[1.0, 4.0, 3.0, 2.0]])), Pattern(2, 4))
    assert replace(target).support().tolist() == [[False, True, True, False]]
