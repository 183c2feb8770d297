"""Under bf16 autocast only what is computed is bf16: what is trained, scored and saved is fp32, and the pattern as exact."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from nxm_sweep.config.compose import compose_settings
from nxm_sweep.methods import METHODS
from nxm_sweep.training.trainer import SparseTrainer
from nxm_sweep.trial.build import build_method
from nxm_sweep.trial.trainer import training_arguments
from tests.training.tiny import VOCABULARY, bert

DRAW = random.Random(0)
ROWS = [{"input_ids": [DRAW.randrange(1, VOCABULARY) for _ in range(6)], "labels": row % 2} for row in range(24)]


def _collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}


class _Gradients(TrainerCallback):
    """Notes the types of what the optimizer is about to use."""

    def __init__(self) -> None:
        self.seen: set[torch.dtype] = set()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        self.seen |= {weight.grad.dtype for weight in model.parameters() if weight.grad is not None}


class _Watched(SparseTrainer):
    """Keeps the weights that the latest evaluations ran with, by the metrics' prefix."""

    scored: dict[str, dict[str, Tensor]]

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        assert isinstance(self.model, nn.Module)
        self.scored[metric_key_prefix] = {name: value.clone() for name, value in self.model.state_dict().items()}
        return super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)


def _floats(value: Any) -> set[torch.dtype]:
    """The types of the floating-point tensors in nested dictionaries and lists."""
    if isinstance(value, Tensor):
        return {value.dtype} if value.is_floating_point() else set()
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return {dtype for part in parts for dtype in _floats(part)}


@pytest.mark.parametrize("method", METHODS)
def test_what_bf16_trains_scores_and_saves_is_fp32_to_the_last_bit(method: str, tmp_path: Path) -> None:
    settings = compose_settings(
        [
            *("task=glue/rte", "model=minilm_l6", f"method={method}", "training.device=cpu", "training.precision=bf16"),
            *("training.epochs=2", "training.batch_size=8", "learning_rate.value=5e-3", "training.max_grad_norm=1"),
        ]
    )
    model = bert()
    computed: dict[bool, set[torch.dtype]] = {True: set(), False: set()}
    query = model.get_submodule("bert.encoder.layer.0.attention.self.query")
    query.register_forward_hook(lambda module, _, output: computed[module.training].add(output.dtype))
    arguments = training_arguments(settings, tmp_path)
    arguments.save_strategy = "no"
    gradients = _Gradients()
    trainer = _Watched(
        model=model,
        args=arguments,
        sparse_method=build_method(settings, model),
        train_dataset=ROWS,
        eval_dataset=ROWS[:8],
        data_collator=_collate,
        callbacks=[gradients],
    )
    trainer.scored = {}
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))

    assert computed == {True: {torch.bfloat16}, False: {torch.bfloat16}}  # autocast was on, in the evaluation too
    assert gradients.seen == {torch.float32}
    assert trainer.optimizer is not None
    matrices = [value for value in trainer.sparse_method.state_dict().values() if value.ndim == 2]
    states = [dict(model.state_dict()), trainer.optimizer.state_dict()["state"], matrices]
    assert _floats(states) == {torch.float32}  # W; Adam's moments; Z, U and masks
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert saved.keys() == trainer.scored["eval"].keys()
    for name, value in saved.items():
        assert value.numpy().tobytes() == trainer.scored["eval"][name].numpy().tobytes(), name
    for target in trainer.sparse_method.targets:
        weight = saved[target.name]
        assert not torch.equal(weight.bfloat16().float(), weight)  # the bits that bf16 lacks are there
        zeros = (weight == 0).sum() if method == "admm_unstructured" else (weight.reshape(-1, 4) == 0).sum(dim=1)
        assert torch.all(zeros == (weight.numel() // 2 if method == "admm_unstructured" else 2))
