"""Sweeps through Hydra's own launchers and through its own sweeper: the same records, whatever dies on the way."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

DRIVER = Path(__file__).resolve().parents[1] / "driver.py"
NOT_THE_OUTCOME = ("started", "finished", "seconds", "config", "git_commit", "hardware", "versions")
FAKE = ("task=glue/rte", "model=minilm_l6", "method=dense", "output_dir=out")
FOUR = "learning_rate.value=1e-5,2e-5,3e-5,4e-5", "training.batch_size=16"
TWELVE = "learning_rate.value=1e-5,2e-5,3e-5,4e-5,5e-5,6e-5", "training.batch_size=16,32"
TINY = (
    "task=demo/paraphrase",
    "task.rows.train=32",
    "task.rows.validation=16",
    "training.max_length=32",
    "training.batch_size=16",
    "training.epochs=1",
)
TWELVE_TINY = "method=dense,asp,nxm_paper", "learning_rate.value=1e-3,2e-3", "rho.value=1e-3,3e-3,1e-2,3e-2"
LAUNCHERS = {
    "basic": ["hydra/launcher=basic"],
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit": ["hydra/launcher=submitit_local"],
    "ray": [
        "hydra/launcher=ray",
        "hydra.launcher.ray.init.address=local",
        "+hydra.launcher.ray.init.num_cpus=2",
        "+hydra.launcher.ray.init.include_dashboard=false",
    ],
}
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}


def _need(launcher: str) -> None:
    for module in (f"hydra_plugins.hydra_{launcher}_launcher", launcher):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"the extra of the {launcher} launcher is not installed")


def _run(cwd: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m nxm_sweep``."""
    command = [sys.executable, "-m", "nxm_sweep", *arguments]
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **ENVIRONMENT, **environment}, capture_output=True, text=True, check=False
    )


def _pretend(cwd: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the driver, whose trials train nothing."""
    command = [sys.executable, str(DRIVER), "-m", *FAKE, *arguments]
    return subprocess.run(command, cwd=cwd, env=_fake(cwd, **options), capture_output=True, text=True, check=False)


def _fake(cwd: Path, **options: Any) -> dict[str, str]:
    """The driver's environment; loky's workers do not execute the main module, but they do this one."""
    site = cwd / "site" / "sitecustomize.py"
    site.parent.mkdir(exist_ok=True)
    site.write_text(f"import runpy\nrunpy.run_path({str(DRIVER)!r})\n")
    fake = {"FAKE_TRIALS": json.dumps({"ledger": str(cwd / "ledger"), **options}), "PYTHONPATH": str(site.parent)}
    return {**os.environ, **fake}


def _ledger(cwd: Path, word: str) -> Counter[str]:
    """How often each point has started, or ended."""
    lines = [line.split() for line in (cwd / "ledger").read_text().splitlines()]
    return Counter(line[1] for line in lines if line[0] == word)


def _records(output_dir: Path) -> dict[str, dict[str, Any]]:
    return {path.parent.name: json.loads(path.read_text()) for path in output_dir.glob("trials/*/result.json")}


def _outcomes(output_dir: Path) -> dict[str, dict[str, Any]]:
    """The records without what differs between two runs of one training."""
    return {
        identity: {key: value for key, value in record.items() if key not in NOT_THE_OUTCOME}
        for identity, record in _records(output_dir).items()
    }


def _leftovers(output_dir: Path) -> set[str]:
    return {path.name for path in output_dir.glob("trials/*/*")} - {
        "result.json",
        "predictions.json",
        "log.txt",
        ".lock",
    }


def _until(condition: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert process.poll() is None, "the sweep has ended"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _first_of_epoch(output_dir: Path, epoch: int) -> tuple[str, int] | None:
    """Identity and process of a running trial that has finished an epoch."""
    for path in output_dir.glob("trials/*/progress.json"):
        try:
            progress = json.loads(path.read_text())
        except OSError:  # it has just ended
            continue
        if len(progress["epochs"]) >= epoch:
            return path.parent.name, progress["process"]["pid"]
    return None


@pytest.fixture(scope="module")
def pool_outcomes(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Mapping[str, dict[str, Any]]:
    """Twelve points through the project's own workers."""
    cwd = tmp_path_factory.mktemp("pool")
    sweep = _run(cwd, "-m", *TINY, *TWELVE_TINY, *_model(tiny_model, cwd), "sweep.workers=2", "sweep.threads=1")
    assert sweep.returncode == 0, sweep.stderr
    outcomes = _outcomes(cwd / "outputs")
    assert len(outcomes) == 12
    assert len({json.dumps(record["epochs"]) for record in outcomes.values()}) == 12
    return outcomes


def _model(tiny_model: Path, cwd: Path) -> tuple[str, str]:
    return "model=local", f"model.path={os.path.relpath(tiny_model, cwd)}"


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_launcher_gives_the_records_of_the_local_pool(
    launcher: str, pool_outcomes: Mapping[str, dict[str, Any]], tiny_model: Path, tmp_path: Path
) -> None:
    if launcher != "basic":
        _need(launcher)
    sweep = _run(tmp_path, "-m", *TINY, *TWELVE_TINY, *_model(tiny_model, tmp_path), *LAUNCHERS[launcher])
    assert sweep.returncode == 0, sweep.stderr
    assert "12 of 12 points have a record, 12 trained now" in sweep.stdout
    assert _outcomes(tmp_path / "outputs") == pool_outcomes
    assert _leftovers(tmp_path / "outputs") == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "name"),
    [("joblib", "SIGKILL"), ("submitit", "SIGKILL"), ("submitit", "SIGUSR2")],
)
def test_a_job_that_is_killed_or_preempted_continues_after_its_last_epoch(
    launcher: str, name: str, tiny_model: Path, tmp_path: Path
) -> None:
    _need(launcher)
    longer = "task.rows.train=320", "training.epochs=20", "method=dense", "learning_rate.value=1e-3,2e-3,3e-3"
    command = [sys.executable, "-m", "nxm_sweep", "-m", *TINY, *longer, *_model(tiny_model, tmp_path)]
    sweep = subprocess.Popen(
        [*command, *LAUNCHERS[launcher]],
        cwd=tmp_path,
        env={**os.environ, **ENVIRONMENT},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    outputs = tmp_path / "outputs"
    _until(lambda: _first_of_epoch(outputs, 3) is not None, sweep)
    victim, pid = _first_of_epoch(outputs, 3) or ("", 0)
    os.kill(pid, getattr(signal, name))
    printed, _ = sweep.communicate(timeout=600)
    assert sweep.returncode == 0, printed
    records = _records(outputs)
    assert len(records) == 3
    assert records[victim]["resumed_from_step"] >= 40  # 20 steps an epoch; the third's checkpoint may be half sealed
    assert all(len(record["epochs"]) == 20 for record in records.values())
    assert _leftovers(outputs) == set()


def test_a_killed_worker_of_joblib_costs_no_record_and_no_point_is_trained_twice(tmp_path: Path) -> None:
    _need("joblib")
    faults = [{"when": {"learning_rate": 2e-5, "batch_size": 16}, "do": "kill", "times": 1}]
    sweep = _pretend(tmp_path, *TWELVE, *LAUNCHERS["joblib"], faults=faults)
    assert sweep.returncode == 0, sweep.stdout + sweep.stderr
    records, ended = _records(tmp_path / "out"), _ledger(tmp_path, "end")
    assert len(records) == 12
    assert ended == dict.fromkeys(records, 1)
    started = _ledger(tmp_path, "start")
    assert max(started.values()) == 2
    assert sum(started.values()) <= 14  # the killed one, and the one in the other worker
    assert _leftovers(tmp_path / "out") <= {"attempts-kill"}


@pytest.mark.slow
def test_a_point_that_kills_every_worker_of_joblib_is_the_only_problem(tmp_path: Path) -> None:
    _need("joblib")
    faults = [{"when": {"learning_rate": 2e-5, "batch_size": 16}, "do": "kill"}]
    sweep = _pretend(tmp_path, *TWELVE, *LAUNCHERS["joblib"], faults=faults, epochs=4)  # an epoch is kept per attempt
    assert sweep.returncode == 1
    assert len(_records(tmp_path / "out")) == 11
    (failures,) = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("trials/*/failures.json")]
    assert [entry["kind"] for entry in failures] == ["killed"] * 3


@pytest.mark.parametrize("launcher", ["basic", pytest.param("joblib", marks=pytest.mark.slow)])
def test_ctrl_c_stops_after_the_running_epochs_and_the_same_command_finishes(launcher: str, tmp_path: Path) -> None:
    if launcher != "basic":
        _need(launcher)
    sweep = subprocess.Popen(
        [sys.executable, str(DRIVER), "-m", *FAKE, *FOUR, *LAUNCHERS[launcher]],
        cwd=tmp_path,
        env=_fake(tmp_path, epochs=50, seconds=0.2),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    _until(lambda: _first_of_epoch(tmp_path / "out", 1) is not None, sweep)
    os.killpg(sweep.pid, signal.SIGINT)  # a terminal tells the whole group
    printed, _ = sweep.communicate(timeout=180)
    assert sweep.returncode == 1, printed
    assert "stopping after the running epochs" in printed
    assert _records(tmp_path / "out") == {}
    assert sum(_ledger(tmp_path, "start").values()) <= 2  # those in the queue have not begun
    assert _leftovers(tmp_path / "out") <= {"work"}
    again = _pretend(tmp_path, *FOUR, *LAUNCHERS[launcher], epochs=50, seconds=0)
    assert again.returncode == 0, again.stdout + again.stderr
    assert len(_records(tmp_path / "out")) == 4
    assert any(record["resumed_from_step"] for record in _records(tmp_path / "out").values())


def test_a_launcher_that_cannot_start_a_job_is_one_line(tmp_path: Path) -> None:
    _need("submitit")
    command = [sys.executable, str(DRIVER), "-m", *FAKE, "seed=0,1", "hydra/launcher=submitit_slurm"]
    environment = {**_fake(tmp_path), "PATH": str(tmp_path)}  # no sbatch there
    sweep = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert sweep.returncode == 2
    assert "error: the launcher has started no job: RuntimeError: Could not detect" in sweep.stderr
    assert "Traceback" not in sweep.stderr
    assert list((tmp_path / "out").glob("trials/*/failures.json")) == []


def test_a_time_limit_is_refused_where_nobody_would_hold_it(tmp_path: Path) -> None:
    sweep = _pretend(tmp_path, "seed=0,1", "hydra/launcher=basic", "sweep.time_limit=60")
    assert sweep.returncode == 2
    assert sweep.stderr.startswith("error: sweep.time_limit holds for hydra/launcher=pool alone\n")


def test_the_local_pool_refuses_another_sweeper_in_one_line(tmp_path: Path) -> None:
    sweep = _run(tmp_path, "-m", *TINY, "seed=0,1", "hydra/sweeper=basic")
    assert sweep.returncode == 2
    assert sweep.stderr == (
        "error: hydra/launcher=pool needs hydra/sweeper=nxm_sweep\nhint: hydra/launcher=basic goes with any\n"
    )


@pytest.mark.slow
def test_the_sweeper_and_the_launcher_of_hydra_give_our_records(tiny_model: Path, tmp_path: Path) -> None:
    points = [*TINY, "method=dense", "learning_rate.value=1e-3,2e-3", *_model(tiny_model, tmp_path)]
    theirs = _run(tmp_path, "-m", *points, "hydra/sweeper=basic", "hydra/launcher=basic", "output_dir=theirs")
    assert theirs.returncode == 0, theirs.stderr
    ours = _run(tmp_path, "-m", *points, "hydra/launcher=basic", "output_dir=ours")
    assert ours.returncode == 0, ours.stderr
    assert len(_records(tmp_path / "ours")) == 2
    assert _outcomes(tmp_path / "theirs") == _outcomes(tmp_path / "ours")
    assert {path.name for path in tmp_path.iterdir()} == {"ours", "theirs"}
