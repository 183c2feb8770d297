"""``python -m nxm_sweep.predict TRIAL``: predict a test set with a finished trial, in GLUE's submission format.

Exit codes: 0 written, or every checked file is valid; 1 a checked file is invalid; 2 bad input.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from nxm_sweep.console import BAD_INPUT, TextConsole, error_console, path_argument, print_error, program
from nxm_sweep.errors import ConfigError, DataError, ModelError, NxmSweepError, RecordError
from nxm_sweep.settings import DataSettings
from nxm_sweep.store.records import SAVE_AGAIN, find_trial, read_record, saved_model

_BROKEN = 1
_FOLDER = "predicted"
_CLASSES_SHOWN = 5
_ERRORS = error_console()


@dataclass(frozen=True, slots=True)
class _Trial:
    """Fields of a record that prediction depends on."""

    folder: Path
    model: Path
    task: str
    glue: str | None  # the task's configuration in the hub's data set; None if it is not one of GLUE's
    regression: bool
    columns: tuple[str, ...]
    max_length: int
    precision: str
    data: DataSettings


@dataclass(frozen=True, slots=True)
class _Job:
    """One file to write."""

    rows: Any
    place: Path
    words: tuple[str, ...]
    submission: Any = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog=program("predict"), description="A finished trial's answers in GLUE's submission format."
    )
    parser.add_argument("trial", nargs="?", help="identity, the beginning of one, or the trial's folder")
    parser.add_argument(
        "--to", type=path_argument, help=f"folder, or a .tsv file (default: the trial's folder {_FOLDER}/)"
    )
    parser.add_argument("--output-dir", default="outputs", type=path_argument, help="root of trials (default: outputs)")
    parser.add_argument("--data", help="hub id or folder with the test sets (default: where the trial's rows were)")
    parser.add_argument("--rows", type=path_argument, help="answer the rows of this CSV, TSV, JSONL or Parquet instead")
    parser.add_argument(
        "--probabilities", action="store_true", help="with --rows, add a column p(CLASS) for every class"
    )
    parser.add_argument("--check", nargs="+", type=path_argument, metavar="FILE", help="check files of a submission")
    options = parser.parse_args(arguments)
    try:
        if options.check:
            return _check(options.check)
        if options.trial is None:
            raise ConfigError(
                "no trial is named", hint="a trial is a folder of OUTPUT_DIR/trials; --check FILE takes none"
            )
        _predict(options)
    except NxmSweepError as error:
        print_error(error)
        return BAD_INPUT
    return 0


def _check(files: Sequence[Path]) -> int:
    from nxm_sweep.predict.submission import SUBMISSIONS, broken_rules, check_submission, wrong_count  # noqa: PLC0415

    console, whole = TextConsole(soft_wrap=True), True
    for file in files:
        submission = SUBMISSIONS.get(file.name)
        if submission is None:
            broken = [*broken_rules(file, None), f"GLUE takes no file of this name but {', '.join(SUBMISSIONS)}"]
        else:
            broken = check_submission(file, submission)
            broken = broken or [count for count in [wrong_count(_count_rows(file), submission)] if count]
        for rule in broken:
            console.print(f"{file}: {rule}", markup=False)
        if not broken:
            console.print(f"{file}: {_count_rows(file):,} rows, as GLUE wants them", markup=False)
        whole = whole and not broken
    return 0 if whole else _BROKEN


def _count_rows(file: Path) -> int:
    """Return the number of rows of a file with a header whose last line ends with a line break."""
    return file.read_bytes().count(b"\n") - 1


def _predict(options: argparse.Namespace) -> None:
    """Check everything that can be missing, then load the model, then write."""
    if options.probabilities and options.rows is None:
        raise ConfigError(
            "--probabilities is for rows of your own: a submission to GLUE has none",
            hint="--rows FILE answers those of a file",
        )
    trial = _read_trial(find_trial(options.output_dir, options.trial), options.data)
    if options.probabilities and trial.regression:
        raise ConfigError(f"--probabilities is for classes, and {trial.task} is a regression", hint="leave it out")
    if options.rows is None and trial.glue is None:
        raise DataError(
            f"{trial.task} is none of GLUE's tasks, so it has no test set to hand in",
            hint="--rows FILE answers the rows of a file",
        )

    from nxm_sweep.training.model_files import check_model, describe_limit, limit_length  # noqa: PLC0415 - seconds
    from nxm_sweep.training.quiet import silence_known_noise  # noqa: PLC0415 - seconds of imports

    silence_known_noise()
    console = TextConsole(soft_wrap=True)
    positions = check_model(trial.model, pairs=len(trial.columns) > 1).positions
    limit = describe_limit(trial.max_length, positions)
    if limit:
        console.print(f"note: {limit}")
    trial = replace(trial, max_length=limit_length(trial.max_length, positions))
    jobs = (
        _make_own_job(trial, options.rows, options.to) if options.rows else _make_glue_jobs(trial, options.to, console)
    )
    for job in jobs:
        _make_folder(job.place.parent)
        for note in filter(None, [job.rows.note, _describe_wrong_count(job)]):
            _ERRORS.print(f"warning: {note}", markup=False)
    _write_answers(trial, jobs, console, with_probabilities=options.probabilities)


def _read_trial(folder: Path, data: str | None) -> _Trial:
    record = read_record(folder)
    if record is None:
        raise RecordError(f"the trial {folder.name} has no record", hint="it runs, or its training has failed")
    try:
        config: Mapping[str, Any] = record["config"]
        task, own = config["task"], config["data"]
        settings = (
            DataSettings(path=own["path"], revision=own["revision"]) if data is None else DataSettings(data, None)
        )
        return _Trial(
            folder=folder,
            model=saved_model(folder),
            task=str(task["name"]),
            glue=task["config"] if task["kind"] == "glue" else None,
            regression=task["problem"] == "regression",
            columns=tuple(task["text_columns"]),
            max_length=int(config["training"]["max_length"]),
            precision=str(config["training"]["precision"]),
            data=settings,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RecordError(
            f"the record in {folder} does not say how it was trained: {error!r}", hint=SAVE_AGAIN
        ) from error


def _make_own_job(trial: _Trial, file: Path, to: Path | None) -> list[_Job]:
    from nxm_sweep.predict.unlabelled import read_own_rows  # noqa: PLC0415
    from nxm_sweep.training.models import label_words  # noqa: PLC0415

    labels = () if trial.regression else label_words(trial.model)
    strange = [label for label in labels if any(character in label for character in "\t\n\r")]
    if strange:
        raise DataError(f"the class {strange[0]!r} cannot stand in a file of tabs and lines")
    name = f"{file.stem}.predictions.tsv"
    return [_Job(read_own_rows(file, trial.columns), _choose_paths(trial, to, [name])[0], labels)]


def _make_glue_jobs(trial: _Trial, to: Path | None, console: Console) -> list[_Job]:
    from nxm_sweep.predict.submission import SUBMISSIONS  # noqa: PLC0415
    from nxm_sweep.predict.unlabelled import read_test_rows  # noqa: PLC0415
    from nxm_sweep.training.models import label_words  # noqa: PLC0415

    test_sets = []
    for submission in (each for each in SUBMISSIONS.values() if each.task == trial.glue):
        classes = len(label_words(trial.model))
        if classes != max(len(submission.words), 1):
            raise ModelError(
                f"{trial.task} has {len(submission.words) or 1} outputs but the model in {trial.model} {classes}",
                hint=SAVE_AGAIN,
            )
        try:
            test_sets.append((submission, read_test_rows(submission, trial.data, trial.columns)))
        except DataError as error:
            if submission.config == trial.glue:
                raise
            console.print(f"{submission.file} is left out: {error.message}", markup=False)
    paths = _choose_paths(trial, to, [submission.file for submission, _ in test_sets])
    return [_Job(rows, path, each.words, each) for (each, rows), path in zip(test_sets, paths, strict=True)]


def _choose_paths(trial: _Trial, to: Path | None, names: Sequence[str]) -> list[Path]:
    """Return the path of each file; ``to`` is a file if it ends in ``.tsv`` and is not a folder."""
    folder = trial.folder / _FOLDER if to is None else to.expanduser()
    if folder.suffix != ".tsv" or folder.is_dir():
        return [folder / name for name in names]
    if len(names) > 1:
        raise ConfigError(f"--to names one file, but there are {', '.join(names)}", hint="--to takes a folder too")
    return [folder]


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder {folder} cannot be made: {error.strerror}", hint="--to takes another") from error


def _describe_wrong_count(job: _Job) -> str:
    if job.submission is None:
        return ""
    from nxm_sweep.predict.submission import wrong_count  # noqa: PLC0415

    wrong = wrong_count(len(job.rows), job.submission)
    return f"{job.rows.source}: {wrong}: GLUE will refuse {job.place.name}" if wrong else ""


def _write_answers(trial: _Trial, jobs: Sequence[_Job], console: Console, *, with_probabilities: bool) -> None:
    from nxm_sweep.predict.submission import (  # noqa: PLC0415
        broken_rules,
        check_submission,
        name_probabilities,
        words_of,
        write_predictions,
    )
    from nxm_sweep.training.models import load_classifier, outputs_of  # noqa: PLC0415

    model, tokenizer = load_classifier(trial.model)
    for job in jobs:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task(job.place.name, total=len(job.rows))
            outputs = outputs_of(
                model,
                tokenizer,
                job.rows.text,
                job.rows.pair,
                max_length=trial.max_length,
                precision=trial.precision,
                on_rows=lambda rows, bar=bar, task=task: bar.advance(task, rows),  # type: ignore[misc]
            )
        predictions = words_of(outputs, job.words, clip=job.submission is not None)
        write_predictions(job.place, predictions)
        broken = check_submission(job.place, job.submission) if job.submission else broken_rules(job.place, job.words)
        if broken:
            raise DataError(f"{job.place}: {broken[0]}", hint="this is a defect of nxm_sweep: please report it")
        if with_probabilities:  # once the answers are checked
            write_predictions(job.place, predictions, name_probabilities(outputs, job.words))
        summary = _summarize(predictions, job.words)
        console.print(f"{job.place}: {len(predictions):,} rows in {trial.precision}: {summary}", markup=False)
        if len(set(predictions)) == 1:
            _ERRORS.print(f"warning: every row of {job.place.name} has the same answer", markup=False)


def _summarize(predictions: Sequence[str], labels: Sequence[str]) -> str:
    """Return the number of predictions of each class, or the range of the numbers."""
    if not labels:
        numbers = [float(number) for number in predictions]
        return f"{min(numbers):.3f} to {max(numbers):.3f}"
    counts = Counter(predictions)
    shown = [f"{label} {counts[label]:,}" for label in labels[:_CLASSES_SHOWN]]
    return ", ".join(shown) + (" ..." if len(labels) > _CLASSES_SHOWN else "")


if __name__ == "__main__":
    sys.exit(main())
