"""``python -m nxm_sweep.report OUTPUT_DIR``: the results table, and files with the evidence behind it.

Exit codes: 0 the report is written (points without a record are counted and listed in it; ``nxm_sweep.status`` is the command
whose exit code tells of them); 2 there is no usable record, or bad input.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table as Screen
from rich.text import Text

from nxm_sweep.console import BAD_INPUT, TextConsole, path_argument, print_error, program
from nxm_sweep.errors import ConfigError, NxmSweepError, RecordError
from nxm_sweep.report.comparison import compare_sweeps
from nxm_sweep.report.content import SOURCE, Content, reference_lines
from nxm_sweep.report.formats.write import DEFAULT_FORMATS, FORMATS, write, write_comparison
from nxm_sweep.report.frames import Report, read_report
from nxm_sweep.report.statistics import compare
from nxm_sweep.report.table import detail_frame, make_table, table_frame
from nxm_sweep.report.terminal import Listed, print_trials
from nxm_sweep.report.watch import watch
from nxm_sweep.store.paths import REPORTS
from nxm_sweep.store.records import read_record

_PERIOD = 30.0
_IDENTITY = 8  # shown digits of a trial's identity
_ONLY_IN_FILES = ["missing pairs", "trials", "hyperparameters", "note"]  # of a comparison: a terminal is too narrow
_SHOWN_PROBLEMS = 10
_SHOWN_DETAILS = 40
_NAMES = ("task", "method", "pattern", "model")
_NAME = 20  # most characters of a name that is not wrapped


def main() -> int:
    """Run the command line; return the exit code."""
    arguments = _make_parser().parse_args()
    console = TextConsole()
    try:
        if arguments.trials:
            _show_trials(arguments.output_dirs, console)
        elif arguments.watch is not None:
            _watch(arguments, console)
        elif len(arguments.output_dirs) > 1:
            _show_comparison(arguments, console)
        else:
            _show_report(arguments, console)
    except NxmSweepError as error:
        print_error(error)
        return BAD_INPUT
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("report"),
        description="The results table, and files with the evidence behind it.",
        epilog=__doc__.partition("\n\n")[2],
    )
    parser.add_argument(
        "output_dirs",
        nargs="*",
        default=[Path("outputs")],
        type=path_argument,
        metavar="OUTPUT_DIR",
        help="root of trials (default: outputs); of two, the second is compared with the first",
    )
    parser.add_argument(
        "--by",
        choices=("best", "seed"),
        default="best",
        help="an entry is the best of its cell (the paper's protocol, default) or a mean over seeds with its interval",
    )
    parser.add_argument(
        "--epoch",
        choices=("best", "last"),
        default="best",
        help="score trials at their best epoch on the reported rows (the paper's protocol, default) or at their last",
    )
    parser.add_argument(
        "--to",
        type=path_argument,
        metavar="DIR",
        help="where the files go (default: OUTPUT_DIR/reports; of a comparison: nowhere)",
    )
    parser.add_argument(
        "--formats",
        default=",".join(DEFAULT_FORMATS),
        help=f"of {', '.join(FORMATS)} (default: all but the last)",
    )
    parser.add_argument(
        "--watch",
        nargs="?",
        const=_PERIOD,
        type=float,
        metavar="SECONDS",
        help=f"write the files anew when records come, looking every SECONDS (default: {_PERIOD:g}), until Ctrl-C",
    )
    parser.add_argument("--trials", action="store_true", help="only list the trials side by side; writes nothing")
    return parser


def _read_content(folder: Path, arguments: argparse.Namespace) -> Content:
    report = read_report([folder], last_epoch=arguments.epoch == "last")
    if report.trials.empty and report.problems.empty:
        raise RecordError(f"{folder} holds no records", hint="run a trial: python -m nxm_sweep task=glue/rte")
    if report.trials.empty:
        kinds = ", ".join(f"{count} {kind}" for kind, count in report.problems["kind"].value_counts().items())
        first = report.problems.iloc[0]
        raise RecordError(
            f"{folder} holds no usable record ({kinds})", hint=f"{first['identity']}: {first['reason']}".strip(": ")
        )
    table = make_table(report, arguments.by)
    return Content(report, table, compare(report))


def _show_report(arguments: argparse.Namespace, console: Console) -> None:
    folder, target, formats = _check_files(arguments)
    content = replace(_read_content(folder, arguments), target=target)
    for verdict in content.verdicts:
        console.print(verdict.sentence, markup=False, soft_wrap=True)
    console.print()
    _print_frame(table_frame(content.table), console)
    details = _shorten_identities(detail_frame(content.table).drop(columns="without a record"))
    if len(details) <= _SHOWN_DETAILS:
        console.print()
        _print_frame(_drop_one_model(details), console)
    paper = [f"The paper's figures, for reference ({SOURCE}): {'; '.join(reference_lines())}."]
    glue = any(task.name.startswith("glue/") for task in content.table.tasks)
    for note in [*content.table.notes, *content.statistics.warnings, *(paper if glue else [])]:
        console.print(f"- {note}", markup=False, soft_wrap=True)
    _print_problems(content.report, console)
    _print_written(list(write(content, target, formats)), target, console)


def _check_files(arguments: argparse.Namespace) -> tuple[Path, Path, list[str]]:
    """Return the output folder, the folder for the files, and their formats."""
    folder: Path = arguments.output_dirs[0]
    formats = [name for name in arguments.formats.split(",") if name]
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise ConfigError(f"--formats must be of {', '.join(FORMATS)} but got {unknown[0]!r}")
    return folder, arguments.to or folder / REPORTS, formats


def _watch(arguments: argparse.Namespace, console: Console) -> None:
    if len(arguments.output_dirs) > 1 or not 1.0 <= arguments.watch < float("inf"):
        raise ConfigError(f"--watch takes one output folder and at least 1 second but got {arguments.watch:g} s")
    folder, target, formats = _check_files(arguments)

    def print_line(line: str) -> None:
        console.print(f"{datetime.now().astimezone():%H:%M:%S} {line}", markup=False, soft_wrap=True)

    def refresh(period: float | None) -> None:
        content = replace(_read_content(folder, arguments), target=target, watch=period)
        paths = list(write(content, target, formats))
        print_line(
            f"{len(content.report.trials)} records, {len(content.report.problems)} without: {len(paths)} files in {target}"
        )

    watch([folder], arguments.watch, refresh, print_line)


def _show_comparison(arguments: argparse.Namespace, console: Console) -> None:
    folders: Sequence[Path] = arguments.output_dirs
    if len(folders) > 2:
        raise ConfigError(f"at most two output folders can be compared but got {len(folders)}")
    _, target, formats = _check_files(arguments)
    first, second = (_read_content(folder, arguments) for folder in folders)
    names = (f"1: {folders[0]}", f"2: {folders[1]}")
    comparison = compare_sweeps(first, second, names)
    shown = comparison.frame.rename(columns={name: name[0] for name in names}).drop(columns=_ONLY_IN_FILES)
    _print_frame(_drop_one_model(shown), console)
    for name in names:
        console.print(name, markup=False, soft_wrap=True)
    remarks = [
        f"{row['task']}, {row['method']}: {row['note']}" for row in comparison.frame.to_dict("records") if row["note"]
    ]
    for note in (*comparison.notes, *remarks):
        console.print(f"- {note}", markup=False, soft_wrap=True)
    if arguments.to is not None:
        _print_written(list(write_comparison(comparison, target, formats)), target, console)


def _show_trials(folders: Sequence[Path], console: Console) -> None:
    report = read_report(folders)
    if report.trials.empty:
        raise RecordError(f"{folders[0]} holds no records", hint="run a trial: python -m nxm_sweep task=glue/rte")
    records = (read_record(Path(path).parent, kind=Listed) for path in report.trials["path"])
    print_trials([record for record in records if record is not None], console)
    console.print(
        "A score is that of the selected epoch: optimistic, as in the paper, unless held-out rows selected it."
    )
    _print_problems(report, console)


def _print_problems(report: Report, console: Console) -> None:
    for row in report.problems.head(_SHOWN_PROBLEMS).to_dict("records"):
        point = " ".join(str(row[name]) for name in ("task", "method", "point") if row[name])
        line = f"no record: {point} ({row['identity']}): {row['kind']} {row['reason']}"
        console.print(line.replace(":  (", ": ("), markup=False, soft_wrap=True)
    if len(report.problems) > _SHOWN_PROBLEMS:
        console.print(f"... and {len(report.problems) - _SHOWN_PROBLEMS} more, all in the files")


def _print_written(paths: Sequence[Path], target: Path, console: Console) -> None:
    files = [path.name for path in paths if path.parent == target]
    folders = Counter(path.parent.name for path in paths if path.parent != target)
    counts = [f"{count} files in {name}/" for name, count in folders.items()]
    console.print(f"wrote to {target}: {', '.join([*files, *counts])}", markup=False, soft_wrap=True)


def _shorten_identities(details: pd.DataFrame) -> pd.DataFrame:
    """Show as much of a trial's identity as export and predict need; drop those of means over seeds, and counts of one."""
    if details["trial"].str.contains(",").any():
        return details.drop(columns="trial")
    counts = ["seeds", *(["trials"] if (details["trials"] <= 1).all() else [])]
    return details.drop(columns=counts).assign(trial=details["trial"].str[:_IDENTITY])


def _drop_one_model(frame: pd.DataFrame) -> pd.DataFrame:
    """Drop the model if it is the same in every row."""
    return frame.drop(columns="model") if len(frame["model"].unique()) == 1 else frame


def _print_frame(frame: pd.DataFrame, console: Console) -> None:
    """Print a frame; a narrow terminal wraps heads and long texts, but not names."""
    screen = Screen(box=None, pad_edge=False, header_style="bold")
    for name in frame.columns:
        whole = name in _NAMES and max(map(len, frame[name].astype(str)), default=0) <= _NAME
        left = name in _NAMES or name == "hyperparameters"
        screen.add_column(Text(name), justify="left" if left else "right", overflow="fold", no_wrap=whole)
    for row in frame.itertuples(index=False):
        screen.add_row(*(Text(str(value)) for value in row))
    console.print(screen)


if __name__ == "__main__":
    sys.exit(main())
