"""Several processes (ranks) that train one model: who computes what, and how all come to hold the same.

The ranks are those of ``torch.distributed``'s default group. In a process that is not one of several, each function here
does all of the work itself and speaks to nobody.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nxm_sweep import errors
from nxm_sweep.errors import NxmSweepError
from nxm_sweep.sparsity.targets import Target


def count() -> int:
    """Return how many processes train this model; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return which of them this is, from 0; 0 without a process group."""
    return dist.get_rank() if count() > 1 else 0


def share(value: Any, source: int = 0) -> Any:
    """Return on every rank what ``value`` is on rank ``source``.

    Args:
        value: Anything that JSON holds; only that of rank ``source`` is looked at.
        source: Whose value counts.
    """
    if count() == 1:
        return value
    text = b"" if value is None or rank() != source else json.dumps(value).encode()
    size = torch.tensor(len(text), device=_carrier())
    dist.broadcast(size, source)
    if not int(size):
        return None
    data = torch.empty(int(size), dtype=torch.uint8, device=_carrier())
    if rank() == source:
        data.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
    dist.broadcast(data, source)
    return json.loads(data.cpu().numpy().tobytes())


def total(value: Tensor) -> Tensor:
    """Return the sum of a tensor over all ranks, the same bits on each."""
    if count() == 1:
        return value
    carried = value.detach().to(_carrier(), copy=True)
    dist.all_reduce(carried)
    return carried.to(value.device)


def mean(value: Tensor) -> Tensor:
    """Return the mean of a tensor over all ranks, the same bits on each."""
    return value if count() == 1 else total(value) / count()


def stack(rows: Tensor) -> Tensor:
    """Return the rows of all ranks, rank 0's first. Each rank has as many: shape ``(n, ...)`` becomes ``(ranks * n, ...)``."""
    if count() == 1:
        return rows
    carried = rows.detach().to(_carrier()).contiguous()
    parts = [torch.empty_like(carried) for _ in range(count())]
    dist.all_gather(parts, carried)
    return torch.cat(parts).to(rows.device)


def wait() -> None:
    """Wait until every rank is here."""
    total(torch.zeros(()))


@contextmanager
def together() -> Iterator[None]:
    """Let an error that one rank meets inside the block end the block on all of them.

    What a rank does in the block may wait for other ranks only where they do the same.

    Raises:
        NxmSweepError: That of the lowest rank that met one.
    """
    error: NxmSweepError | None = None
    try:
        yield
    except NxmSweepError as caught:
        error = caught
    if count() > 1:
        error = _first_error(error)
    if error is not None:
        raise error


def owners(sizes: Sequence[int]) -> list[int]:
    """Return which rank does each piece of work, so that all have about as much: the largest first, to whom has least."""
    loads = [0] * count()
    owner = [0] * len(sizes)
    for piece in sorted(range(len(sizes)), key=lambda piece: -sizes[piece]):
        owner[piece] = loads.index(min(loads))
        loads[owner[piece]] += sizes[piece]
    return owner


def owners_of(targets: Sequence[Target]) -> list[int]:
    """Return which rank projects each target."""
    return owners([target.weight.numel() for target in targets])


def supports(targets: Sequence[Target], matrix: Callable[[Target], Tensor] | None = None) -> list[Tensor]:
    """Return the support of a matrix per target. Each rank projects its share and sends it to the others.

    Args:
        targets: What is projected.
        matrix: Returns a target's matrix; default: its weight.

    Raises:
        SparsityError: A matrix cannot be projected; on every rank.
    """
    masks: list[Tensor] = []
    with together():
        for target, owner in zip(targets, owners_of(targets), strict=True):
            if owner == rank():
                masks.append(target.support(None if matrix is None else matrix(target)))
            else:
                masks.append(torch.empty_like(target.weight, dtype=torch.bool))
    spread_(masks, owners_of(targets))
    return masks


def spread_(tensors: Sequence[Tensor], owner: Sequence[int]) -> None:
    """Overwrite each tensor by that of its owner."""
    if count() == 1:
        return
    for tensor, source in zip(tensors, owner, strict=True):
        carried = tensor.to(torch.uint8) if tensor.dtype == torch.bool else tensor.detach()
        carried = carried.contiguous()
        dist.broadcast(carried, source)
        tensor.copy_(carried)


def _carrier() -> torch.device:
    """Where small messages are put: the backend of NVIDIA's GPUs carries nothing else."""
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _first_error(error: NxmSweepError | None) -> NxmSweepError | None:
    """The error of the lowest rank that has one."""
    lowest = torch.tensor(count() if error is None else rank(), device=_carrier())
    dist.all_reduce(lowest, op=dist.ReduceOp.MIN)
    source = int(lowest)
    if source == count():
        return None
    told = [] if error is None else [type(error).__name__, error.message, error.hint]
    kind, message, hint = share(told, source)
    if source == rank():
        return error
    found = getattr(errors, kind, NxmSweepError)
    other: NxmSweepError = found(message, hint)
    return other
