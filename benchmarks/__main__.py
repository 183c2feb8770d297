"""``python -m benchmarks [GROUP ...]``: run the benchmarks, print a table, save the run as JSON.

Every group runs in a fresh process, one after another. A figure that cannot be measured here is listed with the reason. Exit
codes: 0; 1 if a group failed; 2 for a group that does not exist.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.groups import GROUPS, Options, measure
from benchmarks.measure import Figure
from benchmarks.processes import isolated
from benchmarks.results import RESULTS, markdown, save


def main() -> int:
    options, groups, folder = _parse()
    figures: list[Figure] = []
    failed = False
    for group in groups:
        print(f"{group}: {GROUPS[group]}", flush=True)
        taken, error = isolated(measure, group, options)
        figures += taken
        if error:
            failed = True
            print(error, file=sys.stderr)
            figures.append(Figure(group, skipped=f"failed: {error.strip().splitlines()[-1]}"))
    file = save(figures, options, folder)
    print(f"\n{markdown(figures)}\n\nwritten to {file.name}")
    return int(failed)


def _parse() -> tuple[Options, list[str], Path]:
    parser = argparse.ArgumentParser("python -m benchmarks", description="Measure ours beside its peers, in turn.")
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"all of: {', '.join(GROUPS)} (default)")
    parser.add_argument("--rounds", type=int, default=3, help="how often every way is measured (default 3)")
    parser.add_argument("--rows", type=int, default=960, help="training rows per task of an epoch (default 960)")
    parser.add_argument("--quick", action="store_true", help="as little as shows that everything runs")
    parser.add_argument(
        "--device", choices=["cuda", "cpu"], default="cuda", help="of the group gpu; cpu tries its code"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON (default benchmarks/results)")
    given = parser.parse_args()
    unknown = [group for group in given.groups if group not in GROUPS]
    if unknown:
        parser.error(f"no group {unknown[0]!r}. Hint: {', '.join(GROUPS)}")
    if min(given.rounds, given.rows) < 1:
        parser.error("--rounds and --rows must be at least 1")
    options = Options(1 if given.quick else given.rounds, given.rows, given.quick, given.device)
    return options, given.groups or list(GROUPS), given.results


if __name__ == "__main__":
    sys.exit(main())
