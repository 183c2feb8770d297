"""Searches with real processes and a real storage: so many points as asked for, each once, whatever happens between."""

from __future__ import annotations

import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from filelock import FileLock
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from nxm_sweep.config.compose import compose_settings
from nxm_sweep.settings import SweepSettings
from nxm_sweep.sweep.planning.axes import Axes, Range
from nxm_sweep.sweep.planning.cell import Cell, Point
from nxm_sweep.sweep.studies.search import Search
from nxm_sweep.sweep.studies.study import CellStudy
from nxm_sweep.trial.digests import Digests

DRIVER = Path(__file__).resolve().parents[1] / "driver.py"
SECONDS = 120  # no wait of these tests is longer
RATES = "learning_rate.value=tag(log,interval(1e-5,1e-3))"
Sweep = Callable[..., str]


class Sweeps:
    """Runs the driver on one output folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ledger = folder, folder / "ledger"

    def start(self, *arguments: str, workers: int = 2, **fake: Any) -> subprocess.Popen[str]:
        line = [sys.executable, str(DRIVER), "-m", "task=glue/rte", "model=minilm_l6", "method=asp", *arguments,
                f"output_dir={self.folder / 'out'}", f"sweep.workers={workers}", "sweep.threads=1"]  # fmt: skip
        return subprocess.Popen(
            line,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "FAKE_TRIALS": json.dumps({"ledger": str(self.ledger), **fake}), "COLUMNS": "200"},
            cwd=self.folder,
        )

    def run(self, *arguments: str, code: int = 0, **kwargs: Any) -> str:
        """Run to the end; return what it printed. Anything on stderr, a warning included, fails."""
        process = self.start(*arguments, **kwargs)
        try:
            out, err = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
        assert err == ""
        assert process.returncode == code, out
        return out

    def records(self) -> dict[str, dict[str, Any]]:
        files = (self.folder / "out" / "trials").glob("*/result.json")
        return {file.parent.name: json.loads(file.read_text()) for file in files}

    def ended(self) -> list[str]:
        """Identities of the trainings that came to their end, in order."""
        lines = self.ledger.read_text().splitlines() if self.ledger.exists() else []
        return [line.split()[1] for line in lines if line.startswith("end")]

    def pruned(self) -> set[str]:
        return {file.parent.name for file in (self.folder / "out" / "trials").glob("*/pruned.json")}

    def trials(self) -> list[FrozenTrial]:
        """The trials of the only study."""
        storage = f"sqlite:///{self.folder / 'out' / 'studies' / 'optuna.db'}"
        (name,) = optuna.get_all_study_names(storage)
        return optuna.load_study(study_name=name, storage=storage).trials

    def wait_for(self, holds: Callable[[], bool]) -> None:
        until = time.monotonic() + SECONDS
        while not holds():
            assert time.monotonic() < until
            time.sleep(0.02)


@pytest.fixture
def sweeps(tmp_path: Path) -> Sweeps:
    return Sweeps(tmp_path)


def _states(trials: list[FrozenTrial]) -> dict[str, int]:
    return dict(Counter(trial.state.name for trial in trials))


def test_a_random_search_trains_its_points_once_and_grows(sweeps: Sweeps) -> None:
    line = (RATES, "sweep.sampler=random")
    out = sweeps.run(*line, "sweep.n_trials=6", workers=1)
    first = sweeps.records()
    assert len(first) == 6
    assert "6 of 6 points have a record, 6 trained now" in out
    rates = {record["config"]["learning_rate"]["value"] for record in first.values()}
    assert len(rates) == 6
    assert all(1e-5 <= rate <= 1e-3 for rate in rates)
    assert "6 of 6 points have a record, 0 trained now" in sweeps.run(*line, "sweep.n_trials=6", workers=1)
    assert "9 of 9 points have a record, 3 trained now" in sweeps.run(*line, "sweep.n_trials=9", workers=1)
    assert set(first) < set(sweeps.records())
    assert sorted(sweeps.ended()) == sorted(sweeps.records())  # each once
    assert _states(sweeps.trials()) == {"COMPLETE": 9}


def test_a_search_that_was_killed_ends_with_its_points(sweeps: Sweeps) -> None:
    line = (RATES, "sweep.sampler=random", "sweep.n_trials=6")
    process = sweeps.start(*line, seconds=0.3)
    try:
        sweeps.wait_for(lambda: len(sweeps.records()) >= 3)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    before, ended = (
        set(sweeps.records()),
        len(sweeps.ended()),
    )  # a training may end just before the kill, without a record
    assert len(before) < 6
    out = sweeps.run(*line)
    assert f"6 of 6 points have a record, {6 - len(before)} trained now" in out
    assert len(sweeps.records()) == 6
    assert sorted(sweeps.ended()[ended:]) == sorted(set(sweeps.records()) - before)
    trials = sweeps.trials()
    assert {trial.user_attrs["identity"] for trial in trials} == set(sweeps.records())
    assert _states(trials)["COMPLETE"] == 6


def test_a_search_of_few_combinations_trains_each_once_and_ends(sweeps: Sweeps) -> None:
    rule = "sweep.exclude=[{training.batch_size:16,learning_rate.value:2e-4}]"
    lists = ("learning_rate.value=1e-4,2e-4", "training.batch_size=16,32", rule)
    out = sweeps.run(*lists, "sweep.sampler=tpe", "sweep.n_trials=20", workers=1)
    assert "3 of 3 points have a record, 3 trained now" in out
    assert sorted(sweeps.ended()) == sorted(sweeps.records())
    found = {(record["config"]["learning_rate"]["value"], record["config"]["training"]["batch_size"])
             for record in sweeps.records().values()}  # fmt: skip
    assert found == {(1e-4, 16), (1e-4, 32), (2e-4, 32)}
    assert _states(sweeps.trials()) == {"COMPLETE": 3}


@pytest.mark.parametrize("sampler", ["tpe", "qmc"])
def test_every_sampler_searches_without_a_warning(sweeps: Sweeps, sampler: str) -> None:
    ranges = (RATES, "training.weight_decay=interval(0,0.1)", "training.batch_size=8,16,32")
    sweeps.run(
        *ranges, f"sweep.sampler={sampler}", "sweep.n_trials=12", "sweep.storage=sqlite", workers=1, epochs=1, seconds=0
    )
    assert sorted(sweeps.ended()) == sorted(sweeps.records())
    trials = sweeps.trials()
    assert _states(trials) == {"COMPLETE": 12}
    assert len({trial.params["learning_rate.value"] for trial in trials}) == 12
    assert {trial.params["training.batch_size"] for trial in trials} == {8, 16, 32}


def test_a_record_of_another_sweep_is_told_and_not_trained_again(sweeps: Sweeps) -> None:
    lists = ("learning_rate.value=1e-4,2e-4", "training.batch_size=16")
    sweeps.run(*lists, workers=1)
    out = sweeps.run(*lists, "sweep.sampler=random", "sweep.n_trials=2", workers=1)
    assert "2 of 2 points have a record, 0 trained now" in out
    assert len(sweeps.ended()) == 2


def test_points_that_fail_count_so_that_a_search_ends(sweeps: Sweeps) -> None:
    faults = [{"when": {"method": "asp"}, "do": "nan"}]
    out = sweeps.run(RATES, "sweep.sampler=random", "sweep.n_trials=3", code=1, workers=1, faults=faults)
    assert "0 of 3 points have a record, 0 trained now, 3 failed" in out
    assert _states(sweeps.trials()) == {"FAIL": 3}


def test_a_pruner_stops_poor_trials_and_none_of_them_is_a_result(sweeps: Sweeps) -> None:
    grid = ("learning_rate.value=range(1e-5,1e-4,step=1e-5)", "training.batch_size=16")
    out = sweeps.run(*grid, "sweep.pruner=median", epochs=5, seconds=0.5)
    pruned, records = sweeps.pruned(), sweeps.records()
    assert pruned
    assert pruned.isdisjoint(records)
    assert len(pruned) + len(records) == 9
    assert f"{len(records)} of 9 points have a record, {len(records)} trained now, {len(pruned)} pruned" in out
    trials = sweeps.trials()
    of = {state: {trial.user_attrs["identity"] for trial in trials if trial.state.name == state}
          for state in ("PRUNED", "COMPLETE")}  # fmt: skip
    assert of == {"PRUNED": pruned, "COMPLETE": set(records)}
    best = max(records.values(), key=lambda record: record["best"]["value"])
    table = next(line for line in out.splitlines() if line.startswith("glue/rte asp 2of4 minilm_l6  "))
    assert f"{100 * best['best']['value']:.2f}" in table

    trained = len(sweeps.ended())
    sweeps.run(*grid, epochs=5, seconds=0, workers=1)
    assert set(sweeps.ended()[trained:]) == pruned
    assert len(sweeps.ended()) - trained == len(pruned)
    assert len(sweeps.records()) == 9
    assert not sweeps.pruned()


# --- one search, in this process --------------------------------------------------------------------------------------

SPACE: Axes = {"learning_rate.value": Range(1e-5, 1e-3, log=True), "training.batch_size": Range(8, 64), "seed": (0,)}


def _search(axes: Axes, storage: BaseStorage, *, sampler: str = "random", n_trials: int = 10, **kwargs: Any) -> Search:
    settings = compose_settings(["method=asp", "training.batching=by_length"])  # the default of the first version
    cell = Cell(settings, axes, Digests("rows", "files", 100), search=sampler, exclude=kwargs.pop("exclude", ()))
    lock = FileLock("unused")
    return Search(CellStudy(storage, cell), SweepSettings(sampler=sampler, n_trials=n_trials, **kwargs), lock)


def _ask_all(search: Search, score: Callable[[Point], float] = lambda _: 0.5) -> list[Point]:
    """Ask until no more is wanted, completing each point at once."""
    points = []
    while search.wants_more and (asked := search.ask()) is not None:
        trial, point = asked
        search.study.storage.set_trial_state_values(trial, TrialState.COMPLETE, [score(point)])
        points.append(point)
    return points


def _values(points: list[Point]) -> list[tuple[Any, ...]]:
    return [tuple(point.values.values()) for point in points]


@pytest.mark.parametrize("sampler", ["random", "tpe", "qmc"])
def test_draws_stay_in_their_ranges_and_differ(sampler: str) -> None:
    points = _ask_all(_search(SPACE, InMemoryStorage(), sampler=sampler, n_trials=30))
    assert len({point.identity for point in points}) == 30
    assert all(1e-5 <= rate <= 1e-3 and 8 <= batch <= 64 and seed == 0 for rate, batch, seed in _values(points))
    assert all(isinstance(batch, int) for _, batch, _ in _values(points))
    assert len({batch for _, batch, _ in _values(points)}) > 10


def test_a_sampler_that_learns_moves_to_where_the_scores_are() -> None:
    def score(point: Point) -> float:
        return -abs(math.log10(point.values["learning_rate.value"]) + 3.0)  # best at the upper end, 1e-3

    rates = [
        rate for rate, _, _ in _values(_ask_all(_search(SPACE, InMemoryStorage(), sampler="tpe", n_trials=60), score))
    ]
    assert statistics.median(rates[-20:]) > 4e-4  # blind draws: 1e-4


def test_a_search_that_is_resumed_goes_on_where_it_was() -> None:
    whole = _values(_ask_all(_search(SPACE, InMemoryStorage(), n_trials=8)))
    storage = InMemoryStorage()
    first = _values(_ask_all(_search(SPACE, storage, n_trials=3)))
    assert first + _values(_ask_all(_search(SPACE, storage, n_trials=8))) == whole


# The study and the 14 draws of a search with one seed, as the first version of this package made them: a search that it
# has begun goes on.
_QMC = """
3e13814a7c5f7637 7a0c6ed407aed3f8 b1bd599f7af52d91 cc1296828c60230e 4fd2c581699ae875
853e155d9a6c13d0 ff832f100bcb2613 c1cb52dabeb7d1fc a1e24feef5eecf41 c7167e727d2536bb
ba8b9754423536de 8eda5c7854c40719 7c287f60568e160b 0429fd70108de312
"""
_STARTUP = """
22474c4b293e195f a3ee5d21801fbaef 003dce4479fa5735 1f1b8ccec4649d9f 52fbf8298252727d
9d269a04aaabca8a 3595598758e84271 e5c36f82ad625b9c 26307569ee90aced decf56773e048fdb
"""
FIRST_VERSION = {
    "random": ("426581f1", _STARTUP + "edf46b0f4ef178ee f314e5245a84d633 8bbe990d0acbc2ff e0134534d8b4f350"),
    "tpe": ("207546e3", _STARTUP + "b9cafab966f1c4cb fa1e2b2184e22249 9fcdcd57f55a43e2 c6f92feef72c3a40"),
    "qmc": ("0963c2fc", _QMC),
}


@pytest.mark.parametrize("sampler", FIRST_VERSION)
def test_search_with_one_seed_has_the_study_and_the_draws_that_it_always_had(sampler: str) -> None:
    def score(point: Point) -> float:
        return -abs(math.log10(point.values["learning_rate.value"]) + 3.0)

    search = _search(SPACE, InMemoryStorage(), sampler=sampler, n_trials=14)
    fingerprint, identities = FIRST_VERSION[sampler]
    assert search.study.cell.study_name == f"glue/rte asp 2of4 bert_base {sampler} {fingerprint}"
    assert [point.identity for point in _ask_all(search, score)] == identities.split()


def test_two_coordinators_share_a_search() -> None:
    storage = InMemoryStorage()
    one, two = _search(SPACE, storage, n_trials=5), _search(SPACE, storage, n_trials=5)
    asked = [search.ask() for search in (one, two, one, two, one, two, one)]
    points = [entry[1] for entry in asked if entry is not None]
    assert len({point.identity for point in points}) == len(points) == 5
    assert not one.wants_more
    assert {point.identity for point in one.adopt()} == {points[1].identity, points[3].identity}
    assert one.adopt() == []


def test_points_that_a_rule_leaves_out_are_not_asked_for() -> None:
    rule = {"training.batch_size": list(range(8, 60))}
    points = _ask_all(_search(SPACE, InMemoryStorage(), n_trials=5, exclude=(rule,)))
    assert all(60 <= batch <= 64 for _, batch, _ in _values(points))


def test_a_finite_space_is_asked_for_whole_and_no_further() -> None:
    axes: Axes = {"training.batch_size": Range(8, 12), "training.epochs": (1, 2)}
    points = _ask_all(_search(axes, InMemoryStorage(), n_trials=100))
    assert sorted(_values(points)) == [(batch, epochs) for batch in range(8, 13) for epochs in (1, 2)]


def test_a_search_that_finds_nothing_new_ends() -> None:
    rule = {"seed": 0}  # every point of a space that cannot be listed
    search = _search(SPACE, InMemoryStorage(), exclude=(rule,))
    assert search.ask() is None
    assert not search.wants_more


def _report(search: Search, trial: int, scores: list[float]) -> bool:
    for epoch, score in enumerate(scores, 1):
        search.study.storage.set_trial_intermediate_value(trial, epoch, score)
    return search.should_prune(trial, len(scores))


@pytest.mark.parametrize("pruner", ["median", "halving", "hyperband"])
def test_a_pruner_stops_the_worst_and_not_the_best(pruner: str) -> None:
    search = _search(SPACE, InMemoryStorage(), n_trials=40, pruner=pruner)
    verdicts = {}
    for number in range(40):
        asked = search.ask()
        assert asked is not None
        trial, _ = asked
        score = (number % 20) / 20
        verdicts[number] = _report(search, trial, [score])
        state = TrialState.PRUNED if verdicts[number] else TrialState.COMPLETE
        search.study.storage.set_trial_state_values(trial, state, [score])
    assert any(verdicts[number] for number in range(20, 25))
    assert not any(verdicts[number] for number in (19, 39))


def test_no_pruner_stops_nothing() -> None:
    search = _search(SPACE, InMemoryStorage())
    assert not any(
        _report(search, asked[0], [1.0 / number]) for number in range(1, 10) if (asked := search.ask()) is not None
    )
