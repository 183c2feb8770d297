"""Optuna only: one study in a journal file, and two joblib processes that ask it for trials."""

from __future__ import annotations

import json
import sys
from typing import Any

import joblib
import optuna
from points import grid, train


def work(journal: str, trials: int, values: dict[str, Any], results: str) -> None:
    """Train trials of the study."""
    points = grid(2 * trials)

    def objective(trial: optuna.Trial) -> float:
        return train(values, *points[trial.number], results)  # two processes may both take an enqueued trial

    optuna.load_study(study_name="bench", storage=_open(journal)).optimize(objective, n_trials=trials)


def _open(journal: str) -> optuna.storages.JournalStorage:
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(journal))


def main() -> None:
    values, count, results = json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    journal = f"{results}/journal"
    optuna.create_study(study_name="bench", storage=_open(journal), direction="maximize")
    joblib.Parallel(n_jobs=2)(joblib.delayed(work)(journal, count // 2, values, results) for _ in range(2))


if __name__ == "__main__":
    main()
