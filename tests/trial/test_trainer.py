"""What a trial's trainer counts: seconds by phase, and CPU seconds of training over an interruption."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nxm_sweep.sparsity import distributed
from nxm_sweep.trial import trainer
from nxm_sweep.trial.trainer import TrialTrainer


class Clocks:
    """The wall's and the process's clock, moved by hand."""

    def __init__(self) -> None:
        self.wall, self.cpu = 100.0, 7.0

    def perf_counter(self) -> float:
        return self.wall

    def process_time(self) -> float:
        return self.cpu


class Trainer(TrialTrainer):
    """The counting alone."""

    def __init__(self, clocks: Clocks, carried: dict[str, Any]) -> None:
        self.clocks, self.carried = clocks, carried
        self._mark, self._cpu_mark = clocks.wall, clocks.cpu

    def spend(self, phase: str, wall: float, cpu: float) -> None:
        self.clocks.wall += wall
        self.clocks.cpu += cpu
        self._lap(phase)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    clocks = Clocks()
    monkeypatch.setattr(trainer, "time", clocks)
    return clocks


def test_cpu_seconds_are_those_of_training_and_add_up_over_an_interruption(clocks: Clocks) -> None:
    begun = {"epochs": [], "seconds": {"train": 0.0, "evaluate": 0.0, "save": 0.0}, "train_cpu": 0.0}
    first = Trainer(clocks, begun)
    first.spend("train", wall=10.0, cpu=18.0)  # two threads
    first.spend("evaluate", wall=3.0, cpu=5.0)
    clocks.cpu = 0.5  # another process
    second = Trainer(clocks, json.loads(json.dumps(first.carried)))
    second.spend("train", wall=4.0, cpu=6.0)
    assert second.cpu_seconds == {"train_cpu": 24.0}
    assert second.seconds == {"train": 14.0, "evaluate": 3.0, "save": 0.0}


def test_cpu_seconds_are_missing_where_a_part_of_them_is(clocks: Clocks, monkeypatch: pytest.MonkeyPatch) -> None:
    old = Trainer(clocks, {"epochs": [], "seconds": {"train": 50.0, "evaluate": 0.0, "save": 0.0}})
    old.spend("train", wall=4.0, cpu=6.0)
    assert (old.cpu_seconds, old.seconds["train"]) == ({}, 54.0)
    whole = Trainer(clocks, {"epochs": [], "seconds": {"train": 0.0}, "train_cpu": 6.0})
    monkeypatch.setattr(distributed, "count", lambda: 2)
    assert whole.cpu_seconds == {}
