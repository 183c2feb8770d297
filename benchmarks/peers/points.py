"""The points that every peer trains, and the files of their results; run by the peers' own environments."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

LEARNING_RATES = (1e-4, 2e-4, 4e-4)
SEEDS = (0, 1, 2, 3)


def grid(count: int) -> list[tuple[float, int]]:
    """Return the first points of the grid: learning rate and seed."""
    return list(itertools.product(LEARNING_RATES, SEEDS))[:count]


def train(values: dict[str, Any], learning_rate: float, seed: int, results: str) -> float:
    """Train a point on one thread, in this process; write its result; return the score."""
    import plain  # noqa: PLC0415 - PyTorch is loaded by the workers alone
    import torch  # noqa: PLC0415

    torch.set_num_threads(1)
    plain.datasets.disable_progress_bars()
    job = dataclasses.replace(plain.Job(**values), learning_rate=learning_rate, seed=seed)
    outcome = plain.run(job)
    (Path(results) / f"{learning_rate:g}-{seed}.json").write_text(json.dumps(outcome))
    return float(outcome["score"])
