"""``python -m nxm_sweep`` with trials that train nothing: real processes, real storage, no model and no data.

The environment variable ``FAKE_TRIALS`` holds JSON:

- ``ledger``: file that gets a line ``start IDENTITY PID`` and ``end IDENTITY PID`` per training;
- ``epochs`` (2) and ``seconds`` (0.02) of an epoch; every finished epoch is kept in ``work/epochs.json`` as a checkpoint;
- ``faults``: ``[{"when": {"learning_rate": 1e-4}, "do": "nan", "times": 1}]``, with ``do`` one of ``nan``, ``exit``,
  ``vanish`` (``os._exit(0)``), ``raise``, ``kill``, ``oom``, ``hang``, and ``kill late`` and ``hang late`` (once the record is
  written); ``when`` compares learning_rate, rho, batch_size, seed, method and task; ``times``
  counts attempts.

The score of an epoch is a function of the settings alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from nxm_sweep.config.compose import settings_of
from nxm_sweep.errors import NonFiniteError, TrialStoppedError
from nxm_sweep.store.progress import PRUNED
from nxm_sweep.store.records import write_record
from nxm_sweep.store.stop_signals import end_at_once
from nxm_sweep.sweep.execution import pool
from nxm_sweep.trial import run


def _facts(settings: Any) -> dict[str, Any]:
    return {
        "learning_rate": settings.learning_rate.value,
        "rho": settings.rho.value,
        "batch_size": settings.training.batch_size,
        "seed": settings.seed,
        "method": settings.method.name,
        "task": settings.task.name,
    }


def score_of(settings: Any, epoch: int) -> float:
    """A number in [0, 1) that depends on the settings alone."""
    text = json.dumps([_facts(settings), epoch], sort_keys=True)
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 16**8


@dataclass
class _Prepared:
    rows: Any
    model_digest: str = "0" * 64
    teacher_digest: str = ""
    carries_head: bool = False
    seconds: float = 0.0


def _prepare(settings: Any) -> Any:
    digest = hashlib.sha256(settings.task.name.encode()).hexdigest()
    return _Prepared(rows=SimpleNamespace(digest=digest, train=range(100)))


def _note(options: dict[str, Any], *words: Any) -> None:
    with Path(options["ledger"]).open("a") as file:
        file.write(" ".join(map(str, words)) + "\n")


def _fault(settings: Any, folder: Path, options: dict[str, Any], *, late: bool = False) -> str | None:
    facts = _facts(settings)
    for fault in options.get("faults", []):
        if fault["do"].endswith(" late") == late and all(facts[key] == value for key, value in fault["when"].items()):
            counter = folder / f"attempts-{fault['do']}"
            attempts = len(counter.read_text()) if counter.exists() else 0
            if attempts < fault.get("times", 10**6):
                counter.write_text("x" * (attempts + 1))
                return str(fault["do"])
    return None


def _do(fault: str) -> None:
    match fault:
        case "nan":
            raise NonFiniteError("the loss became nan at step 3")
        case "exit":
            sys.exit(7)
        case "vanish":
            os._exit(0)
        case "raise":
            raise RuntimeError("something broke")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "oom":
            torch.empty(1 << 60)
        case "hang":
            time.sleep(600)


def _run_trial(settings: Any, prepared: Any, folder: Path, console: Any, monitor: Any, *, work: Path) -> dict[str, Any]:
    options = json.loads(os.environ["FAKE_TRIALS"])
    _note(options, "start", folder.name, os.getpid())
    fault = _fault(settings, folder, options)
    checkpoint = work / "epochs.json"
    checkpoint.parent.mkdir(exist_ok=True)
    epochs = json.loads(checkpoint.read_text()) if checkpoint.exists() else []
    total = options.get("epochs", 2)
    resumed = len(epochs) or None
    for epoch in range(len(epochs) + 1, total + 1):
        time.sleep(options.get("seconds", 0.02))
        monitor.on_step(epoch, total)
        reason = monitor.stop_now()
        if reason == PRUNED:
            raise TrialStoppedError(reason)
        value = score_of(settings, epoch)
        entry = {
            "epoch": epoch,
            "selection": value,
            "unpruned_selection": value,
            "relative_distance": 0.1,
            "pruned": {},
        }
        epochs.append({**entry, "training_loss": 1.0})
        fresh = checkpoint.with_suffix(".tmp")
        fresh.write_text(json.dumps(epochs))
        fresh.replace(checkpoint)
        monitor.on_epoch(epochs)
        if fault is not None:
            _do(fault)
        if epoch < total and (reason := monitor.stop_after_epoch()):
            raise TrialStoppedError(reason)
    best = max(epochs, key=lambda entry: entry["selection"])
    _note(options, "end", folder.name, os.getpid())
    return {
        "best": {"epoch": best["epoch"], "value": best["selection"], "unpruned_value": None},
        "selection": {"metric": "accuracy", "set": "validation", "protocol": "fake"},
        "epochs": epochs,
        "iterations": [],
        "sparsity": {"targets": [], "checked": [], "exact": True},
        "resumed_from_step": resumed,
        "seconds": {"total": 1.0},
        "tokens": 0,
    }


def _write_record(folder: Path, record: Any) -> None:
    write_record(folder, record)
    fault = _fault(settings_of(record["config"]), folder, json.loads(os.environ["FAKE_TRIALS"]), late=True)
    if fault is not None:
        _do(fault.removesuffix(" late"))


def _pretend() -> None:
    vars(run)["write_record"] = _write_record
    trial = ModuleType("nxm_sweep.trial.train")
    trial.prepare, trial.run_trial = _prepare, _run_trial  # type: ignore[attr-defined]
    quiet = ModuleType("nxm_sweep.training.quiet")
    quiet.silence_known_noise = lambda: None  # type: ignore[attr-defined]
    sys.modules |= {trial.__name__: trial, quiet.__name__: quiet}
    pool.PRELOAD = "torch"  # the fork server shall not import what no trial here needs


_pretend()  # at the top: worker processes execute this module too

if __name__ == "__main__":
    end_at_once()

    from nxm_sweep.__main__ import main

    sys.exit(main())
