"""Groups of figures: what each measures, and how it is run."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.measure import Figure

GROUPS = {
    "epoch": "an epoch of Transformers' example and of an expert's configuration over ours",
    "trials": "finished trials per hour",
    "products": "useful matrix products of a training step over bare ones",
    "step": "an optimizer step of every method over one of dense fine-tuning",
    "overhead": "what a sweep costs beside its trials",
    "grid": "a sweep of 12 trials, beside the same trials by other tools",
    "memory": "peak memory of a trial over Transformers' Trainer",
    "imports": "what importing and --help take",
    "quickstart": "make quickstart after installation",
    "gpu": "the training step on a GPU",
}


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a run.

    Attributes:
        rounds: Measurements of every variant.
        rows: Training rows per task of figures over an epoch. With few, grouping by length has no effect.
        quick: Whether only to check that everything runs.
        device: Device of the GPU figures; ``cpu`` only exercises their code.
    """

    rounds: int = 3
    rows: int = 960
    quick: bool = False
    device: str = "cuda"


def measure(group: str, options: Options) -> tuple[list[Figure], str]:
    """Return the figures of the module named after a group, and the traceback if it failed, else an empty text."""
    figures: list[Figure] = []
    try:
        module = importlib.import_module(f"benchmarks.{group}")
        taken: Iterator[Figure] = module.measure(options)
        for figure in taken:
            print(f"  {figure.name}: {figure}", flush=True)
            figures.append(figure)
    except Exception:  # noqa: BLE001 - the other groups go on
        return figures, traceback.format_exc()
    return figures, ""
