"""What a trial tells TensorBoard and MLflow: read back with their own readers and compared with the record."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from nxm_sweep.config.compose import compose_settings
from nxm_sweep.errors import ConfigError, NonFiniteError
from nxm_sweep.settings import TrialSettings
from nxm_sweep.store.record import Record
from nxm_sweep.trial.run import run_point
from nxm_sweep.trial.trainer import TrialTrainer


def settings_of(folder: Path, model: Path, *overrides: str) -> TrialSettings:
    return compose_settings(
        [
            *("task=demo/paraphrase", "model=local", f"model.path={model}", f"output_dir={folder}", "method=nxm_paper"),
            *(
                "training.epochs=2",
                "training.max_train_samples=64",
                "training.max_eval_samples=32",
                "training.max_length=32",
            ),
            *overrides,
        ]
    )


def run(settings: TrialSettings) -> Record:
    return run_point(settings, Console(file=io.StringIO()))[0]


def expected_of(record: Any) -> dict[str, list[float]]:
    """What the record says by epoch, under the names that the Trainer logs."""
    epochs = record["epochs"]
    expected = {f"admm_{name}": [entry[name] for entry in record["iterations"]] for name in ("primal", "dual", "rho")}
    expected |= {"loss": [entry["training_loss"] for entry in epochs]}
    for infix in ("", "unpruned_"):
        kind = infix.rstrip("_") or "pruned"
        expected[f"eval_validation_{infix}accuracy"] = [entry[kind]["validation"]["accuracy"] for entry in epochs]
    return expected


def test_tensorboard_gets_each_epochs_scores_and_the_admm_iterations_in_the_trials_folder(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="no tensorboard here")
    monkeypatch.setenv(
        "TENSORBOARD_LOGGING_DIR", str(tmp_path / "elsewhere")
    )  # one folder for all trials would mix them
    record = run(settings_of(tmp_path / "o", tiny_model, "training.report_to=[tensorboard]"))
    folder = tmp_path / "o" / "trials" / record["identity"] / "tensorboard"
    assert not (tmp_path / "elsewhere").exists()
    assert len(record["iterations"]) == 2

    def check() -> None:
        events = reader.EventAccumulator(str(folder)).Reload()
        for name, values in expected_of(record).items():
            tag = f"eval/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"train/{name}"
            found = [(event.step, event.value) for event in events.Scalars(tag)]
            assert [step for step, _ in found] == [entry["step"] for entry in record["epochs"]], tag
            assert [value for _, value in found] == pytest.approx(values, rel=1e-6), tag

    check()
    assert (
        run(settings_of(tmp_path / "o", tiny_model)) is not None
    )  # the record is found: reports are not in the identity
    assert len(list((tmp_path / "o" / "trials").iterdir())) == 1
    record = run(settings_of(tmp_path / "o", tiny_model, "training.report_to=[tensorboard]", "force=true"))
    assert len(list(folder.iterdir())) == 1  # what the first training told is gone
    check()


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")  # MLflow's use
def test_mlflow_gets_a_run_of_the_identitys_name_and_a_failed_training_ends_its_own(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "sweep")
    settings = settings_of(tmp_path / "o", tiny_model, "training.report_to=[mlflow]")

    def diverge(*_: Any, **__: Any) -> None:
        raise NonFiniteError("the loss became nan")

    with monkeypatch.context() as patched:
        patched.setattr(TrialTrainer, "_evaluate", diverge)
        with pytest.raises(NonFiniteError):
            run(settings)
    assert mlflow.active_run() is None
    record = run(settings)
    assert mlflow.active_run() is None
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'sweep'")
    finished, failed = client.search_runs([experiment.experiment_id])
    assert {finished.info.run_name, failed.info.run_name} == {record["identity"]}
    for name, values in expected_of(record).items():
        history = client.get_metric_history(finished.info.run_id, name)
        assert [entry.value for entry in sorted(history, key=lambda entry: entry.step)] == pytest.approx(values), name


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "tensorboard"), ("mlflow", "mlflow-skinny")])
def test_a_missing_package_is_said_at_the_door(monkeypatch: pytest.MonkeyPatch, name: str, package: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda module, *rest: None if module == name else find(module, *rest)
    )
    with pytest.raises(ConfigError, match=f"training.report_to names {name}, which is not installed") as caught:
        compose_settings(["task=demo/paraphrase", f"training.report_to=[{name}]"])
    assert caught.value.hint == f"pip install {package}, or training.report_to=[]"


def test_nothing_is_reported_unless_asked_for(tmp_path: Path, tiny_model: Path) -> None:
    record = run(settings_of(tmp_path, tiny_model, "method=dense", "training.epochs=1"))
    assert sorted(path.name for path in (tmp_path / "trials" / record["identity"]).iterdir() if path.is_dir()) == []
