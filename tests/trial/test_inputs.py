"""A worker's memory of inputs: the same files are read once, a changed file is never served from memory."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest
from rich.console import Console

import nxm_sweep.data.tokenization
import nxm_sweep.trial.train
from nxm_sweep.config.compose import compose_settings
from nxm_sweep.settings import TrialSettings
from nxm_sweep.store.paths import trial_folder
from nxm_sweep.store.record import Record
from nxm_sweep.trial import inputs as module
from nxm_sweep.trial.inputs import Inputs
from nxm_sweep.trial.run import run_point

_ROWS = "text,label\n" + "".join(f"the film was {word},{word}\n" for word in ("good", "bad") * 4)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "rows.csv"
    file.write_text(_ROWS)
    return file


@pytest.fixture
def overrides(file: Path, tiny_model: Path, tmp_path: Path) -> list[str]:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    return [
        *("task=files", f"task.files={{train:{file},validation:{file}}}", "task.text_columns=[text]"),
        *("model=local", f"model.path={model}", "method=dense", f"output_dir={tmp_path / 'out'}", "training.epochs=1"),
        *("training.batch_size=8", "learning_rate.value=1e-3", "training.threads=1", "training.max_length=16"),
    ]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was read anew: rows and tokens, in order."""
    seen: list[str] = []
    prepare, tokenise = nxm_sweep.trial.train.prepare, nxm_sweep.data.tokenization.tokenise

    def counted_prepare(settings: TrialSettings) -> Any:
        seen.append("rows")
        return prepare(settings)

    def counted_tokenise(*args: Any, **kwargs: Any) -> Any:
        seen.append("tokens")
        return tokenise(*args, **kwargs)

    monkeypatch.setattr(nxm_sweep.trial.train, "prepare", counted_prepare)
    monkeypatch.setattr(nxm_sweep.trial.train, "tokenise", counted_tokenise)
    return seen


def _train(inputs: Inputs | None, overrides: list[str], *more: str) -> Record:
    record, trained = run_point(compose_settings([*overrides, *more]), Console(file=io.StringIO()), inputs=inputs)
    assert trained
    return record


def _outcome(record: Record) -> dict[str, Any]:
    return {key: record[key] for key in ("identity", "epochs", "data", "hashed", "best")}


def test_second_trial_reads_and_tokenises_nothing_and_learns_the_same(
    overrides: list[str], read: list[str], tmp_path: Path
) -> None:
    inputs = Inputs()
    _train(inputs, overrides)
    assert read == ["rows", "tokens"]
    second = _train(inputs, overrides, "seed=1")
    assert read == ["rows", "tokens"]
    shutil.rmtree(trial_folder(tmp_path / "out", second["identity"]))
    assert _outcome(_train(None, overrides, "seed=1")) == _outcome(second)


def test_another_length_is_tokenised_anew_from_the_same_rows(overrides: list[str], read: list[str]) -> None:
    inputs = Inputs()
    _train(inputs, overrides)
    _train(inputs, overrides, "training.max_length=8")
    assert read == ["rows", "tokens", "tokens"]


def test_file_that_was_changed_under_its_name_size_and_time_is_read_anew(
    overrides: list[str], read: list[str], file: Path
) -> None:
    inputs, before = Inputs(), file.stat()
    first = _train(inputs, overrides)
    file.write_text(_ROWS.replace("film", "book"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    second = _train(inputs, overrides)
    assert read == ["rows", "tokens"] * 2
    assert second["hashed"]["data"] != first["hashed"]["data"]


def test_changed_model_is_loaded_anew(overrides: list[str], read: list[str], tmp_path: Path) -> None:
    inputs = Inputs()
    first = _train(inputs, overrides)
    weights = tmp_path / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    second = _train(inputs, overrides)
    assert read == ["rows", "tokens"] * 2
    assert second["hashed"]["model"] != first["hashed"]["model"]


def test_only_the_latest_inputs_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def prepare(settings: TrialSettings) -> Any:
        seen.append(settings.task.name)
        return nxm_sweep.trial.train.Prepared(rows=None, model_folder=Path(), model_digest="", seconds=0.0)  # type: ignore[arg-type]

    monkeypatch.setattr(nxm_sweep.trial.train, "prepare", prepare)
    monkeypatch.setattr(module, "input_key", lambda settings: settings.task.name)
    inputs = Inputs()
    settings = [
        compose_settings([f"task=demo/{name}", "model=minilm_l6"])
        for name in ("paraphrase", "similarity", "acceptability")
    ]
    for number in (0, 1, 0, 2, 0, 1):
        inputs.prepare(settings[number])
    assert seen == [f"demo/{name}" for name in ("paraphrase", "similarity", "acceptability", "similarity")]


def test_branch_on_the_hub_is_never_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[TrialSettings] = []
    monkeypatch.setattr(nxm_sweep.trial.train, "prepare", calls.append)
    inputs, settings = Inputs(), compose_settings(["task=glue/rte", "model=minilm_l6"])
    inputs.prepare(settings)
    inputs.prepare(settings)
    assert len(calls) == 2
