"""How batches are shared out among ranks; the trainings themselves are compared in ``tests/sweep/test_devices``."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, SequentialSampler

from nxm_sweep.sparsity import distributed
from nxm_sweep.training.distributed_trainer import RankBatches
from nxm_sweep.training.monitor import NullMonitor, RankZeroMonitor


def _parts(rows: int, size: int, count: int) -> list[list[list[int]]]:
    """Per rank, its part of every batch."""
    found = []
    for rank in range(count):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(distributed, "count", lambda: count)
            patch.setattr(distributed, "rank", lambda rank=rank: rank)
            patch.setattr(distributed, "share", lambda value: value)
            batches = RankBatches(BatchSampler(SequentialSampler(range(rows)), size, drop_last=False))
            found.append(list(batches))
            assert len(found[-1]) == len(batches)
    return found


@given(rows=st.integers(1, 60), size=st.integers(1, 8), count=st.integers(1, 4))
def test_mean_over_ranks_of_their_mean_is_the_mean_of_the_batch(rows: int, size: int, count: int) -> None:
    size *= count
    losses = torch.randn(rows, dtype=torch.float64, generator=torch.Generator().manual_seed(rows))
    parts = _parts(rows, size, count)
    whole = [list(range(start, min(start + size, rows))) for start in range(0, rows, size)]
    assert [len(part) for part in parts] == [len(whole)] * count
    for batch, *given_out in zip(whole, *parts, strict=True):
        assert set().union(*given_out) == set(batch)
        assert len({len(part) for part in given_out}) == 1
        means = torch.stack([losses[part].mean() for part in given_out])
        torch.testing.assert_close(means.mean(), losses[batch].mean())


def test_ranks_together_see_a_batch_in_its_order_and_no_row_twice() -> None:
    parts = _parts(rows=22, size=8, count=2)
    assert parts == [[[0, 1, 2, 3], [8, 9, 10, 11], [16, 17, 18]], [[4, 5, 6, 7], [12, 13, 14, 15], [19, 20, 21]]]


def test_batch_that_does_not_divide_is_given_to_every_rank_whole() -> None:
    assert _parts(rows=11, size=8, count=2) == [[[0, 1, 2, 3], [8, 9, 10]], [[4, 5, 6, 7], [8, 9, 10]]]


class _Stops(NullMonitor):
    def stop_now(self) -> str | None:
        return "mine"


def test_watch_of_a_follower_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert RankZeroMonitor(_Stops()).stop_after_epoch() == "mine"
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    monkeypatch.setattr(distributed, "share", lambda value: f"{value} of rank 1")
    assert RankZeroMonitor(_Stops()).stop_now() == "None of rank 1"
