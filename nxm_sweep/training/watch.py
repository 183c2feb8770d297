"""What a trial tells while it trains, and how it is told to stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nxm_sweep.errors import TrialStoppedError


class Watch:
    """Somebody who watches a trial; this one looks away. Subclasses override what they care for."""

    def on_step(self, step: int, steps: int) -> None:
        """Hear of a finished optimizer step, of so many."""

    def on_epoch(self, epochs: Sequence[Mapping[str, Any]]) -> None:
        """Hear of the epochs so far; the last one's checkpoint is complete."""

    def stop_now(self) -> str | None:
        """Return why to stop at once, or None."""
        return None

    def stop_after_epoch(self) -> str | None:
        """Return why to stop after a complete checkpoint, or None."""
        return self.stop_now()


def obey(reason: str | None) -> None:
    """Stop the training for a reason.

    Raises:
        TrialStoppedError: There is one.
    """
    if reason is not None:
        raise TrialStoppedError(reason)
