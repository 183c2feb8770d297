"""Catching up with records that others have made: each is told once, by one coordinator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, cast

import pytest
from filelock import FileLock
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from nxm_sweep.config.compose import compose_settings
from nxm_sweep.store.attempts import Failure
from nxm_sweep.store.paths import trial_folder
from nxm_sweep.store.record import Record
from nxm_sweep.store.records import write_record
from nxm_sweep.sweep.execution.backfill import Backfill
from nxm_sweep.sweep.execution.claims import Claims
from nxm_sweep.sweep.planning.cell import Cell, Point
from nxm_sweep.sweep.studies.storage import open_storage
from nxm_sweep.sweep.studies.study import CellStudy
from tests.store.core import core_record

CELL = Cell(
    compose_settings(["task=glue/rte", "method=asp"]),
    {"learning_rate.value": (1e-5, 2e-5, 3e-5, 4e-5), "training.batch_size": (16,)},
)
POINTS = list(CELL.points())


class Coordinator:
    """What of a coordinator is needed here."""

    def __init__(self, output_dir: Path, storage: BaseStorage) -> None:
        self.claims = Claims(output_dir, 60.0).__enter__()
        self.study = CellStudy(storage, CELL)
        self.study.read()
        self.catch_up = Backfill(output_dir, self.claims, {CELL.study_name: self.study})

    def add(self, *points: Point) -> None:
        for point in points:
            self.catch_up.add(point)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Coordinator, Coordinator]]:
    storage = open_storage("journal", tmp_path)
    both = Coordinator(tmp_path, storage), Coordinator(tmp_path, storage)
    yield both
    for one in both:
        one.claims.__exit__(None, None, None)


def _record(output_dir: Path, point: Point) -> Record:
    record = core_record(point.identity)
    write_record(trial_folder(output_dir, point.identity), record)
    return cast("Record", record)


def _complete(study: CellStudy) -> list[str]:
    trials = study.storage.get_all_trials(study.study_id)
    return sorted(trial.user_attrs["identity"] for trial in trials if trial.state == TrialState.COMPLETE)


IDENTITIES = sorted(point.identity for point in POINTS)


def test_two_coordinators_tell_each_record_once(two: tuple[Coordinator, Coordinator], tmp_path: Path) -> None:
    for point in POINTS:
        _record(tmp_path, point)
    for one in two:
        one.add(*POINTS)
    assert two[0].catch_up.finish() == dict.fromkeys(IDENTITIES, 0.5)
    assert two[1].catch_up.finish() == dict.fromkeys(IDENTITIES, 0.5)
    assert _complete(two[0].study) == IDENTITIES


def test_one_tells_while_the_other_waits_its_turn(two: tuple[Coordinator, Coordinator], tmp_path: Path) -> None:
    for point in POINTS:
        _record(tmp_path, point)
    for one in two:
        one.add(*POINTS)
    assert two[0].catch_up.work(seconds=0.0) == {}  # it has begun, and no time is left
    assert two[1].catch_up.work(seconds=60.0) == {}
    assert _complete(two[0].study) == []
    assert len(two[0].catch_up.work(seconds=60.0)) == 4
    assert len(two[1].catch_up.work(seconds=60.0)) == 4
    assert _complete(two[0].study) == IDENTITIES
    assert two[0].catch_up.work(seconds=60.0) == two[0].catch_up.finish() == {}


def test_record_of_a_point_that_is_held_is_told_by_its_holder(
    two: tuple[Coordinator, Coordinator], tmp_path: Path
) -> None:
    holder, other = two
    assert holder.claims.take(POINTS[0].identity)
    trial = holder.study.begin(POINTS[0])
    record = _record(tmp_path, POINTS[0])
    other.add(POINTS[0])
    assert other.catch_up.finish() == {POINTS[0].identity: 0.5}  # read, not told
    assert other.study.storage.get_trial(trial).state == TrialState.RUNNING
    other.add(POINTS[0])
    assert other.catch_up.work(seconds=0.0) == {}  # it sees that the point is held
    holder.study.complete(trial, record)
    holder.claims.release(POINTS[0].identity)
    assert other.catch_up.finish() == {POINTS[0].identity: 0.5}
    assert len(other.study.storage.get_all_trials(other.study.study_id)) == 1
    assert _complete(other.study) == [POINTS[0].identity]


def test_point_that_is_added_while_others_are_told_is_looked_up_anew(
    two: tuple[Coordinator, Coordinator], tmp_path: Path
) -> None:
    holder, other = two
    for point in POINTS:
        _record(tmp_path, point)
    other.add(*POINTS[:3])
    other.catch_up.work(seconds=0.0)  # the studies are read
    holder.study.add_record(POINTS[3], _record(tmp_path, POINTS[3]))
    other.add(POINTS[3])
    assert len(other.catch_up.finish()) == 4
    assert _complete(other.study) == IDENTITIES


def test_trial_that_a_dead_coordinator_left_running_is_completed(
    two: tuple[Coordinator, Coordinator], tmp_path: Path
) -> None:
    two[0].study.begin(POINTS[0])
    _record(tmp_path, POINTS[0])
    two[1].add(POINTS[0])
    two[1].catch_up.finish()
    assert len(two[1].study.storage.get_all_trials(two[1].study.study_id)) == 1
    assert _complete(two[1].study) == [POINTS[0].identity]


def test_damaged_record_is_a_failure_and_a_missing_one_nothing(
    two: tuple[Coordinator, Coordinator], tmp_path: Path
) -> None:
    folder = trial_folder(tmp_path, POINTS[0].identity)
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("{")
    two[0].add(*POINTS[:2])
    read = two[0].catch_up.finish()
    assert list(read) == [POINTS[0].identity]
    found = read[POINTS[0].identity]
    assert isinstance(found, Failure)
    assert found.kind == "bad input"
    assert _complete(two[0].study) == []


@pytest.mark.parametrize("when", ["read", "add_record"])
def test_storage_that_is_away_for_a_moment_loses_no_point(
    when: str, two: tuple[Coordinator, Coordinator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> NoReturn:
        raise ConnectionError

    _record(tmp_path, POINTS[0])
    two[0].add(POINTS[0])
    with monkeypatch.context() as patch:
        patch.setattr(two[0].study, when, fail)
        with pytest.raises(ConnectionError):
            two[0].catch_up.work(seconds=60.0)
    if when == "read":
        with FileLock(tmp_path / "studies" / ".catch-up.lock", timeout=0):  # others are not held up
            pass
    assert two[0].catch_up.work(seconds=60.0) == {POINTS[0].identity: 0.5}
    assert _complete(two[0].study) == [POINTS[0].identity]
