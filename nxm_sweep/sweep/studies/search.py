"""Optuna searches: a sampler draws points, and a pruner stops trials early."""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from filelock import FileLock
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, QMCSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nxm_sweep.settings import SweepSettings
from nxm_sweep.sweep.planning.axes import canonical
from nxm_sweep.sweep.planning.cell import Point
from nxm_sweep.sweep.studies.seed_means import SeedMeanStudy
from nxm_sweep.sweep.studies.study import CellStudy, distribution, identity_attribute, identity_in

_DRAWS = 20
"""Draws of a sampler before a new point is taken from the list of all points, if there is one."""


class Search:
    """One cell's search and its pruner; for a grid, only the pruner.

    A trial's draw is seeded by its number, so that a resumed or shared search continues instead of starting over. If
    seeds are repeats, it is seeded by the number of points drawn before, which ignores trials that a dead coordinator
    left without a point.

    Args:
        study: The cell's study.
        settings: Sampler, pruner and number of trials.
        lock: Held while asking and claiming, so that coordinators can share one search.
    """

    def __init__(self, study: CellStudy, settings: SweepSettings, lock: FileLock) -> None:
        self.study, self.lock = study, lock
        self._settings = settings
        self._pruner = _make_pruner(settings.pruner, _count_steps(study))
        self._known: set[str] = set()
        self._is_exhausted = False

    @property
    def wants_more(self) -> bool:
        """Whether the search wants another point."""
        return self._wanted > 0 and not self._is_exhausted and len(self._read_asked()) < self._wanted

    def ask(self) -> tuple[int, Point] | None:
        """Return the number of a new running trial in the storage, and its point; None if no more are wanted.

        If seeds are repeats, the point has the first seed. The caller holds the lock until it has claimed the point.
        """
        asked = self._read_asked()
        if len(asked) >= self._wanted:
            return None
        storage, cell = self.study.storage, self.study.cell
        trial = storage.create_new_trial(self.study.study_id)
        point = self._draw(storage.get_trial(trial), set(asked))
        if point is None:
            self._is_exhausted = True
            self.study.mark_failed(trial)
            return None
        for key in cell.drawn_keys:
            axis = distribution(cell, key)
            storage.set_trial_param(trial, key, axis.to_internal_repr(point.values[key]), axis)
        for name, identity in identity_attribute(point).items():  # last: a trial with one is complete
            storage.set_trial_user_attr(trial, name, identity)
        self._known.add(point.identity)
        return trial, point

    def adopt(self) -> list[Point]:
        """Return the trainings of the points that this search has asked for before or elsewhere, each once."""
        if self._wanted == 0:
            return []
        cell = self.study.cell
        trainings = []
        for identity, values in self._read_asked().items():
            if identity not in self._known and set(values) == set(cell.drawn_keys):
                self._known.add(identity)
                trainings += cell.repeats(self._make_point(values))
        return trainings

    def should_prune(self, trial: int, step: int) -> bool:
        """Return whether to stop a trial at a step that it has just reached."""
        frozen = self.study.storage.get_trial(trial)
        if frozen.state == TrialState.PRUNED:  # by another coordinator
            return True
        return self._pruner.prune(self._load("random"), self.study.judged_part(frozen, step))

    @property
    def _wanted(self) -> int:
        wanted = 0 if self._settings.sampler == "grid" else self._settings.n_trials or 0
        return wanted if wanted == 0 or self.study.cell.space is None else min(wanted, len(self.study.cell.space))

    def _read_asked(self) -> dict[str, dict[str, Any]]:
        """Return the values of all points by identity; failed ones count, or a search of failures would not end."""
        trials = self.study.storage.get_all_trials(self.study.study_id, deepcopy=False)
        return {identity_in(trial): trial.params for trial in trials if identity_in(trial)}

    def _draw(self, trial: FrozenTrial, asked: set[str]) -> Point | None:
        """Draw a point that has not been asked for; None if none is found."""
        cell = self.study.cell
        seed = len(asked) if cell.seeds else trial.number
        study = self._load(self._settings.sampler, seed)
        axes = {key: distribution(cell, key) for key in cell.drawn_keys}
        draws = _DRAWS + (len(asked) if cell.space is None else 0)  # a rebuilt study restarts its sequence
        for _ in range(draws):
            point = self._make_point(_sample(study, trial, axes))
            if point.identity not in asked and not cell.excludes(point.values):
                return point
        left = [point for identity, point in (cell.space or {}).items() if identity not in asked]
        return random.Random(seed).choice(left) if left else None  # noqa: S311 - no secret

    def _make_point(self, values: Mapping[str, Any]) -> Point:
        cell = self.study.cell
        first = {"seed": cell.seeds[0]} if cell.seeds else {}
        drawn = {**values, **first}
        return cell.point({key: canonical(drawn[key]) for key in cell.axes})

    def _load(self, sampler: str, seed: int = 0) -> Study:
        """Load the study again: Optuna caches its trials between draws."""
        return optuna.load_study(
            study_name=self.study.cell.study_name,
            storage=self.study.storage,
            sampler=_make_sampler(sampler, seed),
            pruner=self._pruner,
        )


def _sample(study: Study, trial: FrozenTrial, axes: dict[str, BaseDistribution]) -> dict[str, Any]:
    """Draw a value for every axis: jointly if the sampler does so, else independently."""
    sampler = study.sampler
    sampler.before_trial(study, trial)
    together = {key: axis for key, axis in axes.items() if not axis.single() and isinstance(sampler, QMCSampler)}
    values = sampler.sample_relative(study, trial, together)
    return {
        key: values[key] if key in values else sampler.sample_independent(study, trial, key, axis)
        for key, axis in axes.items()
    }


def _make_sampler(name: str, seed: int) -> BaseSampler:
    match name:
        case "tpe":
            return TPESampler(seed=seed, constant_liar=True)  # running trials count as poor, so that workers spread
        case "qmc":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                return QMCSampler(seed=0, warn_independent_sampling=False)
        case _:
            return RandomSampler(seed=seed)


def _count_steps(study: CellStudy) -> int:
    """Return the number of steps of a trial that a pruner sees."""
    if isinstance(study, SeedMeanStudy):
        return study.epochs_per_seed * len(study.cell.seeds)
    return study.cell.settings.training.epochs


def _make_pruner(name: str, epochs: int) -> BasePruner:
    match name:
        case "median":
            return MedianPruner(n_startup_trials=4)
        case "halving":
            return SuccessiveHalvingPruner(min_resource=1)
        case "hyperband":
            return HyperbandPruner(min_resource=1, max_resource=epochs)
        case _:
            return NopPruner()
