"""2:4 matrices in packed form: half the values, and two bits for the position of each.

The layout is that of PyTorch's CUTLASS kernels. cuSPARSELt's layout depends on its version and on the GPU, so it is
created when a packed model is loaded there.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor
from torch.sparse import SparseSemiStructuredTensorCUSPARSELT, SparseSemiStructuredTensorCUTLASS
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

from nxm_sweep.errors import SparsityError, first_line
from nxm_sweep.sparsity.matrix_check import check_matrix
from nxm_sweep.sparsity.pattern import Constraint, Pattern

TWO_OF_FOUR = Pattern(2, 4)
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
"""Dtypes of packed matrices, by their name on the command line."""


@dataclass(frozen=True, slots=True)
class ShapeRule:
    """Numbers that a matrix's rows and columns must be multiples of.

    Args:
        rows: Multiple for ``out_features``.
        columns: Multiple for ``in_features``.
    """

    rows: int
    columns: int

    def refusal(self, shape: tuple[int, int]) -> str:
        """Return why a matrix of this shape is refused, or an empty string."""
        for name, size, multiple in (("rows", shape[0], self.rows), ("columns", shape[1], self.columns)):
            if size % multiple or not size:
                return f"{size} {name}: no multiple of {multiple}"
        return ""


KERNELS: Mapping[str, ShapeRule] = MappingProxyType(
    {
        "cuSPARSELt": ShapeRule(16, 16),  # Ampere and later
        "CUTLASS": ShapeRule(32, 64),  # compute capability 8.x
    }
)
"""Shapes that each backend supports in fp16 and bf16.

Source: ``_DTYPE_SHAPE_CONSTRAINTS`` of ``torch/sparse/semi_structured.py``, PyTorch 2.13.
"""
STORED = ShapeRule(32, 32)
"""Shapes that fit the stored layout: rows are reordered by 32, 16 columns share a metadata word, and words are swapped
in pairs.

Source: ``_calculate_meta_reordering_scatter_offsets`` of ``torch/sparse/_semi_structured_conversions.py``, PyTorch 2.13, whose
own check lets odd multiples of 16 columns pass and then fails on them.
"""


def fits(constraint: Constraint) -> bool:
    """Return whether every matrix that satisfies the constraint is 2:4."""
    if not isinstance(constraint, Pattern):
        return False
    if 4 % constraint.group == 0:
        return 4 // constraint.group * constraint.keep <= 2
    return constraint.group % 4 == 0 and constraint.keep <= 2


def eligibility(shape: tuple[int, int], constraint: Constraint = TWO_OF_FOUR) -> str:
    """Describe which kernels support a matrix: ``cuSPARSELt, CUTLASS``, or why none does."""
    if not fits(constraint):
        return "none (not 2 of 4)"
    return ", ".join(supporting(shape)) or f"none ({KERNELS['cuSPARSELt'].refusal(shape)})"


def supporting(shape: tuple[int, int]) -> list[str]:
    """Return the backends whose kernels support a 2:4 matrix of a shape."""
    return [name for name, rule in KERNELS.items() if not rule.refusal(shape)]


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """A 2:4 matrix of shape ``(rows, columns)`` in packed form.

    Args:
        values: Shape ``(rows, columns / 2)``, fp16 or bf16: the kept entries in the order of their columns.
        meta: Shape ``(rows, columns / 16)``, int16: four bits per group of four, reordered as the kernels read them.
    """

    values: Tensor
    meta: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """``(rows, columns)`` of the dense matrix."""
        return self.values.shape[0], 2 * self.values.shape[1]


def narrow(matrix: str, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast ``weight`` to ``dtype``, with ``+0`` for every zero and every value that underflows.

    Kernels have been observed to treat ``-0`` as a value.

    Raises:
        SparsityError: A value is not finite in ``dtype``.
    """
    narrowed = weight.detach().to(dtype)
    if not bool(narrowed.isfinite().all()):
        raise SparsityError(
            f"{matrix} holds a value that is not finite in {str(dtype).removeprefix('torch.')}",
            hint="bfloat16 has the range of float32",
        )
    return narrowed.masked_fill(narrowed == 0, 0.0)


def pack(matrix: str, weight: Tensor) -> Packed:
    """Pack a 2:4 matrix, and check that unpacking restores every bit of it.

    Args:
        matrix: Its name, for messages.
        weight: Shape ``(out_features, in_features)``, fp16 or bf16, as :func:`narrow` returns it; on any device.

    Raises:
        SparsityError: It is not 2:4, not fp16 or bf16, of a shape that cannot be packed, or not restored bit for bit.
    """
    if weight.dtype not in DTYPES.values():
        raise SparsityError(f"{matrix}: packed matrices are {' or '.join(DTYPES)} but this one is {weight.dtype}")
    check = check_matrix(matrix, weight, TWO_OF_FOUR)  # PyTorch silently drops a third value of a group
    if check.first_violation is not None:
        row, column = check.first_violation
        raise SparsityError(f"{matrix} breaks 2 of 4 at row {row}, column {column}, and nothing else can be packed")
    if refusal := STORED.refusal(check.shape):
        raise SparsityError(f"{matrix} cannot be packed: {refusal}")
    values, meta = sparse_semi_structured_from_dense_cutlass(weight.contiguous())  # type: ignore[no-untyped-call]
    packed = Packed(values, meta)
    if not torch.equal(unpack(packed).view(torch.int16), weight.contiguous().view(torch.int16)):
        raise SparsityError(
            f"{matrix} was not the same after packing and unpacking",
            hint="this is a defect: please report it with the versions of torch and nxm_sweep",
        )
    return packed


def unpack(packed: Packed) -> Tensor:
    """Return the dense matrix, shape ``(rows, columns)``, on the packed one's device.

    Raises:
        SparsityError: Values and metadata do not fit each other.
    """
    try:
        dense: Tensor = sparse_semi_structured_to_dense_cutlass(packed.values, packed.meta)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise SparsityError(f"the packed matrix is damaged: {first_line(error)}") from error
    return dense


def choose_backend(device: torch.device) -> str:
    """Return the backend whose 2:4 kernels run on a device: ``cuSPARSELt``, else ``CUTLASS``.

    Raises:
        SparsityError: Neither does.
    """
    if device.type != "cuda" or not torch.cuda.is_available():
        raise SparsityError("PyTorch's 2:4 kernels need a CUDA device", hint="device='cpu' loads the dense weights")
    major, minor = torch.cuda.get_device_capability(device)
    if major >= 8 and torch.backends.cusparselt.is_available():
        return "cuSPARSELt"
    if major == 8:
        return "CUTLASS"
    raise SparsityError(
        f"no 2:4 kernel for compute capability {major}.{minor} here",
        hint="cuSPARSELt (part of PyTorch's CUDA packages) needs 8.0 or later; CUTLASS needs 8.x",
    )


def to_kernels(packed: Packed, backend: str) -> Tensor | None:
    """Convert a packed matrix to a tensor whose products run on the 2:4 kernels.

    Return None if the backend does not support the shape.

    Args:
        packed: The matrix, on the CUDA device.
        backend: ``cuSPARSELt`` or ``CUTLASS``.
    """
    if KERNELS[backend].refusal(packed.shape):
        return None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*SparseSemiStructuredTensor is in prototype stage.*")
        if backend == "CUTLASS":
            return SparseSemiStructuredTensorCUTLASS(
                torch.Size(packed.shape),
                packed=packed.values,
                meta=packed.meta,
                packed_t=None,
                meta_t=None,
                compressed_swizzled_bitmask=None,
            )
        return make_sparse(unpack(packed), backend)


def make_sparse(weight: Tensor, backend: str) -> Tensor:
    """Convert a dense 2:4 matrix to the tensor of a backend, as ``torch.sparse.to_sparse_semi_structured`` does.

    Args:
        weight: Shape ``(out_features, in_features)``, fp16 or bf16, on the CUDA device; of a shape that the backend supports.
        backend: ``cuSPARSELt`` or ``CUTLASS``.
    """
    kind = SparseSemiStructuredTensorCUTLASS if backend == "CUTLASS" else SparseSemiStructuredTensorCUSPARSELT
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*SparseSemiStructuredTensor is in prototype stage.*")
        return kind.from_dense(weight)
