"""Finished trials per hour: two one-thread workers against Transformers' example, run twice in a row on all cores.

Wall seconds of whole commands, imports included: measure on an idle machine.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from benchmarks.commands import Work
from benchmarks.groups import Options
from benchmarks.machine import has_native_bf16
from benchmarks.measure import Figure, Sample, alternate, wall_figure
from benchmarks.processes import run

EXAMPLES, OURS = 2, 4
BARS = {"fp32": 3.5, "bf16": 7.0}


def measure(options: Options) -> Iterator[Figure]:
    """Yield the ratio of the rates per precision of ours; the example trains in fp32."""
    precisions = ["fp32", *(["bf16"] if has_native_bf16() else [])]
    with tempfile.TemporaryDirectory() as folder:
        epochs = 1 if options.quick else 2
        work = Work.of(Path(folder), 64 if options.quick else 2 * options.rows, epochs)
        ways = {"example": lambda: examples(work)} | {name: ours(work, name) for name in precisions}
        taken = alternate(ways, options.rounds)
    hourly = [EXAMPLES * 3600 / sample.wall for sample in taken["example"]]
    yield wall_figure("trials: the example, per hour", hourly, unit="")
    for precision, bar in BARS.items():
        name = f"trials: ours {precision}, 2 workers / the example twice in a row"
        if precision not in taken:
            yield Figure(name, bar=bar, skipped="this CPU has no native bf16")
            continue
        rates = [OURS * 3600 / sample.wall for sample in taken[precision]]
        samples = {side: [asdict(sample) for sample in taken[side]] for side in ("example", precision)}
        yield wall_figure(f"trials: ours {precision}, per hour", rates, unit="")
        values = [own / peer for own, peer in zip(rates, hourly, strict=True)]
        yield wall_figure(name, values, bar=bar, samples=samples)


def examples(work: Work) -> Sample:
    """Run the example twice in a row, with PyTorch's default threads; the second reuses the first one's cached rows."""
    total = Sample()
    with tempfile.TemporaryDirectory(dir=work.folder) as cache:
        for seed in range(EXAMPLES):
            total += run(work.plain("example", seed=seed), {"HF_DATASETS_CACHE": cache}).took
    return total


def ours(work: Work, precision: str) -> Callable[[], Sample]:
    """Return a function that runs a sweep over seeds, from a cold cache."""
    seeds = "seed=" + ",".join(map(str, range(OURS)))
    count = iter(range(10**6))

    def sweep() -> Sample:
        output = f"{precision}-{next(count)}"
        command = work.sweep("method=dense", f"training.precision={precision}", seeds, output=output)
        took = run(command, work.environment(output)).took
        finished = len(list((work.folder / output / "trials").glob("*/result.json")))
        if finished != OURS:
            raise RuntimeError(f"{finished} of {OURS} trials finished")
        return took

    return sweep
