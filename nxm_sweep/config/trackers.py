"""Experiment trackers of ``training.report_to``: package, login and folder are checked before a trial begins."""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from pathlib import Path

from nxm_sweep.errors import ConfigError, first_line
from nxm_sweep.settings import TrialSettings

REPORTERS = {"tensorboard": "tensorboard", "mlflow": "mlflow-skinny", "wandb": "wandb", "trackio": "trackio"}
"""Values of ``training.report_to``: the required module, and the package that provides it."""
_WITHOUT_LOGIN = {"offline", "disabled", "dryrun"}
_MODES = {"online", "shared", "run", *_WITHOUT_LOGIN}


def check_trackers(settings: TrialSettings) -> None:
    """Check that each tracker is installed and can be used.

    A job of a sweep skips what its command has checked: a server that has gone away since costs no trial.

    Raises:
        ConfigError: What is missing, and the way out.
    """
    names = settings.training.report_to
    for module in names:
        if importlib.util.find_spec(module) is None:
            raise ConfigError(
                f"training.report_to names {module}, which is not installed",
                hint=f"pip install {REPORTERS[module]}, or training.report_to=[]",
            )
    if settings.sweep.cwd is not None:
        return
    if "wandb" in names:
        _check_wandb()
    if "trackio" in names:
        _check_trackio()


def _check_wandb() -> None:
    mode = os.environ.get("WANDB_MODE") or "online"
    if mode not in _MODES:
        raise ConfigError(
            f"the environment variable WANDB_MODE must be one of {', '.join(sorted(_MODES))} but is {mode}",
            hint="WANDB_MODE=offline writes into the trial's folder; `wandb sync` sends it later",
        )
    if os.environ.get("WANDB_LOG_MODEL", "false").lower() not in {"false", ""}:
        raise ConfigError(
            "the environment variable WANDB_LOG_MODEL would upload weights before they are pruned",
            hint="unset it; save_model=true keeps the pruned model",
        )
    if folder := os.environ.get("WANDB_DIR"):
        _check_folder("WANDB_DIR", Path(folder))
    if mode not in _WITHOUT_LOGIN:
        _log_in()


@cache  # once for all cells
def _log_in() -> None:
    import wandb  # noqa: PLC0415 - an extra, and seconds

    hint = "`wandb login`, or WANDB_MODE=offline"
    try:
        is_logged_in = wandb.login(prompt=False)
    except Exception as error:  # whatever its network, settings and credentials raise
        raise ConfigError(f"training.report_to names wandb, whose login failed: {first_line(error)}", hint) from error
    if not is_logged_in:
        raise ConfigError("training.report_to names wandb, but nobody is logged in", hint)


def _check_trackio() -> None:
    if os.environ.get("TRACKIO_SPACE_ID"):
        from huggingface_hub import get_token  # noqa: PLC0415 - only for a remote store

        if get_token() is None:
            raise ConfigError(
                "TRACKIO_SPACE_ID names a Space of the hub, but nobody is logged in",
                hint="`hf auth login`, or unset it: Trackio then writes to this machine",
            )
    if folder := os.environ.get("TRACKIO_DIR"):
        _check_folder("TRACKIO_DIR", Path(folder))


def _check_folder(variable: str, folder: Path) -> None:
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ConfigError(
            f"the environment variable {variable} names {folder}, which cannot be written",
            hint="it takes a folder",
        )
