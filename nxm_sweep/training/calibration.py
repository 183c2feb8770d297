"""From settings to an importance metric: which rows it is measured on, and whose optimizer it reads."""

from __future__ import annotations

from typing import Any

import torch

from nxm_sweep.settings import ImportanceSettings
from nxm_sweep.sparsity import Importance, InputNorms, SecondMoments
from nxm_sweep.training.trainer import SparseTrainer

_BATCH = 32  # rows; it changes memory alone


def build_importance(settings: ImportanceSettings, trainer: SparseTrainer) -> Importance | None:
    """Return the metric over the targets of a trainer's method; None for magnitude alone.

    Args:
        settings: The metric's name and how many of the first training rows calibrate it.
        trainer: Whose model, rows, collator and optimizer are used.
    """
    targets = trainer.sparse_method.targets
    if settings.metric == "magnitude" or not targets:
        return None
    if trainer.model is None:
        raise TypeError("a trainer without a model has nothing to calibrate")
    if settings.metric == "input_norm":
        return InputNorms(targets, trainer.model, _batches(trainer, settings.rows))
    return SecondMoments(targets, trainer.model, _batches(trainer, settings.rows), lambda: _optimizer(trainer))


def _batches(trainer: SparseTrainer, count: int) -> list[dict[str, Any]]:
    rows: Any = trainer.train_dataset
    collate: Any = trainer.data_collator
    chosen = [rows[index] for index in range(min(count, len(rows)))]
    batches = (collate(chosen[start : start + _BATCH]) for start in range(0, len(chosen), _BATCH))
    asked = {"output_hidden_states": True}  # a model that packs its rows shows every module every token then
    return [{**{name: value.to(trainer.args.device) for name, value in batch.items()}, **asked} for batch in batches]


def _optimizer(trainer: SparseTrainer) -> torch.optim.Optimizer | None:
    return trainer.optimizer
