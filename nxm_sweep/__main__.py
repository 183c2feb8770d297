"""``python -m nxm_sweep``: one trial from the command line.

Exit codes: 0 the trial has a record; 1 the training failed; 2 bad input, found before anything was trained.
"""

from __future__ import annotations

import os
import sys

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from nxm_sweep.config import config_dir, explain, load_settings, register_schema
from nxm_sweep.errors import NonFiniteError, NxmSweepError

_FAILED, _BAD_INPUT = 1, 2


def main() -> int:
    """Run the command line; return the exit code."""
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here instead of being printed by Hydra
    register_schema()
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        hydra.main(config_path=str(config_dir()), config_name="config", version_base="1.3")(_run)()
    except (HydraException, OmegaConfBaseException, NxmSweepError) as error:
        if wants_traceback:
            raise
        told = error if isinstance(error, NxmSweepError) else explain(error)
        errors.print(f"error: {told.message}", markup=False)
        if told.hint:
            errors.print(f"hint: {told.hint}", markup=False)
        return _FAILED if isinstance(told, NonFiniteError) else _BAD_INPUT
    except KeyboardInterrupt:
        errors.print("interrupted; the same command continues after the last finished epoch")
        return 130
    return 0


def _run(config: DictConfig) -> None:
    settings = load_settings(config)  # everything is checked before the libraries that take seconds are imported

    from nxm_sweep.report.summary import trial_summary  # noqa: PLC0415
    from nxm_sweep.sweep.point import run_point  # noqa: PLC0415
    from nxm_sweep.training.quiet import silence_known_noise  # noqa: PLC0415

    silence_known_noise()
    console = Console(highlight=False)
    console.print(f"{settings.task.name}  {settings.method.name}  {settings.model.name}", style="bold")
    record, trained = run_point(settings, console)
    if not trained:
        console.print("this trial is finished: its record is shown; force=true trains it again")
    trial_summary(record, console)


if __name__ == "__main__":
    sys.exit(main())
