"""Packed 2:4 matrices: bit by bit, against a packing by hand and PyTorch's own tables."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.sparse import SparseSemiStructuredTensorCUSPARSELT, SparseSemiStructuredTensorCUTLASS

from nxm_sweep.errors import SparsityError
from nxm_sweep.sparsity import Constraint, Pattern, Unstructured, check_matrix, project
from nxm_sweep.sparsity.semi_structured import (
    DTYPES,
    KERNELS,
    STORED,
    TWO_OF_FOUR,
    Packed,
    choose_backend,
    eligibility,
    fits,
    narrow,
    pack,
    to_kernels,
    unpack,
)

HALVES = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)


def sparse(rows: int, columns: int, dtype: torch.dtype, pattern: Pattern = TWO_OF_FOUR) -> Tensor:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows + columns))
    return narrow("w", project(weight, pattern), dtype)


def bits(tensor: Tensor) -> list[list[int]]:
    listed: list[list[int]] = tensor.view(torch.int16).tolist()
    return listed


@HALVES
@pytest.mark.parametrize(("rows", "columns"), [(32, 32), (64, 32), (96, 96), (32, 256)])
def test_unpacking_gives_back_every_bit(rows: int, columns: int, dtype: torch.dtype) -> None:
    weight = sparse(rows, columns, dtype)
    packed = pack("w", weight)
    assert (packed.values.shape, packed.meta.shape) == ((rows, columns // 2), (rows, columns // 16))
    assert packed.shape == (rows, columns)
    assert packed.meta.dtype == torch.int16
    assert bits(unpack(packed)) == bits(weight)


@HALVES
def test_packed_values_are_the_kept_ones_in_their_order(dtype: torch.dtype) -> None:
    weight = sparse(32, 32, dtype)
    by_hand = [[value for value in row if value != 0] for row in weight.tolist()]
    assert pack("w", weight).values.tolist() == by_hand


@HALVES
def test_every_support_of_up_to_two_survives(dtype: torch.dtype) -> None:
    supports = [[place in (low, high) for place in range(4)] for low in range(4) for high in range(4)]
    weight = torch.tensor(supports, dtype=torch.float32).reshape(1, 64).repeat(32, 1)
    weight[:, 60:] = 0.0  # the empty group
    weight = narrow("w", weight * torch.arange(1, 65), dtype)
    assert bits(unpack(pack("w", weight))) == bits(weight)


@HALVES
def test_extreme_values_survive(dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype)
    weight = torch.zeros(32, 32, dtype=dtype)
    weight[0, :2] = torch.tensor([limits.max, limits.min], dtype=dtype)
    weight[5, 13:15] = torch.tensor([limits.smallest_normal, -limits.smallest_normal], dtype=dtype)
    weight[9, 3] = torch.tensor(1, dtype=torch.int16).view(dtype)  # the smallest subnormal
    assert bits(unpack(pack("w", weight))) == bits(weight)


def test_narrowing_leaves_no_negative_zero() -> None:
    weight = torch.tensor([[-0.0, -1e-30, 3.0, 0.0]])
    narrowed = narrow("w", weight, torch.float16)
    assert bits(narrowed) == [[0, 0, 0x4200, 0]]


def test_negative_zero_among_kept_values_is_no_obstacle() -> None:
    weight = sparse(32, 32, torch.float16).float()
    kept = weight[0].nonzero()[0]
    weight[0, kept] = -1e-30  # becomes -0 in fp16
    narrowed = narrow("w", weight, torch.float16)
    assert bits(unpack(pack("w", narrowed))) == bits(narrowed)


def test_value_out_of_range_is_refused() -> None:
    with pytest.raises(SparsityError, match=r"layer\.0 holds a value that is not finite in float16"):
        narrow("layer.0", torch.tensor([[1e5, 0.0, 0.0, 0.0]]), torch.float16)
    assert narrow("layer.0", torch.tensor([[1e5]]), torch.bfloat16).isfinite().all()


@HALVES
def test_one_third_value_in_a_group_is_refused_and_not_dropped(dtype: torch.dtype) -> None:
    weight = sparse(32, 32, dtype)
    group = weight[7, 8:12]
    group[(group == 0).nonzero()[0]] = 1.0
    with pytest.raises(SparsityError, match=r"layer\.0 breaks 2 of 4 at row 7, column 8"):
        pack("layer.0", weight)


@pytest.mark.parametrize(("rows", "columns", "why"), [(48, 32, "48 rows"), (32, 48, "48 columns")])
def test_shape_that_cannot_be_packed_is_refused(rows: int, columns: int, why: str) -> None:
    with pytest.raises(SparsityError, match=f"cannot be packed: {why}: no multiple"):
        pack("w", sparse(rows, columns, torch.float16))


def test_full_precision_is_refused() -> None:
    with pytest.raises(SparsityError, match=r"float16 or bfloat16 but this one is torch\.float32"):
        pack("w", sparse(32, 32, torch.float32))


def test_damaged_metadata_is_an_error_of_ours() -> None:
    packed = pack("w", sparse(32, 32, torch.float16))
    with pytest.raises(SparsityError, match="damaged"):
        unpack(Packed(packed.values, packed.meta[:, :1]))


def test_tensor_of_the_kernels_holds_the_matrix() -> None:
    weight = sparse(32, 64, torch.float16)
    tensor = to_kernels(pack("w", weight), "CUTLASS")  # making one needs no GPU; multiplying does
    assert isinstance(tensor, SparseSemiStructuredTensorCUTLASS)
    assert bits(tensor.to_dense()) == bits(weight)  # type: ignore[no-untyped-call]


def test_shape_that_a_backend_does_not_take_stays_dense() -> None:
    assert to_kernels(pack("w", sparse(32, 96, torch.float16)), "CUTLASS") is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_no_backend_is_chosen_without_a_gpu(device: str) -> None:
    with pytest.raises(SparsityError, match="need a CUDA device"):
        choose_backend(torch.device(device))


@HALVES
@pytest.mark.parametrize(
    ("name", "kind"),
    [("cuSPARSELt", SparseSemiStructuredTensorCUSPARSELT), ("CUTLASS", SparseSemiStructuredTensorCUTLASS)],
    ids=["cuSPARSELt", "CUTLASS"],
)
def test_shape_rules_are_those_of_pytorch(name: str, kind: type, dtype: torch.dtype) -> None:
    theirs = kind._DTYPE_SHAPE_CONSTRAINTS[dtype]  # type: ignore[attr-defined]
    assert (KERNELS[name].rows, KERNELS[name].columns) == (theirs.sparse_min_rows, theirs.sparse_min_cols)


@pytest.mark.parametrize("rows", [16, 32, 48, 64])
@pytest.mark.parametrize("columns", [8, 16, 24, 32, 48, 64, 80, 96])
def test_stored_shapes_are_those_that_pytorch_packs(rows: int, columns: int) -> None:
    from torch.sparse._semi_structured_conversions import sparse_semi_structured_from_dense_cutlass as theirs

    weight = sparse(rows, columns, torch.float16)
    try:
        theirs(weight)  # type: ignore[no-untyped-call]
    except RuntimeError:
        packs = False
    else:
        packs = True
    assert packs == (STORED.refusal((rows, columns)) == "")


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((768, 768), "cuSPARSELt, CUTLASS"),
        ((48, 64), "cuSPARSELt"),
        ((768, 80), "cuSPARSELt"),
        ((2, 768), "none (2 rows: no multiple of 16)"),
        ((64, 12), "none (12 columns: no multiple of 16)"),
    ],
    ids=str,
)
def test_eligibility_in_words(shape: tuple[int, int], words: str) -> None:
    assert eligibility(shape) == words


@pytest.mark.parametrize("group", [1, 2, 3, 4, 6, 8, 16, 32])
def test_a_pattern_fits_if_its_densest_matrices_are_two_of_four(group: int) -> None:
    for keep in range(1, group + 1):
        places = torch.randn(64, 96, generator=torch.Generator().manual_seed(0))
        matrix = project(places, Pattern(keep, group))
        last = torch.arange(96) % group >= group - keep  # kept entries together at the end of each group
        crowded = last.expand(4, -1).float()
        holds = all(check_matrix("w", weight, TWO_OF_FOUR).holds for weight in (matrix, crowded))
        first = (torch.arange(96) % group < keep).expand(4, -1).float()
        holds = holds and check_matrix("w", first, TWO_OF_FOUR).holds
        if fits(Pattern(keep, group)):
            assert holds
        elif group % 4 == 0 or 4 % group == 0:
            assert not holds


@pytest.mark.parametrize("held", [Unstructured(0.5), Pattern(4, 8), Pattern(3, 4)], ids=str)
def test_other_constraints_fit_no_kernel(held: Constraint) -> None:
    assert eligibility((64, 64), held) == "none (not 2 of 4)"
