"""The training step on one GPU: ours over an expert's, what torch.compile pays, and several workers on one device.

``--device cpu`` exercises the same code without a GPU; its figures mean nothing then.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from multiprocessing.synchronize import Barrier
from typing import Any

import torch

from benchmarks.groups import Options
from benchmarks.measure import Figure, Sample, alternate, ratios, wall_figure
from benchmarks.processes import together
from benchmarks.ways import GLUE, Bench, Epoch

WORKERS = (1, 2, 4)
COMPARED = {
    "expert fp32": "ours fp32",
    "expert TF32": "ours TF32",
    "expert bf16": "ours bf16",
    "ours fp32": "ours bf16",
}
COMPARED_COMPILED = {"expert bf16 compiled": "ours bf16 compiled", "ours bf16": "ours bf16 compiled"}


def measure(options: Options) -> Iterator[Figure]:
    """Yield step times and ratios, the rates of several workers, and the price of compiling."""
    if options.device == "cuda" and not torch.cuda.is_available():
        yield Figure("gpu: step, workers per device, torch.compile", skipped="needs a CUDA GPU")
        return
    bench = _bench(options)
    ways = {
        "expert fp32": bench.peer("expert"),
        "expert TF32": _tf32(bench.peer("expert")),
        "expert bf16": bench.peer("expert", "bf16"),
        "ours fp32": bench.ours(),
        "ours TF32": _tf32(bench.ours()),
        "ours bf16": bench.ours("bf16"),
    }
    if not options.quick:
        alternate(ways, 1)  # a kernel's first call
    taken = alternate(ways, options.rounds)
    yield from _steps(taken, ways, COMPARED)
    rates = {count: workers(options, count) for count in WORKERS}
    for count, values in rates.items():
        yield wall_figure(f"gpu: updates per second, workers on one device: {count}", values, unit="")
    for count in WORKERS[1:]:
        values = [several / one for several, one in zip(rates[count], rates[1], strict=True)]
        yield wall_figure(f"gpu: {count} workers / 1 on one device", values)
    compiler = "inductor" if options.device == "cuda" else "eager"  # the latter translates and compiles nothing
    compiled = {
        "ours bf16": bench.ours("bf16"),
        "expert bf16 compiled": _tf32(bench.peer("expert", "bf16", compiler=compiler)),
        "ours bf16 compiled": _tf32(bench.ours("bf16", compiler=compiler)),
    }
    taken = alternate(compiled, options.rounds)
    yield from _steps(taken, ["expert bf16 compiled", "ours bf16 compiled"], COMPARED_COMPILED)
    yield from _compiling(taken["ours bf16"], taken["ours bf16 compiled"])


def _steps(taken: dict[str, list[Epoch]], names: Iterable[str], compared: dict[str, str]) -> Iterator[Figure]:
    """Milliseconds of a step in the second half of an epoch, and ratios."""
    for name in names:
        epochs = taken[name]
        samples = {name: [asdict(epoch) for epoch in epochs]}
        yield wall_figure(
            f"gpu: step, {name}", [1e3 * _late(epoch).wall for epoch in epochs], unit="ms", samples=samples
        )
    for slower, faster in compared.items():
        values = ratios([_late(epoch) for epoch in taken[slower]], [_late(epoch) for epoch in taken[faster]], "wall")
        yield wall_figure(f"gpu: {slower} / {faster}", values)


def _bench(options: Options) -> Bench:
    """MRPC, or the demo task where there is no GLUE: a machine with a GPU may hold nothing but the checkout."""
    task = "glue/mrpc" if GLUE.is_dir() else "demo/paraphrase"
    rows = 64 if options.quick else 4 * options.rows
    return Bench.of(task, rows, device=options.device)


def _tf32(way: Callable[[], Epoch]) -> Callable[[], Epoch]:
    """Return a way with TF32 products; what it changed, as compiling in Transformers does, is undone."""

    def run() -> Epoch:
        backends: Any = torch.backends  # its properties have no types
        before = backends.fp32_precision  # the older setters and this one must not be mixed
        backends.fp32_precision = "tf32"
        try:
            return way()
        finally:
            backends.fp32_precision = before

    return run


def _late(epoch: Epoch) -> Sample:
    return Sample(epoch.late.cpu / epoch.late_steps, epoch.late.wall / epoch.late_steps)


def _compiling(plain: list[Epoch], compiled: list[Epoch]) -> Iterator[Figure]:
    """The seconds that compiling takes, and after how many updates it has paid; the first round compiles from nothing."""
    once = compiled[0].train.wall - compiled[0].steps * _late(compiled[0]).wall
    yield wall_figure("gpu: torch.compile takes", [max(0.0, once)], unit="s")
    before, after = (statistics.median(_late(epoch).wall for epoch in epochs) for epochs in (plain, compiled))
    name = "gpu: torch.compile has paid after"
    if after < before:
        yield wall_figure(name, [max(0.0, once) / (before - after)], unit="updates")
    else:
        yield Figure(name, skipped="never: a compiled step takes no less")


def workers(options: Options, count: int) -> list[float]:
    """Return updates per second of several processes that train on one device at the same time, one value per round."""
    return [sum(rates) for rates in zip(*together(count, _rates, options), strict=True)]


def _rates(barrier: Barrier, options: Options) -> list[float]:
    if options.device == "cpu":
        torch.set_num_threads(1)
    train = _bench(options).ours("bf16")
    train()  # a kernel's first call
    rates = []
    for _ in range(options.rounds):
        barrier.wait()
        epoch = train()
        rates.append(epoch.steps / epoch.train.wall)
    return rates
