"""A hub id or a folder as a choice of the group ``model``: ``model=google-bert/bert-base-cased``, ``model=./finetuned``.

Hydra takes a choice for the path of a config, slashes included. This source of configs has one for every hub id and every
folder, so that they work wherever a choice does: in lists of ``-m``, in ``sweep.cells``, in the defaults list of an
experiment, and in the jobs of a launcher.
"""

from __future__ import annotations

import re
from pathlib import Path

from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from omegaconf import OmegaConf

GROUP = "model"
FORMS = "model=OWNER/NAME takes a hub id and model=./DIR a folder"
"""Hint for a choice that is neither a file nor one of these."""
_PATH = (".", "/", "~")
_PATHS = "paths"
"""Provider of the source that is asked first."""
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


class ModelSource(ConfigSource):
    """Configs of models by their location; relative folders are those of the directory where the command was given."""

    @staticmethod
    def scheme() -> str:
        return "location"

    def load_config(self, config_path: str) -> ConfigResult:
        """Return the settings of a model that is named after its location."""
        location = _location_of(config_path)
        source = None if location is None else source_of(location, Path(self.path))
        if source is None:
            raise ConfigLoadError(f"{config_path} is the location of no model")
        config = OmegaConf.create(
            {"name": location, "source": source, "path": location, "revision": None, "head": "new"}
        )
        return ConfigResult(self.provider, self.full_path(), config, header={"package": GROUP})

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return False

    def is_config(self, config_path: str) -> bool:
        location = _location_of(config_path)
        if location is None or (self.provider == _PATHS and not location.startswith(_PATH)):
            return False
        return source_of(location, Path(self.path)) is not None

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        return []


def source_of(location: str, directory: Path) -> str | None:
    """Return ``folder`` or ``hub`` for the location of a model; None for a text that is neither.

    As in Transformers, a relative folder that exists comes before a hub id of the same name.

    Args:
        location: A choice of the group ``model`` that no file has.
        directory: Base of relative folders.
    """
    if location.startswith(_PATH):
        return "folder"
    try:
        if (directory / location).is_dir():
            return "folder"
    except (OSError, ValueError):  # no path: too long, or with a character that paths lack
        return None
    if _HUB_ID.fullmatch(location):
        return "hub"
    return "folder" if location.count("/") > 1 else None


def add_model_sources(search_path: ConfigSearchPath) -> None:
    """Register the source, before all files for paths, since ``./bert_base`` is no choice, and after them for the rest."""
    SourcesRegistry.instance().register(ModelSource)
    here = f"{ModelSource.scheme()}://{Path.cwd()}"
    search_path.prepend(_PATHS, here)
    search_path.prepend("locations", here, SearchPathQuery(provider="schema"))  # which is last


def _location_of(config_path: str) -> str | None:
    """Return the choice that the path of a config names; None in another group."""
    group, _, choice = config_path.partition("/")
    return (choice.rstrip("/") or choice) if group == GROUP and choice else None
