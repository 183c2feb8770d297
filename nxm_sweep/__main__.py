"""``nxm-sweep``, or ``python -m nxm_sweep``: one trial, a sweep with ``-m``, or one of the other commands.

Exit codes: 0 the trial has a record; 1 the training failed; 2 bad input, detected before training; 128 and the signal's
number where a signal ended it: 130 Ctrl-C, 129 SIGHUP, 138 SIGUSR1, 143 SIGTERM. A sweep that Ctrl-C stops after its
running epochs ends with 1, like any that lacks points.
"""

from __future__ import annotations

# ruff: noqa: E402, I001 - Ctrl-C is handled before imports that take seconds

import importlib
import os
import sys
from pathlib import Path
from typing import NoReturn

from nxm_sweep.store.stop_signals import end_at_once, received, restore_handlers, signal_name

end_at_once(__name__)

import hydra
from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from nxm_sweep import __version__
from nxm_sweep.config.compose import config_dir, explain, load_settings, register_schema
from nxm_sweep.console import BAD_INPUT, error_console, print_error
from nxm_sweep.errors import (
    ConfigError,
    NonFiniteError,
    NxmSweepError,
    OutOfMemoryError,
    RankError,
    SweepIncompleteError,
    TrialStoppedError,
)

_COMMANDS = {
    "report": "nxm_sweep.report.__main__",
    "status": "nxm_sweep.status",
    "verify": "nxm_sweep.verify",
    "export": "nxm_sweep.export.__main__",
    "predict": "nxm_sweep.predict.__main__",
    "sensitivity": "nxm_sweep.sensitivity.__main__",
}
_FAILED, _INTERRUPTED = 1, 130
_IS_FOLLOWER = os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK", "0") != "0"
"""Whether ``torchrun`` started this process with a rank above 0; only rank 0 prints."""
_ERRORS = error_console(quiet=_IS_FOLLOWER)


def main() -> int:
    """Run the command line; return the exit code."""
    name, *rest = sys.argv[1:] or [""]
    if name == "--version":
        print(f"nxm_sweep {__version__}")  # noqa: T201 - asked for
        return 0
    if name in _COMMANDS:
        sys.argv = [f"{Path(sys.argv[0]).name} {name}", *rest]
        command = importlib.import_module(_COMMANDS[name])
        restore_handlers()
        try:
            code: int = command.main()
        except KeyboardInterrupt:
            _ERRORS.print("interrupted")
            return _INTERRUPTED
        return code
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises errors instead of printing them
    try:
        return _main(wants_traceback=wants_traceback)
    finally:
        if not wants_traceback:
            del os.environ["HYDRA_FULL_ERROR"]


def _main(*, wants_traceback: bool) -> int:
    register_schema()
    codes: list[int] = []
    begun = False

    def run(config: DictConfig) -> None:
        nonlocal begun
        begun = True
        try:
            _run(config)
        except NxmSweepError as error:  # one job of a multirun; the others continue
            if wants_traceback:
                raise
            codes.append(_report_error(error))

    try:
        _check_flags()
        hydra.main(config_path=str(config_dir()), config_name="config", version_base="1.3")(run)()
    except SweepIncompleteError:  # already printed by the sweep
        return _stopped_code() or _FAILED
    except (HydraException, OmegaConfBaseException, NxmSweepError) as error:
        if wants_traceback:
            raise
        return _report_error(error if isinstance(error, NxmSweepError) else explain(error, sys.argv[1:]))
    except (ValueError, OSError) as error:
        if wants_traceback or begun:  # before a job begins, Hydra reads the choices and creates output_dir
            raise
        return _report_error(explain(error, sys.argv[1:]))
    except KeyboardInterrupt:
        _ERRORS.print("interrupted; the same command continues after the last finished epoch")
        return _stopped_code() or _INTERRUPTED
    return max(codes, default=0)


def _check_flags() -> None:
    """Refuse an unknown flag in one line, before Hydra's parser prints its usage."""

    def refuse(message: str) -> NoReturn:
        raise ConfigError(message, hint="`--hydra-help` prints every flag")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    if parser.parse_args().experimental_rerun is not None:
        raise ConfigError("--experimental-rerun reads a pickle, and nothing is unpickled here")


def _stopped_code() -> int | None:
    """Return the exit code after a stop signal, or None."""
    number = received()
    return None if number is None else 128 + number


def _report_error(error: NxmSweepError) -> int:
    """Print an error and its hint, a line each; return the exit code."""
    if isinstance(error, TrialStoppedError) and (number := received()) is not None:
        _ERRORS.print(f"stopped by {signal_name(number)} after the running step; the same command continues from there")
        return 128 + number
    if isinstance(error, TrialStoppedError):
        _ERRORS.print(f"stopped: {error.message}")
        return _FAILED
    print_error(error, _ERRORS)
    return _FAILED if isinstance(error, NonFiniteError | OutOfMemoryError | RankError) else BAD_INPUT


def _run(config: DictConfig) -> None:
    settings = load_settings(config)  # validate before importing libraries that take seconds

    from nxm_sweep.report.terminal import trial_summary  # noqa: PLC0415
    from nxm_sweep.training.quiet import silence_known_noise  # noqa: PLC0415
    from nxm_sweep.trial.run import run_point  # noqa: PLC0415

    silence_known_noise()
    console = Console(highlight=False, quiet=_IS_FOLLOWER)
    console.print(f"{settings.task.name}  {settings.method.name}  {settings.model.name}", style="bold")
    record, trained = run_point(settings, console)
    if not trained:
        console.print("this trial is finished: its record is shown; force=true trains it again")
    trial_summary(record, settings.output_dir, console)


if __name__ == "__main__":
    sys.exit(main())
