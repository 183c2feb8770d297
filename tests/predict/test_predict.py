"""``python -m nxm_sweep.predict``: what it writes is what the saved model says when Transformers alone asks it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset
from rich.console import Console
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import nxm_sweep.training.models
from nxm_sweep.config.compose import compose_settings
from nxm_sweep.data.demo import generate
from nxm_sweep.predict import __main__
from nxm_sweep.store.paths import trial_folder
from nxm_sweep.store.records import write_record
from nxm_sweep.training.packing import pack_
from nxm_sweep.trial.run import run_point
from tests.answer import Answer, ask
from tests.store.core import core_record

MAX_LENGTH = 24
ROWS = [(str(row["sentence1"]), str(row["sentence2"])) for row in generate("paraphrase", "validation", 80)]
ROWS[3:6] = [('" An opening quote', "NA"), ("", "x\u2028y"), (" ".join(text for row in ROWS for text in row), "long")]

NUMBERED = ("0", "1")
NLI = ("entailment", "not_entailment")
MNLI = ("entailment", "neutral", "contradiction")
INDEXED = "index\tsentence1\tsentence2"
# Each task's words by the hub's class numbers; its test files in the official download with their headers.
TASKS: dict[str, tuple[tuple[str, ...], dict[str, tuple[str, str]]]] = {
    "cola": (NUMBERED, {"CoLA.tsv": ("CoLA/test.tsv", "index\tsentence")}),
    "sst2": (NUMBERED, {"SST-2.tsv": ("SST-2/test.tsv", "index\tsentence")}),
    "mrpc": (NUMBERED, {"MRPC.tsv": ("MRPC/test.tsv", "index\t#1 String\t#2 String")}),
    "stsb": ((), {"STS-B.tsv": ("STS-B/test.tsv", INDEXED)}),
    "qqp": (NUMBERED, {"QQP.tsv": ("QQP/test.tsv", "id\tquestion1\tquestion2")}),
    "mnli": (
        MNLI,
        {
            "MNLI-m.tsv": ("MNLI/test_matched.tsv", INDEXED),
            "MNLI-mm.tsv": ("MNLI/test_mismatched.tsv", INDEXED),
            "AX.tsv": ("diagnostic/diagnostic.tsv", INDEXED),
        },
    ),
    "qnli": (NLI, {"QNLI.tsv": ("QNLI/test.tsv", "index\tquestion\tsentence")}),
    "rte": (NLI, {"RTE.tsv": ("RTE/test.tsv", INDEXED)}),
    "wnli": (NUMBERED, {"WNLI.tsv": ("WNLI/test.tsv", INDEXED)}),
}
HUB_SPLITS = {"MNLI-m.tsv": "test_matched", "MNLI-mm.tsv": "test_mismatched"}


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


def command(*arguments: object) -> Answer:
    return ask(__main__.main, "predict", *arguments)


def refused(*arguments: object) -> str:
    """What the command says of bad input, which it finds before it loads a model."""

    def load(folder: Path) -> Any:
        raise AssertionError(f"{folder} was loaded")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nxm_sweep.training.models, "load_classifier", load)
        answer = command(*arguments)
    assert answer.code == 2
    error, hint = answer.err.splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    return answer.err


def rows_of(file: str) -> list[tuple[str, str]]:
    """Other rows for each test set."""
    first = sum(map(ord, file)) % 20
    return [*ROWS[3:6], *ROWS[first : first + 20]]


def write_download(task: str, folder: Path) -> Path:
    for file, (place, header) in TASKS[task][1].items():
        lines = [header]
        for index, row in enumerate(rows_of(file)):
            lines.append("\t".join([str(index), *row[: header.count("\t")]]))
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes("\n".join([*lines, ""]).encode())
    return folder


def write_hub(task: str, folder: Path) -> Path:
    columns = compose_settings([f"task=glue/{task}"]).task.text_columns
    card: dict[str, list[str]] = {}
    for file in TASKS[task][1]:
        config, split = ("ax" if file == "AX.tsv" else task), HUB_SPLITS.get(file, "test")
        rows = rows_of(file)
        (folder / config).mkdir(parents=True, exist_ok=True)
        texts = {column: [row[place] for row in rows] for place, column in enumerate(columns)}
        table = Dataset.from_dict({**texts, "label": [-1] * len(rows), "idx": list(range(len(rows)))})
        table.to_parquet(folder / config / f"{split}-00000-of-00001.parquet")
        card.setdefault(config, []).extend([f"  - split: {split}", f"    path: {config}/{split}-*"])
    lines = [line for config, splits in card.items() for line in (f"- config_name: {config}", "  data_files:", *splits)]
    (folder / "README.md").write_text("\n".join(["---", "configs:", *lines, "---", ""]))
    return folder


def finish(outputs: Path, model: Path, identity: str, data: Path, *overrides: str) -> Path:
    """A finished trial without its training: a record, and a saved model whose answers depend on the text."""
    settings = compose_settings([*overrides, f"data.path={data}", f"training.max_length={MAX_LENGTH}"])
    folder = trial_folder(outputs, identity)
    classes = settings.task.labels or ["score"]
    torch.manual_seed(1)
    saved = AutoModelForSequenceClassification.from_pretrained(model, id2label=dict(enumerate(classes)))
    with torch.no_grad():
        for module in saved.modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
                module.weight.mul_(8.0)
        said = _outputs(saved, AutoTokenizer.from_pretrained(model), ROWS[:20], paired=True)
        if len(classes) > 1:
            saved.classifier.bias -= said.mean(0)  # so that every class is the answer to some rows
        else:
            saved.classifier.weight *= 4 / said.std()  # so that some lie outside 0 to 5
            saved.classifier.bias.fill_(2.5 - 4 * float(said.mean() / said.std()))
    saved.save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(model).save_pretrained(folder / "model")
    write_record(folder, core_record(identity, config=asdict(settings)))
    return folder


def _outputs(model: Any, tokenizer: Any, rows: Sequence[Sequence[str]], *, paired: bool) -> torch.Tensor:
    """Each row on its own, by Transformers alone."""
    outputs = []
    with torch.no_grad():
        for first, second in rows:
            inputs = tokenizer(first, second if paired else None, truncation=True, max_length=MAX_LENGTH)
            outputs.append(model(**{name: torch.tensor([ids]) for name, ids in inputs.items()}).logits[0])
    return torch.stack(outputs)


def expected(model: Path, file: str, words: Sequence[str], *, paired: bool) -> list[str]:
    loaded = AutoModelForSequenceClassification.from_pretrained(model).eval()
    outputs = _outputs(loaded, AutoTokenizer.from_pretrained(model), rows_of(file), paired=paired)
    if words:
        return [words[int(row.argmax())] for row in outputs]
    return [str(min(max(float(row[0]), 0.0), 5.0)) for row in outputs]


def answers_in(path: Path) -> list[str]:
    header, *lines = path.read_bytes().decode().removesuffix("\n").split("\n")
    assert header == "index\tprediction"
    assert [line.split("\t")[0] for line in lines] == [str(index) for index in range(len(lines))]
    return [line.split("\t")[1] for line in lines]


@pytest.fixture(scope="module")
def rte(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished RTE trial, below ``outputs/trials``; its data is beside ``outputs``."""
    root = tmp_path_factory.mktemp("rte")
    data = write_download("rte", root / "data")
    return finish(root / "outputs", tiny_model, "ab12ab12ab12ab12", data, "task=glue/rte")


@pytest.mark.parametrize("task", TASKS)
def test_both_layouts_give_what_the_saved_model_says(task: str, tiny_model: Path, tmp_path: Path) -> None:
    words, files = TASKS[task]
    downloaded = write_download(task, tmp_path / "download")
    folder = finish(tmp_path / "outputs", tiny_model, "0123456789abcdef", downloaded, f"task=glue/{task}")
    answer = command("0123", "--output-dir", tmp_path / "outputs")
    assert answer.code == 0, answer.err
    assert sorted(path.name for path in (folder / "predicted").iterdir()) == sorted(files)
    hub = write_hub(task, tmp_path / "hub")
    assert command(folder, "--data", hub, "--to", tmp_path / "to").code == 0
    for file, (_, header) in files.items():
        wanted = expected(folder / "model", file, words, paired=header.count("\t") == 2)
        said = answers_in(folder / "predicted" / file)
        if words:
            assert said == wanted
            assert len(set(said)) > 1
        else:
            assert [float(each) for each in said] == pytest.approx([float(each) for each in wanted], abs=1e-4)
            assert {"0.000000", "5.000000"} < set(said)  # some lie outside the range
        assert (tmp_path / "to" / file).read_bytes() == (folder / "predicted" / file).read_bytes()
        assert f"{file}: {len(said)} rows in fp32: " in answer.out
        assert f"there are {len(said)}: GLUE will refuse {file}" in answer.err


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_trained_trial_answers_its_validation_rows_as_its_own_evaluation_did(
    precision: str, tiny_model: Path, tmp_path: Path
) -> None:
    settings = compose_settings(
        [
            *("task=demo/paraphrase", "task.rows={train: 64, validation: 40}", "method=asp", "save_model=true"),
            *("model=local", f"model.path={tiny_model}", f"output_dir={tmp_path}", "training.epochs=1"),
            *("learning_rate.value=1e-2", "training.device=cpu", f"training.precision={precision}"),
        ]
    )
    record, _ = run_point(settings, Console(quiet=True))
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in generate("paraphrase", "validation", 40)))
    answer = command(record["identity"], "--output-dir", tmp_path, "--rows", rows, "--to", tmp_path / "said.tsv")
    assert answer.code == 0, answer.err
    kept = json.loads((trial_folder(tmp_path, record["identity"]) / "predictions.json").read_text())
    (numbers,) = (part["predictions"] for part in kept["sets"].values())
    assert answers_in(tmp_path / "said.tsv") == [settings.task.labels[number] for number in numbers]
    assert "demo/paraphrase is none of GLUE's tasks" in refused(record["identity"], "--output-dir", tmp_path)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_trial_answers_in_its_own_precision_and_says_so(precision: str, tiny_model: Path, tmp_path: Path) -> None:
    folder = finish(tmp_path, tiny_model, "f" * 16, tmp_path, "task=glue/stsb", f"training.precision={precision}")
    rows = tmp_path / "own.jsonl"
    rows.write_text("".join(json.dumps({"sentence1": a, "sentence2": b}) + "\n" for a, b in ROWS))
    answer = command("fff", "--output-dir", tmp_path, "--rows", rows)
    assert answer.code == 0, answer.err
    assert f"{len(ROWS)} rows in {precision}: " in answer.out
    said = np.array([float(each) for each in answers_in(folder / "predicted" / "own.predictions.tsv")])
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    pack_(model)  # as predict does: rounding in 16 bits depends on the way
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    with torch.autocast("cpu", dtype=dtype):
        there = _outputs(model.eval(), tokenizer, ROWS, paired=True)[:, 0].float().numpy()
    in_fp32 = _outputs(model, tokenizer, ROWS, paired=True)[:, 0].numpy()
    same, as_fp32 = (np.mean(np.abs(said - other) < 1e-6) for other in (there, in_fp32))
    assert same > 0.5  # of some rows the last bits depend on those beside them
    assert as_fp32 < 0.1


def test_own_rows_are_answered_in_the_models_words(tiny_model: Path, tmp_path: Path) -> None:
    labels = "task.labels=[yes,'no, never',perhaps]"
    files = ("task.files.train=t.csv", "task.files.validation=v.csv")
    folder = finish(tmp_path, tiny_model, "f" * 16, tmp_path, "task=files", "task.text_columns=[q,a]", labels, *files)
    rows = tmp_path / "own.jsonl"
    rows.write_text("".join(json.dumps({"a": a, "q": q, "label": 7}) + "\n" for q, a in rows_of("own")))
    assert command("fff", "--output-dir", tmp_path, "--rows", rows).code == 0
    said = answers_in(folder / "predicted" / "own.predictions.tsv")
    assert said == expected(folder / "model", "own", ("yes", "no, never", "perhaps"), paired=True)
    assert len(set(said)) > 1


def test_probabilities_of_own_rows_are_those_of_the_saved_model(tiny_model: Path, tmp_path: Path) -> None:
    words = ("yes", "no, never", "perhaps")
    task = ("task=files", "task.text_columns=[q,a]", "task.labels=[yes,'no, never',perhaps]", "task.files.train=t.csv")
    folder = finish(tmp_path, tiny_model, "f" * 16, tmp_path, *task)
    rows, place = tmp_path / "own.jsonl", tmp_path / "answers.tsv"
    rows.write_text("".join(json.dumps({"a": a, "q": q}) + "\n" for q, a in rows_of("own")))
    assert command("fff", "--output-dir", tmp_path, "--rows", rows, "--to", place, "--probabilities").code == 0
    header, *lines = (line.split("\t") for line in place.read_text().splitlines())
    assert header == ["index", "prediction", *(f"p({word})" for word in words)]
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    wanted = torch.softmax(_outputs(model, tokenizer, rows_of("own"), paired=True), dim=-1)
    found = torch.tensor([[float(value) for value in line[2:]] for line in lines])
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)
    assert [line[1] for line in lines] == [words[int(row.argmax())] for row in wanted]


def test_own_numbers_are_not_brought_into_the_range_of_sts_b(tiny_model: Path, tmp_path: Path) -> None:
    folder = finish(tmp_path, tiny_model, "f" * 16, tmp_path, "task=glue/stsb")
    rows = tmp_path / "own.jsonl"
    rows.write_text("".join(json.dumps({"sentence1": a, "sentence2": b}) + "\n" for a, b in ROWS[10:]))
    assert command("fff", "--output-dir", tmp_path, "--rows", rows).code == 0
    assert "glue/stsb is a regression" in refused("fff", "--output-dir", tmp_path, "--rows", rows, "--probabilities")
    said = [float(each) for each in answers_in(folder / "predicted" / "own.predictions.tsv")]
    assert min(said) < 0
    assert max(said) > 5


def test_mnli_without_the_diagnostic_set_says_so(tiny_model: Path, tmp_path: Path) -> None:
    data = write_download("mnli", tmp_path / "data")
    shutil.rmtree(data / "diagnostic")
    folder = finish(tmp_path, tiny_model, "f" * 16, data, "task=glue/mnli")
    answer = command("f", "--output-dir", tmp_path)
    assert answer.code == 0
    assert "AX.tsv is left out: " in answer.out
    assert sorted(path.name for path in (folder / "predicted").iterdir()) == ["MNLI-m.tsv", "MNLI-mm.tsv"]
    assert "--to names one file" in refused("f", "--output-dir", tmp_path, "--to", tmp_path / "MNLI.tsv")
    (data / "MNLI" / "test_mismatched.tsv").unlink()
    refused("f", "--output-dir", tmp_path)


def test_the_file_may_be_named_and_is_replaced(rte: Path, tmp_path: Path) -> None:
    place = tmp_path / "new" / "RTE.tsv"
    assert command(rte, "--to", place).code == 0
    written = place.read_bytes()
    place.write_text("of an earlier run")
    assert command(rte, "--to", place).code == 0
    assert place.read_bytes() == written
    assert [path.name for path in place.parent.iterdir()] == ["RTE.tsv"]


def test_bad_input_is_one_line_and_a_hint_before_a_model_loads(rte: Path, tmp_path: Path) -> None:
    outputs = rte.parents[1]
    taken = tmp_path / "taken"
    taken.touch()
    assert "no trial is named" in refused()
    assert "begins with 'zz'" in refused("zz", "--output-dir", outputs)
    assert "there is no folder /none/here" in refused(rte, "--data", "/none/here")
    assert "holds neither RTE/test.tsv" in refused(rte, "--data", tmp_path)
    assert "there is no file" in refused(rte, "--rows", tmp_path / "none.csv")
    assert "cannot be made" in refused(rte, "--to", taken / "folder")
    (tmp_path / "rows.csv").write_text("text\na\n")
    assert "no column 'sentence1'" in refused(rte, "--rows", tmp_path / "rows.csv")
    assert "a submission to GLUE has none" in refused(rte, "--probabilities")


def test_trial_without_its_model_or_with_a_damaged_record_is_refused(rte: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(rte, tmp_path / "trials" / rte.name)
    config = folder / "model" / "config.json"
    shape = json.loads(config.read_text())
    config.write_text(json.dumps({**shape, "id2label": {"0": "a", "1": "b", "2": "c"}}))
    assert f"glue/rte has 2 outputs but the model in {folder / 'model'} 3" in refused(folder)
    config.write_text("{")
    assert "is not a valid JSON file" in command(folder).err.splitlines()[0]
    shutil.rmtree(folder / "model")
    assert "save_model=true force=true" in refused(folder)
    record = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**record, "config": {}}))
    assert "does not say how it was trained" in refused(folder)
    (folder / "result.json").write_text("{")
    assert "cannot be read" in refused(folder)


def test_model_that_answers_nan_or_lacks_its_head_writes_nothing(rte: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(rte, tmp_path / "trials" / rte.name)
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model")
    with torch.no_grad():
        model.classifier.bias[0] = torch.nan
    model.save_pretrained(folder / "model")
    answer = command(folder, "--to", tmp_path / "to")
    assert (answer.code, "row 0 is not finite" in answer.err) == (2, True)
    model.bert.save_pretrained(folder / "model")
    shutil.copy(rte / "model" / "config.json", folder / "model")
    answer = command(folder, "--to", tmp_path / "to")
    assert (answer.code, "lacks 2 of its weights, such as classifier.bias" in answer.err) == (2, True)
    assert list((tmp_path / "to").iterdir()) == []


def test_same_answer_to_every_row_is_warned_of(rte: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(rte, tmp_path / "trials" / rte.name)
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model")
    with torch.no_grad():
        model.classifier.bias[1] += 1000.0
    model.save_pretrained(folder / "model")
    answer = command(folder)
    assert "entailment 0, not_entailment 23" in answer.out
    assert "warning: every row of RTE.tsv has the same answer" in answer.err


def test_check_tells_whole_files_from_others(rte: Path, tmp_path: Path) -> None:
    whole = tmp_path / "WNLI.tsv"
    whole.write_text("index\tprediction\n" + "".join(f"{index}\t{index % 2}\n" for index in range(146)))
    answer = command("--check", whole)
    assert (answer.code, answer.out) == (0, f"{whole}: 146 rows, as GLUE wants them\n")
    assert command(rte, "--to", tmp_path).code == 0
    answer = command("--check", whole, tmp_path / "RTE.tsv")
    assert (answer.code, answer.out.splitlines()[1]) == (
        1,
        f"{tmp_path / 'RTE.tsv'}: GLUE's test set has 3,000 rows but there are 23",
    )
    whole.write_text(whole.read_text().replace("\t1\n", "\tyes\n"))
    answer = command("--check", whole)
    assert (answer.code, "must be one of 0, 1, but not so row 1" in answer.out) == (1, True)
    other = (tmp_path / "RTE.tsv").rename(tmp_path / "rte.tsv")
    assert (command("--check", other).code, "no file of this name" in command("--check", other).out) == (1, True)
    assert command("--check", tmp_path / "none.tsv").code == 2
