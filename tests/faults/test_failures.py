"""Trials that fail end alone: the others get their records, and every problem is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from nxm_sweep.errors import NonFiniteError
from nxm_sweep.store.attempts import classify, is_worth_a_try
from nxm_sweep.trial.train import _verify

if TYPE_CHECKING:
    from tests.faults.conftest import Folder

DRIVER = Path(__file__).resolve().parents[1] / "sweep" / "driver.py"
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


@pytest.mark.fault(
    "process", "a trial without enough memory", "It is tried again, and the reason says what needs less memory."
)
def test_lack_of_memory_says_what_needs_less(folder: Folder) -> None:
    command = ("learning_rate.value=1e-5,2e-5", "training.batch_size=16", "sweep.workers=1", "sweep.max_attempts=2")
    ended = folder.run(*command, faults=[{"when": {"learning_rate": 1e-5}, "do": "oom"}])
    assert ended.code == 1, ended.err
    (problem,) = ended.problems
    assert "  out of memory: " in problem
    assert "tried to allocate 4611686018427387904 bytes" in problem
    assert "half of training.batch_size with twice training.gradient_accumulation" in problem
    assert sorted(folder.trainings("start").values()) == [1, 2]


@pytest.mark.fault(
    "process", "a single trial without enough memory", "Two lines, the second says what needs less; exit code 1."
)
def test_lack_of_memory_of_a_single_trial_is_one_line_and_a_hint(tmp_path: Path) -> None:
    fault = {"when": {"learning_rate": 1e-5}, "do": "oom"}
    trials = json.dumps({"ledger": str(tmp_path / "ledger"), "faults": [fault]})
    command = [
        sys.executable,
        str(DRIVER),
        "model=minilm_l6",
        "task=glue/rte",
        "method=asp",
        "learning_rate.value=1e-5",
    ]
    ended = subprocess.run(
        [*command, f"output_dir={tmp_path / 'outputs'}"],
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, "FAKE_TRIALS": trials},
        check=False,
    )
    assert ended.returncode == 1
    error, hint = ended.stderr.splitlines()
    assert error.startswith("error: out of memory: ")
    assert hint.startswith("hint: half of training.batch_size with twice training.gradient_accumulation")


@pytest.mark.fault(
    "model", "NaN in a trained weight that no validation row reads", "The trial has diverged; it is never tried again."
)
def test_nan_in_a_weight_that_no_score_shows_is_a_diverged_training(tmp_path: Path) -> None:
    weights = {"unused": torch.tensor([1.0, float("nan")]), "used": torch.ones(2, 2)}
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(NonFiniteError, match=r"^the trained weights hold NaN or infinity: unused$") as caught:
        _verify(tmp_path, [])
    failed = classify(caught.value)
    assert failed.kind == "non-finite"
    assert not is_worth_a_try([failed], max_attempts=3)


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
    assert "report: python -m nxm_sweep report " in first.out
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
