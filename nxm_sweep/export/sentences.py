"""Texts on which an exported model is compared with the one it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nxm_sweep.errors import NxmSweepError
from nxm_sweep.export.finished import FinishedTrial
from nxm_sweep.training.rows import load_rows

_COUNT = 48

_BUILT_IN = (
    ("The committee met on Tuesday.", "On Tuesday there was a meeting of the committee."),
    ("No.", "It is not."),
    ("Who wrote the letter that was found in the attic of the old house by the river?", "The letter was never signed."),
    (
        "Prices rose by 3.5 % in May, the fastest since 2011.",
        "In May, prices rose faster than in any month since 2011.",
    ),
    ("a gripping, funny and at times moving film", "dull"),
    ("The cat sat on the mat, and the dog, which had been asleep, looked up.", "A dog looked up."),
    ("Zürich, São Paulo & Kraków", "cities"),
    ("x" * 40, "A word that no vocabulary knows."),
)


@dataclass(frozen=True, slots=True)
class Sentences:
    """Texts, with second texts where the task has pairs.

    Attributes:
        texts: First texts.
        pairs: Second texts, or None.
        source: Where they come from, in words.
    """

    texts: Sequence[str]
    pairs: Sequence[str] | None
    source: str


def sentences_of(trial: FinishedTrial) -> Sentences:
    """Return the first validation rows of the trial's task; sentences of our own where those cannot be read."""
    try:
        rows = next(iter(load_rows(trial.task, trial.data).validation.values()))
    except NxmSweepError:
        paired = len(trial.task.text_columns) > 1
        first, second = zip(*_BUILT_IN, strict=True)
        return Sentences(
            first, second if paired else None, f"{len(first)} built-in sentences (the task's are not here)"
        )
    head = rows.select(range(min(_COUNT, len(rows))))
    pairs = head["pair"][:] if "pair" in head.column_names else None
    return Sentences(head["text"][:], pairs, f"{len(head)} validation rows of {trial.record['task']}")
