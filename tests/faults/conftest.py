"""Sweeps of trials that train nothing, as real processes: started, killed, interrupted, and looked at from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from nxm_sweep.sweep.planning.axes import command_line_word

DRIVER = Path(__file__).resolve().parents[1] / "sweep" / "driver.py"
SECONDS = 180.0  # no wait of these tests is longer


@dataclass(frozen=True)
class Ended:
    """How a coordinator ended: its exit code, and what it said."""

    code: int
    out: str
    err: str

    @property
    def table(self) -> list[str]:
        """The final table and what follows it, without counts of this run and without paths."""
        lines = self.out.splitlines()
        begin = next(number for number, line in enumerate(lines) if line.startswith("cell "))
        return [
            line
            for line in lines[begin:]
            if "trained now" not in line and line.split()[0] not in ("report:", "studies:")
        ]

    @property
    def problems(self) -> list[str]:
        return [line for line in self.out.splitlines() if line.startswith("problem:")]


def living(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Return the processes that still run; a corpse does not."""
    found = []
    for one in processes:
        try:
            if one.is_running() and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one)
        except psutil.NoSuchProcess:
            continue
    return found


class Family:
    """The processes that a coordinator has started."""

    def __init__(self, pid: int) -> None:
        self._processes = psutil.Process(pid).children(recursive=True)

    @property
    def living(self) -> list[psutil.Process]:
        return living(self._processes)


class Sweeping:
    """A running coordinator, at the head of a process group of its own."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )
        self.pid = self.process.pid

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the coordinator alone."""
        os.kill(self.pid, number)

    def family(self) -> Family:
        return Family(self.pid)

    def wait(self) -> Ended:
        out, err = self.process.communicate(timeout=SECONDS)
        return Ended(self.process.returncode, out, err)

    def end(self) -> None:
        """Kill what is left of the group."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.communicate()


class Folder:
    """An output folder, its sweeps and their ledger.

    Args:
        path: Where it is; the ledger stands beside it.
    """

    def __init__(self, path: Path) -> None:
        self.output = path
        self.ledger = path.with_name(f"{path.name}.ledger")
        self._started: list[Sweeping] = []

    def start(
        self, *arguments: str, environment: dict[str, str] | None = None, prefix: Sequence[str] = (), **options: Any
    ) -> Sweeping:
        """Start a sweep's command line, behind a prefix; the options are those of the driver's trials."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("NXM_")}
        trials = json.dumps({"ledger": str(self.ledger), **options})
        given = {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "FAKE_TRIALS": trials, **(environment or {})}
        command = [sys.executable, str(DRIVER), "-m", "model=minilm_l6", "task=glue/rte", "method=asp"]
        output = f"output_dir={command_line_word(str(self.output))}"
        sweeping = Sweeping([*prefix, *command, *arguments, output], {**inherited, **given})
        self._started.append(sweeping)
        return sweeping

    def run(self, *arguments: str, environment: dict[str, str] | None = None, **options: Any) -> Ended:
        """Run a sweep's command line to its end."""
        return self.start(*arguments, environment=environment, **options).wait()

    def end(self) -> None:
        for sweeping in self._started:
            sweeping.end()

    def trainings(self, event: str) -> Counter[str]:
        """How often each identity's training did ``start`` or ``end``."""
        lines = self.ledger.read_text().splitlines() if self.ledger.exists() else []
        return Counter(line.split()[1] for line in lines if line.startswith(event))

    @property
    def records(self) -> dict[str, dict[str, Any]]:
        files = sorted(self.output.glob("trials/*/result.json"))
        return {file.parent.name: json.loads(file.read_text()) for file in files}

    @property
    def claims(self) -> list[dict[str, Any]]:
        found = []
        for file in self.output.glob("trials/*/claim.json"):
            with suppress(OSError):  # it has just ended
                found.append(json.loads(file.read_text()))
        return found

    @property
    def running(self) -> list[psutil.Process]:
        """The processes that say that they train, and live."""
        found = []
        for file in self.output.glob("trials/*/progress.json"):
            try:
                found.append(psutil.Process(json.loads(file.read_text())["process"]["pid"]))
            except (OSError, ValueError, psutil.NoSuchProcess):  # it has just ended
                continue
        return living(found)

    def trials(self, address: str = "") -> list[FrozenTrial]:
        """The trials of its only study, as Optuna itself reads them.

        Args:
            address: URL of a database or path of a journal; empty: SQLite's own.
        """
        address = address or f"sqlite:///{self.output}/studies/optuna.db"
        if "://" not in address:
            return _only_study(JournalStorage(JournalFileBackend(address)))
        storage = RDBStorage(address)
        try:
            return _only_study(storage)
        finally:
            storage.remove_session()
            storage.engine.dispose()


def _only_study(storage: BaseStorage) -> list[FrozenTrial]:
    (study,) = storage.get_all_studies()
    return storage.get_all_trials(study._study_id)


@pytest.fixture(scope="module")
def module_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folder]:
    """An output folder that the tests of a module share."""
    folder = Folder(tmp_path_factory.mktemp("shared") / "outputs")
    yield folder
    folder.end()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    """An output folder; whatever runs in it ends with the test."""
    folder = Folder(tmp_path / "outputs")
    yield folder
    folder.end()


@pytest.fixture(scope="session")
def until() -> Callable[[Callable[[], Any], str], None]:
    """Wait for a condition."""

    def wait(condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"not within {SECONDS:g} s: {what}"
            time.sleep(0.02)

    return wait


@pytest.fixture(scope="session")
def states() -> Callable[[Sequence[FrozenTrial]], dict[str, int]]:
    """Count trials by their states' names."""

    def count(trials: Sequence[FrozenTrial]) -> dict[str, int]:
        found = Counter(trial.state for trial in trials)
        return {TrialState(state).name: number for state, number in found.items()}

    return count
