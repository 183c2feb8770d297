"""Trials that fail end alone: the others get their records, and every problem is named."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.faults.conftest import Folder

KINDS = {"nan": "non-finite", "exit": "exit", "raise": "exception", "kill": "killed", "hang": "timeout"}
FAULTS = {1e-5: "nan", 2e-5: "exit", 3e-5: "raise", 4e-5: "kill", 5e-5: "hang"}
KILLED_ONCE = 6e-5
HEALTHY = (7e-5, 8e-5)
COMMAND = (
    "learning_rate.value=range(1e-5,9e-5,step=1e-5)",
    "training.batch_size=16",
    "sweep.workers=2",
    "sweep.max_attempts=2",
    "sweep.time_limit=2",
)


def _faults() -> list[dict[str, Any]]:
    faults = [{"when": {"learning_rate": learning_rate}, "do": fault} for learning_rate, fault in FAULTS.items()]
    return [*faults, {"when": {"learning_rate": KILLED_ONCE}, "do": "kill", "times": 1}]


def _recorded(folder: Folder) -> dict[float, dict[str, Any]]:
    return {record["config"]["learning_rate"]["value"]: record for record in folder.records.values()}


@pytest.mark.fault(
    "process",
    "trials that diverge, raise, exit, hang or are killed",
    "Each ends alone, is tried again where that may help, and is listed with its reason.",
)
def test_failures_end_alone_are_bounded_and_are_tried_again_when_asked(folder: Folder) -> None:
    first = folder.run(*COMMAND, faults=_faults(), epochs=3)
    assert first.code == 1, first.err
    assert sorted(_recorded(folder)) == [KILLED_ONCE, *HEALTHY]
    assert "3 of 8 points have a record, 3 trained now, 5 failed" in first.out
    problems = dict(zip(FAULTS, sorted(first.problems), strict=True))  # equal but for the learning rate
    for learning_rate, fault in FAULTS.items():
        assert f"lr {learning_rate:.0e}".replace("e-0", "e-") in problems[learning_rate]
        assert f"  {KINDS[fault]}: " in problems[learning_rate]
    assert "exit code 7" in problems[2e-5]
    assert "something broke" in problems[3e-5]
    assert "SIGKILL" in problems[4e-5]
    assert "not finished within 2 s" in problems[5e-5]
    identities = {
        learning_rate: next(identity for identity in folder.trainings("start") if identity in problems[learning_rate])
        for learning_rate in FAULTS
    }
    tried = folder.trainings("start")
    assert {FAULTS[rate]: tried[identity] for rate, identity in identities.items()} == {
        "nan": 1,
        "exit": 2,
        "raise": 2,
        "kill": 2,
        "hang": 2,
    }
    once = _recorded(folder)[KILLED_ONCE]
    assert tried[once["identity"]] == 2
    assert once["resumed_from_step"] == 1  # its first epoch was not trained again
    assert all(_recorded(folder)[rate]["resumed_from_step"] is None for rate in HEALTHY)

    again = folder.run(*COMMAND, faults=_faults(), epochs=3)
    assert again.code == 1
    assert again.problems == first.problems
    assert folder.trainings("start") == tried
    assert "5 failed before (sweep.retry_failed=true)" in again.out

    retried = folder.run(*COMMAND, "sweep.retry_failed=true", epochs=3)
    assert retried.code == 0, retried.out
    assert retried.problems == []
    assert folder.trainings("start") - tried == Counter(identities.values())
    assert len(folder.records) == 8
    assert set(folder.trainings("end").values()) == {1}
