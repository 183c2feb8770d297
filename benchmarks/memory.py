"""Peak resident memory of a trial relative to Transformers' Trainer: fresh processes, the same rows, one thread."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks.commands import Work
from benchmarks.groups import Options
from benchmarks.measure import Figure, alternate
from benchmarks.processes import ONE_THREAD, run

BAR = 1.5


def measure(options: Options) -> Iterator[Figure]:
    """Yield the ratios to the example, which pads to 128 tokens, and to an expert's, which pads to the longest row."""
    with tempfile.TemporaryDirectory() as folder:
        work = Work.of(Path(folder), 64 if options.quick else options.rows)
        commands = {
            "example": work.plain("example"),
            "expert": work.plain("expert"),
            "dense": work.trial("method=dense"),
            "nxm": work.trial("method=nxm", "rho.value=4e-3"),
            "sr_ste": work.trial("method=sr_ste"),
        }
        peaks = alternate({name: partial(_measure_peak, command) for name, command in commands.items()}, options.rounds)
    for name, values in peaks.items():
        yield Figure(f"memory: {name}", values, unit="GiB", counted="resident memory")
    for method in ("dense", "nxm", "sr_ste"):
        for recipe in ("example", "expert"):
            values = [own / peer for own, peer in zip(peaks[method], peaks[recipe], strict=True)]
            yield Figure(f"memory: {method} / {recipe}", values, counted="resident memory", bar=BAR, at_least=False)


def _measure_peak(command: Sequence[str]) -> float:
    return run(command, ONE_THREAD).peak
