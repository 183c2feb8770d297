"""What a job of a launcher leaves in its trial's folder."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nxm_sweep.config.compose import compose_settings
from nxm_sweep.settings import TrialSettings
from nxm_sweep.store.files import read_json
from nxm_sweep.store.paths import JOB
from nxm_sweep.store.progress import INTERRUPTED, request_stop
from nxm_sweep.sweep.execution import worker
from nxm_sweep.sweep.execution.launcher_job import answer_of, lives, read_job, run_job

FAILED = {"kind": "exception", "message": "ValueError: no", "when": "now", "traceback": ""}


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def _settings(output_dir: Path, *overrides: str) -> TrialSettings:
    return compose_settings(["task=demo/paraphrase", f"output_dir={output_dir}", *overrides])


def _train_as(monkeypatch: pytest.MonkeyPatch, train: Any) -> None:
    monkeypatch.setattr(worker, "train", train)


def test_a_job_shows_that_it_lives_while_it_trains_and_leaves_nothing_beside_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "trials" / "a"
    seen = []

    def train(settings: TrialSettings, identity: str) -> None:
        job = read_job(folder)
        assert job is not None
        seen.append((identity, lives(job, folder, 60.0), answer_of(job)))

    _train_as(monkeypatch, train)
    assert run_job(_settings(tmp_path), "a") is None
    assert seen == [("a", True, None)]
    assert list(folder.iterdir()) == []


def test_a_job_leaves_the_answer_that_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _train_as(monkeypatch, lambda *_: FAILED)
    assert run_job(_settings(tmp_path), "a") == FAILED
    assert answer_of(read_job(tmp_path / "trials" / "a")) == FAILED


def test_a_job_that_is_told_to_stop_before_it_begins_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _train_as(monkeypatch, lambda *_: pytest.fail("it has trained"))
    folder = tmp_path / "trials" / "a"
    folder.mkdir(parents=True)
    request_stop(folder, INTERRUPTED)
    assert run_job(_settings(tmp_path), "a") == {"stopped": INTERRUPTED}


def test_a_job_that_its_launcher_puts_back_into_the_queue_counts_as_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_point(*_: Any, **__: Any) -> None:
        raise SystemExit(-1)

    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setattr(worker, "run_point", run_point)
    with pytest.raises(SystemExit):
        run_job(_settings(tmp_path), "a")
    assert [path.name for path in (tmp_path / "trials" / "a").iterdir()] == ["log.txt"]


def test_a_trial_that_exits_elsewhere_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_point(*_: Any, **__: Any) -> None:
        raise SystemExit(7)

    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    monkeypatch.setattr(worker, "run_point", run_point)
    answer = run_job(_settings(tmp_path), "a")
    assert answer is not None
    assert answer["kind"] == "exit"
    assert len(read_json(tmp_path / "trials" / "a" / "failures.json")) == 1
    assert read_json(tmp_path / "trials" / "a" / JOB) == {"answer": answer}


def test_a_job_does_not_hear_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    _train_as(monkeypatch, train)
    assert run_job(_settings(tmp_path), "a") is None


def test_a_job_keeps_to_the_threads_of_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    _train_as(monkeypatch, lambda *_: None)
    run_job(_settings(tmp_path), "a")
    assert asked == []
    run_job(_settings(tmp_path, "sweep.threads=3"), "a")
    assert asked == [3]
