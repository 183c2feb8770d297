"""Hydra's Optuna sweeper, which needs Optuna 2, with its joblib launcher: two jobs at a time."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

import hydra
from hydra.core.config_store import ConfigStore
from points import LEARNING_RATES, SEEDS, train


@dataclass
class Point:
    """Config of one job."""

    job: str = ""
    results: str = ""
    learning_rate: float = 2e-4
    seed: int = 0


ConfigStore.instance().store(name="config", node=Point)


@hydra.main(version_base=None, config_name="config")
def trial(config: Point) -> float:
    with open(config.job) as file:  # noqa: PTH123 - a path with quotes and braces is no override
        return train(json.load(file), config.learning_rate, config.seed, config.results)


def main() -> None:
    values, count, results = sys.argv[1:]
    with open(f"{results}/job", "w") as file:  # noqa: PTH123
        file.write(values)
    sys.argv[1:] = [
        "--multirun",
        "hydra/sweeper=optuna",
        "hydra/sweeper/sampler=grid",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        "hydra.sweeper.n_jobs=2",
        f"hydra.sweeper.n_trials={count}",
        "hydra.sweeper.direction=maximize",
        f"hydra.sweep.dir={results}/hydra",
        f"job={results}/job",
        f"results={results}",
        f"learning_rate=choice({','.join(map(str, LEARNING_RATES))})",
        f"seed=choice({','.join(map(str, SEEDS))})",
    ]
    trial()


if __name__ == "__main__":
    main()
