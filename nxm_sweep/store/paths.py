"""Every file and folder of an output directory, named once.

::

    OUTPUT_DIR/
      trials/IDENTITY/          one trial; IDENTITY is the hash of what can change its outcome
        result.json             its record; written last, atomically
        predictions.json        the selected model's predictions on the validation sets
        model/                  the selected model, with save_model=true
        log.txt                 output of its worker
        failures.json           failed attempts
        claim.json              coordinator that claimed it
        progress.json           its current step and epochs; only while it trains
        stop.json, pruned.json  request to stop; state when stopped by the pruner
        job.json                heartbeat of a Hydra launcher's job
        work/                   the last two checkpoints and the best models that they name; removed after the record.
                                work.1/ of a trial taken over
        *.damaged               what could not be read, set aside
      sweeps/                   plans of sweeps, one JSON file each
        coordinators/           heartbeats of coordinators, one JSON file each
      studies/                  Optuna's storage: a view of the records, rebuilt when lost
      reports/                  output of `python -m nxm_sweep.report`
      speed/                    output of `python -m nxm_sweep.speed`: a JSON file per model, GPU, type and batch
"""

from __future__ import annotations

from pathlib import Path

TRIALS, PLANS, STUDIES, REPORTS, SPEEDS = "trials", "sweeps", "studies", "reports", "speed"

RESULT = "result.json"
PREDICTIONS = "predictions.json"
MODEL = "model"
LOG = "log.txt"
FAILURES = "failures.json"
CLAIM = "claim.json"
PROGRESS = "progress.json"
STOP, PRUNED_FILE = "stop.json", "pruned.json"
JOB = "job.json"
DAMAGED = ".damaged"
"""In the name of a file or folder that was set aside."""
WORK = "work"

DATABASE, JOURNAL = "optuna.db", "optuna.journal"


def trial_folder(output_dir: Path, identity: str) -> Path:
    """Return the folder of a trial."""
    return output_dir / TRIALS / identity


def trial_lock(folder: Path, number: int = 0) -> Path:
    """Return the lock held by the process that trains a trial; one that is taken over has the next number."""
    return folder / (f".lock.{number}" if number else ".lock")


def work_folder(folder: Path, number: int = 0) -> Path:
    """Return the folder for checkpoints of the holder of a trial's lock."""
    return folder / (f"{WORK}.{number}" if number else WORK)


def coordinator_file(output_dir: Path, owner: str) -> Path:
    """Return the heartbeat file of a coordinator."""
    return output_dir / PLANS / "coordinators" / f"{owner}.json"


def claims_lock(output_dir: Path) -> Path:
    """Return the lock around claims."""
    return output_dir / PLANS / ".claims.lock"


def digest_memo(output_dir: Path) -> Path:
    """Return the file that caches digests of data and models."""
    return output_dir / PLANS / ".digests" / "memo.json"


def precision_file(output_dir: Path, device: str) -> Path:
    """Return the file that stores what ``training.precision=auto`` resolves to on a device."""
    return output_dir / PLANS / ".precision" / device


def storage_lock_file(output_dir: Path) -> Path:
    """Return the lock around opening the studies' storage; never ``<journal>.lock``, which Optuna uses itself."""
    return output_dir / STUDIES / ".storage.lock"


def backfill_lock(output_dir: Path) -> Path:
    """Return the lock around adding records to the studies."""
    return output_dir / STUDIES / ".catch-up.lock"
