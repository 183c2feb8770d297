"""2,000 mutations of every kind of small file: whatever reads it goes on, or says in one line what is wrong."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from nxm_sweep import status
from nxm_sweep.errors import RecordError
from nxm_sweep.report.frames import NOT_A_RECORD, rows_of
from nxm_sweep.store import small_files
from nxm_sweep.store.attempts import outcome_of, read_failures
from nxm_sweep.store.files import write_json
from nxm_sweep.store.liveness import this_process
from nxm_sweep.store.paths import CLAIM, FAILURES, JOB, PROGRESS, PRUNED_FILE, RESULT, STOP, trial_folder
from nxm_sweep.store.plans import cells_of, read_plans, rules_of
from nxm_sweep.store.progress import ProgressFile, format_progress, is_training, read_progress, read_pruned, read_stop
from nxm_sweep.store.records import read_record, read_summary
from nxm_sweep.store.state import pattern_in, point_state, read_states
from nxm_sweep.sweep.execution.claims import Claims
from nxm_sweep.sweep.execution.launcher_job import answer_of, lives, read_job
from nxm_sweep.sweep.studies.study import main_figures
from tests.report.records import record

MUTATIONS = 2000
IDENTITY = "a" * 16
LEASE = 60.0
VALUES: list[Any] = [
    *(None, True, 0, -1, 2**63, 10**400, 0.5, 1e308, float("nan"), float("inf")),
    *("", "a", "../../../etc/passwd", "\0", "\ud800", "[red]", "x" * 5000, [], [[]], {}, {"schema": 1}),
]


def _mutate(value: Any, draw: random.Random) -> Any:
    """Change, drop or add something at a random place of a JSON value."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(sorted(value))
        changed = {**value, key: _mutate(value[key], draw)}
        if draw.random() < 0.2:
            del changed[key]
        elif draw.random() < 0.1:
            changed[draw.choice(["", "x", "\0", "x" * 300])] = changed.pop(key)
        return changed
    if isinstance(value, list) and value and draw.random() < 0.85:
        index = draw.randrange(len(value))
        middle = draw.choice([[_mutate(value[index], draw)], [], [value[index]] * 2])
        return [*value[:index], *middle, *value[index + 1 :]]
    return draw.choice(VALUES)


def _damage(content: bytes, draw: random.Random) -> bytes:
    """Mutate a file's content: its JSON, or its bytes."""
    match draw.randrange(8):
        case 0:
            return content[: draw.randrange(len(content))]
        case 1:
            place = draw.randrange(len(content))
            return content[:place] + draw.randbytes(draw.randrange(1, 8)) + content[place + 1 :]
        case 2:
            return draw.choice(
                [b"", b"\0" * 100, b"{}", b"[]", b"null", b"5", b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe"]
            )
    return json.dumps(_mutate(json.loads(content), draw)).encode()


def _trial(output: Path) -> Path:
    return trial_folder(output, IDENTITY)


def _read_progress(output: Path) -> None:
    read_progress(_trial(output))
    is_training(_trial(output), LEASE)
    format_progress(_trial(output))
    point_state(output, IDENTITY, lease=LEASE, max_attempts=3)


def _read_pruned(output: Path) -> None:
    read_pruned(_trial(output))
    point_state(output, IDENTITY, lease=LEASE, max_attempts=3, pruning=True)


def _read_stop(output: Path) -> None:
    reason = read_stop(_trial(output))
    assert reason is None or isinstance(reason, str)
    progress = ProgressFile(_trial(output))
    progress.stop_after_epoch()


def _read_failures(output: Path) -> None:
    failures = read_failures(_trial(output))
    point_state(output, IDENTITY, lease=LEASE, max_attempts=3)
    if failures:
        json.dumps([failure.message for failure in failures])


def _read_job(output: Path) -> None:
    job = read_job(_trial(output))
    if job is not None:
        lives(job, _trial(output), LEASE)
        if answer_of(job) is not None:
            outcome_of(answer_of(job))


def _read_claim(output: Path) -> None:
    Claims(output, LEASE).is_taken(IDENTITY)


def _read_coordinator(output: Path) -> None:
    Claims(output, LEASE).is_alone()


def _read_plan(output: Path) -> None:
    for plan in read_plans(output):
        for cell in cells_of(plan):
            states = read_states(output, cell.points, **rules_of(plan))
            pattern_in(cell, states.patterns)
            states.count(cell.points)
            states.best(cell.points)
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
            status._print_sweep(plan, output, Console(file=nowhere, width=200))


def _read_record(output: Path) -> None:
    refused: list[str] = []
    try:
        found = read_record(_trial(output))
        summary = read_summary(_trial(output))
    except RecordError as error:
        refused.append(error.message)
        found = summary = None
    assert all("\n" not in message and RESULT in message and len(message) < 1000 for message in refused), refused
    if found is not None:
        assert summary is not None
        main_figures(found)
        with suppress(*NOT_A_RECORD):  # a problem of the report
            rows_of(output, _trial(output) / RESULT, found)


PROCESS = this_process()
EPOCHS = [{"epoch": 1, "selection": 0.5}, {"epoch": 2, "selection": 0.75}]
FAILURE = {"kind": "killed", "message": "the worker was ended", "when": "2026-01-01T00:00:00+00:00", "traceback": "x"}
CELL = {
    "name": "glue/rte nxm 2of4 tiny",
    "names": {"task": "glue/rte", "method": "nxm", "sparsity": "2of4", "model": "tiny", "distillation": "none"},
    "pattern": "2of4",
    "study": "s",
    "metric": "accuracy",
    "axes": ["learning_rate.value", "seed"],
    "wanted": 4,
    "search": "",
    "seeds": [0, 1],
    "points": [[IDENTITY, [1e-5, 0]], ["b" * 16, [1e-5, 1]]],
}
PLAN = {"command": ["method=nxm"], "written": 1.0, "n_trials": None, "lease": 60, "max_attempts": 3, "pruning": True}
FILES: Mapping[str, tuple[str, Any, Callable[[Path], None]]] = {
    "progress": (
        f"trials/{IDENTITY}/{PROGRESS}",
        {"process": PROCESS, "since": 1.0, "step": 3, "steps": 40, "epochs": EPOCHS},
        _read_progress,
    ),
    "pruned": (f"trials/{IDENTITY}/{PRUNED_FILE}", {"epochs": EPOCHS}, _read_pruned),
    "stop": (f"trials/{IDENTITY}/{STOP}", {"reason": "interrupted"}, _read_stop),
    "failures": (f"trials/{IDENTITY}/{FAILURES}", [FAILURE, FAILURE], _read_failures),
    "job": (f"trials/{IDENTITY}/{JOB}", {"process": PROCESS, "answer": FAILURE}, _read_job),
    "claim": (f"trials/{IDENTITY}/{CLAIM}", {**PROCESS, "owner": "0123456789ab", "since": 1.0}, _read_claim),
    "coordinator": ("sweeps/coordinators/0123456789ab.json", {**PROCESS, "since": 1.0}, _read_coordinator),
    "plan": ("sweeps/plan.json", {**PLAN, "cells": [CELL]}, _read_plan),
    "record": (f"trials/{IDENTITY}/{RESULT}", record(IDENTITY, 0.5, rho=1e-3), _read_record),
}


@pytest.mark.fault(
    "storage",
    "2,000 mutations of every kind of small file",
    "each is read, or named in one line and counted as missing or as a problem; nothing raises",
)
@pytest.mark.parametrize("kind", FILES)
def test_mutated_small_file_stops_nothing(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, value, read = FILES[kind]
    said: list[str] = []
    monkeypatch.setattr(small_files, "warn", said.append)
    draw = random.Random(f"14 {kind}")
    file = tmp_path / name
    write_json(file, value)
    content = file.read_bytes()
    read(tmp_path)
    assert said == []
    named = 0
    for turn in range(MUTATIONS):
        mutated = _damage(content, draw)
        file.write_bytes(mutated)
        small_files._warned.clear()
        said.clear()
        try:
            read(tmp_path)
        except Exception as error:
            error.add_note(f"mutation {turn} of {kind}: {mutated[:300]!r}")
            raise
        assert all(str(file) in line and "\n" not in line for line in said), mutated[:300]
        named += bool(said)
    assert named > MUTATIONS / 4 or kind == "record"
