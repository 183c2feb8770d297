"""Monitors that follow a training and stop it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from nxm_sweep.errors import TrialStoppedError
from nxm_sweep.sparsity import distributed


class Monitor(Protocol):
    """Receive a trial's progress and decide when it stops."""

    def on_step(self, step: int, steps: int) -> None:
        """Handle a finished optimizer step: number ``step`` of ``steps``."""

    def on_epoch(self, epochs: Sequence[Mapping[str, Any]]) -> None:
        """Handle a finished epoch; ``epochs`` holds all so far, and the last one's checkpoint is complete."""

    def stop_now(self) -> str | None:
        """Return a reason to stop at once, or after a checkpoint if it is ``terminated``; None to continue."""

    def stop_after_epoch(self) -> str | None:
        """Return a reason to stop after a complete checkpoint, or None."""


class NullMonitor:
    """Ignore every event and never stop a training."""

    def on_step(self, step: int, steps: int) -> None:
        """Ignore a step."""

    def on_epoch(self, epochs: Sequence[Mapping[str, Any]]) -> None:
        """Ignore an epoch."""

    def stop_now(self) -> str | None:
        """Return None."""
        return None

    def stop_after_epoch(self) -> str | None:
        """Return what :meth:`stop_now` returns."""
        return self.stop_now()


class RankZeroMonitor:
    """Let the monitor of rank 0 decide for all ranks; the others are ignored.

    Args:
        monitor: This rank's monitor.
    """

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor if distributed.rank() == 0 else NullMonitor()

    def on_step(self, step: int, steps: int) -> None:
        """Report a step to rank 0's monitor."""
        self._monitor.on_step(step, steps)

    def on_epoch(self, epochs: Sequence[Mapping[str, Any]]) -> None:
        """Report an epoch to rank 0's monitor."""
        self._monitor.on_epoch(epochs)

    def stop_now(self) -> str | None:
        """Return rank 0's answer on every rank."""
        reason: str | None = distributed.share(self._monitor.stop_now())
        return reason

    def stop_after_epoch(self) -> str | None:
        """Return rank 0's answer on every rank."""
        reason: str | None = distributed.share(self._monitor.stop_after_epoch())
        return reason


def raise_if_stopped(reason: str | None) -> None:
    """Stop the training if there is a reason.

    Raises:
        TrialStoppedError: ``reason`` is not None.
    """
    if reason is not None:
        raise TrialStoppedError(reason)
