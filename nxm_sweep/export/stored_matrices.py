"""The weight matrices in safetensors files, as this package and other tools store them, told by names, types and shapes.

A matrix is read as ``(out_features, in_features)``. What is stored in a form that is not known here is listed as unread,
so that nothing is said about it.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from nxm_sweep.errors import SparsityError
from nxm_sweep.sparsity.semi_structured import Packed, unpack

VALUES, META = ".packed", ".meta"
"""Suffixes of the names of a packed matrix's two parts."""
_FLOAT_8 = ("F8_E4M3", "F8_E5M2")
FLOATING = ("F64", "F32", "F16", "BF16", *_FLOAT_8)
_INDICES = ("I64", "U64", "BOOL")  # positions and masks, never weights
_SCALE = re.compile(r".*(scales?|scale_inv|zero_points?|qzeros|absmax)")
_EMBEDDING = re.compile(r"\w*embeddings?|embed(_\w+)?|wte|wpe|shared|relative_attention_bias")
_COMPRESSED, _BITMASK, _SHAPE = ".compressed", ".bitmask", ".shape"
_NOTES = {
    "inputs first": "stored with the inputs first, as GPT-2 stores them, and read transposed",
    "convolution": "convolutions, read along their input channels, a row for each output and position",
    "bitmask": "compressed with a bitmask, and unpacked",
    "8 bits": "stored in 8 bits, where a zero is exact",
}

Read = Callable[[str], Tensor]


@dataclass(frozen=True, slots=True)
class Header:
    """Type and shape of a stored tensor, as safetensors name them."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StoredMatrix:
    """A readable matrix.

    Attributes:
        shape: ``(rows, columns)`` as :attr:`read` returns it.
        read: Returns the matrix, given a function that reads a tensor by its name.
        form: Key of how it is stored, or an empty string for the usual way.
    """

    shape: tuple[int, int]
    read: Callable[[Read], Tensor]
    form: str = ""


@dataclass(slots=True)
class Contents:
    """What the files of a model hold.

    Attributes:
        matrices: By name in the state dict, in the order of the names.
        unread: Why a stored weight is not read, by name.
    """

    matrices: dict[str, StoredMatrix] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        """One line for each unusual form in which matrices are stored."""
        forms: dict[str, list[str]] = defaultdict(list)
        for name, matrix in self.matrices.items():
            forms[matrix.form].append(name)
        return describe_forms(forms)


def describe_forms(forms: Mapping[str, list[str]]) -> tuple[str, ...]:
    """Return a line for each form with a note, given the names of its matrices."""
    return tuple(
        f"{note}: {len(forms[form])}, such as {forms[form][0]}" for form, note in _NOTES.items() if forms.get(form)
    )


def is_embedding(name: str) -> bool:
    """Return whether a tensor is an embedding table, which no pattern is about."""
    module = name.removesuffix(".weight").rpartition(".")[2]
    return _EMBEDDING.fullmatch(module) is not None


def find_matrices(headers: Mapping[str, Header], read: Read) -> Contents:
    """Find the weight matrices among stored tensors; vectors, scales, indices and masks are none.

    Args:
        headers: Type and shape of every tensor, by name.
        read: Reads a tensor by its name; called here for the shapes of compressed matrices only.

    Raises:
        SparsityError: A compressed matrix is damaged.
    """
    contents, inputs_first = Contents(), _find_inputs_first(headers)
    for name, header in sorted(headers.items()):
        if not _is_weight(name, header, headers):
            continue
        dense = _name_dense(name)
        if header.dtype not in FLOATING and not (header.dtype == "I8" and _is_symmetric(dense, headers)):
            matrix = None
        elif name.endswith(VALUES):
            matrix = _make_packed(dense, header) if dense + META in headers and len(header.shape) == 2 else None
        elif name.endswith(_COMPRESSED):
            base = name.removesuffix(_COMPRESSED)
            bits = headers.get(base + _BITMASK)
            is_whole = base + _SHAPE in headers and bits is not None and bits.dtype == "U8" and len(bits.shape) == 2
            matrix = _make_compressed(base, read) if is_whole else None
        else:
            matrix = _make_plain(name, header, inputs_first=name in inputs_first)
        if matrix is None:
            contents.unread[dense] = f"{header.dtype} of {' x '.join(map(str, header.shape))}"
        else:
            contents.matrices[dense] = matrix
    return contents


def _is_weight(name: str, header: Header, headers: Mapping[str, Header]) -> bool:
    """Return whether a tensor is a weight of two or more dimensions, or the values of a compressed one."""
    parts = ((META, VALUES), (_BITMASK, _COMPRESSED), (_SHAPE, _COMPRESSED), (".row_offsets", _COMPRESSED))
    if 0 in header.shape:
        return False
    if any(name.endswith(part) and name.removesuffix(part) + values in headers for part, values in parts):
        return False
    if _SCALE.fullmatch(name.rpartition(".")[2]):
        return False
    if name.endswith(_COMPRESSED):
        return True
    if header.dtype in FLOATING and len(header.shape) == 3:  # learnt vectors and tables with a batch axis are none
        return sum(size > 1 for size in header.shape) > 1 and not is_embedding(name)
    return len(header.shape) > 1 and (
        header.dtype in FLOATING or (header.shape[0] > 1 and header.dtype not in _INDICES)
    )


def _name_dense(name: str) -> str:
    """Return the name that a stored weight has in a dense model."""
    name = name.removesuffix(VALUES)
    if not name.endswith(_COMPRESSED):
        return name
    return f"{name.removesuffix(_COMPRESSED).removesuffix('.weight')}.weight"


def _is_symmetric(dense: str, headers: Mapping[str, Header]) -> bool:
    """Return whether the integers of a quantised weight have their zero at 0."""
    return f"{dense}_scale" in headers and f"{dense}_zero_point" not in headers


def _find_inputs_first(headers: Mapping[str, Header]) -> set[str]:
    """Return the weights whose first axis is the inputs: those whose bias is as long as their second axis only.

    The bias of a square weight says nothing; such a one is stored as those of the same role are.
    """
    roles: set[str] = set()
    names = set()
    for name, header in headers.items():
        bias = headers.get(f"{name.removesuffix('.weight')}.bias")
        if bias is None or len(header.shape) < 2 or not name.endswith(".weight"):
            continue
        if bias.shape == header.shape[1:2] != header.shape[:1]:
            roles.add(name.split(".")[-2])
        elif header.shape[0] != header.shape[1]:
            continue
        names.add(name)
    return {name for name in names if name.split(".")[-2] in roles}


def _make_packed(dense: str, header: Header) -> StoredMatrix:
    rows, columns = header.shape
    return StoredMatrix((rows, 2 * columns), lambda read: unpack(Packed(read(dense + VALUES), read(dense + META))))


def _make_compressed(base: str, read: Read) -> StoredMatrix:
    """Describe a matrix that compressed-tensors has stored as its kept values and a mask of bits.

    Source: ``sparse_bitmask.py`` and ``sparse_24_bitmask.py`` of compressed-tensors 0.10.
    """
    damaged = SparsityError(f"{base} is damaged: its bitmask does not fit its values")
    try:
        rows, columns = (int(size) for size in read(base + _SHAPE).flatten().tolist())
    except (ValueError, OverflowError) as error:
        raise damaged from error
    if min(rows, columns) < 1:
        raise damaged

    def decompress(read: Read) -> Tensor:
        bits = np.unpackbits(read(base + _BITMASK).numpy(), axis=-1, bitorder="little")[:, :columns]
        mask, values = torch.from_numpy(bits.astype(bool)), _widen(read(base + _COMPRESSED)).flatten()
        if mask.shape != (rows, columns) or int(mask.sum()) != len(values):
            raise damaged
        matrix = values.new_zeros(rows, columns)
        matrix[mask] = values
        return matrix

    return StoredMatrix((rows, columns), decompress, "bitmask")


def _make_plain(name: str, header: Header, *, inputs_first: bool) -> StoredMatrix | None:
    """Describe a matrix, or a convolution's weight as one; None for other tensors of three dimensions."""
    shape, axis = header.shape, 0 if inputs_first else 1
    if len(shape) == 2:
        rows, columns = shape[::-1] if inputs_first else shape
        form = "inputs first" if inputs_first else "8 bits" if header.dtype in {"I8", *_FLOAT_8} else ""
        return StoredMatrix(
            (rows, columns),
            lambda read: _widen(read(name)).T.contiguous() if inputs_first else _widen(read(name)),
            form,
        )
    if len(shape) == 3 and "conv" not in name:
        return None
    inputs = shape[axis]
    return StoredMatrix(
        (math.prod(shape) // max(1, inputs), inputs),
        lambda read: _widen(read(name)).movedim(axis, -1).reshape(-1, inputs),
        "convolution",
    )


def _widen(tensor: Tensor) -> Tensor:
    """Return 8-bit numbers as float32, which holds them exactly; others as they are."""
    return tensor.float() if tensor.element_size() == 1 else tensor
