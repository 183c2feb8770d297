"""Workers that are killed at any moment cost an attempt, and never a point or a result."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.faults.conftest import Folder

KILLS = 20
GRID = ("learning_rate.value=range(1e-5,13e-5,step=1e-5)", "sweep.workers=2", "sweep.max_attempts=100")
Until = Callable[[Callable[[], Any], str], None]


def _outcome(record: dict[str, Any]) -> dict[str, Any]:
    """What a record holds whoever trained it, and when."""
    passing = ("started", "finished", "resumed_from_step", "config")  # config: output_dir
    return {key: value for key, value in record.items() if key not in passing}


COMMAND = ("learning_rate.value=1e-5,2e-5", "training.batch_size=16", "sweep.workers=1")


@pytest.mark.fault(
    "process", "a worker that ends with exit code 0", "It is replaced, and its point is tried again at once."
)
def test_worker_that_ends_with_code_0_is_replaced_and_its_point_tried_again(folder: Folder) -> None:
    fault = {"when": {"learning_rate": 1e-5}, "do": "vanish"}
    ended = folder.run(*COMMAND, faults=[{**fault, "times": 1}])
    assert ended.code == 0, ended.out + ended.err
    assert sorted(folder.trainings("start").values()) == [1, 2]
    record = next(record for record in folder.records.values() if record["config"]["learning_rate"]["value"] == 1e-5)
    assert record["resumed_from_step"] == 1
    (failed,) = [trial for trial in folder.trials() if trial.state.name == "FAIL"]
    assert failed.user_attrs["failure message"] == "the worker ended with exit code 0"


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param("kill late", id="killed"),
        pytest.param("hang late", id="out of time"),
    ],
)
@pytest.mark.fault(
    "process",
    "a worker that is killed, or out of time, right after it has written the record, at its last attempt",
    "The record counts; no point is reported as failed.",
)
def test_record_counts_however_its_worker_ended(fault: str, folder: Folder) -> None:
    limits = ("sweep.max_attempts=1", "sweep.time_limit=2")
    ended = folder.run(*COMMAND, *limits, faults=[{"when": {"learning_rate": 1e-5}, "do": fault}])
    assert ended.code == 0, ended.out + ended.err
    assert "2 of 2 points have a record, 2 trained now" in ended.out
    assert ended.problems == []
    left = {path.name for path in folder.output.glob("trials/*/*")}
    assert left <= {"result.json", "predictions.json", "log.txt", ".lock", f"attempts-{fault}"}
    assert {trial.state.name for trial in folder.trials()} == {"COMPLETE"}


@pytest.mark.fault(
    "process", "20 workers killed at random moments", "Each costs an attempt, and never a point or a score."
)
@pytest.mark.slow
def test_twenty_killed_workers_change_no_result(
    folder: Folder, module_folder: Folder, until: Until, states: Callable[[Any], dict[str, int]]
) -> None:
    dice = random.Random(20)
    sweeping = folder.start(*GRID, epochs=10, seconds=0.05)
    killed = 0
    while killed < KILLS:
        until(lambda: folder.running or sweeping.process.poll() is not None, "a trial is at work")
        time.sleep(dice.uniform(0.0, 0.25))  # the random moment, in a trial of 0.5 s
        assert sweeping.process.poll() is None, sweeping.wait()
        for worker in dice.sample(running := folder.running, k=min(1, len(running))):
            worker.kill()
            killed += 1
    ended = sweeping.wait()
    assert ended.code == 0, ended.out + ended.err
    undisturbed = module_folder.run(*GRID, epochs=10, seconds=0.0)
    assert undisturbed.code == 0, undisturbed.err
    assert ended.table == undisturbed.table
    expected = {identity: _outcome(record) for identity, record in module_folder.records.items()}
    assert {identity: _outcome(record) for identity, record in folder.records.items()} == expected
    assert len(expected) == 24
    trials = folder.trials()
    complete = [trial.user_attrs["identity"] for trial in trials if trial.state.name == "COMPLETE"]
    assert sorted(complete) == sorted(expected)
    assert set(states(trials)) == {"COMPLETE", "FAIL"}
    failed = [trial for trial in trials if trial.state.name == "FAIL"]
    assert {trial.user_attrs["failure kind"] for trial in failed} == {"killed"}
    assert len(failed) <= KILLS
    assert any(record["resumed_from_step"] for record in folder.records.values())
