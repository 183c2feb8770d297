"""``python -m nxm_sweep.sensitivity TRIAL --to FILE``: which matrices tolerate which pattern, and rules for a budget.

One matrix of a trained dense model at a time is pruned to each candidate and scored on a slice of the training set; the
validation rows are not used. ``sparsity=mixed sparsity.scan=FILE`` trains with the resulting rules.
An interrupted scan continues where it stopped. Exit codes: 0 the file is written; 2 bad input; 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from nxm_sweep.config.compose import compose_settings
from nxm_sweep.config.sparsity_rules import SCHEMA, read_scan
from nxm_sweep.console import BAD_INPUT, TextConsole, error_console, path_argument, print_error, program
from nxm_sweep.errors import ConfigError, NxmSweepError
from nxm_sweep.formatting import format_score
from nxm_sweep.sensitivity.scanner import Unfinished
from nxm_sweep.settings import DataSettings
from nxm_sweep.sparsity.allocation import chosen_of, settle, sizes_of
from nxm_sweep.sparsity.pattern import Constraint, parse_constraint
from nxm_sweep.sparsity.semi_structured import TWO_OF_FOUR
from nxm_sweep.sparsity.targets import ENCODER_LAYERS
from nxm_sweep.store.files import write_json

_INTERRUPTED = 130
_ROWS = 512
_CANDIDATES = ("2of4", "1of4")
_PIPED_WIDTH = 160  # columns, where no terminal wraps them


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _build_parser().parse_args(arguments)
    console = TextConsole()
    if not console.is_terminal:
        console.width = _PIPED_WIDTH
    try:
        candidates = _check(options)
        if options.source.endswith(".json"):
            scan = settle(read_scan(Path(options.source)), options.density, hardware=options.hardware)
            write_json(options.to, scan)
        else:
            scan = _scan(_find_model(options), candidates, options, console)
    except KeyboardInterrupt:
        error_console().print("stopped; the same command continues")
        return _INTERRUPTED
    except NxmSweepError as error:
        print_error(error)
        return BAD_INPUT
    show_scan(scan, console)
    console.print(
        f"{options.to}: sparsity=mixed sparsity.scan={options.to} trains with it", markup=False, soft_wrap=True
    )
    return 0


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("sensitivity"),
        description="Which matrices of a trained dense model bear which pattern, and rules that meet a budget.",
        epilog="exit codes: 0 the file is written; 2 bad input; 130 interrupted, and the same command continues",
    )
    parser.add_argument(
        "source",
        help="a finished dense trial: its identity, the beginning of it, or its folder; or the folder of another trained "
        "classifier; or a scan's .json file, to choose anew from what it measured",
    )
    parser.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help="for a model's folder: its task, such as task=glue/mrpc"
    )
    parser.add_argument("--to", required=True, type=path_argument, help="file to write; one that exists is refused")
    parser.add_argument(
        "--density", type=float, default=0.5, help="share of the weights that may stay, of all matrices (default: 0.5)"
    )
    parser.add_argument(
        "--candidates", nargs="+", metavar="PATTERN", help=f"patterns beside dense (default: {' '.join(_CANDIDATES)})"
    )
    parser.add_argument(
        "--hardware", action="store_true", help="choose 2 of 4, where a kernel takes the matrix's shape, or dense alone"
    )
    parser.add_argument("--rows", type=int, default=_ROWS, help=f"training rows to score on (default: {_ROWS})")
    parser.add_argument(
        "--match", default=ENCODER_LAYERS, help=f"glob for the modules to scan (default: {ENCODER_LAYERS})"
    )
    parser.add_argument("--data", help="hub id or folder of the data set (default: where the trial's rows were)")
    parser.add_argument(
        "--output-dir", default=Path("outputs"), type=path_argument, help="root of trials (default: outputs)"
    )
    return parser


def _check(options: argparse.Namespace) -> list[Constraint]:
    """Reject bad options before anything is loaded; return the candidates."""
    if options.to.exists() or not options.to.absolute().parent.is_dir():
        wrong = "exists" if options.to.exists() else "is in no folder that exists"
        raise ConfigError(f"{options.to} {wrong}", hint="nothing is overwritten: give --to a new file")
    if not 0 < options.density <= 1:
        raise ConfigError(f"--density must lie above 0 and be at most 1 but got {options.density:g}")
    if options.rows < 2:
        raise ConfigError(f"--rows must be at least 2 but got {options.rows}")
    again = options.source.endswith(".json")
    if again and (options.settings or options.candidates):
        raise ConfigError("a scan's file says itself what was measured", hint="it takes --density and --hardware alone")
    named = options.candidates or (["2of4"] if options.hardware else _CANDIDATES)
    candidates = list(dict.fromkeys(parse_constraint(name) for name in named))
    if any(candidate.is_dense for candidate in candidates):
        raise ConfigError("--candidates holds a pattern that keeps everything", hint="dense is always a candidate")
    if options.hardware and not again and TWO_OF_FOUR not in candidates:
        raise ConfigError("--hardware chooses 2 of 4, which is none of the candidates", hint="--candidates 2of4")
    reachable = min(candidate.density for candidate in ([TWO_OF_FOUR] if options.hardware else candidates))
    if not again and options.density < reachable:
        raise ConfigError(
            f"--density {options.density:g} cannot be reached: the sparsest candidate keeps {reachable:g}",
            hint="raise it, or add a candidate",
        )
    return candidates


def _find_model(options: argparse.Namespace) -> Any:
    """Return the model to scan: a trial's, or that of a folder whose task is among the settings."""
    from nxm_sweep.export.trial_model import load_finished_trial  # noqa: PLC0415
    from nxm_sweep.sensitivity.scanner import Seen, Trained  # noqa: PLC0415

    folder = Path(options.source).expanduser()
    if (folder / "config.json").is_file():
        if not any(setting.startswith("task=") for setting in options.settings):
            raise ConfigError(
                f"{folder} does not say what it was trained on", hint="add its task, such as task=glue/mrpc"
            )
        settings = compose_settings(options.settings)
        training = settings.training
        source = Trained(folder, settings.task, settings.data, training.max_length, training.precision)
    else:
        if options.settings:
            raise ConfigError(
                "a trial says itself what it was trained on", hint="settings are for the folder of another model"
            )
        trial = load_finished_trial(options.source, options.output_dir)
        if trial.constraints:
            raise ConfigError(
                f"the trial {trial.record['identity']} is pruned already, so its matrices say nothing",
                hint="scan one of method=dense save_model=true",
            )
        config = trial.record["config"]
        selection = config.get("selection", {})
        heldout = selection["fraction"] if selection.get("name") == "heldout" else None
        source = Trained(
            trial.model_folder,
            trial.task,
            trial.data,
            config["training"]["max_length"],
            config["training"]["precision"],
            trial.record["identity"],
            Seen(config["training"]["max_train_samples"], heldout, config["training"].get("subset", "first")),
        )
    return source if options.data is None else replace(source, data=DataSettings(options.data, None))


def _scan(
    source: Any, candidates: Sequence[Constraint], options: argparse.Namespace, console: Console
) -> dict[str, Any]:
    """Measure, choose, and write the file."""
    from nxm_sweep.sensitivity.scanner import Scanner  # noqa: PLC0415
    from nxm_sweep.training.quiet import silence_known_noise  # noqa: PLC0415 - seconds of imports

    silence_known_noise()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        shown = bar.add_task("loading", total=None)
        scanner = Scanner(
            source,
            candidates,
            match=options.match,
            count=options.rows,
            on_measurement=lambda: bar.advance(shown),
        )
        bar.update(shown, description="scanning", total=scanner.measurements + 1)
        if scanner.note:
            console.print(f"note: {scanner.note}", highlight=False, soft_wrap=True)
        names = " and ".join(map(str, candidates))
        console.print(f"scanning {len(scanner.targets)} matrices: {names} on {scanner.count} rows", highlight=False)
        unfinished = Unfinished(options.to, scanner.setup)
        if unfinished.measured:
            console.print(f"continuing after {len(unfinished.measured)} measurements", highlight=False)
        scan = settle({"schema": SCHEMA, **scanner.run(unfinished)}, options.density, hardware=options.hardware)
        scan["chosen"] |= asdict(scanner.together(chosen_of(scan)))
    write_json(options.to, scan)
    unfinished.remove()
    return scan


def show_scan(scan: Mapping[str, Any], console: Console) -> None:
    """Print a settled scan."""
    console.print(_build_table(scan))
    console.print(f"{_describe_rows(scan['rows'])}; in {scan.get('precision', 'fp32')}")
    metric, dense = scan["metric"], scan["dense"]
    console.print(f"dense: loss {dense['loss']:.4f}, {metric} {format_score(dense['score'])}")
    for name, measured in scan["everywhere"].items():
        score = format_score(measured["score"])
        console.print(f"{name} everywhere: loss {measured['loss']:.4f}, {metric} {score}; no training after")
    chosen = scan["chosen"]
    count = Counter(chosen["matrices"].values())
    parts = ", ".join(f"{constraint} in {count[constraint]}" for constraint in sorted(count))
    result = "" if chosen["loss"] is None else f": loss {chosen['loss']:.4f}, {metric} {format_score(chosen['score'])}"
    console.print(
        f"chosen for a density of {scan['settings']['density']:g}: {parts} matrices; density {chosen['density']:.4f}{result}"
    )


def _build_table(scan: Mapping[str, Any]) -> Table:
    candidates = scan["candidates"]
    by_key = {(reading["matrix"], reading["constraint"]): reading for reading in scan["readings"]}
    worst = {name: max(by_key[name, candidate]["loss_rise"] for candidate in candidates) for name in sizes_of(scan)}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("matrix", overflow="fold")
    for header in ("weights", *(f"{name}: {column}" for name in candidates for column in ("loss", "score")), "chosen"):
        table.add_column(header, justify="right")
    for name, size in sorted(sizes_of(scan).items(), key=lambda item: -worst[item[0]]):
        readings = [by_key[name, candidate] for candidate in candidates]
        cells = [
            cell
            for reading in readings
            for cell in (_format_signed(reading["loss_rise"]), _format_drop(reading["score_drop"]))
        ]
        table.add_row(name.removesuffix(".weight"), f"{size:,}", *cells, scan["chosen"]["matrices"][name])
    return table


def _describe_rows(rows: Mapping[str, Any]) -> str:
    if rows["seen"] is None:
        seen = "whether the model was trained on them is not known"
    elif rows["seen"]:
        seen = f"the model was trained on {rows['seen']} of them, so its losses on them are too low"
    else:
        seen = "the model was not trained on them"
    return f"scored on {rows['count']} of {rows['of']} training rows; {seen}"


def _format_signed(value: float) -> str:
    return f"{round(value, 4) + 0.0:+.4f}"  # never -0.0000


def _format_drop(value: float | None) -> str:
    return "-" if value is None else f"{round(-100 * value, 2) + 0.0:+.2f}"


if __name__ == "__main__":
    sys.exit(main())
