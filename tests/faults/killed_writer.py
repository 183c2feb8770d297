"""``killed_writer.py FOLDER STRIDE``: a writer of checkpoints, killed at every STRIDE-th of its file operations.

Prints ``MOMENT SEALED USABLE DAMAGED`` per kill: the epoch of the newest manifest that was written to its end, the epoch of
the checkpoint that is found usable (0: none), and how many were set aside.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from nxm_sweep.training.checkpoint import BEST, make_room, newest_usable, seal

_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}
_BEST_AT = {1: 1, 2: 2, 3: 2, 4: 4}  # epoch: epoch of the best model by then


def _write(work: Path) -> None:
    """Write the checkpoints of four epochs, in the order in which a trial's trainer does."""
    for epoch, best_at in _BEST_AT.items():
        best = work / f"{BEST}{best_at}"
        if best_at == epoch:
            make_room(work)
            best.mkdir(parents=True)
            for name in ("model.safetensors", "predictions.json"):
                (best / name).write_text(f"{name} of {epoch}" * 100)
        make_room(work, best)
        checkpoint = work / f"checkpoint-{epoch}"
        checkpoint.mkdir()
        for name in ("model.safetensors", "optimizer.safetensors", "nxm_sweep.json", "trainer_state.json"):
            (checkpoint / name).write_text(f"{name} of {epoch}" * 100)
        seal(checkpoint, best)
        (work / "sealed").write_text(str(epoch))


def _kill_at(moment: int, work: Path) -> bool:
    """Write in a child that is killed at a moment; return whether it was."""
    child = os.fork()
    if child:
        return not os.WIFEXITED(os.waitpid(child, 0)[1])
    count = 0

    def watch(event: str, details: tuple[Any, ...]) -> None:
        nonlocal count
        if event in _EVENTS and str(work) in str(details[0]) and "sealed" not in str(details[0]):
            count += 1
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    _write(work)
    os._exit(0)


def main(folder: Path, stride: int) -> None:
    """Kill at one operation after the other."""
    moment = 1
    while _kill_at(moment, work := folder / str(moment) / "work"):
        sealed = int((work / "sealed").read_text()) if (work / "sealed").exists() else 0
        manifests = [int(path.parent.name.rpartition("-")[2]) for path in work.glob("checkpoint-*/manifest.json")]
        usable = newest_usable(work)
        epoch = 0 if usable is None else int(usable.name.rpartition("-")[2])
        damaged = len(list(work.glob("*.damaged*")))
        print(moment, max([sealed, *manifests]), epoch, damaged, flush=True)  # noqa: T201 - read by the test
        shutil.rmtree(folder / str(moment), ignore_errors=True)
        moment += stride


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
