"""A search with several seeds, as real processes on a real storage: killed, shared, and with a seed more."""

from __future__ import annotations

import signal
from collections.abc import Callable
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.faults.conftest import Folder

SEARCH = (
    "learning_rate.value=tag(log,interval(1e-5,1e-3))",
    "training.batch_size=16,32",
    "training.epochs=2",
    "sweep.sampler=tpe",
    "sweep.n_trials=4",
)
SEEDS = "seed=0,1,2"
Until = Callable[[Callable[[], Any], str], None]
States = Callable[[Any], dict[str, int]]


def _draw(record: dict[str, Any]) -> tuple[float, int]:
    return record["config"]["learning_rate"]["value"], record["config"]["training"]["batch_size"]


def _means(folder: Folder) -> dict[tuple[float, int], float]:
    scores: dict[tuple[float, int], list[float]] = {}
    for record in folder.records.values():
        scores.setdefault(_draw(record), []).append(record["best"]["value"])
    return {draw: fmean(values) for draw, values in scores.items()}


def _told(trials: Any) -> dict[tuple[float, int], float]:
    return {
        (round(trial.params["learning_rate.value"], 18), trial.params["training.batch_size"]): trial.value
        for trial in trials
        if trial.state.name == "COMPLETE"
    }


@pytest.mark.fault("process", "a search over several seeds killed", "It ends with the points of an undisturbed one.")
@pytest.mark.slow
def test_killed_search_ends_with_the_points_of_an_undisturbed_one_and_a_seed_more_is_trained_alone(
    folder: Folder, module_folder: Folder, until: Until, states: States
) -> None:
    undisturbed = module_folder.run(*SEARCH, SEEDS, "sweep.workers=1")
    assert undisturbed.code == 0, undisturbed.err
    sweeping = folder.start(*SEARCH, SEEDS, "sweep.workers=1", seconds=0.3)
    until(lambda: len(folder.records) == 5, "five records")  # of the second point, two
    workers = sweeping.family()
    sweeping.send(signal.SIGKILL)
    until(lambda: not workers.living, "the workers die with their coordinator")
    again = folder.run(*SEARCH, SEEDS, "sweep.workers=1")
    assert again.code == 0, again.err
    assert "4 points x 3 seeds = 12 trainings: 12 have a record, 7 trained now" in again.out
    assert folder.trainings("end") == dict.fromkeys(module_folder.records, 1)
    assert again.table == undisturbed.table
    trials = folder.trials()
    assert states(trials) == {"COMPLETE": 4}
    assert sorted(_told(trials).values()) == sorted(_means(folder).values())
    assert [trial.params for trial in trials] == [trial.params for trial in module_folder.trials()]

    more = folder.run(*SEARCH, f"{SEEDS},3", "sweep.workers=2")
    assert more.code == 0, more.err
    assert "4 points x 4 seeds = 16 trainings: 16 have a record, 4 trained now" in more.out
    assert set(folder.trainings("end").values()) == {1}
    new = [record for identity, record in folder.records.items() if identity not in module_folder.records]
    assert sorted((_draw(record), record["config"]["seed"]) for record in new) == sorted(
        (draw, 3) for draw in _means(folder)
    )
    best = max(_means(folder).values())
    assert f"{100 * best:.2f}" in next(line for line in more.table if "mean over 4 seeds" in line)


@pytest.mark.fault(
    "process", "two coordinators on one search", "They share its points and seeds; each is trained once."
)
def test_two_coordinators_share_a_search_and_its_seeds(folder: Folder, states: States) -> None:
    both = [folder.start(*SEARCH, SEEDS, "sweep.workers=2", seconds=0.2) for _ in range(2)]
    ended = [sweeping.wait() for sweeping in both]
    assert [one.code for one in ended] == [0, 0], [one.out + one.err for one in ended]
    assert len(folder.records) == 12
    assert folder.trainings("start") == folder.trainings("end") == dict.fromkeys(folder.records, 1)
    trials = folder.trials()
    assert states(trials) == {"COMPLETE": 4}
    assert sorted(_told(trials).values()) == sorted(_means(folder).values())
    assert ended[0].table == ended[1].table
