"""The command line end to end: train, ask again, be killed, go on; what is promised is read back from disk."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import datasets
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.numpy import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertModel, Trainer

import nxm_sweep.trial.train
from nxm_sweep.__main__ import main
from nxm_sweep.data.demo import generate
from nxm_sweep.errors import ConfigError
from nxm_sweep.store.record import Record
from tests.answer import Answer, ask
from tests.store.keys import undescribed

ROOT = Path(__file__).resolve().parents[1]
METHODS = ("dense", "asp", "warmup_asp", "nxm_paper", "nxm", "admm_unstructured", "nxm_refit", "sr_ste", "gradual")
ROWS = {"train": 64, "validation": 32}
EPOCHS = 2
MATRICES = {
    f"bert.encoder.layer.{layer}.{name}.weight"
    for layer in (0, 1)
    for name in (
        *(f"attention.{part}" for part in ("self.query", "self.key", "self.value", "output.dense")),
        *("intermediate.dense", "output.dense"),
    )
}


def _command(*arguments: str) -> Answer:
    return ask(main, "nxm_sweep", *arguments)


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Token ids are cached here and not at home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module")
def lively_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with larger weights, so that its answers depend on the text and on what is pruned."""
    folder = tmp_path_factory.mktemp("lively") / "model"
    shutil.copytree(tiny_model, folder)
    model = BertModel.from_pretrained(folder)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
                module.weight.mul_(8.0)
    model.config.initializer_range = 0.3  # the new head's
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def demo(lively_model: Path) -> list[str]:
    return [
        "task=demo/paraphrase",
        f"task.rows={{train:{ROWS['train']},validation:{ROWS['validation']}}}",
        *("model=local", f"model.path={lively_model}"),
        *(f"training.epochs={EPOCHS}", "training.max_length=32", "training.batch_size=16", "training.threads=1"),
        "learning_rate.value=5e-3",
    ]


@pytest.fixture(scope="module")
def trained(demo: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Answer]]:
    """A trial of every method, each in an output folder of its own, its model saved."""
    answers = {}
    for method in METHODS:
        outputs = tmp_path_factory.mktemp(method)
        answer = _command(*demo, f"method={method}", "save_model=true", f"output_dir={outputs}")
        answers[method] = (outputs, answer)
    return answers


def _record(outputs: Path) -> dict[str, Any]:
    (path,) = outputs.glob("trials/*/result.json")
    record: dict[str, Any] = json.loads(path.read_text())
    return record


def _model_folder(outputs: Path) -> Path:
    (folder,) = outputs.glob("trials/*/model")
    return folder


# --- one trial --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_trial_ends_with_a_record_and_says_where(method: str, trained: dict[str, tuple[Path, Answer]]) -> None:
    outputs, answer = trained[method]
    assert (answer.code, answer.err) == (0, "")
    record = _record(outputs)
    assert {path.name for path in (outputs / "trials" / record["identity"]).iterdir()} - {".lock"} == {
        "result.json",
        "predictions.json",
        "model",
    }
    assert f"record: {outputs}/trials/{record['identity']}/result.json" in answer.out
    assert f"best accuracy {100 * record['best']['value']:.2f} at epoch {record['best']['epoch']}" in answer.out


@pytest.mark.parametrize("method", METHODS)
def test_a_record_is_complete(method: str, trained: dict[str, tuple[Path, Answer]], tiny_model: Path) -> None:
    outputs, _ = trained[method]
    record = _record(outputs)
    assert set(undescribed(record, Record)) == set()
    assert (record["schema"], record["task"], record["method"]) == (2, "demo/paraphrase", method)
    assert record["sparsity_name"] == ("dense" if method == "dense" else "2of4")
    assert record["config"]["training"]["epochs"] == EPOCHS
    assert record["hashed"]["learning_rate"] == {"value": 0.005}
    assert record["selection"]["metric"] == "accuracy"
    assert record["steps"] == EPOCHS * ROWS["train"] // 16
    assert [entry["epoch"] for entry in record["epochs"]] == [1, 2]
    assert [entry["step"] for entry in record["epochs"]] == [4, 8]
    assert record["resumed_from_step"] is None
    assert record["versions"]["torch"] == torch.__version__
    seconds = record["seconds"]
    assert set(seconds) >= {"prepare", "load_model", "train", "train_cpu", "evaluate", "total"}
    assert seconds["train_cpu"] > 0
    assert seconds["total"] == pytest.approx(sum(seconds[part] for part in set(seconds) - {"train_cpu", "total"}))
    best = max(record["epochs"], key=lambda entry: entry["selection"])
    assert (record["best"]["epoch"], record["best"]["value"]) == (best["epoch"], best["selection"])


@pytest.mark.parametrize("method", METHODS)
def test_a_record_counts_what_was_there(method: str, trained: dict[str, tuple[Path, Answer]], tiny_model: Path) -> None:
    outputs, _ = trained[method]
    record = _record(outputs)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rows = generate("paraphrase", "train", ROWS["train"])
    texts = [[str(row[name]) for row in rows] for name in ("sentence1", "sentence2")]
    ids = tokenizer(*texts, truncation=True, max_length=32)["input_ids"]
    assert record["tokens"] == EPOCHS * sum(map(len, ids))
    assert (record["data"]["train_rows"], record["data"]["validation_rows"]) == (64, {"validation": 32})
    paraphrases = [int(row["label"]) for row in generate("paraphrase", "validation", ROWS["validation"])]
    majority = int(2 * sum(int(row["label"]) for row in rows) > len(rows))
    assert record["data"]["constant"] == {"validation": {"accuracy": paraphrases.count(majority) / len(paraphrases)}}
    assert record["data"]["duplicates"] == {"validation": {"rows": 0, "same_label": 0}}
    weights = load_file(_model_folder(outputs) / "model.safetensors")
    assert record["model"]["parameters"] == sum(weight.size for weight in weights.values())
    pruned = [weight.size for name, weight in weights.items() if name in MATRICES]
    assert record["model"]["target_parameters"] == (0 if method == "dense" else sum(pruned))
    iterations = [entry["step"] for entry in record["iterations"]]
    late = [4, 5, 6, 7, 8]  # of 8 steps, 3 are dense and a refit freezes the support after 5
    due = {"nxm_paper": [4, 8], "nxm_refit": late[:2], "nxm": late, "admm_unstructured": late}
    assert iterations == due.get(method, [])


@pytest.mark.parametrize("method", METHODS)
def test_the_saved_model_holds_its_pattern_exactly(method: str, trained: dict[str, tuple[Path, Answer]]) -> None:
    outputs, answer = trained[method]
    weights = load_file(_model_folder(outputs) / "model.safetensors")
    for name in MATRICES:
        nonzero = weights[name] != 0
        if method not in {"dense", "admm_unstructured"}:
            assert (nonzero.reshape(-1, 4).sum(axis=1) == 2).all(), name
        elif method == "admm_unstructured":
            assert nonzero.sum() == nonzero.size // 2, name
            assert (nonzero.reshape(-1, 4).sum(axis=1) != 2).any(), name
        else:
            assert nonzero.all(), name
    for name in ("bert.pooler.dense.weight", "classifier.weight"):
        assert (weights[name] != 0).all()
    sparsity = _record(outputs)["sparsity"]
    expected = set() if method == "dense" else MATRICES
    assert {check["matrix"] for check in sparsity["checked"]} == expected
    assert {row["matrix"] for row in sparsity["targets"]} == expected
    assert all(check["exact"] and check["violations"] == 0 for check in sparsity["checked"])
    zeros = {check["matrix"]: check["zeros"] for check in sparsity["checked"]}
    assert zeros == {name: int((weights[name] == 0).sum()) for name in expected}
    assert ("12 of 12 matrices hold exactly" in answer.out) == (method != "dense")


@pytest.mark.parametrize("method", METHODS)
def test_anyone_can_load_the_saved_model_and_finds_the_recorded_score(
    method: str, trained: dict[str, tuple[Path, Answer]]
) -> None:
    outputs, _ = trained[method]
    folder, record = _model_folder(outputs), _record(outputs)
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    rows = generate("paraphrase", "validation", ROWS["validation"])
    texts = [[str(row[name]) for row in rows] for name in ("sentence1", "sentence2")]
    labels = torch.tensor([int(row["label"]) for row in rows])
    batch = tokenizer(*texts, truncation=True, max_length=32, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits
    best = record["epochs"][record["best"]["epoch"] - 1]
    recorded = best["unpruned" if method == "dense" else "pruned"]["validation"]
    assert record["reported"] == {"validation": recorded}
    kept = json.loads((folder.parent / "predictions.json").read_text())
    assert kept["epoch"] == record["best"]["epoch"]
    assert kept["sets"]["validation"] == {"labels": labels.tolist(), "predictions": logits.argmax(dim=1).tolist()}
    assert recorded["accuracy"] == pytest.approx(float((logits.argmax(dim=1) == labels).double().mean()))
    assert recorded["loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-5)
    assert record["best"]["value"] == recorded["accuracy"]
    if best["unpruned"] and best["pruned"]:  # so that the score could not be the unpruned model's
        assert best["unpruned"]["validation"]["loss"] != pytest.approx(recorded["loss"], rel=1e-4)
    assert model.config.id2label == {0: "not_equivalent", 1: "equivalent"}


def test_what_the_last_prune_cost_is_said_in_one_line(trained: dict[str, tuple[Path, Answer]]) -> None:
    for method, (outputs, answer) in trained.items():
        record = _record(outputs)
        if method not in {"nxm_paper", "nxm", "admm_unstructured"}:
            assert record["last_prune"] is None
            assert "note:" not in answer.out
            continue
        last = record["epochs"][-1]
        assert record["last_prune"]["relative_residual"] == last["relative_distance"]
        residuals = record["last_prune"]["residuals"]  # the whole is a mean of squares of the parts, weighted by norms
        assert len(residuals) == len(record["sparsity"]["targets"])
        assert min(residuals) <= last["relative_distance"] <= max(residuals)
        assert record["last_prune"]["cost"] == pytest.approx(
            last["unpruned"]["validation"]["accuracy"] - last["pruned"]["validation"]["accuracy"]
        )
        notes = [line for line in answer.out.splitlines() if line.startswith("note: ")]
        assert bool(notes) == (last["relative_distance"] > 0.05) == (method == "nxm_paper")
        if not notes:
            continue
        (note,) = notes
        assert note == f"note: {record['last_prune']['advice']}"
        assert f"cost {100 * record['last_prune']['cost']:.2f} points" in note


def test_held_out_rows_select_and_the_validation_set_is_scored_once(
    demo: list[str], lively_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[str] = []
    evaluation_loop = Trainer.evaluation_loop

    def counting(self: Trainer, *arguments: Any, **named: Any) -> Any:
        scored.append(arguments[4] if len(arguments) > 4 else named["metric_key_prefix"])
        return evaluation_loop(self, *arguments, **named)

    monkeypatch.setattr(Trainer, "evaluation_loop", counting)
    common = [*demo, "method=asp", "selection=heldout", "selection.fraction=0.25", "save_model=true"]
    answer = _command(*common, f"output_dir={tmp_path}")
    assert (answer.code, answer.err) == (0, "")
    assert scored == ["eval_heldout"] * EPOCHS + ["eval_validation"]
    record = _record(tmp_path)
    assert (record["data"]["train_rows"], record["data"]["heldout_rows"]) == (48, 16)
    assert record["steps"] == EPOCHS * 48 // 16
    assert (record["selection"]["name"], record["selection"]["set"]) == ("heldout", "heldout")
    best = max(record["epochs"], key=lambda entry: entry["selection"])
    assert record["best"]["selection_value"] == best["selection"] == best["pruned"]["heldout"]["accuracy"]
    assert record["best"]["epoch"] == best["epoch"]
    model = AutoModelForSequenceClassification.from_pretrained(_model_folder(tmp_path))
    tokenizer = AutoTokenizer.from_pretrained(_model_folder(tmp_path))
    rows = generate("paraphrase", "validation", ROWS["validation"])
    texts = [[str(row[name]) for row in rows] for name in ("sentence1", "sentence2")]
    with torch.no_grad():
        logits = model(**tokenizer(*texts, truncation=True, max_length=32, padding=True, return_tensors="pt")).logits
    right = logits.argmax(dim=1) == torch.tensor([int(row["label"]) for row in rows])
    assert record["best"]["value"] == record["reported"]["validation"]["accuracy"]
    assert record["best"]["value"] == pytest.approx(float(right.double().mean()))
    assert f"{100 * record['best']['selection_value']:.2f} on held-out training rows" in answer.out
    kept = json.loads(next(tmp_path.glob("trials/*/predictions.json")).read_text())
    assert kept["sets"]["validation"]["predictions"] == logits.argmax(dim=1).tolist()


def test_validation_file_that_is_the_training_file_is_warned_of_once_and_recorded(
    demo: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in generate("paraphrase", "train", 32)))
    answer = _command(
        *(override for override in demo if not override.startswith("task")),
        *("task=files", "task.text_columns=[sentence1,sentence2]", "method=dense", f"output_dir={tmp_path}"),
        *(f"task.files.{split}={file}" for split in ("train", "validation")),
    )
    assert (answer.code, answer.err) == (0, "")
    assert [line for line in answer.out.splitlines() if line.startswith("warning: ")] == [
        (
            "warning: DATA LEAK: 32 of the 32 rows of validation (100.0%) are training rows too: "
            "the score measures memory, not generalization"
        )
    ]
    assert _record(tmp_path)["data"]["duplicates"] == {"validation": {"rows": 32, "same_label": 32}}


def test_broken_lines_of_qqp_are_counted_on_the_console_and_in_the_record(demo: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "QQP"
    folder.mkdir()
    for file, split in (("train", "train"), ("dev", "validation")):
        rows = generate("paraphrase", split, 32)
        lines = [f"{n}\t1\t2\t{row['sentence1']}\t{row['sentence2']}\t{row['label']}" for n, row in enumerate(rows)]
        lines.insert(5, "400001\t1\t2\tcut in two")
        (folder / f"{file}.tsv").write_text("\n".join(["id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", *lines]))
    overrides = [override for override in demo if not override.startswith("task")]
    answer = _command(
        *overrides, "task=glue/qqp", f"data.path={tmp_path}", "method=dense", f"output_dir={tmp_path / 'outputs'}"
    )
    assert (answer.code, answer.err) == (0, "")
    assert "note: broken lines of train, left out as on the hub: 1\n" in answer.out
    data = _record(tmp_path / "outputs")["data"]
    assert data["left_out"] == {"train": 1, "validation": 1}
    assert (data["train_rows"], data["validation_rows"]) == (32, {"validation": 32})


def test_methods_differ_in_what_they_train(trained: dict[str, tuple[Path, Answer]]) -> None:
    losses = [_record(outputs)["epochs"][-1]["training_loss"] for outputs, _ in trained.values()]
    assert len(set(losses)) == len(METHODS)
    assert np.isfinite(losses).all()


# --- asked again ------------------------------------------------------------------------------------------------------


def test_a_finished_trial_is_shown_and_not_trained_again(
    trained: dict[str, tuple[Path, Answer]], demo: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs, first = trained["nxm"]

    def train(*_: Any, **__: Any) -> NoReturn:
        pytest.fail("trained again")

    monkeypatch.setattr(nxm_sweep.trial.train, "run_trial", train)
    answer = _command(*demo, "method=nxm", f"output_dir={outputs}", "training.device=cpu")
    assert answer.code == 0
    assert "this trial is finished: its record is shown; force=true trains it again" in answer.out
    assert "this trial is finished" not in first.out
    assert f"best accuracy {100 * _record(outputs)['best']['value']:.2f}" in answer.out


def test_force_trains_again_and_finds_the_same(
    trained: dict[str, tuple[Path, Answer]], demo: list[str], tmp_path: Path
) -> None:
    outputs, _ = trained["nxm"]
    before, file = _record(outputs), next(outputs.glob("trials/*/result.json"))
    written = file.stat().st_mtime_ns
    answer = _command(*demo, "method=nxm", f"output_dir={outputs}", "force=true")
    assert answer.code == 0
    assert "finished" not in answer.out
    assert file.stat().st_mtime_ns > written
    after = _record(outputs)
    assert (after["epochs"], after["iterations"]) == (before["epochs"], before["iterations"])
    assert after["config"]["force"] is True


def test_a_model_asked_for_too_late_is_bad_input(demo: list[str], tmp_path: Path) -> None:
    command = [*demo, "method=dense", f"output_dir={tmp_path}"]
    assert _command(*command).code == 0
    assert not list(tmp_path.glob("trials/*/model"))
    answer = _command(*command, "save_model=true")
    error, hint = answer.err.splitlines()
    assert answer.code == 2
    assert error == f"error: the trial {_record(tmp_path)['identity']} has a record, but its model was not saved"
    assert hint == "hint: force=true trains it again"
    assert _command(*command, "save_model=true", "force=true").code == 0
    assert _model_folder(tmp_path).is_dir()


def test_outputs_go_below_the_current_directory(
    demo: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _command(*demo, "method=dense", "training.epochs=1").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]
    assert _record(tmp_path / "outputs")["method"] == "dense"


def test_a_killed_trial_goes_on_to_the_same_end(demo: list[str], tmp_path: Path) -> None:
    command = [*demo, "method=nxm", "training.epochs=3", "task.rows={train:256,validation:32}"]
    environment = os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "nxm_sweep", *command, f"output_dir={killed}"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not _checkpoints(killed):
        assert process.poll() is None, "it ended before its first checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not list(killed.glob("trials/*/result.json"))

    assert _command(*command, f"output_dir={killed}").code == 0
    assert _command(*command, f"output_dir={tmp_path / 'whole'}").code == 0
    resumed, whole = _record(killed), _record(tmp_path / "whole")
    assert resumed["resumed_from_step"] in {16, 32}
    assert whole["resumed_from_step"] is None
    for key in ("identity", "epochs", "iterations", "best", "travel", "sparsity", "steps", "tokens"):
        assert resumed[key] == whole[key], key
    assert not list(killed.glob("trials/*/work"))


def _checkpoints(outputs: Path) -> list[Path]:
    """Checkpoints that were written to their end."""
    return [path.parent for path in outputs.glob("trials/*/work/checkpoint-*/manifest.json")]


# --- failures ---------------------------------------------------------------------------------------------------------


def test_a_diverged_training_is_exit_code_1_and_leaves_no_record(
    demo: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute: Any = Trainer.compute_loss

    def diverge(self: Trainer, *arguments: Any, **named: Any) -> Any:
        return compute(self, *arguments, **named) * (torch.nan if self.state.global_step >= 2 else 1.0)

    monkeypatch.setattr(Trainer, "compute_loss", diverge)
    answer = _command(*demo, "method=nxm", f"output_dir={tmp_path}")
    error, hint = answer.err.splitlines()
    assert answer.code == 1
    assert error == "error: the training loss became nan at step 3"
    assert hint == "hint: lower learning_rate.value, or raise training.warmup_ratio"
    assert not list(tmp_path.glob("trials/*/result.json"))

    monkeypatch.undo()
    assert _command(*demo, "method=nxm", f"output_dir={tmp_path}").code == 0
    assert _record(tmp_path)["resumed_from_step"] is None


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (("method=asp", "rho.value=1e-3"), "method=asp does not read rho.value"),
        (("method=nxm", "rho=relative"), "method=nxm does not read rho"),
        (("method=nxm_paper", "rho.value=1e-3"), ""),
        (
            ("method=nxm", "method.sr_ste.decay=1e-3", "method.admm.dense_fraction=0"),
            "method=nxm does not read method.sr_ste.decay",
        ),
        (("-m", "method=dense,asp", "rho.value=1e-3"), "no method of this sweep reads rho.value"),
        (("-m", "method=asp,nxm_paper", "rho.value=1e-3,1e-2"), ""),
    ],
)
def test_a_setting_that_no_method_reads_is_noted(
    given: tuple[str, ...], line: str, demo: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> NoReturn:
        raise ConfigError("the trial would begin")

    monkeypatch.setattr("nxm_sweep.trial.run.run_point", refuse)
    options = ["sweep.dry_run=true"] if given[0] == "-m" else []
    answer = _command(*given[:1], *demo, *given[1:], *options, f"output_dir={tmp_path}")
    notes = [one.removeprefix("note: ") for one in answer.out.splitlines() if " read" in one]
    assert notes == ([line] if line else [])


def test_one_bad_point_of_several_is_found_before_any_is_trained(demo: list[str], tmp_path: Path) -> None:
    answer = _command("-m", *demo, "method=dense", "training.epochs=1,-1", f"output_dir={tmp_path}")
    assert answer.code == 2
    assert answer.err == "error: training.epochs must be at least 0, which prunes once and trains nothing, but got -1\n"
    assert not list(tmp_path.glob("trials/*"))


def test_a_sweep_is_not_forced(demo: list[str], tmp_path: Path) -> None:
    answer = _command("-m", *demo, "method=dense", "force=true", f"output_dir={tmp_path}")
    assert answer.code == 2
    assert answer.err.startswith("error: force=true is for single trials")
    assert not list(tmp_path.glob("trials/*"))


def test_an_interruption_says_how_to_go_on(demo: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(nxm_sweep.trial.train, "run_trial", interrupt)
    answer = _command(*demo, f"output_dir={tmp_path}")
    assert answer.code == 130
    assert answer.err == "interrupted; the same command continues after the last finished epoch\n"


# --- the shell --------------------------------------------------------------------------------------------------------


def _shell(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nxm_sweep", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_first_sweep_prints_nothing_on_stderr(
    demo: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker tokenises, for which Datasets has a progress bar, and is killed at the end."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    done = _shell(tmp_path, "-m", *demo, "method=dense", "sweep.workers=1", f"output_dir={tmp_path / 'outputs'}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 of 1 points have a record, 1 trained now" in done.stdout


def test_help_lists_groups_and_keys(tmp_path: Path) -> None:
    done = _shell(tmp_path, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    methods = "method: admm_unstructured, asp, dense, gradual, nxm, nxm_paper, nxm_refit, sr_ste, warmup_asp"
    for line in (methods, "sparsity: 1of4, 2of4, 4of8", "The table:     nxm-sweep report outputs"):
        assert line in done.stdout


def test_version_is_that_of_the_installed_package(tmp_path: Path) -> None:
    done = _shell(tmp_path, "--version")
    assert (done.returncode, done.stdout) == (0, f"nxm_sweep {metadata.version('nxm_sweep')}\n")


@pytest.mark.parametrize("command", ["report", "status", "verify", "export", "predict", "sensitivity", "speed"])
def test_a_command_is_a_subcommand_and_a_module(command: str, tmp_path: Path) -> None:
    module = [sys.executable, "-m", f"nxm_sweep.{command}"]
    script = [str(Path(sys.executable).with_name("nxm-sweep")), command]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    texts = []
    for call in (module, script):
        done = subprocess.run(
            [*call, "--help"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        texts.append(" ".join(done.stdout.split()))
    assert texts[1].startswith(f"usage: nxm-sweep {command} ")
    assert texts[0].replace(f"python -m nxm_sweep.{command}", f"nxm-sweep {command}") == texts[1]


def test_bash_completes_choices_and_keys(tmp_path: Path) -> None:
    script = """
    eval "$(nxm-sweep --shell-completion install=bash)"
    COMP_CWORD=1
    for COMP_LINE in 'nxm-sweep method=nxm' 'nxm-sweep training.batch'; do
      COMP_POINT=${#COMP_LINE}; hydra_bash_completion; echo "${COMPREPLY[@]}"
    done
    """
    (tmp_path / "nxm-sweep").symlink_to(Path(sys.executable).with_name("nxm-sweep"))  # Hydra's script splits at spaces
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    choices, keys = done.stdout.splitlines()
    assert choices == "method=nxm method=nxm_paper method=nxm_refit"
    assert keys == "training.batch_size= training.batching="


def test_bad_input_from_the_shell_is_exit_code_2_without_a_traceback(tmp_path: Path) -> None:
    done = _shell(tmp_path, "training.epochs=-1")
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr == "error: training.epochs must be at least 0, which prunes once and trains nothing, but got -1\n"
    )


def test_cfg_job_prints_what_would_run_and_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answer = _command("--cfg", "job", "task=glue/sst2", "method=asp", "training.epochs=7")
    assert (answer.code, answer.err) == (0, "")
    config = OmegaConf.create(answer.out)
    assert (config.task.name, config.method.name, config.training.epochs) == ("glue/sst2", "asp", 7)
    assert OmegaConf.to_container(config.learning_rate.grid) == [1e-5, 3e-5, 5e-5, 7e-5, 9e-5]
    assert list(tmp_path.iterdir()) == []
