"""Searches that are no grid: an Optuna sampler asks for points, and a pruner stops trials early."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, CmaEsSampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import Trial, TrialState

from nxm_sweep.errors import ConfigError
from nxm_sweep.settings import SweepSettings
from nxm_sweep.sweep.cell import Point, Range, canonical
from nxm_sweep.sweep.study import CellStudy, distribution

_COUNTED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


class Search:
    """One cell's search, and its pruner; of a grid, the pruner alone.

    Args:
        study: The cell's study.
        settings: Sampler, pruner and number of trials.
    """

    def __init__(self, study: CellStudy, settings: SweepSettings) -> None:
        self.study = study
        self._wanted = None if settings.sampler == "grid" else settings.n_trials
        epochs = study.cell.settings.training.epochs
        seed = study.storage.get_n_trials(study.study_id)  # a resumed search goes on, not over
        self._optuna = optuna.load_study(
            study_name=study.cell.study_name,
            storage=study.storage,
            sampler=_sampler(settings.sampler, seed),
            pruner=_pruner(settings.pruner, epochs),
        )

    @property
    def wants_more(self) -> bool:
        """Whether the search asks for another point."""
        if self._wanted is None:
            return False
        return self.study.storage.get_n_trials(self.study.study_id, _COUNTED) < self._wanted

    def ask(self) -> tuple[int, Point]:
        """Return the number of a new running trial in the storage, and its point."""
        cell = self.study.cell
        trial = self._optuna.ask({key: distribution(cell, key) for key in cell.axes})
        point = cell.point({key: canonical(trial.params[key]) for key in cell.axes})
        trial.set_user_attr("identity", point.identity)
        return trial._trial_id, point  # noqa: SLF001 - what every method of a storage takes

    def should_prune(self, trial: int) -> bool:
        """Return whether a running trial is not worth its time."""
        return Trial(self._optuna, trial).should_prune()


def check_search(settings: SweepSettings, axes: dict[str, Any]) -> None:
    """Check that a search has what it needs.

    Raises:
        ConfigError: No number of trials, or a sampler that takes ranges got lists alone.
    """
    if settings.sampler == "grid":
        if settings.n_trials is not None:
            raise ConfigError(
                f"sweep.n_trials is {settings.n_trials}, but a grid trains all its points",
                hint="sweep.sampler=random (tpe, qmc, cmaes) searches with so many trials",
            )
        return
    if settings.n_trials is None:
        raise ConfigError(
            f"sweep.sampler={settings.sampler} needs sweep.n_trials", hint="for instance sweep.n_trials=20"
        )
    if settings.sampler in {"cmaes", "qmc"} and not any(isinstance(values, Range) for values in axes.values()):
        raise ConfigError(
            f"sweep.sampler={settings.sampler} searches ranges but every axis is a list",
            hint="for instance learning_rate.value='tag(log, interval(1e-5, 1e-4))'",
        )


def _sampler(name: str, seed: int) -> BaseSampler:
    match name:
        case "tpe":
            return TPESampler(seed=seed, constant_liar=True)  # running trials count as poor, so that workers spread
        case "qmc":
            return QMCSampler(seed=0, warn_independent_sampling=False)
        case "cmaes":
            return CmaEsSampler(seed=seed, warn_independent_sampling=False)
        case _:
            return RandomSampler(seed=seed)


def _pruner(name: str, epochs: int) -> BasePruner:
    match name:
        case "median":
            return MedianPruner(n_startup_trials=4)
        case "halving":
            return SuccessiveHalvingPruner(min_resource=1)
        case "hyperband":
            return HyperbandPruner(min_resource=1, max_resource=epochs)
        case _:
            return NopPruner()
