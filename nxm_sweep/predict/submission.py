"""GLUE's submission format: one file per test set, ``index<TAB>prediction`` with the task's labels for every row.

Source: the instructions of gluebenchmark.com (Wang et al., 2019); row counts are those of the published test sets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nxm_sweep.data.glue import GLUE_TSV
from nxm_sweep.errors import DataError, ModelError
from nxm_sweep.store.files import write_text
from nxm_sweep.training.metrics import Array, answers, probabilities

HEADER = "index\tprediction"
_SCORE_RANGE = (0.0, 5.0)
_NAMED = 3  # rows listed per broken rule


@dataclass(frozen=True, slots=True)
class Submission:
    """One test set and the file with its predictions.

    Attributes:
        file: GLUE's name of the file.
        task: Configuration of the hub's data set that the model was trained on.
        config: Configuration that contains the test set.
        split: Its split there.
        places: Paths of the test set below the official download's folder; the first that exists is used.
        rows: Number of rows.
        words: Label of each class number; empty: real numbers between 0 and 5.
    """

    file: str
    task: str
    config: str
    split: str
    places: tuple[str, ...]
    rows: int
    words: tuple[str, ...]


def _make_submission(file: str, task: str, rows: int, *others: str) -> Submission:
    layout = GLUE_TSV[task]
    return Submission(file, task, task, "test", (f"{layout.folder}/test.tsv", *others), rows, layout.classes)


def _make_mnli_submission(file: str, config: str, split: str, rows: int, *places: str) -> Submission:
    return Submission(file, "mnli", config, split, places, rows, GLUE_TSV["mnli"].classes)


_ALL = (
    _make_submission("CoLA.tsv", "cola", 1063),
    _make_submission("SST-2.tsv", "sst2", 1821),
    _make_submission("MRPC.tsv", "mrpc", 1725, "MRPC/msr_paraphrase_test.txt"),  # as Microsoft publishes it
    _make_submission("STS-B.tsv", "stsb", 1379),
    _make_submission("QQP.tsv", "qqp", 390_965),
    _make_mnli_submission("MNLI-m.tsv", "mnli", "test_matched", 9796, "MNLI/test_matched.tsv"),
    _make_mnli_submission("MNLI-mm.tsv", "mnli", "test_mismatched", 9847, "MNLI/test_mismatched.tsv"),
    _make_submission("QNLI.tsv", "qnli", 5463),
    _make_submission("RTE.tsv", "rte", 3000),
    _make_submission("WNLI.tsv", "wnli", 146),
    _make_mnli_submission("AX.tsv", "ax", "test", 1104, "diagnostic/diagnostic.tsv", "diagnostic/AX.tsv", "AX/AX.tsv"),
)
SUBMISSIONS = {submission.file: submission for submission in _ALL}
"""Every file of a submission by its name, in GLUE's order."""


def words_of(outputs: Array, words: Sequence[str], *, clip: bool) -> list[str]:
    """Convert a model's outputs to predictions as a file contains them.

    Args:
        outputs: Logits of shape ``(rows, len(words))``; numbers of shape ``(rows,)`` or ``(rows, 1)`` for a regression.
        words: Label of each class number; empty for a regression.
        clip: Clip the numbers of a regression to STS-B's range, 0 to 5.

    Raises:
        ModelError: An output is not finite.
    """
    strange = np.flatnonzero(~np.isfinite(outputs.reshape(len(outputs), -1)).all(axis=1))
    if len(strange):
        raise ModelError(f"the model's output for row {strange[0]} is not finite, so that it predicts nothing")
    predicted = answers(outputs)
    if words:
        return [words[int(number)] for number in predicted]
    numbers = np.clip(predicted, *_SCORE_RANGE) if clip else predicted
    return [f"{number:.6f}" for number in numbers.tolist()]


def name_probabilities(outputs: Array, words: Sequence[str]) -> dict[str, list[str]]:
    """Return a column ``p(CLASS)`` of every class' probabilities.

    Args:
        outputs: Logits of shape ``(rows, len(words))``.
        words: Label of each class number.
    """
    columns = probabilities(outputs).T.tolist()
    return {f"p({word})": [f"{value:.6f}" for value in column] for word, column in zip(words, columns, strict=True)}


def write_predictions(path: Path, predictions: Sequence[str], more: Mapping[str, Sequence[str]] | None = None) -> None:
    """Write a file of predictions; an old one stays until the new one is complete.

    Args:
        path: The file.
        predictions: One per row.
        more: Further columns by name, which GLUE's format does not have.

    Raises:
        DataError: The path cannot be written to.
    """
    columns = {} if more is None else dict(more)
    rows = zip(map(str, range(len(predictions))), predictions, *columns.values(), strict=True)
    lines = ["\t".join([HEADER, *columns]), *map("\t".join, rows)]
    try:
        write_text(path, "\n".join(lines) + "\n")
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}") from error


def broken_rules(path: Path, words: Sequence[str] | None, scores: tuple[float, float] | None = None) -> list[str]:
    """Return the rules of the format that a file breaks, one line each; empty if it is valid.

    Args:
        path: The file.
        words: Allowed predictions; empty: finite numbers; None: any text that is not blank.
        scores: Range of the numbers; None: any.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        return [f"it is not UTF-8 at byte {error.start}"]
    header, *lines = text.split("\n")
    broken = [] if header == HEADER else [f"the first line must be 'index<TAB>prediction' but is {header[:60]!r}"]
    if not lines or lines.pop() != "":
        broken.append("the last line does not end")
        lines = text.split("\n")[1:]
    rows = [line.split("\t") for line in lines]
    if not rows:
        return [*broken, "it holds no rows"]
    wide = [number for number, row in enumerate(rows) if len(row) != 2]
    if wide:
        return [*broken, f"a row must hold an index and a prediction, but not so row {_list_rows(wide, rows)}"]
    misplaced = [number for number, row in enumerate(rows) if row[0] != str(number)]
    if misplaced:
        broken.append(f"the index must count from 0, but not so row {_list_rows(misplaced, rows)}")
    strange = [number for number, row in enumerate(rows) if not _is_allowed(row[1], words, scores)]
    if strange:
        allowed = _describe_allowed(words, scores)
        broken.append(f"a prediction must be {allowed}, but not so row {_list_rows(strange, rows)}")
    return broken


def check_submission(path: Path, submission: Submission) -> list[str]:
    """Return the rules of GLUE's format that a file breaks, except its number of rows; as :func:`broken_rules`."""
    return broken_rules(path, submission.words, None if submission.words else _SCORE_RANGE)


def wrong_count(rows: int, submission: Submission) -> str:
    """Describe a wrong number of rows; empty if it is that of the published test set."""
    if rows == submission.rows:
        return ""
    return f"GLUE's test set has {submission.rows:,} rows but there are {rows:,}"


def _is_allowed(prediction: str, labels: Sequence[str] | None, scores: tuple[float, float] | None) -> bool:
    if labels is None:
        return prediction.strip() != ""
    if labels:
        return prediction in labels
    try:
        number = float(prediction)
    except ValueError:
        return False
    return math.isfinite(number) and (scores is None or scores[0] <= number <= scores[1])


def _describe_allowed(labels: Sequence[str] | None, scores: tuple[float, float] | None) -> str:
    if labels is None:
        return "there"
    if labels:
        return f"one of {', '.join(labels)}"
    return "a number from {:g} to {:g}".format(*scores) if scores else "a number"


def _list_rows(numbers: Sequence[int], rows: Sequence[Sequence[str]]) -> str:
    """List the first of the rows ``numbers`` with their text, and the number of further ones."""
    first = ", ".join(f"{number} ({'<TAB>'.join(rows[number])[:60]!r})" for number in numbers[:_NAMED])
    return first + (f" and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else "")
