"""The studies' storage: it opens after any crash, and a password in its address shows nowhere."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from sqlalchemy.exc import OperationalError

from nxm_sweep.errors import StorageError
from nxm_sweep.sweep.studies.storage import URL_VARIABLE, dashboard_address, in_use, mask, open_storage, postgresql_url

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


def test_damaged_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "optuna.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError, match="file is not a database"):
        open_storage("sqlite", tmp_path)


@pytest.mark.parametrize("torn", [b'{"op_code":0,"wor', b"\xff\xfe", b'{"op_code":0}'])
def test_line_that_a_killed_writer_left_unfinished_is_cut(torn: bytes, tmp_path: Path) -> None:
    _study(open_storage("journal", tmp_path), "before")
    file = tmp_path / "studies" / "optuna.journal"
    whole = file.read_bytes()
    file.write_bytes(whole + torn)
    _study(open_storage("journal", tmp_path), "after")
    assert file.read_bytes().startswith(whole + b'{"op_code":0,')
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
