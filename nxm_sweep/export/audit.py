"""Check the sparsity of a saved model, from its files only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from nxm_sweep.errors import SparsityError
from nxm_sweep.export.manifest import Manifest, ManifestTarget, checksum, read_manifest
from nxm_sweep.export.weights import Weights, holds_safetensors, open_weights
from nxm_sweep.sparsity.matrix_check import MatrixCheck, check_matrix
from nxm_sweep.sparsity.pattern import Constraint, Pattern, parse_constraint
from nxm_sweep.sparsity.targets import ENCODER_LAYERS, Rule

LOOKED_FOR = tuple(
    sorted(
        (Pattern(keep, group) for group in (2, 4, 8, 16, 32) for keep in (1, 2, 4, 8, 16) if 2 * keep <= group),
        key=lambda pattern: (pattern.density, pattern.group),
    )
)
"""Candidate patterns where no constraint is given: the sparsest first, then the smallest group."""
_MEANT = 0.99  # share of the groups that hold a pattern, from which a matrix counts as pruned to it
_CHANCE = 3.0  # violations that zeros anywhere would have caused, from which their absence says something
_PRUNED = 0.1  # share of zeros from which a matrix without a pattern counts as pruned


@dataclass(frozen=True, slots=True)
class Untouched:
    """A matrix without a constraint.

    Attributes:
        matrix: Name of the matrix.
        shape: ``(rows, columns)``.
        zeros: Number of zero entries.
        is_embedding: Whether it is an embedding table.
    """

    matrix: str
    shape: tuple[int, int]
    zeros: int
    is_embedding: bool = False

    @property
    def is_sparse(self) -> bool:
        """Whether it is a weight that somebody has pruned without a pattern, as far as its zeros tell."""
        return not self.is_embedding and self.zeros >= _PRUNED * self.size

    @property
    def size(self) -> int:
        """Number of entries."""
        return self.shape[0] * self.shape[1]


@dataclass(frozen=True, slots=True)
class Audit:
    """Result of checking a saved model.

    Attributes:
        checks: Counts of each matrix that has a constraint.
        untouched: The other matrices.
        problems: All other defects, one sentence each.
        unread: How a weight is stored that cannot be read, by its name; empty if something says what should hold.
    """

    checks: tuple[MatrixCheck, ...]
    untouched: tuple[Untouched, ...]
    problems: tuple[str, ...] = ()
    unread: Mapping[str, str] = field(default_factory=dict)

    @property
    def broken(self) -> tuple[str, ...]:
        """Every reason why the model fails the check, one sentence each."""
        return (*(_describe_violations(check) for check in self.checks if not check.holds), *self.problems)

    def targets(self) -> tuple[ManifestTarget, ...]:
        """Return the checked matrices as ``sparsity.json`` lists them."""
        return tuple(
            ManifestTarget(check.matrix, check.shape, parse_constraint(check.constraint), check.zeros)
            for check in self.checks
        )


def open_model(path: Path) -> Weights:
    """Open a model's folder, a safetensors file or index, or an ONNX file; of a folder, what ``from_pretrained`` takes.

    Raises:
        ConfigError: It is an ONNX file, and the package onnx is not installed.
        SparsityError: There is no model, or it cannot be read.
    """
    onnx = path / "model.onnx" if path.is_dir() and not holds_safetensors(path) else path
    if onnx.suffix == ".onnx" and onnx.is_file():
        from nxm_sweep.export.onnx_weights import open_onnx  # noqa: PLC0415 - the extra may be missing

        return open_onnx(onnx)
    return open_weights(path)


def audit_model(weights: Weights, wanted: Constraint | None, match: str | None = None) -> tuple[Audit, str]:
    """Check a model against ``sparsity.json`` and a constraint; without either, against patterns it appears to hold.

    Args:
        weights: Matrices of the model.
        wanted: Constraint to check beside those of ``sparsity.json``, or None.
        match: Glob of the modules of ``wanted``; None: those of ``sparsity.json``, else the encoder's layers.

    Returns:
        The audit, and a heading that names its reference.

    Raises:
        SparsityError: ``match`` matches no matrix.
    """
    manifest = read_manifest(weights.folder)
    if manifest is None:
        if wanted is None:
            return look_for_patterns(weights), "nothing says what should hold; patterns found by looking:"
        return audit(weights, matching(weights, wanted, match or ENCODER_LAYERS)), f"held against {wanted}:"
    listed, source = audit_manifest(weights, manifest), f"held against sparsity.json ({manifest.pattern}):"
    if wanted is None:
        return listed, source
    targets = {target.matrix: target.constraint for target in manifest.targets}
    chosen = (
        matching(weights, wanted, match or ENCODER_LAYERS) if match or not targets else dict.fromkeys(targets, wanted)
    )
    extra = audit(weights, {name: constraint for name, constraint in chosen.items() if targets.get(name) != constraint})
    return Audit((*listed.checks, *extra.checks), listed.untouched, (*listed.problems, *extra.problems)), source


def audit(weights: Weights, constraints: Mapping[str, Constraint]) -> Audit:
    """Check a model's matrices against constraints by name; the others are untouched.

    A matrix that is missing, damaged or not divisible into groups is a problem, not an error.
    """
    checks, problems = [], []
    for name, constraint in constraints.items():
        if name not in weights.shapes:
            how = weights.unread.get(name)
            problems.append(f"{name} is stored as {how}, which is not read" if how else f"{name} is not in the model")
            continue
        try:
            checks.append(check_matrix(name, weights.matrix(name), constraint))
        except SparsityError as error:
            problems.append(f"{name}: {error.message}")
    others = (name for name in weights.shapes if name not in constraints)
    untouched = (_make_untouched(name, weights.matrix(name), weights) for name in others)
    return Audit(tuple(checks), tuple(untouched), tuple(problems))


def audit_manifest(weights: Weights, manifest: Manifest) -> Audit:
    """Check a model against its ``sparsity.json``: constraints, shapes, zeros, and the files' checksums."""
    result = audit(weights, {target.matrix: target.constraint for target in manifest.targets})
    wanted = {target.matrix: target for target in manifest.targets}
    problems = list(result.problems)
    for check in result.checks:
        target = wanted[check.matrix]
        if check.shape != target.shape:
            problems.append(
                f"{check.matrix} has shape {_to_text(check.shape)}, but sparsity.json says {_to_text(target.shape)}"
            )
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
    return replace(result, problems=tuple(problems))


def matching(weights: Weights, constraint: Constraint, match: str) -> dict[str, Constraint]:
    """Map every matrix whose module's name matches a glob to a constraint, as :class:`Rule` does; no embedding table.

    Raises:
        SparsityError: No matrix matches, or one that does cannot be read.
    """
    rule = Rule(match, constraint)
    refuse_unread({name: how for name, how in weights.unread.items() if rule.matches(name.removesuffix(".weight"))})
    candidates = [name for name in weights.shapes if name not in weights.embeddings]
    names = [name for name in candidates if rule.matches(name.removesuffix(".weight"))]
    if not names:
        raise SparsityError(
            f"{match!r} matches none of the model's {len(candidates)} matrices without its embeddings",
            hint=f"their names look like {', '.join(candidates[:2]) or '(none)'}; --match takes a glob",
        )
    return dict.fromkeys(names, constraint)


def refuse_unread(unread: Mapping[str, str]) -> None:
    """Raise if there are weights that cannot be read.

    Raises:
        SparsityError: With the first of them.
    """
    if unread:
        name, how = next(iter(unread.items()))
        more = f", and {len(unread) - 1} more" if len(unread) > 1 else ""
        raise SparsityError(
            f"{name} is stored as {how}, which is not read{more}: nothing is known of its zeros",
            hint="save the model dense, in floating point, or check it before it is quantised",
        )


def look_for_patterns(weights: Weights) -> Audit:
    """Check every matrix that appears to be pruned against its likely pattern.

    Raises:
        SparsityError: There is no weight matrix.
    """
    if not weights.shapes and not weights.unread:
        raise SparsityError(f"{', '.join(weights.paths)} holds no weight matrix")
    checks, untouched = [], []
    for name in weights.shapes:
        matrix = weights.matrix(name)
        pattern = None if name in weights.embeddings else likely_pattern(matrix)
        if pattern is None:
            untouched.append(_make_untouched(name, matrix, weights))
        else:
            checks.append(check_matrix(name, matrix, pattern))
    return Audit(tuple(checks), tuple(untouched), unread=weights.unread)


def likely_pattern(matrix: Tensor) -> Pattern | None:
    """Return the sparsest pattern that almost every group of a matrix holds, or None; a matrix of zeros has none.

    A matrix with few weights left holds many patterns wherever they lie; such a pattern is none.
    """
    nonzero = matrix != 0
    kept, size = int(nonzero.sum()), matrix.numel()
    if kept == 0 or kept > (1.0 - _MEANT / 2.0) * size:  # every candidate prunes half or more
        return None
    for pattern in LOOKED_FOR:
        if matrix.shape[1] % pattern.group == 0:
            counts = nonzero.reshape(-1, pattern.group).sum(dim=1)
            violations, expected = int((counts > pattern.keep).sum()), len(counts) * _chance(pattern, kept / size)
            if violations <= (1.0 - _MEANT) * len(counts) and expected >= max(_CHANCE, 10 * violations):
                return pattern
    return None


def _chance(pattern: Pattern, density: float) -> float:
    """Return the probability that a group breaks a pattern if each of its weights is kept at random."""
    more = range(pattern.keep + 1, pattern.group + 1)
    return sum(
        math.comb(pattern.group, kept) * density**kept * (1 - density) ** (pattern.group - kept) for kept in more
    )


def _make_untouched(name: str, matrix: Tensor, weights: Weights) -> Untouched:
    return Untouched(name, weights.shapes[name], int((matrix == 0).sum()), name in weights.embeddings)


def _describe_violations(check: MatrixCheck) -> str:
    row, column = check.first_violation or (0, 0)
    unit = "group" if check.kept_per_group else "entry"
    units = unit if check.violations == 1 else {"group": "groups", "entry": "entries"}[unit]
    return (
        f"{check.matrix} breaks {check.constraint} in {check.violations} {units}, first at row {row}, column {column}"
    )


def _to_text(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"
