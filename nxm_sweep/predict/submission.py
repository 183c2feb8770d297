"""GLUE's submission format: one file a test set, ``index<TAB>prediction``, the task's label words, every row.

Source: the instructions of gluebenchmark.com (Wang et al., 2019); row counts are those of the published test sets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nxm_sweep.data.glue import GLUE_TSV
from nxm_sweep.errors import DataError, ModelError
from nxm_sweep.store.files import write_text
from nxm_sweep.training.metrics import Array, answers

HEADER = "index\tprediction"
_SCORE_RANGE = (0.0, 5.0)
_NAMED = 3  # rows that a broken rule names


@dataclass(frozen=True, slots=True)
class Submission:
    """One test set and the file that answers it.

    Attributes:
        file: What GLUE calls the file.
        task: Configuration of the hub's data set that the model was trained on.
        config: Configuration that holds the test set.
        split: Its split there.
        places: Where the official download has it, below the download's folder; the first that exists counts.
        rows: How many there are.
        words: What stands for each class number; empty: real numbers between 0 and 5.
    """

    file: str
    task: str
    config: str
    split: str
    places: tuple[str, ...]
    rows: int
    words: tuple[str, ...]


def _of(file: str, task: str, rows: int, *others: str) -> Submission:
    layout = GLUE_TSV[task]
    return Submission(file, task, task, "test", (f"{layout.folder}/test.tsv", *others), rows, layout.classes)


def _mnli(file: str, config: str, split: str, rows: int, *places: str) -> Submission:
    return Submission(file, "mnli", config, split, places, rows, GLUE_TSV["mnli"].classes)


_ALL = (
    _of("CoLA.tsv", "cola", 1063),
    _of("SST-2.tsv", "sst2", 1821),
    _of("MRPC.tsv", "mrpc", 1725, "MRPC/msr_paraphrase_test.txt"),  # as Microsoft publishes it
    _of("STS-B.tsv", "stsb", 1379),
    _of("QQP.tsv", "qqp", 390_965),
    _mnli("MNLI-m.tsv", "mnli", "test_matched", 9796, "MNLI/test_matched.tsv"),
    _mnli("MNLI-mm.tsv", "mnli", "test_mismatched", 9847, "MNLI/test_mismatched.tsv"),
    _of("QNLI.tsv", "qnli", 5463),
    _of("RTE.tsv", "rte", 3000),
    _of("WNLI.tsv", "wnli", 146),
    _mnli("AX.tsv", "ax", "test", 1104, "diagnostic/diagnostic.tsv", "diagnostic/AX.tsv", "AX/AX.tsv"),
)
SUBMISSIONS = {submission.file: submission for submission in _ALL}
"""Every file of a submission by its name, in GLUE's order."""


def words_of(outputs: Array, words: Sequence[str], *, clip: bool) -> list[str]:
    """Return what a model's outputs say, as a file says it.

    Args:
        outputs: Logits of shape ``(rows, len(words))``, or numbers of shape ``(rows,)`` or ``(rows, 1)`` for a regression.
        words: One for each class number; empty for a regression.
        clip: Bring the numbers of a regression into STS-B's range, 0 to 5.

    Raises:
        ModelError: An output is not finite.
    """
    strange = np.flatnonzero(~np.isfinite(outputs.reshape(len(outputs), -1)).all(axis=1))
    if len(strange):
        raise ModelError(f"the model's output for row {strange[0]} is not finite, so that it predicts nothing")
    said = answers(outputs)
    if words:
        return [words[int(number)] for number in said]
    numbers = np.clip(said, *_SCORE_RANGE) if clip else said
    return [f"{number:.6f}" for number in numbers.tolist()]


def write_predictions(path: Path, predictions: Sequence[str]) -> None:
    """Write a file of predictions: the old one stays until the new one is whole.

    Raises:
        DataError: The place cannot be written to.
    """
    lines = [HEADER, *(f"{index}\t{prediction}" for index, prediction in enumerate(predictions))]
    try:
        write_text(path, "\n".join(lines) + "\n")
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}") from error


def broken_rules(path: Path, words: Sequence[str] | None, scores: tuple[float, float] | None = None) -> list[str]:
    """Return which rules of the format a file breaks, one line each; none if it is as GLUE wants it.

    Args:
        path: The file.
        words: What may stand as a prediction; empty: finite numbers; None: any text.
        scores: The range of the numbers; None: any.

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
        return [*broken, f"a row must hold an index and a prediction, but not so row {_named(wide, rows)}"]
    misplaced = [number for number, row in enumerate(rows) if row[0] != str(number)]
    if misplaced:
        broken.append(f"the index must count from 0, but not so row {_named(misplaced, rows)}")
    strange = [number for number, row in enumerate(rows) if not _may_stand(row[1], words, scores)]
    if strange:
        broken.append(f"a prediction must be {_allowed(words, scores)}, but not so row {_named(strange, rows)}")
    return broken


def check_submission(path: Path, submission: Submission) -> list[str]:
    """Return which rules of GLUE's format a file breaks, its number of rows aside; as :func:`broken_rules`."""
    return broken_rules(path, submission.words, None if submission.words else _SCORE_RANGE)


def wrong_count(rows: int, submission: Submission) -> str:
    """Return what is wrong with a number of rows; nothing if it is that of the published test set."""
    if rows == submission.rows:
        return ""
    return f"GLUE's test set has {submission.rows:,} rows but there are {rows:,}"


def _may_stand(prediction: str, words: Sequence[str] | None, scores: tuple[float, float] | None) -> bool:
    if words is None:
        return prediction.strip() != ""
    if words:
        return prediction in words
    try:
        number = float(prediction)
    except ValueError:
        return False
    return math.isfinite(number) and (scores is None or scores[0] <= number <= scores[1])


def _allowed(words: Sequence[str] | None, scores: tuple[float, float] | None) -> str:
    if words is None:
        return "there"
    if words:
        return f"one of {', '.join(words)}"
    return "a number from {:g} to {:g}".format(*scores) if scores else "a number"


def _named(numbers: Sequence[int], rows: Sequence[Sequence[str]]) -> str:
    """The first of the rows ``numbers``, as they stand, and how many more there are."""
    first = ", ".join(f"{number} ({'<TAB>'.join(rows[number])[:60]!r})" for number in numbers[:_NAMED])
    return first + (f" and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else "")
