"""Models that load and then fail: found before any weights load, by one function for every command."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from rich.console import Console
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    BertTokenizer,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
)

import nxm_sweep.export.__main__
import nxm_sweep.predict.__main__
import nxm_sweep.sensitivity.__main__
from nxm_sweep.config.compose import compose_settings
from nxm_sweep.errors import ModelError
from nxm_sweep.settings import TrialSettings
from nxm_sweep.store.paths import MODEL, trial_folder
from nxm_sweep.training.model_files import check_model, describe_limit, limit_length
from nxm_sweep.trial.run import run_point
from nxm_sweep.trial.step_timer import seconds_per_row
from nxm_sweep.trial.train import prepare

SHAPE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        yield


def settings_of(model: Path, folder: Path, *overrides: str) -> TrialSettings:
    return compose_settings(
        [
            *("task=demo/paraphrase", "method=asp", "sparsity=2of4", "model=local", f"model.path={model}"),
            *(f"output_dir={folder}", "training.epochs=1", "training.device=cpu", "training.max_train_samples=48"),
            *("training.max_eval_samples=16", *overrides),
        ]
    )


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def save_model(folder: Path, config: Any, kind: type[PreTrainedModel]) -> None:
    torch.manual_seed(0)
    kind(config).save_pretrained(folder)


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def refusal(folder: Path, *, pairs: bool = True) -> str:
    with pytest.raises(ModelError) as caught:
        check_model(folder, pairs=pairs)
    text = f"{caught.value.message} | {caught.value.hint}"
    assert "\n" not in text
    assert str(folder) in text
    return text


# --- positions --------------------------------------------------------------------------------------------------------

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bert": {"max_position_embeddings": 24},
    "distilbert": {"max_position_embeddings": 24, "dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 32},
    "electra": {"max_position_embeddings": 24, "embedding_size": 32},
    "roberta": {"max_position_embeddings": 24, "pad_token_id": 1},
    "xlm-roberta": {"max_position_embeddings": 24, "pad_token_id": 3},
    "mpnet": {"max_position_embeddings": 24},
    "nystromformer": {"max_position_embeddings": 24},
    "gpt2": {"n_positions": 24, "n_embd": 32, "n_layer": 1, "n_head": 2, "pad_token_id": 0},
    "openai-gpt": {"n_positions": 24, "n_embd": 32, "n_layer": 1, "n_head": 2, "pad_token_id": 0},
    "ibert": {"max_position_embeddings": 24, "pad_token_id": 1},
    "opt": {"max_position_embeddings": 24, "word_embed_proj_dim": 32, "ffn_dim": 32},
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_reads_as_many_tokens_as_it_is_said_to_and_not_one_more(
    name: str, tiny_model: Path, tmp_path: Path
) -> None:
    config = AutoConfig.for_model(name, vocab_size=200, **{**SHAPE, "num_hidden_layers": 1}, **ARCHITECTURES[name])
    build: Any = AutoModelForSequenceClassification.from_config
    model = build(config).eval()
    model.save_pretrained(tmp_path)
    for file in tiny_model.glob("*vocab*"):
        shutil.copy(file, tmp_path)
    write_tokenizer(tiny_model, tmp_path, sorted(set(model.forward.__code__.co_varnames) & {"token_type_ids"}))
    positions = check_model(tmp_path, pairs=False).positions
    assert positions is not None

    def run(length: int) -> Any:
        return model(input_ids=torch.full((2, length), 7), attention_mask=torch.ones(2, length, dtype=torch.long))

    assert torch.isfinite(run(positions).logits).all()
    with pytest.raises((IndexError, RuntimeError, ValueError)):
        run(positions + 1)


def write_tokenizer(source: Path, folder: Path, segments: list[str]) -> None:
    tokenizer: Any = BertTokenizer.from_pretrained(source)
    tokenizer.model_input_names = ["input_ids", "attention_mask", *segments]
    tokenizer.save_pretrained(folder)
    edit(folder / "tokenizer_config.json", model_input_names=tokenizer.model_input_names)


def test_relative_and_rotary_positions_have_no_limit(tiny_model: Path, tmp_path: Path) -> None:
    cases: dict[str, dict[str, Any]] = {
        "deberta-v2": {"relative_attention": True, "position_biased_input": False},
        "modernbert": {"pad_token_id": 0},
    }
    for name, options in cases.items():
        build: Any = AutoModelForSequenceClassification.from_config
        config = AutoConfig.for_model(name, vocab_size=200, max_position_embeddings=24, **SHAPE, **options)
        build(config).save_pretrained(tmp_path / name)
        write_tokenizer(tiny_model, tmp_path / name, [])
        assert check_model(tmp_path / name, pairs=True).positions is None


def test_the_limit_is_the_smaller_of_both() -> None:
    assert [limit_length(128, positions) for positions in (None, 512, 128, 64)] == [128, 128, 128, 64]
    assert [bool(describe_limit(128, positions)) for positions in (None, 512, 128, 64)] == [False, False, False, True]


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.fault(
    "model", "rows longer than the model's positions, as RoBERTa numbers them", "they are cut there, which a note says"
)
def test_rows_longer_than_the_models_positions_are_cut_and_the_trial_says_so(
    kind: str, folder: Path, tmp_path: Path
) -> None:
    vocabulary = len((folder / "vocab.txt").read_text().split())
    if kind == "bert":
        save_model(folder, BertConfig(vocab_size=vocabulary, max_position_embeddings=12, **SHAPE), BertModel)
    else:
        config = RobertaConfig(
            vocab_size=vocabulary, max_position_embeddings=13, pad_token_id=0, type_vocab_size=2, **SHAPE
        )
        save_model(folder, config, RobertaModel)
    out = io.StringIO()
    record, trained = run_point(settings_of(folder, tmp_path / "o"), Console(file=out, width=400))
    assert trained
    assert record["steps"] > 0
    note = "note: inputs are cut at 12 tokens, all that the model reads, and not at max_length=128"
    assert out.getvalue().count(note) == 1
    out = io.StringIO()
    run_point(settings_of(folder, tmp_path / "o", "training.max_length=12"), Console(file=out, width=400))
    assert "note: inputs" not in out.getvalue()


# --- what is refused --------------------------------------------------------------------------------------------------


def without_pad_token(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", pad_token=None)


def with_more_tokens(folder: Path) -> None:
    tokenizer: Any = BertTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["unheard", "unseen"])
    tokenizer.save_pretrained(folder)


def set_config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "config.json", **changes)


def write_config(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "config.json").write_text(text)

    return write


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "no pad token": (without_pad_token, "has no pad token, so that rows make no batch"),
    "more tokens than rows": (with_more_tokens, "tokens but the model's embedding"),
    "quantised": (
        set_config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        "has a quantization_config (bitsandbytes), and quantised weights are not trained",
    ),
    "FlashAttention": (
        set_config(attn_implementation="flash_attention_2"),
        "asks for attn_implementation='flash_attention_2', but trials take eager, sdpa, flex_attention",
    ),
    "a kernel of the hub": (
        set_config(_attn_implementation="someone/kernel"),
        "asks for attn_implementation='someone/kernel'",
    ),
    "no segments": (set_config(type_vocab_size=1), "marks 2 segments but the model has type_vocab_size=1"),
    "few positions": (set_config(max_position_embeddings=7), "reads 7 tokens"),
    "no classifier": (set_config(model_type="clip"), "has no sequence classifier"),
    "heads": (set_config(num_attention_heads=3), "cannot be built as configured: ValueError: The hidden size (32)"),
    "activation": (set_config(hidden_act="nope"), "cannot be built as configured: KeyError: 'nope'"),
    "padding": (set_config(pad_token_id=10**6), "cannot be built as configured: AssertionError: Padding_idx"),
    "a number as text": (set_config(num_hidden_layers="two"), "Field 'num_hidden_layers' expected int, got str"),
    "dtype": (set_config(dtype="nope"), "cannot be loaded: AttributeError"),
    "null": (
        write_config("null"),
        "cannot be loaded: TypeError",
    ),
    "deep": (
        write_config("[" * 100_000),
        "cannot be loaded: RecursionError",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.fault("model", "a tokenizer without a pad token", "exit code 2 before a model loads")
@pytest.mark.fault("model", "a tokenizer with more tokens than the embedding", "exit code 2 with both numbers")
@pytest.mark.fault("model", "a tokenizer that marks more segments than the model has", "exit code 2 with both numbers")
@pytest.mark.fault("model", "quantised weights", "exit code 2 with the method of quantization_config")
@pytest.mark.fault(
    "model", "FlashAttention, or a kernel of the hub, in config.json", "exit code 2: no file chooses code to run"
)
@pytest.mark.fault("model", "a config.json with values of other types or out of range", "exit code 2 with what failed")
def test_a_model_that_would_fail_is_refused_from_its_small_files(name: str, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not read")
    check_model(folder, pairs=True)
    damage, message = BROKEN[name]
    damage(folder)
    assert message in refusal(folder)


@pytest.mark.parametrize("changes", [{"vocab_size": 10**9}, {"hidden_size": 64}, {"intermediate_size": 10**8}])
@pytest.mark.fault(
    "model",
    "a config.json of other shapes than the weights",
    "exit code 2 with both shapes, before memory is taken for it",
)
def test_shapes_that_the_weights_do_not_have_are_refused_before_memory_is_taken(
    changes: dict[str, int], folder: Path, tmp_path: Path
) -> None:
    edit(folder / "config.json", **changes)
    with pytest.raises(
        ModelError, match=r"weights of another shape than its config\.json says, such as .*: \(\d+.* instead of"
    ):
        prepare(settings_of(folder, tmp_path))


def test_a_single_text_needs_no_second_segment(folder: Path) -> None:
    set_config(type_vocab_size=1)(folder)
    check_model(folder, pairs=False)


def test_a_decoder_without_a_pad_token_id_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    options = {**ARCHITECTURES["gpt2"], "pad_token_id": None}
    AutoConfig.for_model("gpt2", vocab_size=200, **options).save_pretrained(tmp_path)
    write_tokenizer(tiny_model, tmp_path, [])
    assert "has no pad_token_id, which GPT2ForSequenceClassification needs | the tokenizer pads with 0" in refusal(
        tmp_path
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"output_attentions": True},
        {"output_hidden_states": True},
        {"return_dict": False},
        {"chunk_size_feed_forward": 3},
    ],
)
@pytest.mark.fault(
    "model",
    "output_attentions, output_hidden_states, return_dict or chunk_size_feed_forward in config.json",
    "they are put aside, and the trial ends with the same scores",
)
def test_outputs_that_a_config_asks_for_change_no_score(
    changes: dict[str, Any], folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    edit(folder / "config.json", **changes)
    options = ["training.max_train_samples=32", "save_model=true"]
    plain, _ = run_point(settings_of(tiny_model, tmp_path / "plain", *options), Console(file=io.StringIO()))
    record, _ = run_point(settings_of(folder, tmp_path / "o", *options), Console(file=io.StringIO()))
    assert record["epochs"] == plain["epochs"]


# --- one function for all ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A root of trials, and the identity of a finished dense one."""
    root = tmp_path_factory.mktemp("finished")
    settings = settings_of(tiny_model, root, "method=dense", "save_model=true")
    return root, run_point(settings, Console(file=io.StringIO()))[0]["identity"]


@pytest.mark.parametrize("command", ["predict", "sensitivity", "export", "teacher", "probe"])
@pytest.mark.fault(
    "model", "a finished trial's model whose tokenizer was exchanged", "every command refuses it in one line"
)
def test_every_command_refuses_the_same_model(
    command: str, finished: tuple[Path, str], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, identity = Path(shutil.copytree(finished[0], tmp_path / "o")), finished[1]
    model = trial_folder(root, identity) / MODEL
    without_pad_token(model)

    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", load)
    (tmp_path / "rows.jsonl").write_text('{"sentence1": "a", "sentence2": "b"}\n')
    place, trials = str(tmp_path / "new"), [identity, "--output-dir", str(root)]
    taught = ["distillation=logits", f"distillation.teacher.path={identity}"]
    calls: dict[str, Callable[[], object]] = {
        "predict": lambda: nxm_sweep.predict.__main__.main([*trials, "--rows", str(tmp_path / "rows.jsonl")]),
        "sensitivity": lambda: nxm_sweep.sensitivity.__main__.main([*trials, "--to", place]),
        "export": lambda: nxm_sweep.export.__main__.main([*trials, "--to", place, "--format", "onnx"]),
        "teacher": lambda: run_point(settings_of(tiny_model, root, *taught), Console(file=io.StringIO())),
        "probe": lambda: seconds_per_row(settings_of(model, root), 1),
    }
    if command in {"teacher", "probe"}:
        with pytest.raises(ModelError, match="has no pad token") as caught:
            calls[command]()
        assert caught.value.message.startswith("the teacher: ") == (command == "teacher")
        return
    if command == "export":
        pytest.importorskip("onnxruntime")
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        assert calls[command]() == 2
    assert f"the tokenizer in {model} has no pad token" in err.getvalue()
    assert not Path(place).exists()


def test_a_sweep_over_a_model_that_would_fail_ends_before_its_first_trial(folder: Path, tmp_path: Path) -> None:
    with_more_tokens(folder)
    command = [
        *(sys.executable, "-m", "nxm_sweep", "-m", "task=demo/paraphrase", "method=asp,dense", "model=local"),
        *(f"model.path={folder}", f"output_dir={tmp_path / 'o'}"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert "tokens but the model's embedding" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 2
    assert not list((tmp_path / "o").glob("trials/*"))
