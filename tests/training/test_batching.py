"""`training.batching` says which rows share a batch: any, or rows of like length."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import BertConfig, BertForSequenceClassification

from nxm_sweep.config.compose import compose_settings
from nxm_sweep.training.monitor import NullMonitor
from nxm_sweep.trial.trainer import TrialTrainer

LENGTHS = torch.randint(3, 60, (512,), generator=torch.Generator().manual_seed(0)).tolist()


def _lengths_of_batches(folder: Path, batching: str) -> torch.Tensor:
    """Lengths of an epoch's rows, a row of the result per batch of 16."""
    rows = [{"input_ids": [index] * length, "labels": 0} for index, length in enumerate(LENGTHS)]
    config = BertConfig(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    trainer = TrialTrainer(
        settings=compose_settings(
            ["task=demo/paraphrase", "method=dense", "training.batch_size=16", f"training.batching={batching}"]
        ),
        work=folder,
        console=Console(file=StringIO()),
        monitor=NullMonitor(),
        model=BertForSequenceClassification(config),
        train_dataset=rows,
        eval_dataset={"validation": rows},
        data_collator=_keep,
    )
    batches = [[int(index) for index in batch["input_ids"]] for batch in trainer.get_train_dataloader()]
    assert sorted(index for batch in batches for index in batch) == list(range(len(rows)))  # every row once
    return torch.tensor([[LENGTHS[index] for index in batch] for batch in batches])


def _keep(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.tensor([row["input_ids"][0] for row in rows])}


@pytest.mark.parametrize(("batching", "low", "high"), [("random", 0.8, 1.2), ("by_length", 0.0, 0.2)])
def test_variance_of_lengths_within_a_batch_is_that_of_the_rows_or_a_fraction_of_it(
    tmp_path: Path, batching: str, low: float, high: float
) -> None:
    within = _lengths_of_batches(tmp_path, batching).double().var(dim=1).mean()
    assert low < within / torch.tensor(LENGTHS).double().var() < high
