"""Picture of the cost of a step, relative to dense training on the same machine, against score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from nxm_sweep.formatting import display_name
from nxm_sweep.report.figures.panels import Sheet, places, split_series
from nxm_sweep.report.figures.score_plots import SAID
from nxm_sweep.report.figures.style import FAINT, INK, Picture, truncate
from nxm_sweep.report.frames import CELL
from nxm_sweep.report.table import best_settings, half_interval

_MEASURES = {"cpu": "CPU seconds per step", "gpu": "wall-clock seconds per step on the GPU"}
_NO_FRONT = "no front, since intervals overlap or are missing"


def cost(trials: pd.DataFrame, names: Sequence[str]) -> Picture:
    """Draw each cell's mean cost of a step, relative to dense, against its mean score, with intervals on both.

    Args:
        trials: Those of a report, scores times 100.
        names: Settings that vary within a cell, without the seed.
    """
    measured = relative_costs(trials)
    measures = [
        measure for measure in _MEASURES if measure in set(measured.loc[measured["relative"].notna(), "measure"])
    ]
    seconds = "; ".join(_MEASURES[measure] for measure in measures)
    sheet = Sheet("cost", "What does a step cost?", f"{seconds},\nrelative to dense", "score times 100")
    if measured["step_cost"].isna().all():
        return sheet.without("no record holds the CPU seconds of its training (seconds.train_cpu)")
    points = mean_costs(measured, names)
    if len(points) < 2 or not (points["method"] != "dense").any():
        why = "no trial can be held against a dense one of the same machine, package versions and training settings"
        return sheet.without(why)

    def mark(axes: Axes, group: pd.DataFrame) -> str:
        axes.axvline(1.0, color=FAINT, linewidth=0.8)
        for row in split_series(group):
            axes.hlines(
                row.frame["value"], row.frame["relative_low"], row.frame["relative_high"], color=INK, linewidth=0.9
            )
            axes.vlines(row.frame["relative"], row.frame["low"], row.frame["high"], color=INK, linewidth=0.9)
            axes.plot(
                row.frame["relative"],
                row.frame["value"],
                linestyle="none",
                label=row.label,
                zorder=3,
                **row.style.marks(),
            )
        front = sure_front(group)
        if front is not None:
            line: dict[str, Any] = {"color": INK, "linewidth": 0.8, "linestyle": (0, (4, 2)), "label": "Pareto front"}
            axes.step(front["relative"], front["value"], where="post", **line)
        parts = [
            f"{truncate(display_name('method', str(row.method)))} {row.value:.1f} at {row.relative:.2f}"
            for row in group.head(SAID).itertuples()
        ]
        return "; ".join([*parts, _NO_FRONT if front is None else f"front of {len(front)}"])

    text = (
        "Means over the seeds of each cell's best settings, with 95% intervals, relative to the mean dense step on the same "
        "machine, with the same versions and settings."
    )
    lacking = int(measured["relative"].isna().sum())
    if lacking:
        text += f" {lacking} of {len(measured)} trials lack such a dense trial, or their CPU seconds, and are left out."
    if any(sure_front(group) is None for _, group in places(points)):
        text += " A front is drawn only where no intervals overlap."
    return sheet.draw(points, mark, text)


def relative_costs(trials: pd.DataFrame) -> pd.DataFrame:
    """Add the cost of a step to each trial.

    Returns:
        The trials with ``measure`` (which seconds: ``cpu`` or ``gpu``), ``step_cost`` (these seconds per optimizer
        step; NaN: unknown) and ``relative``, divided by the mean of the dense trials of the same task, model, machine,
        package versions and training settings (NaN: none exists).
    """
    on_gpu = ~trials["device"].astype(str).str.startswith("cpu")
    measured = trials.assign(
        measure=np.where(on_gpu, "gpu", "cpu"),
        step_cost=trials["seconds_per_step"].where(on_gpu, trials["cpu_per_step"]).astype(float),
    )
    settings = [name for name in trials.columns if name.startswith("training.") and name != "training.epochs"]
    peers = measured.groupby(["task", "model", "machine", "versions", *settings], dropna=False, sort=False).ngroup()
    dense = measured["step_cost"].where(measured["method"] == "dense").groupby(peers).transform("mean")
    return measured.assign(relative=measured["step_cost"] / dense)


def mean_costs(measured: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return mean cost and score over the seeds of the best settings, for every cell with a relative cost.

    CPU and GPU trials are averaged apart; where both exist, the name of the task says which.

    Returns:
        :data:`CELL`, ``metric``, and for ``relative`` and ``value`` the mean and the ends of its 95% interval (NaN with one
        seed): ``relative_low``, ``relative_high``, ``low``, ``high``.
    """
    rows: list[dict[str, Any]] = []
    both = len(set(measured.loc[measured["relative"].notna(), "measure"])) > 1
    for (*cell, measure), trials in measured.groupby([*CELL, "measure"], sort=False):
        chosen = best_settings(trials, names)
        chosen = chosen[chosen["relative"].notna() & chosen["value"].notna()]
        if chosen.empty:
            continue
        row = {**dict(zip(CELL, cell, strict=True)), "metric": chosen["metric"].iloc[0]}
        row["task"] += f" ({str(measure).upper()})" if both else ""
        for name, low, high in (("relative", "relative_low", "relative_high"), ("value", "low", "high")):
            values = chosen[name].to_numpy(float)
            reach = half_interval(values) if len(values) > 1 else np.nan
            row |= {name: values.mean(), low: values.mean() - reach, high: values.mean() + reach}
        rows.append(row)
    columns = [*CELL, "metric", "relative", "relative_low", "relative_high", "value", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def sure_front(points: pd.DataFrame) -> pd.DataFrame | None:
    """Return the Pareto front, cheapest first; None where chance could change it.

    It could not where neighbours on the front are apart on both axes, and every other point is apart on both axes from
    one that dominates it. Apart means that the intervals do not overlap.
    """
    ordered = points.sort_values(["relative", "value"], ascending=[True, False], kind="stable")
    before = ordered["value"].astype(float).cummax().shift(fill_value=-np.inf)
    is_member = (ordered["value"] > before).to_numpy()
    ends = (ordered[name].to_numpy(float) for name in ("relative_low", "relative_high", "low", "high"))
    cheapest, dearest, worst, best = ends
    front, rest = np.flatnonzero(is_member), np.flatnonzero(~is_member)
    apart = (dearest[front[:-1]] < cheapest[front[1:]]) & (best[front[:-1]] < worst[front[1:]])
    dominated = (dearest[front, None] < cheapest[rest]) & (worst[front, None] > best[rest])
    is_sure = len(points) > 1 and bool(apart.all()) and bool(dominated.any(axis=0).all())
    return ordered[is_member] if is_sure else None
