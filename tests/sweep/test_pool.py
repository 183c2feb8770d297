"""The pool's slots: a worker that dies outside of a trial costs no other trial, and never the sweep."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from pebble import ProcessPool

from nxm_sweep.settings import SweepSettings
from nxm_sweep.sweep import pool as module
from nxm_sweep.sweep.outcome import Outcome
from nxm_sweep.sweep.pool import Pool

SECONDS = 60.0  # no wait of these tests is longer


def _end(pool: Pool, identity: str) -> Outcome:
    """Hand in a point and wait for its end."""
    point: Any = SimpleNamespace(settings="settings", identity=identity)
    pool.submit(point)
    deadline = time.monotonic() + SECONDS
    while not (ended := pool.wait(0.1)):
        assert time.monotonic() < deadline
    assert pool.has_room
    ((name, outcome),) = ended
    assert name == identity
    return outcome


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _worker(pool: Pool) -> psutil.Process:
    (pid,) = pool._slots[0]._pool_manager.worker_manager.workers
    return psutil.Process(pid)


@pytest.fixture(autouse=True)
def _import_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PRELOAD", "json")


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Pool:
    """One worker that imports nothing and whose trials print their name."""
    monkeypatch.setattr(module, "warm_up", print)
    monkeypatch.setattr(module, "work", print)
    return Pool(workers=1, threads=1, devices=[], time_limit=None)


def test_worker_stays_for_the_next_trial_and_ends_with_the_pool(pool: Pool) -> None:
    with pool:
        assert _end(pool, "a") == Outcome()
        worker = _worker(pool)
        assert _end(pool, "b") == Outcome()
        assert _worker(pool) == worker
    assert not worker.is_running()


def test_worker_that_dies_between_trials_is_replaced(pool: Pool) -> None:
    with pool:
        assert _end(pool, "a") == Outcome()
        first: ProcessPool = pool._slots[0]
        _worker(pool).send_signal(signal.SIGKILL)
        _until(lambda: not first.active)
        assert _end(pool, "b") == Outcome()
        assert _end(pool, "c") == Outcome()


def test_worker_that_is_killed_as_its_trial_is_handed_in_costs_that_attempt_at_most(pool: Pool) -> None:
    with pool:
        assert _end(pool, "a") == Outcome()
        _worker(pool).send_signal(signal.SIGKILL)
        outcome = _end(pool, "b")
        assert outcome.failure is None or outcome.failure.kind == "killed"
        assert _end(pool, "c") == Outcome()


def test_worker_that_cannot_start_fails_its_trial_and_not_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "work", print)
    monkeypatch.setattr(module, "warm_up", os.getpid)  # which takes no arguments
    with Pool(workers=1, threads=1, devices=[], time_limit=None) as pool:
        monkeypatch.setattr(module, "warm_up", print)
        outcome = _end(pool, "a")
        assert outcome.failure is not None
        assert (outcome.failure.kind, outcome.failure.message) == ("killed", "the worker died before it had begun")
        assert _end(pool, "b") == Outcome()


def _imported(name: str) -> bool:
    return name in sys.modules


def test_worker_is_forked_from_a_server_that_has_imported_what_trials_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PRELOAD", "nxm_sweep.sweep.preload")
    multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]
    try:
        module.start_imports()
        with ProcessPool(max_workers=1, context=module.start_context()) as pool:
            assert pool.schedule(_imported, args=["nxm_sweep.training.trial"]).result(SECONDS)
    finally:
        multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]


def test_worker_on_a_gpu_is_a_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_devices", lambda: ["0"])
    assert module.start_context().get_start_method() == "spawn"


@pytest.mark.parametrize(
    ("gpus", "processes", "workers", "devices"),
    [
        ("", 1, 4, []),
        ("", 2, 2, []),
        ("", 8, 1, []),
        ("0,1,2,3", 1, 4, ["0", "1", "2", "3"]),
        ("0,1,2,3", 2, 2, ["0,1", "2,3"]),
        ("4,5,6", 2, 1, ["4,5"]),
    ],
)
def test_workers_take_as_many_gpus_or_cores_as_a_trial_has_processes(
    gpus: str, processes: int, workers: int, devices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_devices", lambda: gpus.split(",") if gpus else [])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=64 << 30))
    assert module.shape(SweepSettings(), processes) == (workers, 4 // workers, devices)
