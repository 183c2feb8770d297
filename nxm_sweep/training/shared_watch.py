"""A trial's watch where several ranks train one model; apart from ``watch``, which is read without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nxm_sweep.sparsity import ranks
from nxm_sweep.training.watch import Watch


class SharedWatch(Watch):
    """The watch of rank 0, which decides for all ranks; the others' own are not asked.

    Args:
        watch: This rank's.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch if ranks.rank() == 0 else Watch()

    def on_step(self, step: int, steps: int) -> None:
        self._watch.on_step(step, steps)

    def on_epoch(self, epochs: Sequence[Mapping[str, Any]]) -> None:
        self._watch.on_epoch(epochs)

    def stop_now(self) -> str | None:
        reason: str | None = ranks.share(self._watch.stop_now())
        return reason

    def stop_after_epoch(self) -> str | None:
        reason: str | None = ranks.share(self._watch.stop_after_epoch())
        return reason
