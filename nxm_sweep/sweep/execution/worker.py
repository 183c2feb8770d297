"""Code of a worker process: warm up once, then train one trial after another."""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import sys
import threading
import traceback
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from tqdm import tqdm

from nxm_sweep.console import TextConsole
from nxm_sweep.errors import TrialStoppedError
from nxm_sweep.settings import TrialSettings
from nxm_sweep.store.attempts import STOPPED, add_failure, classify
from nxm_sweep.store.files import open_log
from nxm_sweep.store.paths import LOG, trial_folder
from nxm_sweep.store.stop_signals import forget, note_in_worker
from nxm_sweep.trial.inputs import Inputs
from nxm_sweep.trial.run import run_point

_INPUTS = Inputs()


def warm_up(preload: str, threads: int, device: str | None) -> None:
    """Prepare a worker process: device, threads, and the imports that take seconds.

    Args:
        preload: Module that imports what a worker needs before its first trial.
        threads: CPU threads; the processes of a trial on several devices share them.
        device: Value of ``CUDA_VISIBLE_DEVICES``; None leaves it unchanged.
    """
    note_in_worker()
    threading.Thread(target=end_with_coordinator, name="orphan watch", daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    importlib.import_module(preload)
    tqdm.set_lock(threading.RLock())  # its own holds a semaphore, which a worker, ended by SIGKILL, would leave behind
    gc.freeze()  # what is loaded now stays: a collection after every trial would scan all of it, for 0.3 s
    torch.set_num_threads(threads)  # OMP_NUM_THREADS is too late: starting a process has imported torch


def end_with_coordinator() -> None:
    """Exit when the coordinator has ended, even if a fork server is the parent."""
    coordinator = multiprocessing.parent_process()
    if coordinator is not None:
        coordinator.join()
        os._exit(1)


def work(settings: TrialSettings, identity: str) -> dict[str, str] | None:
    """Train one point in a worker process, with all output in its log file, also of libraries. As :func:`train`."""
    folder = trial_folder(Path(settings.output_dir), identity)
    folder.mkdir(parents=True, exist_ok=True)
    with open_log(folder / LOG) as log:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(log.fileno(), stream.fileno())
    return train(settings, identity)


def train(settings: TrialSettings, identity: str) -> dict[str, str] | None:
    """Train one point; its output goes to its own log file.

    Args:
        settings: The point's settings.
        identity: Its planned identity.

    Returns:
        None if it has a record; else ``{"stopped": reason}`` or a failure's fields.
    """
    folder = trial_folder(Path(settings.output_dir), identity)
    folder.mkdir(parents=True, exist_ok=True)
    with open_log(folder / LOG) as log:
        return _train(settings, folder, TextConsole(file=log, width=120))


def _train(settings: TrialSettings, folder: Path, console: Console) -> dict[str, str] | None:
    from nxm_sweep.training.quiet import silence_known_noise  # noqa: PLC0415 - seconds of imports

    silence_known_noise()
    forget()
    try:
        run_point(settings, console, planned=folder.name, inputs=_INPUTS)
    except TrialStoppedError as stopped:
        return {STOPPED: stopped.message}
    except (Exception, SystemExit) as error:  # an exception ends only its own trial
        if isinstance(error, SystemExit) and "SUBMITIT_EXECUTOR" in os.environ:
            raise  # submitit has requeued the job
        text = traceback.format_exc()
        console.print(text, markup=False)
        failed = classify(error, text)
        with suppress(OSError):  # the coordinator adds it, or says why it cannot
            add_failure(folder, failed)
        return asdict(failed)
    finally:
        _free_memory()
    return None


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
