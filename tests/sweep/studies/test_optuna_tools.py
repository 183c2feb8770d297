"""What Optuna's own tools make of the studies: importances, plots and its command line."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import optuna
import pytest
from optuna.exceptions import ExperimentalWarning
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from nxm_sweep.config.compose import compose_settings
from nxm_sweep.store.record import Record
from nxm_sweep.sweep.planning.cell import Cell
from nxm_sweep.sweep.studies.storage import dashboard_address, open_storage
from nxm_sweep.sweep.studies.study import CellStudy
from tests.store.core import core_record


def _cell(*rates: float) -> Cell:
    settings = compose_settings(["task=glue/rte", "method=asp"])
    return Cell(settings, {"learning_rate.value": rates, "training.batch_size": (16, 32), "seed": (0,)})


def _sweep(storage: BaseStorage, *rates: float) -> optuna.Study:
    """Fill a grid's study as a sweep does; the learning rate decides nearly all of the score."""
    study = CellStudy(storage, _cell(*rates))
    study.read()
    study.unify_ranges()
    for point in study.cell.points():
        if point.identity not in study.recorded:
            score = 0.5 + 1e3 * point.values["learning_rate.value"] + 1e-4 * point.values["training.batch_size"]
            study.add_record(point, cast("Record", core_record(point.identity, score)))
    return optuna.load_study(study_name=study.cell.study_name, storage=storage)


def _importances(study: optuna.Study) -> dict[str, float]:
    return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_a_grown_grid_has_the_importances_of_one_that_was_whole_from_the_start(kind: str, tmp_path: Path) -> None:
    grown = open_storage(kind, tmp_path / "grown")
    _sweep(grown, 1e-5, 2e-5)
    study = _sweep(grown, 1e-5, 2e-5, 4e-5)
    whole = _sweep(open_storage(kind, tmp_path / "whole"), 1e-5, 2e-5, 4e-5)
    assert _importances(study) == pytest.approx(_importances(whole))
    assert max(_importances(study), key=_importances(study).__getitem__) == "learning_rate.value"


def test_growing_a_grid_keeps_every_trial_as_it_was(tmp_path: Path) -> None:
    storage = open_storage("sqlite", tmp_path)
    before = {trial.user_attrs["identity"]: trial for trial in _sweep(storage, 1e-5, 2e-5).trials}
    _sweep(storage, 4e-5)  # another part of the grid alone
    after = {trial.user_attrs["identity"]: trial for trial in _sweep(storage, 4e-5, 5e-5).trials}
    assert len(after) == 8
    for identity, trial in before.items():
        for name in (
            "state",
            "value",
            "params",
            "user_attrs",
            "intermediate_values",
            "datetime_start",
            "datetime_complete",
        ):
            assert getattr(after[identity], name) == getattr(trial, name), name
    assert {str(trial.distributions["learning_rate.value"]) for trial in after.values()} == {
        "FloatDistribution(high=5e-05, log=True, low=1e-05, step=None)"
    }


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_optunas_plots_draw_our_studies(tmp_path: Path) -> None:
    from optuna.visualization import matplotlib as plots

    study = _sweep(open_storage("sqlite", tmp_path), 1e-5, 2e-5, 4e-5)
    assert issubclass(ExperimentalWarning, Warning)
    history: Any = plots.plot_optimization_history(study)
    assert "Objective Value" in history.get_ylabel()
    drawn: Any = plots.plot_param_importances(study)
    assert {label.get_text() for label in drawn.get_yticklabels()} >= {"learning_rate.value", "training.batch_size"}
    slices: Any = plots.plot_slice(study, params=["learning_rate.value", "training.batch_size"])
    assert len(slices) == 2


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_optunas_command_lists_the_studies_at_the_address_that_a_sweep_prints(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "my results; $HOME"  # quoted for a shell
    study = _sweep(open_storage(kind, folder), 1e-5, 2e-5)
    optuna_command = Path(sys.executable).with_name("optuna")
    command = f"{shlex.quote(str(optuna_command))} studies --storage {dashboard_address(kind, folder)} -f json"
    listed = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)  # noqa: S602 - as a user types it
    assert listed.returncode == 0, listed.stderr
    (entry,) = json.loads(listed.stdout)
    assert (entry["name"], entry["n_trials"]) == (study.study_name, 4)
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials)
