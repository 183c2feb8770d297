"""`nxm_sweep.export` end to end: a trained trial is shipped in every format and read back by somebody else."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import pickletools
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from huggingface_hub import ModelCard
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertModel

import nxm_sweep.export.exporter
from nxm_sweep.__main__ import main as train
from nxm_sweep.data.demo import generate
from nxm_sweep.errors import ExportError, SparsityError
from nxm_sweep.export.__main__ import main
from nxm_sweep.export.model_card import escape
from nxm_sweep.export.onnx import sentences_of
from nxm_sweep.export.onnx_weights import open_onnx
from nxm_sweep.export.semi_structured import load_semi_structured, put_on_kernels_
from nxm_sweep.export.trial_model import load_finished_trial
from nxm_sweep.sparsity import Pattern, project
from nxm_sweep.sparsity.semi_structured import pack
from nxm_sweep.store.files import atomic_folder
from nxm_sweep.verify import main as verify

FORMATS = ("dense", "onnx", "semi_structured")
MATRIX = "bert.encoder.layer.1.intermediate.dense.weight"
ROWS = 32

# What somebody does who knows the exported folder alone; prints accuracy and predictions on the demo's validation rows.
_ELSEWHERE = """
import json, sys
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

folder, rows = sys.argv[1], json.load(open(sys.argv[2]))
model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
texts = [[row[name] for row in rows] for name in ("sentence1", "sentence2")]
with torch.inference_mode():
    batch = tokenizer(*texts, truncation=True, max_length=32, padding=True, return_tensors="pt")
    predictions = model(**batch).logits.argmax(dim=1).tolist()
print(json.dumps(predictions))
"""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a command answered."""

    code: int
    out: str
    err: str


def export(*arguments: str | Path) -> Answer:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Answer(code, out.getvalue(), err.getvalue())


def holds(folder: Path) -> int:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return verify([str(folder)])


@pytest.fixture(scope="module")
def trial(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a finished trial with its model, trained on the demo; its answers depend on the text."""
    root = tmp_path_factory.mktemp("export")
    shutil.copytree(tiny_model, root / "lively")
    model = BertModel.from_pretrained(root / "lively")
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
                module.weight.mul_(8.0)
    model.config.initializer_range = 0.3  # the new head's
    model.save_pretrained(root / "lively")
    settings = [
        *(
            "task=demo/paraphrase",
            f"task.rows={{train:64,validation:{ROWS}}}",
            "method=nxm_paper",
            "learning_rate.value=5e-3",
        ),
        *("model=local", f"model.path={root / 'lively'}", "training.epochs=2", "training.max_length=32"),
        "training.batching=by_length",
        "seed=2",  # with these the answers differ from row to row
        *("training.batch_size=16", "training.threads=1", "save_model=true", f"output_dir={root / 'outputs'}"),
    ]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", root / "cache")
        patch.setattr(sys, "argv", ["nxm_sweep", *settings])
        assert train() == 0
        (folder,) = (root / "outputs/trials").iterdir()
        yield folder


@pytest.fixture(scope="module")
def shipped(trial: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Answer]]:
    root = tmp_path_factory.mktemp("shipped")
    return {kind: (root / kind, export(trial, "--to", root / kind, "--format", kind)) for kind in FORMATS}


@pytest.fixture
def copied(trial: Path, tmp_path: Path) -> Path:
    """A trial's folder that a test may spoil."""
    return Path(shutil.copytree(trial, tmp_path / "outputs/trials" / trial.name))


def record_of(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return record


def change_record(folder: Path, **values: Any) -> None:
    (folder / "result.json").write_text(json.dumps({**record_of(folder), **values}))


def validation_rows() -> list[dict[str, Any]]:
    return [dict(row) for row in generate("paraphrase", "validation", ROWS)]


def batch_of(folder: Path, kind: str) -> Any:
    rows = validation_rows()
    texts = [[str(row[name]) for row in rows] for name in ("sentence1", "sentence2")]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer(*texts, truncation=True, max_length=32, padding=True, return_tensors=kind)


def kept_predictions(trial: Path) -> list[int]:
    kept: list[int] = json.loads((trial / "predictions.json").read_text())["sets"]["validation"]["predictions"]
    return kept


def corrupt(folder: Path) -> tuple[int, int]:
    """Put a third value into one group of a model's file; return where that group begins."""
    state = load_file(folder / "model.safetensors")
    group = state[MATRIX][40, 8:12]
    group[(group == 0).nonzero()[0]] = 1e-20
    save_file(state, folder / "model.safetensors")
    return 40, 8


# --- what is written --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_exported_folder_is_written_and_verified(kind: str, shipped: dict[str, tuple[Path, Answer]]) -> None:
    folder, answer = shipped[kind]
    assert (answer.code, answer.err) == (0, "")
    assert f"{kind}, 12 matrices hold 2 of 4, read back" in answer.out
    weights = {"dense": "model.safetensors", "onnx": "model.onnx"}.get(kind, "model.semi_structured.safetensors")
    files = {path.name for path in folder.iterdir()}
    assert files >= {weights, "README.md", "config.json", "sparsity.json", "tokenizer.json"}
    assert [name for name in files if "safetensors" in name or "onnx" in name] == [weights]
    assert holds(folder) == 0


@pytest.mark.parametrize("kind", FORMATS)
def test_manifest_counts_what_is_there(kind: str, shipped: dict[str, tuple[Path, Answer]], trial: Path) -> None:
    values = json.loads((shipped[kind][0] / "sparsity.json").read_text())
    state = load_file(trial / "model/model.safetensors")
    targets = {target["matrix"]: target for target in record_of(trial)["sparsity"]["targets"]}
    assert (values["format"], values["pattern"]) == (kind, "2 of 4")
    assert {target["matrix"] for target in values["targets"]} == set(targets)
    for target in values["targets"]:
        assert (target["rows"], target["columns"]) == tuple(state[target["matrix"]].shape)
        assert (target["keep"], target["group"]) == (2, 4)
        assert target["zeros"] == int((state[target["matrix"]] == 0).sum())
    assert values["counts"]["zeros"] == sum(int((state[name] == 0).sum()) for name in targets)
    assert values["made_from"]["identity"] == trial.name


def test_dense_export_reloaded_in_a_fresh_process_gives_the_same_metric(
    shipped: dict[str, tuple[Path, Answer]], trial: Path, tmp_path: Path
) -> None:
    rows = validation_rows()
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    command = [sys.executable, "-c", _ELSEWHERE, str(shipped["dense"][0]), str(tmp_path / "rows.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    predictions = json.loads(done.stdout)
    assert len(set(predictions)) == 2  # it says something
    assert predictions == kept_predictions(trial)
    accuracy = np.mean([row["label"] == prediction for row, prediction in zip(rows, predictions, strict=True)])
    assert accuracy == record_of(trial)["best"]["value"]


def test_dense_export_holds_the_trained_bits(shipped: dict[str, tuple[Path, Answer]], trial: Path) -> None:
    exported = (shipped["dense"][0] / "model.safetensors").read_bytes()
    assert exported == (trial / "model/model.safetensors").read_bytes()


def test_onnx_runtime_gives_pytorchs_logits_and_the_same_metric(
    shipped: dict[str, tuple[Path, Answer]], trial: Path
) -> None:
    folder, answer = shipped["onnx"]
    assert f"on {ROWS} validation rows of demo/paraphrase" in answer.out
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, dict(batch_of(folder, "np")))
    model = AutoModelForSequenceClassification.from_pretrained(trial / "model").eval()
    with torch.inference_mode():
        expected = model(**batch_of(folder, "pt")).logits.numpy()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    assert logits.argmax(1).tolist() == kept_predictions(trial)


@pytest.mark.parametrize(("rows", "length"), [(1, 1), (1, 64), (5, 2), (7, 33)])
def test_onnx_file_takes_every_batch_and_length(
    shipped: dict[str, tuple[Path, Answer]], trial: Path, rows: int, length: int
) -> None:
    draw = torch.Generator().manual_seed(length)
    batch = {
        "input_ids": torch.randint(5, 40, (rows, length), generator=draw),
        "attention_mask": (torch.rand(rows, length, generator=draw) < 0.7).long().index_fill(1, torch.tensor(0), 1),
        "token_type_ids": torch.randint(0, 2, (rows, length), generator=draw),
    }
    session = onnxruntime.InferenceSession(shipped["onnx"][0] / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {name: values.numpy() for name, values in batch.items()})
    model = AutoModelForSequenceClassification.from_pretrained(trial / "model").eval()
    with torch.inference_mode():
        np.testing.assert_allclose(logits, model(**batch).logits.numpy(), rtol=0, atol=1e-4)


def test_onnx_initialisers_hold_the_zeros_and_nothing_of_this_machine(
    shipped: dict[str, tuple[Path, Answer]], trial: Path
) -> None:
    path = shipped["onnx"][0] / "model.onnx"
    state = load_file(trial / "model/model.safetensors")
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    for target in record_of(trial)["sparsity"]["targets"]:
        np.testing.assert_array_equal(stored[target["matrix"]].T, state[target["matrix"]].numpy())  # MatMul(x, W^T)
    text = path.read_bytes()
    assert b"site-packages" not in text
    assert b"nxm_sweep/export" not in text


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_packed_model_is_the_narrowed_one_bit_by_bit(trial: Path, tmp_path: Path, dtype: str) -> None:
    answer = export(trial, "--to", tmp_path / "packed", "--format", "semi_structured", "--dtype", dtype)
    assert "packed 12 matrices" in answer.out
    loaded = load_semi_structured(tmp_path / "packed", device="cpu")
    dense = AutoModelForSequenceClassification.from_pretrained(trial / "model", dtype=getattr(torch, dtype)).eval()
    assert loaded.dtype == dense.dtype
    for (name, weight), (same, expected) in zip(loaded.named_parameters(), dense.named_parameters(), strict=True):
        assert name == same
        assert torch.equal(weight, expected)
    batch = batch_of(tmp_path / "packed", "pt")
    with torch.inference_mode():
        assert torch.equal(loaded(**batch).logits, dense(**batch).logits)


def test_packed_folder_is_not_mistaken_for_a_dense_model(shipped: dict[str, tuple[Path, Answer]]) -> None:
    with pytest.raises(OSError, match="no file named"):
        AutoModelForSequenceClassification.from_pretrained(shipped["semi_structured"][0])
    with pytest.raises(SparsityError, match="was not written by --format semi_structured"):
        load_semi_structured(shipped["dense"][0], device="cpu")


def test_packed_weights_take_the_place_of_dense_ones() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Linear(32, 32)).half()
    weights = {}
    for name in ("0.weight", "1.weight"):
        with torch.no_grad():
            weight = model.get_parameter(name)
            weight.copy_(project(weight, Pattern(2, 4)))
            weights[name] = weight.clone()
    left = put_on_kernels_(model, {name: pack(name, weight) for name, weight in weights.items()}, "CUTLASS")
    assert left == ["1.weight"]  # its shape is not one of that backend's
    kernels = model.get_parameter("0.weight")
    assert isinstance(kernels.data, torch.sparse.SparseSemiStructuredTensor)
    assert torch.equal(kernels.data.to_dense(), weights["0.weight"])  # type: ignore[no-untyped-call]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_kernels_without_a_gpu_are_refused(shipped: dict[str, tuple[Path, Answer]]) -> None:
    with pytest.raises(SparsityError, match="need a CUDA device"):
        load_semi_structured(shipped["semi_structured"][0])


# --- what does not hold -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_one_corrupted_group_fails_every_export_and_leaves_nothing(kind: str, copied: Path, tmp_path: Path) -> None:
    row, column = corrupt(copied / "model")
    answer = export(copied, "--to", tmp_path / "to/model", "--format", kind)
    assert answer.code == 1
    assert f"{MATRIX} breaks 2 of 4 in 1 group, first at row {row}, column {column}" in answer.err
    assert not (tmp_path / "to").exists()
    assert holds(copied / "model") == 1


def test_more_zeros_than_were_counted_fail_the_export(copied: Path, tmp_path: Path) -> None:
    state = load_file(copied / "model/model.safetensors")
    state[MATRIX][0] = 0.0
    save_file(state, copied / "model/model.safetensors")
    answer = export(copied, "--to", tmp_path / "model")
    assert answer.code == 1
    assert "zeros, but the record counted" in answer.err


@pytest.mark.parametrize("kind", FORMATS)
def test_corrupted_export_does_not_verify(kind: str, shipped: dict[str, tuple[Path, Answer]], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shipped[kind][0], tmp_path / kind))
    if kind == "onnx":
        model = onnx.load(folder / "model.onnx")
        (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == MATRIX)
        values = numpy_helper.to_array(tensor).copy()  # (inputs, outputs)
        values[8:12, 40][values[8:12, 40] == 0] = 1e-20
        tensor.CopyFrom(numpy_helper.from_array(values, MATRIX))
        onnx.save(model, folder / "model.onnx")
    elif kind == "dense":
        corrupt(folder)
    else:
        state = load_file(folder / "model.semi_structured.safetensors")
        state[f"{MATRIX}.packed"][3, 3] = 0.0
        save_file(state, folder / "model.semi_structured.safetensors")
        with pytest.raises(ExportError, match=re.escape(MATRIX)):
            load_semi_structured(folder, device="cpu")
    assert holds(folder) == 1


def test_wrong_answers_of_onnx_runtime_fail_the_export(
    trial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shipped: dict[str, tuple[Path, Answer]]
) -> None:
    def write(_model: Any, _batch: Any, path: Path) -> Any:  # the file of before: exporting takes seconds
        return open_onnx(Path(shutil.copyfile(shipped["onnx"][0] / "model.onnx", path)))

    monkeypatch.setattr(nxm_sweep.export.exporter, "write_onnx", write)
    monkeypatch.setattr(nxm_sweep.export.exporter, "largest_difference", lambda *_: (float("nan"), 1.0))
    answer = export(trial, "--to", tmp_path / "model", "--format", "onnx")
    assert answer.code == 1
    assert "ONNX Runtime differs from PyTorch by nan" in answer.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("held", ["1 of 4", "4 of 8", "0.5 unstructured"])
def test_other_patterns_are_not_packed_and_the_reason_is_said(copied: Path, tmp_path: Path, held: str) -> None:
    record = record_of(copied)
    state = load_file(copied / "model/model.safetensors")
    for target, check in zip(record["sparsity"]["targets"], record["sparsity"]["checked"], strict=True):
        if held == "1 of 4":
            state[target["matrix"]] = project(state[target["matrix"]], Pattern(1, 4))
        target["constraint"] = held
        check["zeros"] = int((state[target["matrix"]] == 0).sum())
    save_file(state, copied / "model/model.safetensors")
    change_record(copied, sparsity=record["sparsity"])
    answer = export(copied, "--to", tmp_path / "model", "--format", "semi_structured")
    assert answer.code == 2
    assert f"holds {held}, but PyTorch's kernels and the hardware below them take 2 of every 4 alone" in answer.err
    assert not (tmp_path / "model").exists()
    assert export(copied, "--to", tmp_path / "model").code == 0  # as zeros, every pattern ships
    assert holds(tmp_path / "model") == 0
    words = "50% unstructured" if held == "0.5 unstructured" else held
    assert json.loads((tmp_path / "model/sparsity.json").read_text())["pattern"] == words
    assert f"| pattern | {words} |" in (tmp_path / "model/README.md").read_text()


def test_dense_trial_ships_and_says_that_it_is_not_sparse(copied: Path, tmp_path: Path) -> None:
    change_record(copied, method="dense", sparsity={"targets": [], "checked": [], "exact": True})
    assert export(copied, "--to", tmp_path / "model").code == 0
    assert json.loads((tmp_path / "model/sparsity.json").read_text())["pattern"] == "dense"
    assert "No matrix is pruned." in (tmp_path / "model/README.md").read_text()
    assert holds(tmp_path / "model") == 1
    assert "nothing to pack" in export(copied, "--to", tmp_path / "packed", "--format", "semi_structured").err


# --- which trial, and where to ----------------------------------------------------------------------------------------


def test_trial_is_found_by_identity_beginning_and_folder(trial: Path) -> None:
    outputs = trial.parents[1]
    for name in (trial.name, trial.name[:4], str(trial)):
        assert load_finished_trial(name, outputs).model_folder == trial / "model"


def test_ambiguous_beginning_is_refused(copied: Path, tmp_path: Path) -> None:
    shutil.copytree(copied, copied.parent / f"{copied.name[:6]}0000000000")
    answer = export(copied.name[:6], "--output-dir", tmp_path / "outputs", "--to", tmp_path / "model")
    assert answer.code == 2
    assert "2 trials under" in answer.err


def test_unknown_trial_is_refused(tmp_path: Path) -> None:
    answer = export("abc", "--output-dir", tmp_path, "--to", tmp_path / "model")
    assert answer.code == 2
    assert "no finished trial" in answer.err


def test_trial_without_its_model_says_how_to_get_one(copied: Path, tmp_path: Path) -> None:
    shutil.rmtree(copied / "model")
    answer = export(copied, "--to", tmp_path / "model")
    assert answer.code == 2
    assert len(answer.err.splitlines()) == 2
    assert "save_model=true force=true" in answer.err


def test_nothing_is_overwritten(trial: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for place in ("full", "file"):
        answer = export(trial, "--to", tmp_path / place)
        assert answer.code == 2
        assert "nothing is overwritten" in answer.err
    assert (tmp_path / "full/mine.txt").read_text() == (tmp_path / "file").read_text() == "mine"


def test_empty_folder_is_filled(trial: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert export(trial, "--to", tmp_path / "empty").code == 0
    assert holds(tmp_path / "empty") == 0


def test_interrupted_export_leaves_nothing(trial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(nxm_sweep.export.exporter, "model_card", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(trial, "--to", tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_folder_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "model") as fresh:
        (fresh / "a").write_text("a")
        assert not (tmp_path / "model").exists()
    assert (tmp_path / "model/a").read_text() == "a"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_type_of_weights_is_for_packing_alone(trial: Path, tmp_path: Path) -> None:
    assert export(trial, "--to", tmp_path / "model", "--dtype", "float16").code == 2


# --- the card ---------------------------------------------------------------------------------------------------------


def card_of(folder: Path) -> tuple[dict[str, Any], str]:
    """Metadata and text, as the hub reads them."""
    content = (folder / "README.md").read_text()
    card = ModelCard(content)
    assert card.content == content
    return card.data.to_dict(), card.text  # type: ignore[no-untyped-call]


def test_card_says_what_the_record_says(shipped: dict[str, tuple[Path, Answer]], trial: Path) -> None:
    metadata, text = card_of(shipped["dense"][0])
    record = record_of(trial)
    (result,) = metadata["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "accuracy", "value": record["best"]["value"]}]
    assert metadata["license"] == "unknown"
    assert "12 of its weight matrices hold 2 of 4" in text
    assert f"| validation | accuracy | {record['best']['value']:.6g} |" in text
    assert record["selection"]["protocol"] in text
    assert record["method"] == "nxm_paper"
    assert r"| method | nxm\_paper |" in text
    assert f"| identity of the trial | {trial.name} |" in text


SCORED = {"dense": "", "onnx": "; the file runs in fp32", "semi_structured": ", before the weights were narrowed"}


@pytest.mark.parametrize("kind", SCORED)
def test_card_names_the_precision_of_its_scores(kind: str, copied: Path, tmp_path: Path) -> None:
    record = record_of(copied)
    record["config"]["training"]["precision"] = "bf16"
    change_record(copied, config=record["config"])
    answer = export(copied, "--to", tmp_path / "model", "--format", kind)
    assert "the card's scores are the trial's, in bf16 over float32 weights" in answer.out
    _, text = card_of(tmp_path / "model")
    assert f" Scored in bf16 autocast over float32 weights{SCORED[kind]}.\n" in text
    assert "| precision | bf16 |" in text


def test_card_of_a_trial_in_fp32_says_so(shipped: dict[str, tuple[Path, Answer]]) -> None:
    said = {kind: card_of(folder)[1] for kind, (folder, _) in shipped.items()}
    assert all(" Scored in fp32" in text and "bf16" not in text for text in said.values())
    assert " Scored in fp32, before the weights were narrowed.\n" in said["semi_structured"]


def test_licence_is_the_one_given(trial: Path, tmp_path: Path) -> None:
    export(trial, "--to", tmp_path / "model", "--license", "apache-2.0")
    metadata, text = card_of(tmp_path / "model")
    assert metadata["license"] == "apache-2.0"
    assert "| these weights | apache-2.0 |" in text


def test_markup_in_names_is_shown_and_not_obeyed(copied: Path, tmp_path: Path) -> None:
    evil = "x | y: {a} # 'q' \"r\"\n---\n# <script>alert(1)</script> [l](http://h) *b* `c` \\"
    record = record_of(copied)
    record["config"]["task"]["name"] = record["config"]["model"]["name"] = evil
    change_record(copied, task=evil, model_name=evil, config=record["config"])
    assert export(copied, "--to", tmp_path / "model").code == 0
    metadata, text = card_of(tmp_path / "model")
    (index,) = metadata["model-index"]
    assert index["results"][0]["dataset"]["name"] == " ".join(evil.split())
    assert "<script>" not in re.sub(r"\\<", "", text)
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert [line for line in headings if "## " in line[:3]] == [
        f"## {title}" for title in ("Score", "How it was made", "Use", "Licences")
    ]
    for line in (line for line in text.splitlines() if line.startswith("|")):
        assert len(re.findall(r"(?<!\\)\|", line)) in {3, 4}


@pytest.mark.parametrize("text", ["a|b", "a\nb", "[x](y)", "<b>", "`c`", "a_b_c", "# h", "\\"])
def test_escaped_text_reads_as_it_was(text: str) -> None:
    escaped = escape(text)
    assert "\n" not in escaped
    assert re.sub(r"\\(.)", r"\1", escaped) == " ".join(text.split())
    assert not re.search(r"(?<!\\)[|<\[`_#]", escaped)


# --- ONNX files of any layout -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["MatMul", "Gemm", "Gemm transB", "Transpose, MatMul"])
def test_pattern_of_an_onnx_matrix_runs_along_its_inputs(tmp_path: Path, layout: str) -> None:
    weight = project(torch.randn(8, 16, generator=torch.Generator().manual_seed(0)), Pattern(2, 4))
    straight = layout in {"Gemm transB", "Transpose, MatMul"}
    stored = numpy_helper.from_array((weight if straight else weight.T).contiguous().numpy(), "w")
    nodes = [helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0])] if "Transpose" in layout else []
    operand = "t" if nodes else "w"
    operator, _, option = layout.rpartition(", ")[2].partition(" ")
    options: dict[str, Any] = {"transB": 1} if option else {}
    nodes.append(helper.make_node(operator, ["x", operand], ["y"], **options))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [3, size]) for name, size in (("x", 16), ("y", 8)))
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], [stored]))
    onnx.save(model, tmp_path / "model.onnx")
    weights = open_onnx(tmp_path / "model.onnx")
    assert dict(weights.shapes) == {"w": (8, 16)}
    assert torch.equal(weights.matrix("w"), weight)
    assert holds(tmp_path) == 0


def test_damaged_onnx_file_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x0a\xff\xff")
    assert holds(tmp_path) == 2


def test_built_in_sentences_stand_in_where_the_rows_are_gone(copied: Path) -> None:
    record = record_of(copied)
    record["config"]["task"] |= {"kind": "files", "files": {"train": "/gone.csv", "validation": "/gone.csv"}}
    change_record(copied, config=record["config"])
    sentences = sentences_of(load_finished_trial(str(copied), Path()))
    assert "built-in" in sentences.source
    assert sentences.pairs is not None
    assert len(sentences.texts) == len(sentences.pairs) > 4


@pytest.mark.fault(
    "security",
    "a symbolic link among the files of a model that is exported",
    "exit code 2 in one line that names the link; nothing is copied from elsewhere, nothing is written",
)
@pytest.mark.parametrize("name", ["notes.json", "model.safetensors", "secrets/keys.json"])
def test_export_follows_no_link_out_of_the_model_folder(copied: Path, tmp_path: Path, name: str) -> None:
    link = copied / "model" / name
    link.parent.mkdir(exist_ok=True)
    outside = tmp_path / "private.json"
    if link.exists():
        link.rename(outside)
    else:
        outside.write_text('{"password": "hunter2"}')
    link.symlink_to(outside)
    answer = export(copied, "--to", tmp_path / "to")
    assert answer.code == 2
    assert f"{link} is a symbolic link to {outside}" in answer.err.replace("\n", "")
    assert not (tmp_path / "to").exists()


@pytest.mark.fault(
    "security",
    "a finished trial, and every format of its export, searched for pickles",
    "none of their files is one",
)
def test_no_written_file_is_a_pickle(trial: Path, shipped: dict[str, tuple[Path, Answer]]) -> None:
    files = [path for root in (trial, *(folder for folder, _ in shipped.values())) for path in root.rglob("*.*")]
    assert len(files) > 20
    for path in files:
        with pytest.raises(ValueError, match=r"opcode|pickle|string|exhausted"):
            pickletools.dis(path.read_bytes(), out=io.StringIO())
        assert not zipfile.is_zipfile(path), path  # what torch.save writes


@pytest.mark.parametrize("kind", FORMATS)
def test_code_of_the_card_answers_a_pair_of_texts(
    kind: str,
    shipped: dict[str, tuple[Path, Answer]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, _ = shipped[kind]
    (code,) = re.findall(r"```python\n(.*?)\n```", (folder / "README.md").read_text(), re.DOTALL)
    assert '"a text", "its pair", truncation=True, max_length=32' in code
    monkeypatch.chdir(folder)
    exec(code.replace('device="cuda"', 'device="cpu"').replace('.to("cuda")', '.to("cpu")'), {})
    labels = json.loads((folder / "config.json").read_text())["id2label"].values()
    assert capsys.readouterr().out.strip() in labels


def test_folder_of_a_trials_model_is_exported_with_its_record(trial: Path, tmp_path: Path) -> None:
    answer = export(trial / "model", "--to", tmp_path / "model")
    assert answer.code == 0
    assert f"| identity of the trial | {trial.name} |" in (tmp_path / "model/README.md").read_text()


def test_pattern_of_a_trial_is_its_records(trial: Path, tmp_path: Path) -> None:
    answer = export(trial, "--to", tmp_path / "model", "--pattern", "2of4")
    assert answer.code == 2
    assert "--pattern is for a folder without a record" in answer.err
    assert not (tmp_path / "model").exists()
