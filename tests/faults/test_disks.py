"""Folders that cannot be written and disks that fill up, as real mounts: one line, and nothing that was written is lost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.faults.conftest import Folder

COMMAND = ("learning_rate.value=1e-5,2e-5,3e-5", "training.batch_size=16", "sweep.workers=1")
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
FULL_WHILE_IT_RUNS = """
mkdir -p "$0" && mount -t tmpfs -o size=4m small "$0" || exit 99
(until ls "$0"/trials/*/result.json >/dev/null 2>&1; do sleep 0.05; done; dd if=/dev/zero of="$0/filler" bs=64k) 2>/dev/null &
"$@"; echo "exit code $?"; wait
rm "$0/filler"; echo "AGAIN"
exec "$@"
"""


def mounting(script: str, folder: Path) -> Sequence[str]:
    """Return a prefix that runs a command behind a shell script with mounts of its own; ``$0`` is the folder."""
    prefix = ("unshare", "--mount", "sh", "-c")
    if subprocess.run([*prefix, "mount -t tmpfs none /mnt"], capture_output=True, check=False).returncode:
        pytest.skip("this system lets the test mount nothing")
    return [*prefix, script, str(folder)]


@pytest.mark.fault(
    "storage", "a read-only output folder, for a single trial", "One line and exit code 2, before a model loads."
)
def test_read_only_folder_of_a_single_trial_is_one_line(tiny_model: Path, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    command = [sys.executable, "-m", "nxm_sweep", "task=demo/paraphrase", "model=local", f"model.path={tiny_model}"]
    trial = [*mounting(READ_ONLY, outputs), *command, f"output_dir={outputs}"]
    ended = subprocess.run(trial, capture_output=True, text=True, timeout=180, check=False)
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        f"error: {outputs}/trials cannot be written: Read-only file system",
        "hint: make it writable, or give another folder: output_dir=FOLDER",
    ]


@pytest.mark.fault("storage", "a read-only output folder, for a sweep", "One line and exit code 2; nothing is trained.")
def test_read_only_folder_of_a_sweep_is_one_line(folder: Folder) -> None:
    folder.output.mkdir()
    ended = folder.run(*COMMAND, prefix=mounting(READ_ONLY, folder.output))
    assert ended.code == 2
    error, hint = ended.err.splitlines()
    assert error.startswith(f"error: {folder.output}/sweeps")
    assert error.endswith(" cannot be written: Read-only file system")
    assert hint.startswith("hint: make it writable")
    assert not folder.ledger.exists()


@pytest.mark.fault(
    "storage", "one read-only trial folder in a sweep", "That point fails with the reason; the others are trained."
)
def test_read_only_trial_folder_fails_its_point_alone(folder: Folder) -> None:
    assert folder.run(*COMMAND).code == 0
    victim, *others = sorted(folder.records)
    for identity in (victim, others[0]):
        for file in (folder.output / "trials" / identity).iterdir():
            file.unlink()
    folder.ledger.unlink()
    ended = folder.run(*COMMAND, prefix=mounting(READ_ONLY, folder.output / "trials" / victim))
    assert ended.code == 1, ended.err
    assert ended.err == ""
    assert "2 of 3 points have a record, 1 trained now, 1 failed" in ended.out
    (problem,) = ended.problems
    assert victim in problem
    assert "cannot be written: Read-only file system" in problem
    assert set(folder.trainings("end")) == {others[0]}
    again = folder.run(*COMMAND)  # the failure says nothing about the trial and is not kept
    assert again.code == 0, again.out + again.err


@pytest.mark.fault(
    "storage",
    "a disk that fills up during a sweep",
    "The sweep names the device and its free space; the same command continues once there is room.",
)
def test_disk_that_fills_up_is_named_and_costs_no_record(folder: Folder) -> None:
    ended = folder.run(*COMMAND, prefix=mounting(FULL_WHILE_IT_RUNS, folder.output), seconds=0.5, epochs=3)
    first, second = ended.out.split("AGAIN\n")
    assert ended.code == 0, ended.err
    assert "exit code 0" not in first
    assert f"no space left on small at {folder.output}, 0 MiB free" in first + ended.err
    assert "Traceback" not in first + ended.err
    assert "3 of 3 points have a record" in second
    assert "0 failed" not in second
    assert max(folder.trainings("end").values()) <= 2
    assert list(folder.output.iterdir()) == []  # the disk is gone with its process
