"""Turn an error of composing settings into one line that names the value, the rule and the nearest valid name."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from nxm_sweep.config.model_source import FORMS, source_of
from nxm_sweep.config.model_source import GROUP as MODELS
from nxm_sweep.errors import ConfigError, first_line
from nxm_sweep.settings import TrialSettings

_LISTED = 20  # most names that a hint lists
_ALIASES = {
    "lr": "learning_rate.value",
    "learning_rate": "learning_rate.value",
    "rho": "rho.value",
    "num_train_epochs": "training.epochs",
    "batch": "training.batch_size",
    "per_device_train_batch_size": "training.batch_size",
    "max_seq_length": "training.max_length",
    "warmup": "training.warmup_ratio",
    "lr_scheduler_type": "training.schedule",
}
"""Names of these settings elsewhere: in our own tables, and in Transformers."""
_ALL_KEYS = "`--cfg job` prints every key with its value"
_HINTS = {
    "Ambiguous value": "-m sweeps over several values; key=[a,b] is a list",
    "Sweep parameters": "-m sweeps over several values",
    "Could not append": "without the +, key=value replaces it",
    "Multiple values for": "without the +, group=choice replaces it",
    "Could not delete": "~key deletes an entry of a mapping, whatever its value; every other key has a value",
}
"""Hints by the beginning of Hydra's message."""


def conf_dir() -> Path:
    """Return the folder ``conf/``: inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return next(folder for folder in (package / "conf", package.parent / "conf") if (folder / "config.yaml").is_file())


def choices(group: str) -> list[str]:
    """Return the choices of a config group; empty if there is no such group."""
    if group.partition("/")[0] not in _groups():
        return []
    folder = conf_dir() / group
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def unknown_setting(key: str) -> ConfigError:
    """Return the error for a key that does not exist."""
    return ConfigError(f"unknown setting {key!r}", hint=_suggest(key))


def explain(error: Exception, overrides: Sequence[str] = ()) -> ConfigError:
    """Convert an error of composing ``overrides`` to one line, with the nearest valid name as the hint."""
    if isinstance(error, MissingConfigException):
        return _explain_choice(error.missing_cfg_file or "", error.options or ())
    is_known = isinstance(error, HydraException | OmegaConfBaseException)
    if not is_known or str(error).startswith("Config group override must be"):  # a choice that parses as no name
        wrong = next(filter(_is_no_choice, _choice_paths(overrides)), None)
        if wrong is not None:
            return _explain_choice(wrong)
    if not is_known:
        given = f"cannot compose {' '.join(overrides)[:200]!r}: " if overrides else ""
        return ConfigError(f"{given}{first_line(error)}", hint=_ALL_KEYS)
    return _explain_value(error, overrides)


def _explain_value(error: Exception, overrides: Sequence[str]) -> ConfigError:
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()] or [type(cause).__name__]
    full_key = re.search(r"full_key: *(\S+)", str(cause))
    key = full_key[1] if full_key else ""
    if isinstance(cause, MissingMandatoryValue):
        return ConfigError(f"{key or lines[0]} must be given", hint=f"add {key}=... to the command" if key else "")
    unknown = re.match(r"Key '([^']+)' (is )?not in", lines[0])
    if unknown:
        key = key or unknown[1]
        return unknown_setting(key)
    group = re.search(r"[Cc]ould not override '?([\w/@.]+)'?", str(error))
    if group and "No match in the defaults list" in str(error):
        return unknown_setting(group[1])
    if isinstance(error, OverrideParseException):
        reason = next((line for line in lines if not line.startswith(("Error parsing override", "See http"))), "")
        if not reason or reason.startswith("Lexer"):  # it only repeats the override
            reason = "a character, or an open quote or bracket, that the grammar does not know there"
        return ConfigError(f"cannot read {error.override!r}: {reason}", hint=_quoting_hint(error.override))
    hint = next((hint for begin, hint in _HINTS.items() if lines[0].startswith(begin)), _ALL_KEYS)
    if "is not a ListConfig" in lines[0]:
        given = next((value for name, _, value in (text.partition("=") for text in overrides) if name == key), "...")
        hint = f"a list has brackets: {key}=[{given}]"
    return ConfigError(f"{key}: {lines[0]}" if key else lines[0], hint=hint)


def _quoting_hint(override: str) -> str:
    """Return the way out for an override that Hydra's grammar refuses."""
    key, separator, value = override.partition("=")
    if separator and value.startswith("~"):
        return f"a value with ~ needs quotes that the shell leaves: \"{key}='{value}'\""
    return "the form is key=value; a value with blanks or one of , : = ( ) [ ] { } needs quotes, as in \"key='a b'\""


def _explain_choice(missing: str, options: Sequence[str] = ()) -> ConfigError:
    """Explain a missing ``group/choice``; ``options`` are those of Hydra's own groups."""
    group, slash, choice = missing.rpartition("/") if missing.startswith("hydra/") else missing.partition("/")
    if not slash:
        return ConfigError(f"there is no config named {missing!r}", hint="--config-name may be left out")
    options = choices(group) or options
    if not options:
        return ConfigError(f"unknown config group {group!r}", hint=_suggest(group, _groups()))
    hint = _suggest(choice, options)
    if f"{group}.value" in keys_of(TrialSettings) and not hint.startswith("did"):
        hint += f"; a number goes to {group}.value"
    if group == MODELS:
        hint += f" {FORMS}" if hint.endswith("?") else f"; {FORMS}"
    return ConfigError(f"{group}={choice.removesuffix('.yaml')} is not one of its choices", hint=hint)


def _choice_paths(overrides: Sequence[str]) -> list[str]:
    """Return ``group/choice`` for every override of the form ``group=choice``."""
    return [override.lstrip("+").replace("=", "/", 1) for override in overrides if "=" in override]


def _is_no_choice(path: str) -> bool:
    group, _, choice = path.partition("/")
    is_model = group == MODELS and source_of(choice, Path.cwd()) is not None
    return group in _groups() and choice not in choices(group) and not is_model


def _suggest(name: str, valid: Sequence[str] = ()) -> str:
    """Return a hint with the valid name nearest to ``name``; ``valid`` defaults to all groups and keys."""
    parent, _, tail = name.rpartition(".")
    if not valid and parent in keys_of(TrialSettings):  # a mapping, which accepts new keys
        return f"+{name}=... adds it to {parent}"
    if not valid and tail in _ALIASES:
        return f"did you mean {_ALIASES[tail]}?"
    valid = valid or [*_groups(), *keys_of(TrialSettings)]
    same = [
        key for key in valid if key.rsplit(".", 1)[-1] == tail
    ]  # the key may be right and its group wrong or missing
    close = same if len(same) == 1 else [*difflib.get_close_matches(name, valid, n=1, cutoff=0.5), *same]
    if close:
        return f"did you mean {close[0]}?"
    return f"valid: {', '.join(valid)}" if len(valid) <= _LISTED else _ALL_KEYS


def _groups() -> list[str]:
    return sorted(folder.name for folder in conf_dir().iterdir() if folder.is_dir())


def keys_of(settings_class: Any, wanted: Callable[[Any], bool] = lambda _: True, prefix: str = "") -> list[str]:
    """Return every dotted key of a settings class whose type is ``wanted``."""
    keys: list[str] = []
    hints = get_type_hints(settings_class)
    for field in dataclasses.fields(settings_class):
        hint = hints[field.name]
        members = (hint, *get_args(hint))  # the type itself, or the members of a union
        nested = next((part for part in members[:3] if dataclasses.is_dataclass(part)), None)
        if nested is not None:
            keys += keys_of(nested, wanted, f"{prefix}{field.name}.")
        elif wanted(hint):
            keys.append(f"{prefix}{field.name}")
    return keys
