"""The methods under the trainer, step by step, and settings turned into methods."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from nxm_sweep.config.compose import compose_settings
from nxm_sweep.errors import SparsityError
from nxm_sweep.methods import RECOMMENDED, AdmmSwitches, AdmmUnstructured, Asp, Budget, Dense, Nxm, SparseMethod
from nxm_sweep.sparsity import Admm, Pattern, Schedule, Target, Unstructured, encoder_rules, select_targets
from nxm_sweep.training.trainer import SparseTrainer
from nxm_sweep.trial.build import build_method
from tests.training.tiny import bert

STEPS_PER_EPOCH = 3


def targets_of(model: nn.Module) -> list[Target]:
    return select_targets(model, encoder_rules(Pattern(2, 4)))


def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    return {name: torch.tensor([row[name] for row in rows]) for name in ("input_ids", "labels")}


class EachStep(TrainerCallback):
    """Looks at the run after every optimizer step."""

    def __init__(self, look: Callable[[int], None]) -> None:
        self._look = look

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._look(state.global_step)


def train(
    model: nn.Module,
    method: SparseMethod,
    folder: Path,
    look: Callable[[int], None] = lambda _: None,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    epochs: int = 2,
) -> SparseTrainer:
    draw = random.Random(0)
    rows = [
        {"input_ids": [draw.randrange(1, 40) for _ in range(6)], "labels": draw.randrange(2)}
        for _ in range(8 * STEPS_PER_EPOCH)
    ]
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=8,
        learning_rate=5e-3,
        weight_decay=0.5,
        optim="adamw_torch_fused",
        save_strategy="no",
        logging_strategy="no",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = SparseTrainer(
        model=model,
        args=arguments,
        sparse_method=method,
        train_dataset=rows,
        data_collator=collate,
        callbacks=[EachStep(look)],
        optimizers=(optimizer, None),
    )
    trainer.train()
    return trainer


def bits(model: nn.Module) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


def two_largest_of_four(weight: Tensor) -> Tensor:
    """True where ``weight`` is among the two largest magnitudes of its four."""
    groups = weight.detach().abs().reshape(-1, 4)
    kept = torch.zeros_like(groups, dtype=torch.bool)
    return kept.scatter_(1, groups.topk(2, dim=1).indices, value=True).reshape(weight.shape)


@pytest.mark.parametrize("warm", [False, True], ids=["fresh optimizer", "optimizer with momentum"])
def test_asp_holds_the_first_magnitude_mask_after_every_step_of_adamw_with_weight_decay(
    tmp_path: Path, *, warm: bool
) -> None:
    model = bert()
    targets = targets_of(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.5)
    if warm:  # dense training before: Adam still wants to move the weights that are now cut
        for weight in model.parameters():
            weight.grad = torch.ones_like(weight)
        optimizer.step()
        optimizer.zero_grad()
    masks = {target.name: two_largest_of_four(target.weight) for target in targets}
    steps: list[int] = []

    def look(step: int) -> None:
        steps.append(step)
        for target in targets:
            assert torch.equal(target.weight != 0, masks[target.name]), (step, target.name)

    start = {target.name: target.weight.detach().clone() for target in targets}
    train(model, Asp(targets), tmp_path, look, optimizer=optimizer)
    assert steps == list(range(1, 7))
    assert all(not torch.equal(target.weight, start[target.name] * masks[target.name]) for target in targets)


def test_the_gradient_of_a_masked_weight_does_not_count_in_the_clip(tmp_path: Path) -> None:
    model = bert()
    targets = targets_of(model)
    norms: list[Tensor] = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    def check(*_: Any) -> None:
        for target in targets:
            assert target.weight.grad is not None
            assert not target.weight.grad[~two_largest_of_four(target.weight)].any()
        gradients = [weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]
        norms.append(torch.cat(gradients).norm())

    optimizer.register_step_pre_hook(check)
    with torch.no_grad():
        model.classifier.weight.mul_(20.0)  # gradients above the clip of 1
    train(model, Asp(targets), tmp_path, optimizer=optimizer)
    torch.testing.assert_close(torch.stack(norms), torch.ones(6), rtol=1e-4, atol=0)


@pytest.mark.parametrize(("fraction", "frozen_after"), [(0.5, 3), (0.4, 3), (0.34, 3), (0.1, 1), (0.7, 5)])
def test_a_refit_freezes_the_magnitude_support_at_its_share_of_the_steps(
    tmp_path: Path, fraction: float, frozen_after: int
) -> None:
    model = bert()
    targets = targets_of(model)
    method = Nxm(targets, 4e-3, AdmmSwitches(finish="refit", admm_fraction=fraction))
    supports: dict[int, dict[str, Tensor]] = {}
    trained: dict[str, Tensor] = {}
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.5)

    def after_the_optimizer(*_: Any) -> None:
        if len(supports) == frozen_after - 1:  # W just before it is frozen
            trained.update({target.name: target.weight.detach().clone() for target in targets})

    def look(step: int) -> None:
        supports[step] = {target.name: target.weight.detach() != 0 for target in targets}
        assert method.prunes == (step < frozen_after)

    optimizer.register_step_post_hook(after_the_optimizer)
    train(model, method, tmp_path, look, optimizer=optimizer)
    for step, support in supports.items():
        for name, nonzero in support.items():
            if step < frozen_after:
                assert bool(nonzero.all()), (step, name)
            else:
                assert torch.equal(nonzero, two_largest_of_four(trained[name])), (step, name)
    assert method.gap == 0.0


@pytest.mark.parametrize(
    "make", [Asp, lambda targets: Nxm(targets, 1.0, AdmmSwitches(finish="refit", admm_fraction=0))]
)
def test_a_resumed_mask_is_the_saved_one_though_a_kept_weight_is_zero(
    make: Callable[[Sequence[Target]], SparseMethod],
) -> None:
    weight = nn.Parameter(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    target = Target("w", weight, Pattern(2, 4))
    method, resumed = make([target]), make([target])
    method.start_(Budget(4, 2))
    with torch.no_grad():
        weight[0, 3] = 0.0  # trained to zero: its magnitude no longer tells that it is kept
    resumed.load_state_dict(method.state_dict(), Budget(4, 2), step=2)
    with torch.no_grad():
        weight.fill_(5.0)
    resumed.after_step_()
    assert weight.tolist() == [[0.0, 0.0, 5.0, 5.0]]


def test_a_refit_from_the_start_is_asp_bit_for_bit(tmp_path: Path) -> None:
    trained = []
    for make in (Asp, lambda targets: Nxm(targets, 4e-3, AdmmSwitches(finish="refit", admm_fraction=0.0))):
        model = bert()
        train(model, make(targets_of(model)), tmp_path)
        trained.append(bits(model))
    assert trained[0] == trained[1]


def test_a_refit_that_never_freezes_is_plain_admm_bit_for_bit(tmp_path: Path) -> None:
    trained = []
    for switches in (AdmmSwitches(), AdmmSwitches(finish="refit", admm_fraction=1.0)):
        model = bert()
        method = Nxm(targets_of(model), 4e-3, switches)
        train(model, method, tmp_path)
        trained.append((bits(model), method.iterations))
        assert method.prunes
    assert trained[0] == trained[1]


def test_the_decoupled_penalty_moves_the_weights_after_the_optimizer_by_its_share_of_the_efolds(tmp_path: Path) -> None:
    model = bert()
    targets = targets_of(model)
    start = {target.name: target.weight.detach().clone() for target in targets}
    z = {name: weight * two_largest_of_four(weight) for name, weight in start.items()}
    u = {name: start[name] - z[name] for name in start}
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    stepped: dict[str, Tensor] = {}
    optimizer.register_step_post_hook(
        lambda *_: stepped.update({target.name: target.weight.detach().clone() for target in targets})
    )
    switches = AdmmSwitches(penalty="decoupled", efolds=3.0, interval=2)
    seen: list[int] = []

    def look(step: int) -> None:
        strength = 1 - math.exp(-3.0 * (7 - step) / 21)  # the learning rate falls linearly: 6/6, 5/6, ... 1/6
        for name, target in zip(start, targets, strict=True):
            expected = stepped[name] - strength * (stepped[name] - z[name] + u[name])
            torch.testing.assert_close(target.weight.detach(), expected, rtol=1e-5, atol=1e-7)
        seen.append(step)

    train(model, Nxm(targets, 0.7, switches), tmp_path, look, optimizer=optimizer)  # rho is not used
    assert seen == list(range(1, 7))


def test_the_decoupled_penalty_leaves_the_gradient_alone(tmp_path: Path) -> None:
    model = bert()
    targets = targets_of(model)
    method = Nxm(targets, 0.7, AdmmSwitches(penalty="decoupled"))
    method.start_(Budget(6, 3))
    for target in targets:
        target.weight.grad = torch.ones_like(target.weight)
    method.before_clip_()
    method.after_clip_()
    assert all(target.weight.grad is not None and bool((target.weight.grad == 1).all()) for target in targets)


@pytest.mark.parametrize(
    ("interval", "unit", "epochs", "expected"),
    [
        (1, "epoch", 3, [3, 6, 9]),
        (2, "epoch", 5, [6, 12]),
        (3, "epoch", 2, []),
        (1, "step", 1, [1, 2, 3]),
        (4, "step", 3, [4, 8]),
        (3, "step", 2, [3, 6]),
    ],
)
def test_z_and_dual_steps_run_at_their_interval(
    tmp_path: Path, interval: int, unit: str, epochs: int, expected: list[int]
) -> None:
    model = bert()
    method = Nxm(targets_of(model), 4e-3, AdmmSwitches(interval=interval, interval_unit=unit))
    changed: list[int] = []
    duals = [Admm(method.targets, 4e-3).u[method.targets[0].name]]

    def look(step: int) -> None:
        dual = method.admm.u[method.targets[0].name].clone()
        if not torch.equal(dual, duals[-1]):  # an epoch's own comes after its last step: seen one step later
            changed.append(step if unit == "step" else step - 1)
        duals.append(dual)

    train(model, method, tmp_path, look, epochs=epochs)
    assert [entry.step for entry in method.iterations] == expected
    assert changed == [step for step in expected if unit == "step" or step < 3 * epochs]


def test_a_schedule_of_rho_follows_the_steps_and_leaves_the_unscaled_dual(tmp_path: Path) -> None:
    model = bert()
    method = Nxm(targets_of(model), Schedule(0.04, "exponential", 0.001), AdmmSwitches(interval=9))
    start = {name: 0.001 * dual for name, dual in Admm(method.targets, 0.001).u.items()}
    seen: list[float] = []

    def look(step: int) -> None:
        seen.append(method.admm.rho)
        for name, dual in method.admm.u.items():
            torch.testing.assert_close(method.admm.rho * dual, start[name], rtol=1e-5, atol=1e-9)

    train(model, method, tmp_path, look)
    assert seen == pytest.approx([0.001 * 40 ** (step / 6) for step in range(1, 7)])


def test_the_gap_is_what_the_last_iteration_found_a_prune_would_cut(tmp_path: Path) -> None:
    model = bert()
    method = Nxm(targets_of(model), 4e-3)
    assert method.gap is None
    train(model, method, tmp_path)
    weights = [target.weight.detach().double() for target in method.targets]
    cut = sum(float(weight[~two_largest_of_four(weight)].square().sum()) for weight in weights)
    assert method.gap == pytest.approx((cut / sum(float(weight.square().sum()) for weight in weights)) ** 0.5, rel=1e-5)
    assert Asp(method.targets).gap == 0.0
    assert Dense().gap is None


def test_admm_unstructured_keeps_the_patterns_density_of_each_whole_matrix() -> None:
    targets = [*targets_of(bert()), Target("free", nn.Parameter(torch.randn(4, 4)), Unstructured(0.25))]
    method = AdmmUnstructured(targets, 4e-3)
    with method.pruned():
        for target in method.targets[:-1]:
            assert int((target.weight != 0).sum()) == target.weight.numel() // 2
        groups = method.targets[0].weight.reshape(-1, 4)
        assert len(set((groups != 0).sum(dim=1).tolist())) > 1  # no pattern of four
        assert int((method.targets[-1].weight != 0).sum()) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip": "penalty"}, "clip must be one of total, task but got 'penalty'"),
        ({"interval_unit": "row"}, "interval_unit must be one of epoch, step, per_epoch but got 'row'"),
        ({"penalty": "loss"}, "penalty must be one of gradient, decoupled but got 'loss'"),
        ({"finish": "early"}, "finish must be one of prune, refit but got 'early'"),
        ({"interval": 0}, "interval must be at least 1 but got 0"),
        ({"admm_fraction": 1.5}, r"admm_fraction must lie in \[0, 1\] but got 1.5"),
        ({"dense_fraction": -0.5}, r"dense_fraction must lie in \[0, 1\] but got -0.5"),
        (
            {"finish": "refit", "dense_fraction": 0.6},
            r"dense_fraction must be at most admm_fraction \(0.5\) but got 0.6",
        ),
    ],
)
def test_a_switch_out_of_its_range_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SparsityError, match=message):
        replace(AdmmSwitches(), **change)


def test_a_method_that_has_not_started_says_so() -> None:
    with pytest.raises(SparsityError, match="no ADMM state before"):
        Nxm([], 1.0).state_dict()
    with pytest.raises(SparsityError, match="no masks before"):
        Asp([]).state_dict()


# --- settings to methods ---------------------------------------------------------------------------------------------


def test_settings_become_the_method_they_name() -> None:
    built = {
        name: build_method(compose_settings([f"method={name}", "rho.value=3e-3"]), bert())
        for name in ("dense", "asp", "nxm", "admm_unstructured")
    }
    kinds = {"dense": Dense, "asp": Asp, "nxm": Nxm, "admm_unstructured": AdmmUnstructured}
    assert {name: type(method) for name, method in built.items()} == kinds
    assert {name: len(method.targets) for name, method in built.items()} == {
        "dense": 0,
        "asp": 12,
        "nxm": 12,
        "admm_unstructured": 12,
    }
    assert {str(target.constraint) for target in built["nxm"].targets} == {"2 of 4"}
    assert {str(target.constraint) for target in built["admm_unstructured"].targets} == {"0.5 unstructured"}


def switches_of(method: str, *overrides: str, **admm: Any) -> tuple[AdmmSwitches, Schedule]:
    """The switches and the rho with which a method is built that is given these settings, and rho.value=3e-3."""
    given = [f"method={method}", "rho.value=3e-3", *(f"method.admm.{name}={value}" for name, value in admm.items())]
    built = build_method(compose_settings([*given, *overrides]), bert())
    assert isinstance(built, Nxm)
    return built.switches, built.rho


def test_every_switch_of_the_settings_reaches_the_method() -> None:
    admm: dict[str, Any] = {"first_iteration": "zero_dual", "clip": "task", "interval": 7, "interval_unit": "step"}
    admm |= {"finish": "refit", "admm_fraction": 0.25, "frozen_support": "z"}
    ramp = ["rho.start=1e-3", "rho.schedule=cosine"]
    assert switches_of("nxm_paper", *ramp, **admm) == (AdmmSwitches(**admm), Schedule(3e-3, "cosine", 1e-3))
    admm["clip"] = "task"  # whatever is given
    assert switches_of("nxm_paper", "rho.unit=relative", **{**admm, "clip": "total"})[0] == AdmmSwitches(
        **admm, rho_unit="relative"
    )
    decoupled, rho = switches_of("nxm_paper", efolds=3, pace="linear", penalty="decoupled")
    assert decoupled == AdmmSwitches(penalty="decoupled", efolds=3.0, pace="linear")
    assert rho == Schedule(0.0)  # not used


def test_a_switch_that_is_out_of_use_stays_at_its_default() -> None:
    idle = {"efolds": 9, "pace": "constant", "admm_fraction": 0.1, "frozen_support": "z"}
    assert switches_of("nxm_paper", **idle)[0] == AdmmSwitches()
    decoupled = switches_of("nxm_paper", "rho.unit=relative", clip="task", penalty="decoupled")[0]
    assert decoupled == AdmmSwitches(penalty="decoupled")
    refit = switches_of("nxm_refit", finish="prune", admm_fraction=0.4)[0]
    assert (refit.finish, refit.admm_fraction) == ("refit", 0.4)


def test_configured_methods_have_the_switches_that_the_library_names() -> None:
    assert switches_of("nxm_paper") == (AdmmSwitches(), Schedule(3e-3))
    assert switches_of("nxm") == (replace(RECOMMENDED, admm_fraction=AdmmSwitches().admm_fraction), Schedule(0.0))
    assert switches_of("nxm_refit") == (replace(RECOMMENDED, finish="refit"), Schedule(0.0))


@pytest.mark.parametrize("schedule", ["linear", "cosine", "exponential"])
def test_the_decoupled_penalty_does_not_depend_on_rho(tmp_path: Path, schedule: str) -> None:
    trained = []
    for rho in (Schedule(0.5), Schedule(0.9, schedule, 0.1)):
        model = bert()
        method = Nxm(targets_of(model), rho, AdmmSwitches(penalty="decoupled"))
        train(model, method, tmp_path)
        trained.append((bits(model), method.iterations))
    assert trained[0] == trained[1]


def test_a_decoupled_checkpoint_in_which_rho_has_acted_is_refused() -> None:
    target = Target("w", nn.Parameter(torch.randn(4, 8)), Pattern(2, 4))
    method = Nxm([target], 0.5, AdmmSwitches(penalty="decoupled"))
    method.start_(Budget(6, 3))
    state = method.state_dict()
    method.load_state_dict(state, Budget(6, 3), step=3)
    with pytest.raises(SparsityError, match="the checkpoint is of an earlier version"):
        method.load_state_dict({**state, "admm.rho": torch.tensor(0.5)}, Budget(6, 3), step=3)


@pytest.mark.parametrize("name", ["nxm", "asp", "admm_unstructured"])
def test_trained_targets_changes_the_targets_the_pooler_and_the_head_alone(tmp_path: Path, name: str) -> None:
    model = bert()
    before = copy.deepcopy(model.state_dict())
    method = build_method(compose_settings([f"method={name}", "method.trained=targets"]), model)
    train(model, method, tmp_path)
    assert isinstance(model, PreTrainedModel)
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    matrices = ("query", "key", "value", "dense")
    expected = {
        f"bert.encoder.layer.{layer}.{part}.weight"
        for layer in range(2)
        for part in (
            *(f"attention.self.{matrix}" for matrix in matrices[:3]),
            "attention.output.dense",
            "intermediate.dense",
            "output.dense",
        )
    }
    head = {"classifier.weight", "classifier.bias", "bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    assert changed == expected | head
