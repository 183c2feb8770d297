"""How often the statistics are wrong, by simulated sweeps of known truth: fixed random numbers, so the same every time.

Each simulation is one report whose tasks are independent sweeps: a method with several settings and seeds against ASP. The
scores of a seed share a part, as real ones do that share their batches.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nxm_sweep.report.frames import CELL, Report
from nxm_sweep.report.statistics import compare

SPREAD = 0.01  # standard deviation of a score over seeds
COLUMNS: dict[str, Any] = {"sparsity": "2of4", "model": "tiny", "folder": "f", "path": "f/r", "selection": "dev"} | {
    "metric": "accuracy",
    "train_rows": 1,
    "exact": True,
    "weights": "w",
    "data": "d",
    "sparsity_name": "2of4",
    "rules": "r",
    "task.metrics": "accuracy",
    "constant": np.nan,
    "beats_constant": None,
    "epoch": 1,
}


def sweeps(
    count: int, seeds: int, grids: dict[str, int], *, slope: float = 0.0, above: float = 0.0, number: int = 0
) -> Report:
    """Sweeps of methods with so many settings, whose true means lie ``slope`` apart in all, in standard deviations of a score.

    The method ``nxm`` lies ``above`` the others; another ``number`` gives other scores.
    """
    draw = np.random.default_rng([seeds, number])
    shared = draw.normal(0.0, SPREAD / 2, (count, 1, seeds))
    frames = []
    for method, size in grids.items():
        means = 0.8 - SPREAD * slope * np.linspace(0.0, 1.0, size) + (above if method == "nxm" else 0.0)
        scores = means[:, np.newaxis] + shared + draw.normal(0.0, SPREAD, (count, size, seeds))
        task, setting, seed = (places.ravel() for places in np.indices(scores.shape))
        frame = {"value": scores.ravel(), "selected": scores.ravel(), "seed": seed.astype(float)}
        rate = {"rho.value": 1e-3 * (setting + 1)} if method == "nxm" else {"rho.value": np.nan}
        frames.append(pd.DataFrame({**frame, **rate, "setting.other": setting, "method": method, "task": task}))
    trials = pd.concat(frames, ignore_index=True).assign(**COLUMNS, **{"learning_rate.value": 1e-4})
    trials["learning_rate.value"] *= 1.0 + trials.pop("setting.other") * (trials["method"] != "nxm")
    trials["task"] = "task " + trials["task"].astype(str)
    trials["identity"] = trials.index.astype(str)
    trials["rank"] = trials.groupby(CELL)["selected"].rank(ascending=False, method="first")
    none = pd.DataFrame(
        columns=["identity", "task", "method", "sparsity", "model", "kind", "seed", "set", "metric", "value"]
    )
    return Report((Path("f"),), trials, none, none, none, none, none, ())


def single_tasks(report: Report) -> pd.DataFrame:
    differences = compare(report).differences
    return differences[differences["task"] != "average"]


def coverage(found: pd.DataFrame, truth: float) -> float:
    return float(((found["low"] <= truth) & (truth <= found["high"])).mean())


@pytest.mark.parametrize("seeds", [2, 3, 6])
def test_the_interval_covers_95_percent_with_nothing_to_choose(seeds: int) -> None:
    found = single_tasks(sweeps(400, seeds, {"nxm": 1, "asp": 1}, above=0.01))
    assert coverage(found, 0.01) == pytest.approx(0.95, abs=0.03)  # 2.7 standard errors


@pytest.mark.parametrize("grids", [{"nxm": 6, "asp": 1}, {"nxm": 6, "asp": 6}], ids=["rho", "rho and rates"])
@pytest.mark.parametrize("seeds", [3, 6])
def test_a_method_with_more_settings_to_choose_from_is_no_better_for_it(seeds: int, grids: dict[str, int]) -> None:
    found = single_tasks(sweeps(400, seeds, grids))
    better = found["low"] > 0
    assert better.mean() <= 0.025 + 0.02  # 2.6 standard errors; chosen on the tested scores it is 6 to 9%
    assert found["mean"].mean() == pytest.approx(0.0, abs=0.001)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 6, 10])
def test_coverage_is_nominal_within_a_point(seeds: int) -> None:
    assert coverage(single_tasks(sweeps(4000, seeds, {"nxm": 1, "asp": 1}, above=0.01)), 0.01) == pytest.approx(
        0.95, abs=0.01
    )


@pytest.mark.slow
@pytest.mark.parametrize("slope", [0.0, 3.0, 8.0])
@pytest.mark.parametrize("settings", [3, 6])
@pytest.mark.parametrize("seeds", [3, 6, 10])
def test_equal_methods_with_equal_grids_differ_in_5_percent_at_most(seeds: int, settings: int, slope: float) -> None:
    found = single_tasks(sweeps(2000, seeds, {"nxm": settings, "asp": settings}, slope=slope))
    assert (found["p"] < 0.05).mean() <= 0.05 + 0.012  # 2.5 standard errors
    assert coverage(found, 0.0) == pytest.approx(1.0 - (found["p"] < 0.05).mean())


@pytest.mark.slow
@pytest.mark.parametrize("settings", [3, 6])
@pytest.mark.parametrize("seeds", [3, 6, 10])
def test_a_grid_of_equal_settings_wins_in_2_5_percent_at_most_against_one_setting(seeds: int, settings: int) -> None:
    found = single_tasks(sweeps(2000, seeds, {"nxm": settings, "asp": 1}))
    assert (found["low"] > 0).mean() <= 0.025 + 0.009


@pytest.mark.slow
def test_holms_correction_holds_the_chance_of_any_false_finding_in_a_table() -> None:
    """Tables of 12 comparisons of equal methods, with 6 seeds each."""
    tables = [single_tasks(sweeps(12, 6, {"nxm": 1, "asp": 1}, number=number)) for number in range(300)]
    any_finding = {name: np.mean([(table[name] < 0.05).any() for table in tables]) for name in ("p", "p_holm")}
    assert any_finding["p"] == pytest.approx(1.0 - 0.95**12, abs=0.075)  # 46%: 2.6 standard errors
    assert any_finding["p_holm"] <= 0.05 + 0.032
