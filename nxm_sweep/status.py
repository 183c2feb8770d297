"""``python -m nxm_sweep.status OUTPUT_DIR``: progress of the sweeps under a folder; read-only.

Exit codes: 0 every point has a record; 1 points are missing; 2 there is no sweep.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from nxm_sweep.console import BAD_INPUT, TextConsole, path_argument, plain_table, print_error, program
from nxm_sweep.errors import RecordError
from nxm_sweep.formatting import cell_title, describe_point, format_duration, format_score, format_values
from nxm_sweep.store.draws import best_mean, format_count, format_mean
from nxm_sweep.store.files import check_output_dir
from nxm_sweep.store.paths import trial_folder
from nxm_sweep.store.plans import PlannedCell, cells_of, read_plans
from nxm_sweep.store.progress import format_progress, read_progress
from nxm_sweep.store.state import DONE, FAILED, PRUNED, RUNNING, TO_DO, TrialStates, pattern_in, read_states

_INCOMPLETE = 1
_PROBLEMS_SHOWN = 20


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog=program("status"), description="How far the sweeps are.")
    parser.add_argument(
        "output_dir", nargs="?", default="outputs", type=path_argument, help="root of trials (default: outputs)"
    )
    output_dir: Path = parser.parse_args().output_dir
    try:
        check_output_dir(output_dir)
    except RecordError as error:
        print_error(error)
        return BAD_INPUT
    plans = read_plans(output_dir)
    if not plans:
        hint = "python -m nxm_sweep -m ... starts one; python -m nxm_sweep.report shows single trials"
        print_error(RecordError(f"{output_dir} holds no sweep", hint=hint))
        return BAD_INPUT
    console = TextConsole()
    complete = [_print_sweep(plan, output_dir, console) for plan in reversed(plans)]  # newest last, next to the prompt
    return 0 if all(complete) else _INCOMPLETE


def _print_sweep(plan: Mapping[str, Any], output_dir: Path, console: Console) -> bool:
    """Print one sweep; return whether every point is done or pruned."""
    cells = cells_of(plan)
    points = [point for cell in cells for point in cell.points]
    trials = read_states(
        output_dir,
        points,
        lease=plan.get("lease", 60.0),
        max_attempts=plan.get("max_attempts", 3),
        pruning=plan.get("pruning", False),
    )
    console.print(f"-m {shlex.join(plan['command'])}", style="bold", soft_wrap=True, markup=False)
    console.print(_make_table(cells, trials))
    _print_running(cells, trials, output_dir, console)
    _print_failed(cells, trials, output_dir, console)
    count = trials.count(points)
    wanted = sum(cell.wanted for cell in cells)
    parts = [f"{count[state]} {state}" for state in (DONE, RUNNING, PRUNED, FAILED, TO_DO) if count[state]]
    missing = wanted - len(points)
    parts += [f"{missing} not asked for yet"] if missing else []
    total = format_count((cell.wanted, len(cell.seeds)) for cell in cells)
    console.print(f"{total}: {', '.join(parts)}{_estimate_time_left(cells, trials)}\n")
    return count[DONE] + count[PRUNED] == wanted


def _make_table(cells: Sequence[PlannedCell], trials: TrialStates) -> Any:
    table = plain_table("cell", DONE, RUNNING, FAILED, "best", "at")
    for cell in cells:
        count = trials.count(cell.points)
        table.add_row(
            _format_cell(cell, trials),
            f"{count[DONE]}/{cell.wanted}",
            str(count[RUNNING]),
            str(count[FAILED]),
            *_format_best(cell, trials),
        )
    return table


def _format_cell(cell: PlannedCell, trials: TrialStates) -> str:
    return cell_title({**cell.names, "sparsity": pattern_in(cell, trials.patterns)})


def _format_best(cell: PlannedCell, trials: TrialStates) -> tuple[str, str]:
    """Format the best score and its point; of a search with several seeds the best mean, never one seed's."""
    if cell.seeds:
        failed = {identity for identity, state in trials.states.items() if state == FAILED}
        return format_mean(best_mean(cell.points, len(cell.seeds), trials.scores, failed, trials.epoch_of))
    best = trials.best(cell.points)
    return format_score(best[0] if best else None), format_values(best[1].values) if best else ""


def _print_running(cells: Sequence[PlannedCell], trials: TrialStates, output_dir: Path, console: Console) -> None:
    table = plain_table("running trial", "where it is", "since", "host")
    for cell in cells:
        for point in cell.points:
            folder = trial_folder(output_dir, point.identity)
            progress = read_progress(folder) if trials.states[point.identity] == RUNNING else None
            if progress is not None:
                since = format_duration(time.time() - progress["since"])
                name = describe_point(_format_cell(cell, trials), point.values)
                table.add_row(name, format_progress(folder), since, progress["process"]["host"])
    if table.row_count:
        console.print(table)


def _print_failed(cells: Sequence[PlannedCell], trials: TrialStates, output_dir: Path, console: Console) -> None:
    failed = [(cell, point) for cell in cells for point in cell.points if trials.states[point.identity] == FAILED]
    for cell, point in failed[:_PROBLEMS_SHOWN]:
        name, failure = describe_point(_format_cell(cell, trials), point.values), trials.failures[point.identity]
        text = f"problem: {name}  {failure.kind}: {failure.message}  ({point.identity})"
        console.print(text, markup=False, soft_wrap=True)
    if len(failed) > _PROBLEMS_SHOWN:
        console.print(f"... and {len(failed) - _PROBLEMS_SHOWN} more problems")
    if failed:
        console.print(f"what a failed trial printed is in {output_dir}/trials/IDENTITY/log.txt", style="dim")


def _estimate_time_left(cells: Sequence[PlannedCell], trials: TrialStates) -> str:
    """Estimate from the mean seconds of each cell's finished trials, or of all, and the running workers."""
    seconds, workers = 0.0, 0
    anywhere = list(trials.seconds.values())
    for cell in cells:
        count = trials.count(cell.points)
        workers += count[RUNNING]
        finished = [trials.seconds[point.identity] for point in cell.points if point.identity in trials.seconds]
        left = count[RUNNING] + count[TO_DO] + max(0, cell.wanted - len(cell.points))
        seconds += left * fmean(finished or anywhere or [0.0])
    return f"; about {format_duration(seconds / workers)} left" if workers and anywhere else ""


if __name__ == "__main__":
    sys.exit(main())
