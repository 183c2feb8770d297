"""Output folders with characters that mean something to a shell, to Hydra or in an address."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from optuna.storages import RDBStorage
from sqlalchemy import make_url

from nxm_sweep.config.compose import compose_settings
from nxm_sweep.errors import ConfigError
from nxm_sweep.sweep.studies.storage import dashboard_address, open_storage

if TYPE_CHECKING:
    from tests.faults.conftest import Folder

COMMAND = ("learning_rate.value=1e-5", "training.batch_size=16", "sweep.workers=1")
ODD = ["a?b", "a#b", "a%2Fb", "a b'c", "a&mode=memory", "{SCHEMA_VERSION}", "größe=1"]


@pytest.mark.fault(
    "input",
    "an output folder called `a?b`, `a#b` or `a%2Fb`",
    "Its studies lie inside it, and the printed command opens them.",
)
@pytest.mark.parametrize("kind", ["sqlite", "journal"])
@pytest.mark.parametrize("name", ODD)
def test_studies_lie_in_their_own_folder_whatever_it_is_called(name: str, kind: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    storage = open_storage(kind, folder)
    assert storage.get_all_studies() == []
    if isinstance(storage, RDBStorage):
        storage.engine.dispose()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    (address,) = shlex.split(dashboard_address(kind, folder))
    place = make_url(address).database if kind == "sqlite" else address
    assert Path(str(place)).parent == folder / "studies"
    if kind == "sqlite":
        assert Path(str(place)).is_file()


def test_a_sweep_is_resumed_in_a_folder_with_an_odd_name(tmp_path: Path, folder: Folder) -> None:
    folder.output = tmp_path / "a?b#c%2Fd 'e"
    first = folder.run(*COMMAND)
    assert first.code == 0, first.err
    assert len(folder.records) == 1
    address = shlex.split(next(line for line in first.out.splitlines() if line.startswith("studies:")))[-1]
    assert [trial.state.name for trial in folder.trials(address)] == ["COMPLETE"]
    again = folder.run(*COMMAND)
    assert again.code == 0, again.err
    assert "0 trained now" in again.out
    assert {path.name for path in tmp_path.iterdir()} == {folder.output.name, folder.ledger.name}


@pytest.mark.fault("input", "`~` in a path", "It is expanded once, for records, checkpoints and studies alike.")
def test_a_tilde_is_the_home_folder_for_everything_that_a_sweep_writes(
    tmp_path: Path, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    folder.output = Path("~/runs")
    ended = folder.run(*COMMAND, environment={"HOME": str(tmp_path / "home")})
    assert ended.code == 0, ended.err
    assert not (tmp_path / "~").exists()
    assert len(list(tmp_path.glob("home/runs/trials/*/result.json"))) == 1
    assert (tmp_path / "home/runs/studies/optuna.db").is_file()


def test_every_path_of_a_trial_is_expanded_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = compose_settings(
        [
            *("output_dir='~/out'", "data.path='~/rows'", "model=local", "model.path='~/model'", "task=files"),
            *("task.text_columns=[text]", "task.files={train:'~/a.csv',validation:b.csv}"),
            *("distillation=logits", "distillation.teacher.source=folder", "distillation.teacher.path='~/teacher'"),
        ]
    )
    assert settings.output_dir == f"{tmp_path}/out"
    assert settings.data.path == f"{tmp_path}/rows"
    assert settings.model.path == f"{tmp_path}/model"
    assert settings.task.files == {"train": f"{tmp_path}/a.csv", "validation": "b.csv"}
    assert settings.distillation.teacher.path == f"{tmp_path}/teacher"


@pytest.mark.fault("input", "a path that no system accepts", "One line says why: too long, no such user.")
@pytest.mark.parametrize(
    "key", ["output_dir", "data.path", "model.path", "distillation.teacher.path", "task.files.train"]
)
@pytest.mark.parametrize(
    ("path", "reason"),
    [("x" * 5000, "File name too long"), ("'~nobody-of-that-name/x'", "home directory")],
    ids=["long", "user"],
)
def test_a_path_that_cannot_be_looked_up_is_one_line(key: str, path: str, reason: str) -> None:
    plus = "+" if key.startswith("task.files") else ""
    with pytest.raises(ConfigError, match=reason) as caught:
        compose_settings([f"{plus}{key}={path}"])
    assert caught.value.message.startswith(f"{key}: ")
    assert len(caught.value.message) < 400
