"""A cell of the results table: what it fixes, the axes that span its grid, and the name of its study."""

from __future__ import annotations

import copy
import hashlib
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from nxm_sweep.checks import check_settings
from nxm_sweep.errors import ConfigError
from nxm_sweep.settings import TrialSettings
from nxm_sweep.sweep.identity import canonical_json, identity_of

Values = dict[str, Any]

_PLAIN = re.compile(r"[A-Za-z_./][\w./-]*")
"""A word that the command line takes without quotes, and not for a number."""


@dataclass(frozen=True)
class Range:
    """An axis of a search: any number between ``low`` and ``high``; a whole one if both are."""

    low: float
    high: float
    log: bool = False


Axes = dict[str, tuple[Any, ...] | Range]


@dataclass(frozen=True)
class Digests:
    """What a cell's data and model contain, as hashes, and how many rows there are to train on."""

    data: str
    model: str
    train_rows: int


@dataclass(frozen=True)
class Cell:
    """One task x method x sparsity x model, with everything that its points share.

    Attributes:
        settings: One point's settings; the axes' values in it are placeholders.
        axes: Per key, the values that the grid combines.
        digests: Hashes of data and model.
        overrides: The command line that composes a point, without the axes.
        exclude: Rules; a point that agrees with every key of one is left out.
        tie: Axes that change together.
        search: What makes the study of a search another one than the grid's: its sampler; empty for a grid.
    """

    settings: TrialSettings
    axes: Axes
    digests: Digests
    overrides: tuple[str, ...] = ()
    exclude: tuple[Mapping[str, Any], ...] = ()
    tie: tuple[tuple[str, ...], ...] = ()
    search: str = ""
    _scratch: TrialSettings = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_scratch", copy.deepcopy(self.settings))

    @property
    def name(self) -> str:
        """Task, method, sparsity and model in words."""
        return (
            f"{self.settings.task.name}  {self.settings.method.name}  {self.sparsity_name}  {self.settings.model.name}"
        )

    @cached_property
    def sparsity_name(self) -> str:
        """What the records of this cell call the pattern."""
        return self.settings.sparsity.name if "sparsity" in self._hashed else "dense"

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that the cell fixes: a changed setting is another study, a changed grid is not."""
        fixed = copy.deepcopy(self._hashed)
        for key in self.axes:
            parent, leaf = _parent(fixed, key)
            parent.pop(leaf)
        words = {key: sorted(map(str, values)) for key, values in self.axes.items() if is_wordy(values)}
        space = {key: str(values) for key, values in self.axes.items()} if self.search else {}
        canonical = canonical_json([fixed, sorted(self.axes), words, self.search, space])
        return hashlib.sha256(canonical.encode()).hexdigest()[:8]

    @property
    def study_name(self) -> str:
        """Name of the cell's Optuna study."""
        words = [*self.name.split("  "), *([self.search] if self.search else []), self.fingerprint]
        return " ".join(words)

    @cached_property
    def _hashed(self) -> dict[str, Any]:
        return identity_of(self.settings, data_digest=self.digests.data, model_digest=self.digests.model)[1]

    def point(self, values: Mapping[str, Any]) -> Point:
        """Return the point with these values of the axes.

        Raises:
            ConfigError: A value is out of its range.
        """
        settings = assign_(self._scratch, values)
        check_settings(settings)
        identity, _ = identity_of(settings, data_digest=self.digests.data, model_digest=self.digests.model)
        return Point(self, dict(values), identity)

    def points(self) -> Iterator[Point]:
        """Yield the grid's points in the order of its axes; each identity once."""
        seen = set()
        for values in combinations(self.axes, self.tie):
            if not any(agrees(rule, {**self.choices, **values}) for rule in self.exclude):
                point = self.point(values)
                if point.identity not in seen:
                    seen.add(point.identity)
                    yield point

    @cached_property
    def choices(self) -> dict[str, str]:
        """What an exclusion rule can name beside the axes."""
        settings = self.settings
        return {
            "task": settings.task.name,
            "method": settings.method.name,
            "sparsity": settings.sparsity.name,
            "model": settings.model.name,
        }


@dataclass(frozen=True, slots=True)
class Point:
    """One trial that a sweep wants: its cell, its values on the cell's axes, and its identity."""

    cell: Cell
    values: Values
    identity: str

    @property
    def settings(self) -> TrialSettings:
        """The trial's settings."""
        return assign_(copy.deepcopy(self.cell.settings), self.values)

    @property
    def overrides(self) -> list[str]:
        """The command line of a job that trains this point."""
        job = {**self.values, "sweep.point": self.identity, "sweep.cwd": str(Path.cwd())}
        return [*self.cell.overrides, *(f"{key}={word(value)}" for key, value in job.items())]


def live_axes(settings: TrialSettings, axes: Axes) -> Axes:
    """Keep the axes that this cell's method reads: dense has no rho.

    Raises:
        ConfigError: A key that changes no trial, such as a device or a path.
    """
    _, hashed = identity_of(settings, data_digest="", model_digest="")
    kept: Axes = {}
    for key, values in axes.items():
        if not _in_identity(settings, key):
            raise ConfigError(
                f"{key} cannot be an axis: it is no number or word that changes a trial",
                hint="axes are keys of learning_rate, rho, training, method, and seed",
            )
        if _has(hashed, key):
            kept[key] = values
    return kept


def combinations(axes: Axes, tie: Sequence[Sequence[str]] = ()) -> Iterator[Values]:
    """Yield every combination of the axes' values, tied axes changing together.

    Raises:
        ConfigError: Tied axes of different lengths, or a range, which has no list of values.
    """
    for key, values in axes.items():
        if isinstance(values, Range):
            raise ConfigError(
                f"{key} is a range, which a grid cannot list", hint="sweep.sampler=random searches ranges"
            )
    groups: list[tuple[str, ...]] = []
    for key in axes:
        partners = next((tuple(name for name in keys if name in axes) for keys in tie if key in keys), (key,))
        if partners not in groups:
            groups.append(partners)
    for keys in groups:
        lengths = {key: len(axes[key]) for key in keys}  # type: ignore[arg-type]
        if len(set(lengths.values())) > 1:
            words = ", ".join(f"{key} has {length}" for key, length in lengths.items())
            raise ConfigError(f"sweep.tie needs axes of one length but {words}")
    rows = [list(zip(*(axes[key] for key in keys), strict=True)) for keys in groups]  # type: ignore[arg-type]
    order = list(axes)
    for chosen in itertools.product(*rows):
        values = {
            key: value for keys, row in zip(groups, chosen, strict=True) for key, value in zip(keys, row, strict=True)
        }
        yield {key: values[key] for key in order}


def agrees(rule: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """Return whether every key of a rule has one of the rule's values."""
    return all(
        key in facts and canonical(facts[key]) in [canonical(value) for value in _listed(wanted)]
        for key, wanted in rule.items()
    )


def canonical(value: Any) -> Any:
    """Return a number to 12 significant digits, as identities have it; anything else as it is."""
    return float(f"{value:.12g}") if isinstance(value, float) else value


def word(value: Any) -> str:
    """Return a value as the command line takes it."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.12g}"
        case str() if not _PLAIN.fullmatch(value):
            return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return str(value)


def assign_(settings: TrialSettings, values: Mapping[str, Any]) -> TrialSettings:
    """Set dotted keys in place."""
    for key, value in values.items():
        *path, leaf = key.split(".")
        place: Any = settings
        for name in path:
            place = getattr(place, name)
        setattr(place, leaf, value)
    return settings


def count(axes: Axes) -> int:
    """Return how many combinations the axes have, ties and rules aside."""
    return math.prod(len(values) for values in axes.values() if not isinstance(values, Range))


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def is_wordy(values: Any) -> bool:
    """Return whether an axis holds words, whose list a study cannot grow."""
    return not isinstance(values, Range) and any(value is None or isinstance(value, str) for value in values)


def _parent(tree: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    *path, leaf = key.split(".")
    for name in path:
        tree = tree[name]
    return tree, leaf


def _has(tree: Any, key: str) -> bool:
    for name in key.split("."):
        if not isinstance(tree, dict) or name not in tree:
            return False
        tree = tree[name]
    return not isinstance(tree, dict)


def _in_identity(settings: TrialSettings, key: str) -> bool:
    """Whether a key names a plain value that no field on the way takes out of the identity."""
    place: Any = settings
    for name in key.split("."):
        known = getattr(place, "__dataclass_fields__", {})
        if name not in known or not known[name].metadata.get("identity", True):
            return False
        place = getattr(place, name)
    return place is None or isinstance(place, int | float | str)
