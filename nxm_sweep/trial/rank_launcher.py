"""Start the processes (ranks) of one trial and wait for them; they end with their parent, however it ends."""

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
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console

from nxm_sweep import errors
from nxm_sweep.config.device import uses_gpu
from nxm_sweep.errors import NxmSweepError, RankError
from nxm_sweep.settings import TrialSettings
from nxm_sweep.store.paths import trial_folder
from nxm_sweep.store.progress import is_training, request_stop
from nxm_sweep.store.stop_signals import TERMINATED, received
from nxm_sweep.trial.process_group import FAILURE, rank_error

ANSWER = "nxm_sweep/answer"
_SECONDS_BETWEEN_LOOKS = 0.1
_SECONDS_TO_FOLLOW = 20.0  # for the other ranks to end after one has failed
_COMMAND = (sys.executable, "-m", "nxm_sweep.trial.rank_worker")
Rank = subprocess.Popen[bytes]


def launch_ranks(settings: TrialSettings, planned: str, console: Console) -> bool:
    """Train a trial in ``training.devices`` processes; return whether it was trained now.

    Rank 0 writes the record. The ranks print to the console's output.

    Args:
        settings: Checked settings.
        planned: The trial's identity.
        console: This process's console.

    Raises:
        NxmSweepError: Raised by the ranks; ``RankError`` if one died or raised an unexpected exception.
    """
    count = settings.training.devices
    threads = torch.get_num_threads() if uses_gpu(settings) else max(1, torch.get_num_threads() // count)
    rank_settings = {"settings": asdict(settings), "planned": planned, "parent": os.getpid(), "threads": threads}
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    environments = [_build_environment(store.port, rank, count, threads) for rank in range(count)]
    with _start_ranks(environments, json.dumps(rank_settings).encode(), console) as processes:
        failed = _wait(processes, trial_folder(Path(settings.output_dir), planned))
    if store.check([ANSWER]):
        return _parse_answer(json.loads(store.get(ANSWER)))
    killed = [rank for rank, code in failed.items() if code < 0]
    if killed:
        name = signal.Signals(-failed[killed[0]]).name
        raise RankError(f"rank {killed[0]} was ended by {name}", kind="killed")
    if store.check([FAILURE]):
        raise rank_error(json.loads(store.get(FAILURE)))
    rank, code = next(iter(failed.items()), (0, 0))
    raise RankError(f"rank {rank} ended with exit code {code}", kind="exit")


def _build_environment(port: int, rank: int, count: int, threads: int) -> dict[str, str]:
    """Return the variables that ``torchrun`` would set, for a store that exists already."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    return {
        **os.environ,
        **{name: str(value) for name, value in numbers.items()},
        "MASTER_ADDR": "127.0.0.1",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR"),  # DDP warns of what it cannot know
    }


@contextmanager
def _start_ranks(environments: Sequence[dict[str, str]], payload: bytes, console: Console) -> Iterator[list[Rank]]:
    """Start a process per environment and pass it the payload; none outlives the block."""
    console.file.flush()
    out = _find_descriptor(console)
    error = None if out is None or console.file is sys.stdout else subprocess.STDOUT
    processes: list[Rank] = []
    try:
        for environment in environments:
            process = subprocess.Popen(  # noqa: S603 - our own module
                _COMMAND, stdin=subprocess.PIPE, stdout=out, stderr=error, env=environment
            )
            processes.append(process)
            if process.stdin is not None:
                process.stdin.write(payload)
                process.stdin.close()
        yield processes
    finally:
        _end(processes)


def _find_descriptor(console: Console) -> int | None:
    """Return the descriptor of the console's file, if any."""
    try:
        return console.file.fileno()
    except (OSError, io.UnsupportedOperation, AttributeError):
        return None


def _wait(processes: Sequence[Rank], folder: Path) -> dict[int, int]:
    """Wait until all end, or one fails and the others had time to follow; return the first failures' codes by rank.

    A stop signal is passed on to rank 0, as a file in the trial's folder.
    """
    failed: dict[int, int] = {}
    deadline = float("inf")
    while True:
        codes = [process.poll() for process in processes]
        if not failed and any(codes):
            failed = {rank: code for rank, code in enumerate(codes) if code}
            deadline = time.monotonic() + _SECONDS_TO_FOLLOW
        if None not in codes or time.monotonic() >= deadline:
            return failed
        if received() is not None and is_training(folder, float("inf")):
            request_stop(folder, TERMINATED)
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _end(processes: Sequence[Rank]) -> None:
    for process in processes:
        process.kill()  # they ignore SIGTERM
    for process in processes:
        process.wait()


def _parse_answer(answer: dict[str, Any]) -> bool:
    """Return whether rank 0 has trained the trial now.

    Raises:
        NxmSweepError: Rank 0 raised an error.
    """
    if "error" in answer:
        error_class = getattr(errors, answer["error"], NxmSweepError)
        raise error_class(answer["message"], answer["hint"])
    return bool(answer["trained"])
