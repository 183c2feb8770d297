"""Ctrl-C and SIGTERM: once stops after the epochs that run, twice at once; either way nothing is lost."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.faults.conftest import Folder, Sweeping

COMMAND = ("learning_rate.value=1e-5,2e-5,3e-5", "training.batch_size=16", "sweep.workers=2")
FOR_EVER = 600.0
Until = Callable[[Callable[[], Any], str], None]


def _interrupt_twice(sweeping: Sweeping) -> None:
    sweeping.send(signal.SIGINT)
    time.sleep(0.1)  # two signals of one kind that come together are one
    sweeping.send(signal.SIGINT)


@pytest.mark.parametrize(
    "end", [_interrupt_twice, lambda sweeping: sweeping.send(signal.SIGTERM)], ids=["twice", "SIGTERM"]
)
def test_second_interrupt_and_termination_end_at_once(
    end: Callable[[Sweeping], None], folder: Folder, until: Until
) -> None:
    sweeping = folder.start(*COMMAND, "sweep.workers=1", seconds=FOR_EVER)
    until(lambda: folder.running, "a trial is at work")
    workers = sweeping.family()
    end(sweeping)
    ended = sweeping.wait()  # within far less than an epoch
    assert ended.code == 130
    assert ended.err.splitlines() == ["interrupted; the same command continues after the last finished epoch"]
    until(lambda: not workers.living, "its processes end with it")
    assert folder.records == {}
    assert not list(folder.output.glob("trials/*/claim.json"))


def test_interrupted_sweep_stops_after_its_epochs_and_goes_on_with_the_next(folder: Folder, until: Until) -> None:
    sweeping = folder.start(*COMMAND, epochs=3, seconds=1.0)
    until(lambda: len(folder.running) == 2, "two trials are at work")
    sweeping.send(signal.SIGINT)
    ended = sweeping.wait()
    assert ended.code == 1, ended.err
    assert "stopping after the running epochs; Ctrl-C again stops at once" in ended.out
    assert "0 of 3 points have a record, 0 trained now, 3 not trained yet" in ended.out
    assert "stopped; the same command continues" in ended.out
    started = folder.trainings("start")
    assert len(started) == 2  # the third was not begun
    assert folder.records == {}
    reached = {
        identity: len(json.loads((folder.output / "trials" / identity / "work" / "epochs.json").read_text()))
        for identity in started
    }
    assert set(reached.values()) <= {1, 2}
    assert {trial.state.name for trial in folder.trials()} == {"WAITING"}

    again = folder.run(*COMMAND, epochs=3)
    assert again.code == 0, again.err
    assert len(folder.records) == 3
    resumed = {identity: folder.records[identity]["resumed_from_step"] for identity in started}
    assert resumed == reached  # no epoch was trained twice
    assert set(folder.trainings("end").values()) == {1}
    assert {trial.state.name for trial in folder.trials()} == {"COMPLETE"}
    assert len(folder.trials()) == 3
