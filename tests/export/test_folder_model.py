"""Export of any folder that holds a pattern: what is exported, what its card says, and that the card's code runs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import onnx
import onnxruntime
import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)

from nxm_sweep.export import exporter
from nxm_sweep.export.__main__ import main
from nxm_sweep.export.onnx import allowed_difference
from nxm_sweep.export.onnx_weights import open_onnx
from nxm_sweep.export.semi_structured import load_semi_structured
from nxm_sweep.sparsity import Constraint, Pattern, Rule, prune_, select_targets
from nxm_sweep.verify import main as verify
from tests.training.other_tasks import MODELS, VOCABULARY, build, save

TWO_OF_FOUR = Pattern(2, 4)
PRINTED = {
    "token_classification": r"\['LABEL_[01]'(, 'LABEL_[01]')*\]",
    "image_classification": r"LABEL_[01]",
    "multiple_choice": r"[01]",
}
"""What the card's code prints; other tasks print words."""


def prune(model: nn.Module, constraint: Constraint = TWO_OF_FOUR, match: str = "layer*.[0-9]*.*|h.*|block.*") -> None:
    prune_(select_targets(model, [Rule(match, constraint)]))


def pruned_folder(task: str, tokenizer: Path, folder: Path) -> Path:
    """Write a pruned model of a task as a script of somebody else would."""
    save(task, tokenizer, folder)
    model = build(task)
    prune(model)
    model.save_pretrained(folder)
    return folder


def classifier(tokenizer: Path, folder: Path, *, prune_it: bool = True, **options: Any) -> Path:
    torch.manual_seed(0)
    make: Any = BertConfig
    config = make(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, initializer_range=0.2, **options,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    if prune_it:
        prune(model)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def run(*arguments: str | Path) -> tuple[int, str]:
        code = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


def run_card(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Run the code of a folder's card inside the folder; return what it prints."""
    (code,) = re.findall(r"```python\n(.*?)\n```", (folder / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(folder)
    capsys.readouterr()
    exec(code.replace('device="cuda"', 'device="cpu"').replace('.to("cuda")', '.to("cpu")'), {})
    return capsys.readouterr().out.strip()


@pytest.mark.parametrize("task", MODELS)
def test_folder_of_any_task_is_exported_with_a_card_whose_code_runs(
    task: str,
    *,
    tiny_model: Path,
    tmp_path: Path,
    run: Callable[..., tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = pruned_folder(task, tiny_model, tmp_path / "source")
    code, printed = run(source, "--to", tmp_path / "out")
    assert code == 0, printed
    assert "no record: what holds is said by patterns found in the weights, and the card gives no score" in printed
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", source))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert verify([str(tmp_path / "out")]) == 0
    card = ModelCard((tmp_path / "out/README.md").read_text())
    assert "- 'pattern: 2 of 4'" in card.content
    assert type(build(task)).__name__ in card.text
    answer = run_card(tmp_path / "out", monkeypatch, capsys)
    assert re.fullmatch(PRINTED.get(task, r"(?s).*"), answer), answer


def test_model_without_a_head_is_loaded_by_auto_model(
    tiny_model: Path,
    tmp_path: Path,
    run: Callable[..., tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = BertModel.from_pretrained(tiny_model)
    prune(model)
    model.save_pretrained(tmp_path / "source")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "source")
    assert run(tmp_path / "source", "--to", tmp_path / "out")[0] == 0
    assert "AutoModel.from_pretrained" in (tmp_path / "out/README.md").read_text()
    assert run_card(tmp_path / "out", monkeypatch, capsys).startswith("tensor(")


@pytest.mark.parametrize("kind", ["onnx", "semi_structured"])
@pytest.mark.parametrize("outputs", [1, 3])
def test_card_of_a_classifier_fits_its_format_and_its_answers(
    kind: str,
    outputs: int,
    *,
    tiny_model: Path,
    tmp_path: Path,
    run: Callable[..., tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = classifier(tiny_model, tmp_path / "source", num_labels=outputs)
    code, printed = run(source, "--to", tmp_path / "out", "--format", kind)
    assert code == 0, printed
    answer = run_card(tmp_path / "out", monkeypatch, capsys)
    if outputs == 1:
        float(answer)  # a number
    else:
        assert answer in {"LABEL_0", "LABEL_1", "LABEL_2"}


def test_packed_token_classifier_is_loaded_with_its_own_head(
    tiny_model: Path, tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    model: Any = BertForTokenClassification(config)
    prune(model)
    model.save_pretrained(tmp_path / "source")
    assert run(tmp_path / "source", "--to", tmp_path / "out", "--format", "semi_structured")[0] == 0
    loaded = load_semi_structured(tmp_path / "out", device="cpu")
    assert type(loaded) is BertForTokenClassification
    ids = torch.arange(5, 13)[None]
    with torch.inference_mode():
        assert torch.equal(loaded(ids).logits, model.half().eval()(ids).logits)


def test_half_precision_onnx_file_holds_the_pattern_and_answers_as_the_model(
    tiny_model: Path, tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    source = classifier(tiny_model, tmp_path / "source", num_labels=3)
    code, printed = run(source, "--to", tmp_path / "out", "--format", "onnx", "--dtype", "float16")
    assert code == 0, printed
    assert "ONNX Runtime and PyTorch, in float16 and in fp32, differ by at most" in printed
    exported = onnx.load(tmp_path / "out/model.onnx")
    floats = {tensor.data_type for tensor in exported.graph.initializer if len(tensor.dims) == 2}
    assert onnx.TensorProto.FLOAT16 in floats
    assert onnx.TensorProto.FLOAT not in floats
    weights = open_onnx(tmp_path / "out/model.onnx")
    trained = load_file(source / "model.safetensors")
    name = "bert.encoder.layer.1.output.dense.weight"
    assert torch.equal(weights.matrix(name), trained[name].half())
    assert int((weights.matrix(name).reshape(-1, 4) != 0).sum(1).max()) == 2
    assert verify([str(tmp_path / "out")]) == 0
    model = AutoModelForSequenceClassification.from_pretrained(source).eval()
    inputs = AutoTokenizer.from_pretrained(source)(["the cat", "the old dog sat"], padding=True, return_tensors="pt")
    (logits,) = onnxruntime.InferenceSession(tmp_path / "out/model.onnx").run(
        None, {key: value.numpy() for key, value in inputs.items()}
    )
    with torch.inference_mode():
        expected = model(**inputs).logits
    assert logits.dtype == "float16"
    assert float((torch.from_numpy(logits).float() - expected).abs().max()) < 0.01 * max(
        1.0, float(expected.abs().max())
    )


def test_half_precision_file_that_answers_otherwise_is_not_exported(
    tiny_model: Path, tmp_path: Path, run: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = classifier(tiny_model, tmp_path / "source")
    monkeypatch.setattr(exporter, "largest_difference", lambda *_: (0.021, 2.0))
    code, printed = run(source, "--to", tmp_path / "out", "--format", "onnx", "--dtype", "float16")
    assert code == 1
    assert "ONNX Runtime differs from PyTorch by 0.021 on 16 built-in sentences; allowed is 0.02" in printed
    assert not (tmp_path / "out").exists()
    assert [allowed_difference("float16", 0.0), allowed_difference(None, 2.0)] == [0.001, 1e-4]


def test_value_out_of_half_precisions_range_is_refused(
    tiny_model: Path, tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    source = classifier(tiny_model, tmp_path / "source")
    model = BertForSequenceClassification.from_pretrained(source)
    with torch.no_grad():
        model.classifier.weight[0, 0] = 1e5
    model.save_pretrained(source)
    code, printed = run(source, "--to", tmp_path / "out", "--format", "onnx", "--dtype", "float16")
    assert code == 2
    assert "classifier.weight holds a value that is not finite in float16" in printed
    assert not (tmp_path / "out").exists()


def test_pattern_is_that_of_the_manifest_then_of_the_option_then_of_the_weights(
    tiny_model: Path, tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    source = classifier(tiny_model, tmp_path / "source")
    assert run(source, "--to", tmp_path / "one")[0] == 0
    code, printed = run(tmp_path / "one", "--to", tmp_path / "two")
    assert code == 0
    assert "is said by sparsity.json" in printed
    assert json.loads((tmp_path / "two/sparsity.json").read_text())["counts"]["matrices"] == 12
    code, printed = run(source, "--to", tmp_path / "three", "--pattern", "4of8", "--match", "layer.0.*")
    assert code == 0, printed
    manifest = json.loads((tmp_path / "three/sparsity.json").read_text())
    assert manifest["pattern"] == "4 of 8"  # a matrix of 2 of 4 is one of 4 of 8
    assert manifest["counts"]["matrices"] == 6
    code, printed = run(source, "--to", tmp_path / "four", "--pattern", "1of4")
    assert code == 1
    assert "the saved model does not hold: bert.encoder.layer.0.attention.output.dense.weight breaks 1 of 4" in printed
    assert not (tmp_path / "four").exists()


def test_changed_weights_beside_a_manifest_are_not_exported(
    tiny_model: Path, tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    source = classifier(tiny_model, tmp_path / "source")
    assert run(source, "--to", tmp_path / "one")[0] == 0
    model = BertForSequenceClassification.from_pretrained(tmp_path / "one")
    with torch.no_grad():
        model.classifier.bias.add_(1.0)
    model.save_pretrained(tmp_path / "one")
    code, printed = run(tmp_path / "one", "--to", tmp_path / "two")
    assert code == 1
    assert "has changed since sparsity.json was written" in printed


def test_only_what_transformers_reads_is_copied_and_the_rest_is_named(
    tiny_model: Path, tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    source = classifier(tiny_model, tmp_path / "source")
    for name in ("secrets.json", "notes.txt", "README.md"):
        (source / name).write_text("{}")
    code, printed = run(source, "--to", tmp_path / "out")
    assert code == 0
    assert "not copied: README.md, notes.txt, secrets.json" in printed
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "sparsity.json"} <= names
    assert names.isdisjoint({"secrets.json", "notes.txt"})
    assert (tmp_path / "out/README.md").read_text() != "{}"
    assert (source / "README.md").read_text() == "{}"


def test_dense_folder_is_refused_with_the_way_to_look(
    tiny_model: Path, tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    source = classifier(tiny_model, tmp_path / "source", prune_it=False)
    code, printed = run(source, "--to", tmp_path / "out")
    assert code == 2
    assert f"no matrix of {source} holds a pattern" in printed
    assert "`nxm-sweep verify` shows" in printed


def test_model_stored_with_its_inputs_first_is_exported_but_not_packed(
    tiny_model: Path, tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    source = pruned_folder("causal_language_model, GPT-2", tiny_model, tmp_path / "source")
    code, printed = run(source, "--to", tmp_path / "out", "--format", "semi_structured")
    assert code == 2
    assert "no matrix can be packed: transformer.h.0.attn.c_attn.weight has its inputs first" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dtype", "bfloat16", "--format", "onnx"], "bfloat16 has few kernels in ONNX Runtime"),
        (["--dtype", "float16"], "dense keeps the trained weights as they are"),
        (["--match", "layer.*"], "--match says where a pattern should hold, but none is given"),
        (["--pattern", "5of4"], "keep"),
        (["--pattern", "2of4", "--match", "nowhere.*"], "'nowhere.*' matches none of the model's 14 matrices"),
    ],
)
def test_bad_options_are_one_line(
    options: list[str], message: str, tiny_model: Path, tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    source = classifier(tiny_model, tmp_path / "source")
    code, printed = run(source, "--to", tmp_path / "out", *options)
    assert code == 2
    assert message in printed
    assert len(printed.splitlines()) <= 2
    assert not (tmp_path / "out").exists()


def test_language_model_has_no_onnx_export_here_and_the_error_names_another_tool(
    tiny_model: Path, tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    source = pruned_folder("causal_language_model", tiny_model, tmp_path / "source")
    code, printed = run(source, "--to", tmp_path / "out", "--format", "onnx")
    assert code == 2
    assert "is loaded by AutoModelForCausalLM" in printed
    assert "optimum-cli export onnx" in printed


def test_packed_folder_is_not_exported_again(
    tiny_model: Path, tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    source = classifier(tiny_model, tmp_path / "source")
    assert run(source, "--to", tmp_path / "packed", "--format", "semi_structured")[0] == 0
    code, printed = run(tmp_path / "packed", "--to", tmp_path / "out")
    assert code == 2
    assert "is packed for 2:4 kernels already" in printed


def test_markup_in_a_configuration_is_shown_and_not_obeyed(
    tiny_model: Path, tmp_path: Path, run: Callable[..., tuple[int, str]]
) -> None:
    source = classifier(tiny_model, tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    config["architectures"] = ["<script>alert(1)</script>\n# [l](http://h)"]
    (source / "config.json").write_text(json.dumps(config))
    assert run(source, "--to", tmp_path / "out")[0] == 0
    card = ModelCard((tmp_path / "out/README.md").read_text())
    assert "<script>" not in re.sub(r"\\<", "", card.text)
    assert [line for line in card.text.splitlines() if line.startswith("# ")] == [
        r"# \<script\>alert(1)\</script\> \# \[l\](http://h): 2 of 4"
    ]


def test_example_of_the_page_publishes_the_whole_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/shipping.md").read_text()
    found = re.search(r"<!-- example: publish -->\n```python\n(.*?)```", page, re.DOTALL)
    assert found is not None
    calls = [
        create_autospec(getattr(HfApi, name)) for name in ("create_repo", "upload_folder")
    ]  # of the same signature
    for name, call in zip(("create_repo", "upload_folder"), calls, strict=True):
        monkeypatch.setattr(HfApi, name, call)
    exec(found[1], {})
    created, uploaded = calls
    assert created.call_args.kwargs == {"private": True, "exist_ok": True}
    assert uploaded.call_args.kwargs == {"repo_id": "USER/NAME", "folder_path": "model"}
