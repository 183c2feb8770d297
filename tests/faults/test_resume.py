"""A sweep's command again: after a kill, after its end, with more points, with fewer files."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.faults.conftest import Ended, Folder

GRID = ("learning_rate.value=1e-5,2e-5,3e-5,4e-5,5e-5,6e-5",)  # times batch 16 and 32: 12 points
Until = Callable[[Callable[[], Any], str], None]
States = Callable[[Any], dict[str, int]]


@pytest.fixture(scope="module")
def finished(module_folder: Folder) -> tuple[Folder, Ended]:
    """A sweep that nothing disturbed."""
    return module_folder, module_folder.run(*GRID, "sweep.workers=2")


@pytest.fixture
def copy(finished: tuple[Folder, Ended], folder: Folder) -> Folder:
    """A finished sweep's folder, to do things to."""
    shutil.copytree(finished[0].output, folder.output)
    return folder


@pytest.mark.fault(
    "process", "a coordinator killed alone", "Its workers end too, and the same command trains exactly the rest."
)
def test_killed_coordinator_leaves_exactly_the_rest(
    finished: tuple[Folder, Ended], folder: Folder, until: Until, states: States
) -> None:
    sweeping = folder.start(*GRID, "sweep.workers=1", seconds=0.5)
    until(lambda: len(folder.records) == 3, "three records")
    workers = sweeping.family()
    assert workers.living
    sweeping.send(signal.SIGKILL)
    until(lambda: not workers.living, "the workers die with their coordinator")
    assert sum(folder.trainings("end").values()) == 3
    again = folder.run(*GRID, "sweep.workers=2")
    assert again.code == 0, again.err
    assert "12 points: 3 have a record, 9 to do" in again.out
    assert "12 of 12 points have a record, 9 trained now" in again.out
    ends = folder.trainings("end")
    assert sum(ends.values()) == 3 + 9
    assert set(ends.values()) == {1}
    assert set(ends) == set(finished[0].records)
    assert again.table == finished[1].table
    assert states(folder.trials()) == {"COMPLETE": 12}


def test_undisturbed_sweep_trains_each_point_once(finished: tuple[Folder, Ended], states: States) -> None:
    folder, ended = finished
    assert ended.code == 0, ended.err
    assert len(folder.records) == 12
    assert folder.trainings("start") == folder.trainings("end") == dict.fromkeys(folder.records, 1)
    assert states(folder.trials()) == {"COMPLETE": 12}


def test_finished_sweep_trains_nothing(copy: Folder, finished: tuple[Folder, Ended], states: States) -> None:
    again = copy.run(*GRID, "sweep.workers=2")
    assert again.code == 0, again.err
    assert "12 of 12 points have a record, 0 trained now" in again.out
    assert not copy.ledger.exists()
    assert again.table == finished[1].table
    assert states(copy.trials()) == {"COMPLETE": 12}


@pytest.mark.fault("storage", "a trial's folder removed", "That point is trained again, and no other.")
def test_added_value_and_lost_record_are_trained_alone_in_the_same_study(copy: Folder, states: States) -> None:
    lost = sorted(copy.records)[5]
    learning_rate = copy.records[lost]["config"]["learning_rate"]["value"]
    shutil.rmtree(copy.output / "trials" / lost)
    again = copy.run(f"{GRID[0]},7e-5", "sweep.workers=1")
    assert again.code == 0, again.err
    assert "14 points: 11 have a record, 3 to do" in again.out
    trained = {identity: copy.records[identity]["config"] for identity in copy.trainings("end")}
    assert trained.keys() >= {lost}
    rest = [config for identity, config in trained.items() if identity != lost]
    assert sorted((config["learning_rate"]["value"], config["training"]["batch_size"]) for config in rest) == [
        (7e-5, 16),
        (7e-5, 32),
    ]
    assert trained[lost]["learning_rate"]["value"] == learning_rate
    trials = copy.trials()  # of the only study
    assert states(trials) == {"COMPLETE": 12 + 3}
    assert {trial.user_attrs["identity"] for trial in trials} == set(copy.records)


def test_point_with_checkpoints_is_trained_before_those_without(copy: Folder) -> None:
    identities = sorted(copy.records)
    begun = identities[7]
    for identity in identities:
        (copy.output / "trials" / identity / "result.json").unlink()
    (copy.output / "trials" / begun / "work").mkdir()
    again = copy.run(*GRID, "sweep.workers=1")
    assert again.code == 0, again.err
    first = next(line.split()[1] for line in copy.ledger.read_text().splitlines() if line.startswith("start"))
    assert first == begun


@pytest.mark.fault(
    "process",
    "files of a killed coordinator: its claims, heartbeat, and writes that were cut off",
    "The next sweep removes them.",
)
def test_leftovers_of_a_dead_coordinator_are_removed(copy: Folder) -> None:
    dead = {"machine": "none", "pid": 1, "started": 0.0, "owner": "0123456789ab", "since": 0.0}
    done, lost = sorted(copy.records)[:2]
    (copy.output / "trials" / lost / "result.json").unlink()
    sweeps = copy.output / "sweeps"
    leftovers = [
        *(copy.output / "trials" / identity / "claim.json" for identity in (done, lost)),
        *(copy.output / "trials" / identity / ".result.json.x7fk2" for identity in (done, lost)),
        *(
            copy.output / "trials" / done / name
            for name in ("progress.json", "stop.json", "job.json", "work/checkpoint-1")
        ),
        *(sweeps / "coordinators" / name for name in ("0123456789ab.json", ".0123456789ab.json.q2", ".clock.0123")),
        sweeps / ".plan.json.k3m",
    ]
    for file in leftovers:
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({**dead, "process": dead}))
        os.utime(file, (0, 0))
    again = copy.run(*GRID, "sweep.workers=1")
    assert again.code == 0, again.err
    assert [str(file) for file in leftovers if file.exists()] == []
    assert set(copy.trainings("end")) == {lost}
    assert not (copy.output / "trials" / done / "work").exists()


@pytest.mark.fault("storage", "a removed studies folder", "The studies are made anew from the records.")
def test_lost_studies_are_made_anew_from_the_records(copy: Folder, states: States) -> None:
    shutil.rmtree(copy.output / "studies")
    again = copy.run(*GRID, "sweep.workers=1")
    assert again.code == 0, again.err
    assert not copy.ledger.exists()
    trials = copy.trials()
    assert states(trials) == {"COMPLETE": 12}
    records = copy.records
    assert {trial.user_attrs["identity"]: trial.value for trial in trials} == {
        identity: record["best"]["value"] for identity, record in records.items()
    }
    for trial in trials:
        epochs = records[trial.user_attrs["identity"]]["epochs"]
        assert trial.intermediate_values == {entry["epoch"]: entry["selection"] for entry in epochs}


@pytest.mark.fault(
    "storage", "a record cut off in the middle", "It is named with the way out; every other point is shown."
)
def test_damaged_record_is_a_problem_and_harms_no_other(copy: Folder) -> None:
    victim = min(copy.records)
    file = copy.output / "trials" / victim / "result.json"
    file.write_text(file.read_text()[:100])
    again = copy.run(*GRID, "sweep.workers=1")
    assert again.code == 1
    assert len(again.problems) == 1
    assert "cannot be read" in again.problems[0]
    assert "move it away to train the trial again" in again.problems[0]
    assert victim in again.problems[0]
    assert "11 of 12 points have a record, 0 trained now, 1 failed" in again.out
    assert not copy.ledger.exists()
