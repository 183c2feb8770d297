"""Load a task's rows from the hub, a folder in its layout, the official download, files or the demo generator."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import numpy as np
import pandas as pd
from datasets import Dataset

from nxm_sweep.data.demo import generate
from nxm_sweep.data.glue import GLUE_TSV, read_glue_tsv, refuse_unsplit_mrpc
from nxm_sweep.data.hub import go_offline_unless_reachable
from nxm_sweep.data.labels import (
    check_labels_present,
    find_class_names,
    locate_first,
    name_classes,
    number_of_positive,
    parse_labels,
)
from nxm_sweep.data.tables import LONGEST_TEXT, check_columns, join_columns, parts_of, read_file
from nxm_sweep.errors import DataError, first_line
from nxm_sweep.formatting import format_names
from nxm_sweep.settings import DataSettings, TaskSettings

_SEED = 20211  # fixed: every method, seed and grid point holds out the same rows
_SLICE = 10  # one of so many training rows validates where there are no validation rows


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
        split_off: Validation sets that are a slice of the source's training rows, which ``train`` lacks.
        positive: Number of the positive class, for metrics of two classes.
    """

    train: Dataset
    validation: dict[str, Dataset]
    labels: tuple[str, ...]
    layout: str
    digest: str
    left_out: Mapping[str, int] = field(default_factory=dict)
    split_off: tuple[str, ...] = ()
    positive: int = 1


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
            tables = {split: read_file(Path(path), task.label_column) for split, path in task.files.items() if path}
        case "hub":
            layout, tables = _read_hub_tables(task, data)
        case _:
            layout, tables, left_out = _read_glue_tables(task, data)
    requested = _requested_splits(task)
    splits = {name: _select(tables, split, task) for name, split in requested.items() if split is not None}
    labels = find_class_names(task, splits["train"][task.label_column], _published_classes(tables, task))
    positive = number_of_positive(task, labels)
    for name in task.split_off:
        kept, taken = stratified_slice(splits["train"][task.label_column], task)
        splits[name], splits["train"] = splits["train"].iloc[taken], splits["train"].iloc[kept]
    canonical = {name: _to_canonical(splits[name], name, task, labels) for name in requested}
    digest = hashlib.sha256()
    for name, rows in canonical.items():
        digest.update(json.dumps([name, [list(rows[column]) for column in rows.column_names]]).encode())
    train = canonical.pop("train")
    counts = {name: left_out.get(split or "", 0) for name, split in requested.items()}
    return TaskRows(
        train=train,
        validation=canonical,
        labels=labels,
        layout=layout,
        digest=digest.hexdigest(),
        left_out={name: count for name, count in counts.items() if count},
        split_off=tuple(task.split_off),
        positive=positive,
    )


def _requested_splits(task: TaskSettings) -> dict[str, str | None]:
    """Return the split of each set; None where it is a slice of the training rows."""
    return {"train": task.train_split, **task.validation_splits, **dict.fromkeys(task.split_off)}


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


def _read_hub_tables(task: TaskSettings, data: DataSettings) -> tuple[str, dict[str, Any]]:
    """Return the layout and the table of each split of any data set of the hub, or of a folder."""
    folder = Path(data.path).expanduser()
    if folder.is_dir():
        return "hub folder", load_hub(str(folder), task.config, None)
    if data.path.startswith((".", "/", "~")) or data.path.count("/") != 1:
        raise DataError(f"there is no folder {data.path}", hint="data.path takes a folder or a hub id, OWNER/NAME")
    return "hub", load_hub(data.path, task.config, data.revision)


def load_hub(path: str, config: str | None, revision: str | None) -> dict[str, Any]:
    """Return every split of a configuration of a hub data set, of a folder in its layout, or as ``save_to_disk`` writes it.

    Raises:
        DataError: The data set cannot be loaded.
    """
    local = Path(path).is_dir()
    reachable = local or go_offline_unless_reachable()
    name = f"{path} ({config})" if config else path
    try:
        return _load_folder(path, config) if local else dict(datasets.load_dataset(path, config, revision=revision))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        if local or reachable:
            reason = first_line(error)
            hint = "task.config names one of its configurations" if "onfig" in str(error) else ""
            raise DataError(f"the data set {name} cannot be loaded: {reason}", hint=hint) from error
        folder = path.rpartition("/")[2]
        raise DataError(
            f"the data set {name} is not on this machine and the hub cannot be reached",
            hint=f"where there is a network, run `hf download {path} --repo-type dataset --local-dir {folder}`, copy the "
            f"folder here and set data.path={folder}; for GLUE, its official download works too",
        ) from error


def _load_folder(path: str, config: str | None) -> dict[str, Any]:
    """Read a folder past the cache of the Datasets library, which knows a folder by its name and the names of its files.

    From it would come the rows of another folder of the same name, or of files that have changed since.
    """
    if config is None and (Path(path) / "dataset_dict.json").is_file():
        return dict(datasets.load_from_disk(path, keep_in_memory=True))
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="nxm_sweep_", dir=cache) as own:
        return dict(datasets.load_dataset(path, config, cache_dir=own, keep_in_memory=True))


def _published_classes(tables: Mapping[str, Any], task: TaskSettings) -> Sequence[str]:
    """Return the names that a data set of the hub gives to its class numbers; empty without any."""
    table = tables[task.train_split]
    feature = table.features.get(task.label_column) if task.kind == "hub" and isinstance(table, Dataset) else None
    return feature.names if isinstance(feature, datasets.ClassLabel) else ()


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
        own = task.kind in ("files", "hub") and split != task.train_split
        hint = "task.validation_splits.validation takes the name of one; null splits off a tenth of the training rows"
        raise DataError(f"{task.name} has no split {split!r} but {format_names(tables)}", hint=hint if own else "")
    table, label = tables[split], task.label_column
    is_dataset = isinstance(table, Dataset)
    present = table.column_names if is_dataset else list(table.columns)
    parts = {text: parts_of(text, present) for text in task.text_columns}
    wanted = list(dict.fromkeys([*itertools.chain(*parts.values()), label]))
    check_columns(present, wanted, f"the split {split!r} of {task.name}", "set task.text_columns and task.label_column")
    selected = pd.DataFrame(table.select_columns(wanted).to_pandas() if is_dataset else table[wanted])
    if len(selected) == 0:
        raise DataError(f"the split {split!r} of {task.name} has no rows")
    columns = {text: join_columns(selected, columns) for text, columns in parts.items()}
    labels = selected[label]
    if task.kind == "hub":
        labels = name_classes(labels, _published_classes(tables, task), task)
    check_labels_present(labels, split, task)
    return pd.DataFrame({**columns, label: labels})


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
    split = _requested_splits(task)[name] or task.train_split
    texts = {text: table[column] for text, column in zip(("text", "pair"), task.text_columns, strict=False)}
    for text, column in zip(texts, task.text_columns, strict=True):
        _check_texts(texts[text], f"column {column!r} of the split {name!r} of {task.name}", split, task)
    label = parse_labels(table[task.label_column], name, split, task, labels)
    dtype = "float32" if task.problem == "regression" else "int64"
    features = {text: datasets.Value("string") for text in texts} | {"label": datasets.Value(dtype)}
    columns: dict[str, list[Any]] = {text: values.tolist() for text, values in texts.items()}
    return Dataset.from_dict({**columns, "label": label}, features=datasets.Features(features))


def stratified_slice(labels: pd.Series[Any], task: TaskSettings) -> tuple[list[int], list[int]]:
    """Return the numbers of the training rows to keep and of those that validate instead, both ascending.

    They depend only on the labels and their order. Every class gives a tenth of its rows, and keeps one; of a regression,
    every tenth of the range does.

    Args:
        labels: Labels of the training rows.
        task: The task.

    Raises:
        DataError: There are too few rows.
    """
    keys = pd.to_numeric(labels, errors="coerce") if task.problem == "regression" else labels.map(str)
    repeated = np.arange(len(labels)) if task.problem == "regression" else np.flatnonzero(keys.duplicated(keep=False))
    if len(repeated) < 2:
        raise DataError(
            f"the {len(labels)} training rows of {task.name} are too few to split off validation rows",
            hint="task.files.validation takes a file, and task.validation_splits another split",
        )
    shuffled = np.random.default_rng(_SEED).permutation(repeated)
    ordered = shuffled[np.argsort(keys.to_numpy()[shuffled], kind="stable")]
    taken = ordered[min(_SLICE, len(ordered)) // 2 :: _SLICE]
    return np.setdiff1d(np.arange(len(labels)), taken).tolist(), sorted(taken.tolist())


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
