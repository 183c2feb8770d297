"""A new head is drawn from the seed whatever the checkpoint holds; one that is kept must mean what the task means."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import transformers
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PretrainedConfig,
)

import nxm_sweep.trial.train
from nxm_sweep.config.compose import compose_settings
from nxm_sweep.errors import ModelError
from nxm_sweep.training.heads import carries_head, check_kept_head
from nxm_sweep.training.model_files import load_config
from nxm_sweep.training.models import load_model
from nxm_sweep.trial.digests import DigestMemo
from nxm_sweep.trial.run import run_point

_SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "Bert": _SIZES,
    "Roberta": _SIZES,
    "Electra": {**_SIZES, "embedding_size": 8},
    "DebertaV2": _SIZES,
    "ModernBert": {**_SIZES, **_SPECIAL},
    "Albert": {**_SIZES, "embedding_size": 8},
    "MPNet": _SIZES,
    "DistilBert": {"vocab_size": 50, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    "XLNet": {"vocab_size": 50, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32},
}
HEADS = {
    **{architecture: {"classifier"} for architecture in CONFIGS},
    "ModernBert": {"head", "classifier"},
    "DistilBert": {"pre_classifier", "classifier"},
    "XLNet": {"sequence_summary", "logits_proj"},
}
"""The modules beside encoder and pooler, read off the classes of Transformers."""
NAMES = ("not_equivalent", "equivalent")


def config_of(architecture: str, names: tuple[str, ...] = ("a", "b")) -> PretrainedConfig:
    config: PretrainedConfig = getattr(transformers, f"{architecture}Config")(**CONFIGS[architecture])
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}
    return config


def save_random(kind: Any, config: PretrainedConfig, folder: Path) -> None:
    kind.from_config(config).save_pretrained(folder)


def fine_tuned(folder: Path, architecture: str = "Bert", names: tuple[str, ...] = ("a", "b"), **stored: Any) -> Path:
    """Save a classifier of random weights; ``stored`` overwrites keys of its config.json."""
    torch.manual_seed(9)
    save_random(AutoModelForSequenceClassification, config_of(architecture, names), folder)
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **stored}))
    return folder


def drawn(folder: Path, seed: int, labels: tuple[str, ...] = ("a", "b"), **options: Any) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return dict(load_model(folder, labels, **options).state_dict())


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> set[str]:
    assert set(one) == set(other)
    return {name for name in one if not torch.equal(one[name], other[name])}


# --- a new head -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", CONFIGS)
def test_new_head_is_bit_for_bit_the_one_that_a_checkpoint_without_it_gets(architecture: str, tmp_path: Path) -> None:
    tuned = fine_tuned(tmp_path / "tuned", architecture)
    file = load_file(tuned / "model.safetensors")
    encoder = {name: value for name, value in file.items() if name.split(".")[0] not in HEADS[architecture]}
    bare = Path(shutil.copytree(tuned, tmp_path / "bare"))
    save_file(encoder, bare / "model.safetensors", metadata={"format": "pt"})
    first = drawn(tuned, seed=1)
    assert not differing(first, drawn(bare, seed=1))
    assert not differing({name: first[name] for name in encoder}, encoder)
    varied = differing(first, drawn(tuned, seed=2))
    assert varied
    assert varied <= file.keys() - encoder.keys()


def test_bare_encoder_gets_the_head_that_transformers_draws(tiny_model: Path) -> None:
    torch.manual_seed(3)
    expected = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=2).state_dict()
    assert not differing(drawn(tiny_model, seed=3), dict(expected))


@pytest.mark.parametrize(
    "labels", [("b", "a"), ("a", "b", "c"), ()], ids=["another order", "another number", "regression"]
)
def test_new_head_has_the_tasks_outputs_whatever_the_checkpoints_were(labels: tuple[str, ...], tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = load_model(fine_tuned(tmp_path), labels)
    assert model.get_parameter("classifier.weight").shape == (max(1, len(labels)), 16)
    assert tuple((model.config.id2label or {}).values()) == (labels or ("score",))


def test_pooler_of_the_checkpoint_is_kept(tmp_path: Path) -> None:
    name = "bert.pooler.dense.weight"
    assert torch.equal(drawn(fine_tuned(tmp_path), seed=1)[name], load_file(tmp_path / "model.safetensors")[name])


def test_weights_in_several_files_are_one_checkpoint(tmp_path: Path) -> None:
    whole = fine_tuned(tmp_path / "whole")
    model = AutoModelForSequenceClassification.from_pretrained(whole)
    model.save_pretrained(tmp_path / "parts", max_shard_size="5KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    assert carries_head(tmp_path / "parts", load_config(tmp_path / "parts"))
    assert not differing(drawn(tmp_path / "parts", seed=1), drawn(whole, seed=1))


@pytest.mark.parametrize(
    ("architecture", "kind", "carries"),
    [
        ("Bert", AutoModel, False),
        ("Bert", AutoModelForMaskedLM, False),
        (
            "ModernBert",
            AutoModelForMaskedLM,
            False,
        ),  # its prediction head is part of its classifier's, the outputs are not
        ("Bert", AutoModelForTokenClassification, True),
        ("DistilBert", AutoModelForTokenClassification, True),
        *((architecture, AutoModelForSequenceClassification, True) for architecture in CONFIGS),
    ],
)
def test_checkpoint_carries_a_head_if_it_holds_an_output_layer(
    architecture: str, kind: Any, carries: bool, tmp_path: Path
) -> None:
    save_random(kind, config_of(architecture), tmp_path)
    assert carries_head(tmp_path, load_config(tmp_path)) == carries


# --- a head that is kept ----------------------------------------------------------------------------------------------


def refusal(folder: Path, labels: tuple[str, ...]) -> ModelError:
    with pytest.raises(ModelError) as caught:
        check_kept_head(folder, load_config(folder), labels)
    assert "\n" not in caught.value.message + caught.value.hint
    assert "model.head=new" in caught.value.hint
    return caught.value


@pytest.mark.parametrize("labels", [("a", "b"), ("A", "B")], ids=["same", "case"])
def test_kept_head_is_that_of_the_file(labels: tuple[str, ...], tmp_path: Path) -> None:
    check_kept_head(fine_tuned(tmp_path), load_config(tmp_path), labels)
    assert not differing(drawn(tmp_path, seed=1, keep_head=True), load_file(tmp_path / "model.safetensors"))


def test_kept_head_of_a_regression_needs_one_output(tmp_path: Path) -> None:
    check_kept_head(fine_tuned(tmp_path / "one", names=("LABEL_0",)), load_config(tmp_path / "one"), ())
    assert "2 outputs and the task needs 1" in refusal(fine_tuned(tmp_path / "two"), ()).message


def test_head_of_another_meaning_is_not_kept(tmp_path: Path) -> None:
    tuned = fine_tuned(tmp_path / "tuned")
    error = refusal(tuned, ("b", "a"))
    assert "classes are a, b and the task's are b, a, in this order" in error.message
    assert "task.labels=[a,b]" in error.hint
    assert "classes are a, b and the task's are x, y" in refusal(tuned, ("x", "y")).message
    assert "has 2 outputs and the task needs 3" in refusal(tuned, ("a", "b", "c")).message
    unnamed = refusal(fine_tuned(tmp_path / "unnamed", names=("LABEL_0", "LABEL_1")), ("a", "b"))
    assert "config.json does not name the classes" in unnamed.message
    assert "write a, b into its id2label" in unnamed.hint
    several = fine_tuned(tmp_path / "several", problem_type="multi_label_classification")
    assert "trained for multi_label_classification" in refusal(several, ("a", "b")).message


def test_checkpoint_without_a_whole_head_has_none_to_keep(tiny_model: Path, tmp_path: Path) -> None:
    assert "lacks 2 weights of a head, such as classifier.bias" in refusal(tiny_model, ("a", "b")).message
    save_random(AutoModelForTokenClassification, config_of("DistilBert"), tmp_path)
    assert "lacks 2 weights of a head, such as pre_classifier.bias" in refusal(tmp_path, ("a", "b")).message


# --- trials -----------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        yield


def overrides(model: Path, outputs: Path, *more: str) -> list[str]:
    return [
        *("task=demo/paraphrase", "task.rows={train: 32, validation: 64}", "method=dense", "model=local"),
        *(f"model.path={model}", f"output_dir={outputs}", "training.epochs=1", "training.max_length=32"),
        *("training.threads=1", "learning_rate.value=1e-9", *more),  # nothing is learned: the head alone decides
    ]


def loss(model: Path, outputs: Path, *more: str) -> float:
    record, _ = run_point(compose_settings(overrides(model, outputs, *more)), Console(file=io.StringIO()))
    return float(record["reported"]["validation"]["loss"])


@pytest.fixture(scope="module")
def classifier(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a head that names the demo's classes."""
    folder = tmp_path_factory.mktemp("classifier") / "model"
    shutil.copytree(tiny_model, folder)
    torch.manual_seed(5)
    names = {"id2label": dict(enumerate(NAMES)), "label2id": {name: number for number, name in enumerate(NAMES)}}
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, **names)
    with torch.no_grad():
        model.get_parameter("classifier.weight").mul_(50.0)
    model.config.initializer_range = 1.0  # so that answers depend on what a new head draws
    model.save_pretrained(folder)
    return folder


def test_seed_varies_the_head_of_a_fine_tuned_classifier_unless_it_is_kept(classifier: Path, tmp_path: Path) -> None:
    new = [loss(classifier, tmp_path, f"seed={seed}") for seed in (0, 1)]
    kept = [loss(classifier, tmp_path, f"seed={seed}", "model.head=keep") for seed in (0, 1)]
    assert abs(new[0] - new[1]) > 1e-3
    assert kept[0] == pytest.approx(kept[1], abs=1e-5)
    assert abs(kept[0] - new[0]) > 1e-3
    records = [json.loads(path.read_text()) for path in tmp_path.glob("trials/*/result.json")]
    assert sorted(record["hashed"]["model.head"] for record in records) == ["keep", "keep", "new", "new"]


def test_kept_head_that_does_not_fit_is_refused_before_a_model_is_loaded(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nxm_sweep.trial.train, "load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    swapped = tmp_path / "swapped"
    shutil.copytree(classifier, swapped)
    text = (swapped / "config.json").read_text()
    first, second = (f'"{number}": "{name}"' for number, name in enumerate(NAMES))
    for old, new in ((first, '"0": "equivalent"'), (second, '"1": "not_equivalent"')):
        assert old in text
        text = text.replace(old, new)
    (swapped / "config.json").write_text(text)
    with pytest.raises(ModelError, match="classes are equivalent, not_equivalent and the task's are not_equivalent, "):
        loss(swapped, tmp_path, "model.head=keep")


def test_planning_knows_of_the_head_and_asks_for_a_kept_one_again(
    classifier: Path, tiny_model: Path, tmp_path: Path
) -> None:
    def planned(model: Path, *more: str) -> bool:
        return DigestMemo(tmp_path / "memo.json").of(compose_settings(overrides(model, tmp_path, *more))).carries_head

    assert [planned(classifier), planned(tiny_model), planned(classifier, "model.head=keep")] == [True, False, True]
    with pytest.raises(ModelError, match="lacks 2 weights of a head"):
        planned(tiny_model, "model.head=keep")
