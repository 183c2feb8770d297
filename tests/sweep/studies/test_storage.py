"""The studies' storage: it opens after any crash, and a password in its address shows nowhere."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from sqlalchemy.exc import OperationalError

from nxm_sweep.console import mask
from nxm_sweep.errors import StorageError
from nxm_sweep.sweep.studies.storage import URL_VARIABLE, dashboard_address, in_use, open_storage, postgresql_url

HOLDER = """
import sys
from filelock import FileLock
FileLock(sys.argv[1]).acquire()
print("held", flush=True)
sys.stdin.read()
"""


def _study(storage: BaseStorage, name: str) -> int:
    return storage.create_new_study([StudyDirection.MAXIMIZE], name)


def _names(storage: BaseStorage) -> list[str]:
    return [study.study_name for study in storage.get_all_studies()]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgresql://me:secret@host/db", "postgresql://***@host/db"),
        ("postgresql+psycopg://me:secret@host:5432/db", "postgresql+psycopg://***@host:5432/db"),
        ("postgresql://me:se@cret@host/db", "postgresql://***@host/db"),
        ("postgresql://me:sec/ret@host/db", "postgresql://***@host/db"),
        ("postgresql://me:s?e#cret@host/db", "postgresql://***@host/db"),
        ("postgresql://host/db?user=me&password=secret", "postgresql://host/db?user=me&password=***"),
        ("postgresql://host/db?sslpassword=secret&x=1", "postgresql://host/db?sslpassword=***&x=1"),
        ("postgresql://host/db?password=sec@ret", "postgresql://***@ret"),
        ("no way to 'postgresql://me:secret@host/db' today", "no way to 'postgresql://***@host/db' today"),
        ("a@b and no address", "a@b and no address"),
    ],
)
def test_passwords_in_addresses_are_masked(text: str, masked: str) -> None:
    assert mask(text) == masked


def test_server_address_gets_the_driver_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for scheme in ("postgresql", "postgres", "postgresql+psycopg2"):
        monkeypatch.setenv(URL_VARIABLE, f"{scheme}://me:p%40ss@host:1/db?application_name=a@b")
        assert postgresql_url() == "postgresql+psycopg://me:p%40ss@host:1/db?application_name=a@b"


@pytest.mark.parametrize(
    "url",
    ["", "host/db", "mysql://me:secret@host/db", "postgresql:me:secret@host"],
    ids=["none", "plain", "mysql", "no //"],
)
def test_address_that_is_none_of_a_server_is_refused_without_its_password(
    url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(URL_VARIABLE, url)
    with pytest.raises(StorageError) as caught:
        open_storage("postgresql", tmp_path)
    assert URL_VARIABLE in caught.value.message
    assert URL_VARIABLE in caught.value.hint
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("password", ["se@cret", "sec@r/et", "s@e?cret"])
def test_bare_at_sign_in_a_password_is_refused_before_part_of_it_passes_for_the_host(
    password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(URL_VARIABLE, f"postgresql://me:{password}@host/db")
    with pytest.raises(StorageError, match="bare @") as caught:
        postgresql_url()
    assert "%40" in caught.value.hint
    assert not [part for part in password.replace("@", " ").split() if part in caught.value.message.split()]


def test_server_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(URL_VARIABLE, "postgresql://me:secret@127.0.0.1:1/db")  # nobody listens there
    with pytest.raises(StorageError) as caught:
        open_storage("postgresql", tmp_path)
    assert "cannot be opened" in caught.value.message
    assert "\n" not in caught.value.message
    assert "secret" not in caught.value.message + caught.value.hint


def test_storage_that_is_lost_in_use_is_one_line() -> None:
    cause = OperationalError("insert", {}, Exception("postgresql://me:secret@host is gone\nand more"))
    lost = StorageInternalError("commit")
    lost.__cause__ = cause
    with pytest.raises(StorageError) as caught, in_use("postgresql"):
        raise lost
    assert "postgresql://***@host is gone" in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.__suppress_context__  # no traceback shows the cause


def test_sqlite_writes_ahead_so_that_readers_never_block(tmp_path: Path) -> None:
    storage = open_storage("sqlite", tmp_path)
    _study(storage, "s")
    with sqlite3.connect(tmp_path / "studies" / "optuna.db") as writer:
        assert writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        writer.execute("BEGIN IMMEDIATE")
        assert _names(open_storage("sqlite", tmp_path)) == ["s"]
    writer.close()


def _flip_page(file: Path) -> None:
    """Overwrite the second half of the database."""
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2] + b"\xa5" * (len(data) - len(data) // 2))


def _execute(statement: str) -> Callable[[Path], None]:
    def run(file: Path) -> None:
        with sqlite3.connect(file) as connection:
            connection.execute(statement)
        connection.close()

    return run


def _pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _fill(content: bytes) -> Callable[[Path], None]:
    def run(file: Path) -> None:
        file.write_bytes(content * 1000)

    return run


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _append(line: bytes) -> Callable[[Path], None]:
    def run(file: Path) -> None:
        with file.open("ab") as journal:
            journal.write(line)

    return run


SQLITE_DAMAGE: dict[str, Callable[[Path], None]] = {
    "another file": _fill(b"no database"),
    "zeros": _fill(bytes(11)),
    "half overwritten": _flip_page,
    "cut": lambda file: os.truncate(file, file.stat().st_size // 2),
    "a state that there is none of": _execute("UPDATE trials SET state = 'LOST'"),
    "an attribute that is no JSON": _execute("UPDATE study_user_attributes SET value_json = '{'"),
    "a table with other columns": _execute("ALTER TABLE trials DROP COLUMN datetime_start"),
    "a pipe": _pipe,
}
JOURNAL_DAMAGE: dict[str, Callable[[Path], None]] = {
    "a line of garbage": _append(b"garbage\n{}\n"),
    "NULs": _append(bytes(512) + b"\n{}\n"),
    "a scalar": _append(b"5\n"),
    "an unknown operation": _append(b'{"op_code":99,"worker_id":"w"}\n'),
    "a line without its keys": _append(b'{"op_code":0,"worker_id":"w"}\n'),
    "a line nested too deeply": _append(b"[" * 100_000 + b"\n{}\n"),
    "a folder": _folder,
}


@pytest.mark.fault(
    "storage", "a damaged database or journal of the studies", "it is named, set aside, and rebuilt from the records"
)
@pytest.mark.parametrize(
    ("kind", "name", "damage"),
    [
        *(("sqlite", "optuna.db", damage) for damage in SQLITE_DAMAGE.values()),
        *(("journal", "optuna.journal", damage) for damage in JOURNAL_DAMAGE.values()),
    ],
    ids=[*(f"sqlite: {name}" for name in SQLITE_DAMAGE), *(f"journal: {name}" for name in JOURNAL_DAMAGE)],
)
def test_damaged_storage_is_set_aside_and_a_new_one_opened(
    kind: str, name: str, damage: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = open_storage(kind, tmp_path)
    study = _study(storage, "old")
    storage.set_study_user_attr(study, "key", "value")
    for _ in range(20):
        storage.create_new_trial(study)
    if isinstance(storage, RDBStorage):
        storage.engine.dispose()
    file = tmp_path / "studies" / name
    for companion in file.parent.glob(f"{name}-*"):  # of SQLite: it would repair some of the damage
        companion.unlink()
    damage(file)
    again = open_storage(kind, tmp_path)
    assert _names(again) == []
    _study(again, "new")
    assert _names(open_storage(kind, tmp_path)) == ["new"]
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"warning: {file.resolve()}, the storage of the studies, is damaged: ")
    assert first.endswith(f"; it was set aside as {name}.damaged")
    assert second == "warning: the studies are rebuilt from the records"
    assert file.with_name(f"{name}.damaged").exists()


def test_database_in_use_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nxm_sweep.sweep.studies.storage._BUSY_SECONDS", 0.1)
    storage = open_storage("sqlite", tmp_path)
    _study(storage, "s")
    assert isinstance(storage, RDBStorage)
    storage.remove_session()
    storage.engine.dispose()
    with sqlite3.connect(tmp_path / "studies" / "optuna.db") as writer:
        writer.execute("PRAGMA journal_mode=DELETE")
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageError, match="locked"):
            open_storage("sqlite", tmp_path)
    writer.close()
    assert _names(open_storage("sqlite", tmp_path)) == ["s"]


def test_journal_that_is_damaged_in_use_is_one_line(tmp_path: Path) -> None:
    storage = open_storage("journal", tmp_path)
    _study(storage, "one")
    _append(b"5\n")(tmp_path / "studies" / "optuna.journal")
    with (
        pytest.raises(StorageError, match="the journal storage of the studies is lost: around its line"),
        in_use("journal"),
    ):
        _study(storage, "two")


@pytest.mark.fault("storage", "a torn last line of the journal", "it is cut, and said so; the sweep goes on")
@pytest.mark.parametrize("torn", [b'{"op_code":0,"wor', b"\xff\xfe", b'{"op_code":0}'])
def test_line_that_a_killed_writer_left_unfinished_is_cut_and_said_so(
    torn: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _study(open_storage("journal", tmp_path), "before")
    file = tmp_path / "studies" / "optuna.journal"
    whole = file.read_bytes()
    file.write_bytes(whole + torn)
    _study(open_storage("journal", tmp_path), "after")
    assert file.read_bytes().startswith(whole + b'{"op_code":0,')
    (said,) = capsys.readouterr().err.splitlines()
    assert said.endswith(
        f"optuna.journal: a killed writer left its last line unfinished; its {len(torn)} bytes are cut"
    )
    peer = JournalStorage(JournalFileBackend(str(file)))  # as a dashboard reads it
    assert _names(peer) == ["before", "after"]


def test_whole_journal_is_left_as_it_is(tmp_path: Path) -> None:
    storage = open_storage("journal", tmp_path)
    _study(storage, "one")
    whole = (tmp_path / "studies" / "optuna.journal").read_bytes()
    _study(storage, "two")
    assert (tmp_path / "studies" / "optuna.journal").read_bytes().startswith(whole)


def test_journal_opens_after_its_writer_died_with_the_lock(tmp_path: Path) -> None:
    _study(open_storage("journal", tmp_path), "before")
    lock = tmp_path / "studies" / ".optuna.journal.flock"
    assert lock.exists()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    (tmp_path / "studies" / "optuna.journal.lock").touch()  # Optuna's own lock, which waits for ever or breaks in
    _study(open_storage("journal", tmp_path), "after")
    assert _names(open_storage("journal", tmp_path)) == ["before", "after"]
    assert (tmp_path / "studies" / "optuna.journal.lock").exists()  # it was not needed


@pytest.mark.parametrize("kind", ["sqlite", "journal", "postgresql"])
def test_dashboard_is_told_where_the_studies_are_and_no_password(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(URL_VARIABLE, "postgresql://me:secret@host/db")
    assert (
        dashboard_address(kind, tmp_path)
        == {
            "sqlite": f"sqlite:///{tmp_path}/studies/optuna.db",
            "journal": f"{tmp_path}/studies/optuna.journal",
            "postgresql": '"postgresql+psycopg://${NXM_STORAGE#*://}"',
        }[kind]
    )
