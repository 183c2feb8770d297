"""Build a trial's method and importance metric from its settings."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from nxm_sweep.methods import METHODS, SparseMethod
from nxm_sweep.settings import ImportanceSettings, RuleSettings, TrialSettings
from nxm_sweep.sparsity import Importance, InputNorms, Rule, SecondMoments, Target, select_targets
from nxm_sweep.sparsity.pattern import constraint
from nxm_sweep.training.trainer import SparseTrainer

_BATCH = 32  # rows; affects only memory


def build_method(settings: TrialSettings, model: nn.Module) -> SparseMethod:
    """Build the settings' method over the model's targets.

    Raises:
        SparsityError: A rule matches nothing, or a matrix cannot be divided into groups.
    """
    method = METHODS[settings.method.name]
    values = method.read_settings(settings)
    if not method.sparse:
        return method.from_settings((), values)
    targets = select_targets(model, [_build_rule(rule) for rule in settings.sparsity.rules])
    if settings.method.trained == "targets":
        _freeze_the_rest(model, targets)
    return method.from_settings(targets, values)


def _build_rule(rule: RuleSettings) -> Rule:
    return Rule(rule.match, constraint(keep=rule.keep, group=rule.group, density=rule.density, dense=rule.dense))


def _freeze_the_rest(model: nn.Module, targets: list[Target]) -> None:
    """Train only the targets and, since they may start from random numbers, the task's head and the pooler."""
    encoder = model.base_model if isinstance(model, PreTrainedModel) else model
    trained = {id(target.parameter) for target in targets}
    for name, weight in encoder.named_parameters():
        weight.requires_grad_(id(weight) in trained or name.startswith("pooler."))


def build_importance(settings: ImportanceSettings, trainer: SparseTrainer) -> Importance | None:
    """Build the metric over the targets of a trainer's method; None for plain magnitude.

    Args:
        settings: The metric's name and the number of leading training rows that calibrate it.
        trainer: Provides model, rows, collator and optimizer.
    """
    targets = trainer.sparse_method.targets
    if settings.metric == "magnitude" or not targets:
        return None
    if trainer.model is None:
        raise TypeError("a trainer without a model has nothing to calibrate")
    if settings.metric == "input_norm":
        return InputNorms(targets, trainer.model, _collate(trainer, settings.rows))
    return SecondMoments(targets, trainer.model, _collate(trainer, settings.rows), lambda: _get_optimizer(trainer))


def _collate(trainer: SparseTrainer, count: int) -> list[dict[str, Any]]:
    rows: Any = trainer.train_dataset
    collate: Any = trainer.data_collator
    chosen = [rows[index] for index in range(min(count, len(rows)))]
    batches = (collate(chosen[start : start + _BATCH]) for start in range(0, len(chosen), _BATCH))
    options = {"output_hidden_states": True}  # disables packing, so that every module sees every token
    return [{**{name: value.to(trainer.args.device) for name, value in batch.items()}, **options} for batch in batches]


def _get_optimizer(trainer: SparseTrainer) -> torch.optim.Optimizer | None:
    return trainer.optimizer
