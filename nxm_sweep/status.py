"""``python -m nxm_sweep.status OUTPUT_DIR``: how far the sweeps under a folder are; it only reads.

Exit codes: 0 every point has a record; 1 points are missing; 2 there is no sweep.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from nxm_sweep.console import BAD_INPUT, plain_table, print_error
from nxm_sweep.errors import RecordError
from nxm_sweep.formatting import cell_name, describe_point, format_duration, format_score, format_values
from nxm_sweep.store.draws import best_mean, format_count, format_mean
from nxm_sweep.store.paths import trial_folder
from nxm_sweep.store.plans import PlannedCell, cells_of, read_plans
from nxm_sweep.store.progress import format_progress, read_progress
from nxm_sweep.store.state import DONE, FAILED, PRUNED, RUNNING, TO_DO, TrialStates, pattern_in, read_states

_INCOMPLETE = 1
_HOLES_SHOWN = 20


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m nxm_sweep.status", description="How far the sweeps are.")
    parser.add_argument("output_dir", nargs="?", default="outputs", type=Path, help="root of trials (default: outputs)")
    output_dir: Path = parser.parse_args().output_dir
    plans = read_plans(output_dir)
    if not plans:
        hint = "python -m nxm_sweep -m ... starts one; python -m nxm_sweep.report shows single trials"
        print_error(RecordError(f"{output_dir} holds no sweep", hint=hint))
        return BAD_INPUT
    console = Console(highlight=False)
    complete = [_show(plan, output_dir, console) for plan in reversed(plans)]  # the newest last, next to the prompt
    return 0 if all(complete) else _INCOMPLETE


def _show(plan: Mapping[str, Any], output_dir: Path, console: Console) -> bool:
    """Print one sweep; return whether every point is settled well."""
    cells = cells_of(plan)
    points = [point for cell in cells for point in cell.points]
    found = read_states(
        output_dir,
        points,
        lease=plan.get("lease", 60.0),
        max_attempts=plan.get("max_attempts", 3),
        pruning=plan.get("pruning", False),
    )
    console.print(f"-m {' '.join(plan['command'])}", style="bold", soft_wrap=True, markup=False)
    console.print(_cells_table(cells, found))
    _print_running(cells, found, output_dir, console)
    _print_holes(cells, found, output_dir, console)
    count = found.count(points)
    wanted = sum(cell.wanted for cell in cells)
    words = [f"{count[state]} {state}" for state in (DONE, RUNNING, PRUNED, FAILED, TO_DO) if count[state]]
    missing = wanted - len(points)
    words += [f"{missing} not asked for yet"] if missing else []
    total = format_count((cell.wanted, len(cell.seeds)) for cell in cells)
    console.print(f"{total}: {', '.join(words)}{_time_left(cells, found)}\n")
    return count[DONE] + count[PRUNED] == wanted


def _cells_table(cells: Sequence[PlannedCell], found: TrialStates) -> Any:
    table = plain_table("cell", DONE, RUNNING, FAILED, "best", "at")
    for cell in cells:
        count = found.count(cell.points)
        table.add_row(
            _title(cell, found),
            f"{count[DONE]}/{cell.wanted}",
            str(count[RUNNING]),
            str(count[FAILED]),
            *_best_words(cell, found),
        )
    return table


def _title(cell: PlannedCell, found: TrialStates) -> str:
    return cell_name({**cell.names, "sparsity": pattern_in(cell, found.patterns)})


def _best_words(cell: PlannedCell, found: TrialStates) -> tuple[str, str]:
    """The best score and where: of a search with several seeds the best mean, never that of one seed."""
    if cell.seeds:
        failed = {identity for identity, state in found.states.items() if state == FAILED}
        return format_mean(best_mean(cell.points, len(cell.seeds), found.scores, failed, found.epoch_of))
    best = found.best(cell.points)
    return format_score(best[0] if best else None), format_values(best[1].values) if best else ""


def _print_running(cells: Sequence[PlannedCell], found: TrialStates, output_dir: Path, console: Console) -> None:
    table = plain_table("running trial", "where it is", "since", "host")
    for cell in cells:
        for point in cell.points:
            folder = trial_folder(output_dir, point.identity)
            progress = read_progress(folder) if found.states[point.identity] == RUNNING else None
            if progress is not None:
                since = format_duration(time.time() - progress["since"])
                name = describe_point(_title(cell, found), point.values)
                table.add_row(name, format_progress(folder), since, progress["process"]["host"])
    if table.row_count:
        console.print(table)


def _print_holes(cells: Sequence[PlannedCell], found: TrialStates, output_dir: Path, console: Console) -> None:
    holes = [(cell, point) for cell in cells for point in cell.points if found.states[point.identity] == FAILED]
    for cell, point in holes[:_HOLES_SHOWN]:
        why = found.failures[point.identity]
        text = (
            f"hole: {describe_point(_title(cell, found), point.values)}  {why.kind}: {why.message}  ({point.identity})"
        )
        console.print(text, markup=False, soft_wrap=True)
    if len(holes) > _HOLES_SHOWN:
        console.print(f"... and {len(holes) - _HOLES_SHOWN} more holes")
    if holes:
        console.print(f"what a failed trial printed is in {output_dir}/trials/IDENTITY/log.txt", style="dim")


def _time_left(cells: Sequence[PlannedCell], found: TrialStates) -> str:
    """By the mean seconds of each cell's finished trials, over the workers that run now."""
    seconds, workers = 0.0, 0
    for cell in cells:
        count = found.count(cell.points)
        workers += count[RUNNING]
        finished = [found.seconds[point.identity] for point in cell.points if point.identity in found.seconds]
        left = count[RUNNING] + count[TO_DO]
        if left and not finished:
            return ""
        seconds += left * fmean(finished) if left else 0.0
    return f"; about {format_duration(seconds / workers)} left" if workers else ""


if __name__ == "__main__":
    sys.exit(main())
