"""Compose ``conf/`` with the command line and return validated settings."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from nxm_sweep.config.precision import resolve_precision
from nxm_sweep.errors import ConfigError
from nxm_sweep.settings import SweepSettings, TrialSettings

_LISTED = 20  # most names that a hint lists


def config_dir() -> Path:
    """Return the folder ``conf/``: inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return next(folder for folder in (package / "conf", package.parent / "conf") if (folder / "config.yaml").is_file())


def register_schema() -> None:
    """Register the type of every key with Hydra; ``conf/config.yaml`` lists the schema first in its defaults."""
    schema = OmegaConf.structured(TrialSettings)
    schema.sweep = SweepSettings()
    for mapping in (schema.sweep.axes, schema.sweep.cells):
        OmegaConf.set_struct(mapping, value=False)  # so that sweep.axes={seed: [0, 1]} adds a key, as in a file
    ConfigStore.instance().store(name="schema", node=schema, provider="nxm_sweep")


def compose_settings(overrides: Sequence[str]) -> TrialSettings:
    """Compose and validate one trial's settings, as the command line does with ``overrides``.

    Raises:
        ConfigError: One line with the value received, the rule and the nearest valid name.
    """
    register_schema()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            return load_settings(compose("config", list(overrides)))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise explain(error, overrides) from error


def multirun(overrides: Sequence[str]) -> Path:
    """Run a sweep as ``-m`` does and return its ``output_dir``.

    Raises:
        ConfigError: Bad input; nothing has been trained.
        SweepIncompleteError: Some points have no record.
    """
    register_schema()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            hydra = GlobalHydra.instance().hydra
            if hydra is None:
                raise ConfigError("Hydra has not started")
            folder: Path = hydra.multirun("config", lambda _: None, list(overrides), with_log_configuration=False)
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error, overrides) from error
    return folder


def load_settings(config: DictConfig, *, of_sweep: bool = False) -> TrialSettings:
    """Convert a composed config to validated settings, with complete rules and ``auto`` precision resolved.

    Args:
        config: Composed config.
        of_sweep: Whether other cells share the command line, and so the scan of ``sparsity=mixed`` and the precision.

    Raises:
        ConfigError: A value is missing, of the wrong type or out of range.
    """
    from nxm_sweep.config.checks import check_settings  # noqa: PLC0415 - PyTorch, which `--help` does not need
    from nxm_sweep.config.sparsity_rules import complete_rules_  # noqa: PLC0415

    settings = _to_settings(config)
    complete_rules_(settings.sparsity, Path(settings.sweep.cwd or ""), of_sweep=of_sweep)
    check_settings(settings)
    settings.training.precision = resolve_precision(
        settings.training.precision, settings, keep=of_sweep and not settings.sweep.dry_run
    )
    return settings


def settings_of(values: Mapping[str, Any]) -> TrialSettings:
    """Rebuild and validate settings from the output of ``dataclasses.asdict``, for example from JSON.

    Raises:
        ConfigError: A value is missing, of the wrong type or out of range.
    """
    from nxm_sweep.config.checks import check_settings  # noqa: PLC0415 - as above

    schema = OmegaConf.structured(TrialSettings)
    schema.sweep = SweepSettings()
    for mapping in (schema.sweep.axes, schema.sweep.cells):
        OmegaConf.set_struct(mapping, value=False)
    try:
        settings = _to_settings(cast("DictConfig", OmegaConf.merge(schema, dict(values))))
    except OmegaConfBaseException as error:
        raise explain(error) from error
    check_settings(settings)
    settings.training.precision = resolve_precision(settings.training.precision, settings)
    return settings


def _to_settings(config: DictConfig) -> TrialSettings:
    try:
        settings = cast("TrialSettings", OmegaConf.to_object(config))
    except OmegaConfBaseException as error:
        raise explain(error) from error
    unknown = _find_unknown(settings)
    if unknown:
        raise unknown_setting(unknown)
    return settings


def choices(group: str) -> list[str]:
    """Return the choices of a config group; empty if there is no such group."""
    folder = config_dir() / group
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def unknown_setting(key: str) -> ConfigError:
    """Return the error for a key that does not exist."""
    return ConfigError(f"unknown setting {key!r}", hint=_suggest(key))


def explain(error: Exception, overrides: Sequence[str] = ()) -> ConfigError:
    """Convert an error of composing ``overrides`` to one line, with the nearest valid name as the hint."""
    if isinstance(error, MissingConfigException):
        return _explain_choice(error.missing_cfg_file or "", error.options or ())
    if isinstance(error, OSError):
        return ConfigError(f"output_dir: {error.strerror}: {error.filename}", hint="it takes a folder that can be made")
    if str(error).startswith("Config group override must be"):  # `learning_rate=1e-4`: a choice that parses as a number
        return next(map(_explain_choice, filter(_is_no_choice, _choice_paths(overrides))), ConfigError(str(error)))
    return _explain_value(error)


def _explain_value(error: Exception) -> ConfigError:
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
    if lines[0].startswith("Ambiguous value"):
        return ConfigError(lines[0], hint="-m sweeps over several values; key=[a,b] is a list")
    if isinstance(error, OverrideParseException):
        return ConfigError(f"cannot read {error.override!r}: {lines[0]}", hint="the form is key=value")
    return ConfigError(f"{key}: {lines[0]}" if key else lines[0], hint="`--cfg job` prints every key with its value")


def _explain_choice(missing: str, options: Sequence[str] = ()) -> ConfigError:
    """Explain a missing ``group/choice``; ``options`` are those of Hydra's own groups."""
    group, slash, choice = missing.rpartition("/") if missing.startswith("hydra/") else missing.partition("/")
    if not slash:
        return ConfigError(f"there is no config named {missing!r}", hint="--config-name may be left out")
    options = choices(group) or options
    if not options:
        return ConfigError(f"unknown config group {group!r}", hint=_suggest(group, _groups()))
    hint = _suggest(choice, options)
    if f"{group}.value" in _keys(TrialSettings) and not hint.startswith("did"):
        hint += f"; a number goes to {group}.value"
    return ConfigError(f"{group}={choice.removesuffix('.yaml')} is not one of its choices", hint=hint)


def _choice_paths(overrides: Sequence[str]) -> list[str]:
    """Return ``group/choice`` for every override of the form ``group=choice``."""
    return [override.lstrip("+").replace("=", "/", 1) for override in overrides if "=" in override]


def _is_no_choice(path: str) -> bool:
    group, _, choice = path.partition("/")
    return group in _groups() and choice not in choices(group)


def _suggest(name: str, valid: Sequence[str] = ()) -> str:
    """Return a hint with the valid name nearest to ``name``; ``valid`` defaults to all groups and keys."""
    parent = name.rpartition(".")[0]
    if not valid and parent in _keys(TrialSettings):  # a mapping, which accepts new keys
        return f"+{name}=... adds it to {parent}"
    valid = valid or [*_groups(), *_keys(TrialSettings)]
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    if not close:  # the key may be right and its group wrong or missing
        tail = name.rsplit(".", 1)[-1]
        close = [key for key in valid if key.rsplit(".", 1)[-1] == tail][:1]
    if close:
        return f"did you mean {close[0]}?"
    return f"valid: {', '.join(valid)}" if len(valid) <= _LISTED else "`--cfg job` prints every key with its value"


def _find_unknown(settings: Any, prefix: str = "") -> str | None:
    """Return the first key outside the schema, as an override like ``+key=1`` adds it, or None."""
    known = {field.name for field in dataclasses.fields(settings)}
    for name, value in vars(settings).items():
        if name not in known:
            return f"{prefix}{name}"
        if dataclasses.is_dataclass(value):
            nested = _find_unknown(value, f"{prefix}{name}.")
            if nested:
                return nested
    return None


def _groups() -> list[str]:
    return sorted(folder.name for folder in config_dir().iterdir() if folder.is_dir())


def _keys(settings_class: Any, prefix: str = "") -> list[str]:
    """Return every dotted key of a settings class."""
    keys: list[str] = []
    hints = get_type_hints(settings_class)
    for field in dataclasses.fields(settings_class):
        members = (hints[field.name], *get_args(hints[field.name]))  # the type itself, or the members of a union
        nested = next((part for part in members[:3] if dataclasses.is_dataclass(part)), None)
        keys += _keys(nested, f"{prefix}{field.name}.") if nested is not None else [f"{prefix}{field.name}"]
    return keys


def without_hydra(config: DictConfig) -> DictConfig:
    """Return a composed config without Hydra's own settings."""
    if "hydra" not in config:
        return config
    bare = config.copy()
    with open_dict(bare):
        del bare["hydra"]
    return bare
