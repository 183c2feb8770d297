"""SparseTrainer on tiny random BERTs: gradients, evaluation, interruption; everything compared with a second computation."""

from __future__ import annotations

import copy
import functools
import os
import pickle
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    EvalPrediction,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from nxm_sweep.errors import NonFiniteError
from nxm_sweep.methods import (
    AdmmSwitches,
    AdmmUnstructured,
    Asp,
    Dense,
    Gradual,
    Nxm,
    NxmRefit,
    SparseMethod,
    SrSte,
    WarmupAsp,
)
from nxm_sweep.sparsity import Pattern, Schedule, Target, encoder_rules, select_targets
from nxm_sweep.training.trainer import SparseTrainer
from tests.training.tiny import VOCABULARY, bert

TWO_OF_FOUR = Pattern(2, 4)
Rows = list[dict[str, list[int] | int]]


def targets_of(model: nn.Module, pattern: Pattern = TWO_OF_FOUR) -> list[Target]:
    return select_targets(model, encoder_rules(pattern))


def rows_of(count: int, seed: int = 0) -> Rows:
    draw = random.Random(seed)
    lengths = [draw.randint(3, 10) for _ in range(count)]
    return [
        {"input_ids": [draw.randrange(1, VOCABULARY) for _ in range(length)], "labels": draw.randrange(2)}
        for length in lengths
    ]


def pad(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    longest = max(len(row["input_ids"]) for row in rows)
    ids = torch.tensor([row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in rows])
    return {
        "input_ids": ids,
        "attention_mask": (ids != 0).long(),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float((np.asarray(prediction.predictions).argmax(1) == prediction.label_ids).mean())}


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": 2,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "learning_rate": 1e-3,
        "weight_decay": 0.1,
        "optim": "adamw_torch_fused",
        "save_strategy": "no",
        "logging_strategy": "epoch",
        "logging_nan_inf_filter": False,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return TrainingArguments(**{**settings, **changes})


def trainer_of(
    folder: Path,
    model: nn.Module,
    method: SparseMethod | None = None,
    *,
    rows: Rows | None = None,
    evaluated: Any = None,
    callbacks: Sequence[TrainerCallback] = (),
    optimizer: torch.optim.Optimizer | None = None,
    metrics: Callable[[EvalPrediction], dict[str, float]] = accuracy,
    kind: type[SparseTrainer] = SparseTrainer,
    **changes: Any,
) -> SparseTrainer:
    return kind(
        model=model,
        args=arguments(folder, **changes),
        sparse_method=method,
        train_dataset=rows_of(24) if rows is None else rows,
        eval_dataset=rows_of(20, seed=1) if evaluated is None else evaluated,
        data_collator=pad,
        compute_metrics=metrics,
        callbacks=list(callbacks),
        optimizers=(optimizer, None),
    )


def bits(tensors: Mapping[str, Tensor]) -> dict[str, bytes]:
    """Bytes, which unlike ``==`` tell -0 from +0 and find NaN equal to itself."""
    return {name: value.detach().contiguous().numpy().tobytes() for name, value in tensors.items()}


def weights_of(trainer: Trainer) -> dict[str, bytes]:
    assert isinstance(trainer.model, nn.Module)
    return bits(trainer.model.state_dict())


class OnEvent(TrainerCallback):
    """Calls a function at one event."""

    def __init__(self, event: str, action: Callable[[TrainerState], None]) -> None:
        def run(args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
            action(state)

        setattr(self, event, run)


# --- the gradient ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw_torch", "sgd"])
@pytest.mark.parametrize("clip", ["total", "task"])
def test_four_micro_batches_of_two_move_the_weights_like_one_batch_of_eight(
    tmp_path: Path, optimizer: str, clip: str
) -> None:
    rows = rows_of(20)  # 8 + 8 + 4: the last group of an epoch holds two micro-batches instead of four
    finished = []
    for size, accumulation in ((8, 1), (2, 4)):
        model = bert(dropout=0.0).double()
        method = Nxm(targets_of(model), 0.05, AdmmSwitches(clip=clip, interval=2, interval_unit="step"))
        trainer = trainer_of(
            tmp_path,
            model,
            method,
            rows=rows,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            train_sampling_strategy="sequential",
            max_grad_norm=0.05,  # below every task gradient here
            optim=optimizer,
            learning_rate=1e-3 if optimizer == "adamw_torch" else 0.5,
        )
        trainer.train()
        assert trainer.state.global_step == 6
        finished.append((model.state_dict(), method.state_dict()))
    for one, four in zip(*finished, strict=True):
        torch.testing.assert_close(
            four, one, rtol=1e-7, atol=1e-9
        )  # fp64; Adam magnifies rounding where gradients vanish


def test_the_reported_loss_is_per_row_whatever_the_accumulation(tmp_path: Path) -> None:
    rows, losses = rows_of(8), []
    for size, accumulation in ((8, 1), (2, 4)):
        model = bert(dropout=0.0).double()
        with torch.no_grad():
            expected = float(model(**pad(rows)).loss)
        trainer = trainer_of(
            tmp_path,
            model,
            rows=rows,
            num_train_epochs=1,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
        )
        losses.append(trainer.train().training_loss)
        assert losses[-1] == pytest.approx(expected, rel=1e-6)
        assert trainer.last_loss is not None
        assert 0.1 < trainer.last_loss / expected < 2.0  # of two rows, not of four times as many


@pytest.mark.parametrize("scaled", [False, True], ids=["fp32", "gradient scaler"])
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("max_norm", [0.1, 0.0])
@pytest.mark.parametrize("clip", ["total", "task"])
def test_the_optimizer_sees_the_clipped_task_gradient_and_the_penalty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: str, max_norm: float, accumulation: int, *, scaled: bool
) -> None:
    rho, rows = 0.2, rows_of(24)
    model = bert(dropout=0.0).double()
    targets = targets_of(model)
    names = {name for name, _ in model.named_parameters()}
    start = {target.name: target.weight.detach().clone() for target in targets}
    z = {name: _two_largest_of_four(weight) for name, weight in start.items()}
    u = {name: start[name] - z[name] for name in start}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen: list[float] = []

    def check(*_: Any) -> None:
        twin = copy.deepcopy(model)
        twin.zero_grad()
        twin(**pad(rows[8 * len(seen) : 8 * len(seen) + 8])).loss.backward()
        task = {name: weight.grad for name, weight in twin.named_parameters() if weight.grad is not None}
        assert set(task) == names
        penalty = {name: rho * (dict(model.named_parameters())[name].detach() - z[name] + u[name]) for name in z}
        if clip == "total":
            expected = _clipped({name: grad + penalty.get(name, 0.0) for name, grad in task.items()}, max_norm)
        else:
            expected = {name: grad + penalty.get(name, 0.0) for name, grad in _clipped(task, max_norm).items()}
        actual = {name: weight.grad for name, weight in model.named_parameters()}
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)
        seen.append(float(_norm(task)))

    optimizer.register_step_pre_hook(check)
    trainer = trainer_of(
        tmp_path,
        model,
        Nxm(targets, rho, AdmmSwitches(clip=clip)),
        rows=rows,
        optimizer=optimizer,
        num_train_epochs=1,  # Z and U stay as they were at the start
        per_device_train_batch_size=8 // accumulation,
        gradient_accumulation_steps=accumulation,
        train_sampling_strategy="sequential",
        max_grad_norm=max_norm,
    )
    if scaled:  # as under fp16 on a GPU, where Accelerate undoes the scale before it clips
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        monkeypatch.setattr(trainer.accelerator, "scaler", scaler)
        monkeypatch.setattr(trainer.accelerator, "unscale_gradients", lambda: scaler.unscale_(optimizer))
    trainer.train()
    assert len(seen) == 3
    assert min(seen) > max_norm  # the clip was at work on the task's gradient alone too


class WithoutNorm(SparseTrainer):
    """A Trainer that does not measure the gradient's norm where it does not clip: nothing then unscales the gradient."""

    def _get_grad_norm(self, model: nn.Module, grad_norm: float | None = None) -> float | None:
        return grad_norm


SCALED: dict[str, Callable[[Sequence[Target]], SparseMethod]] = {
    "clip=total": lambda targets: Nxm(targets, 0.2, AdmmSwitches(interval_unit="step")),
    "clip=task": lambda targets: Nxm(targets, 0.2, AdmmSwitches(clip="task", interval_unit="step")),
    "decoupled": lambda targets: Nxm(targets, 0.2, AdmmSwitches(penalty="decoupled")),
    "relative": lambda targets: Nxm(targets, 0.5, AdmmSwitches(rho_unit="relative", interval_unit="step")),
    "nxm_refit": lambda targets: NxmRefit(targets, 0.2, AdmmSwitches(clip="task")),
    "asp": Asp,
    "sr_ste": lambda targets: SrSte(targets, 0.3),
    "gradual": Gradual,
}


@pytest.mark.parametrize("kind", [SparseTrainer, WithoutNorm])
@pytest.mark.parametrize("max_norm", [0.1, 0.0])
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("name", SCALED)
def test_a_gradient_scaler_changes_no_bit_of_a_methods_training(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    accumulation: int,
    *,
    max_norm: float,
    kind: type[SparseTrainer],
) -> None:
    """A scale of 2^10 is exact in fp64, so unscale, penalty and clip in the right order leave the same bits."""
    finished = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=1024.0)):
        model = bert(dropout=0.0).double()
        method = SCALED[name](targets_of(model))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        trainer = trainer_of(
            tmp_path,
            model,
            method,
            kind=kind,
            optimizer=optimizer,
            num_train_epochs=1,
            per_device_train_batch_size=8 // accumulation,
            gradient_accumulation_steps=accumulation,
            max_grad_norm=max_norm,
        )
        if scaler is not None:  # as under fp16 on a GPU
            monkeypatch.setattr(trainer.accelerator, "scaler", scaler)
            monkeypatch.setattr(trainer.accelerator, "unscale_gradients", functools.partial(scaler.unscale_, optimizer))
        trainer.train()
        finished.append((weights_of(trainer), method.iterations))
    assert finished[0] == finished[1]


def _two_largest_of_four(weight: Tensor) -> Tensor:
    groups = weight.reshape(-1, 4)
    kept = torch.zeros_like(groups).scatter_(1, groups.abs().topk(2, dim=1).indices, 1.0)
    return (groups * kept).reshape(weight.shape)


def _norm(gradients: Mapping[str, Tensor]) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(torch.cat([grad.flatten() for grad in gradients.values()]))
    return norm


def _clipped(gradients: Mapping[str, Tensor], max_norm: float) -> dict[str, Tensor]:
    factor = min(1.0, max_norm / (float(_norm(gradients)) + 1e-6)) if max_norm else 1.0
    return {name: grad * factor for name, grad in gradients.items()}


# --- what a method must not change -----------------------------------------------------------------------------------

METHODS: dict[str, Callable[[Sequence[Target]], SparseMethod]] = {
    "nxm": lambda targets: Nxm(targets, 4e-3),
    "asp": Asp,
    "late": lambda targets: Nxm(targets, 0.0, AdmmSwitches(penalty="decoupled", dense_fraction=0.4)),
    "late_refit": lambda targets: NxmRefit(targets, 4e-3, AdmmSwitches(dense_fraction=0.4, admm_fraction=0.8)),
    "admm_unstructured": lambda targets: AdmmUnstructured(targets, 4e-3),
    "refit": lambda targets: Nxm(targets, 4e-3, AdmmSwitches(finish="refit")),
    "nxm_refit": lambda targets: NxmRefit(targets, 4e-3),
    "sr_ste": SrSte,
    "gradual": Gradual,
}


@pytest.fixture(scope="module")
def dense_weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Two epochs of the Trainer of Transformers, dropout on, without any evaluation."""
    trainer = Trainer(
        model=bert(),
        args=arguments(tmp_path_factory.mktemp("dense")),
        train_dataset=rows_of(24),
        data_collator=pad,
    )
    trainer.train()
    return weights_of(trainer)


def test_without_a_method_it_is_the_trainer_of_transformers_bit_for_bit(
    tmp_path: Path, dense_weights: dict[str, bytes]
) -> None:
    for method in (None, Dense()):
        trainer = trainer_of(tmp_path, bert(), method)
        trainer.train()
        assert weights_of(trainer) == dense_weights


@pytest.mark.parametrize("name", METHODS)
def test_a_pattern_that_keeps_everything_is_dense_training_bit_for_bit(
    tmp_path: Path, dense_weights: dict[str, bytes], name: str
) -> None:
    model = bert()
    trainer = trainer_of(tmp_path, model, METHODS[name](targets_of(model, Pattern(4, 4))), eval_strategy="epoch")
    trainer.train()
    assert weights_of(trainer) == dense_weights
    assert not [key for entry in trainer.state.log_history for key in entry if "unpruned" in key]


def test_a_mask_of_ones_is_dense_training_bit_for_bit(tmp_path: Path, dense_weights: dict[str, bytes]) -> None:
    model = bert()
    whole = [Target(target.name, target.parameter, Pattern(4, 4)) for target in targets_of(model)]
    trainer = trainer_of(tmp_path, model, Asp(whole), eval_strategy="epoch")
    trainer.train()
    assert weights_of(trainer) == dense_weights


def test_two_evaluations_an_epoch_leave_no_trace_in_the_weights(
    tmp_path: Path, dense_weights: dict[str, bytes]
) -> None:
    model = bert()
    trainer = trainer_of(tmp_path, model, Nxm(targets_of(model), 0.0), eval_strategy="epoch")
    trainer.train()
    scored = [key for entry in trainer.state.log_history for key in entry if key.endswith("loss") and "eval" in key]
    assert scored == ["eval_loss", "eval_unpruned_loss"] * 2
    assert weights_of(trainer) == dense_weights


# --- interruption ----------------------------------------------------------------------------------------------------


class StoppedError(Exception):
    """A stand-in for a power cut."""


@dataclass
class Outcome:
    """All that a resumed run must reproduce."""

    weights: dict[str, bytes]
    optimizer: dict[str, bytes]
    groups: Any
    scheduler: Any
    method: dict[str, bytes]
    iterations: Any
    carried: dict[str, Any]
    scores: list[dict[str, float]] = field(default_factory=list)


CASES: dict[str, Callable[[Sequence[Target]], SparseMethod]] = {
    "constant": lambda targets: Nxm(targets, 4e-3),
    "ramp": lambda targets: Nxm(targets, Schedule(4e-2, "exponential", 1e-3)),
    "every_step": lambda targets: Nxm(
        targets, 4e-3, AdmmSwitches(first_iteration="zero_dual", interval_unit="step", interval=1)
    ),
    "steps": lambda targets: Nxm(targets, 4e-3, AdmmSwitches(interval=2, interval_unit="step")),
    "two_epochs": lambda targets: Nxm(
        targets, 4e-3, AdmmSwitches(interval=2, clip="task", first_iteration="zero_dual")
    ),
    "decoupled": lambda targets: Nxm(targets, 0.0, AdmmSwitches(penalty="decoupled")),
    "no_dual": lambda targets: Nxm(targets, 0.0, AdmmSwitches(penalty="decoupled", first_iteration="no_dual")),
    "relative": lambda targets: Nxm(targets, Schedule(10.0, "exponential", 0.1), AdmmSwitches(rho_unit="relative")),
    "warmup_asp": WarmupAsp,
    "refit": lambda targets: Nxm(targets, 4e-3, AdmmSwitches(finish="refit", admm_fraction=0.4)),
    "late": lambda targets: Nxm(targets, 0.0, AdmmSwitches(penalty="decoupled", dense_fraction=0.4)),
    "late_refit": lambda targets: NxmRefit(targets, 4e-3, AdmmSwitches(dense_fraction=0.4, admm_fraction=0.8)),
    "admm_unstructured": lambda targets: AdmmUnstructured(targets, Schedule(4e-3, "cosine")),
    "asp": Asp,
    "dense": lambda _: Dense(),
    "sr_ste": lambda targets: SrSte(targets, 0.2),
    "gradual": lambda targets: Gradual(targets, 0.6),
}
EPOCHS = 3


def resumable(folder: Path, name: str, *callbacks: TrainerCallback, seed: int = 0) -> SparseTrainer:
    model = bert(seed=seed)
    trainer = trainer_of(
        folder,
        model,
        CASES[name](targets_of(model)),
        callbacks=callbacks,
        num_train_epochs=EPOCHS,
        save_strategy="epoch",
        eval_strategy="epoch",
        train_sampling_strategy="random",
        lr_scheduler_type="linear",
        warmup_steps=2,
    )
    trainer.carried = {"epochs": []}
    keep = OnEvent("on_epoch_end", lambda state: trainer.carried["epochs"].append([state.global_step, state.epoch]))
    trainer.add_callback(keep)
    return trainer


def outcome(trainer: SparseTrainer) -> Outcome:
    assert trainer.optimizer is not None
    assert trainer.lr_scheduler is not None
    state = trainer.optimizer.state_dict()
    timing = ("runtime", "per_second")
    return Outcome(
        weights=weights_of(trainer),
        optimizer={
            f"{index}.{name}": value.numpy().tobytes()
            for index, values in state["state"].items()
            for name, value in values.items()
        },
        groups=state["param_groups"],
        scheduler=trainer.lr_scheduler.state_dict(),
        method=bits(trainer.sparse_method.state_dict()),
        iterations=trainer.sparse_method.iterations,
        carried=trainer.carried,
        scores=[
            {key: value for key, value in entry.items() if not key.endswith(timing)}
            for entry in trainer.state.log_history
            if "train_loss" not in entry  # Transformers reports the loss of the last session alone
        ],
    )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Outcome, Path]]:
    """A whole run of a case, trained once, with the folder of its checkpoints."""
    runs: dict[str, tuple[Outcome, Path]] = {}

    def run(name: str) -> tuple[Outcome, Path]:
        if name not in runs:
            folder = tmp_path_factory.mktemp(name)
            trainer = resumable(folder, name)
            trainer.train()
            runs[name] = outcome(trainer), folder
        return runs[name]

    return run


def interrupt(folder: Path, name: str, epoch: int) -> Path:
    """Train until the checkpoint of an epoch is written, then fall over; return the checkpoint."""

    def stop(state: TrainerState) -> None:
        if round(state.epoch or 0) == epoch:
            raise StoppedError

    trainer = resumable(folder, name, OnEvent("on_save", stop))
    with pytest.raises(StoppedError):
        trainer.train()
    return folder / f"checkpoint-{3 * epoch}"


def forget() -> None:
    """Leave the random states as a new process might find them."""
    random.seed(77)
    np.random.seed(77)  # noqa: NPY002 - the generator that the Trainer seeds
    torch.manual_seed(77)


@pytest.mark.parametrize(
    ("name", "epoch"), [*((name, 1) for name in CASES), ("refit", 2), ("two_epochs", 2), ("gradual", 2)]
)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    tmp_path: Path, uninterrupted: Callable[[str], tuple[Outcome, Path]], name: str, epoch: int
) -> None:
    expected, _ = uninterrupted(name)
    checkpoint = interrupt(tmp_path, name, epoch)
    forget()
    trainer = resumable(tmp_path, name, seed=5)  # other weights: those of the checkpoint must replace them
    trainer.train(resume_from_checkpoint=str(checkpoint))
    assert outcome(trainer) == expected
    assert [step for step, _ in expected.carried["epochs"]] == [3, 6, 9]


@pytest.mark.fault(
    "process",
    "a training stopped within an epoch",
    "It continues after that step, and ends equal to an undisturbed one bit for bit.",
)
@pytest.mark.parametrize(
    ("name", "step", "batching"),
    [
        *((name, 4, "random") for name in CASES),
        *(("two_epochs", step, "group_by_length") for step in (1, 5, 8)),
    ],
)
def test_a_run_resumed_within_an_epoch_is_the_uninterrupted_one_bit_for_bit(
    tmp_path: Path, name: str, step: int, batching: str
) -> None:
    def make(folder: Path, *callbacks: TrainerCallback, seed: int = 0) -> SparseTrainer:
        trainer = resumable(folder, name, *callbacks, seed=seed)
        trainer.args.train_sampling_strategy = batching
        return trainer

    whole = make(tmp_path / "whole")
    whole.train()
    expected = outcome(whole)

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
            control.should_save = state.global_step == step

        def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
            if state.global_step == step:
                raise StoppedError

    with pytest.raises(StoppedError):
        make(tmp_path / "stopped", Stop()).train()
    forget()
    trainer = make(tmp_path / "stopped", seed=5)
    trainer.train(resume_from_checkpoint=str(tmp_path / "stopped" / f"checkpoint-{step}"))
    assert outcome(trainer) == expected


def test_the_cases_of_interruption_reach_what_they_are_meant_to_reach(
    uninterrupted: Callable[[str], tuple[Outcome, Path]],
) -> None:
    rho = {name: [entry.residuals.rho for entry in uninterrupted(name)[0].iterations] for name in CASES}
    assert len(set(rho["ramp"])) == EPOCHS
    steps = {name: [entry.step for entry in uninterrupted(name)[0].iterations] for name in CASES}
    assert steps["constant"] == [3, 6, 9]
    assert steps["steps"] == [2, 4, 6, 8]
    assert steps["two_epochs"] == [6]
    assert steps["refit"] == [3]  # frozen at step 4 of 9


@pytest.mark.fault(
    "security",
    "a pickle among the files of a checkpoint",
    "it is not read: a resumed training gives the same bits with `pickle` taken away",
)
def test_resuming_unpickles_nothing(
    tmp_path: Path, uninterrupted: Callable[[str], tuple[Outcome, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was unpickled")

    expected, _ = uninterrupted("every_step")
    checkpoint = interrupt(tmp_path, "every_step", 1)
    assert {path.suffix for path in checkpoint.iterdir()} == {".safetensors", ".json"}
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "pytorch_model.bin"):
        (checkpoint / name).write_bytes(pickle.dumps(os.getpid))
    for module, name in ((torch, "load"), (torch.serialization, "load"), (pickle, "load"), (pickle, "loads")):
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(pickle, "Unpickler", refuse)
    trainer = resumable(tmp_path, "every_step", seed=5)
    trainer.train(resume_from_checkpoint=str(checkpoint))
    assert outcome(trainer) == expected


@pytest.mark.fault(
    "security",
    "a umask that shares files with a group, or with nobody",
    "checkpoints and saved models get the modes of any new file, whatever safetensors and Transformers make of theirs",
)
@pytest.mark.parametrize("umask", [0o002, 0o027, 0o077])
def test_modes_of_a_checkpoint_follow_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        model = bert()
        trainer = trainer_of(tmp_path / "out", model, Nxm(targets_of(model), 4e-3), save_strategy="epoch")
        trainer.train()
        trainer.save_model(str(tmp_path / "out" / "saved"))
    finally:
        os.umask(before)
    paths = sorted((tmp_path / "out").rglob("*"))
    assert {"model.safetensors", "optimizer.safetensors", "random.safetensors"} <= {path.name for path in paths}
    assert {path.name: path.stat().st_mode & 0o777 for path in paths} == {
        path.name: (0o777 if path.is_dir() else 0o666) & ~umask for path in paths
    }


def test_a_gradient_scaler_survives_an_interruption_without_a_pickle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("something was unpickled"))
    scales = []
    for checkpoint in (None, tmp_path / "checkpoint-6"):
        model = bert()
        trainer = trainer_of(tmp_path, model, Nxm(targets_of(model), 4e-3), num_train_epochs=3, save_strategy="epoch")
        trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=4)
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        scales.append(trainer.accelerator.scaler.state_dict())
    assert scales[0]["scale"] == 32.0  # grew at steps 4 and 8 of 9
    assert scales[1] == scales[0]
    assert not list(tmp_path.glob("checkpoint-*/*.pt"))


def test_training_again_from_the_start_forgets_the_first_run(tmp_path: Path) -> None:
    model = bert()
    start = copy.deepcopy(model.state_dict())
    method = Nxm(targets_of(model), 4e-3, AdmmSwitches(finish="refit", interval=2, interval_unit="step"))
    finished = []
    for _ in range(2):
        model.load_state_dict(start)
        trainer = trainer_of(tmp_path, model, method)
        trainer.train()
        finished.append((weights_of(trainer), list(method.iterations)))
    assert finished[1] == finished[0]
    assert [entry.step for entry in finished[0][1]] == [2]


# --- evaluation ------------------------------------------------------------------------------------------------------


def score_by_hand(model: nn.Module, rows: Rows) -> tuple[float, float]:
    """Mean cross entropy and accuracy, row by row."""
    model.eval()
    losses, hits = [], []
    with torch.no_grad():
        for row in rows:
            logits = model(**{name: value for name, value in pad([row]).items() if name != "labels"}).logits[0]
            losses.append(float(-logits.log_softmax(0)[row["labels"]]))
            hits.append(float(logits.argmax() == row["labels"]))
    return float(np.mean(losses)), float(np.mean(hits))


def pruned_twin(model: nn.Module) -> nn.Module:
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for target in targets_of(twin):
            target.weight.copy_(_two_largest_of_four(target.weight))
    return twin


def test_evaluate_scores_the_pruned_and_the_unpruned_model_and_restores_the_weights(tmp_path: Path) -> None:
    model = bert()
    rows = rows_of(20, seed=1)
    trainer = trainer_of(tmp_path, model, Nxm(targets_of(model), 10.0), evaluated=rows, learning_rate=1e-3)
    trainer.train()
    before = weights_of(trainer)
    state = torch.get_rng_state()
    metrics = trainer.evaluate()
    assert torch.equal(torch.get_rng_state(), state)
    assert weights_of(trainer) == before
    pruned, unpruned = score_by_hand(pruned_twin(model), rows), score_by_hand(model, rows)
    assert pruned[0] != pytest.approx(unpruned[0], rel=1e-3)  # two models that scores can tell apart
    # plain cross entropy: a penalty with rho = 10 would show
    assert (metrics["eval_loss"], metrics["eval_accuracy"]) == pytest.approx(pruned, rel=1e-5)
    assert (metrics["eval_unpruned_loss"], metrics["eval_unpruned_accuracy"]) == pytest.approx(unpruned, rel=1e-5)


@pytest.mark.parametrize("handed", [True, False], ids=["handed over", "the trainer's own"])
def test_each_of_two_validation_sets_has_its_pruned_and_unpruned_scores(tmp_path: Path, *, handed: bool) -> None:
    model = bert()
    sets = {"matched": rows_of(12, seed=1), "mismatched": rows_of(9, seed=2)}
    trainer = trainer_of(tmp_path, model, Nxm(targets_of(model), 1e-3), evaluated=rows_of(5) if handed else sets)
    metrics = trainer.evaluate(sets) if handed else trainer.evaluate()
    twin = pruned_twin(model)
    for name, rows in sets.items():
        for infix, scored in (("", twin), ("unpruned_", model)):
            loss, hits = score_by_hand(scored, rows)
            assert metrics[f"eval_{name}_{infix}loss"] == pytest.approx(loss, rel=1e-5)
            assert metrics[f"eval_{name}_{infix}accuracy"] == pytest.approx(hits)
    assert "eval_loss" not in metrics


def test_a_masked_model_is_scored_once(tmp_path: Path) -> None:
    model = bert()
    trainer = trainer_of(tmp_path, model, Asp(targets_of(model)), num_train_epochs=1)
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] == pytest.approx(score_by_hand(model, rows_of(20, seed=1))[0], rel=1e-5)
    assert not [name for name in metrics if "unpruned" in name]


def test_an_error_inside_the_evaluation_gives_the_weights_back(tmp_path: Path) -> None:
    model = bert()
    seen: list[bool] = []

    def fail(prediction: EvalPrediction) -> dict[str, float]:
        seen.append(weights_of(trainer) != before)
        raise StoppedError

    trainer = trainer_of(tmp_path, model, Nxm(targets_of(model), 1e-3), metrics=fail)
    before = weights_of(trainer)
    with pytest.raises(StoppedError):
        trainer.evaluate()
    assert seen == [True]
    assert weights_of(trainer) == before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_metric_that_is_not_finite_ends_the_run_and_is_named(tmp_path: Path, value: float) -> None:
    model = bert()
    trainer = trainer_of(
        tmp_path, model, Nxm(targets_of(model), 1e-3), metrics=lambda _: {"mcc": value}, eval_strategy="epoch"
    )
    with pytest.raises(NonFiniteError, match=rf"eval_mcc became {value} at step 3"):
        trainer.train()


# --- a loss that is not finite ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_loss_that_is_not_finite_ends_the_run_and_names_the_step(
    tmp_path: Path, accumulation: int, value: float
) -> None:
    model = bert()
    calls: list[int] = []

    def poison(_: nn.Module, __: Any, output: Any) -> None:
        calls.append(1)
        if len(calls) == 2 * accumulation + 1:  # the first micro-batch of the third step
            output.loss = output.loss * value

    model.register_forward_hook(poison)
    trainer = trainer_of(
        tmp_path,
        model,
        Nxm(targets_of(model), 1e-3),
        per_device_train_batch_size=8 // accumulation,
        gradient_accumulation_steps=accumulation,
    )
    with pytest.raises(NonFiniteError, match=rf"the training loss became {value} at step 3"):
        trainer.train()
    assert trainer.state.global_step == 2
    assert all(bool(weight.isfinite().all()) for weight in model.parameters())


def test_where_a_look_would_wait_for_the_device_the_epochs_end_names_the_step(tmp_path: Path) -> None:
    model = bert()
    calls: list[int] = []

    def poison(_: nn.Module, __: Any, output: Any) -> None:
        calls.append(1)
        if len(calls) in {2, 3}:
            output.loss = output.loss * float("nan")

    model.register_forward_hook(poison)
    trainer = trainer_of(tmp_path, model, Dense(), num_train_epochs=3)
    trainer._checks_every_step = False  # as on a GPU
    with pytest.raises(NonFiniteError, match="the training loss became nan at step 2"):
        trainer.train()
    per_epoch = len(trainer.get_train_dataloader())
    assert trainer.state.global_step == per_epoch >= 3
