"""Commands as users run them: the cost of a process from start to end, including its children."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from benchmarks.machine import ROOT
from benchmarks.measure import Sample

P = ParamSpec("P")
T = TypeVar("T")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Finished:
    """Result of a process that exited with 0.

    Attributes:
        took: Seconds; CPU seconds include the children that it waited for.
        peak: Peak resident memory of the largest of them in GiB.
        output: Its standard output.
    """

    took: Sample
    peak: float
    output: str


def run(
    command: Sequence[str], environment: Mapping[str, str] | None = None, *, python: Path | None = None
) -> Finished:
    """Run a command of this or another Python in the repository's root, where a checkout's modules are importable.

    Linux counts the parent's memory as the child's until ``exec``, so call this from a small process.

    Raises:
        RuntimeError: It failed; the message has the end of its standard error.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(
            [python or sys.executable, *command],
            stdout=output,
            stderr=errors,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
        )
        _, status, usage = os.wait4(process.pid, 0)
        took = Sample(usage.ru_utime + usage.ru_stime, time.perf_counter() - started)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            raise RuntimeError(f"exit code {process.returncode}: {errors.read()[-2000:]}")
        unit = 2**30 if sys.platform == "darwin" else 2**20
        return Finished(took, usage.ru_maxrss / unit, output.read())


def isolated(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a module's function in a fresh process, which keeps this one small."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *args, **kwargs).result()


def together(count: int, function: Callable[Concatenate[Barrier, P], T], *args: P.args, **kwargs: P.kwargs) -> list[T]:
    """Call a module's function in ``count`` fresh processes at once; its first argument is a shared barrier.

    Raises:
        Exception: The first one raised in any process.
    """
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(count), context.Queue()
    processes = [context.Process(target=_put, args=(results, barrier, function, args, kwargs)) for _ in range(count)]
    for process in processes:
        process.start()
    taken: list[T | Exception] = [results.get() for _ in processes]
    for process in processes:
        process.join()
    for one in taken:
        if isinstance(one, Exception):
            raise one
    return [one for one in taken if not isinstance(one, Exception)]


def _put(
    results: Queue[object],
    barrier: Barrier,
    function: Callable[..., object],
    args: tuple[object, ...],
    kwargs: dict[str, object],
) -> None:
    try:
        results.put(function(barrier, *args, **kwargs))
    except Exception as error:  # noqa: BLE001 - it is raised again by the process that waits
        barrier.abort()
        results.put(error)
