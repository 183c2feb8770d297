"""Ranks hold the same Z, U and masks, bit for bit, as one process does, and each projects its share alone."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from nxm_sweep.errors import SparsityError
from nxm_sweep.sparsity import distributed

SECONDS = 120  # no wait of these tests is longer
COUNT = 2
DRIVER = Path(__file__).with_name("distributed_driver.py")


@dataclass(frozen=True)
class Found:
    tensors: dict[str, Tensor]
    figures: dict[str, Any]


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    """What two ranks found."""
    folder = tmp_path_factory.mktemp("ranks")
    started = [
        subprocess.Popen([sys.executable, str(DRIVER), str(rank), str(COUNT), str(folder)]) for rank in range(COUNT)
    ]
    try:
        assert [process.wait(SECONDS) for process in started] == [0] * COUNT
    finally:
        for process in started:
            process.kill()
            process.wait()
    return [
        Found(load_file(folder / f"{rank}.safetensors"), json.loads((folder / f"{rank}.json").read_text()))
        for rank in range(COUNT)
    ]


@pytest.fixture(scope="module")
def alone() -> Found:
    """What one process finds."""
    tensors, figures = runpy.run_path(str(DRIVER), run_name="distributed_driver")["work"]()
    return Found(tensors, json.loads(json.dumps(figures)))


def test_z_u_and_masks_of_every_rank_are_those_of_one_process_bit_for_bit(group: list[Found], alone: Found) -> None:
    assert {name.partition(".")[0] for name in alone.tensors} == {"z", "u", "rho", "mask"}
    for found in group:
        assert found.tensors.keys() == alone.tensors.keys()
        assert all(torch.equal(found.tensors[name], alone.tensors[name]) for name in alone.tensors)


def test_residuals_of_every_rank_are_those_of_one_process(group: list[Found], alone: Found) -> None:
    assert len(alone.figures["residuals"]) == 3
    assert all(found.figures["residuals"] == alone.figures["residuals"] for found in group)


def test_ranks_share_the_projections_evenly_and_none_is_done_twice(group: list[Found], alone: Found) -> None:
    shares = [found.figures["projected"] for found in group]
    assert sum(shares) == alone.figures["projected"]
    assert max(shares) < 0.55 * sum(shares)


def test_error_of_one_rank_is_raised_by_all(group: list[Found]) -> None:
    assert {found.figures["caught"] for found in group} == {"SparsityError: only rank 1 (has this)"}


def test_matrix_that_one_rank_cannot_project_is_an_error_of_all(group: list[Found]) -> None:
    assert {found.figures["unprojectable"] for found in group} == {"SparsityError"}


def test_ranks_tell_each_other_what_they_hold(group: list[Found]) -> None:
    for found in group:
        assert found.figures["shared"] == {"from": 0, "text": "ü"}
        assert found.figures["nothing"] is None
        assert found.figures["mean"] == 0.5
        assert found.figures["stacked"] == [0, 0, 1, 1]


def test_a_process_alone_speaks_to_nobody() -> None:
    rows = torch.arange(3)
    assert (distributed.count(), distributed.rank()) == (1, 0)
    assert distributed.share(rows) is rows
    assert distributed.mean(rows) is rows
    assert distributed.total(rows) is rows
    assert distributed.stack(rows) is rows
    distributed.wait()
    with pytest.raises(SparsityError, match="mine"), distributed.together():
        raise SparsityError("mine")


@given(sizes=st.lists(st.integers(0, 1000), max_size=30), count=st.integers(1, 8))
def test_no_rank_has_more_than_the_lightest_and_one_piece(sizes: list[int], count: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "count", lambda: count)
        owner = distributed.owners(sizes)
    loads = [sum(size for size, rank in zip(sizes, owner, strict=True) if rank == one) for one in range(count)]
    assert len(owner) == len(sizes)
    assert max(loads) - min(loads) <= max(sizes, default=0)
