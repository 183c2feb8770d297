"""Dry run of a sweep: its cells and points, what is done already, and the expected time of the rest."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from nxm_sweep.config.precision import resolve_precision
from nxm_sweep.console import plain_table
from nxm_sweep.errors import RecordError
from nxm_sweep.formatting import format_duration, format_value
from nxm_sweep.settings import AUTO, PRECISION, SweepSettings, TrialSettings
from nxm_sweep.store.paths import trial_folder
from nxm_sweep.store.records import read_summary
from nxm_sweep.store.state import DONE, FAILED, PRUNED, RUNNING, TO_DO, point_state
from nxm_sweep.sweep.planning.cell import Cell, Point
from nxm_sweep.sweep.planning.plan import Plan
from nxm_sweep.trial.digests import model_bytes

_SAMPLE = 20
"""Records read per cell."""
_FINISHED = "finished trials"
_PROBED = "a few timed steps (evaluation, loading and saving come on top)"
_WORTH_SAYING = 1.1  # times as fast
_SAID = (DONE, FAILED, TO_DO)
"""States that are printed even if their count is 0."""


class Estimate:
    """Expected seconds of a point, from finished trials of its cell, scaled by the rows that it trains on.

    Args:
        plan: The sweep.
        output_dir: Root of trials.
    """

    def __init__(self, plan: Plan, output_dir: Path) -> None:
        self._seconds_per_row: defaultdict[str, list[float]] = defaultdict(list)
        self._sources: set[str] = set()
        sizes = {cell.study_name: model_bytes(cell.settings.model) for cell in plan.cells}
        usual = max((size for size in sizes.values() if size is not None), default=1)
        self._size = {name: size or usual for name, size in sizes.items()}
        for points in plan.points:
            read = 0
            for point in points:
                seconds = _read_seconds(output_dir, point.identity) if read < _SAMPLE else None
                if seconds is not None:
                    read += 1
                    self.learn(point, seconds)

    def learn(self, point: Point, seconds: float) -> None:
        """Add the seconds of a finished trial."""
        self._sources.add(_FINISHED)
        self._seconds_per_row[point.cell.study_name].append(seconds / rows_trained(point))

    @property
    def source(self) -> str:
        """Source of the seconds, as text."""
        return "going by " + " and ".join(source for source in (_FINISHED, _PROBED) if source in self._sources)

    def knows(self, cell: Cell) -> bool:
        """Return whether a trial of a cell has been timed."""
        return bool(self._seconds_per_row[cell.study_name])

    def seconds(self, point: Point) -> float | None:
        """Return the expected seconds on one worker, or None if no trial of the cell has been timed."""
        known = self._seconds_per_row[point.cell.study_name]
        return fmean(known) * rows_trained(point) if known else None

    def cost(self, point: Point) -> float:
        """Return the sort key of a point: its expected seconds at its cell's speed.

        An untimed cell gets the mean speed of the timed ones, in proportion to the size of the models.
        """
        own = self._seconds_per_row[point.cell.study_name]
        if own:
            return fmean(own) * rows_trained(point)
        speeds = [fmean(values) / self._size[name] for name, values in self._seconds_per_row.items() if values]
        return (fmean(speeds) if speeds else 1.0) * self._size[point.cell.study_name] * rows_trained(point)

    def guess(self, point: Point) -> float | None:
        """Return the expected seconds, of an untimed cell by the speed of the others; None before any trial was timed."""
        return self.cost(point) if any(self._seconds_per_row.values()) else None

    def probe(self, plan: Plan, time_steps: Callable[[TrialSettings], float]) -> None:
        """Time a few steps of one point per cell without a finished trial; ``time_steps`` returns seconds per row."""
        for cell, points in zip(plan.cells, plan.points, strict=True):
            if not self.knows(cell):
                self._sources.add(_PROBED)
                settings = points[0].settings if points else cell.settings
                self._seconds_per_row[cell.study_name].append(time_steps(settings))


def rows_trained(point: Point) -> int:
    """Return the number of rows that a trial trains on, over all epochs."""
    training, available = point.cell.settings.training, point.cell.digests.train_rows
    limit = point.values.get("training.max_train_samples", training.max_train_samples)
    return max(1, min(available, limit or available) * int(point.values.get("training.epochs", training.epochs)))


def _read_seconds(output_dir: Path, identity: str) -> float | None:
    try:
        record = read_summary(trial_folder(output_dir, identity))
    except RecordError:  # a problem of that point
        return None
    return None if record is None else record.seconds


def show_dry_run(
    plan: Plan,
    output_dir: Path,
    sweep: SweepSettings,
    estimate: Estimate,
    console: Console,
    *,
    workers: int,
    bf16_gain: Callable[[TrialSettings], float | None] | None = None,
) -> None:
    """Print what a sweep would do, without training.

    Args:
        plan: The sweep.
        output_dir: Root of trials.
        sweep: The sweep's settings.
        estimate: Expected seconds of its points.
        console: Where to print.
        workers: Number of workers.
        bf16_gain: Measures the speed-up of bf16 over fp32, or returns None; called only if all is in fp32.
    """
    states = {point.identity: _read_state(output_dir, point.identity, sweep) for point in plan}
    table = plain_table("cell", plan.unit, DONE, FAILED, RUNNING, TO_DO, "one trial")
    left: Counter[str] = Counter()
    total, unknown = 0.0, 0
    unfinished: list[Cell] = []
    for cell, points in zip(plan.cells, plan.points, strict=True):
        count = Counter(states[point.identity] for point in points)
        to_do = [point for point in points if states[point.identity] == TO_DO]
        count[TO_DO] += max(0, plan.wanted(cell) - len(points))  # not yet asked for by a search
        examples = to_do or points or [Point(cell, {}, "")]
        known = [seconds for point in examples if (seconds := estimate.seconds(point)) is not None]
        total += fmean(known) * count[TO_DO] if known else 0.0
        unknown += 0 if known else count[TO_DO]
        left += count
        unfinished += [cell] if count[TO_DO] else []
        states_of_cell = (str(count[state]) for state in (DONE, FAILED, RUNNING, TO_DO))
        one = f"about {format_duration(sum(known) / len(known))}" if known else "not known"
        table.add_row(cell.title, str(plan.wanted(cell)), *states_of_cell, one)
    console.print(table)
    for cell in plan.cells:
        drawn = axes_words({key: cell.axes[key] for key in cell.drawn_keys})
        each = f"; each with seed {' '.join(map(format_value, cell.seeds))}" if cell.seeds else ""
        console.print(f"{cell.title}: {drawn}{each}", soft_wrap=True, style="dim")
    if plan.n_trials is not None:
        noun = "points" if plan.repeats_seeds else "trials"
        console.print(f"a search by {sweep.sampler}: {plan.n_trials} {noun} of each cell")
    totals = ", ".join(
        f"{left[state]} {state}" for state in (DONE, FAILED, RUNNING, PRUNED, TO_DO) if left[state] or state in _SAID
    )
    console.print(f"{plan.count_words} in {len(plan.cells)} cells: {totals}", soft_wrap=True)
    if total:
        console.print(
            f"about {format_duration(total / workers)} on {workers} worker{'' if workers == 1 else 's'}, {estimate.source}",
            soft_wrap=True,
        )
    if unknown:
        console.print(
            f"{unknown} {plan.unit} belong to cells without a finished trial, so their time is not known: "
            "sweep.probe=true times a few steps of each such cell",
            soft_wrap=True,
        )
    precisions = {precision for cell in plan.cells for precision in _list_precisions(cell)}
    if precisions != {"fp32"}:
        console.print(f"{PRECISION}: {', '.join(sorted(precisions))}")
    elif bf16_gain is not None:
        _print_gain(unfinished, bf16_gain, console)


def _list_precisions(cell: Cell) -> Iterable[Any]:
    values = cell.axes.get(PRECISION)
    return values if isinstance(values, tuple) else (cell.settings.training.precision,)


def _print_gain(cells: Sequence[Cell], bf16_gain: Callable[[TrialSettings], float | None], console: Console) -> None:
    """Print the bf16 speed-up of each model that is still to be trained, if it is large enough."""
    for settings in {cell.settings.model.path: cell.settings for cell in cells}.values():
        gain = bf16_gain(settings)
        if gain is not None and gain > _WORTH_SAYING:
            value = AUTO if resolve_precision(AUTO, settings) == "bf16" else "bf16"
            console.print(
                f"bf16 matrix products run {gain:.1f} times as fast as fp32 here (shapes of {settings.model.name}): "
                f"{PRECISION}={value}, which makes other trials",
                soft_wrap=True,
            )


def axes_words(axes: Mapping[str, Any]) -> str:
    """Return a cell's axes as text."""
    return "; ".join(f"{key} in {_format_axis(values)}" for key, values in axes.items())


def _format_axis(values: Any) -> str:
    return (
        " ".join(map(format_value, values))
        if isinstance(values, tuple)
        else f"[{format_value(values.low)}, {format_value(values.high)}]"
    )


def _read_state(output_dir: Path, identity: str, sweep: SweepSettings) -> str:
    pruning = sweep.pruner != "none"
    state = point_state(output_dir, identity, lease=sweep.lease, max_attempts=sweep.max_attempts, pruning=pruning).state
    return TO_DO if state == FAILED and sweep.retry_failed else state
