"""Compose ``conf/`` with the command line and return validated settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, cast, get_args, get_origin, get_type_hints

from hydra.core.config_store import ConfigStore
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from nxm_sweep.config.explain import conf_dir, explain, unknown_setting
from nxm_sweep.config.hydra_app import ENVIRONMENT_HINT, CheckedHydra, explained
from nxm_sweep.config.paths import expand_paths_
from nxm_sweep.config.precision import resolve_precision
from nxm_sweep.console import holds_password
from nxm_sweep.errors import ConfigError
from nxm_sweep.settings import SweepSettings, TrainingSettings, TrialSettings


def register_schema() -> None:
    """Register the type of every key with Hydra; ``conf/config.yaml`` lists the schema first in its defaults."""
    ConfigStore.instance().store(name="schema", node=_make_schema(), provider="nxm_sweep")


def _make_schema() -> DictConfig:
    schema: DictConfig = OmegaConf.structured(TrialSettings)
    schema.sweep, schema.training = SweepSettings(), OmegaConf.structured(TrainingSettings)
    for mapping in (schema.sweep.axes, schema.sweep.cells, schema.training.arguments):
        OmegaConf.set_struct(mapping, value=False)  # so that sweep.axes={seed: [0, 1]} adds a key, as in a file
    return schema


def compose_settings(overrides: Sequence[str]) -> TrialSettings:
    """Compose and validate one trial's settings, as the command line does with ``overrides``.

    Raises:
        ConfigError: One line with the value received, the rule and the nearest valid name.
    """
    config = make_hydra().compose_config("config", list(overrides), RunMode.RUN, from_shell=False)
    with explained(overrides):
        return load_settings(without_hydra(config))


def multirun(overrides: Sequence[str]) -> Path:
    """Run a sweep as ``-m`` does and return its ``output_dir``.

    Raises:
        ConfigError: Bad input; nothing has been trained.
        SweepIncompleteError: Some points have no record.
    """
    with explained(overrides):
        folder: Path = make_hydra().multirun("config", lambda _: None, list(overrides), with_log_configuration=False)
    return folder


def make_hydra(config_path: str | None = None, config_dir: str | None = None) -> CheckedHydra:
    """Return Hydra with the schema and ``conf/``.

    Args:
        config_path: Taken in place of ``conf/``.
        config_dir: Folder of further choices.

    Raises:
        ConfigError: There is no folder ``config_dir``.
    """
    register_schema()
    return CheckedHydra.create(config_path or str(conf_dir()), config_dir)


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
    _refuse_stored_passwords(settings)
    expand_paths_(settings)
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

    try:
        settings = _to_settings(cast("DictConfig", OmegaConf.merge(_make_schema(), dict(values))))
    except OmegaConfBaseException as error:
        raise explain(error) from error
    check_settings(settings)
    settings.training.precision = resolve_precision(settings.training.precision, settings)
    return settings


def _refuse_stored_passwords(settings: TrialSettings) -> None:
    """Refuse a password from a config file, or from an environment variable that a setting is interpolated from."""
    for key, text in _find_texts(dataclasses.asdict(settings)):
        if holds_password(text):
            raise ConfigError(f"{key} holds a password or a user's name", hint=ENVIRONMENT_HINT)


def _find_texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _find_texts(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _find_texts(inner, key)


def _to_settings(config: DictConfig) -> TrialSettings:
    try:
        settings = cast("TrialSettings", OmegaConf.to_object(config))
    except OmegaConfBaseException as error:
        raise explain(error) from error
    if not isinstance(settings, TrialSettings):
        raise ConfigError(
            "the config has no types", hint="the first entry of its defaults list is `schema`, as in conf/"
        )
    unknown = _find_unknown(settings)
    if unknown:
        raise unknown_setting(unknown)
    _check_types(settings)
    return settings


def _check_types(settings: Any, prefix: str = "") -> None:
    """Check the type of every value: OmegaConf does not for interpolated lists and mappings, nor for added members."""
    hints = get_type_hints(type(settings))
    for name, value in vars(settings).items():
        if not _fits(value, hints[name]):
            raise ConfigError(f"{prefix}{name} must be {_describe_type(hints[name])} but got {value!r}")
        for inner in value if isinstance(value, list) else [value]:
            if is_dataclass(inner):
                _check_types(inner, f"{prefix}{name}.")


def _fits(value: Any, hint: Any) -> bool:
    kind, members = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if kind is list:
        return isinstance(value, list) and all(_fits(member, members[0]) for member in value)
    if kind is dict:
        return isinstance(value, dict) and all(_fits(member, members[1]) for member in value.values())
    if members:  # a union
        return any(_fits(value, member) for member in members)
    return isinstance(value, int | float if hint is float else hint)


def _describe_type(hint: Any) -> str:
    if get_origin(hint) is list:
        return f"a list{_MEMBERS.get(get_args(hint)[0], '')}"
    return "a mapping" if get_origin(hint) is dict else f"of type {getattr(hint, '__name__', hint)}"


_MEMBERS = {float: " of numbers", str: " of texts"}


def _find_unknown(settings: Any, prefix: str = "") -> str | None:
    """Return the first key outside the schema, as an override like ``+key=1`` adds it, or None."""
    known = {field.name for field in dataclasses.fields(settings)}
    for name, value in vars(settings).items():
        if name not in known:
            return f"{prefix}{name}"
        if is_dataclass(value):
            nested = _find_unknown(value, f"{prefix}{name}.")
            if nested:
                return nested
    return None


def without_hydra(config: DictConfig) -> DictConfig:
    """Return a composed config without Hydra's own settings."""
    if "hydra" not in config:
        return config
    bare = config.copy()
    with open_dict(bare):
        del bare["hydra"]
    return bare
