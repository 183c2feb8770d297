"""Several coordinators on one sweep, on every storage; a server's password is written nowhere."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

if TYPE_CHECKING:
    from tests.faults.conftest import Folder
    from tests.faults.postgresql import Server

GRID = ("learning_rate.value=range(1e-5,16e-5,step=1e-5)", "sweep.workers=1")  # times batch 16 and 32: 30 points
Until = Callable[[Callable[[], Any], str], None]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    from tests.faults.postgresql import Server

    server = Server()
    yield server
    server.end()


def _files_with(secret: str, folder: Path) -> list[Path]:
    """Files that hold a password, as it is or as an address has it."""
    forms = {secret.encode(), quote(secret, safe="").encode()}
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [path for path in files if any(form in path.read_bytes() for form in forms)]


def _engine(url: str) -> str:
    return url.replace("postgresql:", "postgresql+psycopg:")


@pytest.mark.fault(
    "process", "four coordinators on one fresh storage", "Each point is trained once, and all show one table."
)
@pytest.mark.parametrize("storage", ["sqlite", pytest.param("journal", marks=pytest.mark.slow), "postgresql"])
def test_four_coordinators_share_thirty_points(
    storage: str, folder: Folder, request: pytest.FixtureRequest, states: Callable[[Any], dict[str, int]]
) -> None:
    environment = {}
    if storage == "postgresql":
        environment["NXM_STORAGE"] = request.getfixturevalue("server").database("four")
    command = (*GRID, f"sweep.storage={storage}")
    started = [folder.start(*command, environment=environment, seconds=0.1) for _ in range(4)]
    ended = [sweeping.wait() for sweeping in started]
    assert [one.code for one in ended] == [0] * 4, [one.err for one in ended]
    assert [one.err for one in ended] == [""] * 4
    assert len(folder.records) == 30
    assert folder.trainings("start") == folder.trainings("end") == dict.fromkeys(folder.records, 1)
    trained = [int(re.findall(r"30 of 30 points have a record, (\d+) trained now", one.out)[0]) for one in ended]
    assert sum(trained) == 30
    assert max(trained) < 30  # they did share
    assert len({tuple(one.table) for one in ended}) == 1
    if storage == "journal":
        trials = folder.trials(str(folder.output / "studies" / "optuna.journal"))
    elif storage == "postgresql":
        trials = folder.trials(_engine(environment["NXM_STORAGE"]))
        password = request.getfixturevalue("server").password
        assert _files_with(password, folder.output) == []
        assert not [one for one in ended if password in one.out or quote(password, safe="") in one.out]
    else:
        trials = folder.trials()
    assert states(trials) == {"COMPLETE": 30}
    assert {trial.user_attrs["identity"]: trial.value for trial in trials} == {
        identity: record["best"]["value"] for identity, record in folder.records.items()
    }
    assert not list(folder.output.glob("trials/*/claim.json"))
    assert not list(folder.output.glob("sweeps/coordinators/*.json"))


@pytest.mark.fault("storage", "a server that refuses the password", "One line, exit code 2, and the password nowhere.")
def test_refused_password_is_one_line_without_it(folder: Folder, server: Server) -> None:
    wrong = "an0ther@secret/word"
    url = server.url("postgres", password=wrong)
    ended = folder.run(*GRID, "sweep.storage=postgresql", environment={"NXM_STORAGE": url})
    assert ended.code == 2
    (line,) = ended.err.splitlines()
    assert line.startswith("error: the postgresql storage of the studies cannot be opened: ")
    assert 'password authentication failed for user "sweeper"' in line
    assert _files_with(wrong, folder.output) == []
    assert not [form for form in (wrong, quote(wrong, safe="")) if form in ended.out + ended.err]
    assert not folder.ledger.exists()


@pytest.mark.fault(
    "storage", "a database that is dropped during a sweep", "The next run makes the studies anew from the records."
)
@pytest.mark.slow
def test_lost_server_costs_no_record(folder: Folder, server: Server, until: Until) -> None:
    url = server.database("lost")
    command = (*GRID, "sweep.storage=postgresql", "sweep.storage_patience=1")
    sweeping = folder.start(*command, environment={"NXM_STORAGE": url}, seconds=0.1)
    until(lambda: len(folder.records) >= 2, "two records")
    server.execute("DROP DATABASE lost WITH (FORCE)")
    ended = sweeping.wait()
    assert "Traceback" not in ended.err
    assert server.password not in ended.out + ended.err
    kept = len(folder.records)
    again = folder.run(*command, environment={"NXM_STORAGE": server.database("lost")})
    assert again.code == 0, again.err
    assert f"30 of 30 points have a record, {30 - kept} trained now" in again.out
    trials = folder.trials(_engine(url))
    assert sorted(trial.user_attrs["identity"] for trial in trials) == sorted(folder.records)


@pytest.mark.fault(
    "storage",
    "a PostgreSQL server that is down for seconds, twice",
    "The sweep waits up to sweep.storage_patience; running trials go on, and the studies catch up.",
)
def test_server_that_is_away_for_seconds_is_ridden_out(
    folder: Folder, server: Server, until: Until, states: Callable[[Any], dict[str, int]]
) -> None:
    url = server.database("away")
    command = ("learning_rate.value=1e-5,2e-5,3e-5,4e-5", "sweep.workers=2", "sweep.storage=postgresql")
    sweeping = folder.start(*command, environment={"NXM_STORAGE": url}, seconds=0.2, epochs=4)
    for wanted in (1, 5):
        until(lambda wanted=wanted: len(folder.records) >= wanted, "some records")  # type: ignore[misc]
        server.stop()
        time.sleep(2.0)
        server.start()
    ended = sweeping.wait()
    assert (ended.code, ended.err) == (0, "")
    assert len(re.findall(r"the studies' server does not answer; trying for 5 min", ended.out)) == 2
    assert len(re.findall(r"the studies' server is back after \d s\b", ended.out)) == 2
    assert folder.trainings("start") == folder.trainings("end") == dict.fromkeys(folder.records, 1)
    trials = folder.trials(_engine(url))
    assert states(trials) == {"COMPLETE": 8}
    assert {trial.user_attrs["identity"]: trial.value for trial in trials} == {
        identity: record["best"]["value"] for identity, record in folder.records.items()
    }


@pytest.mark.fault(
    "storage",
    "a PostgreSQL server that stays away",
    "After sweep.storage_patience the sweep ends in one line; no record is lost, and the same command continues.",
)
def test_server_that_stays_away_ends_the_sweep_in_one_line(folder: Folder, until: Until) -> None:
    from tests.faults.postgresql import Server

    server = Server()
    try:
        command = ("learning_rate.value=1e-5,2e-5,3e-5,4e-5", "sweep.storage_patience=1", "sweep.workers=1")
        environment = {"NXM_STORAGE": server.database("gone")}
        sweeping = folder.start(*command, "sweep.storage=postgresql", environment=environment, seconds=0.2)
        until(lambda: folder.records, "a record")
        server.stop()
        ended = sweeping.wait()
        assert ended.code == 2
        error, hint = ended.err.splitlines()
        assert error.startswith("error: the postgresql storage of the studies is lost: ")
        assert hint == "hint: no record is; the same command continues"
        server.start()
        again = folder.run(*command, "sweep.storage=postgresql", environment=environment)
        assert (again.code, again.err) == (0, "")
        assert len(folder.records) == 8
    finally:
        server.end()


@pytest.mark.fault(
    "process",
    "another machine that freezes in the middle of a trial, with its lock, and wakes up once its lease has run out",
    "Its point is continued elsewhere in a folder of its own, no other point waits, and its late result is refused.",
)
def test_heir_of_a_frozen_machine_waits_for_nothing(
    folder: Folder, until: Until, states: Callable[[Any], dict[str, int]]
) -> None:
    renamed = ("unshare", "--uts", "sh", "-c", 'hostname elsewhere && exec "$@"', "sh")  # another machine, by its name
    if subprocess.run([*renamed, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system lets the test rename no machine")
    command = ("learning_rate.value=1e-5,2e-5", "sweep.workers=1", "sweep.lease=2")
    frozen = folder.start(*command, prefix=renamed, seconds=0.5, epochs=6)
    until(lambda: list(folder.output.glob("trials/*/work/epochs.json")), "an epoch is done")
    os.killpg(frozen.pid, signal.SIGSTOP)
    (begun,) = folder.trainings("start")
    heir = folder.start(*command, seconds=0.05, epochs=6).wait()
    assert (heir.code, heir.err) == (0, "")
    assert len(folder.records) == 4
    assert folder.records[begun]["resumed_from_step"] >= 1
    files = {path: path.read_bytes() for path in folder.output.glob("trials/*/*.json")}
    os.killpg(frozen.pid, signal.SIGCONT)
    woken = frozen.wait()
    assert (woken.code, woken.err) == (0, "")
    assert {path: path.read_bytes() for path in folder.output.glob("trials/*/*.json")} == files
    assert folder.trainings("end") == dict.fromkeys(folder.records, 1)
    trained = [int(re.findall(r"4 of 4 points have a record, (\d+) trained now", one.out)[0]) for one in (heir, woken)]
    assert trained == [4, 0]
    assert woken.table == heir.table
    assert states(folder.trials()) == {"COMPLETE": 4}
    assert not list(folder.output.glob("trials/*/work*"))


@pytest.mark.fault("process", "a coordinator killed beside another one", "The other one takes over its points.")
def test_points_of_a_killed_coordinator_are_taken_over_by_a_living_one(
    folder: Folder, until: Until, states: Callable[[Any], dict[str, int]]
) -> None:
    command = ("learning_rate.value=1e-5,2e-5,3e-5,4e-5", "sweep.workers=1")
    doomed, heir = (folder.start(*command, seconds=0.3, epochs=3) for _ in range(2))
    until(lambda: len({claim["pid"] for claim in folder.claims}) == 2, "both are at work")
    doomed.send(signal.SIGKILL)
    ended = heir.wait()
    assert ended.code == 0, ended.err
    assert len(folder.records) == 8
    assert folder.trainings("end") == dict.fromkeys(folder.records, 1)
    assert states(folder.trials()) == {"COMPLETE": 8}  # the trial that it left running was gone on with
