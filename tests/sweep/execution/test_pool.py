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

from nxm_sweep.errors import DataError
from nxm_sweep.settings import SweepSettings
from nxm_sweep.store.attempts import Outcome
from nxm_sweep.sweep.execution import pool as module
from nxm_sweep.sweep.execution.pool import Pool

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
    monkeypatch.setattr(module, "PRELOAD", "nxm_sweep.sweep.execution.preload")
    multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]
    try:
        module.start_imports()
        with ProcessPool(max_workers=1, context=module.start_context()) as pool:
            assert pool.schedule(_imported, args=["nxm_sweep.trial.train"]).result(SECONDS)
    finally:
        multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]


def _refuse(message: str) -> None:
    raise DataError(message, hint="a way out")


def test_call_apart_answers_and_raises_as_one_here(monkeypatch: pytest.MonkeyPatch) -> None:
    with module.apart() as call:
        assert call(os.getpid) == call(os.getpid) != os.getpid()
        with pytest.raises(DataError) as caught:
            call(_refuse, "no rows")
    assert (caught.value.message, caught.value.hint) == ("no rows", "a way out")
    monkeypatch.setattr(module, "_devices", lambda: ["0"])
    with module.apart() as call:
        assert call(os.getpid) == os.getpid()


def test_worker_on_a_gpu_is_a_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_devices", lambda: ["0"])
    assert module.start_context().get_start_method() == "spawn"


def _shape(
    monkeypatch: pytest.MonkeyPatch,
    *,
    gpus: str,
    processes: int = 1,
    weights: int | None = None,
    gib: int = 64,
    **settings: Any,
) -> module.Shape:
    """The shape of a machine with 4 cores."""
    monkeypatch.setattr(module, "_devices", lambda: gpus.split(",") if gpus else [])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=gib << 30))
    return module.shape_of_machine(SweepSettings(**settings), processes, weights)


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
    shape = _shape(monkeypatch, gpus=gpus, processes=processes)
    assert (shape.workers, shape.threads, shape.devices) == (workers, 4 // workers, devices)


def test_workers_that_share_a_gpu_are_spread_over_all(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = _shape(monkeypatch, gpus="4,7", workers_per_device=3)
    assert str(shape) == "6 workers of 1 thread: 3 for each GPU"
    given: list[Any] = []
    monkeypatch.setattr(module, "ProcessPool", lambda **options: given.append(options["initargs"]))
    Pool(shape.workers, shape.threads, shape.devices, time_limit=None)
    assert [device for *_, device in given] == ["4", "7"] * 3


@pytest.mark.parametrize(
    ("weights", "gib", "expected"),
    [
        (None, 64, "4 workers of 1 thread: one for each core"),
        (None, 9, "2 workers of 2 threads: a trial may take 4.0 GiB of memory"),
        (1 << 29, 13, "3 workers of 1 thread: a trial may take 4.0 GiB of memory"),
        (1 << 27, 9, "4 workers of 1 thread: one for each core"),
        (1 << 32, 9, "1 worker of 4 threads: a trial may take 25.0 GiB of memory"),
    ],
)
def test_memory_bounds_the_workers_of_a_cpu(
    weights: int | None, gib: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert str(_shape(monkeypatch, gpus="", weights=weights, gib=gib)) == expected


def test_given_workers_hold_whatever_the_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = _shape(monkeypatch, gpus="0", gib=1, workers=3, threads=2)
    assert str(shape) == "3 workers of 2 threads: as sweep.workers says"
