"""Local pool of warm worker processes, each with its device and threads; dead ones are replaced."""

from __future__ import annotations

import concurrent.futures
import multiprocessing.forkserver
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import BaseContext, ForkServerContext, ForkServerProcess, SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Self

import psutil
from pebble import ProcessExpired, ProcessPool

from nxm_sweep.settings import SweepSettings
from nxm_sweep.store.attempts import Failure, Outcome, classify, failure, out_of_memory, outcome_of
from nxm_sweep.store.stop_signals import STOP_SIGNALS
from nxm_sweep.sweep.execution.worker import end_with_coordinator, warm_up, work
from nxm_sweep.sweep.planning.cell import Point

PRELOAD = "nxm_sweep.sweep.execution.preload"
"""Module that imports what a worker needs before its first trial."""
_USUAL_NEED = 4 << 30
_BASE_NEED, _COPIES = 1 << 30, 6
"""Bytes of a trial: imports and activations, and W, its gradient, AdamW's two moments, Z and U."""
_CLEAN_EXIT = 1000
"""Exit code shown to Pebble for 0, which it takes for the planned end of a worker whose trial it then awaits for ever."""
_SIGNAL_NAMES = {-9: "SIGKILL", -11: "SIGSEGV", -15: "SIGTERM", -6: "SIGABRT", -7: "SIGBUS"}


class Pool:
    """Worker processes that run one trial at a time each. A context manager that ends them.

    Args:
        workers: Number of processes.
        threads: CPU threads of each; the processes of a trial on several devices share them.
        devices: Value of ``CUDA_VISIBLE_DEVICES`` of each worker; if empty, none is set.
        time_limit: Seconds of one trial, or None.
    """

    def __init__(self, workers: int, threads: int, devices: list[str], time_limit: float | None) -> None:
        self._threads, self._devices, self._time_limit = threads, devices, time_limit
        self._slots = [self._make_slot(number) for number in range(workers)]
        self._free = list(range(workers))
        self._running: dict[concurrent.futures.Future[Any], tuple[int, str]] = {}
        self._kills_before = _count_kernel_kills()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for slot in self._slots:
            slot.stop()  # type: ignore[no-untyped-call]
        for slot in self._slots:
            slot.join()

    @property
    def has_room(self) -> bool:
        """Whether a worker is free."""
        return bool(self._free)

    def submit(self, point: Point) -> None:
        """Submit a point to a free worker."""
        slot = self._free.pop(0)
        if self._is_broken(slot):  # its worker died while idle
            self._replace(slot)
        future = self._slots[slot].schedule(work, args=[point.settings, point.identity], timeout=self._time_limit)
        self._running[future] = (slot, point.identity)

    def wait(self, seconds: float) -> list[tuple[str, Outcome]]:
        """Return identity and outcome of ended attempts, after at most ``seconds``."""
        if not self._running:
            time.sleep(seconds)
        done, _ = concurrent.futures.wait(
            self._running, timeout=seconds, return_when=concurrent.futures.FIRST_COMPLETED
        )
        broken = {future for future, (slot, _) in self._running.items() if self._is_broken(slot)}
        ended = []
        for future in done | broken:
            slot, identity = self._running.pop(future)
            ended.append((identity, self._determine_outcome(future)))
            if future in broken:
                self._replace(slot)
            self._free.append(slot)
        return ended

    def _make_slot(self, number: int) -> ProcessPool:
        """Return a pool of one worker, which starts with its first trial."""
        device = self._devices[number % len(self._devices)] if self._devices else None
        return ProcessPool(
            max_workers=1,
            context=start_context(),
            initializer=warm_up,
            initargs=(PRELOAD, self._threads, device),
        )

    def _is_broken(self, slot: int) -> bool:
        """Return whether a worker died outside a trial, which Pebble's pool of one does not survive."""
        return not self._slots[slot].active

    def _replace(self, slot: int) -> None:
        self._slots[slot].stop()  # type: ignore[no-untyped-call]
        self._slots[slot].join()
        self._slots[slot] = self._make_slot(slot)

    def _determine_outcome(self, future: concurrent.futures.Future[Any]) -> Outcome:
        if not future.done():
            return Outcome(failure=failure("killed", "the worker died before it had begun"))
        error = future.exception()
        if error is None:
            return outcome_of(future.result())
        if isinstance(error, TimeoutError):
            return Outcome(failure=failure("timeout", f"not finished within {self._time_limit:g} s"))
        if isinstance(error, BrokenProcessPool):
            return Outcome(failure=failure("killed", "the worker died before it had begun"))
        if isinstance(error, ProcessExpired):
            return Outcome(failure=self._classify_exit(int(error.exitcode)))
        return Outcome(failure=classify(error))

    def _classify_exit(self, code: int) -> Failure:
        kills, self._kills_before = self._kills_before, _count_kernel_kills()
        if code == -9 and self._kills_before > kills:
            return out_of_memory("the system killed the worker for lack of memory")
        if code < 0:
            return failure("killed", f"the worker was ended by {_SIGNAL_NAMES.get(code, f'signal {-code}')}")
        return failure("exit", f"the worker ended with exit code {0 if code == _CLEAN_EXIT else code}")


class _Worker(BaseProcess):
    """A worker's process: no exit code counts as its planned end, and it is stopped by SIGKILL.

    SIGTERM asks it to save a checkpoint first: see :func:`nxm_sweep.sweep.execution.worker.warm_up`.
    """

    @property
    def exitcode(self) -> int | None:
        code = super().exitcode
        return _CLEAN_EXIT if code == 0 else code

    def terminate(self) -> None:
        self.kill()


class _ForkedWorker(_Worker, ForkServerProcess):
    """A worker that a fork server starts."""


class _SpawnedWorker(_Worker, SpawnProcess):
    """A worker that starts as a new interpreter."""


class _ForkServerContext(ForkServerContext):
    Process = _ForkedWorker


class _SpawnContext(SpawnContext):
    Process = _SpawnedWorker


def start_context() -> BaseContext:
    """Return the start method of workers: a fork server that imports what they need, once for all of them.

    The server has run nothing, so no thread of PyTorch and no CUDA state is copied. On a GPU, and where forking is not
    safe, each worker is a new process with its own imports.
    """
    if sys.platform != "linux" or _devices():
        return _SpawnContext()
    context = _ForkServerContext()
    context.set_forkserver_preload([PRELOAD])
    _start_server()
    return context


def _start_server() -> None:
    """Start the fork server, which survives the stop signals that are sent to the whole process group."""
    if threading.current_thread() is not threading.main_thread():
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (*STOP_SIGNALS, signal.SIGUSR2)}
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def apart() -> Iterator[Callable[..., Any]]:
    """Yield a function that calls another in a process of the fork server, to avoid the workers' imports here.

    Without a fork server, the call is made in this process.
    """
    context = start_context()
    if context.get_start_method() != "forkserver":
        yield lambda function, *args: function(*args)
        return
    with ProcessPoolExecutor(1, context, _follow_coordinator) as executor:  # no process starts before the first call
        yield lambda function, *args: executor.submit(function, *args).result()


def _follow_coordinator() -> None:
    """Leave Ctrl-C to the coordinator, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_coordinator, name="orphan watch", daemon=True).start()


def start_imports() -> None:
    """Start the imports of the fork server, which take seconds, while the sweep is planned."""
    start_context()


@dataclass(frozen=True, slots=True)
class Shape:
    """Division of a machine between trials.

    Attributes:
        workers: Worker processes.
        threads: CPU threads of each.
        devices: The GPUs of each, in the syntax of ``CUDA_VISIBLE_DEVICES``; workers take turns.
        reason: Reason for their number.
    """

    workers: int
    threads: int
    devices: list[str]
    reason: str

    def __str__(self) -> str:
        workers, threads = (
            f"{count} {noun}{'' if count == 1 else 's'}"
            for count, noun in ((self.workers, "worker"), (self.threads, "thread"))
        )
        return f"{workers} of {threads}: {self.reason}"


def shape_of_machine(settings: SweepSettings, processes: int = 1, weights: int | None = None) -> Shape:
    """Return the number of workers that fit this machine, and the threads and GPUs of each.

    On a CPU, narrow workers beat wide ones: two of one thread finish 1.26 times as many trials per hour as one of two.

    Args:
        settings: Number of workers and threads, if set.
        processes: Processes of a trial, ``training.devices``: GPUs per worker, or cores.
        weights: Bytes of the largest model's weights; None: unknown.
    """
    visible = _devices()
    devices = [",".join(visible[start : start + processes]) for start in range(0, len(visible), processes)]
    if len(visible) % processes and len(devices) > 1:
        devices.pop()  # too few are left for another worker
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    need = _USUAL_NEED if weights is None else _BASE_NEED + _COPIES * weights
    room = max(1, psutil.virtual_memory().available // (need * processes))
    by_cores = max(1, cores // processes)
    if settings.workers is not None:
        workers, reason = settings.workers, "as sweep.workers says"
    elif devices:
        workers = len(devices) * settings.workers_per_device
        reason = f"{settings.workers_per_device} for each {'GPU' if processes == 1 else f'{processes} GPUs'}"
    elif room < by_cores:
        workers, reason = room, f"a trial may take {need * processes / 2**30:.1f} GiB of memory"
    else:
        workers, reason = by_cores, "one for each core" if processes == 1 else f"one for each {processes} cores"
    return Shape(workers, settings.threads or max(1, cores // workers), devices, reason)


def _devices() -> list[str]:
    """Return the GPUs of this process, in the syntax of ``CUDA_VISIBLE_DEVICES``."""
    import torch  # noqa: PLC0415 - planning needs no torch

    if not torch.cuda.is_available():
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]


def _count_kernel_kills() -> int:
    """Return the number of processes that the kernel has killed for lack of memory since boot."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
