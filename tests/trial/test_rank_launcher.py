"""The processes of one trial, as whoever starts them sees them: one that dies ends all, and none outlives its parent."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from nxm_sweep.config.compose import compose_settings, settings_of
from nxm_sweep.errors import ConfigError, RankError
from nxm_sweep.settings import TrialSettings
from nxm_sweep.store.attempts import classify
from nxm_sweep.store.liveness import exit_with_parent
from nxm_sweep.trial import rank_launcher as module
from nxm_sweep.trial.rank_launcher import launch_ranks

SECONDS = 60.0  # no wait of these tests is longer


@pytest.fixture
def settings(tmp_path: Path) -> TrialSettings:
    return compose_settings(["task=demo/paraphrase", "training.devices=2", f"output_dir={tmp_path}"])


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, settings: TrialSettings) -> Any:
    """Run a crew whose ranks execute a piece of Python, which knows its rank."""

    def with_ranks(code: str) -> None:
        header = "import json, os, signal, sys, time; order = json.load(sys.stdin); rank = int(os.environ['RANK'])\n"
        monkeypatch.setattr(module, "_COMMAND", (sys.executable, "-c", header + code))
        launch_ranks(settings, "planned", Console(file=io.StringIO()))

    return with_ranks


@pytest.fixture
def children() -> Iterator[list[psutil.Process]]:
    """The children of this process that a test has started; none may be left."""
    before = set(psutil.Process().children(recursive=True))
    found: list[psutil.Process] = []
    yield found
    left = set(psutil.Process().children(recursive=True)) - before
    assert not left


def test_killed_rank_ends_the_others_and_is_named(run: Any, children: Any) -> None:
    with pytest.raises(RankError, match=r"^rank 1 was ended by SIGKILL$") as caught:
        run("os.kill(os.getpid(), signal.SIGKILL) if rank == 1 else sys.exit(1)")
    assert classify(caught.value).kind == "killed"


def test_rank_that_does_not_follow_a_failed_one_is_ended(
    run: Any, monkeypatch: pytest.MonkeyPatch, children: Any
) -> None:
    monkeypatch.setattr(module, "_SECONDS_TO_FOLLOW", 0.0)
    with pytest.raises(RankError, match=r"^rank 0 ended with exit code 3$") as caught:
        run(f"sys.exit(3) if rank == 0 else time.sleep({SECONDS})")
    assert classify(caught.value).kind == "exit"


def test_rank_that_ignores_the_end_is_killed(run: Any, monkeypatch: pytest.MonkeyPatch, children: Any) -> None:
    monkeypatch.setattr(module, "_SECONDS_TO_FOLLOW", 0.0)
    with pytest.raises(RankError):
        run(f"sys.exit(3) if rank == 0 else (signal.signal(signal.SIGTERM, signal.SIG_IGN), time.sleep({SECONDS}))")


def test_interrupt_of_the_parent_ends_the_ranks(
    run: Any, monkeypatch: pytest.MonkeyPatch, children: Any, tmp_path: Path
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(f"time.sleep({SECONDS})")


def test_rank_knows_its_place_and_its_order(run: Any, settings: TrialSettings, tmp_path: Path) -> None:
    keys = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR"]
    with pytest.raises(RankError):
        run(
            f"open(r'{tmp_path}/' + str(rank), 'w').write(' '.join(os.environ[key] for key in {keys}))\n"
            f"json.dump(order, open(r'{tmp_path}/order', 'w')) if rank == 1 else None"
        )
    assert [(tmp_path / str(rank)).read_text() for rank in (0, 1)] == ["0 0 2 2 127.0.0.1", "1 1 2 2 127.0.0.1"]
    order = json.loads((tmp_path / "order").read_text())
    assert settings_of(order["settings"]) == settings
    assert (order["planned"], order["parent"]) == ("planned", os.getpid())


_GROUP = """
from nxm_sweep.config.compose import settings_of
from nxm_sweep.sparsity import distributed
from nxm_sweep.trial.process_group import ProcessGroup

try:
    with ProcessGroup(settings_of(order["settings"])):
        if rank == 1:
            raise RuntimeError("boom")
        distributed.wait()
except Exception as error:
    open(os.path.join(order["settings"]["output_dir"], f"{rank}.txt"), "w").write(f"{type(error).__name__}: {error}")
    sys.exit(1)
"""


def test_exception_of_one_rank_is_what_rank_0_and_the_parent_raise(run: Any, tmp_path: Path) -> None:
    with pytest.raises(RankError, match=r"^rank 1: RuntimeError: boom$") as caught:
        run(_GROUP)
    failed = classify(caught.value)
    assert failed.kind == "exception"
    assert failed.traceback.endswith("RuntimeError: boom\n")
    assert (tmp_path / "0.txt").read_text() == "RankError: rank 1: RuntimeError: boom"


def test_settings_from_json_are_checked(settings: TrialSettings) -> None:
    values = asdict(settings)
    values["training"]["epochs"] = -1
    with pytest.raises(ConfigError, match=r"training\.epochs must be at least 0, .* but got -1"):
        settings_of(values)


_CHILD = """
import os
from nxm_sweep.store.liveness import exit_with_parent
parent = os.getppid()
print("up", flush=True)
exit_with_parent(parent)
"""
_PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {_CHILD!r}], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
child.wait()
"""


def test_rank_ends_when_its_parent_has_died() -> None:
    parent = subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + SECONDS
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_process_stays_while_its_parent_lives() -> None:
    watch = threading.Thread(target=exit_with_parent, args=(os.getppid(),), daemon=True)
    watch.start()
    watch.join(0.1)
    assert watch.is_alive()
