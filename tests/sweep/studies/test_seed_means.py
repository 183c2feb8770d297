"""Searches with several seeds: the sampler learns from means, and any death of the coordinator leaves the same search.

The whole of a sweep runs here in this process: its coordinator, claims, files and studies, with trials that advance by one
epoch per tick, and a storage that outlives a coordinator that dies at any of its writes.
"""

from __future__ import annotations

import io
import math
import os
import shlex
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
import pytest
from optuna.pruners import MedianPruner
from optuna.storages import InMemoryStorage
from optuna.study import create_study
from optuna.trial import FrozenTrial, TrialState, create_trial
from rich.console import Console

from nxm_sweep.config.compose import compose_settings
from nxm_sweep.errors import SweepIncompleteError
from nxm_sweep.store.attempts import Outcome, add_failure, failure
from nxm_sweep.store.files import read_json, write_json
from nxm_sweep.store.liveness import this_process
from nxm_sweep.store.paths import STOP, trial_folder
from nxm_sweep.store.progress import PRUNED
from nxm_sweep.store.record import Record
from nxm_sweep.store.records import SCHEMA, read_records, write_record
from nxm_sweep.sweep import run
from nxm_sweep.sweep.planning.axes import Axes, Range
from nxm_sweep.sweep.planning.cell import Cell, Point
from nxm_sweep.trial.digests import Digests

RATES: Axes = {"learning_rate.value": Range(1e-5, 1e-3, log=True)}
EPOCHS = 3
Score = Callable[[Mapping[str, Any], int], float]
pytestmark = pytest.mark.usefixtures("_quiet")


@pytest.fixture(scope="module")
def _quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


class Died(BaseException):
    """The coordinator's process is killed here."""


class Storage(InMemoryStorage):
    """A storage that counts its writes and lets its user die at one of them, before or after it is done."""

    def __init__(self) -> None:
        super().__init__()
        self.writes, self.dies_at = 0, -1

    def write(self, method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        self.writes += 1
        if self.writes == self.dies_at and self.dies_at % 2:
            raise Died
        returned = method(*arguments, **named)
        if self.writes == self.dies_at:
            raise Died
        return returned


def _counted(name: str) -> Callable[..., Any]:
    method = getattr(InMemoryStorage, name)
    return lambda self, *arguments, **named: self.write(method.__get__(self), *arguments, **named)


for _name in ("create_new_trial", "set_trial_param", "set_trial_state_values", "set_trial_intermediate_value",
              "set_trial_user_attr", "set_trial_system_attr", "set_study_user_attr"):  # fmt: skip
    setattr(Storage, _name, _counted(_name))


def lucky(values: Mapping[str, Any], epoch: int) -> float:
    """Best at 1e-4 on average; a seed that is lucky where the mean is poor."""
    distance = abs(math.log10(values["learning_rate.value"]) + 4)
    luck = {0: 1.0, 1: -0.6, 2: -0.4}.get(values["seed"], 0.0) * distance
    return 0.6 - 0.3 * distance + luck + 0.01 * epoch


class Trials:
    """Trains points in this process, an epoch per tick; finished epochs are kept, as by a checkpoint."""

    def __init__(self, bench: Bench, workers: int) -> None:
        self.bench, self.workers = bench, workers
        self.running: dict[str, Point] = {}

    @property
    def has_room(self) -> bool:
        return len(self.running) < self.workers

    def submit(self, point: Point) -> None:
        self.running[point.identity] = point
        self.bench.started.append((point.values["learning_rate.value"], point.values["seed"]))
        (trial_folder(self.bench.output_dir, point.identity) / STOP).unlink(missing_ok=True)

    def wait(self, seconds: float) -> list[tuple[str, Outcome]]:
        del seconds
        self.bench.ticks += 1
        if self.bench.ticks == self.bench.interrupted_at:
            os.kill(os.getpid(), signal.SIGINT)
        ended = [(identity, outcome) for identity, point in self.running.items() if (outcome := self._advance(point))]
        for identity, _ in ended:
            del self.running[identity]
            (trial_folder(self.bench.output_dir, identity) / "progress.json").unlink(missing_ok=True)
        return ended

    def _advance(self, point: Point) -> Outcome | None:
        bench, folder = self.bench, trial_folder(self.bench.output_dir, point.identity)
        epochs = bench.checkpoints.setdefault(point.identity, [])
        order = (read_json(folder / STOP) or {}).get("reason")
        if order == PRUNED and bench.dies_pruned:
            return Outcome(failure=failure("killed", "the worker was ended by SIGKILL"))
        if order == PRUNED:
            write_json(folder / "pruned.json", {"epochs": epochs})
            return Outcome(stopped=PRUNED)
        if point.values["seed"] in bench.failing:
            failed = failure("non-finite", "the loss became nan")
            add_failure(folder, failed)
            return Outcome(failure=failed)
        epoch = len(epochs) + 1
        epochs.append({"epoch": epoch, "selection": bench.score(point.values, epoch)})
        write_json(
            folder / "progress.json", {"process": this_process(), "since": 0.0, "step": 1, "steps": 1, "epochs": epochs}
        )
        if epoch < EPOCHS:
            return Outcome(stopped=order) if order else None
        best = max(epochs, key=lambda entry: entry["selection"])
        record = {
            "schema": SCHEMA,
            "identity": point.identity,
            "sparsity_name": "2of4",
            "config": {"lr": point.values["learning_rate.value"], "seed": point.values["seed"]},
            "best": {"epoch": best["epoch"], "value": best["selection"]},
            "epochs": [{**entry, "pruned": {}, "unpruned_selection": 0.5, "relative_distance": 0.1} for entry in epochs],
            "sparsity": {"targets": [], "exact": True},
            "seconds": {"total": 1.0},
        }  # fmt: skip
        write_record(folder, record)
        bench.trained[point.identity] += 1
        return Outcome()


class Bench:
    """An output folder and its storage, and the sweeps that ran on them."""

    def __init__(self, output_dir: Path, monkeypatch: pytest.MonkeyPatch, score: Score = lucky) -> None:
        self.output_dir, self.score = output_dir, score
        self.storage = Storage()
        self.checkpoints: dict[str, list[dict[str, Any]]] = {}
        self.trained: Counter[str] = Counter()
        self.started: list[tuple[float, int]] = []
        self.failing: set[int] = set()
        self.dies_pruned = False  # whether a worker that is told to stop dies instead
        self.interrupted_at, self.ticks = -1, 0
        monkeypatch.setattr(run, "open_storage", lambda *_: self.storage)
        self._patch = monkeypatch

    def sweep(
        self,
        *overrides: str,
        seeds: tuple[int, ...] = (0, 1, 2),
        n_trials: int = 4,
        workers: int = 1,
        sampler: str = "tpe",
        axes: Axes = RATES,
        dies_at: int = -1,
    ) -> str:
        """Run the command to its end, or to its death; return what it printed."""
        given = [f"output_dir={self.output_dir}", f"sweep.sampler={sampler}", f"sweep.n_trials={n_trials}",
                 f"training.epochs={EPOCHS}", "method=asp", *overrides]  # fmt: skip
        settings = compose_settings(given)
        cell = Cell(settings, {**axes, "seed": seeds}, Digests("rows", "files", 100), search=sampler)
        self._patch.setattr(run, "_make_runner", lambda *_: nullcontext(Trials(self, workers)))
        console = Console(file=io.StringIO(), width=200, highlight=False)
        self.storage.dies_at = self.storage.writes + dies_at if dies_at >= 0 else -1
        try:
            with suppress(SweepIncompleteError):
                run.run_sweep([cell], settings, [], None, console)
        except Died:
            self._bury()
        self.storage.dies_at = -1
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    def _bury(self) -> None:
        """Leave what a killed process leaves: files of a process that does not live."""
        for name in ("claim.json", "progress.json"):
            for file in self.output_dir.glob(f"trials/*/{name}"):
                file.unlink()

    def study(self, name: str = "") -> optuna.Study:
        """The latest study, or that of a name."""
        names = [study.study_name for study in self.storage.get_all_studies()]
        return optuna.load_study(study_name=name or names[-1], storage=self.storage)

    @property
    def draws(self) -> list[FrozenTrial]:
        """The trials of the latest study that stand for a point: one that was begun when its coordinator died does not."""
        return [trial for trial in self.study().trials if {"identity", "identities"} & set(trial.user_attrs)]

    @property
    def records(self) -> list[Record]:
        return list(read_records(self.output_dir))

    def means(self) -> dict[float, float]:
        """Per learning rate the mean over its records, computed from the files."""
        scores: dict[float, list[float]] = {}
        for record in self.records:
            scores.setdefault(record["config"]["lr"], []).append(record["best"]["value"])
        return {rate: fmean(values) for rate, values in scores.items()}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def _outcome(trials: list[FrozenTrial]) -> list[tuple[Any, ...]]:
    """What a search comes to, whoever ran it."""
    return [(trial.params, trial.state.name, trial.values, trial.intermediate_values) for trial in trials]


def _rate(trial: FrozenTrial) -> float:
    return float(trial.params["learning_rate.value"])


# --- what the sampler sees --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_sampler_is_given_one_mean_per_drawn_point(bench: Bench, workers: int) -> None:
    out = bench.sweep(n_trials=5, workers=workers)
    assert f"report: python -m nxm_sweep report {shlex.quote(str(bench.output_dir))}\n" in out
    assert len(bench.records) == 15
    assert set(bench.trained.values()) == {1}
    trials = bench.study().trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 5
    assert all(set(trial.params) == {"learning_rate.value"} for trial in trials)  # what importances are computed over
    assert {_rate(trial): trial.value for trial in trials} == pytest.approx(bench.means())
    assert "5 points x 3 seeds = 15 trainings: 15 have a record, 15 trained now" in out


def test_each_seeds_score_is_shown_in_the_trial(bench: Bench) -> None:
    bench.sweep(n_trials=2)
    by_identity = {record["identity"]: record for record in bench.records}
    for trial in bench.draws:
        scores = [trial.user_attrs[f"score of seed {seed}"] for seed in (0, 1, 2)]
        assert scores == [by_identity[identity]["best"]["value"] for identity in trial.user_attrs["identities"]]
        assert trial.value == pytest.approx(fmean(scores))
        assert (trial.user_attrs["seconds"], trial.user_attrs["pattern holds"]) == (3.0, True)


def test_search_goes_where_the_mean_is_best_and_not_where_a_seed_is_lucky(bench: Bench) -> None:
    out = bench.sweep(n_trials=24)
    means = bench.means()
    lucky_one = max(bench.records, key=lambda record: record["best"]["value"])["config"]
    best = max(means, key=lambda rate: means[rate])
    assert lucky_one["seed"] == 0
    assert abs(math.log10(lucky_one["lr"]) + 4) > 0.8  # by single scores, an end of the range would win
    assert abs(math.log10(best) + 4) < 0.15
    assert bench.study().best_params == {"learning_rate.value": best}
    late = [_rate(trial) for trial in bench.study().trials[14:]]
    assert sum(abs(math.log10(rate) + 4) < 0.4 for rate in late) > len(late) / 2  # blind draws: 4 of 10
    assert f"{100 * means[best]:.2f}" in next(line for line in out.splitlines() if "mean over 3 seeds" in line)
    assert f"{100 * max(record['best']['value'] for record in bench.records):.2f}" not in out.split("cell ")[-1]


def test_trainings_have_the_identities_of_the_same_points_in_a_grid(bench: Bench) -> None:
    bench.sweep(n_trials=2)
    settings = compose_settings([f"training.epochs={EPOCHS}", "method=asp"])
    rates = tuple(sorted({_rate(trial) for trial in bench.draws}))
    grid = Cell(settings, {"learning_rate.value": rates, "seed": (0, 1, 2)}, Digests("rows", "files", 100))
    assert {point.identity for point in grid.points()} == {record["identity"] for record in bench.records}


def test_seed_that_failed_for_good_is_left_out_of_the_mean_and_named(bench: Bench) -> None:
    bench.failing = {1}
    out = bench.sweep(n_trials=2)
    assert [trial.state.name for trial in bench.draws] == ["COMPLETE"] * 2
    assert {_rate(trial): trial.value for trial in bench.draws} == pytest.approx(bench.means())  # of seeds 0 and 2
    assert all(trial.user_attrs["missing seeds"] == [1] for trial in bench.draws)
    assert all(trial.user_attrs["failure of seed 1"] == "non-finite: the loss became nan" for trial in bench.draws)
    assert "2 points x 3 seeds = 6 trainings: 4 have a record, 4 trained now, 2 failed" in out
    assert "mean over 2 of 3 seeds" in out


def test_point_whose_seeds_all_failed_has_failed(bench: Bench) -> None:
    bench.failing = {0, 1, 2}
    bench.sweep(n_trials=2)
    assert [(trial.state.name, trial.value) for trial in bench.draws] == [("FAIL", None)] * 2


def test_mean_is_updated_when_a_failed_seed_is_tried_again(bench: Bench) -> None:
    bench.failing = {1}
    bench.sweep(n_trials=3)
    rates = [_rate(trial) for trial in bench.draws]
    bench.failing = set()
    out = bench.sweep("sweep.retry_failed=true", n_trials=3)
    assert "9 have a record, 3 trained now" in out
    assert [_rate(trial) for trial in bench.draws] == rates
    assert [trial.state.name for trial in bench.study().trials] == ["COMPLETE"] * 3  # none with the mean of two
    assert {_rate(trial): trial.value for trial in bench.draws} == pytest.approx(bench.means())
    assert not any("missing seeds" in trial.user_attrs for trial in bench.draws)


# --- it resumes as a grid does ----------------------------------------------------------------------------------------


def _writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str, **kwargs: Any) -> tuple[Bench, int]:
    whole = Bench(tmp_path / "whole", monkeypatch)
    whole.sweep(*overrides, **kwargs)
    return whole, whole.storage.writes


@pytest.mark.parametrize(
    ("pruner", "stride"),
    [("none", 13), ("median", 31), pytest.param("none", 1, marks=pytest.mark.slow),
     pytest.param("median", 3, marks=pytest.mark.slow)],
)  # fmt: skip
def test_search_that_dies_at_any_write_comes_to_the_same(
    pruner: str, stride: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search: dict[str, Any] = {"n_trials": 7 if pruner == "median" else 4, "seeds": (0, 1)}
    whole, writes = _writes(tmp_path, monkeypatch, f"sweep.pruner={pruner}", **search)
    assert pruner == "none" or "PRUNED" in {trial.state.name for trial in whole.draws}
    for dies_at in range(1, writes + 1, stride):
        bench = Bench(tmp_path / f"{dies_at}", monkeypatch)
        bench.sweep(f"sweep.pruner={pruner}", dies_at=dies_at, **search)
        bench.sweep(f"sweep.pruner={pruner}", **search)
        assert set(bench.trained.values()) == {1}, dies_at
        for trial, expected in zip(bench.draws, whole.draws, strict=True):
            if expected.state == TrialState.PRUNED:  # may have resumed after an epoch that was not judged yet: one more
                assert expected.intermediate_values.items() <= trial.intermediate_values.items(), dies_at
                assert (trial.params, trial.state) == (expected.params, expected.state), dies_at
            else:
                assert _outcome([trial]) == _outcome([expected]), dies_at
        assert bench.trained.keys() == whole.trained.keys(), dies_at


@pytest.mark.parametrize("stride", [37, pytest.param(2, marks=pytest.mark.slow)])
def test_halved_search_that_dies_at_any_write_draws_the_same_and_trains_nothing_twice(
    stride: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optuna's halving notes a rung before it answers: a death in between costs that one verdict, and nothing else."""
    whole, writes = _writes(tmp_path, monkeypatch, "sweep.pruner=halving", seeds=(0, 1))
    for dies_at in range(1, writes + 1, stride):
        bench = Bench(tmp_path / f"{dies_at}", monkeypatch)
        bench.sweep("sweep.pruner=halving", seeds=(0, 1), dies_at=dies_at)
        bench.sweep("sweep.pruner=halving", seeds=(0, 1))
        assert set(bench.trained.values()) == {1}, dies_at
        assert [trial.params for trial in bench.draws] == [trial.params for trial in whole.draws], dies_at
        assert {trial.state.name for trial in bench.draws} <= {"COMPLETE", "PRUNED"}, dies_at
        for trial in bench.draws:
            assert trial.state != TrialState.COMPLETE or trial.value == pytest.approx(bench.means()[_rate(trial)])


@pytest.mark.parametrize("pruner", ["none", "median"])
def test_interrupted_search_leaves_nothing_running_and_goes_on(
    pruner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search: dict[str, Any] = {"n_trials": 4, "seeds": (0, 1), "workers": 2}
    for tick in (1, 3, 4, 8):
        bench = Bench(tmp_path / f"{tick}", monkeypatch)
        bench.interrupted_at = tick
        assert "stopped; the same command continues" in bench.sweep(f"sweep.pruner={pruner}", **search)
        assert {trial.state.name for trial in bench.draws} <= {"WAITING", "COMPLETE"}
        bench.sweep(f"sweep.pruner={pruner}", **search)
        assert [trial.state.name for trial in bench.study().trials] == ["COMPLETE"] * 4
        assert set(bench.trained.values()) == {1}
        assert {_rate(trial): trial.value for trial in bench.draws} == pytest.approx(bench.means())


def test_lost_study_is_made_anew_from_plan_and_records(bench: Bench) -> None:
    bench.sweep(n_trials=5, workers=3)
    before, trained = _outcome(bench.draws), sum(bench.trained.values())
    bench.storage = Storage()
    out = bench.sweep(n_trials=5, workers=3)
    assert "15 have a record, 0 trained now" in out
    assert _outcome(bench.draws) == before
    assert sum(bench.trained.values()) == trained


def test_lost_study_of_one_seed_is_made_anew_too(bench: Bench) -> None:
    bench.sweep(n_trials=15, workers=3, seeds=(0,))
    before = [(trial.params, trial.value) for trial in bench.draws]
    bench.storage = Storage()
    out = bench.sweep(n_trials=15, workers=3, seeds=(0,))
    assert "15 of 15 points have a record, 0 trained now" in out
    assert [(trial.params, trial.value) for trial in bench.draws] == before


def test_half_done_point_of_a_lost_study_is_gone_on_with(bench: Bench) -> None:
    bench.sweep(n_trials=4, workers=2, dies_at=55)
    done = sum(bench.trained.values())
    assert 0 < done < 12
    drawn = [_rate(trial) for trial in bench.draws]
    bench.storage = Storage()
    bench.sweep(n_trials=4, workers=2)
    assert set(bench.trained.values()) == {1}
    assert len(bench.trained) == 12
    assert [_rate(trial) for trial in bench.draws][: len(drawn)] == drawn


@pytest.mark.parametrize("before", [(0, 1, 2), (0,)])
def test_added_seed_is_trained_for_the_drawn_points_and_changes_their_means(
    bench: Bench, before: tuple[int, ...]
) -> None:
    bench.sweep(n_trials=5, seeds=before)
    rates, old = [_rate(trial) for trial in bench.draws], bench.study().study_name
    old_values = [trial.value for trial in bench.draws]
    bench.started.clear()
    out = bench.sweep(n_trials=5, seeds=(*before, 3))
    assert sorted(bench.started) == sorted((rate, 3) for rate in rates)
    assert f"5 points x {len(before) + 1} seeds = {5 * (len(before) + 1)} trainings" in out
    assert bench.study().study_name != old
    assert [_rate(trial) for trial in bench.draws] == rates
    assert {_rate(trial): trial.value for trial in bench.draws} == pytest.approx(bench.means())
    assert [trial.value for trial in bench.study(old).trials] == old_values  # what it was is still there
    out = bench.sweep(n_trials=6, seeds=(*before, 3))
    assert f"{len(before) + 1} trained now" in out  # one more point, with each seed


def test_order_of_the_seeds_makes_no_other_search(bench: Bench) -> None:
    bench.sweep(n_trials=2, seeds=(0, 1))
    assert "0 trained now" in bench.sweep(n_trials=2, seeds=(1, 0))
    assert len(bench.storage.get_all_studies()) == 1


def test_finite_space_is_drawn_whole_and_no_further(bench: Bench) -> None:
    axes: Axes = {"learning_rate.value": (1e-5, 1e-4), "training.batch_size": (16, 32)}
    out = bench.sweep(n_trials=20, axes=axes, seeds=(0, 1))
    assert "4 points x 2 seeds = 8 trainings: 8 have a record, 8 trained now" in out
    drawn = {tuple(trial.params.values()) for trial in bench.study().trials}
    assert drawn == {(rate, batch) for rate in (1e-5, 1e-4) for batch in (16, 32)}


@pytest.mark.parametrize("sampler", ["random", "qmc"])
def test_every_sampler_goes_on_after_its_study_was_lost(bench: Bench, sampler: str) -> None:
    axes: Axes = {**RATES, "training.weight_decay": Range(0.0, 0.1)}
    bench.sweep(n_trials=25, sampler=sampler, axes=axes, seeds=(0, 1), workers=4)
    bench.storage = Storage()
    out = bench.sweep(n_trials=27, sampler=sampler, axes=axes, seeds=(0, 1), workers=4)
    assert "27 points x 2 seeds = 54 trainings: 54 have a record, 4 trained now" in out


def test_dry_run_counts_points_seeds_and_trainings(bench: Bench) -> None:
    out = bench.sweep("sweep.dry_run=true", n_trials=4)
    assert "a search by tpe: 4 points of each cell" in out
    assert "4 points x 3 seeds = 12 trainings in 1 cells: 0 done, 0 failed, 12 to do" in out
    assert "learning_rate.value in [1e-5, 1e-3]; each with seed 0 1 2" in out
    bench.sweep(n_trials=4)
    out = bench.sweep("sweep.dry_run=true", n_trials=4, seeds=(0, 1, 2, 3))
    assert "4 points x 4 seeds = 16 trainings in 1 cells: 12 done, 0 failed, 4 to do" in out


# --- what the pruner sees ---------------------------------------------------------------------------------------------


def test_pruner_sees_the_mean_over_the_seeds_so_far_once_per_step(bench: Bench) -> None:
    bench.sweep(n_trials=2, workers=3)
    for trial in bench.draws:
        values = {"learning_rate.value": _rate(trial)}
        expected = {
            number * EPOCHS + epoch: fmean(lucky({**values, "seed": seed}, epoch) for seed in range(number + 1))
            for number in range(3)
            for epoch in range(1, EPOCHS + 1)
        }
        assert trial.intermediate_values == pytest.approx(expected)


def test_pruned_point_stops_all_its_seeds(bench: Bench) -> None:
    out = bench.sweep("sweep.pruner=median", n_trials=12, workers=2)
    pruned = [trial for trial in bench.draws if trial.state == TrialState.PRUNED]
    complete = [trial for trial in bench.draws if trial.state == TrialState.COMPLETE]
    assert pruned
    assert len(pruned) + len(complete) == len(bench.study().trials) == 12
    for trial in pruned:
        seeds = [number for number, identity in enumerate(trial.user_attrs["identities"]) if identity in bench.trained]
        assert seeds == list(range(len(seeds)))  # one after another
        assert len(seeds) < 3
        started = sorted(seed for rate, seed in bench.started if rate == _rate(trial))
        assert started == list(range(len(started)))
        assert len(started) <= len(seeds) + 1
    assert all(trial.value == pytest.approx(bench.means()[_rate(trial)]) for trial in complete)
    trained = sum(bench.trained.values())
    assert f"{trained} have a record, {trained} trained now, {36 - trained} pruned" in out
    before = len(bench.started)
    assert "0 trained now" in bench.sweep("sweep.pruner=median", n_trials=12)
    bench.sweep(n_trials=12)  # without a pruner, what it stopped is trained
    assert len(bench.records) == 36
    assert {rate for rate, _ in bench.started[before:]} == {_rate(trial) for trial in pruned}


def test_worker_that_dies_when_its_point_is_pruned_is_not_tried_again(bench: Bench) -> None:
    bench.dies_pruned = True
    bench.sweep("sweep.pruner=median", n_trials=12)
    trials = bench.study().trials
    assert {trial.state.name for trial in trials} == {"COMPLETE", "PRUNED"}
    assert len(trials) == 12
    assert len(bench.started) == len(set(bench.started))


def test_median_pruner_judges_by_the_mean_curve_and_not_by_a_first_lucky_seed(bench: Bench) -> None:
    """Against Optuna's own pruner on a study whose trials report the mean over both seeds directly."""
    good, poor = 0.5, 0.1

    def score(values: Mapping[str, Any], epoch: int) -> float:
        late = values["learning_rate.value"] > 1e-4 and values["training.batch_size"] == 32
        if not late:
            return good + 0.01 * epoch
        return 0.9 if values["seed"] == 0 else poor - good  # the mean: 0.25

    bench.score = score
    axes: Axes = {
        "learning_rate.value": (1e-5, 2e-4),
        "training.batch_size": (8, 16, 32),
        "training.warmup_ratio": (0.0, 0.1),
    }
    bench.sweep("sweep.pruner=median", n_trials=12, axes=axes, seeds=(0, 1), sampler="random")
    trials = bench.study().trials
    for trial in trials:
        steps = {step - EPOCHS: value for step, value in trial.intermediate_values.items() if step > EPOCHS}
        if not steps:
            continue
        earlier = [other for other in trials[: trial.number] if other.state == TrialState.COMPLETE]
        reference = create_study(direction="maximize", pruner=MedianPruner(n_startup_trials=4))
        for other in earlier:
            means = {step - EPOCHS: value for step, value in other.intermediate_values.items() if step > EPOCHS}
            reference.add_trial(create_trial(value=other.value, intermediate_values=means))
        live = create_trial(state=TrialState.RUNNING, intermediate_values=steps)
        verdict = reference.pruner.prune(reference, live)
        assert verdict == (trial.state == TrialState.PRUNED), trial
    assert "PRUNED" in {trial.state.name for trial in trials}
