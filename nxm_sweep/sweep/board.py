"""Where every point of a sweep stands."""

from __future__ import annotations

from dataclasses import dataclass, field

from nxm_sweep.sweep.attempts import Failure


@dataclass
class Board:
    """Where every point of a plan stands.

    Attributes:
        done: Points with a record; the value is the best score, or None until it has been read.
        failed: Points that will not be tried again, with their last failure.
        pruned: Points that a pruner has stopped, with their last score.
        running: Points that this coordinator has handed out, with their number in the study.
        elsewhere: Points that somebody else works on.
        trained: How many attempts of this sweep ended with a record.
    """

    done: dict[str, float | None] = field(default_factory=dict)
    failed: dict[str, Failure] = field(default_factory=dict)
    pruned: dict[str, float | None] = field(default_factory=dict)
    running: dict[str, int] = field(default_factory=dict)
    elsewhere: set[str] = field(default_factory=set)
    trained: int = 0
