"""The record is the truth: what a study says instead is not shown, and the end is checked against the disk."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from nxm_sweep.store.paths import CLAIM, FAILURES, JOB, PROGRESS, PRUNED_FILE, STOP
from tests.faults.tool import run

if TYPE_CHECKING:
    from tests.faults.conftest import Ended, Folder

GRID = ("learning_rate.value=1e-5,2e-5", "training.batch_size=16", "sweep.workers=1")  # 2 points
Until = Callable[[Callable[[], Any], str], None]


@pytest.fixture(scope="module")
def finished(module_folder: Folder) -> tuple[Folder, Ended]:
    """A sweep that nothing disturbed."""
    ended = module_folder.run(*GRID)
    assert ended.code == 0, ended.err
    return module_folder, ended


@pytest.fixture
def copy(finished: tuple[Folder, Ended], folder: Folder) -> Folder:
    """A finished sweep's folder, to do things to."""
    shutil.copytree(finished[0].output, folder.output)
    return folder


@pytest.fixture
def without_privileges() -> Iterator[Callable[[Path], None]]:
    """Take the permissions of a folder away, also from root, whose commands would not notice."""
    changed: list[Path] = []

    def take(folder: Path) -> None:
        folder.chmod(0)
        changed.append(folder)

    yield take
    for folder in changed:
        folder.chmod(0o755)


def _change(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def _result(folder: Folder, identity: str) -> Path:
    return folder.output / "trials" / identity / "result.json"


@pytest.mark.fault("storage", "a score edited in the study", "the record's is shown, and the study is rebuilt from it")
def test_score_edited_in_the_study_is_not_shown(copy: Folder, finished: tuple[Folder, Ended]) -> None:
    with sqlite3.connect(copy.output / "studies" / "optuna.db") as connection:
        connection.execute("UPDATE trial_values SET value = 0.999999")
    connection.close()
    again = copy.run(*GRID)
    assert again.code == 0, again.err
    assert again.table == finished[1].table
    assert "differs from its records; it is rebuilt from them" in again.err
    trials = copy.trials()
    assert {trial.user_attrs["identity"]: trial.value for trial in trials} == {
        identity: record["best"]["value"] for identity, record in copy.records.items()
    }
    assert copy.run(*GRID).err == ""


@pytest.mark.slow
@pytest.mark.fault("storage", "a record changed after its study was told", "the record's score is shown")
def test_changed_record_is_shown(copy: Folder) -> None:
    identity = min(copy.records)
    best = copy.records[identity]["best"]
    _change(_result(copy, identity), best={**best, "value": 0.987654})
    again = copy.run(*GRID)
    assert again.code == 0, again.err
    assert "98.77" in "\n".join(again.table)
    assert 0.987654 in {trial.value for trial in copy.trials()}


@pytest.mark.fault(
    "storage",
    "a damaged record that a study was told",
    "its point is a problem that names the file, the others are done",
)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"schema": 1}', "is not a record: identity is missing"),
        ('{"schema": 2, "best": {}}', "is not a record: identity is missing"),
        ('{"schema": 3}', "has schema 3 but this version reads up to 2"),
    ],
)
def test_damaged_record_that_ends_like_one_is_a_problem(content: str, message: str, copy: Folder) -> None:
    victim = min(copy.records)
    _result(copy, victim).write_text(content)
    again = copy.run(*GRID)
    assert again.code == 1, again.err
    (problem,) = again.problems
    assert message in problem
    assert str(_result(copy, victim)) in problem
    assert "1 of 2 points have a record, 0 trained now, 1 failed" in again.out
    assert not copy.ledger.exists()
    retried = copy.run(*GRID, "sweep.retry_failed=true")
    assert retried.problems == [problem]
    assert _result(copy, victim).read_text() == content  # never trained over


@pytest.mark.fault("storage", "a record in the folder of another trial", "it is refused by sweep, status and report")
def test_record_of_another_trial_is_refused(copy: Folder) -> None:
    first, second = sorted(copy.records)
    shutil.copy(_result(copy, second), _result(copy, first))
    again = copy.run(*GRID)
    assert again.code == 1
    assert f"is the record of another trial, '{second}'" in again.problems[0]
    code, out, _ = _tool("status", copy.output)
    assert code == 1
    assert "2 points: 1 done, 1 failed" in out
    assert f"is the record of another trial, '{second}'" in out


@pytest.mark.fault("storage", "records removed while the sweep runs", "the end counts those on disk, with exit code 1")
def test_end_is_checked_against_the_disk(folder: Folder, until: Until) -> None:
    sweeping = folder.start(*GRID, seconds=1.0)
    claims = folder.output / "trials"
    until(
        lambda: any(not (claims / name / CLAIM).exists() for name in folder.records), "a record that the sweep has read"
    )
    identity = next(name for name in folder.records if not (claims / name / CLAIM).exists())
    shutil.rmtree(folder.output / "trials" / identity)
    ended = sweeping.wait()
    assert ended.code == 1, ended.err
    assert "1 of 2 points have a record, 2 trained now, 1 not trained yet" in ended.out


@pytest.mark.slow
@pytest.mark.fault("storage", "an output folder removed while the sweep runs", "exit code 1 or 2 in one line, never 0")
def test_removed_folder_is_not_a_finished_sweep(folder: Folder, until: Until) -> None:
    sweeping = folder.start(*GRID, seconds=1.0)
    until(lambda: len(folder.records) == 1, "a record")
    shutil.rmtree(folder.output)
    ended = sweeping.wait()
    assert ended.code in {1, 2}
    assert "Traceback" not in ended.err


# --- small files ------------------------------------------------------------------------------------------------------


def _pipe(file: Path) -> None:
    os.mkfifo(file)


def _device(file: Path) -> None:
    file.symlink_to("/dev/zero")


def _text(content: str) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        file.write_text(content)

    return write


DAMAGE = {
    "a pipe": _pipe,
    "/dev/zero": _device,
    "nested": _text("[" * 100_000),
    "another type": _text('{"schema": 1}'),
    "a folder": Path.mkdir,
}


@pytest.mark.fault(
    "storage",
    "a small file that is a pipe, a device, a folder or something else",
    "it is named and set aside; all else goes on",
)
def test_damaged_small_files_stop_neither_a_sweep_nor_status(copy: Folder, finished: tuple[Folder, Ended]) -> None:
    victim, other = sorted(copy.records)
    trial = copy.output / "trials" / victim
    (trial / "result.json").unlink()
    names = (CLAIM, PROGRESS, PRUNED_FILE, STOP, FAILURES, JOB)
    for name, damage in zip(names, [*DAMAGE.values(), _text("[]")], strict=True):
        damage(trial / name)
    plans, coordinators = copy.output / "sweeps", copy.output / "sweeps" / "coordinators"
    coordinators.mkdir(exist_ok=True)
    damaged = [plans / "broken.json", coordinators / "broken.json"]
    _text('{"cells": 3}')(damaged[0])
    _pipe(damaged[1])
    os.utime(damaged[1], (0, 0))
    for command in ("status", "report"):
        code, _, err = _tool(command, copy.output)
        assert code == (1 if command == "status" else 2), err  # these trials have too little for a report
        assert "Traceback" not in err
        assert str(damaged[0]) in err
        assert str(trial / PROGRESS) in err
        assert len(set(err.splitlines())) == len(err.splitlines())  # each once
    again = copy.run(*GRID)
    assert again.code == 0, again.err
    assert again.table == finished[1].table
    assert "Traceback" not in again.err
    for file in damaged:
        assert f"{file} cannot be read" in again.err
        assert not os.path.lexists(file)
        assert os.path.lexists(file.with_name(f"{file.name}.damaged"))
    assert sorted(path.name for path in trial.glob("*.damaged")) == sorted(f"{name}.damaged" for name in names)
    assert [path.name for path in (copy.output / "trials" / other).glob("*.damaged")] == []


@pytest.mark.fault("storage", "a trial's folder without permission", "its point is a problem, the others are shown")
def test_folder_without_permission_is_one_problem(copy: Folder, without_privileges: Callable[[Path], None]) -> None:
    victim = min(copy.records)
    without_privileges(copy.output / "trials" / victim)
    copy.output.parent.chmod(0o755)
    for command in ("status", "report"):
        code, out, err = _tool(command, copy.output, user=65534)
        assert "Traceback" not in err
        assert code == (1 if command == "status" else 2), err
        if command == "status":
            assert "2 points: 1 done, 1 failed" in out
            assert f"{victim}/result.json cannot be read: Permission denied" in out


@pytest.mark.fault("input", "a path of 5,000 characters", "status and report refuse it in one line, exit code 2")
@pytest.mark.parametrize("command", ["status", "report"])
@pytest.mark.parametrize("name", ["x" * 5000, "x/" * 2500], ids=["a name", "folders"])
def test_impossible_path_is_one_line(command: str, name: str, tmp_path: Path) -> None:
    code, _, err = _tool(command, tmp_path / name)
    assert code == 2
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 2  # with its hint
    assert len(err) < 1000


def _tool(command: str, output: Path, user: int | None = None) -> tuple[int, str, str]:
    """Run a command in a process of its own that has imported nothing before; return exit code and output."""
    return run(command, output, user)
