"""A sensitivity scan: one matrix of a trained model at a time is pruned and scored on a slice of the training set."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from torch import nn

from nxm_sweep.config.sparsity_rules import SCHEMA
from nxm_sweep.data.loading import heldout_rows, load_rows
from nxm_sweep.data.tokenization import training_rows
from nxm_sweep.errors import ModelError, NonFiniteError
from nxm_sweep.formatting import format_names
from nxm_sweep.settings import DataSettings, TaskSettings
from nxm_sweep.sparsity import Constraint, Rule, Target, pruned, select_targets
from nxm_sweep.sparsity.targets import kept_weights
from nxm_sweep.store.files import read_json, write_json
from nxm_sweep.training.metrics import Array, score
from nxm_sweep.training.model_files import check_model, describe_limit, limit_length
from nxm_sweep.training.models import digest_model, label_words, load_classifier, outputs_of


class Unfinished:
    """Measurements of an interrupted scan, in a file beside the scan's own.

    Args:
        scan: The scan's own file; this one has ``.unfinished`` appended to its name.
        setup: Everything that determines the measurements. A file of another setup is discarded.

    Attributes:
        measured: The measurements, by name.
    """

    def __init__(self, scan: Path, setup: Mapping[str, Any]) -> None:
        self._path, self._setup = scan.with_name(f"{scan.name}.unfinished"), {"schema": SCHEMA, **setup}
        stored = read_json(self._path)
        same = isinstance(stored, dict) and stored.get("setup") == self._setup
        self.measured: dict[str, dict[str, Any]] = stored["measured"] if same else {}

    def add(self, name: str, found: dict[str, Any]) -> None:
        """Add a measurement, and write the file."""
        self.measured[name] = found
        write_json(self._path, {"setup": self._setup, "measured": self.measured})

    def remove(self) -> None:
        """Remove the file, once the scan is complete."""
        self._path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Seen:
    """Training rows that a model was trained on.

    Args:
        limit: Number of rows; None: all.
        heldout: Share that its trial held out for selection; None: none.
        subset: Rows that the limit kept; see :func:`~nxm_sweep.data.tokenization.limit_rows`.
    """

    limit: int | None = None
    heldout: float | None = None
    subset: str = "first"


@dataclass(frozen=True, slots=True)
class ScanRows:
    """The slice of the training set that a scan scores on.

    Attributes:
        numbers: The rows' numbers in the training set, ascending.
        seen: Number of them that the model was trained on; None if unknown.
    """

    numbers: list[int]
    seen: int | None


def scan_rows(rows: int, count: int, seen: Seen | None) -> ScanRows:
    """Return a fixed slice of the training set, from rows that the model was not trained on if there are enough.

    Args:
        rows: Size of the training set.
        count: Number of rows to draw.
        seen: Rows that the model was trained on; None if unknown. If rows were held out, the slice is drawn only from
            them.

    Raises:
        DataError: There are fewer than two rows.
    """
    if seen is None:
        return ScanRows(_draw(range(rows), count), None)
    if seen.heldout is not None:
        return ScanRows(_draw(heldout_rows(rows, seen.heldout)[1], count), 0)
    trained = set(training_rows(rows, seen.limit, None, seen.subset))
    if rows - len(trained) >= count:
        return ScanRows(_draw([number for number in range(rows) if number not in trained], count), 0)
    numbers = _draw(range(rows), count)
    return ScanRows(numbers, sum(number in trained for number in numbers))


def digest_rows(rows: Dataset) -> str:
    """Return the SHA-256 over every text and label, in order."""
    return hashlib.sha256(json.dumps([list(rows[name]) for name in rows.column_names]).encode()).hexdigest()


def _draw(rows: Sequence[int], count: int) -> list[int]:
    """Return ``count`` of the rows, or all of fewer, ascending; deterministic."""
    if count >= len(rows):
        return list(rows)
    return [rows[index] for index in heldout_rows(len(rows), count / len(rows))[1]]


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained model, and what it was trained on.

    Args:
        folder: Folder of the model and its tokenizer.
        task: Task that it was trained on.
        data: Location of the rows.
        max_length: Limit in tokens; longer inputs are cut.
        precision: Precision to score in: that of its trial.
        trial: Identity of its trial, if it has one.
        seen: Training rows that it was trained on; None if unknown.
    """

    folder: Path
    task: TaskSettings
    data: DataSettings
    max_length: int
    precision: str
    trial: str | None = None
    seen: Seen | None = None


def check_head(folder: Path, labels: Sequence[str]) -> None:
    """Raise unless a saved model's outputs are the task's classes.

    Classes named ``LABEL_0``, ``LABEL_1``, ... are assumed to be in the task's order.

    Args:
        folder: Folder of the model.
        labels: The task's classes in order; empty for a regression.

    Raises:
        ModelError: The number, the names or the order of the outputs differ.
    """
    names = label_words(folder)
    if len(names) != max(1, len(labels)):
        raise ModelError(f"the model in {folder} has {len(names)} outputs but the task needs {max(1, len(labels))}")
    unnamed = list(names) == [f"LABEL_{number}" for number in range(len(names))]
    if labels and not unnamed and [name.lower() for name in names] != [label.lower() for label in labels]:
        raise ModelError(
            f"the classes of the model in {folder} are {format_names(names)} but the task's are {format_names(labels)}",
            hint="task.labels sets the task's order",
        )


@dataclass(frozen=True, slots=True)
class Measured:
    """A model's mean loss over the slice, and its score; None where the score is undefined: all answers are equal."""

    loss: float
    score: float | None


class Meter:
    """Measure the current state of a model on fixed rows.

    Args:
        model: A trained classifier, in evaluation mode.
        tokenizer: Its tokenizer.
        rows: Columns ``text``, ``label`` and, if the task has two texts, ``pair``.
        task: The task, for its metrics and its selection metric.
        max_length: Limit in tokens; longer inputs are cut.
        precision: Precision that the model runs in.
    """

    def __init__(
        self, model: Any, tokenizer: Any, rows: Dataset, task: TaskSettings, max_length: int, *, precision: str
    ) -> None:
        self.model, self.positive = model, 1  # number of the positive class
        self._tokenizer, self._task, self._max_length, self._precision = tokenizer, task, max_length, precision
        self._text = list(rows["text"])
        self._pair = list(rows["pair"]) if "pair" in rows.column_names else None
        self._labels = np.asarray(rows["label"])

    def measure(self) -> Measured:
        """Return loss and score.

        Raises:
            NonFiniteError: An output is NaN or infinite.
        """
        outputs = outputs_of(
            self.model,
            self._tokenizer,
            self._text,
            self._pair,
            max_length=self._max_length,
            precision=self._precision,
        )
        if not bool(np.isfinite(outputs).all()):
            raise NonFiniteError("the model's outputs are not finite", hint="its training has diverged")
        try:
            scores = score(self._task.metrics, outputs, self._labels, positive=self.positive)
            value = scores[self._task.selection_metric]
        except NonFiniteError:  # a correlation, where all answers are equal
            return Measured(mean_loss(outputs, self._labels), None)
        return Measured(mean_loss(outputs, self._labels), value)


def mean_loss(outputs: Array, labels: Array) -> float:
    """Return the mean cross-entropy over rows, or the mean squared error of a regression.

    Args:
        outputs: Shape ``(rows, classes)``, or ``(rows, 1)`` for a regression.
        labels: Shape ``(rows,)``.
    """
    if outputs.shape[1] == 1:
        return float(np.square(outputs[:, 0] - labels).mean())
    highest = outputs.max(axis=1)
    normaliser = highest + np.log(np.exp(outputs - highest[:, None]).sum(axis=1))
    return float((normaliser - outputs[np.arange(len(labels)), labels.astype(int)]).mean())


def scan_targets(model: nn.Module, match: str, candidates: Sequence[Constraint]) -> dict[str, list[Target]]:
    """Return each matched matrix once per candidate, by its name and in the model's order.

    Raises:
        SparsityError: Nothing matches, or a matrix does not divide into groups.
    """
    targets: dict[str, list[Target]] = {}
    for candidate in candidates:
        for target in select_targets(model, [Rule(match, candidate)]):
            targets.setdefault(target.name, []).append(target)
    return targets


def measure_alone(
    targets: Mapping[str, Sequence[Target]], measure: Callable[[Target], Measured]
) -> Iterator[tuple[Target, Measured]]:
    """Prune one matrix at a time to each of its candidates and measure; the weights are restored bit for bit.

    Args:
        targets: As :func:`scan_targets` returns them.
        measure: Measures the current state of the model, with one matrix pruned.
    """
    for target in itertools.chain.from_iterable(targets.values()):
        with pruned([target]):
            measured = measure(target)
        yield target, measured


def measure_together(
    targets: Mapping[str, Sequence[Target]], chosen: Mapping[str, Constraint | None], measure: Callable[[], Measured]
) -> Measured:
    """Measure the model with every matrix pruned to its chosen constraint; the weights are restored bit for bit.

    Args:
        targets: As :func:`scan_targets` returns them.
        chosen: One of its candidates for every matrix, or None for dense.
        measure: Measures the current state of the model.
    """
    together = [target for name, options in targets.items() for target in options if target.constraint == chosen[name]]
    with pruned(together):
        return measure()


class Scanner:
    """A trained model, its matrices and the rows to score them on.

    Args:
        source: The model, and what it was trained on.
        candidates: Constraints to prune each matrix to.
        match: Globs for the modules.
        count: Number of rows to score on.
        on_measurement: Called after every measurement.

    Attributes:
        targets: Each matched matrix once per candidate, by its name.
        count: Number of rows available to score on, at most the given one.
        note: For the user: that inputs are cut earlier than asked for; empty where they are not.

    Raises:
        DataError: The data set is missing or not what the task expects.
        ModelError: The model is damaged, or does not fit the task.
        SparsityError: Nothing matches, or a matrix does not divide into groups.
    """

    def __init__(
        self,
        source: Trained,
        candidates: Sequence[Constraint],
        *,
        match: str,
        count: int,
        on_measurement: Callable[[], None] = lambda: None,
    ) -> None:
        positions = check_model(source.folder, pairs=len(source.task.text_columns) > 1).positions
        max_length = limit_length(source.max_length, positions)
        self.note = describe_limit(source.max_length, positions)
        rows = load_rows(source.task, source.data)
        check_head(source.folder, rows.labels)
        self._drawn = scan_rows(len(rows.train), count, source.seen)
        self._rows, self._of = rows.train.select(self._drawn.numbers), len(rows.train)
        self.count = len(self._rows)
        self._source, self._candidates, self._match, self._heard = source, candidates, match, on_measurement
        model, tokenizer = load_classifier(source.folder)
        self.targets = scan_targets(model, match, candidates)
        self._meter = Meter(model, tokenizer, self._rows, source.task, max_length, precision=source.precision)
        self._meter.positive = rows.positive

    @property
    def measurements(self) -> int:
        """Number of measurements that :meth:`run` makes."""
        return 1 + len(self._candidates) + sum(map(len, self.targets.values()))

    @cached_property
    def setup(self) -> dict[str, Any]:
        """Everything that determines the measurements: model, rows, metric and candidates."""
        source = self._source
        return {
            "made_from": {
                "trial": source.trial,
                "task": source.task.name,
                "class": type(self._meter.model).__name__,
                "model_digest": digest_model(source.folder),
            },
            "rows": {
                "count": self.count,
                "of": self._of,
                "seen": self._drawn.seen,
                "digest": digest_rows(self._rows),
            },
            "metric": source.task.selection_metric,
            "max_length": source.max_length,
            "precision": source.precision,
            "match": self._match,
            "candidates": [str(candidate) for candidate in self._candidates],
        }

    def run(self, unfinished: Unfinished) -> dict[str, Any]:
        """Return :attr:`setup` and the measurements, for JSON; the model is unchanged, bit for bit.

        Args:
            unfinished: Measurements of an interrupted scan; every new one is added.
        """

        def measure_once(name: str, measure: Callable[[], Measured]) -> Measured:
            if name not in unfinished.measured:
                unfinished.add(name, asdict(measure()))
            else:
                self._heard()
            return Measured(**unfinished.measured[name])

        dense = measure_once("dense", self._measure)
        everywhere = {
            str(candidate): asdict(
                measure_once(f"{candidate} everywhere", partial(self.together, dict.fromkeys(self.targets, candidate)))
            )
            for candidate in self._candidates
        }
        alone = measure_alone(
            self.targets, lambda target: measure_once(f"{target.constraint} in {target.name}", self._measure)
        )
        readings = [_make_reading(*each, dense) for each in alone]
        return {**self.setup, "dense": asdict(dense), "everywhere": everywhere, "readings": readings}

    def together(self, chosen: Mapping[str, Constraint | None]) -> Measured:
        """Measure the model with every matrix pruned to its chosen constraint."""
        return measure_together(self.targets, chosen, self._measure)

    def _measure(self) -> Measured:
        measured = self._meter.measure()
        self._heard()
        return measured


def _make_reading(target: Target, measured: Measured, dense: Measured) -> dict[str, Any]:
    return {
        "matrix": target.name,
        "rows": target.weight.shape[0],
        "columns": target.weight.shape[1],
        "constraint": str(target.constraint),
        "kept": kept_weights(target.constraint, target.weight.numel()),
        "loss": measured.loss,
        "loss_rise": measured.loss - dense.loss,
        "score": measured.score,
        "score_drop": None if dense.score is None or measured.score is None else dense.score - measured.score,
    }
