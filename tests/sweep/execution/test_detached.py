"""Detached sweeps: jobs that share a plan and end; whatever dies, no point is trained twice and none is lost."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest
from optuna.storages import InMemoryStorage

from nxm_sweep.config.compose import compose_settings, multirun
from nxm_sweep.errors import ConfigError, LauncherError
from nxm_sweep.settings import SweepSettings
from nxm_sweep.store.attempts import Outcome
from nxm_sweep.store.files import write_json
from nxm_sweep.store.liveness import this_process
from nxm_sweep.store.paths import CLAIM, coordinator_file, trial_folder
from nxm_sweep.store.record import Record
from nxm_sweep.store.records import write_record
from nxm_sweep.sweep.execution.claims import Claims, count_jobs
from nxm_sweep.sweep.execution.coordinator import Coordinator
from nxm_sweep.sweep.execution.detached import Cluster, DetachedJob, submit_missing
from nxm_sweep.sweep.execution.sweep_state import SweepState
from nxm_sweep.sweep.planning.cell import Cell, Point
from nxm_sweep.sweep.planning.plan import make_plan
from nxm_sweep.sweep.studies.study import CellStudy
from tests.store.core import core_record

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher") is None,
    reason="the extra of the submitit launcher is not installed",
)
DRIVER = Path(__file__).resolve().parents[1] / "driver.py"
CELL = Cell(
    compose_settings(["task=glue/rte", "method=asp"]),
    {"learning_rate.value": (1e-5, 2e-5, 3e-5, 4e-5), "training.batch_size": (16,)},
)
LEASE = 2.0
JOB = DetachedJob("pkg://nxm_sweep", None, "config", ("task=glue/rte", "sweep.detach=true"), "/")
SLURM = {
    "submitit_folder": "jobs/%j",
    "name": "nxm_sweep",
    "timeout_min": 60,
    "signal_delay_s": 120,
    "max_num_timeout": 3,
    "array_parallelism": 16,
    "partition": None,
}


# --- a job and the other claimants --------------------------------------------------------------------------------------


class _Runner:
    """Finishes every point at once."""

    has_room = True

    def __init__(self, output_dir: Path) -> None:
        self._output_dir, self._ended = output_dir, list[str]()

    def submit(self, point: Point) -> None:
        write_record(trial_folder(self._output_dir, point.identity), cast("Record", core_record(point.identity)))
        self._ended.append(point.identity)

    def wait(self, seconds: float) -> list[tuple[str, Outcome]]:
        ended, self._ended = self._ended, []
        if not ended:
            time.sleep(min(seconds, 0.05))
        return [(identity, Outcome()) for identity in ended]


def _share(output_dir: Path) -> tuple[SweepState, float]:
    """Run a job of a detached sweep over the cell; return its final state and its seconds."""
    plan = make_plan([CELL])
    study = CellStudy(InMemoryStorage(), CELL)
    begun = time.monotonic()
    with Claims(output_dir, LEASE, plan.key) as claims:
        coordinator = Coordinator(
            plan,
            output_dir,
            SweepSettings(lease=LEASE),
            {CELL.study_name: study},
            claims,
            runner=_Runner(output_dir),
            seconds_of=lambda _: 1.0,
            waits=False,
        )
        return coordinator.run(), time.monotonic() - begun


def _claim_from_another_machine(output_dir: Path, identity: str) -> Path:
    """Claim a point as a coordinator on another machine; return its heartbeat."""
    other = {**this_process(), "machine": "another", "since": time.time()}
    heartbeat = coordinator_file(output_dir, "other")
    write_json(heartbeat, other)
    write_json(trial_folder(output_dir, identity) / CLAIM, {**other, "owner": "other"})
    return heartbeat


@contextmanager
def _beating(heartbeat: Path) -> Iterator[None]:
    over = threading.Event()

    def beat() -> None:
        while not over.wait(0.1):
            heartbeat.touch()

    thread = threading.Thread(target=beat)
    thread.start()
    yield
    over.set()
    thread.join()


def test_a_job_ends_while_a_live_one_elsewhere_trains_the_last_point(tmp_path: Path) -> None:
    identity = next(CELL.points()).identity
    with _beating(_claim_from_another_machine(tmp_path, identity)):
        state, _ = _share(tmp_path)
    assert len(state.done) == 3
    assert state.elsewhere == {identity}


def test_a_job_stays_until_a_claim_without_heartbeats_expires_and_trains_its_point(tmp_path: Path) -> None:
    _claim_from_another_machine(tmp_path, next(CELL.points()).identity)  # its node has just died
    state, seconds = _share(tmp_path)
    assert len(state.done) == 4
    assert seconds >= LEASE / 2


# --- submission ---------------------------------------------------------------------------------------------------------


def _launcher(executor: str = "slurm", **parameters: Any) -> Any:
    return SimpleNamespace(_EXECUTOR=executor, params={**SLURM, **parameters})


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with commands of SLURM: ``sbatch`` keeps the script that it gets, ``squeue`` prints the file ``queue``."""
    commands = tmp_path / "bin"
    commands.mkdir()
    keep = f'cp "$1" {tmp_path}/script && echo "Submitted batch job 4711"'
    for name, line in {"sbatch": keep, "srun": "exit 1", "squeue": f"cat {tmp_path}/queue"}.items():
        (commands / name).write_text(f"#!/bin/sh\n{line}\n")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _submit(folder: Path, open_points: int, **sweep: Any) -> str:
    return submit_missing(
        Cluster(_launcher(), "submitit_slurm"), JOB, "abc", open_points, output_dir=folder, sweep=SweepSettings(**sweep)
    )


def test_as_many_jobs_are_submitted_as_there_are_points_for_them(slurm: Path) -> None:
    (slurm / "queue").write_text("")
    assert _submit(slurm, 3) == "submitted 3 jobs, 4711_0 to 4711_2 (nxm_sweep-abc)"
    script = (slurm / "script").read_text()
    assert "#SBATCH --array=0-2%3\n" in script
    assert "#SBATCH --job-name=nxm_sweep-abc\n" in script
    assert "#SBATCH --signal=USR2@120\n" in script
    assert _submit(slurm, 1) == "submitted 1 job, 4711 (nxm_sweep-abc)"
    assert "--array" not in (slurm / "script").read_text()
    assert " 16 jobs, " in _submit(slurm, 60)
    assert " 20 jobs, " in _submit(slurm, 60, jobs=20)
    assert "#SBATCH --array=0-19%16\n" in (slurm / "script").read_text()


def test_jobs_that_are_queued_or_running_are_not_submitted_again(slurm: Path) -> None:
    (slurm / "queue").write_text("nxm_sweep-abc\n" * 12 + "nxm_sweep-def\nsh\n")
    assert _submit(slurm, 60).endswith(
        "submitted 4 jobs, 4711_0 to 4711_3 (nxm_sweep-abc); 12 jobs are queued or running"
    )
    (slurm / "script").unlink()
    assert _submit(slurm, 8) == "12 jobs are queued or running (nxm_sweep-abc): nothing to submit"
    assert not (slurm / "script").exists()


def test_live_jobs_count_where_the_queue_cannot_be_asked(slurm: Path) -> None:
    (slurm / "bin" / "squeue").write_text("#!/bin/sh\nexit 1\n")
    with Claims(slurm, LEASE, "abc"), Claims(slurm, LEASE, "def"), Claims(slurm, LEASE):
        assert count_jobs(slurm, "abc", LEASE) == 1
        assert _submit(slurm, 1) == "1 job is queued or running (nxm_sweep-abc): nothing to submit"
    assert _submit(slurm, 1).startswith("submitted 1 job")


def test_what_sbatch_refuses_is_one_line(slurm: Path) -> None:
    (slurm / "queue").write_text("")
    (slurm / "bin" / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition' >&2\nexit 1\n")
    with pytest.raises(LauncherError, match=r"no job could be submitted: .*invalid partition"):
        _submit(slurm, 2)


def test_a_password_of_the_storage_is_not_written_with_the_job(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NXM_STORAGE", "postgresql://me:hunter2@db/optuna")
    (slurm / "queue").write_text("")
    _submit(slurm, 2)
    written = [file.read_bytes() for file in slurm.rglob("*") if file.is_file()]
    assert any(b"sweep.detach=true" in content for content in written)
    assert not any(b"hunter2" in content for content in written)


@pytest.mark.parametrize(
    ("overrides", "message", "hint"),
    [
        (
            ["sweep.detach=true"],
            "sweep.detach=true needs hydra/launcher=submitit_slurm or submitit_local but got pool",
            "without it",
        ),
        (
            ["sweep.detach=true", "hydra/launcher=submitit_slurm"],
            "sweep.storage=sqlite is for one machine, and the jobs of a detached sweep run on several",
            "sweep.storage=journal",
        ),
        (["sweep.jobs=4"], "sweep.jobs holds for sweep.detach=true alone", "sweep.workers"),
        (["sweep.jobs=0"], "sweep.jobs must be at least 1, or null but got 0", ""),
        (["sweep.detach=often"], "sweep.detach: Value 'often' is not a valid bool (type str)", "--cfg job"),
    ],
)
def test_bad_input_is_refused_before_anything_is_submitted(
    overrides: list[str], message: str, hint: str, tiny_model: Path, tmp_path: Path
) -> None:
    small = ["task=demo/paraphrase", "task.rows.train=32", "task.rows.validation=16", "seed=0,1", "method=dense"]
    model = ["model=local", f"model.path={tiny_model}", f"output_dir={tmp_path / 'out'}"]
    with pytest.raises(ConfigError) as error:
        multirun([*small, *model, *overrides])
    assert error.value.message == message
    assert hint in error.value.hint
    assert not (tmp_path / "out" / "trials").exists()


# --- real jobs ----------------------------------------------------------------------------------------------------------


class Detached:
    """A sweep of the driver, whose trials train nothing, by jobs on this machine."""

    def __init__(self, folder: Path, *arguments: str, **fake: Any) -> None:
        self.folder, self._arguments, self._fake = folder, arguments, fake
        site = folder / "site" / "sitecustomize.py"  # the jobs are processes of submitit
        site.parent.mkdir()
        site.write_text(f"import runpy\nrunpy.run_path({str(DRIVER)!r})\n")
        self._environment = {**os.environ, "PYTHONPATH": str(site.parent), "COLUMNS": "200"}

    def submit(self, **fake: Any) -> str:
        """Run the command to its end; return what it printed."""
        fake = {"ledger": str(self.folder / "ledger"), **self._fake, **fake}
        environment = {**self._environment, "FAKE_TRIALS": json.dumps(fake)}
        line = [sys.executable, str(DRIVER), "-m", "task=glue/rte", "model=minilm_l6", "method=dense", "output_dir=out",
                "hydra/launcher=submitit_local", "sweep.detach=true", "sweep.jobs=2", "sweep.workers=1",
                "sweep.threads=1", "training.batch_size=16", *self._arguments]  # fmt: skip
        done = subprocess.run(
            line, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=600
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def status(self) -> str:
        command = [sys.executable, "-m", "nxm_sweep.status", "out"]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False).stdout

    def jobs(self) -> set[int]:
        """Processes of the live jobs."""
        pids = set()
        for file in (self.folder / "out" / "sweeps" / "coordinators").glob("*.json"):
            with suppress(OSError, ValueError):
                pids.add(int(json.loads(file.read_text())["pid"]))
        return {pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"}

    def records(self) -> dict[str, Any]:
        files = self.folder.glob("out/trials/*/result.json")
        return {file.parent.name: json.loads(file.read_text()) for file in files}

    def count(self, word: str) -> Counter[str]:
        ledger = self.folder / "ledger"
        lines = [line.split() for line in ledger.read_text().splitlines()] if ledger.exists() else []
        return Counter(line[1] for line in lines if line[0] == word)

    def wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 600
        while not condition():
            logs = "".join(file.read_text() for file in self.folder.glob("out/.submitit/*/*_log.*"))
            assert time.monotonic() < deadline, logs
            time.sleep(0.05)

    def trains(self, epochs: int) -> bool:
        """Whether a job trains a point that has finished some epochs."""
        for file in self.folder.glob("out/trials/*/progress.json"):
            with suppress(OSError, ValueError, KeyError):
                if len(json.loads(file.read_text())["epochs"]) >= epochs:
                    return True
        return False


@pytest.mark.slow
def test_jobs_that_are_killed_preempted_or_submitted_twice_train_every_point_once(tmp_path: Path) -> None:
    rates = "learning_rate.value=1e-5,2e-5,3e-5,4e-5,5e-5,6e-5,7e-5,8e-5"
    sweep = Detached(tmp_path, rates, epochs=16, seconds=1)
    assert "8 to do\nsubmitted 2 jobs" in sweep.submit()
    sweep.wait(lambda: len(sweep.jobs()) == 2 and sweep.trains(2))
    first, second = sorted(sweep.jobs())
    os.kill(first, signal.SIGUSR2)  # as SLURM before a time limit
    os.kill(second, signal.SIGKILL)
    assert "-m task=glue/rte" in sweep.status()
    assert "sweep.cwd" not in sweep.status()
    sweep.submit()  # overlaps with what is left of the first submission
    sweep.wait(lambda: len(sweep.records()) == 8 and not sweep.jobs())
    assert sweep.count("end") == dict.fromkeys(sweep.records(), 1)
    assert sum(sweep.count("start").values()) <= 8 + 2
    assert any(record["resumed_from_step"] for record in sweep.records().values())
    assert "8 of 8 points have a record" in sweep.submit()
    assert list(tmp_path.glob("out/trials/*/failures.json")) == []


@pytest.mark.slow
def test_points_that_killed_jobs_leave_are_submitted_by_the_same_command(tmp_path: Path) -> None:
    sweep = Detached(tmp_path, "learning_rate.value=1e-5,2e-5,3e-5,4e-5", epochs=200)
    sweep.submit(seconds=5)  # the jobs outlive the next command on any machine
    sweep.wait(lambda: len(sweep.jobs()) == 2 and sweep.trains(1))
    assert "2 jobs are queued or running" in sweep.submit()
    for job in sweep.jobs():
        os.kill(job, signal.SIGKILL)
    sweep.wait(lambda: not sweep.jobs())
    assert sweep.records() == {}
    assert "4 to do\nsubmitted 2 jobs" in sweep.submit(seconds=0)
    sweep.wait(lambda: len(sweep.records()) == 4 and not sweep.jobs())
    assert sweep.count("end") == dict.fromkeys(sweep.records(), 1)


@pytest.mark.slow
def test_jobs_share_a_search_with_seeds_and_a_killed_one_loses_no_draw(tmp_path: Path) -> None:
    search = "sweep.sampler=tpe", "sweep.n_trials=4", "seed=0,1", "learning_rate.value=tag(log,interval(1e-5,1e-3))"
    sweep = Detached(tmp_path, *search, epochs=10, seconds=1)
    assert "4 points x 2 seeds = 8 trainings: 8 to do" in sweep.submit()
    sweep.wait(lambda: len(sweep.jobs()) == 2 and sweep.trains(2))
    os.kill(min(sweep.jobs()), signal.SIGKILL)
    sweep.wait(lambda: not sweep.jobs())
    if len(sweep.records()) < 8:
        sweep.submit()
    sweep.wait(lambda: len(sweep.records()) == 8 and not sweep.jobs())
    assert sweep.count("end") == dict.fromkeys(sweep.records(), 1)
    assert "8 have a record" in sweep.submit()
