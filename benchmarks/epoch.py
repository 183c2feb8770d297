"""One epoch of the same rows and updates: Transformers' example and an expert's configuration, relative to ours.

One process, one thread, CPU seconds; a trainer of each side per round, in turn. An epoch is training and one
evaluation, without loading and saving.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import torch

from benchmarks.groups import Options
from benchmarks.machine import has_native_bf16
from benchmarks.measure import Figure, alternate, geometric_means, ratios
from benchmarks.ways import TASKS, Bench, Epoch

COMPARED = {
    "example fp32 / ours fp32": (3.0, ("example", "fp32"), "fp32"),
    "expert fp32 / ours fp32": (1.2, ("expert", "fp32"), "fp32"),
    "expert fp32 / ours bf16": (2.8, ("expert", "fp32"), "bf16"),
    "expert bf16 / ours bf16": (1.3, ("expert", "bf16"), "bf16"),
}


def measure(options: Options) -> Iterator[Figure]:
    """Yield each comparison's geometric mean over the tasks, that of training only, and each task's ratio."""
    torch.set_num_threads(1)
    precisions = ("fp32", "bf16") if has_native_bf16() else ("fp32",)
    tasks = TASKS[1:2] if options.quick else TASKS
    taken = {task: measure_task(task, precisions, options) for task in tasks}
    for name, (bar, (recipe, precision), own) in COMPARED.items():
        title = f"epoch: {name}"
        if not {precision, own} <= set(precisions):
            yield Figure(title, bar=bar, skipped="this CPU has no native bf16")
            continue
        pairs = {task: (epochs[f"{recipe} {precision}"], epochs[f"ours {own}"]) for task, epochs in taken.items()}
        whole = {task: ratios([e.whole for e in a], [e.whole for e in b]) for task, (a, b) in pairs.items()}
        steps = {task: ratios([e.train for e in a], [e.train for e in b]) for task, (a, b) in pairs.items()}
        samples = {task: [[asdict(epoch) for epoch in side] for side in pair] for task, pair in pairs.items()}
        yield Figure(title, geometric_means(list(whole.values())), bar=bar, samples=samples)
        yield Figure(f"{title}, training alone", geometric_means(list(steps.values())))
        for task, values in whole.items():
            yield Figure(f"{title}, {task}", values)


def measure_task(task: str, precisions: tuple[str, ...], options: Options) -> dict[str, list[Epoch]]:
    """Return the epochs of every variant on one task.

    Raises:
        ValueError: The variants took different numbers of updates.
    """
    bench = Bench.of(task, 64 if options.quick else options.rows)
    ways = {"example fp32": bench.peer("example")}
    for precision in precisions:
        ways[f"expert {precision}"] = bench.peer("expert", precision)
        ways[f"ours {precision}"] = bench.ours(precision)
    warm_up = Bench.of(task, 64)  # first calls of the kernels, in every variant
    for way in (warm_up.peer("example"), *(warm_up.ours(precision) for precision in precisions)):
        way()
    epochs = alternate(ways, options.rounds)
    steps = {epoch.steps for runs in epochs.values() for epoch in runs}
    if len(steps) != 1:
        raise ValueError(f"{task}: the same rows took {sorted(steps)} updates")
    return epochs
