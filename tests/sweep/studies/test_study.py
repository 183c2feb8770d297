"""A cell's study, on every storage that is a file: each point in it once, whoever tells it, and as many as the grid grows."""

from __future__ import annotations

import copy
import shutil
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, cast

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from nxm_sweep.config.compose import compose_settings
from nxm_sweep.errors import StorageError
from nxm_sweep.store.attempts import failure
from nxm_sweep.store.record import Record
from nxm_sweep.sweep.planning.cell import Cell, Point
from nxm_sweep.sweep.studies.storage import open_storage
from nxm_sweep.sweep.studies.study import CellStudy

RATES = (1e-5, 2e-5, 3e-5)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an empty SQLite storage, whose tables take a while to make."""
    folder = tmp_path_factory.mktemp("empty")
    storage = open_storage("sqlite", folder)
    assert isinstance(storage, RDBStorage)
    storage.engine.dispose()
    return folder


@pytest.fixture(params=["sqlite", "journal"])
def storage(request: pytest.FixtureRequest, empty: Path, tmp_path: Path) -> BaseStorage:
    if request.param == "sqlite":
        shutil.copytree(empty / "studies", tmp_path / "studies")
    return open_storage(request.param, tmp_path)


@cache
def _cell(*overrides: str, rates: tuple[float, ...] = RATES) -> Cell:
    settings = compose_settings(["task=glue/rte", "method=asp", *overrides])
    return Cell(settings, {"learning_rate.value": rates, "training.batch_size": (16,)})


def _record(point: Point, value: float = 0.75) -> Record:
    first = {"epoch": 1, "selection": 0.5, "unpruned_selection": 0.5, "relative_distance": 0.1, "pruned": {}}
    return cast(
        "Record",
        {
            "identity": point.identity,
            "best": {"epoch": 2, "value": value},
            "epochs": [first, {**first, "epoch": 2, "selection": value}],
            "sparsity": {"exact": True},
            "seconds": {"total": 12.34},
            "started": "2026-01-01T10:00:00+00:00",
            "finished": "2026-01-01T10:01:00+00:00",
        },
    )


def _study(storage: BaseStorage, cell: Cell | None = None) -> CellStudy:
    """A coordinator's study, as it finds it."""
    study = CellStudy(storage, cell or _cell())
    study.read()
    return study


def _trials(study: CellStudy) -> list[FrozenTrial]:
    return study.storage.get_all_trials(study.study_id)


def _states(study: CellStudy) -> dict[str, int]:
    return {state.name: number for state, number in Counter(trial.state for trial in _trials(study)).items()}


def test_point_goes_from_the_queue_to_its_record_as_one_trial(storage: BaseStorage) -> None:
    study, points = _study(storage), list(_cell().points())
    study.queue(points)
    assert _states(study) == {"WAITING": 3}
    trial = study.begin(points[1])
    record = _record(points[1])
    assert study.report(trial, points[1].identity, record["epochs"][:1])
    assert not study.report(trial, points[1].identity, record["epochs"][:1])
    study.complete(trial, record)
    assert _states(study) == {"WAITING": 2, "COMPLETE": 1}
    (told,) = (trial for trial in _trials(study) if trial.state == TrialState.COMPLETE)
    assert (told.params, told.value) == ({"learning_rate.value": 2e-5, "training.batch_size": 16}, 0.75)
    assert told.intermediate_values == {1: 0.5, 2: 0.75}
    assert told.user_attrs["identity"] == points[1].identity
    assert told.user_attrs["seconds"] == 12.3
    assert _study(storage).recorded == {points[1].identity: 0.75}


def test_grown_grid_grows_its_study_and_a_changed_setting_is_another(storage: BaseStorage) -> None:
    small, large, other = _cell(), _cell(rates=(*RATES, 9e-5)), _cell("training.epochs=7")
    study = _study(storage, small)
    for point in small.points():
        study.add_record(point, _record(point, value=point.values["learning_rate.value"]))
    grown = _study(storage, large)
    assert grown.study_id == study.study_id
    new = next(point for point in large.points() if point.identity not in grown.recorded)
    grown.add_record(new, _record(new, value=0.9))
    loaded = optuna.load_study(study_name=large.study_name, storage=storage)
    assert (loaded.best_value, loaded.best_params["learning_rate.value"]) == (0.9, 9e-5)
    assert len(loaded.get_trials()) == 4
    kinds = [set(map(type, trial.distributions.values())) for trial in loaded.get_trials()]
    assert kinds == [{FloatDistribution, IntDistribution}] * 4  # a list of choices could not grow
    assert _study(storage, other).study_id != study.study_id
    assert len(storage.get_all_studies()) == 2


def test_two_coordinators_queue_a_point_once(storage: BaseStorage) -> None:
    points = list(_cell().points())
    first = _study(storage)
    first.queue(points)
    first.begin(points[0])
    second = _study(storage)
    second.queue(points)
    assert _states(second) == {"RUNNING": 1, "WAITING": 2}


def test_long_queue_is_not_shown_whole(storage: BaseStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nxm_sweep.sweep.studies.study._QUEUED", 2)
    study, points = _study(storage), list(_cell().points())
    study.queue(points)
    assert _states(study) == {"WAITING": 2}
    study.complete(study.begin(points[2]), _record(points[2]))
    assert _states(study) == {"WAITING": 2, "COMPLETE": 1}


def test_trial_that_a_dead_coordinator_left_running_is_gone_on_with(storage: BaseStorage) -> None:
    point = next(_cell().points())
    dead = _study(storage)
    trial = dead.begin(point)
    heir = _study(storage)
    assert heir.begin(point) == trial
    heir.complete(trial, _record(point))
    assert _states(heir) == {"COMPLETE": 1}


def test_trial_that_another_coordinator_has_begun_and_left_since_is_gone_on_with(storage: BaseStorage) -> None:
    point = next(_cell().points())
    heir, dead = _study(storage), _study(storage)
    heir.queue([point])
    dead.read()
    trial = dead.begin(point)
    assert heir.begin(point) == trial
    assert _states(heir) == {"RUNNING": 1}


def test_trial_that_another_coordinator_has_failed_is_followed_by_a_new_one(storage: BaseStorage) -> None:
    point = next(_cell().points())
    first, second = _study(storage), _study(storage)
    first.queue([point])
    second.read()
    first.fail(first.begin(point), point.identity, failure("killed", "the worker was ended by SIGKILL"))
    second.complete(second.begin(point), _record(point))
    assert _states(second) == {"FAIL": 1, "COMPLETE": 1}
    (failed,) = (trial for trial in _trials(second) if trial.state == TrialState.FAIL)
    assert failed.user_attrs["failure kind"] == "killed"
    assert failed.user_attrs["failure message"] == "the worker was ended by SIGKILL"


@pytest.mark.parametrize("left", ["nothing", "waiting", "running"])
def test_record_from_elsewhere_is_told_once(left: str, storage: BaseStorage) -> None:
    point = next(_cell().points())
    study = _study(storage)
    if left == "waiting":
        study.queue([point])
    if left == "running":
        study.begin(point)
    study = _study(storage)
    study.add_record(point, _record(point))
    (trial,) = _trials(study)
    assert (trial.state, trial.value, trial.intermediate_values) == (TrialState.COMPLETE, 0.75, {1: 0.5, 2: 0.75})
    assert trial.datetime_start is not None
    assert trial.datetime_complete is not None
    if left == "nothing":
        assert (trial.datetime_complete - trial.datetime_start).total_seconds() == 60.0  # the record's own times


def test_what_another_has_ended_stays_as_it_is(storage: BaseStorage) -> None:
    point = next(_cell().points())
    study, other = _study(storage), _study(storage)
    trial = study.begin(point)
    other.complete(trial, _record(point))
    before = copy.deepcopy(_trials(study))
    study.report(trial, point.identity, [{"epoch": 1, "selection": 0.1}])
    study.fail(trial, point.identity, failure("killed", "x"))
    study.requeue(trial, point.identity)
    study.mark_failed(trial)
    study.prune(trial)
    study.complete(trial, _record(point, value=0.1))
    assert _trials(study) == before
    assert study.recorded == {}


def test_interrupted_trial_waits_and_goes_on_as_the_same(storage: BaseStorage) -> None:
    study, point = _study(storage), next(_cell().points())
    trial = study.begin(point)
    study.requeue(trial, point.identity)
    assert _states(study) == {"WAITING": 1}
    assert _study(storage).begin(point) == trial


@pytest.mark.parametrize(("epochs", "value"), [([], None), ([{"epoch": 1, "selection": 0.25}], 0.25)])
def test_pruned_trial_keeps_its_last_score(
    epochs: list[dict[str, Any]], value: float | None, storage: BaseStorage
) -> None:
    study, point = _study(storage), next(_cell().points())
    trial = study.begin(point)
    study.report(trial, point.identity, epochs)
    study.prune(trial)
    (pruned,) = _trials(study)
    assert (pruned.state, pruned.value) == (TrialState.PRUNED, value)


def test_second_trial_of_a_told_point_is_ended(storage: BaseStorage) -> None:
    point = next(_cell().points())
    study, late = _study(storage), _study(storage)
    study.add_record(point, _record(point))
    late.queue([point])
    study.read()
    study.drop_duplicate(point.identity)
    study.drop_duplicate(point.identity)
    assert _states(study) == {"COMPLETE": 1, "FAIL": 1}


# --- a study that is another's ----------------------------------------------------------------------------------------


@pytest.mark.fault("storage", "a study whose direction is MINIMIZE", "it is refused in one line that says what differs")
def test_study_of_another_direction_is_refused(storage: BaseStorage) -> None:
    storage.create_new_study([StudyDirection.MINIMIZE], _cell().study_name)
    with pytest.raises(StorageError, match="its direction is MINIMIZE, not MAXIMIZE") as caught:
        CellStudy(storage, _cell())
    assert "rebuilt from the records" in caught.value.hint


def test_study_of_another_fingerprint_is_refused(storage: BaseStorage) -> None:
    study = _study(storage)
    storage.set_study_user_attr(study.study_id, "fingerprint", "0bad0bad")
    with pytest.raises(StorageError, match=f"its fingerprint is 0bad0bad, not {_cell().fingerprint}"):
        CellStudy(storage, _cell())


def test_study_with_other_kinds_of_axes_is_refused(storage: BaseStorage) -> None:
    number = storage.create_new_study([StudyDirection.MAXIMIZE], _cell().study_name)
    axis = CategoricalDistribution(["small", "large"])
    storage.create_new_trial(
        number,
        create_trial(params={"learning_rate.value": "small"}, distributions={"learning_rate.value": axis}, value=1),
    )
    with pytest.raises(StorageError, match=r"its learning_rate\.value is a CategoricalDistribution, not a Float"):
        CellStudy(storage, _cell())


def test_study_whose_creator_died_is_completed(storage: BaseStorage) -> None:
    number = storage.create_new_study([StudyDirection.MAXIMIZE], _cell().study_name)
    assert _study(storage).study_id == number
    assert storage.get_study_user_attrs(number)["fingerprint"] == _cell().fingerprint
