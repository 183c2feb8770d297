"""Training step on one GPU: ours against an expert's, with torch.compile, and with several workers on one device.

``--device cpu`` exercises the same code without a GPU; its figures are then meaningless.
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
    """Yield step times and ratios, the rates of several workers, and the cost of compiling."""
    if options.device == "cuda" and not torch.cuda.is_available():
        yield Figure("gpu: step, workers per device, torch.compile", skipped="needs a CUDA GPU")
        return
    bench = _make_bench(options)
    ways = {
        "expert fp32": bench.peer("expert"),
        "expert TF32": _use_tf32(bench.peer("expert")),
        "expert bf16": bench.peer("expert", "bf16"),
        "ours fp32": bench.ours(),
        "ours TF32": _use_tf32(bench.ours()),
        "ours bf16": bench.ours("bf16"),
    }
    if not options.quick:
        alternate(ways, 1)  # warm up the kernels
    taken = alternate(ways, options.rounds)
    yield from _compare_steps(taken, ways, COMPARED)
    rates = {count: workers(options, count) for count in WORKERS}
    for count, values in rates.items():
        yield wall_figure(f"gpu: updates per second, workers on one device: {count}", values, unit="")
    for count in WORKERS[1:]:
        values = [several / one for several, one in zip(rates[count], rates[1], strict=True)]
        yield wall_figure(f"gpu: {count} workers / 1 on one device", values)
    compiler = "inductor" if options.device == "cuda" else "eager"  # the latter captures graphs and compiles nothing
    compiled = {
        "ours bf16": bench.ours("bf16"),
        "expert bf16 compiled": _use_tf32(bench.peer("expert", "bf16", compiler=compiler)),
        "ours bf16 compiled": _use_tf32(bench.ours("bf16", compiler=compiler)),
    }
    taken = alternate(compiled, options.rounds)
    yield from _compare_steps(taken, ["expert bf16 compiled", "ours bf16 compiled"], COMPARED_COMPILED)
    yield from _time_compiling(taken["ours bf16"], taken["ours bf16 compiled"])


def _compare_steps(taken: dict[str, list[Epoch]], names: Iterable[str], compared: dict[str, str]) -> Iterator[Figure]:
    """Yield milliseconds of a step in the second half of an epoch, and ratios."""
    for name in names:
        epochs = taken[name]
        samples = {name: [asdict(epoch) for epoch in epochs]}
        yield wall_figure(
            f"gpu: step, {name}", [1e3 * _time_step(epoch).wall for epoch in epochs], unit="ms", samples=samples
        )
    for slower, faster in compared.items():
        values = ratios(
            [_time_step(epoch) for epoch in taken[slower]], [_time_step(epoch) for epoch in taken[faster]], "wall"
        )
        yield wall_figure(f"gpu: {slower} / {faster}", values)


def _make_bench(options: Options) -> Bench:
    """Return MRPC, or the demo task without GLUE: a machine with a GPU may have only the checkout."""
    task = "glue/mrpc" if GLUE.is_dir() else "demo/paraphrase"
    rows = 64 if options.quick else 4 * options.rows
    return Bench.of(task, rows, device=options.device)


def _use_tf32(way: Callable[[], Epoch]) -> Callable[[], Epoch]:
    """Wrap a variant in TF32 products; the setting, which compiling in Transformers changes too, is restored."""

    def run() -> Epoch:
        backends: Any = torch.backends  # its properties have no types
        before = backends.fp32_precision  # must not be mixed with the older setters
        backends.fp32_precision = "tf32"
        try:
            return way()
        finally:
            backends.fp32_precision = before

    return run


def _time_step(epoch: Epoch) -> Sample:
    return Sample(epoch.late.cpu / epoch.late_steps, epoch.late.wall / epoch.late_steps)


def _time_compiling(plain: list[Epoch], compiled: list[Epoch]) -> Iterator[Figure]:
    """Yield the seconds of compiling and the updates until it pays off; the first round compiles from scratch."""
    once = compiled[0].train.wall - compiled[0].steps * _time_step(compiled[0]).wall
    yield wall_figure("gpu: torch.compile takes", [max(0.0, once)], unit="s")
    before, after = (statistics.median(_time_step(epoch).wall for epoch in epochs) for epochs in (plain, compiled))
    name = "gpu: torch.compile has paid after"
    if after < before:
        yield wall_figure(name, [max(0.0, once) / (before - after)], unit="updates")
    else:
        yield Figure(name, skipped="never: a compiled step takes no less")


def workers(options: Options, count: int) -> list[float]:
    """Return updates per second of ``count`` processes training concurrently on one device, one value per round."""
    return [sum(rates) for rates in zip(*together(count, _measure_rates, options), strict=True)]


def _measure_rates(barrier: Barrier, options: Options) -> list[float]:
    if options.device == "cpu":
        torch.set_num_threads(1)
    train = _make_bench(options).ours("bf16")
    train()  # warm up the kernels
    rates = []
    for _ in range(options.rounds):
        barrier.wait()
        epoch = train()
        rates.append(epoch.steps / epoch.train.wall)
    return rates
