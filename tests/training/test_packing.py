"""Encoders without padding against the same encoders with it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    CamembertConfig,
    CamembertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    MPNetConfig,
    MPNetForSequenceClassification,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

from nxm_sweep.config.compose import compose_settings
from nxm_sweep.training.monitor import NullMonitor
from nxm_sweep.training.packing import FAMILIES, Layout, _Attention, _How, pack_
from nxm_sweep.trial.train import build_trainer, prepare, tokenise_rows

KINDS: dict[str, tuple[Any, Any]] = {
    "bert": (BertForSequenceClassification, BertConfig),
    "camembert": (CamembertForSequenceClassification, CamembertConfig),
    "distilbert": (DistilBertForSequenceClassification, DistilBertConfig),
    "electra": (ElectraForSequenceClassification, ElectraConfig),
    "mpnet": (MPNetForSequenceClassification, MPNetConfig),
    "roberta": (RobertaForSequenceClassification, RobertaConfig),
    "xlm-roberta": (XLMRobertaForSequenceClassification, XLMRobertaConfig),
}
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
BATCHES = {
    "one row": [5],
    "equal lengths": [8] * 3,
    "as many rows as rounded tokens": [1] * 32,
    "odd lengths": [1, 2, 3, 17, 9, 30, 5, 1, 12, 7, 7, 32, 21],  # more than a block of rows
}


def classifier(family: str) -> PreTrainedModel:
    """Two layers in fp64 whose attention is far from uniform."""
    torch.manual_seed(0)
    kind, config = KINDS[family]
    names = {
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
    }
    sizes = {names[name] if family == "distilbert" else name: size for name, size in SIZES.items()}
    model: PreTrainedModel = kind(config(vocab_size=50, max_position_embeddings=40, **sizes)).double()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    model.train(mode=False)
    return model


def batch(lengths: list[int], *, left: bool = False) -> dict[str, Tensor]:
    torch.manual_seed(1)
    ids, mask = torch.full((len(lengths), max(lengths)), 1), torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for row, length in enumerate(lengths):
        place = slice(max(lengths) - length, None) if left else slice(length)
        ids[row, place], mask[row, place] = torch.randint(4, 50, (length,)), 1
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.arange(len(lengths)) % 2}


def gradients(model: PreTrainedModel, inputs: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    model.zero_grad()
    output = model(**inputs)
    output.loss.backward()
    return output, {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("lengths", BATCHES.values(), ids=BATCHES)
def test_outputs_and_gradients_are_those_with_padding(family: str, lengths: list[int]) -> None:
    plain = classifier(family)
    packed = copy.deepcopy(plain)
    assert pack_(packed)
    inputs = batch(lengths)
    (expected, theirs), (output, ours) = gradients(plain, inputs), gradients(packed, inputs)
    torch.testing.assert_close(output.logits, expected.logits, rtol=1e-9, atol=1e-10)
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-7, atol=1e-10, msg=name)


def test_a_batch_without_a_mask_is_packed_too() -> None:
    plain = classifier("bert")
    packed = copy.deepcopy(plain)
    pack_(packed)
    ids = batch([6, 6])["input_ids"]
    torch.testing.assert_close(packed(ids).logits, plain(ids).logits, rtol=1e-9, atol=1e-10)


def test_linear_layers_see_no_padding_and_the_last_ones_the_first_tokens() -> None:
    model = classifier("bert")
    pack_(model)
    seen: dict[str, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(
                lambda _, args, name=name: seen.update({name: args[0].flatten(0, -2).shape[0]})
            )
    lengths = [20, 3, 2, 30]
    model(**batch(lengths))
    layers = {name: rows for name, rows in seen.items() if ".layer." in name}
    last = {name for name in layers if ".1." in name and ".self." not in name}
    assert {layers[name] for name in last} == {len(lengths)}
    assert {rows for name, rows in layers.items() if name not in last} == {64}  # 55 tokens, rounded up to 32s


@pytest.mark.parametrize("asked", ["output_hidden_states", "output_attentions"])
def test_what_else_is_asked_for_comes_as_with_padding(asked: str) -> None:
    plain = classifier("bert")
    packed = copy.deepcopy(plain)
    pack_(packed)
    if asked == "output_attentions":  # what distillation does, as other ways to compute attention do not return it
        plain.set_attn_implementation("eager")
        packed.set_attn_implementation("eager")
    inputs = batch([9, 4, 7])
    expected, output = (model(**inputs, **{asked: True}) for model in (plain, packed))
    name = asked.removeprefix("output_")
    assert len(output[name]) == len(expected[name]) > 0
    for ours, theirs in zip(output[name], expected[name], strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(packed(**inputs).logits, plain(**inputs).logits)  # and packed again


@pytest.mark.parametrize("first_only", [False, True])
def test_attention_with_dropout_has_the_gradient_of_what_it_computes(first_only: bool) -> None:
    layout = Layout.of(batch([3, 1, 5, 2])["attention_mask"], (4, 5))

    def attend(*inputs: Tensor) -> Tensor:
        torch.manual_seed(5)
        how = _How(layout, 0.3, 0.7, first_only)
        mixed: Tensor = _Attention.apply(*inputs, None, how)  # type: ignore[no-untyped-call]
        return mixed

    torch.manual_seed(2)
    inputs = [torch.randn(1, 2, layout.size, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(attend, inputs)
    assert not torch.equal(attend(*inputs), _Attention.apply(*inputs, None, _How(layout, 0.0, 0.7, first_only)))  # type: ignore[no-untyped-call]


def test_attention_dropout_keeps_the_mean() -> None:
    layout = Layout.of(None, (2, 8))
    torch.manual_seed(3)
    inputs = [torch.randn(1, 2, layout.size, 4) for _ in range(3)]
    plain = _Attention.apply(*inputs, None, _How(layout, 0.0, 0.5, first_only=False))  # type: ignore[no-untyped-call]
    how = _How(layout, 0.2, 0.5, first_only=False)
    mean = sum(_Attention.apply(*inputs, None, how) for _ in range(2000)) / 2000  # type: ignore[no-untyped-call]
    torch.testing.assert_close(mean, plain, rtol=0.0, atol=0.06)


def test_other_models_stay_as_they_are() -> None:
    special: dict[str, Any] = dict.fromkeys(
        ("pad_token_id", "bos_token_id", "cls_token_id", "eos_token_id", "sep_token_id"), 1
    )
    for model in (
        ModernBertForSequenceClassification(ModernBertConfig(vocab_size=50, **special, **SIZES)),
        AlbertForSequenceClassification(AlbertConfig(vocab_size=50, embedding_size=8, **SIZES)),
    ):
        before = model.config._attn_implementation
        assert not pack_(model)
        assert model.config._attn_implementation == before


def test_saved_files_do_not_tell_of_it(tmp_path: Path) -> None:
    plain, packed = classifier("bert"), classifier("bert")
    pack_(packed)
    for name, model in (("plain", plain), ("packed", packed)):
        model.save_pretrained(tmp_path / name)
    files = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("plain", "packed")]
    assert files[0] == files[1]
    for file in files[0]:
        assert (tmp_path / "plain" / file).read_bytes() == (tmp_path / "packed" / file).read_bytes()
    assert "nxm" not in json.dumps(json.loads((tmp_path / "packed" / "config.json").read_text()))


def test_a_trial_on_a_cpu_trains_and_scores_without_padding(tiny_model: Path, tmp_path: Path) -> None:
    rows = "task.rows={train: 32, validation: 16}"
    settings = compose_settings(
        [
            *("task=demo/paraphrase", rows, "method=nxm", "model=local", f"model.path={tiny_model}"),
            *("training.device=cpu", "training.epochs=1", f"output_dir={tmp_path}"),
        ]
    )
    prepared = prepare(settings)
    data, tokenizer = tokenise_rows(settings, prepared)
    trainer = build_trainer(
        settings, prepared, data, tokenizer, work=tmp_path, console=Console(quiet=True), monitor=NullMonitor()
    )
    model: Any = trainer.model
    tokens: list[tuple[int, bool]] = []  # of each call of a linear layer in the first layer
    model.bert.encoder.layer[0].intermediate.register_forward_pre_hook(
        lambda module, args: tokens.append((args[0].shape[0], module.training))
    )
    trainer.train()
    assert set(tokens) == {(1, True), (1, False)}
    assert not [module for module in model.modules() if type(module) is nn.Dropout]
