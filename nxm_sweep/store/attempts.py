"""Failed attempts of a trial: what went wrong, how often, and whether a retry is worthwhile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nxm_sweep.errors import NonFiniteError, NxmSweepError, OutOfMemoryError, OutputError, RankError, first_line
from nxm_sweep.store.files import write_json
from nxm_sweep.store.paths import FAILURES
from nxm_sweep.store.small_files import FailureEntry, read_small_file

RETRIED = ("killed", "out of memory", "timeout", "exception", "exit")
"""Kinds that another attempt may survive; NaN and bad input recur."""


LESS_MEMORY = (
    "half of training.batch_size with twice training.gradient_accumulation takes the same steps in less memory"
)

STOPPED = "stopped"
OUTPUT = "output"
"""Kind of a failure to write, which says nothing about the trial: it ends the point for this sweep and is not kept."""

_KINDS: dict[str, type[NxmSweepError]] = {
    "non-finite": NonFiniteError,
    OUTPUT: OutputError,
    "out of memory": OutOfMemoryError,
}


@dataclass(frozen=True)
class Failure:
    """One attempt that left no record.

    Attributes:
        kind: ``killed``, ``out of memory``, ``timeout``, ``non-finite``, ``exit``, ``output``,
            ``bad input`` or ``exception``.
        message: One line for the user.
        when: UTC time.
        traceback: Of an unexpected exception.
    """

    kind: str
    message: str
    when: str
    traceback: str = ""


def classify(error: BaseException, traceback: str = "") -> Failure:
    """Return the failure that an exception in a trial stands for."""
    message = first_line(error)
    if isinstance(error, RankError):
        return failure(error.kind, message, error.traceback)
    if isinstance(error, NxmSweepError):
        kind = next((kind for kind, of in _KINDS.items() if isinstance(error, of)), "bad input")
        return failure(kind, f"{message} ({error.hint})" if error.hint and kind != "non-finite" else message)
    if isinstance(error, SystemExit):
        return failure("exit", f"the trial ended its process with exit code {error.code}", traceback)
    if is_out_of_memory(error):
        return out_of_memory(message)
    return failure("exception", f"{type(error).__name__}: {message}", traceback)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory is used up; PyTorch raises a plain ``RuntimeError`` on a CPU."""
    return (
        isinstance(error, MemoryError)
        or "OutOfMemory" in type(error).__name__
        or "can't allocate memory" in first_line(error)
    )


def out_of_memory(message: str) -> Failure:
    """Return the failure of a trial that needed more memory than there is, with what needs less."""
    return failure("out of memory", f"{message} ({LESS_MEMORY})")


def failure(kind: str, message: str, traceback: str = "") -> Failure:
    """Return a failure with the current time."""
    return Failure(kind, message, datetime.now(UTC).isoformat(timespec="seconds"), traceback[-4000:])


def add_failure(folder: Path, new: Failure) -> None:
    """Append a failed attempt to those of a trial, unless it is a failure to write."""
    if new.kind == OUTPUT:
        return
    write_json(folder / FAILURES, [*map(asdict, read_failures(folder)), asdict(new)])


def read_failures(folder: Path) -> list[Failure]:
    """Return the failed attempts of a trial, oldest first."""
    entries: list[FailureEntry] = read_small_file(folder / FAILURES, list[FailureEntry]) or []
    return [Failure(entry["kind"], entry["message"], entry["when"], entry.get("traceback", "")) for entry in entries]


def forget_failures(folder: Path) -> None:
    """Delete the failed attempts of a trial, for ``sweep.retry_failed``."""
    (folder / FAILURES).unlink(missing_ok=True)


def is_worth_a_try(failures: list[Failure], max_attempts: int) -> bool:
    """Return whether a point may be tried again after these failures."""
    return not failures or (failures[-1].kind in RETRIED and len(failures) < max_attempts)


@dataclass(frozen=True, slots=True)
class Outcome:
    """End of an attempt: a record (neither is set), a requested stop or a failure."""

    stopped: str | None = None
    failure: Failure | None = None


def outcome_of(result: Mapping[str, Any] | None) -> Outcome:
    """Decode a worker's result: None is a record, ``{"stopped": why}`` a stop, else a failure's fields."""
    if result is None:
        return Outcome()
    if STOPPED in result:
        return Outcome(stopped=result[STOPPED])
    if not {"kind", "message", "when"} <= result.keys():
        return Outcome(failure=failure("exception", "the answer of its worker is damaged"))
    return Outcome(failure=Failure(result["kind"], result["message"], result["when"], result.get("traceback", "")))
