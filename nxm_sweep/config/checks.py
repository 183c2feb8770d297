"""Validation of settings: single values against their ranges, then combinations."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

from nxm_sweep.config.trackers import REPORTERS, check_trackers
from nxm_sweep.config.training_arguments import check_arguments
from nxm_sweep.errors import ConfigError, SparsityError
from nxm_sweep.methods import METHODS
from nxm_sweep.settings import EPOCHS, DistillationSettings, TaskSettings, TrialSettings, choices_of
from nxm_sweep.sparsity.pattern import constraint

METRICS = ("accuracy", "f1", "f1_macro", "matthews", "pearson", "spearman")


class Check(NamedTuple):
    """Rule for the value of one key.

    Attributes:
        key: Dotted key.
        holds: Whether a value is allowed.
        rule: Text of the rule, to follow the key.
        hint: The way out, if the rule does not state it.
    """

    key: str
    holds: Callable[[Any], bool]
    rule: str
    hint: str = ""


def _positive(value: Any) -> bool:
    return bool(math.isfinite(value) and value > 0)


def _at_least(least: int) -> Callable[[Any], bool]:
    return lambda value: value is None or value >= least


def _is_metric(name: str) -> bool:
    if name in METRICS:
        return True
    from sklearn.metrics import get_scorer_names  # noqa: PLC0415 - a second of imports

    return name in get_scorer_names()


def _choice(key: str, *allowed: str) -> Check:
    return Check(key, lambda value: value in allowed, f"must be one of {', '.join(allowed)}")


_ADMM = "method.admm."
_RANGES: tuple[tuple[Any, ...], ...] = (
    ("learning_rate.value", lambda value: _positive(value) and value < 1, "must lie above 0 and below 1"),
    (
        "learning_rate.grid",
        lambda grid: all(_positive(value) and value < 1 for value in grid),
        "must hold numbers above 0 and below 1",
    ),
    ("rho.value", _positive, "must be above 0"),
    ("rho.grid", lambda grid: all(map(_positive, grid)), "must hold numbers above 0"),
    ("rho.start", lambda value: math.isfinite(value) and value >= 0, "must not be negative"),
    (EPOCHS, _at_least(0), "must be at least 0, which prunes once and trains nothing,"),
    ("training.batch_size", _at_least(1), "must be at least 1"),
    ("training.gradient_accumulation", _at_least(1), "must be at least 1"),
    ("training.max_length", _at_least(8), "must be at least 8 tokens"),
    ("training.max_train_samples", _at_least(1), "must be at least 1, or null for all"),
    ("training.max_eval_samples", _at_least(1), "must be at least 1, or null for all"),
    ("training.warmup_ratio", lambda value: 0 <= value < 1, "must lie in [0, 1)"),
    ("training.weight_decay", lambda value: math.isfinite(value) and value >= 0, "must not be negative"),
    (
        "training.max_grad_norm",
        lambda value: math.isfinite(value) and value >= 0,
        "must not be negative",
        "0 turns clipping off",
    ),
    ("training.threads", _at_least(1), "must be at least 1, or null"),
    ("training.devices", _at_least(1), "must be at least 1"),
    ("seed", lambda value: 0 <= value < 2**32, "must lie in [0, 2**32)"),
    ("task.text_columns", lambda columns: len(columns) in (1, 2), "must name one or two columns"),
    (
        "task.metrics",
        lambda names: bool(names) and all(map(_is_metric, names)),
        f"must be among {', '.join(METRICS)} and scikit-learn's scorers",
        "such as balanced_accuracy, roc_auc, recall_macro or r2: sklearn.metrics.get_scorer_names() lists them",
    ),
    ("task.validation_splits", bool, "must name at least one split"),
    ("sparsity.rules", bool, "must hold at least one rule"),
    ("output_dir", bool, "must name a folder"),
    (f"{_ADMM}interval", _at_least(1), "must be at least 1"),
    (f"{_ADMM}efolds", _positive, "must be above 0"),
    (f"{_ADMM}admm_fraction", lambda value: 0 <= value <= 1, "must lie in [0, 1]"),
    (f"{_ADMM}dense_fraction", lambda value: 0 <= value <= 1, "must lie in [0, 1]"),
    ("method.sr_ste.decay", lambda value: math.isfinite(value) and value >= 0, "must not be negative"),
    ("method.gradual.end_fraction", lambda value: 0 <= value <= 1, "must lie in [0, 1]"),
    ("method.warmup_asp.fraction", lambda value: 0 <= value <= 1, "must lie in [0, 1]"),
    ("method.importance.rows", _at_least(1), "must be at least 1"),
    ("selection.fraction", lambda value: 0 < value < 1, "must lie above 0 and below 1"),
    (
        "distillation.weight",
        lambda value: 0 < value <= 1,
        "must be in (0, 1]",
        "distillation=none turns it off",
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
    ("sweep.jobs", _at_least(1), "must be at least 1, or null"),
    (
        "sweep.n_trials",
        lambda value: value is None or 1 <= value <= 1_000_000,
        "must lie between 1 and 1,000,000, or be null",
    ),
    ("sweep.time_limit", lambda value: value is None or _positive(value), "must be above 0 seconds, or null"),
    ("sweep.storage_patience", lambda value: value == 0 or _positive(value), "must be at least 0 seconds"),
    ("sweep.lease", lambda value: _positive(value) and value >= 2, "must be at least 2 seconds"),
    _choice("method.name", *METHODS),
    *(_choice(key, *allowed) for key, allowed in choices_of(TrialSettings)),
)
_CHECKS = {check.key: check for check in itertools.starmap(Check, _RANGES)}


def check_settings(settings: TrialSettings) -> None:
    """Validate every value and their combinations.

    Raises:
        ConfigError: The key, the rule and the value received.
    """
    for key in _CHECKS:
        check_value(key, operator.attrgetter(key)(settings))
    check_fit(settings)
    check_trackers(settings)


def check_value(key: str, value: Any) -> None:
    """Validate a value against the range of its key.

    Raises:
        ConfigError: The key, the rule and the value received.
    """
    check = _CHECKS.get(key)
    if check is not None and not check.holds(value):
        raise ConfigError(f"{key} {check.rule} but got {value}", check.hint)


def check_fit(settings: TrialSettings) -> None:
    """Validate combinations of values that are valid one by one.

    Raises:
        ConfigError: The settings that do not fit together.
    """
    _check_task(settings.task)
    if settings.task.kind == "hub" and not settings.data.path:
        raise ConfigError(
            "data.path must be given", hint="data.path=OWNER/NAME takes a hub id, and data.path=./DIR a folder"
        )
    training = settings.training
    if training.batch_size % training.devices:
        raise ConfigError(
            f"training.batch_size must be a multiple of training.devices ({training.devices}) but got {training.batch_size}",
            hint="it counts the rows of all devices together",
        )
    check_arguments(settings)
    rho = settings.rho
    if rho.schedule == "exponential" and min(rho.start, rho.value) <= 0:
        raise ConfigError(
            f"an exponential ramp needs rho.start and rho.value above 0 but got {rho.start} to {rho.value}"
        )
    _check_distillation(settings.distillation)
    _check_one_shot(settings)
    method = settings.method
    admm = method.admm
    if (method.name == "nxm_refit" or admm.finish == "refit") and admm.dense_fraction > admm.admm_fraction:
        raise ConfigError(
            f"{_ADMM}dense_fraction must be at most {_ADMM}admm_fraction ({admm.admm_fraction}) but got {admm.dense_fraction}",
            hint=f"{_ADMM}dense_fraction=0 begins ADMM at the first step",
        )
    if method.options and "options" not in METHODS[method.name].read_settings(settings).get("method", {}):
        raise ConfigError(f"the method {method.name} reads no method.options but got {', '.join(method.options)}")
    for rule in settings.sparsity.rules:
        try:
            constraint(keep=rule.keep, group=rule.group, density=rule.density, dense=rule.dense)
        except SparsityError as error:
            raise ConfigError(f"sparsity rule {rule.match!r}: {error.message}", error.hint) from error


def _check_one_shot(settings: TrialSettings) -> None:
    """Validate a trial without training."""
    if settings.training.epochs > 0:
        return
    rule = f"{EPOCHS}=0 prunes once and trains nothing, "
    if not METHODS[settings.method.name].one_shot:
        able = ", ".join(name for name, method in METHODS.items() if method.one_shot)
        raise ConfigError(f"{rule}but method={settings.method.name} prunes by training", hint=f"method takes {able}")
    if settings.model.head != "keep":
        raise ConfigError(
            f"{rule}so that a new head stays random", hint="model.head=keep takes that of a fine-tuned model"
        )
    if settings.distillation.enabled:
        raise ConfigError(f"{rule}so that nothing is learned from a teacher", hint="distillation=none")


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
    if not set(task.metrics) & set(METRICS) <= wanted:
        raise ConfigError(
            f"task.metrics of a {task.problem} must be among {', '.join(sorted(wanted))} but got {', '.join(task.metrics)}"
        )
    if task.positive_class is not None and task.problem == "regression":
        raise ConfigError(
            f"task.positive_class is for a classification but got {task.positive_class}",
            hint="task.positive_class=null",
        )
    if "f1" in task.metrics and len(task.labels) > 2:
        raise ConfigError(
            f"the metric f1 is for two classes but got {len(task.labels)}: {', '.join(task.labels)}",
            hint="f1_macro is the mean of F1 over the classes",
        )
