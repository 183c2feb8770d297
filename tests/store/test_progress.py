"""A running trial's file, and the files that tell it to stop."""

from __future__ import annotations

from pathlib import Path

import pytest

from nxm_sweep.store.liveness import this_process
from nxm_sweep.store.paths import STOP
from nxm_sweep.store.progress import (
    INTERRUPTED,
    PRUNED,
    ProgressFile,
    is_training,
    read_progress,
    read_pruned,
    request_stop,
)
from nxm_sweep.store.small_files import EpochScore

EPOCHS = [{"epoch": 1, "selection": 0.5}, {"epoch": 2, "selection": 0.25}]


class Clock:
    """Seconds that a test lets pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _step(folder: Path) -> int | None:
    progress = read_progress(folder)
    return None if progress is None else progress["step"]


def _pruned_epochs(folder: Path) -> list[EpochScore] | None:
    pruned = read_pruned(folder)
    return None if pruned is None else pruned["epochs"]


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_running_trial_says_where_it_is_and_nothing_when_it_has_ended(tmp_path: Path, clock: Clock) -> None:
    with ProgressFile(tmp_path, clock) as progress:
        assert is_training(tmp_path, 60.0)
        progress.on_step(3, 40)  # too soon after the last writing
        progress.on_epoch(EPOCHS)
        found = read_progress(tmp_path)
        assert found is not None
        assert (found["process"], found["step"], found["steps"], found["epochs"]) == (this_process(), 3, 40, EPOCHS)
        progress.on_step(4, 40)
        assert _step(tmp_path) == 3
        clock.now = 0.6
        progress.on_step(5, 40)
        assert _step(tmp_path) == 5
    assert list(tmp_path.iterdir()) == []
    assert not is_training(tmp_path, 60.0)


def test_interrupt_is_for_the_end_of_an_epoch(tmp_path: Path, clock: Clock) -> None:
    with ProgressFile(tmp_path, clock) as progress:
        assert progress.stop_after_epoch() is None
        request_stop(tmp_path, INTERRUPTED)
        clock.now = 1.0
        assert progress.stop_now() is None
        assert progress.stop_after_epoch() == INTERRUPTED


def test_pruning_is_for_now_and_is_looked_for_now_and_then(tmp_path: Path, clock: Clock) -> None:
    with ProgressFile(tmp_path, clock) as progress:
        assert progress.stop_now() is None
        request_stop(tmp_path, PRUNED)
        assert progress.stop_now() is None
        clock.now = 0.6
        assert progress.stop_now() == PRUNED
        assert progress.stop_after_epoch() == PRUNED


def test_stop_of_an_earlier_attempt_does_not_count(tmp_path: Path) -> None:
    request_stop(tmp_path, INTERRUPTED)
    with ProgressFile(tmp_path) as progress:
        assert progress.stop_after_epoch() is None


def test_damaged_stop_file_stops_nothing(tmp_path: Path) -> None:
    with ProgressFile(tmp_path) as progress:
        (tmp_path / STOP).write_text("{")
        assert progress.stop_after_epoch() is None


def test_pruned_trial_keeps_its_scores_and_no_checkpoint_until_it_is_trained_again(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with ProgressFile(tmp_path) as progress:
        progress.on_epoch(EPOCHS)
        progress.keep_as_pruned()
    assert _pruned_epochs(tmp_path) == EPOCHS
    assert [path.name for path in tmp_path.iterdir()] == ["pruned.json"]
    with ProgressFile(tmp_path):
        assert read_pruned(tmp_path) is None
