"""A cell of the results table: its fixed settings, the axes of its grid, and the name of its study."""

from __future__ import annotations

import copy
import hashlib
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from nxm_sweep.config.checks import check_fit, check_value
from nxm_sweep.formatting import cell_name, cell_title, pattern_label
from nxm_sweep.methods import METHODS
from nxm_sweep.settings import EPOCHS, PRECISION, TrialSettings
from nxm_sweep.sparsity.pattern import constraint
from nxm_sweep.sweep.planning.axes import (
    Axes,
    Range,
    Values,
    agrees,
    assign_,
    combinations,
    command_line_word,
    has,
    holder_of,
    is_wordy,
    whole_ranges_listed,
)
from nxm_sweep.trial.digests import Digests
from nxm_sweep.trial.identity import canonical_json, hash_of, identity_of

_LISTED = 10_000
"""Largest number of points that a search lists."""
Words = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Cell:
    """One task x method x sparsity x model, with everything its points share.

    Attributes:
        settings: One point's settings; the axes' values in it are placeholders.
        axes: Per key, the values that the grid combines.
        digests: Hashes of data and model.
        overrides: The overrides that compose a point, without the axes.
        exclude: Rules; a point that matches every key of one is left out.
        tie: Axes that change together.
        search: Sampler of a search, which separates its study from the grid's; empty for a grid.

    Raises:
        ConfigError: A value of an axis is out of its key's range.
    """

    settings: TrialSettings
    axes: Axes
    digests: Digests = Digests()  # noqa: RUF009 - frozen
    overrides: tuple[str, ...] = ()
    exclude: tuple[Mapping[str, Any], ...] = ()
    tie: tuple[tuple[str, ...], ...] = ()
    search: str = ""
    _scratch: TrialSettings = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_scratch", copy.deepcopy(self.settings))
        for key, values in self.axes.items():
            ends = (values.low, values.high) if isinstance(values, Range) else values
            for value in ends:
                check_value(key, value)

    @property
    def name(self) -> str:
        """Task, method, sparsity, model, and distillation if there is a teacher; part of the study's name."""
        return cell_name(self.names)

    @property
    def title(self) -> str:
        """Display name, with the pattern of the targets: the name of the rules does not give it for every method."""
        return cell_title({**self.names, "sparsity": self.pattern})

    @property
    def names(self) -> dict[str, str]:
        """The parts of the name."""
        settings = self.settings
        return {
            "task": settings.task.name,
            "method": settings.method.name,
            "sparsity": self.sparsity_name,
            "model": settings.model.name,
            "distillation": settings.distillation.name,
        }

    @cached_property
    def sparsity_name(self) -> str:
        """Name of the rules in this cell's records."""
        return self.settings.sparsity.name if self._reads_sparsity else "dense"

    @cached_property
    def pattern(self) -> str:
        """Pattern of the targets after training, as far as the rules define it without a model."""
        if not self._reads_sparsity:
            return "dense"
        settings = self.settings
        rules = {rule.match: rule for rule in settings.sparsity.rules}.values()  # of equal ones, the last wins
        given = [constraint(keep=rule.keep, group=rule.group, density=rule.density, dense=rule.dense) for rule in rules]
        final = [
            METHODS[settings.method.name].final_constraint(one) for one in given if one is not None and not one.is_dense
        ]
        return pattern_label(map(str, final), settings.sparsity.name)

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that a search trains each drawn point with, ascending; empty for a grid or a single seed.

        With one seed, a drawn point is one training and ``seed`` remains a parameter with a single value, so that the
        study keeps its name and its draws.
        """
        values = self.axes.get("seed", ())
        return tuple(sorted(values)) if self.search and isinstance(values, tuple) and len(values) > 1 else ()

    @property
    def drawn_keys(self) -> list[str]:
        """The axes that a search draws from: all but ``seed`` if seeds are repeats."""
        return [key for key in self.axes if not (self.seeds and key == "seed")]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything the cell fixes: a changed setting gives another study, a changed grid does not."""
        space = {key: str(values) for key, values in self.axes.items()} if self.search else {}
        if self.seeds:
            space["seed"] = f"repeats {' '.join(map(str, self.seeds))}"
        return self._compute_fingerprint(space)

    @cached_property
    def search_name(self) -> str:
        """Name shared by searches that differ only in seeds; empty for a grid."""
        if not self.search:
            return ""
        space = {key: str(values) for key, values in self.axes.items()} | {"seed": "repeats"}
        return f"{self.name} {self.search} {self._compute_fingerprint(space)}"

    def _compute_fingerprint(self, space: Mapping[str, str]) -> str:
        fixed = copy.deepcopy(list(self._variants.values()))
        for hashed in fixed:
            for key in self.axes:
                if has(hashed, key):
                    parent, leaf = holder_of(hashed, key)
                    del parent[leaf]
        lists = {key: values for key, values in self.axes.items() if isinstance(values, tuple)}
        categories = {key: sorted(map(str, values)) for key, values in lists.items() if is_wordy(values)}
        canonical = canonical_json(
            [sorted(set(map(canonical_json, fixed))), sorted(self.axes), categories, self.search, dict(space)]
        )
        return hashlib.sha256(canonical.encode()).hexdigest()[:8]

    @property
    def study_name(self) -> str:
        """Name of the cell's Optuna study."""
        return " ".join([self.name, *([self.search] if self.search else []), self.fingerprint])

    def point(self, values: Mapping[str, Any]) -> Point:
        """Return the point with these values of the axes.

        Raises:
            ConfigError: The values do not fit together.
        """
        check_fit(assign_(self._scratch, values))
        categories = _select_categories(values)
        hashed = self._variants[categories]
        for key, parent, leaf in self._numeric_leaves[categories]:
            parent[leaf] = values[key]
        return Point(self, dict(values), hash_of(hashed))

    def points(self) -> Iterator[Point]:
        """Yield the grid's points in the order of its axes; each identity once."""
        seen = set()
        for values in combinations(self.axes, self.tie):
            if not self.excludes(values):
                point = self.point(values)
                if point.identity not in seen:
                    seen.add(point.identity)
                    yield point

    def repeats(self, point: Point) -> list[Point]:
        """Return the trainings of a drawn point: one per seed, in order, or the point itself."""
        return [self.point({**point.values, "seed": seed}) for seed in self.seeds] or [point]

    @cached_property
    def space(self) -> dict[str, Point] | None:
        """The points that a search can draw, by the identity of their first seed; None if too many to list."""
        axes = whole_ranges_listed({**self.axes, **({"seed": self.seeds[:1]} if self.seeds else {})}, _LISTED)
        if axes is None:
            return None
        return {point.identity: replace(point, cell=self) for point in replace(self, axes=axes).points()}

    def excludes(self, values: Mapping[str, Any]) -> bool:
        """Return whether a rule leaves a point out."""
        return any(agrees(rule, {**self._fixed, **values}) for rule in self.exclude)

    @cached_property
    def choices(self) -> dict[str, str]:
        """The cell's parts by their keys in rules."""
        settings = self.settings
        return {
            "task": settings.task.name,
            "method": settings.method.name,
            "sparsity": settings.sparsity.name,
            "model": settings.model.name,
        }

    @property
    def _reads_sparsity(self) -> bool:
        return any("sparsity" in hashed for hashed in self._variants.values())

    @cached_property
    def _fixed(self) -> dict[str, Any]:
        """Values of the rules' keys that all points share."""
        keys = {key for rule in self.exclude for key in rule}
        known = {key: operator.attrgetter(key)(self.settings) for key in keys if self._reads(key)}
        return {**known, **self.choices}

    def _reads(self, key: str) -> bool:
        return any(has(hashed, key) for hashed in self._variants.values())

    @cached_property
    def _variants(self) -> dict[Words, dict[str, Any]]:
        """Hashed settings per combination of categorical values, which decide the other keys that a trial reads."""
        return variants(self.settings, self.axes, self.digests)

    @cached_property
    def _numeric_leaves(self) -> dict[Words, list[tuple[str, dict[str, Any], str]]]:
        """Key, dictionary and leaf of each numeric axis in the hashed settings."""
        return {
            values: [
                (key, *holder_of(hashed, key)) for key in self.axes if has(hashed, key) and key not in dict(values)
            ]
            for values, hashed in self._variants.items()
        }


@dataclass(frozen=True, slots=True)
class Point:
    """One trial of a sweep: its cell, its values on the cell's axes, and its identity."""

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
        resolved = {PRECISION: self.cell.settings.training.precision}  # may be auto on the command line
        job = {**resolved, **self.values, "sweep.point": self.identity, "sweep.cwd": str(Path.cwd())}
        return [*self.cell.overrides, *(f"{key}={command_line_word(value)}" for key, value in job.items())]


def live_axes(settings: TrialSettings, axes: Axes) -> Axes:
    """Return the axes that this cell's method reads: dense has no rho."""
    all_variants = variants(settings, axes, Digests())
    return {key: values for key, values in axes.items() if any(has(hashed, key) for hashed in all_variants.values())}


def variants(settings: TrialSettings, axes: Axes, digests: Digests) -> dict[Words, dict[str, Any]]:
    """Return the hashed settings per combination of categorical values; numeric ones are placeholders."""
    scratch = copy.deepcopy(settings)
    by_categories = {}
    for values in combinations({key: values for key, values in axes.items() if _is_categorical(key, values)}):
        assign_(scratch, values)
        _, hashed = identity_of(
            scratch,
            data_digest=digests.data,
            model_digest=digests.model,
            teacher_digest=digests.teacher,
            carries_head=digests.carries_head,
        )
        by_categories[_select_categories(values)] = hashed
    return by_categories


def _select_categories(values: Mapping[str, Any]) -> Words:
    return tuple(sorted((key, value) for key, value in values.items() if _is_category(key, value)))


def _is_categorical(key: str, values: tuple[Any, ...] | Range) -> bool:
    return isinstance(values, tuple) and any(_is_category(key, value) for value in values)


def _is_category(key: str, value: Any) -> bool:
    """Return whether a value decides which other keys a trial reads: a text may, and a training of no epochs does."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return not is_number or (key == EPOCHS and value == 0)
