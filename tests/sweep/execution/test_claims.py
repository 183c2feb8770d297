"""Claims: a living coordinator's point is nobody else's, a dead one's is taken over."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from nxm_sweep.store.files import read_json, write_json
from nxm_sweep.store.liveness import this_process
from nxm_sweep.store.paths import CLAIM, PROGRESS, trial_folder
from nxm_sweep.store.progress import is_training
from nxm_sweep.sweep.execution.claims import Claims

LEASE = 60.0
TAKER = """
import sys
from pathlib import Path
from nxm_sweep.sweep.execution.claims import Claims
with Claims(Path(sys.argv[1]), 60.0) as claims:
    print("ready", flush=True)
    sys.stdin.readline()
    print(*[name for name in map(str, range(200)) if claims.take(name)], flush=True)
    sys.stdin.readline()
"""


def _claim_of(owner: dict[str, Any], output_dir: Path, identity: str = "a") -> None:
    write_json(trial_folder(output_dir, identity) / CLAIM, {**owner, "owner": "other", "since": time.time()})


def _sign(output_dir: Path, age: float) -> None:
    sign = output_dir / "sweeps" / "coordinators" / "other.json"
    write_json(sign, {})
    os.utime(sign, (time.time() - age,) * 2)


def _process(pid: int) -> dict[str, Any]:
    return {**this_process(), "pid": pid, "started": psutil.Process(pid).create_time()}


def test_dead_claimant_is_replaced_and_a_living_one_never(tmp_path: Path) -> None:
    with (
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other,
        Claims(tmp_path, LEASE) as mine,
    ):
        _claim_of(_process(other.pid), tmp_path)
        _sign(tmp_path, age=10 * LEASE)  # on this machine, the process counts and not its sign
        assert mine.is_taken("a")
        assert not mine.take("a")
        other.kill()
        other.wait()
        assert not mine.is_taken("a")
        assert mine.take("a")
        assert read_json(trial_folder(tmp_path, "a") / CLAIM)["owner"] == mine.owner


@pytest.mark.parametrize(("age", "is_taken"), [(LEASE / 2, True), (2 * LEASE, False), (None, False)])
def test_claimant_elsewhere_lives_as_long_as_its_sign_is_fresh(
    age: float | None, is_taken: bool, tmp_path: Path
) -> None:
    _claim_of({**this_process(), "machine": "elsewhere"}, tmp_path)
    if age is not None:
        _sign(tmp_path, age)
    with Claims(tmp_path, LEASE) as mine:
        assert mine.is_taken("a") is is_taken
        assert mine.take("a") is not is_taken


def test_point_in_training_is_taken_without_a_claim(tmp_path: Path) -> None:
    folder = trial_folder(tmp_path, "a")
    write_json(folder / PROGRESS, {"process": this_process(), "since": 0.0, "step": 0, "steps": None, "epochs": []})
    with Claims(tmp_path, LEASE) as mine:
        assert is_training(folder, LEASE)
        assert not mine.take("a")
        (folder / PROGRESS).unlink()
        assert mine.take("a")


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"machine": null}'])
def test_damaged_claim_holds_nothing(content: str, tmp_path: Path) -> None:
    folder = trial_folder(tmp_path, "a")
    folder.mkdir(parents=True)
    (folder / CLAIM).write_text(content)
    with Claims(tmp_path, LEASE) as mine:
        assert mine.take("a")


def test_what_is_released_is_free_and_what_others_hold_stays(tmp_path: Path) -> None:
    with Claims(tmp_path, LEASE) as first, Claims(tmp_path, LEASE) as second:
        assert first.take("a")
        assert not first.take("a")
        assert not second.take("a")
        second.release("a")
        assert first.is_taken("a")
        first.release("a")
        assert second.take("a")


def test_claims_and_sign_end_with_their_coordinator(tmp_path: Path) -> None:
    with Claims(tmp_path, LEASE) as claims:
        assert claims.take("a")
        assert len(list((tmp_path / "sweeps" / "coordinators").iterdir())) == 1
    assert list(trial_folder(tmp_path, "a").iterdir()) == []
    assert list((tmp_path / "sweeps" / "coordinators").iterdir()) == []


def _each_once(shares: list[list[str]]) -> bool:
    return sorted(itertools.chain(*shares)) == sorted(map(str, range(200)))


def test_two_threads_share_points_without_sharing_one(tmp_path: Path) -> None:
    def take(claims: Claims, names: Callable[[], list[str]]) -> list[str]:
        return [name for name in names() if claims.take(name)]

    with Claims(tmp_path, LEASE) as first, Claims(tmp_path, LEASE) as second, ThreadPoolExecutor(2) as threads:
        shares = list(threads.map(take, (first, second), (lambda: [str(number) for number in range(200)],) * 2))
    assert _each_once(shares)


def test_three_processes_share_points_without_sharing_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TAKER, str(tmp_path)]
    takers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) for _ in range(3)
    ]
    try:
        for taker in takers:
            assert taker.stdout is not None
            assert taker.stdout.readline() == "ready\n"
        for taker in takers:
            assert taker.stdin is not None
            taker.stdin.write("go\n")
        shares = [taker.stdout.readline().split() for taker in takers if taker.stdout is not None]
        assert _each_once(shares)
    finally:
        for taker in takers:
            taker.communicate()
    assert [taker.returncode for taker in takers] == [0] * 3
