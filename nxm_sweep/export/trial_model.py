"""Finished trials with a saved model, which is verified before it is used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nxm_sweep.errors import ExportError, RecordError, SparsityError
from nxm_sweep.export.audit import Audit, audit
from nxm_sweep.export.weights import SavedWeights, open_weights
from nxm_sweep.settings import DataSettings, TaskSettings, from_dict
from nxm_sweep.sparsity.pattern import Constraint, parse_constraint
from nxm_sweep.store import records
from nxm_sweep.store.paths import RESULT
from nxm_sweep.store.record import Record
from nxm_sweep.store.records import read_record


@dataclass(frozen=True, slots=True)
class FinishedTrial:
    """A trial's record and its saved model.

    Attributes:
        record: Content of ``result.json``.
        model_folder: Folder of the best pruned model, its configuration and tokenizer.
        constraints: Constraint of each target, by name in the state dict; empty for a dense trial.
    """

    record: Record
    model_folder: Path
    constraints: dict[str, Constraint]

    @property
    def task(self) -> TaskSettings:
        """Settings of the task."""
        return from_dict(TaskSettings, self.record["config"]["task"])

    @property
    def data(self) -> DataSettings:
        """Source of the rows."""
        return from_dict(DataSettings, self.record["config"]["data"])

    def read_back(self) -> tuple[SavedWeights, Audit]:
        """Return the saved matrices and their counts.

        Raises:
            ExportError: One breaks its constraint, or differs from the counts of the record.
        """
        weights = open_weights(self.model_folder)
        counts = audit(weights, self.constraints)
        counted = {check["matrix"]: check["zeros"] for check in self.record["sparsity"]["checked"]}
        changed = [
            f"{check.matrix} has {check.zeros} zeros, but the record counted {counted[check.matrix]}"
            for check in counts.checks
            if check.holds and check.zeros != counted.get(check.matrix, check.zeros)
        ]
        refuse_if_broken((*counts.broken, *changed), "the saved model")
        return weights, counts


def refuse_if_broken(reasons: tuple[str, ...], what: str) -> None:
    """Raise if there are reasons to refuse an export.

    Raises:
        ExportError: With the first reason and the number of others.
    """
    if reasons:
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        raise ExportError(f"{what} does not hold: {reasons[0]}{more}", hint="nothing was exported")


def load_finished_trial(trial: str, output_dir: Path) -> FinishedTrial:
    """Return a finished trial with its model.

    Args:
        trial: Identity, a prefix of it, or the trial's folder.
        output_dir: Root of the trials.

    Raises:
        RecordError: No trial or several match, or its model was not saved.
    """
    folder = records.find_trial(output_dir, trial)
    record = read_record(folder, kind=Record)
    if record is None:
        raise RecordError(f"{folder} holds no record", hint="the trial is unfinished, or this is another folder")
    model_folder = records.saved_model(folder)
    try:
        listed = record["sparsity"]["targets"]
        constraints = {target["matrix"]: parse_constraint(target["constraint"]) for target in listed}
    except (LookupError, TypeError, SparsityError) as error:
        raise RecordError(f"{folder / RESULT} does not say what its matrices hold") from error
    return FinishedTrial(record, model_folder, constraints)
