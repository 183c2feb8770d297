"""The door: composes ``conf/`` with the command line, checks everything once, and hands on plain settings."""

from __future__ import annotations

import dataclasses
import difflib
import math
import operator
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast, get_args, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from nxm_sweep.errors import ConfigError, SparsityError
from nxm_sweep.settings import TaskSettings, TrialSettings
from nxm_sweep.sparsity.pattern import constraint

Check = tuple[str, Callable[[Any], bool], str]

_LISTED = 20  # a hint lists no more names than this

METRICS = ("accuracy", "f1", "matthews", "pearson", "spearman")

_ALL = ("sparsity", "rho", "admm")
_USES = {"dense": (), "asp": ("sparsity",), "admm_unstructured": _ALL, "nxm": _ALL}
"""What each method reads; ``method.uses`` must say the same, since it decides the identity."""


def config_dir() -> Path:
    """Return the folder ``conf/``: inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    return next(folder for folder in (package / "conf", package.parent / "conf") if (folder / "config.yaml").is_file())


def register_schema() -> None:
    """Give Hydra the types of every key; ``conf/config.yaml`` names the schema first in its defaults list."""
    ConfigStore.instance().store(name="schema", node=TrialSettings, provider="nxm_sweep")


def compose_settings(overrides: Sequence[str]) -> TrialSettings:
    """Compose and check one trial's settings, as the command line would with ``overrides``.

    Raises:
        ConfigError: One line that says what was received, the rule and the nearest valid name.
    """
    register_schema()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            return load_settings(compose("config", list(overrides)))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise explain(error, overrides) from error


def load_settings(config: DictConfig) -> TrialSettings:
    """Turn a composed config into checked settings.

    Raises:
        ConfigError: A value is missing, of the wrong type or out of range.
    """
    try:
        settings = cast("TrialSettings", OmegaConf.to_object(config))
    except OmegaConfBaseException as error:
        raise explain(error) from error
    unknown = _unknown(settings)
    if unknown:
        raise ConfigError(f"unknown setting {unknown!r}", hint=_nearest(unknown))
    _check(settings)
    return settings


def explain(error: Exception, overrides: Sequence[str] = ()) -> ConfigError:
    """Return one line for what composing ``overrides`` raised, with the nearest valid name as the hint."""
    if isinstance(error, MissingConfigException):
        return _explain_choice(error.missing_cfg_file or "", error.options or ())
    if isinstance(error, OSError):
        return ConfigError(f"output_dir: {error.strerror}: {error.filename}", hint="it takes a folder that can be made")
    if str(error).startswith("Config group override must be"):  # `learning_rate=1e-4`: a choice that reads as a number
        return next(map(_explain_choice, filter(_is_no_choice, _choices(overrides))), ConfigError(str(error)))
    return _explain_value(error)


def _explain_value(error: Exception) -> ConfigError:
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()] or [type(cause).__name__]
    found = re.search(r"full_key: *(\S+)", str(cause))
    key = found[1] if found else ""
    if isinstance(cause, MissingMandatoryValue):
        return ConfigError(f"{key or lines[0]} must be given", hint=f"add {key}=... to the command" if key else "")
    unknown = re.match(r"Key '([^']+)' (is )?not in", lines[0])
    if unknown:
        key = key or unknown[1]
        return ConfigError(f"unknown setting {key!r}", hint=_nearest(key))
    group = re.search(r"[Cc]ould not override '?([\w/@.]+)'?", str(error))
    if group and "No match in the defaults list" in str(error):
        return ConfigError(f"unknown setting {group[1]!r}", hint=_nearest(group[1]))
    if lines[0].startswith("Ambiguous value"):
        return ConfigError(lines[0], hint="-m sweeps over several values; key=[a,b] is a list")
    if isinstance(error, OverrideParseException):
        return ConfigError(f"cannot read {error.override!r}: {lines[0]}", hint="the form is key=value")
    return ConfigError(f"{key}: {lines[0]}" if key else lines[0], hint="`--cfg job` prints every key with its value")


def _explain_choice(missing: str, options: Sequence[str] = ()) -> ConfigError:
    """Explain ``group/choice``; ``options`` are Hydra's, for its own groups."""
    group, slash, choice = missing.rpartition("/") if missing.startswith("hydra/") else missing.partition("/")
    if not slash:
        return ConfigError(f"there is no config named {missing!r}", hint="--config-name may be left out")
    options = _options(group) or options
    if not options:
        return ConfigError(f"unknown config group {group!r}", hint=_nearest(group, _groups()))
    hint = _nearest(choice, options)
    if f"{group}.value" in _keys(TrialSettings) and not hint.startswith("did"):
        hint += f"; a number goes to {group}.value"
    return ConfigError(f"{group}={choice.removesuffix('.yaml')} is not one of its choices", hint=hint)


def _choices(overrides: Sequence[str]) -> list[str]:
    """``group/choice`` for every override of the form ``group=choice``."""
    return [override.lstrip("+").replace("=", "/", 1) for override in overrides if "=" in override]


def _is_no_choice(path: str) -> bool:
    group, _, choice = path.partition("/")
    return group in _groups() and choice not in _options(group)


def _nearest(name: str, valid: Sequence[str] = ()) -> str:
    """A hint that names the valid name nearest to ``name``; the valid names are the groups and keys unless given."""
    parent = name.rpartition(".")[0]
    if not valid and parent in _keys(TrialSettings):  # a mapping, which takes names of the user's
        return f"+{name}=... adds it to {parent}"
    valid = valid or [*_groups(), *_keys(TrialSettings)]
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    if not close:  # the key may be right and its group wrong or missing
        tail = name.rsplit(".", 1)[-1]
        close = [key for key in valid if key.rsplit(".", 1)[-1] == tail][:1]
    if close:
        return f"did you mean {close[0]}?"
    return f"valid: {', '.join(valid)}" if len(valid) <= _LISTED else "`--cfg job` prints every key with its value"


def _unknown(settings: Any, prefix: str = "") -> str | None:
    """The first key that an override like ``+key=1`` added beside the schema."""
    known = {field.name for field in dataclasses.fields(settings)}
    for name, value in vars(settings).items():
        if name not in known:
            return f"{prefix}{name}"
        if dataclasses.is_dataclass(value):
            nested = _unknown(value, f"{prefix}{name}.")
            if nested:
                return nested
    return None


def _groups() -> list[str]:
    return sorted(folder.name for folder in config_dir().iterdir() if folder.is_dir())


def _options(group: str) -> list[str]:
    folder = config_dir() / group
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))


def _keys(kind: Any, prefix: str = "") -> list[str]:
    """Every dotted key of a settings class."""
    keys: list[str] = []
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        members = (hints[field.name], *get_args(hints[field.name]))  # the type itself, or those of a union
        nested = next((part for part in members[:3] if dataclasses.is_dataclass(part)), None)
        keys += _keys(nested, f"{prefix}{field.name}.") if nested is not None else [f"{prefix}{field.name}"]
    return keys


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
    ("seed", lambda value: 0 <= value < 2**32, "must lie in [0, 2**32)"),
    ("task.text_columns", lambda columns: len(columns) in (1, 2), "must name one or two columns"),
    ("task.metrics", lambda names: bool(names) and set(names) <= set(METRICS), f"must be among {', '.join(METRICS)}"),
    ("task.validation_splits", bool, "must name at least one split"),
    ("sparsity.rules", bool, "must hold at least one rule"),
    ("output_dir", bool, "must name a folder"),
    (f"{_ADMM}interval", _at_least(1), "must be at least 1"),
    (f"{_ADMM}strength.value", lambda value: 0 <= value <= 1, "must lie in [0, 1]"),
    (f"{_ADMM}strength.start", lambda value: 0 <= value <= 1, "must lie in [0, 1]"),
    (f"{_ADMM}admm_fraction", lambda value: 0 <= value <= 1, "must lie in [0, 1]"),
    _choice(f"{_ADMM}first_iteration", "project", "zero_dual"),
    _choice(f"{_ADMM}clip", "total", "task"),
    _choice(f"{_ADMM}interval_unit", "epoch", "step"),
    _choice(f"{_ADMM}penalty", "gradient", "decoupled"),
    _choice(f"{_ADMM}finish", "prune", "refit"),
    _choice(f"{_ADMM}strength.schedule", "constant", "linear", "cosine", "exponential"),
    _choice("method.name", *_USES),
    _choice("method.trained", "all", "targets"),
    _choice("rho.schedule", "constant", "linear", "cosine", "exponential", "balanced"),
    _choice("training.schedule", "linear", "cosine", "constant"),
    _choice("training.precision", "fp32", "bf16", "fp16"),
    _choice("training.device", "auto", "cpu", "cuda"),
    _choice("task.problem", "classification", "regression"),
    _choice("task.kind", "glue", "demo", "files"),
    _choice("model.source", "hub", "package", "folder"),
)


def _check(settings: TrialSettings) -> None:
    for key, holds, words in _RANGES:
        value = operator.attrgetter(key)(settings)
        if not holds(value):
            raise ConfigError(f"{key} {words} but got {value}")
    _check_task(settings.task)
    method = settings.method
    if set(method.uses) != set(_USES[method.name]):
        raise ConfigError(f"method.uses of {method.name} must be {list(_USES[method.name])} but got {method.uses}")
    for key, strength in (("rho", settings.rho), (f"{_ADMM}strength", method.admm.strength)):
        if strength.schedule == "exponential" and min(strength.start, strength.value) <= 0:
            raise ConfigError(
                f"an exponential ramp needs {key}.start and {key}.value above 0 but got {strength.start} to {strength.value}"
            )
    for rule in settings.sparsity.rules:
        try:
            constraint(keep=rule.keep, group=rule.group, density=rule.density, dense=rule.dense)
        except SparsityError as error:
            raise ConfigError(f"sparsity rule {rule.match!r}: {error.message}", error.hint) from error


def _check_task(task: TaskSettings) -> None:
    selectable = [*task.metrics, "mean"] if len(task.metrics) > 1 else task.metrics
    if task.selection_metric not in selectable:
        raise ConfigError(
            f"task.selection_metric must be one of {', '.join(selectable)} but got {task.selection_metric!r}",
            hint="" if "mean" in selectable else "mean needs two metrics",
        )
    wanted = {"pearson", "spearman"} if task.problem == "regression" else {"accuracy", "f1", "matthews"}
    if not set(task.metrics) <= wanted:
        raise ConfigError(
            f"task.metrics of a {task.problem} must be among {', '.join(sorted(wanted))} but got {', '.join(task.metrics)}"
        )
    if "f1" in task.metrics and len(task.labels) > 2:
        raise ConfigError(f"the metric f1 is for two classes but got {len(task.labels)}: {', '.join(task.labels)}")
