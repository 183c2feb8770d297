"""``sparsity.json``: the constraints of an exported model's matrices, and the checksums of its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from nxm_sweep.errors import SparsityError
from nxm_sweep.formatting import constraint_text
from nxm_sweep.sparsity.pattern import Constraint, Pattern, constraint
from nxm_sweep.store.files import write_json

MANIFEST = "sparsity.json"
SCHEMA = 1
FORMATS = ("dense", "onnx", "semi_structured")


@dataclass(frozen=True, slots=True)
class ManifestTarget:
    """One matrix with a constraint.

    Attributes:
        matrix: Name in the state dict; in an ONNX file, of the initialiser.
        shape: ``(out_features, in_features)``.
        constraint: Constraint of the matrix.
        zeros: Number of zero entries.
    """

    matrix: str
    shape: tuple[int, int]
    constraint: Constraint
    zeros: int

    def to_dict(self) -> dict[str, Any]:
        """Return values for JSON."""
        pattern = self.constraint
        stays = (
            {"keep": pattern.keep, "group": pattern.group}
            if isinstance(pattern, Pattern)
            else {"density": pattern.density}
        )
        return {"matrix": self.matrix, "rows": self.shape[0], "columns": self.shape[1], **stays, "zeros": self.zeros}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild a target from the output of :meth:`to_dict`.

        Raises:
            SparsityError: There is no constraint.
            LookupError: A value is missing.
        """
        parsed = constraint(keep=values.get("keep"), group=values.get("group"), density=values.get("density"))
        if parsed is None:
            raise SparsityError("a target without a constraint")
        return cls(str(values["matrix"]), (int(values["rows"]), int(values["columns"])), parsed, int(values["zeros"]))


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of ``sparsity.json``.

    Attributes:
        format: ``dense``, ``onnx`` or ``semi_structured``.
        targets: Matrices with a constraint; all others are dense.
        checksums: SHA-256 of each weight file, by its name in the folder.
        made_from: Origin of the model: identity, task, method and model of the trial.
    """

    format: str
    targets: tuple[ManifestTarget, ...]
    checksums: Mapping[str, str]
    made_from: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pattern(self) -> str:
        """Label of the constraint; ``mixed`` if there are several, ``dense`` if there is none."""
        return pattern_of([target.constraint for target in self.targets])

    def to_dict(self) -> dict[str, Any]:
        """Return values for JSON."""
        weights = sum(target.shape[0] * target.shape[1] for target in self.targets)
        return {
            "schema": SCHEMA,
            "format": self.format,
            "pattern": self.pattern,
            "counts": {
                "matrices": len(self.targets),
                "weights": weights,
                "zeros": sum(target.zeros for target in self.targets),
            },
            "targets": [target.to_dict() for target in self.targets],
            "sha256": dict(self.checksums),
            "made_from": dict(self.made_from),
        }


def pattern_of(constraints: Sequence[Constraint]) -> str:
    """Return the label of a model's constraints: ``2 of 4``, ``50% unstructured``, ``mixed`` or ``dense``."""
    names = {constraint_text(str(each)) for each in constraints}
    return "mixed" if len(names) > 1 else names.pop() if names else "dense"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``sparsity.json`` into a folder."""
    write_json(folder / MANIFEST, manifest.to_dict())


def read_manifest(folder: Path) -> Manifest | None:
    """Read a folder's ``sparsity.json``; None if there is none.

    Raises:
        SparsityError: It is damaged or has a later schema.
    """
    path = folder / MANIFEST
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise SparsityError(f"{path} cannot be read") from error
    try:
        values = json.loads(text)
        if values["schema"] > SCHEMA:
            raise SparsityError(f"{path} has schema {values['schema']} but this version reads {SCHEMA}", hint="upgrade")
        manifest = Manifest(
            format=str(values["format"]),
            targets=tuple(ManifestTarget.from_dict(target) for target in values["targets"]),
            checksums={str(name): str(digest) for name, digest in values["sha256"].items()},
            made_from=dict(values.get("made_from", {})),
        )
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise SparsityError(f"{path} is damaged: {error}", hint="move it away to look for a pattern") from error
    if manifest.format not in FORMATS or any(Path(name).name != name for name in manifest.checksums):
        raise SparsityError(f"{path} is not of this package", hint="move it away to look for a pattern")
    return manifest


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
