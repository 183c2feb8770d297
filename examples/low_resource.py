"""The low-resource study of docs/results.md: tune each cell's learning rate on held-out rows, then train fresh seeds with it.

``python examples/low_resource.py --data GLUE --tasks stsb,mrpc``. It can be stopped and started again at any time: what has a
record is not trained again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

import nxm_sweep

RATES = {"stsb": "1e-4,2e-4,4e-4", "mrpc": "5e-5,1e-4,2e-4", "rte": "5e-5,1e-4,2e-4", "cola": "5e-5,1e-4,2e-4"}
RATES["sst2"] = "5e-5,1e-4,2e-4"
ROWS = {"stsb": 1500, "mrpc": 1500, "rte": 1500, "cola": 4000, "sst2": 4000}
"""Training rows after a fixed shuffle: fewer of pairs, which are longer."""
METHODS = ("dense", "asp", "warmup_asp", "admm_unstructured", "nxm", "nxm_refit")
TUNED_ON, CHOSEN = 100, "learning_rate.value"
"""Seed of the first round, which is not among those of the second; the setting that it chooses."""


def main() -> None:
    """Run both rounds, task by task and pattern by pattern."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, help="GLUE: a folder or a hub id")
    parser.add_argument("--output", type=Path, default=Path("outputs/low_resource"))
    parser.add_argument("--tasks", default=",".join(RATES))
    parser.add_argument("--patterns", default="2of4,1of4")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", type=int, default=6, help="fresh seeds, from 0; 0 only tunes")
    parser.add_argument("overrides", nargs="*", help="more settings, for every trial")
    arguments = parser.parse_args()
    for pattern in arguments.patterns.split(","):
        for task in arguments.tasks.split(","):
            rows = [f"training.max_train_samples={ROWS[task]}"] if task in ROWS else []
            common = [
                f"task=glue/{task}",
                f"sparsity={pattern}",
                f"data.path={arguments.data}",
                *rows,
                *arguments.overrides,
            ]
            common += ["model=minilm_l6", "training.batch_size=16"]
            tuned = tune(arguments, task, common)
            for method, rate in tuned.items() if arguments.seeds else ():
                seeds = f"seed=range({arguments.seeds})"
                output = f"output_dir={arguments.output / 'scores'}"
                nxm_sweep.run_sweep([*common, f"method={method}", f"{CHOSEN}={rate}", seeds, output])


def tune(arguments: argparse.Namespace, task: str, common: list[str]) -> dict[str, float]:
    """Train the grid of a task with one seed; return each method's best learning rate on the held-out rows."""
    held_out = ["selection=heldout", "selection.fraction=0.25", "training.max_eval_samples=400", f"seed={TUNED_ON}"]
    methods = f"method={arguments.methods}"
    output = arguments.output / "tuning"
    trials = nxm_sweep.run_sweep([*common, *held_out, methods, f"{CHOSEN}={RATES[task]}", f"output_dir={output}"])
    own = trials[(trials["task"] == f"glue/{task}") & trials["method"].isin(arguments.methods.split(","))]
    sparsity = common[1].partition("=")[2]
    own = own[(own["sparsity_name"] == sparsity) | (own["method"] == "dense")]
    best: pd.DataFrame = own.loc[own.groupby("method")["selected"].idxmax()]
    return dict(zip(best["method"], best[CHOSEN], strict=True))


if __name__ == "__main__":  # a sweep starts processes, which import this file
    main()
