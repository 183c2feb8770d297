"""What runs inside a worker process: warm up once, then one trial after another."""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console

from nxm_sweep.errors import TrialStoppedError
from nxm_sweep.settings import TrialSettings
from nxm_sweep.store.attempts import STOPPED, add_failure, classify
from nxm_sweep.store.paths import LOG, trial_folder
from nxm_sweep.trial.inputs import Inputs
from nxm_sweep.trial.run import run_point

_INPUTS = Inputs()


def warm_up(preload: str, threads: int, device: str | None) -> None:
    """Prepare a worker process: its device, its threads, and the imports that take seconds.

    Args:
        preload: Module whose import is all that a worker needs before its first trial.
        threads: CPU threads; the processes of a trial on several devices share them.
        device: Value of ``CUDA_VISIBLE_DEVICES``; None leaves it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the coordinator hears of Ctrl-C and says what is to be done
    threading.Thread(target=_end_with_coordinator, name="orphan watch", daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    importlib.import_module(preload)
    gc.freeze()  # what is there now stays: collecting garbage after every trial would walk through all of it, for 0.3 s
    torch.set_num_threads(threads)  # the variable OMP_NUM_THREADS comes too late: starting a process has imported torch


def _end_with_coordinator() -> None:
    """End this process when the coordinator has ended, also where a fork server is the parent."""
    coordinator = multiprocessing.parent_process()
    if coordinator is not None:
        coordinator.join()
        os._exit(1)


def work(settings: TrialSettings, identity: str) -> dict[str, str] | None:
    """Train one point in a worker process; all that it and the libraries print goes to its log file. As :func:`train`."""
    folder = trial_folder(Path(settings.output_dir), identity)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOG).open("a") as log:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(log.fileno(), stream.fileno())
    return train(settings, identity)


def train(settings: TrialSettings, identity: str) -> dict[str, str] | None:
    """Train one point; what it prints goes to its own log file.

    Args:
        settings: The point's settings.
        identity: Its identity, as it was planned.

    Returns:
        None when it has a record; else why not: ``{"stopped": reason}`` or a failure's fields.
    """
    folder = trial_folder(Path(settings.output_dir), identity)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOG).open("a") as log:
        return _train(settings, folder, Console(file=log, width=120, highlight=False))


def _train(settings: TrialSettings, folder: Path, console: Console) -> dict[str, str] | None:
    from nxm_sweep.training.quiet import silence_known_noise  # noqa: PLC0415 - seconds of imports

    silence_known_noise()
    try:
        run_point(settings, console, planned=folder.name, inputs=_INPUTS)
    except TrialStoppedError as stopped:
        return {STOPPED: stopped.message}
    except (Exception, SystemExit) as error:  # whatever a trial raises ends that trial alone
        if isinstance(error, SystemExit) and "SUBMITIT_EXECUTOR" in os.environ:
            raise  # it has put the job back into the queue
        text = traceback.format_exc()
        console.print(text, markup=False)
        failed = classify(error, text)
        add_failure(folder, failed)
        return asdict(failed)
    finally:
        _free_memory()
    return None


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
