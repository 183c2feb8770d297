"""Records as tables of plain values: what every part of the report is made from.

Columns that a setting gave are named by its config key: ``learning_rate.value``, ``training.batch_size``, ``seed``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from nxm_sweep.errors import RecordError
from nxm_sweep.precision import PRECISION
from nxm_sweep.report.holes import damaged_plans, planned, problem, unplanned
from nxm_sweep.report.names import command
from nxm_sweep.report.record_rows import COLUMNS, NOT_A_RECORD, Rows, rows_of
from nxm_sweep.sweep.records import RESULT, rank_key, read_record
from nxm_sweep.sweep.survey import cells_of, read_plans

CELL = ["task", "method", "sparsity", "model"]
"""What makes an entry of the results table."""
RULES = ["sparsity_name", "rules"]
"""What tells which trials were given the same rules, by name and content; a method may make another pattern of them."""
DENSE_RULES = ("dense", "")
"""The same of a trial that reads no rules."""
USUAL = ["learning_rate.value", "rho.value", "training.batch_size", "seed"]
"""The axes that every table names, in this order, where they exist."""
_NOT_HYPERPARAMETERS = ("task.", "sparsity.", "method.name")


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
            ``mean_clip_factor`` (:class:`~nxm_sweep.training.methods.base.Iteration`; NaN for records of earlier versions).
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
    rows: Rows = {name: [] for name in (*_FIRST, *COLUMNS)}
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


def _read_trials(folder: Path, rows: Rows) -> tuple[set[str], list[str]]:
    """Add a folder's records and damaged files; return the identities found, and those of folders without a record."""
    settled, open_ = set(), []
    for place in sorted((folder / "trials").glob("*/")):
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
