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
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from nxm_sweep.store.stop_signals import end_at_once, received, restore_handlers, signal_name

end_at_once(__name__)

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from nxm_sweep import __version__
from nxm_sweep.config.compose import load_settings, make_hydra
from nxm_sweep.config.hydra_app import explained, refuse_passwords
from nxm_sweep.console import BAD_INPUT, TextConsole, error_console, print_error
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
    "speed": "nxm_sweep.speed.__main__",
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
        return _run_command(_COMMANDS[name])
    try:
        return _main()
    except SweepIncompleteError:  # already printed by the sweep
        return _stopped_code() or _FAILED
    except NxmSweepError as error:
        if _wants_traceback():
            raise
        return _report_error(error)
    except KeyboardInterrupt:
        _ERRORS.print("interrupted; the same command continues after the last finished epoch")
        return _stopped_code() or _INTERRUPTED


def _run_command(module: str) -> int:
    """Run one of the other commands; return its exit code."""
    command = importlib.import_module(module)
    restore_handlers()
    try:
        code: int = command.main()
    except KeyboardInterrupt:
        _ERRORS.print("interrupted")
        return _INTERRUPTED
    return code


def _wants_traceback() -> bool:
    return os.environ.get("HYDRA_FULL_ERROR") == "1"


def _main() -> int:
    """Do what the flags say, as ``hydra.main`` does."""
    parser = get_args_parser()
    parser.error = _refuse_flags  # type: ignore[method-assign]
    refuse_passwords(sys.argv[1:])
    options = parser.parse_intermixed_args()  # flags may stand between overrides
    if options.experimental_rerun is not None:
        _refuse_flags("--experimental-rerun reads a pickle, and nothing is unpickled here")
    if options.resolve and not options.cfg:
        _refuse_flags("--resolve belongs to --cfg")
    name, overrides = options.config_name or "config", options.overrides
    codes: list[int] = []
    hydra = make_hydra(options.config_path, options.config_dir)
    with explained(overrides):
        if options.help or options.hydra_help:
            show = hydra.app_help if options.help else hydra.hydra_help
            show(config_name=name, args_parser=parser, args=options)
        elif options.cfg:
            hydra.show_cfg(name, overrides, options.cfg, options.package, options.resolve)
        elif options.info:
            hydra.show_info(options.info, config_name=name, overrides=overrides)
        elif options.shell_completion:
            hydra.shell_completion(name, overrides)
        elif options.multirun:
            hydra.multirun(name, _make_job(codes), overrides)
        else:
            hydra.run(name, _make_job(codes), overrides)
    return max(codes, default=0)


def _refuse_flags(message: str) -> NoReturn:
    """Refuse flags in one line, before Hydra's parser prints its usage."""
    raise ConfigError(message, hint="`--hydra-help` prints every flag")


def _stopped_code() -> int | None:
    """Return the exit code after a stop signal, or None."""
    number = received()
    return None if number is None else 128 + number


def _make_job(codes: list[int]) -> Callable[[DictConfig], None]:
    """Return the function that Hydra calls with the config of a trial; it appends the exit code of a failure."""

    def run(config: DictConfig) -> None:
        try:
            _run_trial(config)
        except NxmSweepError as error:  # one job of a multirun; the others continue
            if _wants_traceback():
                raise
            codes.append(_report_error(error))

    return run


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


def _run_trial(config: DictConfig) -> None:
    settings = load_settings(config)  # validate before importing libraries that take seconds

    from nxm_sweep.report.terminal import trial_summary  # noqa: PLC0415
    from nxm_sweep.training.quiet import silence_known_noise  # noqa: PLC0415
    from nxm_sweep.trial.identity import find_unread, identity_of  # noqa: PLC0415
    from nxm_sweep.trial.run import run_point  # noqa: PLC0415

    silence_known_noise()
    console = TextConsole(quiet=_IS_FOLLOWER)
    console.print(f"{settings.task.name}  {settings.method.name}  {settings.model.name}", style="bold")
    _, hashed = identity_of(settings, data_digest="", model_digest="")
    for key in find_unread(HydraConfig.get().overrides.task, [hashed]):
        console.print(f"note: method={settings.method.name} does not read {key}", soft_wrap=True)
    record, trained = run_point(settings, console)
    if not trained:
        console.print("this trial is finished: its record is shown; force=true trains it again")
    trial_summary(record, settings.output_dir, console)


if __name__ == "__main__":
    sys.exit(main())
