"""What a trial tells TensorBoard and MLflow: read back with their own readers and compared with the record."""

from __future__ import annotations

import importlib.util
import io
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from nxm_sweep.config.compose import compose_settings
from nxm_sweep.errors import ConfigError, NonFiniteError
from nxm_sweep.settings import TrialSettings
from nxm_sweep.store.paths import RESULT, trial_folder
from nxm_sweep.store.record import Record
from nxm_sweep.training.quiet import ignore_writer_thread
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


# --- trackers that fail -----------------------------------------------------------------------------------------------

MLFLOW = '''
"""MLflow's fluent interface as its callback in Transformers uses it, over a plain HTTP request."""
import os
import threading
import time
import types
import urllib.request

__version__ = "3.10.0"
utils = types.SimpleNamespace(
    validation=types.SimpleNamespace(MAX_PARAM_VAL_LENGTH=6000, MAX_PARAMS_TAGS_PER_BATCH=100)
)
runs = []


def ask(path):
    for attempt in range(1 + int(os.environ.get("MLFLOW_HTTP_REQUEST_MAX_RETRIES", 7))):
        try:
            timeout = float(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", 120))
            urllib.request.urlopen(f"{os.environ['MLFLOW_TRACKING_URI']}/{path}", timeout=timeout).read()
            return
        except OSError as error:
            failure = error
            time.sleep(0.1)
    raise RuntimeError(f"API request to {path} failed with exception {failure}")


def is_tracking_uri_set():
    return True


def get_tracking_uri():
    return os.environ["MLFLOW_TRACKING_URI"]


def active_run():
    return runs[-1] if runs else None


def set_experiment(name):
    ask("experiments/get-by-name")


def start_run(run_name, nested):
    ask("runs/create")
    runs.append(types.SimpleNamespace(info=types.SimpleNamespace(run_id="1")))


def log_params(params, synchronous=True):
    ask("runs/log-batch")


def log_metrics(metrics, step, synchronous=True):
    ask("runs/log-batch")


def end_run():
    runs.pop()
    ask("runs/update")
'''


class Server:
    """A tracking server on a real socket, which answers its first requests and then not, or is gone."""

    def __init__(self, answers: int, *, then: str) -> None:
        self.asked: list[str] = []
        self._answers, self._then = answers, then
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._kept: list[socket.socket] = []
        self.address = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):  # the socket is closed
            while True:
                connection, _ = self._socket.accept()
                self.asked.append(connection.recv(65536).split(b" ")[1].decode())
                if len(self.asked) <= self._answers:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
                    connection.close()
                elif self._then == "silent":
                    self._kept.append(connection)
                else:
                    connection.close()
                    self.close()

    def close(self) -> None:
        for each in (self._socket, *self._kept):
            each.close()


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    """Make a server, and a package ``mlflow`` that asks it."""
    folder = tmp_path / "packages" / "mlflow"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(MLFLOW)
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.delitem(sys.modules, "mlflow", raising=False)
    for name in ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.setenv(name, "")  # so that it is as it was afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "sweep")
    servers = []

    def make(answers: int, *, then: str = "silent") -> Server:
        servers.append(Server(answers, then=then))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", servers[-1].address)
        return servers[-1]

    yield make
    for server in servers:
        server.close()
    sys.modules.pop("mlflow", None)


def run_with_output(settings: TrialSettings) -> tuple[Record, list[str]]:
    """Run a trial; return its record and its warnings."""
    out = io.StringIO()
    record, trained = run_point(settings, Console(file=out))
    assert trained
    assert (trial_folder(Path(settings.output_dir), record["identity"]) / RESULT).is_file()
    return record, [line for line in out.getvalue().splitlines() if line.startswith("warning: ")]


@pytest.mark.parametrize(("answers", "then"), [(0, "silent"), (4, "silent"), (4, "gone"), (0, "gone")])
@pytest.mark.fault(
    "process", "an MLflow server that does not answer", "one warning after seconds, and the trial goes on"
)
@pytest.mark.fault("process", "an MLflow server that dies during training", "one warning, and the record is written")
def test_an_mlflow_server_that_fails_costs_a_warning_and_no_trial(
    mlflow: Callable[..., Server],
    tmp_path: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    answers: int,
    then: str,
) -> None:
    server = mlflow(answers, then=then)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")  # the user's own
    record, warnings = run_with_output(settings_of(tmp_path / "o", tiny_model, "training.report_to=[mlflow]"))
    assert len(warnings) == 1, warnings
    assert warnings[0].startswith(
        "warning: MLflow failed and gets nothing more of this trial: RuntimeError: API request to"
    )
    assert [entry["epoch"] for entry in record["epochs"]] == [1, 2]
    assert len(server.asked) >= answers
    assert sys.modules["mlflow"].active_run() is None  # the next trial in this process gets a run of its own
    assert (os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"], os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]) == ("1", "1")


def test_mlflows_requests_take_seconds_unless_the_user_says_otherwise(
    mlflow: Callable[..., Server], tmp_path: Path, tiny_model: Path
) -> None:
    server = mlflow(1000)
    _, warnings = run_with_output(settings_of(tmp_path / "o", tiny_model, "training.report_to=[mlflow]"))
    assert warnings == []
    assert server.asked[:2] == ["/experiments/get-by-name", "/runs/create"]
    assert server.asked[-1] == "/runs/update"
    assert (
        int(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]) * (1 + int(os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"])) <= 10
    )


def test_a_tracker_that_fails_does_not_hide_why_a_training_failed(
    mlflow: Callable[..., Server], tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow(4, then="gone")

    def diverge(*_: Any, **__: Any) -> None:
        raise NonFiniteError("the loss became nan")

    monkeypatch.setattr(TrialTrainer, "_evaluate", diverge)
    with pytest.raises(NonFiniteError, match="the loss became nan"):
        run(settings_of(tmp_path / "o", tiny_model, "training.report_to=[mlflow]"))


@pytest.mark.fault("storage", "a TensorBoard folder that cannot be written", "one warning, and the record is written")
def test_a_tensorboard_folder_that_cannot_be_written_costs_a_warning_and_no_trial(
    tmp_path: Path, tiny_model: Path
) -> None:
    pytest.importorskip("tensorboard", reason="no tensorboard here")
    settings = settings_of(tmp_path / "o", tiny_model, "training.report_to=[tensorboard]")
    first, warnings = run_with_output(settings_of(tmp_path / "first", tiny_model))
    folder = trial_folder(tmp_path / "o", first["identity"])
    folder.mkdir(parents=True)
    (folder / "tensorboard").write_text("")
    record, warnings = run_with_output(settings)
    assert len(warnings) == 1, warnings
    assert warnings[0].startswith("warning: TensorBoard failed and gets nothing more of this trial: ")
    assert record["epochs"] == first["epochs"]


@pytest.fixture
def mount_full_disk() -> Iterator[Callable[[Path], None]]:
    """Mount a file system of 4 KiB at a folder."""
    mounted: list[Path] = []

    def mount(place: Path) -> None:
        place.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(place)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("only root mounts a file system")
        mounted.append(place)

    yield mount
    for place in mounted:
        subprocess.run(["umount", "--lazy", place], check=True)


@pytest.mark.fault("storage", "a full disk under TensorBoard's folder", "one warning, and the record is written")
def test_a_full_disk_under_tensorboards_folder_costs_a_warning_and_no_trial(
    mount_full_disk: Callable[[Path], None],
    tmp_path: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("tensorboard", reason="no tensorboard here")
    monkeypatch.setattr(threading, "excepthook", ignore_writer_thread)
    first, _ = run_with_output(settings_of(tmp_path / "first", tiny_model))
    mount_full_disk(trial_folder(tmp_path / "o", first["identity"]) / "tensorboard")
    record, warnings = run_with_output(settings_of(tmp_path / "o", tiny_model, "training.report_to=[tensorboard]"))
    assert [line.partition("trial: ")[2] for line in warnings] == ["OSError: [Errno 28] No space left on device"]
    assert record["epochs"] == first["epochs"]
    assert "Traceback" not in capfd.readouterr().err
