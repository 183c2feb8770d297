"""Hydra with this package's rules: bad input is one line, and no config chooses code or a folder outside the output."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any, Self

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, configure_log
from hydra.errors import HydraException
from hydra.types import RunMode, TaskFunction
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nxm_sweep.config.explain import explain, keys_of
from nxm_sweep.config.model_source import add_model_sources
from nxm_sweep.config.paths import expand, shorten
from nxm_sweep.console import holds_password
from nxm_sweep.errors import ConfigError, NxmSweepError
from nxm_sweep.settings import TrialSettings

_TARGETS = ("hydra.launcher._target_", "hydra.sweeper._target_")
"""The keys that name code: the classes of installed plugins."""
ENVIRONMENT_HINT = (
    "it would be stored and shown: sweep.storage=postgresql reads its address from NXM_STORAGE, "
    "and `hf auth login` keeps a token of the hub"
)


class CheckedLoader(ConfigLoaderImpl):
    """Hydra's loader, with the two things that a command line may leave out; jobs of a launcher compose with it too."""

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        complete = list(map(_complete_list, overrides))
        config = super().load_configuration(config_name, complete, run_mode, from_shell, validate_sweep_overrides)
        _name_sources_(config, overrides)
        return config


def _complete_list(override: str) -> str:
    """Return ``task.text_columns=text`` as ``task.text_columns=[text]``: one text for a list of texts is a list of one."""
    key, separator, value = override.partition("=")
    if not separator or key.lstrip("+") not in _text_lists():
        return override
    parsed = OverridesParser.create().parse_override(override)
    is_text = not parsed.is_sweep_override() and isinstance(parsed.value(), str | int | float | QuotedString)
    return f"{key}=[{value}]" if is_text and value and not value.startswith("$") else override


@functools.cache
def _text_lists() -> frozenset[str]:
    return frozenset(keys_of(TrialSettings, lambda hint: hint == list[str]))


def _name_sources_(config: DictConfig, overrides: Sequence[str]) -> None:
    """Name a model after a path that was given without a name, or it would keep the name of another model.

    ``model=local`` is the name of no model. The name of ``task=hub`` is the path of its data and their configuration.
    """
    choices = config.hydra.runtime.choices
    given = {override.partition("=")[0].lstrip("+") for override in overrides}
    path = OmegaConf.select(config, "model.path", throw_on_missing=False) if "model.path" in given else None
    if isinstance(path, str) and "model.name" not in given and choices.get("model") != "local":
        config.model.name = path
    if choices.get("task") == "hub" and "task.name" not in given and isinstance(config.task.config, str):
        config.task.name = "${data.path}/${task.config}"


class CheckedHydra(Hydra):
    """Hydra whose composition raises ``ConfigError`` for any bad input."""

    @classmethod
    def create(cls, config_path: str, config_dir: str | None = None) -> Self:
        """Return Hydra with the configs of a folder or ``pkg://`` path, and further choices from another folder.

        Raises:
            ConfigError: There is no folder ``config_dir``.
        """
        version.setbase("1.3")
        search_path = create_config_search_path(
            config_path if "://" in config_path else f"file://{Path(config_path).absolute()}"
        )
        if config_dir is not None:
            folder = Path(config_dir).expanduser().absolute()
            if not folder.is_dir():
                raise ConfigError(f"--config-dir names {folder}, which is no folder")
            search_path.prepend("command-line", f"file://{folder}", SearchPathQuery(provider="schema"))
        add_model_sources(search_path)
        return cls(task_name="nxm_sweep", config_loader=CheckedLoader(config_search_path=search_path))

    def compose_config(  # noqa: PLR0917 - Hydra's signature
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        with_log_configuration: bool = False,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        def compose(some: list[str]) -> DictConfig:
            with warnings.catch_warnings():
                warnings.filterwarnings(
                    "error", message="provider=.* is not available"
                )  # a search path that is missing
                return super(CheckedHydra, self).compose_config(
                    config_name, some, run_mode, False, from_shell, validate_sweep_overrides
                )

        refuse_passwords(overrides)
        with explained(overrides, compose):
            config = compose(overrides)
            check_hydra(config, run_mode)
            if isinstance(config.get("output_dir"), str):  # Hydra creates it
                config.output_dir = expand(config.output_dir, "output_dir")
            if with_log_configuration:
                configure_log(config.hydra.hydra_logging, config.hydra.verbose)
        return config

    def run(
        self,
        config_name: str | None,
        task_function: TaskFunction,
        overrides: list[str],
        with_log_configuration: bool = True,
    ) -> JobReturn:
        begun = False

        def begin(config: DictConfig) -> Any:
            nonlocal begun
            begun = True
            return task_function(config)

        try:
            return super().run(config_name, begin, overrides, with_log_configuration)
        except (NxmSweepError, HydraException, OmegaConfBaseException):
            raise
        except OSError as error:
            if begun:
                raise
            raise ConfigError(
                f"{error.strerror}: {shorten(str(error.filename))}", hint="output_dir takes a folder that can be made"
            ) from error
        except Exception as error:
            if begun:
                raise
            raise explain(error, [text for text in overrides if text.lstrip("+~").startswith("hydra")]) from error


@contextmanager
def explained(overrides: Sequence[str], compose: Callable[[list[str]], Any] | None = None) -> Iterator[None]:
    """Raise ``ConfigError`` in place of whatever Hydra and OmegaConf raise for ``overrides``.

    Args:
        overrides: The command line.
        compose: Composes some overrides; given where only Hydra's code runs, which raises errors of any kind for bad input.

    Raises:
        ConfigError: The value, the rule and the nearest valid name.
    """
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error, overrides) from error
    except NxmSweepError:
        raise
    except Exception as error:
        if compose is None:
            raise
        raise _name_culprit(error, overrides, compose) from error


def _name_culprit(error: Exception, overrides: Sequence[str], compose: Callable[[list[str]], Any]) -> ConfigError:
    """Explain an error of any kind by the first override that also fails alone."""
    for override in overrides:
        try:
            compose([override])
        except Exception as alone:  # noqa: BLE001 - as in `explained`
            return explain(alone, [override])
    return explain(error, overrides)


def refuse_passwords(overrides: Sequence[str]) -> None:
    """Refuse overrides that hold a password, before anything echoes or stores them.

    Raises:
        ConfigError: The key, without its value.
    """
    for override in overrides:
        if holds_password(override):
            key = re.match(r"[\w.+~/-]+(?==)", override)
            raise ConfigError(
                f"{key[0] if key else 'an argument'} holds a password or a user's name", hint=ENVIRONMENT_HINT
            )


def check_hydra(config: DictConfig, mode: RunMode) -> None:
    """Refuse settings of Hydra that would run code other than an installed plugin's, or write outside the output folder.

    Raises:
        ConfigError: The key and the rule.
    """
    hydra = config.hydra
    for key, target in _find_targets(hydra, "hydra"):
        if key not in _TARGETS or target not in Plugins.instance().class_name_to_class:
            raise ConfigError(
                f"{key} is {target!r}, but a config chooses no code",
                hint="hydra/launcher=NAME takes an installed plugin's",
            )
    for key, node in (("hydra.output_subdir", hydra), ("hydra.sweep.subdir", hydra.sweep)):
        for folder in _read(node, key.rsplit(".", 1)[-1]):
            path = PurePath(str(folder or ""))
            if path.is_absolute() or ".." in path.parts:
                raise ConfigError(
                    f"{key} must stay under output_dir but got {folder}", hint=f"a folder's name, or {key}=null"
                )
    if hydra.mode not in (None, mode):
        raise ConfigError(f"hydra.mode is {hydra.mode.name}", hint="-m sweeps, and no -m trains one trial")
    if hydra.job.chdir:
        raise ConfigError("hydra.job.chdir must be false", hint="output_dir is where a trial writes")


def _read(node: DictConfig, name: str) -> Iterator[Any]:
    """Yield a value as it is written, and as it is interpolated unless only a job defines that."""
    written: Any = OmegaConf.to_container(node, resolve=False)
    yield written[name]
    with suppress(OmegaConfBaseException):
        yield node[name]


def _find_targets(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yield every key below ``node`` that names what Hydra instantiates, and its value."""
    if not isinstance(node, DictConfig | ListConfig) or node._is_none() or node._is_missing():  # noqa: SLF001
        return
    container: Any = node
    for name in range(len(node)) if isinstance(node, ListConfig) else list(node.keys()):
        inner = f"{key}.{name!s}"
        try:
            value = container[name]
        except OmegaConfBaseException:  # missing, or interpolated from what a job defines; neither is code
            continue
        if name == "_target_":
            yield inner, value
        yield from _find_targets(value, inner)
