"""A trial of GPT-2's classifier, from the command line to its verified and exported model."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import datasets
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, GPT2Config, GPT2Model

import nxm_sweep
from nxm_sweep.export.__main__ import main as export
from nxm_sweep.verify import main as verify


def test_trial_of_gpt2_prunes_along_the_inputs_and_ships(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model, model_input_names=["input_ids", "attention_mask"])
    tokenizer.save_pretrained(tmp_path / "gpt2")
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=16, n_layer=1, n_head=2, pad_token_id=0, bos_token_id=2,
        eos_token_id=3,
    )  # fmt: skip
    GPT2Model(config).save_pretrained(tmp_path / "gpt2")
    with contextlib.redirect_stdout(io.StringIO()):
        record = nxm_sweep.run(
            [
                *("task=demo/paraphrase", "task.rows={train:32,validation:16}", "method=nxm_refit", "save_model=true"),
                *("model=local", f"model.path={tmp_path / 'gpt2'}", "training.epochs=2", "training.max_length=32"),
                *("sparsity.rules=[{match: 'h.*', keep: 2, group: 4}]", f"output_dir={tmp_path / 'outputs'}"),
            ]
        )
        shapes = {row["matrix"]: (row["rows"], row["columns"]) for row in record["sparsity"]["targets"]}
        assert shapes == {
            "transformer.h.0.attn.c_attn.weight": (48, 16),
            "transformer.h.0.attn.c_proj.weight": (16, 16),
            "transformer.h.0.mlp.c_fc.weight": (64, 16),
            "transformer.h.0.mlp.c_proj.weight": (16, 64),
        }
        assert record["sparsity"]["exact"]
        stored = load_file(tmp_path / f"outputs/trials/{record['identity']}/model/model.safetensors")
        for name in shapes:
            assert set((stored[name].T.reshape(-1, 4) != 0).sum(1).tolist()) == {2}
        assert (
            export([record["identity"], "--output-dir", str(tmp_path / "outputs"), "--to", str(tmp_path / "out")]) == 0
        )
        assert verify([str(tmp_path / "out")]) == 0
