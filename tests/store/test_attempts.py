"""Failed attempts: what they mean, and how many there may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from nxm_sweep.errors import DataError, NonFiniteError, OutputError
from nxm_sweep.store.attempts import (
    LESS_MEMORY,
    add_failure,
    classify,
    failure,
    forget_failures,
    is_worth_a_try,
    read_failures,
)
from nxm_sweep.store.paths import FAILURES


class OutOfMemoryError(RuntimeError):
    """As PyTorch's is called."""


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (NonFiniteError("the loss became nan"), "non-finite", "the loss became nan"),
        (DataError("no rows"), "bad input", "no rows"),
        (DataError("no rows", hint="add some"), "bad input", "no rows (add some)"),
        (SystemExit(7), "exit", "the trial ended its process with exit code 7"),
        (MemoryError(), "out of memory", f"MemoryError ({LESS_MEMORY})"),
        (OutOfMemoryError("CUDA out of memory"), "out of memory", f"CUDA out of memory ({LESS_MEMORY})"),
        (RuntimeError("can't allocate memory"), "out of memory", f"can't allocate memory ({LESS_MEMORY})"),
        (OutputError("x cannot be written", hint="make it"), "output", "x cannot be written (make it)"),
        (ValueError("first line\nsecond"), "exception", "ValueError: first line"),
        (KeyError(), "exception", "KeyError: KeyError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_errors_have_a_kind_and_one_line(error: BaseException, kind: str, message: str) -> None:
    found = classify(error)
    assert found.kind == kind
    assert found.message == message


@pytest.mark.parametrize("kind", ["killed", "out of memory", "timeout", "exception", "exit"])
def test_what_another_attempt_may_survive_is_tried_so_many_times(kind: str) -> None:
    failures = [failure(kind, "x")] * 3
    assert [is_worth_a_try(failures[:number], 3) for number in range(4)] == [True, True, True, False]


@pytest.mark.parametrize("kind", ["non-finite", "bad input"])
def test_what_comes_again_is_tried_once(kind: str) -> None:
    assert not is_worth_a_try([failure(kind, "x")], 100)


def test_failures_are_kept_in_order_until_they_are_forgotten(tmp_path: Path) -> None:
    assert read_failures(tmp_path) == []
    attempts = [failure("killed", "a"), failure("exception", "b", "x" * 9000)]
    for attempt in attempts:
        add_failure(tmp_path, attempt)
    assert read_failures(tmp_path) == attempts
    assert len(attempts[1].traceback) == 4000  # the end of it
    forget_failures(tmp_path)
    forget_failures(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{", "{}", "null", "[1]", '[{"kind": "killed"}]'])
def test_damaged_file_counts_as_no_failure(content: str, tmp_path: Path) -> None:
    (tmp_path / FAILURES).write_text(content)
    assert read_failures(tmp_path) == []
