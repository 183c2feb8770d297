"""A finished trial whose model was kept: found by its identity, and read back before anything is done with it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nxm_sweep.errors import ExportError, RecordError, SparsityError
from nxm_sweep.export.audit import Audit, audit
from nxm_sweep.export.weights import SavedWeights, open_weights
from nxm_sweep.settings import DataSettings, TaskSettings
from nxm_sweep.sparsity.pattern import Constraint, parse_constraint
from nxm_sweep.store import records
from nxm_sweep.store.paths import RESULT
from nxm_sweep.store.records import read_record


@dataclass(frozen=True, slots=True)
class FinishedTrial:
    """A trial's record with the model that it left.

    Attributes:
        record: What ``result.json`` holds.
        model_folder: The best pruned model, its configuration and tokenizer.
        constraints: What each target holds, by its name in the state dict; empty for a dense trial.
    """

    record: dict[str, Any]
    model_folder: Path
    constraints: dict[str, Constraint]

    @property
    def task(self) -> TaskSettings:
        """The task's settings."""
        return TaskSettings(**_known_fields(TaskSettings, self.record["config"]["task"]))

    @property
    def data(self) -> DataSettings:
        """Where the rows came from."""
        return DataSettings(**_known_fields(DataSettings, self.record["config"]["data"]))

    def read_back(self) -> tuple[SavedWeights, Audit]:
        """Return the saved matrices and what was counted in them.

        Raises:
            ExportError: One breaks its constraint, or does not hold what the record counted in it.
        """
        weights = open_weights(self.model_folder)
        found = audit(weights, self.constraints)
        counted = {check["matrix"]: check["zeros"] for check in self.record["sparsity"]["checked"]}
        changed = [
            f"{check.matrix} has {check.zeros} zeros, but the record counted {counted[check.matrix]}"
            for check in found.checks
            if check.holds and check.zeros != counted.get(check.matrix, check.zeros)
        ]
        refuse_if_broken((*found.broken, *changed), "the saved model")
        return weights, found


def refuse_if_broken(reasons: tuple[str, ...], what: str) -> None:
    """Raise if there are reasons to.

    Raises:
        ExportError: With the first reason and how many there are.
    """
    if reasons:
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        raise ExportError(f"{what} does not hold: {reasons[0]}{more}", hint="nothing was exported")


def load_finished_trial(trial: str, output_dir: Path) -> FinishedTrial:
    """Return a finished trial with its model.

    Args:
        trial: Its identity, the beginning of it, or its folder.
        output_dir: Root of the trials.

    Raises:
        RecordError: There is none, several begin so, or its model was not kept.
    """
    folder = records.find_trial(output_dir, trial)
    record = read_record(folder)
    if record is None:
        raise RecordError(f"{folder} holds no record", hint="the trial is unfinished, or this is another folder")
    model_folder = records.saved_model(folder)
    try:
        listed = record["sparsity"]["targets"]
        constraints = {target["matrix"]: parse_constraint(target["constraint"]) for target in listed}
    except (LookupError, TypeError, SparsityError) as error:
        raise RecordError(f"{folder / RESULT} does not say what its matrices hold") from error
    return FinishedTrial(record, model_folder, constraints)


def _known_fields(kind: Any, values: dict[str, Any]) -> dict[str, Any]:
    """What a record, which may be older or newer, says of a settings class's fields."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in values.items() if name in names}
