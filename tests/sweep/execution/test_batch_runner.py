"""Batches for Hydra's launchers: every fake ``launch`` here stands for a launcher and does what its jobs would do."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from nxm_sweep.errors import LauncherError
from nxm_sweep.store.attempts import Failure, Outcome, add_failure, failure
from nxm_sweep.store.files import write_json
from nxm_sweep.store.liveness import this_process
from nxm_sweep.store.paths import JOB, RESULT
from nxm_sweep.store.progress import INTERRUPTED, request_stop
from nxm_sweep.sweep.execution.batch_runner import BatchRunner
from nxm_sweep.sweep.planning.cell import Point

NAN = asdict(failure("non-finite", "the loss became nan"))
Jobs = Callable[[list[str]], Sequence[Mapping[str, Any] | None]]


@dataclass(frozen=True)
class _Point:
    """A point of which a runner needs two things alone."""

    identity: str

    @property
    def overrides(self) -> list[str]:
        return [self.identity]


class Bench:
    """A runner and a record of the batches that its launcher has got; ``launch`` maps a batch's identities to answers."""

    def __init__(self, output_dir: Path, *launches: Jobs, clock: Callable[[], float] = time.monotonic) -> None:
        self.trials = output_dir / "trials"
        self.batches: list[list[str]] = []
        self._launches = iter(launches)
        self.runner = BatchRunner(self._launch, output_dir, clock=clock)

    def _launch(self, batch: Sequence[Sequence[str]]) -> Sequence[Mapping[str, Any] | None]:
        self.batches.append([overrides[0] for overrides in batch])
        return next(self._launches)(self.batches[-1])

    def submit(self, *identities: str) -> None:
        for identity in identities:
            (self.trials / identity).mkdir(parents=True, exist_ok=True)
            self.runner.submit(cast("Point", _Point(identity)))

    def wait_for(self, count: int) -> dict[str, Outcome]:
        """Return the next outcomes, so many of them."""
        ended: dict[str, Outcome] = {}
        deadline = time.monotonic() + 60
        while len(ended) < count:
            assert time.monotonic() < deadline, f"only {sorted(ended)} have ended"
            for identity, outcome in self.runner.wait(0.01):
                assert identity not in ended
                ended[identity] = outcome
        return ended

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Let the runner work until a condition holds; nothing may end meanwhile."""
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            assert self.runner.wait(0.01) == []

    def record(self, identity: str) -> None:
        write_json(self.trials / identity / RESULT, {"identity": identity})

    def begin(self, identity: str, process: Mapping[str, Any] | None = None) -> None:
        write_json(self.trials / identity / JOB, {"process": dict(process or this_process())})


@pytest.fixture
def dead() -> Mapping[str, Any]:
    """A process of this machine that has ended."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        started = psutil.Process(process.pid).create_time()
        process.kill()
    return {**this_process(), "pid": process.pid, "started": started}


@pytest.fixture
def living() -> Iterator[tuple[Mapping[str, Any], Callable[[], None]]]:
    """A process that lives, and what ends it."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])

    def end() -> None:
        process.kill()
        process.wait()

    yield {**this_process(), "pid": process.pid, "started": psutil.Process(process.pid).create_time()}, end
    end()


def _raise(error: BaseException) -> Sequence[Mapping[str, Any] | None]:
    raise error


def test_answers_say_how_jobs_without_a_word_of_their_own_ended(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda _: [None, NAN, {"stopped": "interrupted"}])
    bench.submit("a", "b", "c")
    assert bench.wait_for(3) == {
        "a": Outcome(),
        "b": Outcome(failure=Failure(**NAN)),
        "c": Outcome(stopped="interrupted"),
    }


def test_nothing_is_handed_out_while_a_batch_runs(tmp_path: Path) -> None:
    go = threading.Event()

    def launch(batch: list[str]) -> list[None]:
        assert go.wait(60)
        return [None] * len(batch)

    bench = Bench(tmp_path, launch)
    assert bench.runner.has_room
    bench.submit("a")
    assert bench.runner.has_room
    bench.wait_until(lambda: bool(bench.batches))
    assert not bench.runner.has_room
    go.set()
    bench.wait_for(1)
    assert bench.runner.has_room


def test_a_record_ends_its_attempt_while_the_batch_still_runs(tmp_path: Path) -> None:
    go = threading.Event()

    def launch(batch: list[str]) -> list[None]:
        bench.record("b")
        assert go.wait(60)
        return [None, None]

    bench = Bench(tmp_path, launch)
    bench.submit("a", "b")
    assert bench.wait_for(1) == {"b": Outcome()}
    go.set()
    assert bench.wait_for(1) == {"a": Outcome()}


def test_a_failure_ends_its_attempt_while_the_batch_still_runs_and_is_tried_in_the_next(tmp_path: Path) -> None:
    go = threading.Event()

    def launch(batch: list[str]) -> list[None]:
        write_json(bench.trials / "b" / JOB, {"answer": NAN})
        assert go.wait(60)
        return [None, None]

    bench = Bench(tmp_path, launch, lambda _: [None])
    bench.submit("a", "b")
    assert bench.wait_for(1) == {"b": Outcome(failure=Failure(**NAN))}
    assert not bench.runner.has_room
    go.set()
    assert bench.wait_for(1) == {"a": Outcome()}
    bench.submit("b")
    assert bench.wait_for(1) == {"b": Outcome()}
    assert bench.batches == [["a", "b"], ["b"]]


def test_when_a_launcher_raises_records_count_and_the_dead_job_was_killed(
    tmp_path: Path, dead: Mapping[str, Any]
) -> None:
    def launch(_: list[str]) -> list[None]:
        bench.record("a")
        bench.begin("b", dead)
        raise RuntimeError("a worker died\nat length")

    bench = Bench(tmp_path, launch, lambda _: [None])
    bench.submit("a", "b")
    ended = bench.wait_for(2)
    assert ended["a"] == Outcome()
    killed = ended["b"].failure
    assert killed is not None
    assert (killed.kind, killed.message) == ("killed", "the launcher ended: RuntimeError: a worker died")
    bench.submit("b")
    assert bench.wait_for(1) == {"b": Outcome()}


def test_when_a_launcher_raises_a_failure_that_the_job_wrote_down_is_its_reason(tmp_path: Path) -> None:
    earlier, new = failure("exit", "earlier"), failure("exception", "ValueError: new")

    def launch(_: list[str]) -> list[None]:
        bench.record("b")
        add_failure(bench.trials / "a", new)
        raise RuntimeError("a worker died")

    bench = Bench(tmp_path, launch)
    add_failure(bench.trials / "a", earlier)
    bench.submit("a", "b")
    assert bench.wait_for(2) == {"a": Outcome(failure=new), "b": Outcome()}


def test_jobs_that_live_on_after_their_launcher_raised_are_waited_for(
    tmp_path: Path, living: tuple[Mapping[str, Any], Callable[[], None]], dead: Mapping[str, Any]
) -> None:
    process, end = living

    def launch(_: list[str]) -> list[None]:
        bench.begin("a", dead)
        bench.begin("b", process)
        bench.begin("c", process)
        raise RuntimeError("a worker died")

    bench = Bench(tmp_path, launch)
    bench.submit("a", "b", "c")
    assert bench.wait_for(1).keys() == {"a"}
    for _ in range(3):
        assert bench.runner.wait(0.01) == []
    assert not bench.runner.has_room
    bench.record("b")
    assert bench.wait_for(1) == {"b": Outcome()}
    end()
    killed = bench.wait_for(1)["c"].failure
    assert killed is not None
    assert killed.kind == "killed"


def test_jobs_of_a_broken_pool_that_never_began_are_launched_again_without_a_failed_attempt(
    tmp_path: Path, dead: Mapping[str, Any]
) -> None:
    def launch(_: list[str]) -> list[None]:
        bench.begin("a", dead)
        raise BrokenProcessPool("a worker died")

    bench = Bench(tmp_path, launch, lambda batch: [None] * len(batch), lambda _: [None])
    bench.submit("a", "b", "c")
    assert bench.wait_for(1).keys() == {"a"}
    add_failure(bench.trials / "a", failure("killed", "by someone"))  # as the coordinator does
    bench.submit("a")
    assert bench.wait_for(2) == {"b": Outcome(), "c": Outcome()}
    assert bench.wait_for(1) == {"a": Outcome()}
    assert bench.batches == [["a", "b", "c"], ["b", "c"], ["a"]]


def test_points_that_broke_a_pool_are_launched_one_by_one(tmp_path: Path, dead: Mapping[str, Any]) -> None:
    def launch(batch: list[str]) -> list[None]:
        for identity in batch:
            bench.begin(identity, dead)
        raise BrokenProcessPool("a worker died")

    bench = Bench(tmp_path, launch, lambda _: [None], lambda _: [None])
    bench.submit("a", "b")
    assert bench.wait_for(2).keys() == {"a", "b"}
    for identity in ("a", "b"):
        add_failure(bench.trials / identity, failure("killed", "by someone"))
        bench.submit(identity)
    assert bench.wait_for(2) == {"a": Outcome(), "b": Outcome()}
    assert bench.batches == [["a", "b"], ["a"], ["b"]]


def test_jobs_that_wait_in_a_queue_get_a_lease_to_begin_after_their_launcher_raised(
    tmp_path: Path, dead: Mapping[str, Any]
) -> None:
    now = [0.0]

    def launch(_: list[str]) -> list[None]:
        bench.begin("a", dead)
        raise RuntimeError("job 1 was preempted")

    bench = Bench(tmp_path, launch, lambda _: [None], clock=lambda: now[0])
    bench.submit("a", "b", "c")
    bench.wait_for(1)
    now[0] = 59.0
    assert bench.runner.wait(0.01) == []
    bench.record("b")  # it has begun after all, and is through
    assert bench.wait_for(1) == {"b": Outcome()}
    now[0] = 118.0  # less than a lease after the last sign
    assert bench.runner.wait(0.01) == []
    assert bench.batches == [["a", "b", "c"]]
    now[0] = 120.0
    assert bench.wait_for(1) == {"c": Outcome()}
    assert bench.batches[1:] == [["c"]]


def test_a_launcher_that_starts_no_job_ends_the_sweep_with_its_reason(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda _: _raise(RuntimeError("sbatch not found")))
    bench.submit("a")
    with pytest.raises(LauncherError, match="the launcher has started no job: RuntimeError: sbatch not found"):
        bench.wait_for(1)


def test_points_told_to_stop_before_they_are_launched_are_not(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.submit("a")
    request_stop(bench.trials / "a", INTERRUPTED)
    assert bench.wait_for(1) == {"a": Outcome(stopped=INTERRUPTED)}
    assert bench.batches == []


def test_what_an_earlier_job_has_left_is_forgotten(tmp_path: Path, dead: Mapping[str, Any]) -> None:
    bench = Bench(tmp_path, lambda _: [None])
    bench.begin("a", dead)
    request_stop(bench.trials / "a", INTERRUPTED)
    bench.submit("a")
    assert bench.wait_for(1) == {"a": Outcome()}
    assert list((bench.trials / "a").iterdir()) == []


def test_batches_fit_an_array_of_slurm(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for number in range(1000):
        assert bench.runner.has_room
        bench.submit(str(number))
    assert not bench.runner.has_room
