"""Load a task's rows from the hub, a folder in its layout, the official download, files or the demo generator."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
from datasets import Dataset

from nxm_sweep.data.demo import generate
from nxm_sweep.data.glue import GLUE_TSV, read_glue_tsv, refuse_unsplit_mrpc
from nxm_sweep.data.hub import go_offline_unless_reachable
from nxm_sweep.data.labels import check_labels_present, find_class_names, locate_first, parse_labels
from nxm_sweep.data.tables import LONGEST_TEXT, check_columns, read_file
from nxm_sweep.errors import DataError, first_line
from nxm_sweep.formatting import format_names
from nxm_sweep.settings import DataSettings, TaskSettings

_SEED = 20211  # fixed: every method, seed and grid point holds out the same rows


@dataclass(frozen=True, slots=True)
class TaskRows:
    """A task's rows, in the same form for every source.

    Attributes:
        train: Columns ``text`` (first text), ``pair`` (second text, if the task has one) and ``label`` (class number, or a
            score for a regression).
        validation: One data set of the same columns per validation set, in the task's order.
        labels: Class names in the order of the class numbers; empty for a regression.
        layout: Source of the rows: ``hub``, ``hub folder``, ``glue download``, ``files`` or ``demo``.
        digest: SHA-256 over every row and label of train and validation, in order.
        left_out: Number of lines, known to be broken, that were left out per split; splits without any are absent.
    """

    train: Dataset
    validation: dict[str, Dataset]
    labels: tuple[str, ...]
    layout: str
    digest: str
    left_out: Mapping[str, int] = field(default_factory=dict)


def load_rows(task: TaskSettings, data: DataSettings) -> TaskRows:
    """Read a task's training and validation rows.

    Raises:
        DataError: The data set is missing or not what the task expects, with a hint on how to get it; or a row, which
            is named, is invalid.
    """
    _check_column_names(task)
    left_out: dict[str, int] = {}
    match task.kind:
        case "demo":
            layout, tables = "demo", _generate_demo_tables(task)
        case "files":
            layout = "files"
            tables = {split: read_file(Path(path), task.label_column) for split, path in task.files.items()}
        case _:
            layout, tables, left_out = _read_glue_tables(task, data)
    splits = {name: _select(tables, split, task) for name, split in _requested_splits(task).items()}
    labels = find_class_names(task, splits["train"][task.label_column])
    canonical = {name: _to_canonical(table, name, task, labels) for name, table in splits.items()}
    digest = hashlib.sha256()
    for name, rows in canonical.items():
        digest.update(json.dumps([name, [list(rows[column]) for column in rows.column_names]]).encode())
    train = canonical.pop("train")
    counts = {name: left_out.get(split, 0) for name, split in _requested_splits(task).items()}
    return TaskRows(
        train=train,
        validation=canonical,
        labels=labels,
        layout=layout,
        digest=digest.hexdigest(),
        left_out={name: count for name, count in counts.items() if count},
    )


def _requested_splits(task: TaskSettings) -> dict[str, str]:
    return {"train": task.train_split, **task.validation_splits}


def _generate_demo_tables(task: TaskSettings) -> dict[str, pd.DataFrame]:
    name = task.config or task.name
    return {split: pd.DataFrame(generate(name, split, rows)) for split, rows in task.rows.items()}


def _read_glue_tables(task: TaskSettings, data: DataSettings) -> tuple[str, dict[str, Any], dict[str, int]]:
    """Return the layout, the table of each split, and the number of broken lines left out of it."""
    config = task.config or ""
    folder = Path(data.path).expanduser()
    if folder.is_dir():
        layout = GLUE_TSV.get(config)
        if config == "mrpc":
            refuse_unsplit_mrpc(folder)
        if layout is not None and (folder / layout.folder).is_dir():
            files = {split: read_glue_tsv(folder / layout.folder / file, layout) for split, file in layout.files}
            left_out = {split: file.left_out for split, file in files.items()}
            return "glue download", {split: file.rows for split, file in files.items()}, left_out
        if (folder / config).is_dir():
            return "hub folder", load_hub(str(folder), config, None), {}
        raise DataError(
            f"{folder} holds neither {config}/ (the hub's layout) nor {layout.folder if layout else config}/ (the official "
            "GLUE download)",
            hint="point data.path, or NXM_GLUE, at the folder that holds the task's own folder",
        )
    if data.path.startswith((".", "/", "~")) or data.path.count("/") != 1:
        raise DataError(
            f"there is no folder {data.path}", hint="data.path takes a folder or a hub id like nyu-mll/glue"
        )
    return "hub", load_hub(data.path, config, data.revision), {}


def load_hub(path: str, config: str, revision: str | None) -> dict[str, Any]:
    """Return every split of a configuration of a hub data set, or of a folder in its layout.

    Raises:
        DataError: The data set cannot be loaded.
    """
    local = Path(path).is_dir()
    reachable = local or go_offline_unless_reachable()
    try:
        return dict(datasets.load_dataset(path, config, revision=revision))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        if local or reachable:
            reason = first_line(error)
            raise DataError(f"the data set {path} ({config}) cannot be loaded: {reason}") from error
        raise DataError(
            f"the data set {path} ({config}) is not on this machine and the hub cannot be reached",
            hint=f"where there is a network, run `hf download {path} --repo-type dataset --local-dir glue`, copy the folder "
            "here and set data.path=glue; the official GLUE download works too",
        ) from error


def _check_column_names(task: TaskSettings) -> None:
    names = [*task.text_columns, task.label_column]
    for name in names:
        if names.count(name) > 1:
            keys = (
                "task.text_columns and task.label_column both name"
                if name == names[-1]
                else "task.text_columns names twice"
            )
            raise DataError(f"{keys} the column {name!r}", hint="a text is no label, and two texts are two columns")


def _select(tables: dict[str, Any], split: str, task: TaskSettings) -> pd.DataFrame:
    if split not in tables:
        raise DataError(f"{task.name} has no split {split!r} but {format_names(tables)}")
    table, wanted = tables[split], [*task.text_columns, task.label_column]
    is_dataset = isinstance(table, Dataset)
    present = table.column_names if is_dataset else list(table.columns)
    check_columns(present, wanted, f"the split {split!r} of {task.name}", "set task.text_columns and task.label_column")
    table = table.select_columns(wanted).to_pandas() if is_dataset else table[wanted]
    if len(table) == 0:
        raise DataError(f"the split {split!r} of {task.name} has no rows")
    check_labels_present(table[task.label_column], split, task)
    return pd.DataFrame(table)


def _check_texts(texts: pd.Series[Any], where: str, split: str, task: TaskSettings) -> None:
    """Raise unless every value is a text that can be used. GLUE itself has rows without one."""
    problems: list[tuple[str, str, Callable[[Any], bool]]] = [
        ("values that are not text", "", lambda value: not isinstance(value, str)),
        (f"a text of more than {LONGEST_TEXT:,} characters", "cut it", lambda value: len(value) > LONGEST_TEXT),
    ]
    if task.kind == "files":
        problems.append(
            ("rows without text", "remove them, or write what it stands for", lambda value: not value.strip())
        )
    for problem, hint, holds in problems:
        wrong = texts.map(holds).astype(bool)
        if bool(wrong.any()):
            raise DataError(f"{where} holds {problem}: {locate_first(wrong, split, task)}", hint=hint)


def _to_canonical(table: pd.DataFrame, name: str, task: TaskSettings, labels: tuple[str, ...]) -> Dataset:
    """Return validated columns in the form of :class:`TaskRows`; ``name`` is a key of :func:`_requested_splits`."""
    split = _requested_splits(task)[name]
    texts = {text: table[column] for text, column in zip(("text", "pair"), task.text_columns, strict=False)}
    for text, column in zip(texts, task.text_columns, strict=True):
        _check_texts(texts[text], f"column {column!r} of the split {name!r} of {task.name}", split, task)
    label = parse_labels(table[task.label_column], name, split, task, labels)
    dtype = "float32" if task.problem == "regression" else "int64"
    features = {text: datasets.Value("string") for text in texts} | {"label": datasets.Value(dtype)}
    columns: dict[str, list[Any]] = {text: values.tolist() for text, values in texts.items()}
    return Dataset.from_dict({**columns, "label": label}, features=datasets.Features(features))


def heldout_rows(rows: int, fraction: float) -> tuple[list[int], list[int]]:
    """Return the numbers of the rows to train on and of those to hold out, both ascending.

    They depend only on the number of rows and the fraction.

    Args:
        rows: Size of the training set, at least 2.
        fraction: Share to hold out, in (0, 1); at least one row, and at least one stays.

    Raises:
        DataError: There are fewer than two rows.
    """
    if rows < 2:
        raise DataError(f"a training set of {rows} rows has none to hold out", hint="selection=dev")
    count = min(rows - 1, max(1, round(rows * fraction)))
    order = np.random.default_rng(_SEED).permutation(rows)
    return sorted(order[count:].tolist()), sorted(order[:count].tolist())


def limit_rows(numbers: Sequence[int], limit: int | None, subset: str) -> Sequence[int]:
    """Return at most ``limit`` of the rows, in their order.

    Args:
        numbers: Numbers of the rows.
        limit: Number of rows to keep; None keeps all.
        subset: ``first`` keeps the first; ``shuffled`` the first of a fixed shuffle, so that the rows of a file that is
            sorted (CoLA by source, STS-B by genre) are all represented. A smaller subset is part of a larger one.
    """
    if subset == "first" or limit is None or limit >= len(numbers):
        return numbers[:limit]
    order = np.random.default_rng(_SEED).permutation(len(numbers))
    return [numbers[index] for index in sorted(order[:limit].tolist())]
