"""Signs of life: the system says who lives on this machine, the age of a file says so elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from nxm_sweep.store.liveness import Heartbeat, is_alive, seconds_since_touch, this_process

LEASE = 60.0
SECONDS = 20.0  # no wait of these tests is longer


@pytest.fixture
def sign(tmp_path: Path) -> Path:
    path = tmp_path / "sign"
    path.touch()
    return path


def _age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


def test_this_process_lives_without_a_sign(tmp_path: Path) -> None:
    assert is_alive(this_process(), tmp_path / "none", LEASE)


def test_corpse_that_nobody_has_buried_is_dead(sign: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        owner = {**this_process(), "pid": child.pid, "started": psutil.Process(child.pid).create_time()}
        deadline = time.monotonic() + SECONDS
        while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not is_alive(owner, sign, LEASE)


def test_number_of_a_dead_process_that_another_has_got_needs_a_fresh_sign(sign: Path) -> None:
    owner = {**this_process(), "started": this_process()["started"] - 1000.0}
    assert is_alive(owner, sign, LEASE)  # perhaps the clock was set
    _age(sign, 2 * LEASE)
    assert not is_alive(owner, sign, LEASE)


@pytest.mark.parametrize("pid", [2**22 + 1, -1])
def test_process_that_is_not_there_is_dead(pid: int, sign: Path) -> None:
    assert not is_alive({**this_process(), "pid": pid}, sign, LEASE)


@pytest.mark.parametrize("owner", [{}, {"machine": "elsewhere", "pid": os.getpid()}])
def test_owner_elsewhere_is_as_old_as_its_sign(owner: dict[str, object], sign: Path) -> None:
    assert is_alive(owner, sign, LEASE)
    _age(sign, 2 * LEASE)
    assert not is_alive(owner, sign, LEASE)
    sign.unlink()
    assert not is_alive(owner, sign, LEASE)


def test_age_is_measured_by_the_file_system_and_leaves_nothing(sign: Path) -> None:
    _age(sign, 100.0)
    age = seconds_since_touch(sign)
    assert age is not None
    assert 99.0 < age < 100.0 + SECONDS
    assert list(sign.parent.iterdir()) == [sign]
    assert seconds_since_touch(sign.parent / "none") is None
    assert seconds_since_touch(sign.parent / "no" / "folder") is None


def test_heart_beats_until_its_end_and_survives_a_lost_file(sign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    utime, beats = os.utime, list[bool]()

    def beat(path: Path, *times: Any) -> None:
        if path == sign:
            beats.append(path.exists())
        utime(path, *times)

    def wait(number: int, there: bool) -> None:
        deadline = time.monotonic() + SECONDS
        while beats.count(there) < number:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    _age(sign, 100.0)
    monkeypatch.setattr(os, "utime", beat)
    with Heartbeat(sign, 0.01):
        wait(2, there=True)
        assert (seconds_since_touch(sign) or 0.0) < 50.0
        sign.unlink()
        wait(2, there=False)
        sign.touch()
        wait(beats.count(True) + 2, there=True)
    assert "heartbeat" not in {thread.name for thread in threading.enumerate()}
