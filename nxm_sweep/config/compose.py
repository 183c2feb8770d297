"""The door: composes ``conf/`` with the command line, checks everything once, and hands on plain settings."""

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

_LISTED = 20  # a hint lists no more names than this


def config_dir() -> Path:
    """Return the folder ``conf/``: inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return next(folder for folder in (package / "conf", package.parent / "conf") if (folder / "config.yaml").is_file())


def register_schema() -> None:
    """Give Hydra the types of every key; ``conf/config.yaml`` names the schema first in its defaults list."""
    schema = OmegaConf.structured(TrialSettings)
    schema.sweep = SweepSettings()
    for mapping in (schema.sweep.axes, schema.sweep.cells):
        OmegaConf.set_struct(mapping, value=False)  # so that sweep.axes={seed: [0, 1]} adds a key, as in a file
    ConfigStore.instance().store(name="schema", node=schema, provider="nxm_sweep")


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


def load_settings(config: DictConfig, *, of_sweep: bool = False) -> TrialSettings:
    """Turn a composed config into checked settings with whole rules and a precision that is never ``auto``.

    Args:
        config: As composed.
        of_sweep: Whether other cells share its command line, and with it the scan of ``sparsity=mixed`` and what ``auto`` is.

    Raises:
        ConfigError: A value is missing, of the wrong type or out of range.
    """
    from nxm_sweep.config.checks import check_settings  # noqa: PLC0415 - PyTorch, which `--help` does not need
    from nxm_sweep.config.sparsity_rules import complete_rules_  # noqa: PLC0415

    settings = _settings(config)
    complete_rules_(settings.sparsity, Path(settings.sweep.cwd or ""), of_sweep=of_sweep)
    check_settings(settings)
    settings.training.precision = resolve_precision(
        settings.training.precision, settings, keep=of_sweep and not settings.sweep.dry_run
    )
    return settings


def settings_of(values: Mapping[str, Any]) -> TrialSettings:
    """Return the settings that ``dataclasses.asdict`` has taken apart, from JSON for example; they are checked.

    Raises:
        ConfigError: A value is missing, of the wrong type or out of range.
    """
    from nxm_sweep.config.checks import check_settings  # noqa: PLC0415 - as above

    schema = OmegaConf.structured(TrialSettings)
    schema.sweep = SweepSettings()
    for mapping in (schema.sweep.axes, schema.sweep.cells):
        OmegaConf.set_struct(mapping, value=False)
    try:
        settings = _settings(cast("DictConfig", OmegaConf.merge(schema, dict(values))))
    except OmegaConfBaseException as error:
        raise explain(error) from error
    check_settings(settings)
    settings.training.precision = resolve_precision(settings.training.precision, settings)
    return settings


def _settings(config: DictConfig) -> TrialSettings:
    try:
        settings = cast("TrialSettings", OmegaConf.to_object(config))
    except OmegaConfBaseException as error:
        raise explain(error) from error
    unknown = _unknown(settings)
    if unknown:
        raise unknown_setting(unknown)
    return settings


def choices(group: str) -> list[str]:
    """Return the choices of a config group; empty if there is no such group."""
    folder = config_dir() / group
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def unknown_setting(key: str) -> ConfigError:
    """Return the error for a key that does not exist."""
    return ConfigError(f"unknown setting {key!r}", hint=_nearest(key))


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
    """Explain ``group/choice``; ``options`` are Hydra's, for its own groups."""
    group, slash, choice = missing.rpartition("/") if missing.startswith("hydra/") else missing.partition("/")
    if not slash:
        return ConfigError(f"there is no config named {missing!r}", hint="--config-name may be left out")
    options = choices(group) or options
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
    return group in _groups() and choice not in choices(group)


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


def _keys(kind: Any, prefix: str = "") -> list[str]:
    """Every dotted key of a settings class."""
    keys: list[str] = []
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        members = (hints[field.name], *get_args(hints[field.name]))  # the type itself, or those of a union
        nested = next((part for part in members[:3] if dataclasses.is_dataclass(part)), None)
        keys += _keys(nested, f"{prefix}{field.name}.") if nested is not None else [f"{prefix}{field.name}"]
    return keys


def without_hydra(config: DictConfig) -> DictConfig:
    """Return a composed config without Hydra's own part."""
    if "hydra" not in config:
        return config
    bare = config.copy()
    with open_dict(bare):
        del bare["hydra"]
    return bare
