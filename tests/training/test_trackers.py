"""W&B and Trackio: what is wrong is said before a trial begins, each trial is a run, and a failure costs one warning."""

from __future__ import annotations

import io
import json
import re
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from transformers.integrations import integration_utils

from nxm_sweep.config import trackers
from nxm_sweep.config.compose import compose_settings
from nxm_sweep.errors import ConfigError
from nxm_sweep.settings import TrialSettings
from nxm_sweep.store.paths import RESULT, trial_folder
from nxm_sweep.trial.run import run_point

VARIABLES = (
    *("WANDB_MODE", "WANDB_DIR", "WANDB_LOG_MODEL", "WANDB_PROJECT", "WANDB_INIT_TIMEOUT", "WANDB_FINISH_TIMEOUT"),
    *("TRACKIO_SPACE_ID", "TRACKIO_DIR", "TRACKIO_PROJECT"),
)


class Tracker:
    """A package ``wandb`` or ``trackio``, as the callbacks of Transformers use it: it keeps what it gets."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []
        self.fails_at = ""
        self.is_logged_in: bool | Exception = True
        self.run: Any = None
        self.summary: dict[str, Any] = {}
        self.config = _Config()
        self.context_vars = types.SimpleNamespace(current_space_id=types.SimpleNamespace(get=lambda: None))
        self.__version__ = "1.0.0"
        self.__spec__ = types.SimpleNamespace(name="tracker")
        self.__path__: list[str] = []

    def login(self, *, prompt: bool) -> bool:
        assert not prompt, "nobody is there to answer"
        if isinstance(self.is_logged_in, Exception):
            raise self.is_logged_in
        return self.is_logged_in

    def init(self, **given: Any) -> None:
        self._note("init", given)
        self.run = types.SimpleNamespace(_label=lambda **_: None, id="1", name=given["name"], summary={})

    def define_metric(self, *_: Any, **__: Any) -> None: ...

    def log(self, values: dict[str, Any]) -> None:
        self._note("log", values)

    def finish(self) -> None:
        self._note("finish", None)
        self.run = None

    def _note(self, event: str, value: Any) -> None:
        if event == self.fails_at:
            raise ConnectionError(f"no answer to {event}")
        self.events.append((event, value))

    def named(self, event: str) -> list[Any]:
        return [value for name, value in self.events if name == event]


class _Config(dict[str, Any]):
    def update(self, values: dict[str, Any], **_: Any) -> None:  # type: ignore[override]
        super().update(values)


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Tracker]]:
    """Install a tracker under a name."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    trackers._log_in.cache_clear()

    def install(name: str) -> Tracker:
        package = Tracker()
        modules: dict[str, Any] = {name: package}
        if name == "wandb":
            modules["wandb.sdk.lib.config_util"] = types.SimpleNamespace(ConfigError=ValueError)
            modules |= {"wandb.sdk": types.ModuleType("wandb.sdk"), "wandb.sdk.lib": types.ModuleType("wandb.sdk.lib")}
        for key, module in modules.items():
            monkeypatch.setitem(sys.modules, key, module)
        monkeypatch.setattr(integration_utils, f"is_{name}_available", lambda: True)
        return package

    yield install
    trackers._log_in.cache_clear()


def settings_of(folder: Path, model: Path, *overrides: str) -> TrialSettings:
    return compose_settings(
        ["task=demo/paraphrase", "model=local", f"model.path={model}", f"output_dir={folder}", "method=nxm_paper",
         "training.epochs=2", "training.max_train_samples=64", "training.max_eval_samples=32", "training.max_length=32",
         "training.device=cpu", *overrides]
    )  # fmt: skip


def run(settings: TrialSettings) -> tuple[Any, list[str]]:
    """Run a trial; return its record and its warnings."""
    out = io.StringIO()
    record, _ = run_point(settings, Console(file=out))
    assert (trial_folder(Path(settings.output_dir), record["identity"]) / RESULT).is_file()
    return record, [line for line in out.getvalue().splitlines() if line.startswith("warning: ")]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_each_trial_is_a_run_of_its_own_with_the_scores_of_the_record(
    name: str, tracker: Callable[[str], Tracker], tmp_path: Path, tiny_model: Path
) -> None:
    package = tracker(name)
    trials = [run(settings_of(tmp_path, tiny_model, f"training.report_to=[{name}]", f"seed={seed}")) for seed in (0, 1)]
    records = [record for record, _ in trials]
    assert [warnings for _, warnings in trials] == [[], []]
    begun = package.named("init")
    assert [given["name"] for given in begun] == [record["identity"] for record in records]
    assert [given["project"] for given in begun] == ["nxm_sweep"] * 2
    assert [event for event, _ in package.events if event != "log"] == ["init", "finish"] * 2
    scores = [
        values["eval/validation_accuracy"] for values in package.named("log") if "eval/validation_accuracy" in values
    ]
    assert scores == [entry["pruned"]["validation"]["accuracy"] for record in records for entry in record["epochs"]]
    assert any("train/admm_primal" in values for values in package.named("log"))
    if name == "wandb":
        assert [given["dir"] for given in begun] == [
            str(tmp_path / "trials" / record["identity"]) for record in records
        ]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
@pytest.mark.parametrize("fails_at", ["init", "log", "finish"])
@pytest.mark.fault("process", "a W&B or Trackio server that fails", "one warning, and the record is written")
def test_a_tracker_that_fails_costs_one_warning_and_no_trial(
    fails_at: str, name: str, tracker: Callable[[str], Tracker], tmp_path: Path, tiny_model: Path
) -> None:
    package = tracker(name)
    package.fails_at = fails_at
    record, warnings = run(settings_of(tmp_path, tiny_model, f"training.report_to=[{name}]"))
    assert len(warnings) == 1, warnings
    assert "failed and gets nothing more of this trial: ConnectionError: no answer to" in warnings[0]
    assert [entry["epoch"] for entry in record["epochs"]] == [1, 2]


def test_a_run_that_the_caller_has_begun_is_used_and_left_open(
    tracker: Callable[[str], Tracker], tmp_path: Path, tiny_model: Path
) -> None:
    package = tracker("wandb")
    package.init(name="mine")
    run(settings_of(tmp_path, tiny_model, "training.report_to=[wandb]"))
    assert package.run.name == "mine"
    assert len(package.named("init")) == 1


def test_the_environment_names_project_and_folder(
    tracker: Callable[[str], Tracker], tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tracker("wandb")
    monkeypatch.setenv("WANDB_PROJECT", "glue")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "runs"))
    run(settings_of(tmp_path / "o", tiny_model, "training.report_to=[wandb]"))
    (given,) = package.named("init")
    assert (given["project"], given["dir"]) == ("glue", str(tmp_path / "runs"))


# --- before a trial begins ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "variables", "message", "hint"),
    [
        ("wandb", {"WANDB_MODE": "ofline"}, "WANDB_MODE must be one of", "WANDB_MODE=offline"),
        ("wandb", {"WANDB_LOG_MODEL": "end"}, "WANDB_LOG_MODEL would upload weights before they are pruned", "unset it"),
        ("wandb", {"WANDB_DIR": "/proc/version/x", "WANDB_MODE": "offline"}, "WANDB_DIR names /proc/version/x", "a folder"),
        ("trackio", {"TRACKIO_DIR": "/proc/version/x"}, "TRACKIO_DIR names /proc/version/x, which cannot", "a folder"),
        ("trackio", {"TRACKIO_SPACE_ID": "me/space"}, "TRACKIO_SPACE_ID names a Space of the hub, but", "hf auth login"),
    ],
)  # fmt: skip
def test_bad_environments_are_one_line(
    name: str,
    variables: dict[str, str],
    message: str,
    hint: str,
    *,
    tracker: Callable[[str], Tracker],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracker(name)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        compose_settings(["task=demo/paraphrase", f"training.report_to=[{name}]"])
    assert hint in error.value.hint


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (False, "training.report_to names wandb, but nobody is logged in"),
        (OSError("no route to host"), "training.report_to names wandb, whose login failed: no route to host"),
    ],
    ids=["no login", "no server"],
)
def test_a_login_is_checked_once_and_by_the_command_alone(
    answer: Any, message: str, tracker: Callable[[str], Tracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tracker("wandb")
    package.is_logged_in = answer
    command = ["task=demo/paraphrase", "training.report_to=[wandb]"]
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        compose_settings(command)
    assert "WANDB_MODE=offline" in error.value.hint
    assert compose_settings([*command, "sweep.cwd=/"]).training.report_to == ["wandb"]  # a job of a sweep
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert compose_settings(command).training.report_to == ["wandb"]


def test_no_key_is_stored(
    tracker: Callable[[str], Tracker], tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, key = tracker("wandb"), "k" * 40
    monkeypatch.setenv("WANDB_API_KEY", key)
    run(settings_of(tmp_path, tiny_model, "training.report_to=[wandb]"))
    assert key not in json.dumps([package.events, package.config], default=str)
    assert not any(key.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
