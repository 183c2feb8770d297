"""One point, exactly once: who asks second gets the record, and a crash leaves nothing behind."""

from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from filelock import FileLock
from rich.console import Console

from nxm_sweep.config.compose import compose_settings
from nxm_sweep.errors import NonFiniteError, RecordError
from nxm_sweep.settings import TrialSettings
from nxm_sweep.store.paths import trial_folder
from nxm_sweep.store.record import Record
from nxm_sweep.store.records import read_record
from nxm_sweep.training.monitor import Monitor
from nxm_sweep.trial import train
from nxm_sweep.trial.identity import identity_of
from nxm_sweep.trial.run import run_point
from tests.store.core import core_record

SECONDS = 20  # no wait of these tests is longer


class Trials:
    """Stands for the training: counts, waits or fails as told."""

    def __init__(self) -> None:
        self.folders: list[Path] = []
        self.error: BaseException | None = None
        self.may_finish = threading.Event()
        self.may_finish.set()
        self.started = threading.Event()

    def run(
        self, settings: TrialSettings, prepared: Any, folder: Path, console: Console, monitor: Monitor, *, work: Path
    ) -> dict[str, Any]:
        self.folders.append(folder)
        self.started.set()
        assert self.may_finish.wait(SECONDS)
        if self.error is not None:
            raise self.error
        if settings.save_model:
            (folder / "model").mkdir()
        body = core_record("")
        return {name: body[name] for name in ("best", "epochs", "sparsity", "seconds")} | {"turn": len(self.folders)}


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> Trials:
    fake = Trials()
    prepared = SimpleNamespace(
        rows=SimpleNamespace(digest="rows"), model_digest="files", teacher_digest="", carries_head=False
    )
    monkeypatch.setattr(train, "prepare", lambda _: prepared)
    monkeypatch.setattr(train, "run_trial", fake.run)
    return fake


@pytest.fixture
def settings(tmp_path: Path) -> TrialSettings:
    return compose_settings(["task=demo/paraphrase", "method=asp", f"output_dir={tmp_path}"])


def _console() -> Console:
    return Console(file=io.StringIO(), width=200)


def _said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_point_is_trained_once_and_its_record_returned_ever_after(trials: Trials, settings: TrialSettings) -> None:
    first, trained = run_point(settings, _console())
    again, trained_again = run_point(settings, _console())
    assert (trained, trained_again, len(trials.folders)) == (True, False, 1)
    assert again == first


def _turn(record: Record) -> int:
    """Which of the fake trainings wrote a record."""
    return int(cast("dict[str, Any]", record)["turn"])


def test_a_record_says_what_it_is_of(trials: Trials, settings: TrialSettings, tmp_path: Path) -> None:
    record, _ = run_point(settings, _console())
    identity, hashed = identity_of(settings, data_digest="rows", model_digest="files")
    assert trials.folders == [tmp_path / "trials" / identity]
    assert read_record(tmp_path / "trials" / identity) == record
    assert (record["schema"], record["identity"], record["hashed"]) == (2, identity, hashed)
    names = ("task", "method", "sparsity_name", "model_name")
    assert [cast("dict[str, Any]", record)[name] for name in names] == ["demo/paraphrase", "asp", "2of4", "bert_base"]
    assert record["config"]["learning_rate"]["value"] == 3e-5
    assert _turn(record) == 1
    started, finished = map(datetime.fromisoformat, (record["started"], record["finished"]))
    assert started.tzinfo is not None
    assert started <= finished


def test_a_dense_point_names_no_pattern(trials: Trials, tmp_path: Path) -> None:
    record, _ = run_point(compose_settings(["method=dense", f"output_dir={tmp_path}"]), _console())
    assert record["sparsity_name"] == "dense"


def test_force_trains_again_and_replaces_the_record(trials: Trials, settings: TrialSettings, tmp_path: Path) -> None:
    first, _ = run_point(settings, _console())
    settings.force = True
    second, trained = run_point(settings, _console())
    assert trained
    assert (_turn(first), _turn(second)) == (1, 2)
    assert first["identity"] == second["identity"]
    assert read_record(trial_folder(tmp_path, first["identity"])) == second


def test_two_who_ask_at_once_train_once(trials: Trials, settings: TrialSettings) -> None:
    trials.may_finish.clear()
    consoles = [_console(), _console()]
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(run_point, settings, consoles[0])]
        assert trials.started.wait(SECONDS)
        asked.append(pool.submit(run_point, settings, consoles[1]))
        for _ in range(SECONDS * 100):
            if "waiting for its record" in _said(consoles[1]):
                break
            threading.Event().wait(0.01)
        trials.may_finish.set()
        (first, trained), (second, trained_too) = (answer.result(SECONDS) for answer in asked)
    assert "waiting for its record" in _said(consoles[1])
    assert "waiting" not in _said(consoles[0])
    assert len(trials.folders) == 1
    assert (trained, trained_too) == (True, False)
    assert first == second


def test_points_that_differ_do_not_wait_for_each_other(trials: Trials, settings: TrialSettings, tmp_path: Path) -> None:
    trials.may_finish.clear()
    other = compose_settings(["task=demo/paraphrase", "method=asp", "seed=1", f"output_dir={tmp_path}"])
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(run_point, each, _console()) for each in (settings, other)]
        for _ in range(SECONDS * 100):
            if len(trials.folders) == 2:
                break
            threading.Event().wait(0.01)
        together = len(trials.folders)
        trials.may_finish.set()
        assert all(answer.result(SECONDS)[1] for answer in asked)
    assert together == 2


@pytest.mark.parametrize("error", [RuntimeError("boom"), NonFiniteError("the loss became nan"), KeyboardInterrupt()])
def test_a_crash_leaves_no_record_and_no_lock(
    error: BaseException, trials: Trials, settings: TrialSettings, tmp_path: Path
) -> None:
    trials.error = error
    with pytest.raises(type(error)):
        run_point(settings, _console())
    folder = trials.folders[0]
    assert read_record(folder) is None
    with FileLock(folder / ".lock", timeout=0):
        pass  # nobody holds it
    trials.error = None
    record, trained = run_point(settings, _console())
    assert trained
    assert read_record(folder) == record


def test_a_crash_of_a_forced_run_keeps_the_old_record(trials: Trials, settings: TrialSettings) -> None:
    first, _ = run_point(settings, _console())
    settings.force, trials.error = True, RuntimeError("boom")
    with pytest.raises(RuntimeError, match="boom"):
        run_point(settings, _console())
    assert read_record(trials.folders[0]) == first


def test_a_model_that_was_not_saved_is_not_promised(trials: Trials, settings: TrialSettings) -> None:
    run_point(settings, _console())
    settings.save_model = True
    with pytest.raises(RecordError, match="has a record, but its model was not saved") as caught:
        run_point(settings, _console())
    assert "force=true" in caught.value.hint
    settings.force = True
    assert run_point(settings, _console())[1]
    settings.force = False
    assert not run_point(settings, _console())[1]
    assert len(trials.folders) == 2


def test_a_damaged_record_is_not_trained_over(trials: Trials, settings: TrialSettings) -> None:
    run_point(settings, _console())
    (trials.folders[0] / "result.json").write_text("{")
    with pytest.raises(RecordError, match="cannot be read"):
        run_point(settings, _console())
    assert len(trials.folders) == 1
