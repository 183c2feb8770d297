"""``killed_trial.py FOLDER STRIDE OVERRIDE...``: a trial killed at every STRIDE-th file operation in its work folder.

Each trial runs in a forked process with an output folder ``FOLDER/NUMBER``, is killed, and is run again to its end. Prints
``killed NUMBER MANIFESTS RESUMED`` per trial: manifests written before the kill, and the step that the second run continued
from.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from nxm_sweep.__main__ import main

_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}


def _run(arguments: list[str], output: Path, kill_at: int | None) -> int:
    """Run a trial in a child; return its wait status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    output.mkdir(parents=True, exist_ok=True)
    with (output / "log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    count = 0

    def watch(event: str, details: tuple[Any, ...]) -> None:
        nonlocal count
        if event in _EVENTS and "/work" in str(details[0]):
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    if kill_at is not None:
        sys.addaudithook(watch)
    sys.argv = ["nxm_sweep", *arguments, f"output_dir={output}"]
    os._exit(main())


def _sweep(folder: Path, stride: int, arguments: list[str]) -> None:
    import transformers  # noqa: F401 - once for all children

    import nxm_sweep.trial.train  # noqa: F401

    for number in range(1, 100_000, stride):
        output = folder / str(number)
        if os.WIFEXITED(_run(arguments, output, number)):  # it has ended before that operation
            return
        sealed = len(list(output.glob("trials/*/work/checkpoint-*/manifest.json")))
        status = _run(arguments, output, None)
        assert status == 0, (number, (output / "log").read_text())
        (record,) = output.glob("trials/*/result.json")
        print(  # noqa: T201 - read by the test
            "killed", number, sealed, json.loads(record.read_text())["resumed_from_step"], flush=True
        )


if __name__ == "__main__":
    _sweep(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
