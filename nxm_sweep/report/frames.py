"""Records as tables of plain values: what every part of the report is made from.

Columns that a setting gave are named by its config key: ``learning_rate.value``, ``training.batch_size``, ``seed``.
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
from nxm_sweep.store.paths import RESULT, TRIALS
from nxm_sweep.store.plans import cells_of, read_plans
from nxm_sweep.store.records import (
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
    "matrices": (*_TRIAL_KEY, "matrix", "constraint", "rows", "columns", "zeros"),
}
NOT_A_RECORD = (KeyError, TypeError, ValueError, AttributeError, StopIteration, IndexError, ArithmeticError)
"""What reading a value that is missing or of a wrong type raises."""
_LARGEST = 2**53  # what is larger, or no number, nobody measured; a setting like that is shown as it was written
_NUMBERS = ("learning_rate.value", "rho.value", "training.batch_size", "seed")
CELL = ["task", "method", "sparsity", "model"]
"""What makes an entry of the results table."""
RULES = ["sparsity_name", "rules"]
"""What tells which trials were given the same rules, by name and content; a method may make another pattern of them."""
DENSE_RULES = ("dense", "")
"""The same of a trial that reads no rules."""
USUAL = ["learning_rate.value", "rho.value", "training.batch_size", "seed"]
"""The axes that every table names, in this order, where they exist."""
_NOT_HYPERPARAMETERS = ("task.", "sparsity.", "method.name")
_KEY = ["folder", "identity"]
_FIRST = {  # the columns that are there without any row
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


def rows_of(folder: Path, path: Path, record: Mapping[str, Any]) -> FrameRows:
    """Return a record's rows for the frames of :class:`~nxm_sweep.report.frames.Report`.

    Args:
        folder: The output folder.
        path: The record's file.
        record: What it holds.

    Raises:
        KeyError: A value is missing; :data:`NOT_A_RECORD` lists what else is raised where one is not what it should be.
    """
    key = {"folder": str(folder), "identity": str(record["identity"])}
    if key["identity"] != path.parent.name:
        raise ValueError(f"it is the record of trial {clean_name(key['identity'])}")
    sparsity, epoch = record["sparsity"], selected_epoch(record)
    return {
        "trials": [{**_trial(record, epoch), **key, "path": str(path)}],
        "scores": [
            (*key.values(), clean_name(part), clean_name(metric), _number(score))
            for part, values in reported_scores(record).items()
            for metric, score in values.items()
        ],
        "epochs": [(*key.values(), *_epoch(entry)) for entry in record["epochs"]],
        "iterations": [(*key.values(), *group) for iteration in record["iterations"] for group in _groups(iteration)],
        "matrices": [
            (
                *key.values(),
                clean_name(row["matrix"]),
                clean_name(row["constraint"]),
                int(row["rows"]),
                int(row["columns"]),
                int(check["zeros"]),
            )
            for row, check in zip(sparsity["targets"], sparsity["checked"], strict=True)
        ],
    }


def _trial(record: Mapping[str, Any], epoch: Mapping[str, Any]) -> dict[str, Any]:
    best, model = record["best"], record["model"]
    value, constant = _score(reported_value(record)), _number(constant_value(record))
    return {
        "task": clean_name(record["task"]),
        "method": method_name(record["method"], (record.get("distillation") or {}).get("name")),
        "sparsity": clean_name(pattern_of(record)),
        "sparsity_name": clean_name(record["sparsity_name"]),
        "model": clean_name(record["model_name"]),
        "value": value,
        "selected": _score(selected_value(record)),
        "selection": clean_name(record["selection"].get("name", "dev")),
        "metric": clean_name(record["selection"]["metric"]),
        "constant": constant,
        "beats_constant": beats(value, constant),
        "epoch": int(best["epoch"]),
        "unpruned": _number(unpruned_value(record)),
        "residual": _number(epoch["relative_distance"]),
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
        "cost_of_prune": _number((record.get("last_prune") or {}).get("cost")),
        "device": clean_name(record["hardware"].get("gpu") or record["hardware"]["device"]),
        "machine": json.dumps(
            {clean_name(key): clean_name(value) for key, value in sorted(record["hardware"].items())}
        ),
        "commit": clean_name(record["git_commit"] or ""),
        "versions": json.dumps(
            {clean_name(key): clean_name(value) for key, value in sorted(record["versions"].items())}
        ),
        "finished": clean_name(record["finished"]),
        **_settings(record["hashed"]),
    }


def _cpu_per_step(record: Mapping[str, Any]) -> float | None:
    spent = _number(record["seconds"].get("train_cpu"))
    return None if spent is None else spent / max(1, int(record["steps"]))


def _epoch(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    scores = (_number(entry[key]) for key in ("selection", "unpruned_selection", "training_loss", "relative_distance"))
    return int(entry["epoch"]), int(entry["step"]), *scores


def _groups(iteration: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    step, shared = int(iteration["step"]), [_number(iteration.get(key)) for key in _STRENGTHS]
    for group in ({**iteration, "group": "all"}, *iteration.get("groups", [])):
        yield clean_name(group["group"]), step, *(_number(group[key]) for key in _RESIDUALS), *shared


def _settings(hashed: Mapping[str, Any]) -> dict[str, Any]:
    found = {"seed": hashed["seed"], **LEFT_OUT_AT, **{key: value for key, value in _flat(hashed) if "." in key}}
    return {**found, **{key: _number(found[key]) for key in _NUMBERS if key in found}}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        place = f"{prefix}{clean_name(key)}"
        match value:
            case dict():
                yield from _flat(value, f"{place}.")
            case None | bool():
                yield place, value
            case int() | float() if abs(value) < _LARGEST:
                yield place, value
            case list():
                yield place, clean_name(json.dumps(value))
            case _:
                yield place, clean_name(value)


def _score(value: Any) -> float:
    score = _number(value)
    if score is None:
        raise ValueError(f"its score is {clean_name(value)}")
    return score


def _number(value: Any) -> float | None:
    """A number that can be computed with, or None for what was not measured or is not finite."""
    return None if value is None or not abs(float(value)) < _LARGEST else float(value)


def _digest(value: Any) -> str:
    return "" if value is None else f"{zlib.crc32(json.dumps(value, sort_keys=True).encode()):08x}"


@dataclass(frozen=True)
class Report:
    """What was found under the output folders.

    Attributes:
        folders: The folders, as given.
        trials: One row per usable record, in the order of the grid: :data:`CELL`, ``folder``, ``identity``, ``value``
            (reported; for MNLI the mean of m and mm), ``selected`` (the score that selects; for MNLI that on m), ``rank`` in
            its cell (1 is the best), ``selection`` (``dev`` or ``heldout``), ``metric``, ``constant`` (the constant answer's
            score; NaN: unknown), ``beats_constant`` (None: unknown), ``epoch``, ``unpruned``, ``residual``, ``exact``,
            ``sparsity_name`` (of the rules; ``sparsity`` is what the matrices hold), ``seconds``, ``seconds_per_step`` and
            ``cpu_per_step`` (of training; NaN: unknown), ``steps``, ``tokens``, ``train_rows``, ``data``, ``weights``,
            ``rules`` (digests), ``parameters``, ``target_parameters``, ``cost_of_prune``, ``device``, ``machine``, ``commit``,
            ``versions``, ``finished``, ``path`` and one column per hashed setting. NaN where the method does not read one. A
            name that stands for several things has an addition in brackets, as have methods with a teacher.
        scores: One row per trial, validation set and metric: ``folder``, ``identity``, ``set``, ``metric``, ``value``.
        epochs: One row per trial and epoch: ``folder``, ``identity``, ``epoch``, ``step``, ``selected``, ``unpruned``,
            ``training_loss``, ``residual``.
        iterations: One row per trial, ADMM iteration and group of matrices (``group`` is ``all`` for all together): ``folder``,
            ``identity``, ``step``, ``primal``, ``dual``, ``distance``, ``support_flips``, ``rho``,
            ``mean_penalty_share`` (NaN for a record of schema 1, which holds that of one step), ``kappa``, ``efolds``,
            ``mean_clip_factor`` (:class:`~nxm_sweep.methods.base.Iteration`; NaN for records of earlier versions).
        matrices: One row per trial and target: ``folder``, ``identity``, ``matrix``, ``constraint``, ``rows``, ``columns``,
            ``zeros``.
        problems: One row per point without a usable record and per damaged plan: ``folder``, ``identity``, :data:`CELL`,
            ``kind``, ``reason``, ``point``, ``seed`` (None: unknown).
        commands: The command lines that sweeps under the folders were started with.
    """

    folders: tuple[Path, ...]
    trials: pd.DataFrame
    scores: pd.DataFrame
    epochs: pd.DataFrame
    iterations: pd.DataFrame
    matrices: pd.DataFrame
    problems: pd.DataFrame
    commands: tuple[str, ...]

    def settings(self) -> list[str]:
        """Return the columns of settings that may differ among trials of one cell."""
        names = [name for name in self.trials.columns if "." in name or name == "seed"]
        return [name for name in names if not name.startswith(_NOT_HYPERPARAMETERS)]

    def hyperparameters(self) -> list[str]:
        """Return the settings that do differ among trials of one cell, the usual ones first."""
        return list(self._hyperparameters)

    @cached_property
    def _hyperparameters(self) -> tuple[str, ...]:
        settings = self.settings()
        cells = self.trials.groupby(CELL, sort=False)
        differing = [name for name in settings if cells[name].nunique(dropna=False).max() > 1]
        usual = [name for name in USUAL if name in settings]
        return (*usual, *sorted(set(differing) - set(usual)))


def read_report(folders: Sequence[Path]) -> Report:
    """Read every record, plan and failure under output folders. What cannot be read becomes a problem and stops nothing.

    Raises:
        RecordError: A folder does not exist.
    """
    rows: FrameRows = {name: [] for name in (*_FIRST, *COLUMNS)}
    commands: dict[str, None] = {}
    places: dict[tuple[str, str], int] = {}
    for folder in folders:
        if not folder.is_dir():
            raise RecordError(f"there is no folder {folder}", hint="give the output_dir of a sweep or a trial")
        settled, open_ = _read_trials(folder, rows)
        patterns = {row["identity"]: row["sparsity"] for row in rows["trials"] if row["folder"] == str(folder)}
        rows["problems"].extend(damaged_plans(folder))
        for plan in read_plans(folder):
            commands[command(plan.get("command", []))] = None
            for identity in (point.identity for cell in cells_of(plan) for point in cell.points):
                places.setdefault((str(folder), identity), len(places))
            missing = planned(folder, plan, settled, patterns)
            rows["problems"].extend(missing)
            settled |= {row["identity"] for row in missing}
        rows["problems"].extend(unplanned(folder, identity) for identity in open_ if identity not in settled)
    frames = {name: pd.DataFrame(rows[name], columns=columns) for name, columns in COLUMNS.items()}
    for name, columns in _FIRST.items():
        frame = pd.DataFrame(rows[name])
        frames[name] = frame.reindex(columns=list(dict.fromkeys([*columns, *frame.columns])))
    frames["trials"] = _ranked(_told_apart(_in_grid_order(frames["trials"], places)))
    return Report(tuple(folders), **frames, commands=tuple(commands))


def _read_trials(folder: Path, rows: FrameRows) -> tuple[set[str], list[str]]:
    """Add a folder's records and damaged files; return the identities found, and those of folders without a record."""
    settled, open_ = set(), []
    for place in sorted((folder / TRIALS).glob("*/")):
        identity = place.name
        try:
            record = read_record(place)
            if record is None:
                open_.append(identity)
                continue
            for name, entries in rows_of(folder, place / RESULT, record).items():
                rows[name].extend(entries)
        except RecordError as error:
            rows["problems"].append(problem(folder, identity, "unreadable", error.message))
        except NOT_A_RECORD as error:
            why = f"{RESULT} is not what a record is: {error if isinstance(error, ValueError) else repr(error)}"
            rows["problems"].append(problem(folder, identity, "incomplete", why))
        settled.add(identity)
    return settled, open_


def _in_grid_order(trials: pd.DataFrame, places: Mapping[tuple[str, str], int]) -> pd.DataFrame:
    """The trials in the order of their plans' points, the newest plan's first; those in no plan behind, by identity."""
    keys = list(zip(trials["folder"], trials["identity"], strict=True))
    order = sorted(range(len(keys)), key=lambda row: (places.get(keys[row], math.inf), keys[row][1]))
    return trials.iloc[order].reset_index(drop=True)


def _ranked(trials: pd.DataFrame) -> pd.DataFrame:
    """Add the rank of each trial in its cell, 1 for the best, to trials in the order of the grid."""
    keys = [
        rank_key(score, epoch, place)
        for place, (score, epoch) in enumerate(zip(trials["selected"], trials["epoch"], strict=True))
    ]
    best_first = trials.iloc[sorted(range(len(keys)), key=keys.__getitem__)]
    return trials.assign(rank=best_first.groupby(CELL, sort=False).cumcount() + 1)


def _told_apart(trials: pd.DataFrame) -> pd.DataFrame:
    """Add to names that stand for several things what tells these apart: a digest, how a trial was selected, its precision.

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
