"""The process group of a trial's ranks: joining it, and propagating one rank's failure to all."""

from __future__ import annotations

import json
import os
import time
import traceback
from contextlib import suppress
from dataclasses import asdict
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from nxm_sweep.config.device import launched, uses_gpu
from nxm_sweep.errors import NxmSweepError, RankError
from nxm_sweep.settings import TrialSettings
from nxm_sweep.sparsity import distributed
from nxm_sweep.store.attempts import classify

FAILURE, HEARD = "nxm_sweep/failure", "nxm_sweep/heard"
_PATIENCE = timedelta(days=7)
"""Timeout for other ranks, such as rank 0 waiting for a lock. The launcher ends all ranks if one dies."""
_SECONDS_TO_HEAR = timedelta(seconds=10)


class ProcessGroup:
    """Join the group of ``torchrun`` or our launcher, as a context manager; a no-op in a single process.

    An unexpected exception in one rank ends all: the store shares it, and rank 0 raises it as a ``RankError``.
    """

    def __init__(self, settings: TrialSettings) -> None:
        self._settings = settings
        self._store: Any = None

    def __enter__(self) -> Self:
        if launched() == 1:
            return self
        gpu = uses_gpu(self._settings)
        if gpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))  # else Accelerate sets another number
        self._store, rank, count = next(rendezvous("env://", timeout=_PATIENCE))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpu else "gloo",
            store=dist.PrefixStore("group", self._store),  # type: ignore[attr-defined]
            rank=rank,
            world_size=count,
            timeout=_PATIENCE,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._store is None:
            return
        if isinstance(error, Exception) and not isinstance(error, NxmSweepError):
            raise self._share_failure(error) from error
        if error is None or isinstance(error, NxmSweepError):  # raised by all ranks
            dist.destroy_process_group()

    def _share_failure(self, error: Exception) -> RankError:
        """Return the group's first failure; its rank leaves the group and waits until rank 0 has read it."""
        rank = distributed.rank()
        failure = {"rank": rank, **asdict(classify(error, traceback.format_exc()))}
        first = failure
        with suppress(RuntimeError):  # the store's process may be gone
            first = json.loads(self._store.compare_set(FAILURE, "", json.dumps(failure)))
            if rank == 0:
                self._store.set(HEARD, "1")
            elif first["rank"] == rank:
                dist.destroy_process_group()
                self._store.wait([HEARD], _SECONDS_TO_HEAR)
                time.sleep(0.5)  # for rank 0 to raise it before the launcher ends it
        return rank_error(first)


def rank_error(failed: dict[str, Any]) -> RankError:
    """Return the error of a failed rank."""
    return RankError(f"rank {failed['rank']}: {failed['message']}", kind=failed["kind"], traceback=failed["traceback"])
