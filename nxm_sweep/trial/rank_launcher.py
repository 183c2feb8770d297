"""Starts the processes (ranks) of one trial and waits for them; they end with whoever started them, however it ends."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console

from nxm_sweep import errors
from nxm_sweep.config.device import uses_gpu
from nxm_sweep.errors import NxmSweepError, RankError
from nxm_sweep.settings import TrialSettings
from nxm_sweep.trial.process_group import FAILURE, rank_error

ANSWER = "nxm_sweep/answer"
_SECONDS_BETWEEN_LOOKS = 0.1
_SECONDS_TO_FOLLOW = 20.0  # in which the others end by themselves after one has failed
_SECONDS_TO_END = 5.0  # after SIGTERM
_COMMAND = (sys.executable, "-m", "nxm_sweep.trial.rank_worker")
Rank = subprocess.Popen[bytes]


def launch_ranks(settings: TrialSettings, planned: str, console: Console) -> bool:
    """Train a trial in ``training.devices`` processes; return whether it was trained now.

    Rank 0 writes the record. What the ranks print goes where the console's output goes.

    Args:
        settings: Checked settings.
        planned: The trial's identity.
        console: This process's.

    Raises:
        NxmSweepError: What the ranks raised; ``RankError``: one of them died, or met what nobody expected.
    """
    count = settings.training.devices
    threads = torch.get_num_threads() if uses_gpu(settings) else max(1, torch.get_num_threads() // count)
    order = {"settings": asdict(settings), "planned": planned, "parent": os.getpid(), "threads": threads}
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    environments = [_environment(store.port, rank, count, threads) for rank in range(count)]
    with _started(environments, json.dumps(order).encode(), console) as crew:
        failed = _wait(crew)
    if store.check([ANSWER]):
        return _trained(json.loads(store.get(ANSWER)))
    killed = [rank for rank, code in failed.items() if code < 0]
    if killed:
        name = signal.Signals(-failed[killed[0]]).name
        raise RankError(f"rank {killed[0]} was ended by {name}", kind="killed")
    if store.check([FAILURE]):
        raise rank_error(json.loads(store.get(FAILURE)))
    rank, code = next(iter(failed.items()), (0, 0))
    raise RankError(f"rank {rank} ended with exit code {code}", kind="exit")


def _environment(port: int, rank: int, count: int, threads: int) -> dict[str, str]:
    """What ``torchrun`` would set, and that the store exists already."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    return {
        **os.environ,
        **{name: str(value) for name, value in place.items()},
        "MASTER_ADDR": "127.0.0.1",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR"),  # DDP warns of what it cannot know
    }


@contextmanager
def _started(environments: Sequence[dict[str, str]], order: bytes, console: Console) -> Iterator[list[Rank]]:
    """Start a process per environment and hand each the order; none outlives the block."""
    console.file.flush()
    out = _descriptor(console)
    error = None if out is None or console.file is sys.stdout else subprocess.STDOUT
    crew: list[Rank] = []
    try:
        for environment in environments:
            process = subprocess.Popen(  # noqa: S603 - our own module
                _COMMAND, stdin=subprocess.PIPE, stdout=out, stderr=error, env=environment
            )
            crew.append(process)
            if process.stdin is not None:
                process.stdin.write(order)
                process.stdin.close()
        yield crew
    finally:
        _end(crew)


def _descriptor(console: Console) -> int | None:
    """The console's file, if it is one."""
    try:
        return console.file.fileno()
    except (OSError, io.UnsupportedOperation, AttributeError):
        return None


def _wait(crew: Sequence[Rank]) -> dict[int, int]:
    """Wait until all have ended, or one has failed and the others had time to follow; return who failed first, and its code."""
    failed: dict[int, int] = {}
    deadline = float("inf")
    while True:
        codes = [process.poll() for process in crew]
        if not failed and any(codes):
            failed = {rank: code for rank, code in enumerate(codes) if code}
            deadline = time.monotonic() + _SECONDS_TO_FOLLOW
        if None not in codes or time.monotonic() >= deadline:
            return failed
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _end(crew: Sequence[Rank]) -> None:
    for process in crew:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + _SECONDS_TO_END
    for process in crew:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _trained(answer: dict[str, Any]) -> bool:
    """Return what rank 0 answered.

    Raises:
        NxmSweepError: It answered with an error.
    """
    if "error" in answer:
        kind = getattr(errors, answer["error"], NxmSweepError)
        raise kind(answer["message"], answer["hint"])
    return bool(answer["trained"])
