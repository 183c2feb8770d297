"""``make quickstart`` after installation: a sweep of both demo tasks, and its report."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from benchmarks.groups import Options
from benchmarks.machine import ROOT
from benchmarks.measure import Figure

NAME = "quickstart: make quickstart"


def measure(options: Options) -> Iterator[Figure]:
    """Yield wall seconds of one run; the sweep uses every core."""
    make = shutil.which("make")
    if options.quick or make is None:
        reason = "minutes of training: not part of --quick" if options.quick else "no make on this machine"
        yield Figure(NAME, bar=120, at_least=False, skipped=reason)
        return
    with tempfile.TemporaryDirectory() as folder:
        # --assume-old: use the installed environment, do not call pip
        command = [make, "--assume-old=.venv/.ready", "quickstart", f"RUN={sys.executable}", f"QUICKSTART={folder}"]
        started = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
    yield Figure(NAME, [seconds], unit="s", counted="wall seconds", bar=120, at_least=False)
