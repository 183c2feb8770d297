"""An output folder that others can write to: symbolic links planted in it, and the modes of what is made there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nxm_sweep.errors import StorageError
from nxm_sweep.store.files import atomic_folder, fresh_name, open_log, refuse_links, replace_folder, write_text
from nxm_sweep.sweep.studies.storage import open_storage

if TYPE_CHECKING:
    from tests.faults.conftest import Folder

THREE = ("learning_rate.value=1e-5,2e-5,3e-5", "training.batch_size=16", "sweep.workers=1")
KEPT = "what a victim keeps\n"


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder elsewhere that a link leads to, with a file that must stay as it is."""
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "file").write_text(KEPT)
    return folder


def untouched(victim: Path) -> bool:
    return [path.name for path in victim.iterdir()] == ["file"] and (victim / "file").read_text() == KEPT


def wrong_modes(root: Path, mask: int) -> dict[str, str]:
    """The files and folders whose mode is not that of a new one."""
    modes = {path: path.stat().st_mode & 0o777 for path in (root, *root.rglob("*"))}
    right = {path: (0o777 if path.is_dir() else 0o666) & ~mask for path in modes}
    return {str(path): oct(mode) for path, mode in modes.items() if mode != right[path]}


@pytest.mark.fault(
    "security",
    "a symbolic link planted as the log of a trial, or as the folder of its checkpoints",
    "nothing is written through it: that point fails and names the link, the others are trained",
)
def test_link_in_a_trials_folder_is_not_followed(folder: Folder, victim: Path) -> None:
    with umask(0o077):
        assert folder.run(*THREE).code == 0
    assert wrong_modes(folder.output, 0o077) == {}
    first, second, third = sorted(folder.output.glob("trials/*"))
    for trial in (first, second, third):
        shutil.rmtree(trial)
    first.mkdir()
    (first / "log.txt").symlink_to(victim / "file")
    second.mkdir()
    (second / "work").symlink_to(victim)
    ended = folder.run(*THREE)
    assert ended.code == 1
    for link in (first / "log.txt", second / "work"):
        assert f"{link} is a symbolic link" in " ".join(ended.out.split())
    assert set(folder.records) == {third.name}
    assert untouched(victim)


@pytest.mark.fault(
    "security",
    "a symbolic link planted as the journal or the database of the studies",
    "the sweep is refused in one line that names the link; nothing is written through it",
)
@pytest.mark.parametrize(("storage", "name"), [("journal", "optuna.journal"), ("sqlite", "optuna.db")])
def test_link_as_a_storage_is_refused(tmp_path: Path, victim: Path, storage: str, name: str) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / name).symlink_to(victim / "file")
    with pytest.raises(StorageError, match=f"{name} is a symbolic link"):
        open_storage(storage, tmp_path)
    assert untouched(victim)


@pytest.mark.fault(
    "security",
    "a symbolic link in the place of a record, a report or a prediction",
    "the link is replaced by the file; what it pointed to stays as it was",
)
def test_link_in_the_place_of_a_file_is_replaced(tmp_path: Path, victim: Path) -> None:
    place = tmp_path / "table.md"
    place.symlink_to(victim / "file")
    write_text(place, "new")
    assert not place.is_symlink()
    assert place.read_text() == "new"
    assert untouched(victim)


@pytest.mark.parametrize("dangling", [False, True])
def test_log_is_not_opened_through_a_link(tmp_path: Path, victim: Path, dangling: bool) -> None:
    (tmp_path / "log.txt").symlink_to(victim / ("new" if dangling else "file"))
    with pytest.raises(StorageError, match="is a symbolic link"):
        open_log(tmp_path / "log.txt")
    assert untouched(victim)


@pytest.mark.fault(
    "security",
    "a symbolic link planted as the folder of a saved model",
    "the link is replaced by the folder; nothing is written or removed through it",
)
def test_link_in_the_place_of_a_folder_is_replaced(tmp_path: Path, victim: Path) -> None:
    (tmp_path / "best").symlink_to(victim)
    fresh = fresh_name(tmp_path / "best")
    fresh.mkdir()
    (fresh / "weights").write_text("new")
    replace_folder(fresh, tmp_path / "best")
    assert not (tmp_path / "best").is_symlink()
    assert (tmp_path / "best" / "weights").read_text() == "new"
    assert untouched(victim)


def test_no_name_of_a_temporary_file_can_be_guessed(tmp_path: Path) -> None:
    names = {fresh_name(tmp_path / "table.md").name for _ in range(100)}
    assert len(names) == 100
    assert min(map(len, names)) == len(".table.md.") + 16 + len(".tmp")


@pytest.mark.parametrize("mask", [0o000, 0o002, 0o022, 0o077])
def test_exported_folder_follows_the_umask(tmp_path: Path, mask: int) -> None:
    with umask(mask):
        with atomic_folder(tmp_path / "model") as fresh:
            descriptor = os.open(fresh / "weights", os.O_CREAT | os.O_WRONLY, 0o600)  # as safetensors does
            os.close(descriptor)
        write_text(tmp_path / "text", "")
        open_log(tmp_path / "log").close()
    assert (tmp_path / "model").stat().st_mode & 0o777 == 0o777 & ~mask
    for file in ("model/weights", "text", "log"):
        assert (tmp_path / file).stat().st_mode & 0o777 == 0o666 & ~mask, file


@pytest.mark.fault(
    "security",
    "a sweep under a umask that shares files with a group, or with nobody",
    "all of its files and folders have the modes that the umask gives, the database of the studies too",
)
def test_modes_of_a_sweep_follow_the_umask(folder: Folder) -> None:
    with umask(0o002):
        ended = folder.run(*THREE)
    assert ended.code == 0, ended.err
    assert {"result.json", "log.txt", "optuna.db"} <= {path.name for path in folder.output.rglob("*")}
    assert wrong_modes(folder.output, 0o002) == {}


@pytest.mark.fault("security", "a pipe in a trial's folder", "Its point fails in one line instead of waiting for ever")
@pytest.mark.parametrize("name", ["log.txt", "tensorboard", "model"])
def test_pipe_in_a_trials_folder_is_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(StorageError, match=f"{name} is no file and no folder"):
        refuse_links(tmp_path, and_pipes=True)
    with pytest.raises(StorageError, match=f"{name} is no file and no folder"):
        open_log(tmp_path / name)
