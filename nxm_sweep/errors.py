"""Errors for users. Each gives what was wrong, the rule, the value received and the way out."""

from __future__ import annotations


class NxmSweepError(Exception):
    """Base class of every error that this package raises on purpose.

    Args:
        message: What was wrong, the rule and the value received, in one line.
        hint: The way out, in one line; empty if the message contains it.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(NxmSweepError):
    """A setting is missing, unknown, of the wrong type or out of range."""


class DataError(NxmSweepError):
    """A data set is missing, unreadable or not what its task expects."""


class ModelError(NxmSweepError):
    """A pretrained model is missing, incomplete or of a type that cannot be trained here."""


class SparsityError(NxmSweepError):
    """A weight matrix or a pattern breaks a rule of N:M sparsity."""


class RecordError(NxmSweepError):
    """A record on disk is missing, unreadable or malformed."""


class NonFiniteError(NxmSweepError):
    """A loss or a metric became NaN or infinite: the trial has diverged and stops."""


class OutOfMemoryError(NxmSweepError):
    """A trial needs more memory than there is."""


class StorageError(NxmSweepError):
    """The storage of the Optuna studies cannot be reached or read."""


class OutputError(NxmSweepError):
    """The output folder cannot be written: it is read-only, or its disk is full."""


class LauncherError(NxmSweepError):
    """A Hydra launcher could not start a job."""


class TrialStoppedError(NxmSweepError):
    """A trial was stopped on request: ``message`` is ``interrupted``, ``terminated`` or ``pruned``.

    Its checkpoints are complete.
    """


class RankError(NxmSweepError):
    """One of the processes that train a trial together died or raised an unexpected exception.

    Args:
        message: The process and its failure.
        hint: The way out.
        kind: Kind of :class:`~nxm_sweep.store.attempts.Failure`.
        traceback: Traceback of the exception.
    """

    def __init__(self, message: str, hint: str = "", *, kind: str = "exception", traceback: str = "") -> None:
        super().__init__(message, hint)
        self.kind = kind
        self.traceback = traceback


class SweepIncompleteError(NxmSweepError):
    """A sweep has ended and some points have no record."""


class ExportError(NxmSweepError):
    """A model to be exported does not hold its pattern, or the exported one differs from it."""


class MeasurementError(NxmSweepError):
    """A kernel that is to be timed computes something else than the dense product."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
