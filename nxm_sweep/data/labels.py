"""The labels of a task's rows: class names and numbers, or the scores of a regression."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from nxm_sweep.data.tables import LINE
from nxm_sweep.errors import DataError
from nxm_sweep.formatting import format_names
from nxm_sweep.settings import TaskSettings

_INTEGER = re.compile(r"-?\d+")
_DECIMAL = re.compile(r"[+-]?\d*\.\d+(e[+-]?\d+)?", re.IGNORECASE)
_SUSPICIOUS = 10
"""Classes; fewer may well have one row each in a small example."""


def check_labels_present(label: pd.Series[Any], split: str, task: TaskSettings) -> None:
    """Raise unless every row has one label.

    Args:
        label: The column of the labels.
        split: The split's name in the source.
        task: The task.

    Raises:
        DataError: A row, which is named, has no label or several.
    """
    where = f"column {task.label_column!r} of the split {split!r} of {task.name}"
    several = label.map(lambda value: isinstance(value, list | tuple | dict | set | np.ndarray)).astype(bool)
    if bool(several.any()):
        raise DataError(
            f"{where} holds lists, so that a row has several labels: {locate_first(several, split, task)}",
            hint="multi-label tasks are not supported: give each row one label",
        )
    missing = label.isna() | label.map(lambda value: isinstance(value, str) and not value.strip()).astype(bool)
    if bool(missing.any()):
        raise DataError(
            f"{where} has a row without a label: {locate_first(missing, split, task)}",
            hint="remove the row, or take a split that has labels",
        )


def locate_first(wrong: pd.Series[Any], split: str, task: TaskSettings) -> str:
    """Describe the position of the first row marked in ``wrong``, and the number of further ones."""
    first = wrong.index[int(np.argmax(wrong.to_numpy()))]
    number = f"line {first}" if wrong.index.name == LINE else f"row {first} (from 0)"
    count, file = int(wrong.sum()), task.files.get(split) if task.kind == "files" else None
    return (f"{file}, " if file else "") + number + (f" and {count - 1:,} more" if count > 1 else "")


def name_classes(column: pd.Series[Any], published: Sequence[str], task: TaskSettings) -> pd.Series[Any]:
    """Return the labels of a data set of the hub by name; a number without a name, such as -1, becomes None.

    Args:
        column: The labels as published: numbers, names, or scores.
        published: The names that the data set gives to its numbers, if any.
        task: The task; its classes name integers that nothing else names.
    """
    names = list(published)
    if not names and task.problem == "classification" and pd.api.types.is_integer_dtype(column):
        names = [] if all(map(_INTEGER.fullmatch, task.labels)) else list(task.labels)
    if not names:
        return column
    return column.map(lambda number: names[number] if 0 <= number < len(names) else None).astype(object)


def find_class_names(task: TaskSettings, column: pd.Series[Any], published: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the classes in the order of their numbers; empty for a regression.

    Args:
        task: The task. If it names no classes, they are those published, or else the distinct labels, sorted.
        column: Labels of the training rows.
        published: Classes that the source names.

    Raises:
        DataError: The labels do not look like classes.
    """
    if task.problem == "regression":
        return ()
    named = [*task.labels] or [*published]
    names = named or sorted({str(value) for value in column})
    if not named and all(map(_INTEGER.fullmatch, names)):
        names.sort(key=int)
    where = f"column {task.label_column!r} of {task.name}"
    if len(names) < 2:
        raise DataError(
            f"{where} holds the class {reprlib.repr(names[0])} alone",
            hint="a classification takes at least two classes",
        )
    if not named:
        _check_distinct(names, where, len(column))
    if "f1" in task.metrics and len(names) > 2:
        raise DataError(
            f"f1 takes two classes but {task.name} has {len(names)}",
            hint="task.metrics=[f1_macro] is the mean of F1 over the classes",
        )
    return tuple(names)


def number_of_positive(task: TaskSettings, labels: Sequence[str]) -> int:
    """Return the number of the positive class, for metrics of two classes: the second one unless the task names another.

    Raises:
        DataError: The named class does not exist, or there are more than two.
    """
    if task.positive_class is None:
        return 1
    if len(labels) != 2:
        raise DataError(
            f"task.positive_class is for two classes but {task.name} has {len(labels)}",
            hint="f1_macro, and scorers such as precision_macro, take any number",
        )
    if task.positive_class not in labels:
        raise DataError(f"task.positive_class={task.positive_class} is no class of {task.name}: {format_names(labels)}")
    return labels.index(task.positive_class)


def _check_distinct(names: Sequence[str], where: str, rows: int) -> None:
    """Raise if labels found in the rows do not look like classes."""
    spaced: dict[str, str] = {}
    for name in names:
        other = spaced.setdefault(" ".join(name.split()), name)
        if other != name:
            raise DataError(
                f"{where} holds the classes {other!r} and {name!r}, which differ in spaces only",
                hint="remove the spaces, or list the classes in task.labels",
            )
    decimals = [name for name in names if _DECIMAL.fullmatch(name) and not float(name).is_integer()]
    if decimals and all(_DECIMAL.fullmatch(name) or _INTEGER.fullmatch(name) for name in names):
        raise DataError(
            f"{where} holds {len(names):,} numbers with decimals, such as {decimals[0]}, and a classification would take each "
            "for a class of its own",
            hint="task.problem=regression task.metrics=[pearson,spearman] predicts the number; task.labels lists classes",
        )
    if len(names) > max(_SUSPICIOUS, rows / 2):
        raise DataError(
            f"{where} holds {len(names):,} classes in {rows:,} rows, so that most have a single row to learn from",
            hint="task.label_column names the labels; task.problem=regression predicts numbers; task.labels lists classes",
        )


def parse_labels(
    column: pd.Series[Any], name: str, split: str, task: TaskSettings, labels: Sequence[str]
) -> list[int] | list[float]:
    """Return class numbers, or the scores of a regression.

    Args:
        column: The labels as read.
        name: The split's name in messages.
        split: The split's name in the source.
        task: The task.
        labels: The classes.

    Raises:
        DataError: A label, which is named, is no class or no number, or the split cannot be scored.
    """
    where = f"column {task.label_column!r} of the split {name!r} of {task.name}"
    if task.problem == "regression":
        return _parse_scores(column, where, split, task)
    if task.kind in ("files", "hub"):
        numbered = column.map(str).map({label: number for number, label in enumerate(labels)})
        if bool(numbered.isna().any()):
            strange = str(column[numbered.isna()].iloc[0])
            raise DataError(
                f"{where} holds the class {reprlib.repr(strange)}, which is not among {format_names(labels)}: "
                f"{locate_first(numbered.isna(), split, task)}",
                hint="remove the spaces around it" if strange.strip() in labels else "",
            )
        return [int(value) for value in numbered]
    wrong = ~column.isin(range(len(labels)))
    if bool(wrong.any()):
        raise DataError(
            f"{where} holds classes other than 0 to {len(labels) - 1}: {locate_first(wrong, split, task)}",
            hint="a split without labels cannot be scored",
        )
    return [int(value) for value in column]


def _parse_scores(column: pd.Series[Any], where: str, split: str, task: TaskSettings) -> list[float]:
    """Return the labels of a regression, which are finite and not all equal."""
    numbers = pd.to_numeric(column, errors="coerce")
    wrong = ~np.isfinite(numbers)
    if bool(wrong.any()):
        raise DataError(
            f"{where} holds a label that is not a number: {locate_first(wrong, split, task)}",
            hint="task.problem=classification takes classes",
        )
    if split != task.train_split and bool((numbers == numbers.iloc[0]).all()):
        raise DataError(
            f"{where} holds the same number in every row, so no correlation exists",
            hint="a split without labels cannot be scored",
        )
    return [float(value) for value in numbers]
