"""Arguments of Transformers that a trial passes on: ``training.arguments``.

Only what keeps the promises of a trial is allowed: it resumes bit for bit, is scored and saved after every epoch, sees whole
weight matrices, and writes into its own folder.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any

from nxm_sweep.errors import ConfigError
from nxm_sweep.formatting import format_names
from nxm_sweep.settings import TrialSettings

_KEY = "training.arguments"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value < 1


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


_ALLOWED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "adam_beta1": (_is_share, "must lie in [0, 1)"),
    "adam_beta2": (_is_share, "must lie in [0, 1)"),
    "adam_epsilon": (_is_positive, "must be above 0"),
    "gradient_checkpointing": (_is_flag, "must be true or false"),
    "gradient_checkpointing_kwargs": (
        lambda value: (
            isinstance(value, Mapping) and set(value) <= {"use_reentrant"} and all(map(_is_flag, value.values()))
        ),
        "must be {use_reentrant: true} or {use_reentrant: false}",
    ),
    "label_smoothing_factor": (_is_share, "must lie in [0, 1)"),
    "lr_scheduler_kwargs": (
        lambda value: (
            isinstance(value, Mapping) and set(value) <= {"num_cycles"} and all(map(_is_positive, value.values()))
        ),
        "must be {num_cycles: a number above 0}, of training.schedule=cosine",
    ),
    "neftune_noise_alpha": (_is_positive, "must be above 0"),
    "torch_empty_cache_steps": (
        lambda value: isinstance(value, int) and _is_positive(value),
        "must be a whole number of steps above 0",
    ),
}
"""Each name with its check and rule; tests train with every one of them."""
_NEW_NAMES = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}
"""Names of Transformers 6, under which the usual ones are passed on: one argument never names two trials."""
_OWN_KEYS = {
    **{new: f"{_KEY}.{usual}" for usual, new in _NEW_NAMES.items()},
    "bf16": "training.precision",
    "fp16": "training.precision",
    "gradient_accumulation_steps": "training.gradient_accumulation",
    "learning_rate": "learning_rate.value",
    "lr_scheduler_type": "training.schedule",
    "max_grad_norm": "training.max_grad_norm",
    "max_steps": "training.epochs",
    "num_train_epochs": "training.epochs",
    "output_dir": "output_dir",
    "per_device_train_batch_size": "training.batch_size",
    "report_to": "training.report_to",
    "seed": "seed",
    "train_sampling_strategy": "training.batching",
    "use_cpu": "training.device",
    "warmup_steps": "training.warmup_ratio",
    "weight_decay": "training.weight_decay",
}
_REASONS = {
    ("fsdp", "deepspeed", "parallelism", "accelerator"): "a pattern needs whole weight matrices on every device",
    ("hub", "push", "trackio", "project"): "a trial sends nothing; nxm-sweep export writes a model to upload",
    ("save", "eval", "load_best", "logging", "metric", "greater", "resume", "ignore_data", "enable_jit"): (
        "a trial is scored and saved after every epoch, and resumes by itself"
    ),
    ("optim",): "methods and checkpoints are tested with fused AdamW only",
}
_OTHER = "a trial's scores and its bit-for-bit continuation were not tested with it"


def check_arguments(settings: TrialSettings) -> None:
    """Validate ``training.arguments``: names, values, and that they fit the other settings.

    Raises:
        ConfigError: The argument and the rule.
    """
    arguments = settings.training.arguments
    for name, value in arguments.items():
        if name not in _ALLOWED:
            raise _refuse(str(name))
        holds, rule = _ALLOWED[name]
        if not holds(value):
            raise ConfigError(f"{_KEY}.{name} {rule} but got {value!r}")
    if arguments.get("label_smoothing_factor") and settings.task.problem == "regression":
        raise ConfigError(f"{_KEY}.label_smoothing_factor is for classes, and {settings.task.name} is a regression")
    if arguments.get("lr_scheduler_kwargs") and settings.training.schedule != "cosine":
        raise ConfigError(
            f"{_KEY}.lr_scheduler_kwargs is for training.schedule=cosine but that is {settings.training.schedule}"
        )
    if arguments.get("gradient_checkpointing_kwargs") and not arguments.get("gradient_checkpointing"):
        raise ConfigError(f"{_KEY}.gradient_checkpointing_kwargs needs {_KEY}.gradient_checkpointing=true")


def pass_on(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return checked arguments under the names that Transformers wants."""
    return {_NEW_NAMES.get(name, name): value for name, value in arguments.items()}


def _refuse(name: str) -> ConfigError:
    """Return the error for an argument that is not passed on."""
    if name in _OWN_KEYS:
        return ConfigError(f"{_KEY} names {name}, which has a key of its own", hint=f"{_OWN_KEYS[name]}=...")
    near = difflib.get_close_matches(name, _ALLOWED, 1, 0.8)
    reason = next((why for starts, why in _REASONS.items() if name.startswith(starts)), _OTHER)
    return ConfigError(
        f"{_KEY} cannot take {name}: {reason}",
        hint=f"did you mean {near[0]}?" if near else f"it takes {format_names(sorted(_ALLOWED))}",
    )
