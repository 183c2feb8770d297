"""``python -m nxm_sweep``: one trial from the command line.

Exit codes: 0 the trial has a record; 1 the training failed; 2 bad input, found before anything was trained.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from nxm_sweep.config.compose import config_dir, explain, load_settings, register_schema
from nxm_sweep.console import BAD_INPUT, error_console, print_error
from nxm_sweep.errors import ConfigError, NonFiniteError, NxmSweepError, RankError, SweepIncompleteError

_FAILED, _INTERRUPTED = 1, 130
_IS_FOLLOWER = os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK", "0") != "0"
"""Whether ``torchrun`` has started this process beside a first one, which alone speaks."""
_ERRORS = error_console(quiet=_IS_FOLLOWER)


def main() -> int:
    """Run the command line; return the exit code."""
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here instead of being printed by Hydra
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
        except NxmSweepError as error:  # one job of a multirun; the others go on
            if wants_traceback:
                raise
            codes.append(_tell(error))

    try:
        _check_flags()
        hydra.main(config_path=str(config_dir()), config_name="config", version_base="1.3")(run)()
    except SweepIncompleteError:  # the sweep has said so itself
        return _FAILED
    except (HydraException, OmegaConfBaseException, NxmSweepError) as error:
        if wants_traceback:
            raise
        return _tell(error if isinstance(error, NxmSweepError) else explain(error, sys.argv[1:]))
    except (ValueError, OSError) as error:
        if wants_traceback or begun:  # before a job begins, Hydra reads the choices and makes output_dir
            raise
        return _tell(explain(error, sys.argv[1:]))
    except KeyboardInterrupt:
        _ERRORS.print("interrupted; the same command continues after the last finished epoch")
        return _INTERRUPTED
    return max(codes, default=0)


def _check_flags() -> None:
    """Refuse an unknown flag in one line, before Hydra's parser prints its usage."""

    def refuse(message: str) -> NoReturn:
        raise ConfigError(message, hint="`--hydra-help` prints every flag")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    parser.parse_args()


def _tell(error: NxmSweepError) -> int:
    """Print an error in one line, with its hint in another; return the exit code."""
    print_error(error, _ERRORS)
    return _FAILED if isinstance(error, NonFiniteError | RankError) else BAD_INPUT


def _run(config: DictConfig) -> None:
    settings = load_settings(config)  # everything is checked before the libraries that take seconds are imported

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
