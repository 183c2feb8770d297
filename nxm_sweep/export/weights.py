"""Matrices of a saved model, read one at a time from a safetensors file, or several with an index."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError, safe_open
from torch import Tensor

from nxm_sweep.errors import SparsityError, first_line
from nxm_sweep.export.stored_matrices import VALUES, Header, find_matrices, is_embedding
from nxm_sweep.store.paths import MODEL

INDEX = "model.safetensors.index.json"
DENSE = "model.safetensors"
SEMI_STRUCTURED = "model.semi_structured.safetensors"
"""Not ``model.safetensors``: ``from_pretrained`` would load it and initialise missing weights at random."""
_HINT = "give a folder with model.safetensors (or its index), or a .safetensors file"


class Weights(Protocol):
    """Matrices by name in the state dict."""

    @property
    def folder(self) -> Path:
        """Folder of the files."""

    @property
    def paths(self) -> tuple[str, ...]:
        """Names of the weight files in it."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, int]]:
        """``(rows, columns)`` of every matrix that can be read, in the order of the names."""

    @property
    def embeddings(self) -> Collection[str]:
        """The embedding tables among them, which no pattern is about."""

    @property
    def unread(self) -> Mapping[str, str]:
        """How a weight is stored that cannot be read, by its name."""

    @property
    def notes(self) -> tuple[str, ...]:
        """A line for each unusual form of storage that was read."""

    def matrix(self, name: str) -> Tensor:
        """Return a matrix of shape ``(out_features, in_features)``.

        Raises:
            SparsityError: It is missing or damaged.
        """


class SavedWeights:
    """Matrices in safetensors files; packed ones appear under the name and shape of the dense matrix.

    Args:
        folder: Folder of the files.
        files: File of each tensor, by the tensor's name.

    Raises:
        SparsityError: A file is missing or damaged, or a tensor is not in its file.
    """

    def __init__(self, folder: Path, files: Mapping[str, str]) -> None:
        self.folder = folder
        self.files = dict(files)
        contents = find_matrices(dict(self._read_headers()), self.tensor)
        self._matrices, self.unread = contents.matrices, contents.unread
        self.shapes = {name: matrix.shape for name, matrix in sorted(self._matrices.items())}
        self.embeddings = frozenset(filter(is_embedding, self.shapes))
        self.notes = contents.notes

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(sorted(set(self.files.values())))

    def matrix(self, name: str) -> Tensor:
        if name not in self.shapes:
            raise SparsityError(f"{self.folder.name} holds no matrix {name!r}")
        return self._matrices[name].read(self.tensor)

    @property
    def packed(self) -> tuple[str, ...]:
        """Names of the matrices that this package has packed."""
        return tuple(name for name in self.shapes if name + VALUES in self.files)

    @property
    def inputs_first(self) -> frozenset[str]:
        """Names of the matrices that are stored as ``(in_features, out_features)``."""
        return frozenset(name for name, matrix in self._matrices.items() if matrix.form == "inputs first")

    def tensor(self, name: str) -> Tensor:
        """Return a stored tensor.

        Raises:
            SparsityError: Its part of the file is damaged.
        """
        with _open_safetensors(self.folder / self.files[name]) as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor

    def _read_headers(self) -> Iterator[tuple[str, Header]]:
        for path in self.paths:
            with _open_safetensors(self.folder / path) as file:
                present = set(file.keys())
                for name in (name for name, file_name in self.files.items() if file_name == path):
                    if name not in present:
                        raise SparsityError(f"{path} holds no {name!r}, which its index places there")
                    part = file.get_slice(name)
                    yield name, Header(part.get_dtype(), tuple(part.get_shape()))


def open_weights(path: Path) -> SavedWeights:
    """Return the matrices of a saved model: a folder, a safetensors file, or an index.

    Raises:
        SparsityError: There is none, or it is damaged.
    """
    if path.is_dir():
        names = (*_named_in_config(path), DENSE, INDEX, SEMI_STRUCTURED)  # as from_pretrained looks for them
        candidate = next((path / name for name in names if (path / name).is_file()), None)
        if candidate is None:
            raise SparsityError(f"{path} holds no model", hint=_hint_for(path))
        path = candidate
    if not path.is_file():
        raise SparsityError(f"there is no {path}", hint=_HINT)
    if path.name.endswith(".index.json"):
        return SavedWeights(path.parent, _read_index(path))
    if path.suffix != ".safetensors":
        raise SparsityError(f"{path.name} is not a safetensors file, and nothing else is read", hint=_HINT)
    with _open_safetensors(path) as file:
        names = tuple(file.keys())
    return SavedWeights(path.parent, dict.fromkeys(names, path.name))


def holds_safetensors(folder: Path) -> bool:
    """Return whether ``from_pretrained`` finds safetensors in a folder."""
    return any((folder / name).is_file() for name in (DENSE, INDEX))


def _named_in_config(folder: Path) -> tuple[str, ...]:
    """Return the file that a folder's ``config.json`` makes ``from_pretrained`` take, if it names one.

    Raises:
        SparsityError: It lies in another folder.
    """
    try:
        name = json.loads((folder / "config.json").read_text()).get("transformers_weights")
    except (OSError, ValueError, AttributeError, RecursionError):
        return ()
    if not isinstance(name, str):
        return ()
    if Path(name).name != name:
        raise SparsityError(f"config.json names weights outside its own folder: {name}")
    return (name,)


def _hint_for(folder: Path) -> str:
    if (folder / MODEL).is_dir():
        return f"did you mean {folder / 'model'}?"
    if (folder / "result.json").is_file():
        return "this trial was run without its model; save_model=true force=true trains it again and keeps it"
    return _HINT


def _read_index(path: Path) -> dict[str, str]:
    try:
        files = json.loads(path.read_text())["weight_map"]
        plain = all(isinstance(name, str) and Path(name).name == name for name in files.values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise SparsityError(f"{path.name} is no index of safetensors files") from error
    if not plain:
        raise SparsityError(f"{path.name} names files outside its own folder")
    return dict(files)


@contextmanager
def _open_safetensors(path: Path) -> Iterator[Any]:
    """Open a file by ``safe_open``; its errors and those of the block become a ``SparsityError``."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        reason = first_line(error)
        raise SparsityError(f"{path.name} cannot be read: {reason}") from error
