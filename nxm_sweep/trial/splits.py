"""References for a score from the rows: a constant answer's score, and validation rows that are training rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from nxm_sweep.data.loading import TaskRows, limit_rows
from nxm_sweep.data.tokenization import training_rows
from nxm_sweep.settings import TrialSettings
from nxm_sweep.training.metrics import check_metrics, score_constant

_LEAK = 0.5  # above this share of duplicates, a score measures memory more than generalisation
_BATCH = 10_000  # rows read at once


def describe_splits(rows: TaskRows, settings: TrialSettings) -> dict[str, Any]:
    """Return the constant answer's scores and the duplicates per validation set, for the rows that a trial uses.

    Args:
        rows: All rows of the task.
        settings: Which of them are used, and the task's metrics.

    Returns:
        Values for JSON: ``constant`` from :func:`score_constant` per validation set, and ``duplicates`` from
        :func:`count_duplicates`.
    """
    fraction = settings.selection.fraction if settings.selection.name == "heldout" else None
    training = settings.training
    used = training_rows(len(rows.train), training.max_train_samples, fraction, training.subset)
    sets = {
        name: part.select(limit_rows(range(len(part)), training.max_eval_samples, training.subset))
        for name, part in rows.validation.items()
    }
    train_labels = np.asarray(rows.train["label"][:])[list(used)]
    constant = {
        name: score_constant(
            settings.task.metrics,
            train_labels,
            np.asarray(part["label"][:]),
            classes=len(rows.labels),
            positive=rows.positive,
        )
        for name, part in sets.items()
    }
    return {"constant": constant, "duplicates": count_duplicates(rows.train, used, sets)}


def check_used_metrics(settings: TrialSettings, rows: TaskRows) -> None:
    """Refuse metrics that cannot score the validation rows that are used.

    Raises:
        DataError: As :func:`~nxm_sweep.training.metrics.check_metrics`.
    """
    for name, part in rows.validation.items():
        kept = limit_rows(range(len(part)), settings.training.max_eval_samples, settings.training.subset)
        labels = np.asarray(part["label"][:])[list(kept)]
        check_metrics(
            settings.task.metrics, labels, classes=len(rows.labels), where=f"the split {name} of {settings.task.name}"
        )


def count_duplicates(train: Dataset, used: Sequence[int], sets: Mapping[str, Dataset]) -> dict[str, dict[str, int]]:
    """Count the rows of each validation set whose texts equal those of a training row, character for character.

    Args:
        train: Columns ``text``, ``pair`` if the task has one, and ``label``. Read once, in order; only rows of the
            validation sets are kept in memory.
        used: Indices of the rows that are trained on.
        sets: Validation sets with the same columns.

    Returns:
        Per set ``rows``, the number of duplicates, and ``same_label``, the number that also have the label of a
        training row that they repeat.
    """
    validation = {name: list(_texts_and_labels(part)) for name, part in sets.items()}
    trained: dict[tuple[str, ...], set[float]] = {texts: set() for part in validation.values() for texts, _ in part}
    mask = np.zeros(len(train), dtype=bool)
    mask[list(used)] = True
    for texts, label in itertools.compress(_texts_and_labels(train), mask):
        if texts in trained:
            trained[texts].add(label)
    return {
        name: {
            "rows": sum(bool(trained[texts]) for texts, _ in part),
            "same_label": sum(label in trained[texts] for texts, label in part),
        }
        for name, part in validation.items()
    }


def warn_of_duplicates(duplicates: Mapping[str, Mapping[str, int]], sizes: Mapping[str, int]) -> str:
    """Return one line naming each validation set with duplicates; empty if there is none.

    Args:
        duplicates: As :func:`count_duplicates` returns them.
        sizes: Number of rows of each validation set.
    """
    shares = {name: count["rows"] / sizes[name] for name, count in duplicates.items() if count["rows"]}
    if not shares:
        return ""
    counts = [
        f"{duplicates[name]['rows']:,} of the {sizes[name]:,} rows of {name} ({share:.1%})"
        for name, share in shares.items()
    ]
    line = f"{' and '.join(counts)} are training rows too"
    if max(shares.values()) > _LEAK:
        return f"DATA LEAK: {line}: the score measures memory, not generalization"
    return line


def _texts_and_labels(part: Dataset) -> Iterator[tuple[tuple[str, ...], float]]:
    names = [name for name in ("text", "pair") if name in part.column_names]
    for start in range(0, len(part), _BATCH):
        batch = part[start : start + _BATCH]
        yield from zip(zip(*(batch[name] for name in names), strict=True), batch["label"], strict=True)
