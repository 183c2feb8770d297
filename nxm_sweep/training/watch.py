"""What a trial tells while it trains, and how it is told to stop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nxm_sweep.errors import TrialStopped


class Watch:
    """Somebody who watches a trial; this one looks away. Subclasses override what they care for."""

    def on_step(self, step: int, steps: int) -> None:
        """Hear of a finished optimizer step, of so many."""

    def on_epoch(self, epochs: list[Mapping[str, Any]]) -> None:
        """Hear of the epochs so far; the last one's checkpoint is complete."""

    def stop_now(self) -> str | None:
        """Return why to stop at once, or None."""
        return None

    def stop_after_epoch(self) -> str | None:
        """Return why to stop after a complete checkpoint, or None."""
        return self.stop_now()


class Watched(TrainerCallback):
    """Tells a watch of each step, and stops the training when it says so."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._watch.on_step(state.global_step, state.max_steps)
        obey(self._watch.stop_now())


def obey(reason: str | None) -> None:
    """Stop the training for a reason.

    Raises:
        TrialStopped: There is one.
    """
    if reason is not None:
        raise TrialStopped(reason)
