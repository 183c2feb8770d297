"""Ray Tune: trials of one core each on a local cluster."""

from __future__ import annotations

import json
import os
import sys

import ray
from points import grid, train
from ray import tune


def main() -> None:
    values, count, results = json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": here}}, logging_level="error")

    def trial(point: dict[str, tuple[float, int]]) -> dict[str, float]:
        return {"score": train(values, *point["point"], results)}

    tuner = tune.Tuner(
        tune.with_resources(trial, {"cpu": 1}),
        param_space={"point": tune.grid_search(grid(count))},
        run_config=tune.RunConfig(storage_path=f"{results}/ray", verbose=0),
    )
    tuner.fit()


if __name__ == "__main__":
    main()
