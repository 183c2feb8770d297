"""Ctrl-C stops after the running epochs, other signals after the running steps, twice at once; nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.faults.conftest import Folder

COMMAND = ("learning_rate.value=1e-5,2e-5,3e-5", "training.batch_size=16", "sweep.workers=2")
FOR_EVER = 600.0
Until = Callable[[Callable[[], Any], str], None]


@pytest.mark.fault(
    "process",
    "a second Ctrl-C or SIGTERM",
    "The sweep ends at once with exit code 130 or 143; no process and no claim is left.",
)
@pytest.mark.parametrize(("number", "pause"), [(signal.SIGINT, 0.1), (signal.SIGTERM, 1.2)])
def test_second_signal_ends_at_once(number: signal.Signals, pause: float, folder: Folder, until: Until) -> None:
    sweeping = folder.start(*COMMAND, "sweep.workers=1", seconds=FOR_EVER)
    until(lambda: folder.running, "a trial is at work")
    workers = sweeping.family()
    sweeping.send(number)
    time.sleep(pause)  # two signals of one kind that come together are one
    sweeping.send(number)
    ended = sweeping.wait()  # within far less than an epoch
    assert ended.code == 128 + number
    assert ended.err.splitlines() == ["interrupted; the same command continues after the last finished epoch"]
    until(lambda: not workers.living, "its processes end with it")
    assert folder.records == {}
    assert not list(folder.output.glob("trials/*/claim.json"))


@pytest.mark.fault(
    "process",
    "SIGTERM, SIGUSR1 or SIGHUP, to the coordinator or to its whole group",
    "The running steps are the last, with a checkpoint; the points are queued again, and the exit code is 128 + the signal's.",
)
@pytest.mark.parametrize(
    ("number", "whole_group"),
    [
        (signal.SIGTERM, True),
        pytest.param(signal.SIGUSR1, False, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, True, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, True, marks=pytest.mark.slow),
    ],
)
def test_sweep_stops_after_its_steps_and_goes_on_with_the_next(
    number: signal.Signals, whole_group: bool, folder: Folder, until: Until
) -> None:
    sweeping = folder.start(*COMMAND, epochs=40, seconds=0.5)
    until(lambda: len(folder.running) == 2, "two trials are at work")
    if whole_group:
        os.killpg(sweeping.pid, number)
    else:
        sweeping.send(number)
    ended = sweeping.wait()
    assert ended.code == 128 + number, ended.err
    assert ended.err == ""
    assert f"{number.name}: stopping after the running steps" in ended.out
    assert "0 of 3 points have a record, 0 trained now, 3 not trained yet" in ended.out
    assert "report:" not in ended.out  # there is nothing to report yet
    assert folder.claims == []
    assert {trial.state.name for trial in folder.trials()} == {"WAITING"}
    assert not list(folder.output.glob("trials/*/failures.json"))
    started = folder.trainings("start")
    assert len(started) == 2
    reached = {
        identity: len(json.loads((folder.output / "trials" / identity / "work" / "epochs.json").read_text()))
        for identity in started
    }
    again = folder.run(*COMMAND, epochs=40, seconds=0.0)
    assert again.code == 0, again.err
    assert {identity: folder.records[identity]["resumed_from_step"] for identity in started} == reached


@pytest.mark.fault(
    "process", "SIGTERM to one worker", "Its trial stops with a checkpoint and is continued; it costs no attempt."
)
def test_worker_that_is_told_to_stop_gives_its_point_back(folder: Folder, until: Until) -> None:
    sweeping = folder.start(*COMMAND, "sweep.workers=1", epochs=6, seconds=0.3)
    until(lambda: folder.running, "a trial is at work")
    folder.running[0].terminate()
    ended = sweeping.wait()
    assert ended.code == 0, ended.out + ended.err
    assert not list(folder.output.glob("trials/*/failures.json"))
    starts = [line.split()[1] for line in folder.ledger.read_text().splitlines() if line.startswith("start")]
    assert len(starts) == 4
    assert starts[0] == starts[1]  # before the other points, which have no checkpoints
    assert len([record for record in folder.records.values() if record["resumed_from_step"]]) == 1
    assert {trial.state.name for trial in folder.trials()} == {"COMPLETE"}


def _step(outputs: Path) -> int:
    files = list(outputs.glob("trials/*/progress.json"))
    return int(json.loads(files[0].read_text())["step"]) if files else 0


def _trial(model: Path, outputs: Path) -> list[str]:
    return [
        *(
            sys.executable,
            "-m",
            "nxm_sweep",
            "task=demo/paraphrase",
            "task.rows={train:2000,validation:32}",
            "method=nxm",
        ),
        *("model=local", f"model.path={model}", "training.epochs=2", "training.max_length=32", "training.batch_size=4"),
        *("training.threads=1", "learning_rate.value=1e-3", f"output_dir={outputs}"),
    ]


@pytest.mark.fault(
    "process",
    "SIGTERM or SIGUSR1 to a single trial, within an epoch",
    "It stops after that step with exit code 143 or 138; the same command ends with the scores of an undisturbed trial.",
)
def test_single_trial_stops_after_its_step_and_ends_like_an_undisturbed_one(
    tiny_model: Path, tmp_path: Path, until: Until
) -> None:
    undisturbed = subprocess.Popen(_trial(tiny_model, tmp_path / "whole"), stdout=subprocess.DEVNULL)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        outputs, command = tmp_path / "stopped", _trial(tiny_model, tmp_path / "stopped")
        trial = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        until(partial(_step, outputs), "a step is done")
        time.sleep(0.7)  # some steps more
        trial.send_signal(number)
        _, err = trial.communicate(timeout=120)
        assert trial.returncode == 128 + number, err
        assert err.splitlines()[-1:] == [
            f"stopped by {number.name} after the running step; the same command continues from there"
        ]
        checkpoints = sorted(int(path.name.split("-")[1]) for path in outputs.glob("trials/*/work/checkpoint-*"))
        assert checkpoints[-1] % 500 > 0
    again = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert again.returncode == 0, again.stderr
    assert f"continuing after step {checkpoints[-1]}" in again.stdout
    assert undisturbed.wait(240) == 0
    (whole,), (stopped,) = (list((tmp_path / name).glob("trials/*/result.json")) for name in ("whole", "stopped"))
    records = [json.loads(path.read_text()) for path in (whole, stopped)]
    assert records[1]["resumed_from_step"] == checkpoints[-1]
    for key in ("best", "epochs", "iterations", "sparsity", "reported", "steps", "tokens", "travel"):
        assert records[0][key] == records[1][key], key


@pytest.mark.fault(
    "process", "Ctrl-C or SIGTERM while the command starts up", "One line, exit code 130 or 143, no traceback."
)
@pytest.mark.parametrize(
    ("number", "module"), [(signal.SIGINT, "hydra"), (signal.SIGINT, "torch"), (signal.SIGTERM, "torch")]
)
def test_signal_during_start_up_is_one_line(number: signal.Signals, module: str, tmp_path: Path, until: Until) -> None:
    began = tmp_path / "began"
    slow = f"import pathlib, time\npathlib.Path({str(began)!r}).touch()\ntime.sleep(600)\n"
    (tmp_path / f"{module}.py").write_text(slow)  # in the place of a package whose import takes seconds
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "nxm_sweep", "task=demo/paraphrase", f"output_dir={tmp_path / 'outputs'}"]
    starting = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    until(began.exists, "the import has begun")
    starting.send_signal(number)
    out, err = starting.communicate(timeout=60)
    assert (starting.returncode, out) == (128 + number, "")
    assert err == f"interrupted by {'Ctrl-C' if number == signal.SIGINT else number.name}\n"


@pytest.mark.fault(
    "process", "Ctrl-C during a sweep", "It stops after the running epochs; the same command continues from there."
)
def test_interrupted_sweep_stops_after_its_epochs_and_goes_on_with_the_next(folder: Folder, until: Until) -> None:
    sweeping = folder.start(*COMMAND, epochs=3, seconds=1.0)
    until(lambda: len(folder.running) == 2, "two trials are at work")
    sweeping.send(signal.SIGINT)
    ended = sweeping.wait()
    assert ended.code == 1, ended.err
    assert "stopping after the running epochs; Ctrl-C again stops at once" in ended.out
    assert "0 of 3 points have a record, 0 trained now, 3 not trained yet" in ended.out
    assert "stopped; the same command continues" in ended.out
    started = folder.trainings("start")
    assert len(started) == 2  # the third was not begun
    assert folder.records == {}
    reached = {
        identity: len(json.loads((folder.output / "trials" / identity / "work" / "epochs.json").read_text()))
        for identity in started
    }
    assert set(reached.values()) <= {1, 2}
    assert {trial.state.name for trial in folder.trials()} == {"WAITING"}

    again = folder.run(*COMMAND, epochs=3)
    assert again.code == 0, again.err
    assert len(folder.records) == 3
    resumed = {identity: folder.records[identity]["resumed_from_step"] for identity in started}
    assert resumed == reached  # no epoch was trained twice
    assert set(folder.trainings("end").values()) == {1}
    assert {trial.state.name for trial in folder.trials()} == {"COMPLETE"}
    assert len(folder.trials()) == 3
