"""The README's examples run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, TrainingArguments

from nxm_sweep.sparsity import Pattern, check_matrix

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def example(name: str) -> str:
    found = re.search(rf"<!-- example: {name} -->\n```python\n(.*?)```", README, flags=re.DOTALL)
    assert found is not None
    return found[1]


def test_the_plain_pytorch_example_ends_with_exactly_sparse_weights(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    exec(example("pytorch"), names)
    assert capsys.readouterr().out == "True\n"
    for module in (names["model"][0], names["model"][2]):
        nonzeros = (module.weight != 0).reshape(-1, 4).sum(dim=1)
        assert nonzeros.eq(2).all()


def test_the_transformers_example_trains_and_yields_a_pruned_model(tiny_model: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model)
    rows = [{"input_ids": torch.randint(5, 60, (12,)), "labels": torch.tensor(i % 2)} for i in range(16)]
    args = TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=1,
        use_cpu=True,
        eval_strategy="epoch",
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    names: dict[str, Any] = {"model": model, "args": args, "train_dataset": rows, "eval_dataset": rows}
    exec(example("transformers"), names)
    with names["trainer"].sparse_method.pruned():
        weight = model.get_parameter("bert.encoder.layer.1.output.dense.weight")
        assert check_matrix("output", weight, Pattern(2, 4)).exact
    evaluated = [entry for entry in names["trainer"].state.log_history if "eval_loss" in entry]
    assert len(evaluated) == 1
