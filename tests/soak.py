"""Run a sweep under random faults until it is complete, and compare its records with those of an undisturbed one.

``python -m tests.soak --minutes 120 --full-disk --reference UNDISTURBED -- task=glue/rte method=asp,nxm output_dir=DIR ...``

Every one to five minutes (``--every``) one fault, drawn with a seed: SIGKILL, SIGTERM, SIGUSR1 or 20 s of SIGSTOP to the
coordinator or to a worker, or half a minute without a byte of free space in the output folder (``--full-disk``, for a folder on
a small file system of its own). A sweep that has ended is started again; give it ``sweep.max_attempts=100``. Exit code 0: every
point has one record, none was trained twice once its record was there, and the scores of every epoch equal those of the
reference, where that has the point.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1, signal.SIGSTOP)
CONSOLE = Console(highlight=False)
STOPPED_SECONDS, FULL_SECONDS = 20, 30


def main() -> int:
    """Soak, compare, print a summary as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=120, help="faults stop after it, and the sweep may finish")
    parser.add_argument("--every", type=float, nargs=2, default=(60, 300), metavar=("LEAST", "MOST"), help="seconds")
    parser.add_argument("--full-disk", action="store_true")
    parser.add_argument("--reference", type=Path, help="output folder of the same sweep, undisturbed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="+")
    arguments = parser.parse_args()
    output_dir = Path(next(o.partition("=")[2] for o in arguments.overrides if o.startswith("output_dir=")))
    faults, starts, first_seen = soak(arguments, output_dir)
    summary = {"faults": dict(faults), "starts": starts, **check(output_dir, arguments.reference, first_seen)}
    CONSOLE.print_json(data=summary)
    return 0 if summary["complete"] and not summary["rewritten"] and not summary["different"] else 1


def soak(arguments: argparse.Namespace, output_dir: Path) -> tuple[Counter[str], int, dict[str, bytes]]:
    """Run the sweep to its end under faults; return their counts, the number of starts, and each record as first seen."""
    draw, faults, starts = random.Random(arguments.seed), Counter[str](), 0
    until, first_seen = time.monotonic() + 60 * arguments.minutes, dict[str, bytes]()
    due = time.monotonic() + draw.uniform(*arguments.every)
    while True:
        command = [sys.executable, "-m", "nxm_sweep", "-m", *arguments.overrides]
        with subprocess.Popen(command, start_new_session=True) as sweep:
            starts, is_full = starts + 1, False
            while sweep.poll() is None:
                time.sleep(0.5)
                first_seen = {**dict(read_records(output_dir)), **first_seen}
                if due < time.monotonic() < until:
                    fault = strike(sweep, output_dir, draw, full_disk=arguments.full_disk)
                    faults[fault] += 1
                    is_full |= fault == "full disk"  # ends a sweep with 2, as a refusal does
                    CONSOLE.print(f"soak: {fault}", soft_wrap=True)
                    due = time.monotonic() + draw.uniform(*arguments.every)
        CONSOLE.print(f"soak: the sweep ended with {sweep.returncode}; so far {dict(faults)}", soft_wrap=True)
        if sweep.returncode == 0 or (sweep.returncode == 2 and not is_full):
            return faults, starts, first_seen


def strike(sweep: subprocess.Popen[bytes], output_dir: Path, draw: random.Random, *, full_disk: bool) -> str:
    """Do one fault and return its name."""
    if full_disk and draw.random() < 0.2:
        fill_disk(output_dir)
        return "full disk"
    coordinator = psutil.Process(sweep.pid)
    workers = [child for child in coordinator.children(recursive=True) if child.cpu_times().user > 1]
    whom, victim = ("worker", draw.choice(workers)) if workers and draw.random() < 0.6 else ("coordinator", coordinator)
    number = draw.choice(SIGNALS)
    try:
        victim.send_signal(number)
        if number == signal.SIGSTOP:
            time.sleep(STOPPED_SECONDS)
            victim.send_signal(signal.SIGCONT)
    except psutil.NoSuchProcess:
        return f"none: the {whom} had ended"
    return f"{number.name} to {'a' if whom == 'worker' else 'the'} {whom}"


def fill_disk(folder: Path) -> None:
    """Take every free byte of the folder's file system, for a while."""
    filler = folder / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * (1 << 20))
    except OSError:
        time.sleep(FULL_SECONDS)
    filler.unlink()


def read_records(output_dir: Path) -> Iterator[tuple[str, bytes]]:
    """Yield identity and content of every record."""
    for path in output_dir.glob("trials/*/result.json"):
        yield path.parent.name, path.read_bytes()


def check(output_dir: Path, reference: Path | None, first_seen: dict[str, bytes]) -> dict[str, Any]:
    """Compare the records with themselves as first seen, with the plans, and with those of the reference."""
    last = dict(read_records(output_dir))
    plans = [json.loads(path.read_bytes()) for path in output_dir.glob("sweeps/*.json")]
    wanted = {point[0] for plan in plans for cell in plan["cells"] for point in cell["points"]}
    others = {} if reference is None else dict(read_records(reference))
    both = last.keys() & others.keys()
    different = sorted(name for name in both if outcome(last[name]) != outcome(others[name]))
    return {
        "points": len(wanted),
        "records": len(last),
        "complete": wanted == set(last),
        "rewritten": [name for name, text in first_seen.items() if last.get(name) != text],
        "compared": len(both),
        "different": different,
        "resumed": sum(json.loads(text)["resumed_from_step"] is not None for text in last.values()),
        "left behind": sorted(
            path.name for path in output_dir.rglob("*") if path.name == "work" or "tmp" in path.suffix
        ),
    }


def outcome(text: bytes) -> Any:
    """Return what a trial came to: every epoch's scores, ADMM's iterations and the matrices."""
    record = json.loads(text)
    return {name: record.get(name) for name in ("best", "epochs", "iterations", "last_prune", "sparsity", "data")}


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
