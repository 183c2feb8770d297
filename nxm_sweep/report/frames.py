"""Read records into frames of plain values, from which every part of the report is made.

A column of a setting is named by its config key: ``learning_rate.value``, ``training.batch_size``, ``seed``.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from nxm_sweep.errors import RecordError
from nxm_sweep.report.labels import clean_name, command, method_name
from nxm_sweep.report.problems import damaged_plans, planned, problem, unplanned
from nxm_sweep.settings import LEFT_OUT_AT, PRECISION
from nxm_sweep.store.files import check_output_dir
from nxm_sweep.store.paths import RESULT, TRIALS
from nxm_sweep.store.plans import cells_of, read_plans
from nxm_sweep.store.record import Record
from nxm_sweep.store.records import (
    at_last_epoch,
    beats,
    constant_value,
    pattern_of,
    rank_key,
    read_record,
    reported_scores,
    reported_value,
    selected_epoch,
    selected_value,
    unpruned_value,
)
from nxm_sweep.store.speeds import Speed, read_speeds

BUDGET = ("training.epochs", "training.max_train_samples", "training.max_eval_samples", "training.max_length")
FrameRows = dict[str, list[Any]]
"""Rows by frame: dictionaries for ``trials`` and ``problems``, else values in the order of :data:`COLUMNS`."""
_TRIAL_KEY = ("folder", "identity")
_RESIDUALS = ("primal", "dual", "distance", "support_flips")
_STRENGTHS = ("rho", "mean_penalty_share", "kappa", "efolds", "mean_clip_factor")  # of all groups together
COLUMNS = {
    "scores": (*_TRIAL_KEY, "set", "metric", "value"),
    "epochs": (*_TRIAL_KEY, "epoch", "step", "selected", "unpruned", "training_loss", "residual"),
    "iterations": (*_TRIAL_KEY, "group", "step", *_RESIDUALS, *_STRENGTHS),
    "matrices": (*_TRIAL_KEY, "matrix", "constraint", "rows", "columns", "zeros", "residual"),
}
NOT_A_RECORD = (KeyError, TypeError, ValueError, AttributeError, StopIteration, IndexError, ArithmeticError)
"""Exceptions from reading a missing value or one of a wrong type."""
_LARGEST = 2**53  # nothing measured is larger; a larger setting, or one that is no number, is shown as written
_NUMBERS = ("learning_rate.value", "rho.value", "training.batch_size", "seed")
CELL = ["task", "method", "sparsity", "model"]
"""Columns of an entry of the results table."""
RULES = ["sparsity_name", "rules"]
"""Columns that identify the rules of a trial, by name and content; a method may make another pattern of them."""
DENSE_RULES = ("dense", "")
""":data:`RULES` of a trial without rules."""
USUAL = ["learning_rate.value", "rho.value", "training.batch_size", "seed"]
"""Axes in every table, in this order, where they exist."""
_NOT_HYPERPARAMETERS = ("task.", "sparsity.", "method.name")
_KEY = ["folder", "identity"]
_FIRST = {  # columns that exist even without rows
    "trials": [
        *CELL,
        *_KEY,
        "value",
        "selected",
        "selection",
        "metric",
        "constant",
        "beats_constant",
        "epoch",
        "unpruned",
        "residual",
    ],
    "problems": [*_KEY, *CELL, "kind", "reason", "point", "seed"],
}


def rows_of(folder: Path, path: Path, record: Record) -> FrameRows:
    """Return a record's rows for the frames of :class:`~nxm_sweep.report.frames.Report`.

    Args:
        folder: The output folder.
        path: The record's file.
        record: Its content.

    Raises:
        KeyError: A value is missing; :data:`NOT_A_RECORD` lists the exceptions for other damage.
    """
    key = {"folder": str(folder), "identity": str(record["identity"])}
    if key["identity"] != path.parent.name:
        raise ValueError(f"it is the record of trial {clean_name(key['identity'])}")
    sparsity, epoch = record["sparsity"], selected_epoch(record)
    return {
        "trials": [{**_trial_row(record, epoch), **key, "path": str(path)}],
        "scores": [
            (*key.values(), clean_name(part), clean_name(metric), _to_number(score))
            for part, values in reported_scores(record).items()
            for metric, score in values.items()
        ],
        "epochs": [(*key.values(), *_epoch_values(entry)) for entry in record["epochs"]],
        "iterations": [
            (*key.values(), *group) for iteration in record["iterations"] for group in _group_values(iteration)
        ],
        "matrices": [
            (
                *key.values(),
                clean_name(row["matrix"]),
                clean_name(row["constraint"]),
                int(row["rows"]),
                int(row["columns"]),
                int(check["zeros"]),
                residual,
            )
            for row, check, residual in zip(
                sparsity["targets"], sparsity["checked"], _matrix_residuals(record), strict=True
            )
        ],
    }


def _matrix_residuals(record: Record) -> list[float | None]:
    """Return each target's residual before the last prune; None where it was not measured."""
    last_prune, targets = record.get("last_prune"), record["sparsity"]["targets"]
    residuals = last_prune.get("residuals") if last_prune else None
    return [None] * len(targets) if residuals is None else [_to_number(residual) for residual in residuals]


def _trial_row(record: Record, epoch: Mapping[str, Any]) -> dict[str, Any]:
    best, model, last_prune = record["best"], record["model"], record.get("last_prune")
    value, constant = _to_score(reported_value(record)), _to_number(constant_value(record))
    return {
        "task": clean_name(record["task"]),
        "method": method_name(record["method"], record["distillation"]["name"] if "distillation" in record else None),
        "sparsity": clean_name(pattern_of(record)),
        "sparsity_name": clean_name(record["sparsity_name"]),
        "model": clean_name(record["model_name"]),
        "value": value,
        "selected": _to_score(selected_value(record)),
        "selection": clean_name(record["selection"].get("name", "dev")),
        "metric": clean_name(record["selection"]["metric"]),
        "constant": constant,
        "beats_constant": beats(value, constant),
        "epoch": int(best["epoch"]),
        "unpruned": _to_number(unpruned_value(record)),
        "residual": _to_number(epoch["relative_distance"]),
        "exact": bool(record["sparsity"]["exact"]),
        "seconds": float(record["seconds"]["total"]),
        "seconds_per_step": float(record["seconds"]["train"]) / max(1, int(record["steps"])),
        "cpu_per_step": _cpu_per_step(record),
        "steps": int(record["steps"]),
        "tokens": int(record["tokens"]),
        "train_rows": int(record["data"]["train_rows"]),
        "data": clean_name(record["data"]["digest"]),
        "weights": clean_name(model["digest"]),
        "rules": _digest(record["hashed"].get("sparsity")),
        "parameters": int(model["parameters"]),
        "target_parameters": int(model["target_parameters"]),
        "cost_of_prune": _to_number(last_prune["cost"] if last_prune else None),
        "device": clean_name(record["hardware"].get("gpu") or record["hardware"]["device"]),
        "machine": json.dumps(
            {clean_name(key): clean_name(value) for key, value in sorted(record["hardware"].items())}
        ),
        "commit": clean_name(record["git_commit"] or ""),
        "versions": json.dumps(
            {clean_name(key): clean_name(value) for key, value in sorted(record["versions"].items())}
        ),
        "finished": clean_name(record["finished"]),
        **_read_settings(record["hashed"], record["config"].get("seed")),
    }


def _cpu_per_step(record: Record) -> float | None:
    spent = _to_number(record["seconds"].get("train_cpu"))
    return None if spent is None else spent / max(1, int(record["steps"]))


def _epoch_values(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    scores = (
        _to_number(entry[key]) for key in ("selection", "unpruned_selection", "training_loss", "relative_distance")
    )
    return int(entry["epoch"]), int(entry["step"]), *scores


def _group_values(iteration: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    step, shared = int(iteration["step"]), [_to_number(iteration.get(key)) for key in _STRENGTHS]
    for group in ({**iteration, "group": "all"}, *iteration.get("groups", [])):
        yield clean_name(group["group"]), step, *(_to_number(group[key]) for key in _RESIDUALS), *shared


def _read_settings(hashed: Mapping[str, Any], seed: int | None) -> dict[str, Any]:
    settings = {
        "seed": hashed.get("seed", seed),
        **dict(_flatten(LEFT_OUT_AT)),
        **{key: value for key, value in _flatten(hashed) if "." in key},
    }
    return {**settings, **{key: _to_number(settings[key]) for key in _NUMBERS if key in settings}}


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = f"{prefix}{clean_name(key)}"
        match value:
            case dict():
                yield from _flatten(value, f"{name}.")
            case None | bool():
                yield name, value
            case int() | float() if abs(value) < _LARGEST:
                yield name, value
            case list():
                yield name, clean_name(json.dumps(value))
            case _:
                yield name, clean_name(value)


def _to_score(value: Any) -> float:
    score = _to_number(value)
    if score is None:
        raise ValueError(f"its score is {clean_name(value)}")
    return score


def _to_number(value: Any) -> float | None:
    """Return a finite number, or None for what was not measured or is not finite."""
    return None if value is None or not abs(float(value)) < _LARGEST else float(value)


def _digest(value: Any) -> str:
    return "" if value is None else f"{zlib.crc32(json.dumps(value, sort_keys=True).encode()):08x}"


@dataclass(frozen=True)
class Report:
    """Contents of the output folders.

    Attributes:
        folders: The folders, as given.
        trials: One row per usable record, in the order of the grid: :data:`CELL`, ``folder``, ``identity``, ``value``
            (reported; for MNLI the mean of m and mm), ``selected`` (the score that selects; for MNLI that on m), ``rank`` in
            its cell (1 is the best), ``selection`` (``dev`` or ``heldout``), ``metric``, ``constant`` (the constant answer's
            score; NaN: unknown), ``beats_constant`` (None: unknown), ``epoch``, ``unpruned``, ``residual``, ``exact``,
            ``sparsity_name`` (of the rules; ``sparsity`` is that of the matrices), ``seconds``, ``seconds_per_step``
            and ``cpu_per_step`` (of training; NaN: unknown), ``steps``, ``tokens``, ``train_rows``, ``data``, ``weights``,
            ``rules`` (digests), ``parameters``, ``target_parameters``, ``cost_of_prune``, ``device``, ``machine``,
            ``commit``, ``versions``, ``finished``, ``path`` and one column per hashed setting. NaN where the method does
            not read one. An ambiguous name has an addition in brackets, as has a method with a teacher.
        scores: One row per trial, validation set and metric: ``folder``, ``identity``, ``set``, ``metric``, ``value``.
        epochs: One row per trial and epoch: ``folder``, ``identity``, ``epoch``, ``step``, ``selected``, ``unpruned``,
            ``training_loss``, ``residual``.
        iterations: One row per trial, ADMM iteration and group of matrices (``group`` is ``all`` for all together): ``folder``,
            ``identity``, ``step``, ``primal``, ``dual``, ``distance``, ``support_flips``, ``rho``,
            ``mean_penalty_share`` (NaN for a record of schema 1, which has that of one step), ``kappa``, ``efolds``,
            ``mean_clip_factor`` (:class:`~nxm_sweep.methods.base.Iteration`; NaN for records of earlier versions).
        matrices: One row per trial and target: ``folder``, ``identity``, ``matrix``, ``constraint``, ``rows``, ``columns``,
            ``zeros``, ``residual`` (before the last prune; NaN: not measured).
        problems: One row per point without a usable record and per damaged plan: ``folder``, ``identity``, :data:`CELL`,
            ``kind``, ``reason``, ``point``, ``seed`` (None: unknown).
        commands: Command lines of the sweeps under the folders.
        last_epoch: Whether trials are shown at their last epoch instead of the best on the reported rows.
        speeds: Measurements of ``nxm-sweep speed``.
    """

    folders: tuple[Path, ...]
    trials: pd.DataFrame
    scores: pd.DataFrame
    epochs: pd.DataFrame
    iterations: pd.DataFrame
    matrices: pd.DataFrame
    problems: pd.DataFrame
    commands: tuple[str, ...]
    last_epoch: bool = False
    speeds: tuple[Speed, ...] = ()

    def settings(self) -> list[str]:
        """Return the columns of settings that may differ among trials of one cell."""
        names = [name for name in self.trials.columns if "." in name or name == "seed"]
        return [name for name in names if not name.startswith(_NOT_HYPERPARAMETERS)]

    def hyperparameters(self) -> list[str]:
        """Return the usual settings, then others that differ among trials of one cell."""
        return list(self._hyperparameters)

    @cached_property
    def _hyperparameters(self) -> tuple[str, ...]:
        settings = self.settings()
        cells = self.trials.groupby(CELL, sort=False)
        differing = [name for name in settings if cells[name].nunique(dropna=False).max() > 1]
        usual = [name for name in USUAL if name in settings]
        return (*usual, *sorted(set(differing) - set(usual)))


def read_report(folders: Sequence[Path], *, last_epoch: bool = False) -> Report:
    """Read every record, plan and failure under output folders. An unreadable file becomes a problem, not an error.

    Args:
        folders: Output folders.
        last_epoch: Show trials at their last epoch, unless held-out rows selected another.

    Raises:
        RecordError: A folder does not exist.
    """
    rows: FrameRows = {name: [] for name in (*_FIRST, *COLUMNS)}
    commands: dict[str, None] = {}
    positions: dict[tuple[str, str], int] = {}
    for folder in folders:
        check_output_dir(folder)
        settled, unfinished = _read_trials(folder, rows, last_epoch=last_epoch)
        patterns = {row["identity"]: row["sparsity"] for row in rows["trials"] if row["folder"] == str(folder)}
        rows["problems"].extend(damaged_plans(folder))
        for plan in read_plans(folder):
            commands[command(plan.get("command", []))] = None
            for identity in (point.identity for cell in cells_of(plan) for point in cell.points):
                positions.setdefault((str(folder), identity), len(positions))
            missing = planned(folder, plan, settled, patterns)
            rows["problems"].extend(missing)
            settled |= {row["identity"] for row in missing}
        rows["problems"].extend(unplanned(folder, identity) for identity in unfinished if identity not in settled)
    frames = {name: pd.DataFrame(rows[name], columns=columns) for name, columns in COLUMNS.items()}
    for name, columns in _FIRST.items():
        frame = pd.DataFrame(rows[name])
        frames[name] = frame.reindex(columns=list(dict.fromkeys([*columns, *frame.columns])))
    frames["trials"] = _add_rank(_disambiguate(_sort_by_plan(frames["trials"], positions)))
    speeds = tuple(speed for folder in folders for speed in read_speeds(folder))
    return Report(tuple(folders), **frames, commands=tuple(commands), last_epoch=last_epoch, speeds=speeds)


def _read_trials(folder: Path, rows: FrameRows, *, last_epoch: bool) -> tuple[set[str], list[str]]:
    """Add a folder's records and damaged files; return the settled identities, and those without a record."""
    settled, unfinished = set(), []
    for path in sorted((folder / TRIALS).glob("*/")):
        identity = path.name
        try:
            record = read_record(path)
            if record is None:
                unfinished.append(identity)
                continue
            shown = at_last_epoch(record) if last_epoch else record
            for name, entries in rows_of(folder, path / RESULT, shown).items():
                rows[name].extend(entries)
        except RecordError as error:
            rows["problems"].append(problem(folder, identity, "unreadable", error.message))
        except NOT_A_RECORD as error:
            why = f"{RESULT} is not what a record is: {error if isinstance(error, ValueError) else repr(error)}"
            rows["problems"].append(problem(folder, identity, "incomplete", why))
        settled.add(identity)
    return settled, unfinished


def _sort_by_plan(trials: pd.DataFrame, positions: Mapping[tuple[str, str], int]) -> pd.DataFrame:
    """Sort trials by the points of their plans, the newest plan first; trials in no plan last, by identity."""
    keys = list(zip(trials["folder"], trials["identity"], strict=True))
    order = sorted(range(len(keys)), key=lambda row: (positions.get(keys[row], math.inf), keys[row][1]))
    return trials.iloc[order].reset_index(drop=True)


def _add_rank(trials: pd.DataFrame) -> pd.DataFrame:
    """Add each trial's rank in its cell, 1 for the best, to trials in grid order."""
    keys = [
        rank_key(score, epoch, index)
        for index, (score, epoch) in enumerate(zip(trials["selected"], trials["epoch"], strict=True))
    ]
    best_first = trials.iloc[sorted(range(len(keys)), key=keys.__getitem__)]
    return trials.assign(rank=best_first.groupby(CELL, sort=False).cumcount() + 1)


def _disambiguate(trials: pd.DataFrame) -> pd.DataFrame:
    """Add a digest, the selection or the precision to ambiguous names.

    Once a cell mixes precisions, every method is named with its own, so that a reference of the same precision is found.
    """
    if trials.empty:
        return trials
    for name, within, source in (
        ("model", ["model"], trials["weights"].str[:6]),
        ("task", ["task"], trials["data"].str[:6]),
        ("sparsity", CELL, trials["rules"].str[:6]),
        ("method", CELL, "selection=" + trials["selection"]),
    ):
        mixed = source.groupby([trials[column] for column in within]).transform("nunique") > 1
        trials.loc[mixed, name] = trials.loc[mixed, name] + " (" + source[mixed] + ")"
    precision = trials.get(PRECISION)
    if precision is not None and precision.groupby([trials[name] for name in CELL]).nunique().max() > 1:
        known = precision.notna()
        trials.loc[known, "method"] = trials.loc[known, "method"] + " (precision=" + precision[known].astype(str) + ")"
    return trials
