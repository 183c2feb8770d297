"""Configs of others choose no code and no folder outside the output, and a planted password reaches no file and no screen."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from nxm_sweep.__main__ import main
from nxm_sweep.config.compose import compose_settings
from nxm_sweep.errors import ConfigError

SECRET = "hunter2-planted"  # noqa: S105 - it is the secret that is looked for
FLAGS = [(), ("-m",), ("-m", "sweep.dry_run=true")]


def _run(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> int:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["nxm_sweep", *arguments])
    return main()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


# --- code -------------------------------------------------------------------------------------------------------------

MARKER = "{_target_:logging.FileHandler,filename:marker}"
"""Creates a file when it is instantiated, as any function could be called."""


@pytest.mark.fault(
    "security", "a setting of Hydra that names code, such as a launcher of `os.system`", "It is refused unread."
)
@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
@pytest.mark.parametrize(
    "override",
    [
        "hydra.launcher._target_=os.system",
        "hydra.sweeper._target_=os.system",
        f"+hydra.callbacks.mine={MARKER}",
        f"+hydra.launcher.mine={MARKER}",
        f"+hydra.sweeper.mine=[[{MARKER}]]",
        "+hydra.callbacks.mine=${method.options.mine} +method.options.mine=" + MARKER,
    ],
)
def test_a_setting_names_no_code(
    override: str,
    flags: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _run(monkeypatch, tmp_path, *flags, *override.split(" ")) == 2
    assert "but a config chooses no code" in capsys.readouterr().err
    assert _files(tmp_path) == []


@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
def test_a_config_of_others_names_no_code(
    flags: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = tmp_path / "conf" / "experiment" / "foreign.yaml"
    foreign.parent.mkdir(parents=True)
    foreign.write_text(f"# @package _global_\nhydra:\n  callbacks:\n    mine: {MARKER.replace(':', ': ')}\n")
    work = tmp_path / "work"
    work.mkdir()
    choice = "experiment=foreign,quickstart" if flags == FLAGS[-1] else "experiment=foreign"
    code = _run(monkeypatch, work, *flags, "--config-dir", str(tmp_path / "conf"), choice)
    assert code == 2
    error = "error: hydra.callbacks.mine._target_ is 'logging.FileHandler', but a config chooses no code\n"
    assert capsys.readouterr().err.startswith(error)
    assert _files(work) == []


def test_a_pickle_of_hydra_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.pickle").write_bytes(b"cos\nsystem\n(S'touch marker'\ntR.")
    assert _run(monkeypatch, tmp_path, "--experimental-rerun", "config.pickle") == 2
    assert "--experimental-rerun reads a pickle" in capsys.readouterr().err
    assert not (tmp_path / "marker").exists()


def test_a_config_without_types_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text("seed: 0\noutput_dir: here\n")
    assert _run(monkeypatch, tmp_path, "--config-path", str(tmp_path), "--config-name", "mine") == 2
    assert capsys.readouterr().err.startswith("error: the config has no types\nhint: ")


# --- passwords --------------------------------------------------------------------------------------------------------


@pytest.mark.fault(
    "security",
    "a password in an override, a config file or the environment",
    "It is refused unseen: no screen and no file shows it.",
)
@pytest.mark.parametrize("flags", [*FLAGS, ("--cfg", "job")], ids=" ".join)
@pytest.mark.parametrize(
    "override",
    [
        f"sweep.storage=postgresql://me:{SECRET}@host/database",
        f"data.path=https://{SECRET}@host/glue",
        f"data.path='https://me:a/{SECRET}@host/glue'",
        f"model.path='postgresql://host/database?password={SECRET}'",
        f"output_dir=sftp://me:{SECRET}@host/x",
        f"seed=postgresql://me:{SECRET}@host",
        f"sweep.storage=postgresql://me:{SECRET}@host/[",
        f"+data.password={SECRET}",
        f"+method.options.api_key={SECRET}",
        f"hydra.job.env_set={{DB_PASSWORD:{SECRET}}}",
        f"nothing=a,https://me:{SECRET}@host",
        f"--config-dir=https://me:{SECRET}@host",
        f"https://me:{SECRET}@host",
    ],
)
def test_a_password_on_the_command_line_is_refused_unseen(
    override: str,
    flags: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _run(monkeypatch, tmp_path, *flags, "output_dir=out", override) == 2
    told = capsys.readouterr()
    assert SECRET not in told.out + told.err
    assert "holds a password or a user's name" in told.err
    assert "NXM_STORAGE" in told.err
    assert _files(tmp_path) == []


@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
def test_a_password_of_a_file_or_the_environment_is_refused_unseen(
    flags: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    group = tmp_path / "conf" / "model"
    group.mkdir(parents=True)
    (group / "mine.yaml").write_text(f"name: mine\nsource: folder\npath: https://me:{SECRET}@host/m\nrevision: null\n")
    monkeypatch.setenv("NXM_GLUE", f"https://me:{SECRET}@host/glue")
    work = tmp_path / "work"
    work.mkdir()
    of_file = ["--config-dir", str(tmp_path / "conf"), "model=mine", "data.path=a"]
    for arguments, key in ((of_file, "model.path"), ([], "data.path")):
        assert _run(monkeypatch, work, *flags, *arguments) == 2
        told = capsys.readouterr()
        assert SECRET not in told.out + told.err
        assert told.err.startswith(f"error: {key} holds a password or a user's name\n")
    assert not any(SECRET.encode() in file.read_bytes() for file in _files(work))


def test_a_password_in_python_is_refused_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_settings([f"data.path=https://me:{SECRET}@host"])
    assert SECRET not in f"{caught.value.message}{caught.value.hint}{caught.value.__cause__}"
    assert os.environ.get("NXM_STORAGE") is None
