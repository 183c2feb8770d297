"""Matrices of a saved model, read one at a time: a safetensors file, or several with an index."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError, safe_open
from torch import Tensor

from nxm_sweep.errors import SparsityError, first_line
from nxm_sweep.sparsity.semi_structured import Packed, unpack
from nxm_sweep.store.paths import MODEL

INDEX = "model.safetensors.index.json"
DENSE = "model.safetensors"
SEMI_STRUCTURED = "model.semi_structured.safetensors"
"""Not ``model.safetensors``: ``from_pretrained`` would take it and fill in random numbers for what it does not find."""
VALUES, META = ".packed", ".meta"
"""How the two parts of a packed matrix end their names."""
_HINT = "give a folder with model.safetensors (or its index), or a .safetensors file"
_FLOATING = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


class Weights(Protocol):
    """Matrices by their names in the state dict."""

    @property
    def folder(self) -> Path:
        """Where the files are."""

    @property
    def paths(self) -> tuple[str, ...]:
        """Names of the files of weights in it."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, int]]:
        """``(rows, columns)`` of every floating-point matrix, in the order of the names."""

    def matrix(self, name: str) -> Tensor:
        """Return a matrix of shape ``(out_features, in_features)``.

        Raises:
            SparsityError: It is not there, or its part of the file is damaged.
        """


class SavedWeights:
    """Matrices in safetensors files; packed ones appear under the name and shape of the dense matrix.

    Args:
        folder: Where the files are.
        files: Which file holds each tensor, by the tensor's name.

    Raises:
        SparsityError: A file is missing or damaged, or a tensor is not in its file.
    """

    def __init__(self, folder: Path, files: Mapping[str, str]) -> None:
        self.folder = folder
        self.files = dict(files)
        self.shapes: dict[str, tuple[int, int]] = dict(sorted(self._find_matrices()))

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(sorted(set(self.files.values())))

    def matrix(self, name: str) -> Tensor:
        if name not in self.shapes:
            raise SparsityError(f"{self.folder.name} holds no matrix {name!r}")
        if name in self.files:
            return self.tensor(name)
        return unpack(Packed(self.tensor(name + VALUES), self.tensor(name + META)))

    @property
    def packed(self) -> tuple[str, ...]:
        """Names of the matrices that are stored packed."""
        return tuple(name for name in self.shapes if name not in self.files)

    def tensor(self, name: str) -> Tensor:
        """Return a stored tensor.

        Raises:
            SparsityError: Its part of the file is damaged.
        """
        with _opened(self.folder / self.files[name]) as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor

    def _find_matrices(self) -> Iterator[tuple[str, tuple[int, int]]]:
        for path in self.paths:
            with _opened(self.folder / path) as file:
                present = set(file.keys())
                for name in (name for name, place in self.files.items() if place == path):
                    if name not in present:
                        raise SparsityError(f"{path} holds no {name!r}, which its index places there")
                    part = file.get_slice(name)
                    shape = part.get_shape()
                    if len(shape) != 2 or part.get_dtype() not in _FLOATING:
                        continue
                    dense = name.removesuffix(VALUES)
                    packed = dense != name and dense + META in self.files
                    yield (dense, (shape[0], 2 * shape[1])) if packed else (name, (shape[0], shape[1]))


def open_weights(path: Path) -> SavedWeights:
    """Return the matrices of a saved model: a folder, a safetensors file, or an index of several.

    Raises:
        SparsityError: There is none, or it is damaged.
    """
    if path.is_dir():
        names = (INDEX, DENSE, SEMI_STRUCTURED)
        found = next((path / name for name in names if (path / name).is_file()), None)
        if found is None:
            raise SparsityError(f"{path} holds no model", hint=_hint_for(path))
        path = found
    if not path.is_file():
        raise SparsityError(f"there is no {path}", hint=_HINT)
    if path.name.endswith(".index.json"):
        return SavedWeights(path.parent, _read_index(path))
    if path.suffix != ".safetensors":
        raise SparsityError(f"{path.name} is not a safetensors file, and nothing else is read", hint=_HINT)
    with _opened(path) as file:
        names = tuple(file.keys())
    return SavedWeights(path.parent, dict.fromkeys(names, path.name))


def _hint_for(folder: Path) -> str:
    if (folder / MODEL).is_dir():
        return f"did you mean {folder / 'model'}?"
    if (folder / "result.json").is_file():
        return "this trial was run without its model; save_model=true force=true trains it again and keeps it"
    return _HINT


def _read_index(path: Path) -> dict[str, str]:
    try:
        files = json.loads(path.read_text())["weight_map"]
        plain = all(isinstance(place, str) and Path(place).name == place for place in files.values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise SparsityError(f"{path.name} is no index of safetensors files") from error
    if not plain:
        raise SparsityError(f"{path.name} names files outside its own folder")
    return dict(files)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """``safe_open`` whose errors, and those of the block, are ours."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        reason = first_line(error)
        raise SparsityError(f"{path.name} cannot be read: {reason}") from error
