"""How far a sweep is, told from another terminal by what is on disk."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from nxm_sweep import status
from nxm_sweep.store.files import write_json
from nxm_sweep.store.liveness import this_process
from tests.store.core import core_record

IDENTITIES = ("a" * 16, "b" * 16, "c" * 16, "d" * 16)


def _plan(folder: Path, *, name: str = "plan", identities: tuple[str, ...] = IDENTITIES, written: float = 1.0) -> None:
    points = [[identity, [number * 1e-5]] for number, identity in enumerate(identities, start=1)]
    cell = {"name": "glue/rte nxm 2of4 tiny", "study": "s", "metric": "accuracy", "axes": ["learning_rate.value"]}
    write_json(
        folder / "sweeps" / f"{name}.json",
        {"command": ["method=nxm"], "written": written, "n_trials": None, "cells": [{**cell, "points": points}]},
    )


def _record(folder: Path, identity: str, value: float, seconds: float = 60.0) -> None:
    record = core_record(identity, value, seconds)
    write_json(folder / "trials" / identity / "result.json", record)


def _running(folder: Path, identity: str) -> None:
    epochs = [{"epoch": 1, "selection": 0.625}]
    progress = {"process": this_process(), "since": time.time(), "step": 30, "steps": 40, "epochs": epochs}
    write_json(folder / "trials" / identity / "progress.json", progress)


def _status(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["status", str(folder)])
    monkeypatch.setenv("COLUMNS", "160")
    code = status.main()
    return code, capsys.readouterr().out


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_each_point_is_told_by_what_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _plan(tmp_path)
    _record(tmp_path, IDENTITIES[0], 0.75)
    _running(tmp_path, IDENTITIES[1])
    failure = {"kind": "non-finite", "message": "the loss became nan", "when": "2026-01-01T00:00:00+00:00"}
    write_json(tmp_path / "trials" / IDENTITIES[2] / "failures.json", [failure])
    before = _files(tmp_path)
    code, out = _status(tmp_path, monkeypatch, capsys)
    assert code == 1
    assert "4 points: 1 done, 1 running, 1 failed, 1 to do; about 2 min left" in out  # two to go at 60 s on one worker
    assert "75.00 lr 1e-5" in out
    assert "step 30/40  epoch 1: 62.50" in out
    assert f"problem: glue/rte nxm 2of4 tiny lr 3e-5  non-finite: the loss became nan  ({IDENTITIES[2]})" in out
    assert _files(tmp_path) == before


def test_the_time_left_is_known_from_the_first_finished_trial_of_any_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, third, fourth = ([identity, [1e-5]] for identity in IDENTITIES)
    cell = {"study": "s", "metric": "accuracy", "axes": ["learning_rate.value"]}
    dense = {**cell, "name": "glue/rte dense dense tiny", "points": [first]}
    sparse = {**cell, "name": "glue/rte asp 2of4 tiny", "points": [second, third, fourth]}
    plan = {"command": ["method=dense,asp"], "written": 1.0, "n_trials": None, "cells": [dense, sparse]}
    write_json(tmp_path / "sweeps" / "plan.json", plan)
    _running(tmp_path, IDENTITIES[1])
    assert "left" not in _status(tmp_path, monkeypatch, capsys)[1]
    _record(tmp_path, IDENTITIES[0], 0.75)
    _, out = _status(tmp_path, monkeypatch, capsys)
    assert "4 points: 1 done, 1 running, 2 to do; about 3 min left" in out


def test_the_pattern_is_what_the_matrices_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    held = {"targets": [{"matrix": "a", "constraint": "0.5 unstructured"}], "exact": True}
    for folder, pattern in ((tmp_path / "old", None), (tmp_path / "new", "50% unstructured")):
        _plan(folder)
        file = folder / "sweeps" / "plan.json"
        plan = json.loads(file.read_text())
        if pattern is not None:
            plan["cells"][0]["pattern"] = pattern
        else:
            _record(folder, IDENTITIES[0], 0.75)
            record = json.loads((folder / "trials" / IDENTITIES[0] / "result.json").read_text())
            write_json(
                folder / "trials" / IDENTITIES[0] / "result.json", {**record, "sparsity_name": "2of4", "sparsity": held}
            )
        file.write_text(json.dumps(plan))
        _, out = _status(folder, monkeypatch, capsys)
        assert "glue/rte nxm 50% unstructured tiny" in out
        assert "2of4" not in out


def test_best_of_a_search_with_several_seeds_is_the_best_mean_of_a_finished_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = {(1e-5, 0): 0.9, (1e-5, 1): 0.1, (2e-5, 0): 0.6, (2e-5, 1): 0.7, (3e-5, 0): 0.95}
    identities = {key: f"{number:016x}" for number, key in enumerate([*scores, (3e-5, 1)])}
    cell = {
        "name": "glue/rte nxm 2of4 tiny",
        "study": "s",
        "axes": ["learning_rate.value", "seed"],
        "wanted": 6,
        "seeds": [0, 1],
        "points": [[identity, list(key)] for key, identity in identities.items()],
    }
    plan = {"command": ["method=nxm"], "written": 1.0, "n_trials": 3, "cells": [cell]}
    write_json(tmp_path / "sweeps" / "plan.json", plan)
    for key, value in scores.items():
        _record(tmp_path, identities[key], value)
    code, out = _status(tmp_path, monkeypatch, capsys)
    assert code == 1
    assert "65.00 lr 2e-5, mean over 2 seeds" in out  # not 0.95 or 0.9, which are one seed's
    assert "3 points x 2 seeds = 6 trainings: 5 done, 1 to do" in out
    failure = {"kind": "non-finite", "message": "the loss became nan", "when": "2026-01-01T00:00:00+00:00"}
    write_json(tmp_path / "trials" / identities[3e-5, 1] / "failures.json", [failure])
    _, out = _status(tmp_path, monkeypatch, capsys)
    assert "95.00 lr 3e-5, mean over 1 of 2 seeds" in out  # the other will not come: as the sampler was told


def test_a_finished_sweep_is_exit_code_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _plan(tmp_path)
    for number, identity in enumerate(IDENTITIES):
        _record(tmp_path, identity, number / 8)
    code, out = _status(tmp_path, monkeypatch, capsys)
    assert code == 0
    assert "37.50 lr 4e-5" in out
    assert "4 points: 4 done\n" in out


def test_a_trial_whose_process_is_gone_is_to_do_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _plan(tmp_path)
    _running(tmp_path, IDENTITIES[0])
    file = tmp_path / "trials" / IDENTITIES[0] / "progress.json"
    progress = json.loads(file.read_text())
    progress["process"]["pid"] = 2**22 + 1  # above any process number
    file.write_text(json.dumps(progress))
    _, out = _status(tmp_path, monkeypatch, capsys)
    assert "4 points: 4 to do\n" in out


def test_a_damaged_record_is_a_problem_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _plan(tmp_path)
    _record(tmp_path, IDENTITIES[0], 0.5)
    (tmp_path / "trials" / IDENTITIES[0] / "result.json").write_text("{")
    code, out = _status(tmp_path, monkeypatch, capsys)
    assert code == 1
    assert "problem: glue/rte nxm 2of4 tiny lr 1e-5  bad input:" in out
    assert "cannot be read" in out


def test_a_plan_that_a_newer_one_holds_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _plan(tmp_path, name="old", identities=IDENTITIES[:2], written=1.0)
    _plan(tmp_path, name="new", identities=IDENTITIES, written=2.0)
    _plan(tmp_path, name="other", identities=("e" * 16,), written=0.5)
    _, out = _status(tmp_path, monkeypatch, capsys)
    assert out.count("-m method=nxm") == 2
    assert out.index("1 points: 1 to do") < out.index("4 points: 4 to do")  # the newest next to the prompt


def test_a_folder_without_a_sweep_is_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["status", str(tmp_path)])
    assert status.main() == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error == f"error: {tmp_path} holds no sweep"
    assert hint.startswith("hint: ")
    assert os.listdir(tmp_path) == []  # noqa: PTH208
