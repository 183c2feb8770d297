"""The cost of a step relative to dense: worked out by hand, and no front that machine noise could have drawn."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from nxm_sweep.report.figures.cost import cost, mean_costs, relative_costs, sure_front
from nxm_sweep.report.figures.style import Picture
from nxm_sweep.report.frames import CELL, read_report
from tests.report.records import record, write


def read_costs(folder: Path) -> pd.DataFrame:
    return relative_costs(read_report([folder]).trials).set_index("identity")


def draw_cost(folder: Path) -> Picture:
    report = read_report([folder])
    names = [name for name in report.hyperparameters() if name != "seed"]
    return cost(report.trials.assign(value=100 * report.trials["value"]), names)


def test_a_step_is_divided_by_the_mean_of_its_dense_twins(tmp_path: Path) -> None:
    """10 steps each: CPU seconds per step are a tenth of these."""
    write(
        tmp_path,
        record("d0", 0.8, method="dense", cpu=10.0),
        record("d1", 0.8, method="dense", cpu=14.0, seed=1),
        record("d2", 0.8, method="dense", cpu=30.0, batch=64),
        record("d3", 0.8, method="dense", cpu=20.0, machine="arm64"),
        record("a0", 0.7, cpu=18.0),
        record("a1", 0.7, cpu=33.0, batch=64),
        record("a2", 0.7, cpu=18.0, machine="arm64"),
        record("a3", 0.7, cpu=18.0, task="glue/cola"),
        record("a4", 0.7, cpu=18.0, batch=16),
        record("a5", 0.7, seed=1),
        {**record("a6", 0.7, cpu=18.0, seed=2), "versions": {"torch": "1.0"}},
    )
    found = read_costs(tmp_path)
    expected = {"d0": 10 / 12, "d1": 14 / 12, "d2": 1.0, "d3": 1.0, "a0": 1.5, "a1": 1.1, "a2": 0.9}
    assert found["relative"].dropna().to_dict() == pytest.approx(expected)
    assert list(found.index[found["step_cost"].isna()]) == ["a5"]
    assert draw_cost(tmp_path).words.count(
        "4 of 11 trials lack such a dense trial, or their CPU seconds, and are left out."
    )


def test_on_a_gpu_wall_clock_seconds_count_and_the_axis_says_so(tmp_path: Path) -> None:
    dense, asp = record("d", 0.8, method="dense", gpu="A", cpu=1.0), record("a", 0.7, gpu="A", cpu=99.0)
    asp["seconds"]["train"] = 30.0  # dense: 20
    write(tmp_path, dense, asp, record("b", 0.7, gpu="B", seed=1))
    assert read_costs(tmp_path)["relative"].dropna().to_dict() == pytest.approx({"d": 1.0, "a": 1.5})
    (panel,) = draw_cost(tmp_path).panels
    assert "wall-clock seconds per step on the GPU," in panel.svg
    assert "CPU seconds" not in panel.svg


def test_trials_on_cpu_and_gpu_are_no_means_together(tmp_path: Path) -> None:
    for gpu in ("", "A"):
        write(tmp_path, record(f"d{gpu}", 0.8, method="dense", gpu=gpu, cpu=10.0, seed=len(gpu)))
        write(tmp_path, record(f"a{gpu}", 0.7, gpu=gpu, cpu=20.0, seed=len(gpu)))
    panels = draw_cost(tmp_path).panels
    assert [panel.alt.partition(": ")[0] for panel in panels] == [
        f"What does a step cost? RTE ({measure})" for measure in ("CPU", "GPU")
    ]


def test_intervals_are_students_over_the_seeds_of_the_best_settings(tmp_path: Path) -> None:
    scores, seconds = (0.70, 0.72, 0.77), (20.0, 21.0, 25.0)
    write(tmp_path, *(record(f"d{seed}", 0.8, method="dense", seed=seed, cpu=10.0) for seed in range(3)))
    for seed, (score, spent) in enumerate(zip(scores, seconds, strict=True)):
        write(tmp_path, record(f"n{seed}", score, method="nxm", rho=1e-3, seed=seed, cpu=spent))
        write(tmp_path, record(f"m{seed}", score - 0.1, method="nxm", rho=1e-2, seed=seed, cpu=90.0))
    points = mean_costs(relative_costs(read_report([tmp_path]).trials), ["rho.value"]).set_index("method").loc["nxm"]
    for name, values in (("relative", np.array(seconds) / 10), ("", np.array(scores))):
        low, high = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
        ends = [points[f"{name}_{end}".lstrip("_")] for end in ("low", "high")]
        assert ends == pytest.approx([low, high])


def points_of(boxes: np.ndarray[Any, Any]) -> pd.DataFrame:
    """Points in the middle of boxes: (cheapest, dearest, worst, best)."""
    frame = pd.DataFrame(boxes, columns=["relative_low", "relative_high", "low", "high"])
    frame["relative"], frame["value"] = boxes[:, :2].mean(axis=1), boxes[:, 2:].mean(axis=1)
    return frame.assign(**dict.fromkeys(CELL, "x"), metric="accuracy")


def members(costs: np.ndarray[Any, Any], scores: np.ndarray[Any, Any]) -> set[int]:
    """What no other dominates, pair by pair."""
    pairs = list(zip(costs.tolist(), scores.tolist(), strict=True))
    return {
        place
        for place, (spent, score) in enumerate(pairs)
        if not any(s <= spent and v >= score and (s, v) != (spent, score) for s, v in pairs)
    }


def test_a_front_is_the_same_wherever_the_points_lie_in_their_intervals() -> None:
    draw, drawn = np.random.default_rng(0), 0
    for _ in range(300):
        corner, size = draw.uniform(0, 1, (4, 2)), draw.uniform(0.001, 0.12, (4, 2))
        boxes = np.column_stack([corner[:, 0], corner[:, 0] + size[:, 0], corner[:, 1], corner[:, 1] + size[:, 1]])
        front = sure_front(points_of(boxes))
        if front is None:
            continue
        drawn += 1
        for weights in draw.integers(0, 2, (60, 4, 2)):
            inside = boxes[:, [0, 2]] + weights * size
            assert members(inside[:, 0], inside[:, 1]) == set(front.index)
    assert 50 < drawn < 250


def test_methods_that_cost_the_same_have_a_front_by_chance_hardly_ever() -> None:
    """Five methods of one true cost and score, five seeds each, with noise of 5% and one point: 1,000 sweeps."""
    draw, drawn = np.random.default_rng(1), 0
    for _ in range(1000):
        noise = draw.normal([1.0, 80.0], [0.05, 1.0], (5, 5, 2))  # method, seed, cost and score
        reach = stats.t.ppf(0.975, 4) * stats.sem(noise, axis=1)
        middle = noise.mean(axis=1)
        boxes = np.stack([middle - reach, middle + reach], axis=2).reshape(5, 4)
        drawn += sure_front(points_of(boxes)) is not None
    assert drawn <= 10


@pytest.mark.parametrize("noise", [0.0001, 0.2])
def test_the_picture_has_a_front_only_where_the_intervals_lie_apart(tmp_path: Path, noise: float) -> None:
    draw = np.random.default_rng(0)
    for method, score, spent in (("dense", 0.80, 10.0), ("asp", 0.70, 9.0), ("nxm", 0.75, 13.0)):
        for seed, (shift, factor) in enumerate(draw.normal(0, noise, (4, 2))):
            write(
                tmp_path,
                record(f"{method}{seed}", score + shift, method=method, seed=seed, cpu=spent * math.exp(factor)),
            )
    picture = draw_cost(tmp_path)
    is_apart = noise < 0.01
    assert ("Pareto front" in {entry.label for entry in picture.legend}) is is_apart
    assert ("A front is drawn only where" in picture.words) is not is_apart


def test_one_seed_has_no_interval_and_no_front(tmp_path: Path) -> None:
    write(tmp_path, record("d", 0.8, method="dense", cpu=10.0), record("a", 0.7, cpu=9.0))
    picture = draw_cost(tmp_path)
    assert "no front, since intervals overlap or are missing" in picture.panels[0].alt
    assert "Pareto front" not in picture.panels[0].svg
