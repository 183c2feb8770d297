"""``training.epochs=0``: a fine-tuned model is pruned once and scored, and nothing is trained."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import nxm_sweep
from nxm_sweep.config.compose import compose_settings
from nxm_sweep.data.loading import load_rows
from nxm_sweep.errors import ConfigError
from nxm_sweep.report.__main__ import main as report
from nxm_sweep.store.record import Record
from nxm_sweep.trial.identity import identity_of

ROWS = [
    "task=demo/paraphrase",
    "task.rows={train: 64, validation: 40}",
    "training.device=cpu",
    "training.batch_size=16",
]
ONCE = ["training.epochs=0", "model.head=keep", "save_model=true"]


@pytest.fixture(scope="module")
def fine_tuned(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record]:
    """A dense model that was trained on the task, and its record."""
    output = tmp_path_factory.mktemp("dense")
    line = [*ROWS, f"model={tiny_model}", "method=dense", "training.epochs=2", "learning_rate.value=3e-3"]
    record = nxm_sweep.run([*line, "save_model=true", f"output_dir={output}"])
    return output / "trials" / record["identity"] / "model", record


def prune_once(model: Path, output: Path, *overrides: str) -> Record:
    return nxm_sweep.run([*ROWS, *ONCE, f"model={model}", f"output_dir={output}", *overrides])


def accuracy(folder: Path) -> float:
    """The accuracy of a saved model, row by row, by Transformers only."""
    settings = compose_settings(ROWS)
    rows = load_rows(settings.task, settings.data).validation["validation"]
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    model.eval()
    hits = []
    with torch.no_grad():
        for text, pair, label in zip(rows["text"], rows["pair"], rows["label"], strict=True):
            inputs = tokenizer(text, pair, truncation=True, max_length=64, return_tensors="pt")
            hits.append(int(model(**inputs).logits.argmax()) == label)
    return float(np.mean(hits))


def weights_of(record: Record, output: Path) -> Mapping[str, torch.Tensor]:
    return load_file(output / "trials" / record["identity"] / "model" / "model.safetensors")


def keep_two_of_four(weight: torch.Tensor) -> torch.Tensor:
    """Keep the two largest of every four contiguous inputs, group by group."""
    pruned = weight.clone()
    for row in pruned:
        for group in row.view(-1, 4):
            group[group.abs().argsort()[:2]] = 0.0
    return pruned


def test_dense_scores_the_checkpoint_as_it_is(fine_tuned: tuple[Path, Record], tmp_path: Path) -> None:
    model, dense = fine_tuned
    record = prune_once(model, tmp_path, "method=dense")
    assert record["best"]["value"] == dense["best"]["value"] == accuracy(model)
    assert (record["best"]["epoch"], record["steps"], len(record["epochs"])) == (0, 0, 1)
    before, after = load_file(model / "model.safetensors"), weights_of(record, tmp_path)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_asp_prunes_every_group_of_the_checkpoint_and_trains_nothing(
    fine_tuned: tuple[Path, Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = fine_tuned
    record = prune_once(model, tmp_path, "method=asp")
    before, after = load_file(model / "model.safetensors"), weights_of(record, tmp_path)
    targets = {target["matrix"] for target in record["sparsity"]["targets"]}
    assert targets
    for name, weight in before.items():
        assert torch.equal(after[name], keep_two_of_four(weight) if name in targets else weight), name
    assert record["sparsity"]["exact"]
    assert record["best"]["value"] == accuracy(tmp_path / "trials" / record["identity"] / "model")
    assert record["epochs"][0]["training_loss"] is None
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path)])
    assert report() == 0
    assert nxm_sweep.load(tmp_path)["epoch"].tolist() == [0]


def test_importance_is_calibrated_without_a_step(fine_tuned: tuple[Path, Record], tmp_path: Path) -> None:
    model, _ = fine_tuned
    plain = weights_of(prune_once(model, tmp_path, "method=asp"), tmp_path)
    for metric in ("input_norm", "second_moment"):
        record = prune_once(model, tmp_path, "method=asp", f"method.importance.metric={metric}")
        other = weights_of(record, tmp_path)
        assert record["sparsity"]["exact"]
        assert any(not torch.equal(plain[name], other[name]) for name in plain)


def identity(*overrides: str) -> str:
    settings = compose_settings([*ROWS, "method=asp", "model.head=keep", *overrides])
    return identity_of(settings, data_digest="rows", model_digest="files", carries_head=True)[0]


def test_settings_of_a_training_are_no_part_of_the_identity() -> None:
    once = identity("training.epochs=0")
    for setting in ("learning_rate.value=5e-5", "seed=3", "training.batch_size=8", "training.schedule=constant"):
        assert identity("training.epochs=0", setting) == once
    others = ("training.epochs=1", "training.max_eval_samples=8", "sparsity=1of4", "training.max_length=16")
    assert len({once, *(identity("training.epochs=0", other) for other in others)}) == 1 + len(others)


def test_a_sweep_prunes_once_beside_the_points_that_train(
    fine_tuned: tuple[Path, Record],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = [
        *ROWS,
        "model.head=keep",
        f"model={fine_tuned[0]}",
        f"output_dir={tmp_path}",
        "method=asp",
        "sweep.workers=1",
    ]
    axes = ["training.epochs=0,1", "learning_rate.value=1e-4,2e-4", "seed=0,1"]
    trials: Any = nxm_sweep.run_sweep([*line, *axes])
    assert sorted(trials["training.epochs"].astype(int)) == [0, 1, 1, 1, 1]
    nxm_sweep.run_sweep([*line, "training.epochs=0", "learning_rate.value=1e-4,2e-4", "seed=0,1", "sweep.dry_run=true"])
    assert "1 points in 1 cells: 1 done" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path)])
    assert report() == 0


def test_a_search_from_no_epochs_on_is_refused() -> None:
    search = ["sweep.sampler=random", "sweep.n_trials=2", "sweep.dry_run=true"]
    with pytest.raises(ConfigError, match=r"training.epochs is searched from 0, which trains nothing") as caught:
        nxm_sweep.run_sweep([*ROWS, "method=asp", "model.head=keep", *search, "training.epochs=interval(0, 3)"])
    assert caught.value.hint == "training.epochs='interval(1, 3)'"
