"""A saved model against what it should hold, from its files alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from nxm_sweep.errors import SparsityError
from nxm_sweep.export.manifest import Manifest, ManifestTarget, checksum
from nxm_sweep.export.weights import Weights
from nxm_sweep.sparsity.matrix_check import MatrixCheck, check_matrix
from nxm_sweep.sparsity.pattern import Constraint, Pattern, parse_constraint
from nxm_sweep.sparsity.targets import Rule

LOOKED_FOR = tuple(
    sorted(
        (Pattern(keep, group) for group in (2, 4, 8, 16, 32) for keep in (1, 2, 4, 8, 16) if 2 * keep <= group),
        key=lambda pattern: (pattern.density, pattern.group),
    )
)
"""Patterns that are looked for where nothing says what should hold: the sparsest first, then the smallest group."""
_MEANT = 0.99  # of the groups: a matrix that holds a pattern in so many is taken to have been pruned to it


@dataclass(frozen=True, slots=True)
class Untouched:
    """A matrix that is held to nothing.

    Attributes:
        matrix: Its name.
        shape: ``(rows, columns)``.
        zeros: How many of its entries are zero.
    """

    matrix: str
    shape: tuple[int, int]
    zeros: int

    @property
    def size(self) -> int:
        """How many entries it has."""
        return self.shape[0] * self.shape[1]


@dataclass(frozen=True, slots=True)
class Audit:
    """What was found in a saved model.

    Attributes:
        checks: What was counted in each matrix that should hold a constraint.
        untouched: The other matrices.
        problems: Whatever else is not as it should be, a sentence each.
    """

    checks: tuple[MatrixCheck, ...]
    untouched: tuple[Untouched, ...]
    problems: tuple[str, ...] = ()

    @property
    def broken(self) -> tuple[str, ...]:
        """Every reason why the model does not hold what it should, a sentence each."""
        return (*(_broken(check) for check in self.checks if not check.holds), *self.problems)

    def targets(self) -> tuple[ManifestTarget, ...]:
        """Return the checked matrices as ``sparsity.json`` lists them."""
        return tuple(
            ManifestTarget(check.matrix, check.shape, parse_constraint(check.constraint), check.zeros)
            for check in self.checks
        )


def audit(weights: Weights, constraints: Mapping[str, Constraint]) -> Audit:
    """Check a model's matrices against constraints by name; the others are untouched.

    A matrix that is missing, damaged or cannot be divided into groups is a problem and not an error.
    """
    checks, problems = [], []
    for name, constraint in constraints.items():
        if name not in weights.shapes:
            problems.append(f"{name} is not in the model")
            continue
        try:
            checks.append(check_matrix(name, weights.matrix(name), constraint))
        except SparsityError as error:
            problems.append(f"{name}: {error.message}")
    untouched = (_untouched(name, weights.matrix(name)) for name in weights.shapes if name not in constraints)
    return Audit(tuple(checks), tuple(untouched), tuple(problems))


def audit_manifest(weights: Weights, manifest: Manifest) -> Audit:
    """Check a model against its ``sparsity.json``: constraints, shapes, zeros, and the files' checksums."""
    found = audit(weights, {target.matrix: target.constraint for target in manifest.targets})
    wanted = {target.matrix: target for target in manifest.targets}
    problems = list(found.problems)
    for check in found.checks:
        target = wanted[check.matrix]
        if check.shape != target.shape:
            problems.append(f"{check.matrix} has shape {_by(check.shape)}, but sparsity.json says {_by(target.shape)}")
        elif check.zeros != target.zeros:
            problems.append(f"{check.matrix} has {check.zeros} zeros, but sparsity.json says {target.zeros}")
    for name in sorted({*manifest.checksums, *weights.paths}):
        path = weights.folder / name
        if name not in manifest.checksums:
            problems.append(f"sparsity.json does not list {name}")
        elif not path.is_file():
            problems.append(f"{name} is missing")
        elif checksum(path) != manifest.checksums[name]:
            problems.append(f"{name} has changed since sparsity.json was written: another SHA-256")
    return replace(found, problems=tuple(problems))


def matching(weights: Weights, constraint: Constraint, match: str) -> dict[str, Constraint]:
    """Return a constraint for every matrix whose module's name a glob matches, as for :class:`Rule`.

    Raises:
        SparsityError: It matches none.
    """
    rule = Rule(match, constraint)
    names = [name for name in weights.shapes if rule.matches(name.removesuffix(".weight"))]
    if not names:
        raise SparsityError(
            f"{match!r} matches none of the model's {len(weights.shapes)} matrices",
            hint=f"their names look like {', '.join(list(weights.shapes)[:2]) or '(none)'}; --match takes a glob",
        )
    return dict.fromkeys(names, constraint)


def look_for_patterns(weights: Weights) -> Audit:
    """Check every matrix that looks as if it had been pruned to a pattern against that pattern."""
    checks, untouched = [], []
    for name in weights.shapes:
        matrix = weights.matrix(name)
        pattern = likely_pattern(matrix)
        if pattern is None:
            untouched.append(_untouched(name, matrix))
        else:
            checks.append(check_matrix(name, matrix, pattern))
    return Audit(tuple(checks), tuple(untouched))


def likely_pattern(matrix: Tensor) -> Pattern | None:
    """Return the sparsest pattern that almost every group of a matrix holds, or None; a matrix of zeros has none."""
    nonzero = matrix != 0
    kept, size = int(nonzero.sum()), matrix.numel()
    if kept == 0 or kept > (1.0 - _MEANT / 2.0) * size:  # every pattern that is looked for cuts half or more
        return None
    for pattern in LOOKED_FOR:
        if matrix.shape[1] % pattern.group == 0:
            counts = nonzero.reshape(-1, pattern.group).sum(dim=1)
            if float((counts <= pattern.keep).double().mean()) >= _MEANT:
                return pattern
    return None


def _untouched(name: str, matrix: Tensor) -> Untouched:
    return Untouched(name, (matrix.shape[0], matrix.shape[1]), int((matrix == 0).sum()))


def _broken(check: MatrixCheck) -> str:
    row, column = check.first_violation or (0, 0)
    unit = "group" if check.kept_per_group else "entry"
    units = unit if check.violations == 1 else {"group": "groups", "entry": "entries"}[unit]
    return (
        f"{check.matrix} breaks {check.constraint} in {check.violations} {units}, first at row {row}, column {column}"
    )


def _by(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"
