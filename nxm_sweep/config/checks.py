"""The rules that settings must keep, checked once, at the door."""

from __future__ import annotations

import importlib.util
import math
import operator
from collections.abc import Callable
from typing import Any

from nxm_sweep.errors import ConfigError, SparsityError
from nxm_sweep.methods import METHODS
from nxm_sweep.settings import DistillationSettings, TaskSettings, TrialSettings
from nxm_sweep.sparsity.pattern import constraint

Check = tuple[str, Callable[[Any], bool], str]
METRICS = ("accuracy", "f1", "f1_macro", "matthews", "pearson", "spearman")
REPORTERS = {"tensorboard": "tensorboard", "mlflow": "mlflow-skinny"}
"""What a training can report to: the module that it needs, and the package that brings it."""


def _positive(value: Any) -> bool:
    return bool(math.isfinite(value) and value > 0)


def _at_least(least: int) -> Callable[[Any], bool]:
    return lambda value: value is None or value >= least


def _choice(key: str, *allowed: str) -> Check:
    return (key, lambda value: value in allowed, f"must be one of {', '.join(allowed)}")


_ADMM = "method.admm."
_RANGES: tuple[Check, ...] = (
    ("learning_rate.value", lambda value: _positive(value) and value < 1, "must lie above 0 and below 1"),
    (
        "learning_rate.grid",
        lambda grid: all(_positive(value) and value < 1 for value in grid),
        "must hold numbers above 0 and below 1",
    ),
    ("rho.value", _positive, "must be above 0"),
    ("rho.grid", lambda grid: all(map(_positive, grid)), "must hold numbers above 0"),
    ("rho.start", lambda value: math.isfinite(value) and value >= 0, "must not be negative"),
    ("training.epochs", _at_least(1), "must be at least 1"),
    ("training.batch_size", _at_least(1), "must be at least 1"),
    ("training.gradient_accumulation", _at_least(1), "must be at least 1"),
    ("training.max_length", _at_least(8), "must be at least 8 tokens"),
    ("training.max_train_samples", _at_least(1), "must be at least 1, or null for all"),
    ("training.max_eval_samples", _at_least(1), "must be at least 1, or null for all"),
    ("training.warmup_ratio", lambda value: 0 <= value < 1, "must lie in [0, 1)"),
    ("training.weight_decay", lambda value: math.isfinite(value) and value >= 0, "must not be negative"),
    ("training.max_grad_norm", lambda value: math.isfinite(value) and value >= 0, "must not be negative; 0 is off"),
    ("training.threads", _at_least(1), "must be at least 1, or null"),
    ("training.devices", _at_least(1), "must be at least 1"),
    ("seed", lambda value: 0 <= value < 2**32, "must lie in [0, 2**32)"),
    ("task.text_columns", lambda columns: len(columns) in (1, 2), "must name one or two columns"),
    ("task.metrics", lambda names: bool(names) and set(names) <= set(METRICS), f"must be among {', '.join(METRICS)}"),
    ("task.validation_splits", bool, "must name at least one split"),
    ("sparsity.rules", bool, "must hold at least one rule"),
    ("output_dir", bool, "must name a folder"),
    (f"{_ADMM}interval", _at_least(1), "must be at least 1"),
    (f"{_ADMM}efolds", _positive, "must be above 0"),
    (f"{_ADMM}admm_fraction", lambda value: 0 <= value <= 1, "must lie in [0, 1]"),
    ("method.sr_ste.decay", lambda value: math.isfinite(value) and value >= 0, "must not be negative"),
    ("method.gradual.end_fraction", lambda value: 0 <= value <= 1, "must lie in [0, 1]"),
    ("method.warmup_asp.fraction", lambda value: 0 <= value <= 1, "must lie in [0, 1]"),
    ("method.importance.rows", _at_least(1), "must be at least 1"),
    ("selection.fraction", lambda value: 0 < value < 1, "must lie above 0 and below 1"),
    (
        "distillation.weight",
        lambda value: 0 < value <= 1,
        "must lie above 0 and be at most 1; distillation=none is off",
    ),
    ("distillation.temperature", _positive, "must be above 0"),
    *(
        (f"distillation.{term}", lambda value: math.isfinite(value) and value >= 0, "must not be negative")
        for term in ("logits", "hidden", "attention")
    ),
    ("training.report_to", lambda names: set(names) <= set(REPORTERS), f"must be among {', '.join(REPORTERS)}"),
    ("sweep.workers", _at_least(1), "must be at least 1, or null"),
    ("sweep.workers_per_device", _at_least(1), "must be at least 1"),
    ("sweep.threads", _at_least(1), "must be at least 1, or null"),
    ("sweep.max_attempts", _at_least(1), "must be at least 1"),
    ("sweep.n_trials", _at_least(1), "must be at least 1, or null"),
    ("sweep.time_limit", lambda value: value is None or _positive(value), "must be above 0 seconds, or null"),
    ("sweep.lease", lambda value: _positive(value) and value >= 2, "must be at least 2 seconds"),
    _choice("sweep.sampler", "grid", "random", "tpe", "qmc", "cmaes"),
    _choice("sweep.pruner", "none", "median", "halving", "hyperband"),
    _choice("sweep.storage", "sqlite", "journal", "postgresql"),
    _choice(f"{_ADMM}first_iteration", "project", "zero_dual", "no_dual"),
    _choice(f"{_ADMM}clip", "total", "task"),
    _choice(f"{_ADMM}interval_unit", "epoch", "step", "per_epoch"),
    _choice(f"{_ADMM}penalty", "gradient", "decoupled"),
    _choice(f"{_ADMM}finish", "prune", "refit"),
    _choice(f"{_ADMM}frozen_support", "weights", "z"),
    _choice(f"{_ADMM}pace", "learning_rate", "constant", "linear"),
    _choice("method.name", *METHODS),
    _choice("method.importance.metric", "magnitude", "input_norm", "second_moment"),
    _choice("selection.name", "dev", "heldout"),
    _choice("method.trained", "all", "targets"),
    _choice("rho.unit", "absolute", "relative"),
    _choice("rho.schedule", "constant", "linear", "cosine", "exponential"),
    _choice("training.schedule", "linear", "cosine", "constant"),
    _choice("training.precision", "auto", "fp32", "bf16", "fp16"),
    _choice("training.batching", "random", "by_length"),
    _choice("training.device", "auto", "cpu", "cuda"),
    _choice("task.problem", "classification", "regression"),
    _choice("task.kind", "glue", "demo", "files"),
    _choice("model.source", "hub", "package", "folder"),
    _choice("model.head", "new", "keep"),
    _choice("distillation.teacher.source", "trial", "hub", "package", "folder"),
)
_RULES = {key: (holds, words) for key, holds, words in _RANGES}


def check_settings(settings: TrialSettings) -> None:
    """Raise unless every value lies in its range and all fit together.

    Raises:
        ConfigError: The key, the rule and the value received.
    """
    for key in _RULES:
        check_value(key, operator.attrgetter(key)(settings))
    check_fit(settings)
    for module in settings.training.report_to:
        if importlib.util.find_spec(module) is None:
            raise ConfigError(
                f"training.report_to names {module}, which is not installed",
                hint=f"pip install {REPORTERS[module]}, or training.report_to=[]",
            )


def check_value(key: str, value: Any) -> None:
    """Raise unless a value lies in its key's range.

    Raises:
        ConfigError: The key, the rule and the value received.
    """
    holds, words = _RULES.get(key, (None, ""))
    if holds is not None and not holds(value):
        raise ConfigError(f"{key} {words} but got {value}")


def check_fit(settings: TrialSettings) -> None:
    """Raise unless values that lie in their ranges fit together.

    Raises:
        ConfigError: What does not fit.
    """
    _check_task(settings.task)
    training = settings.training
    if training.batch_size % training.devices:
        raise ConfigError(
            f"training.batch_size must be a multiple of training.devices ({training.devices}) but got {training.batch_size}",
            hint="it counts the rows of all devices together",
        )
    rho = settings.rho
    if rho.schedule == "exponential" and min(rho.start, rho.value) <= 0:
        raise ConfigError(
            f"an exponential ramp needs rho.start and rho.value above 0 but got {rho.start} to {rho.value}"
        )
    _check_distillation(settings.distillation)
    method = settings.method
    if method.options and "options" not in METHODS[method.name].read_settings(settings).get("method", {}):
        raise ConfigError(f"the method {method.name} reads no method.options but got {', '.join(method.options)}")
    for rule in settings.sparsity.rules:
        try:
            constraint(keep=rule.keep, group=rule.group, density=rule.density, dense=rule.dense)
        except SparsityError as error:
            raise ConfigError(f"sparsity rule {rule.match!r}: {error.message}", error.hint) from error


def _check_distillation(distillation: DistillationSettings) -> None:
    if not distillation.enabled:
        return
    if distillation.teacher.path is None:
        raise ConfigError(
            "distillation has no teacher",
            hint="distillation.teacher.path=IDENTITY takes a finished trial that kept its model",
        )
    if not distillation.logits + distillation.hidden + distillation.attention:
        raise ConfigError(
            "distillation.logits, .hidden and .attention are all 0, so that nothing is learned from the teacher"
        )


def _check_task(task: TaskSettings) -> None:
    selectable = [*task.metrics, "mean"] if len(task.metrics) > 1 else task.metrics
    if task.selection_metric not in selectable:
        raise ConfigError(
            f"task.selection_metric must be one of {', '.join(selectable)} but got {task.selection_metric!r}",
            hint="" if "mean" in selectable else "mean needs two metrics",
        )
    wanted = {"pearson", "spearman"} if task.problem == "regression" else {"accuracy", "f1", "f1_macro", "matthews"}
    if not set(task.metrics) <= wanted:
        raise ConfigError(
            f"task.metrics of a {task.problem} must be among {', '.join(sorted(wanted))} but got {', '.join(task.metrics)}"
        )
    if "f1" in task.metrics and len(task.labels) > 2:
        raise ConfigError(
            f"the metric f1 is for two classes but got {len(task.labels)}: {', '.join(task.labels)}",
            hint="f1_macro is the mean of F1 over the classes",
        )
