"""Distributed training of one model: collectives over its ranks, and the assignment of projections to ranks.

The ranks are those of ``torch.distributed``'s default group. Without one, each function here does all of the work
itself and communicates with no other process.
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
    """Return the number of processes that train this model; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process, from 0; 0 without a process group."""
    return dist.get_rank() if count() > 1 else 0


def share(value: Any, source: int = 0) -> Any:
    """Broadcast ``value`` from rank ``source``, and return it on every rank.

    Args:
        value: A value that JSON can represent; ignored on all ranks but ``source``.
        source: Rank to broadcast from.
    """
    if count() == 1:
        return value
    text = b"" if value is None or rank() != source else json.dumps(value).encode()
    size = torch.tensor(len(text), device=_message_device())
    dist.broadcast(size, source)
    if not int(size):
        return None
    data = torch.empty(int(size), dtype=torch.uint8, device=_message_device())
    if rank() == source:
        data.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
    dist.broadcast(data, source)
    return json.loads(data.cpu().numpy().tobytes())


def total(value: Tensor) -> Tensor:
    """Return the sum of a tensor over all ranks, bit-identical on each."""
    if count() == 1:
        return value
    carried = value.detach().to(_message_device(), copy=True)
    dist.all_reduce(carried)
    return carried.to(value.device)


def mean(value: Tensor) -> Tensor:
    """Return the mean of a tensor over all ranks, bit-identical on each."""
    return value if count() == 1 else total(value) / count()


def stack(rows: Tensor) -> Tensor:
    """Concatenate the rows of all ranks in order: ``(rows, ...)``, equal on each, becomes ``(ranks * rows, ...)``."""
    if count() == 1:
        return rows
    carried = rows.detach().to(_message_device()).contiguous()
    parts = [torch.empty_like(carried) for _ in range(count())]
    dist.all_gather(parts, carried)
    return torch.cat(parts).to(rows.device)


def wait() -> None:
    """Block until every rank has reached this call."""
    total(torch.zeros(()))


@contextmanager
def together() -> Iterator[None]:
    """Raise an error of any rank inside the block on every rank when the block ends.

    A rank may call a collective in the block only where all ranks do.

    Raises:
        NxmSweepError: The error of the lowest rank that has one.
    """
    error: NxmSweepError | None = None
    try:
        yield
    except NxmSweepError as caught:
        error = caught
    if count() > 1:
        error = _share_first_error(error)
    if error is not None:
        raise error


def owners(sizes: Sequence[int]) -> list[int]:
    """Return the rank of each piece of work, balanced greedily: the largest piece first, to the least loaded rank."""
    loads = [0] * count()
    owner = [0] * len(sizes)
    for piece in sorted(range(len(sizes)), key=lambda piece: -sizes[piece]):
        owner[piece] = loads.index(min(loads))
        loads[owner[piece]] += sizes[piece]
    return owner


def owners_of(targets: Sequence[Target]) -> list[int]:
    """Return the rank that projects each target."""
    return owners([target.weight.numel() for target in targets])


def supports(targets: Sequence[Target], matrix: Callable[[Target], Tensor] | None = None) -> list[Tensor]:
    """Return the support of a matrix per target. Each rank projects its share and broadcasts the result.

    Args:
        targets: Targets to project.
        matrix: Returns a target's matrix; default: its weight.

    Raises:
        SparsityError: A matrix cannot be projected; raised on every rank.
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
    """Broadcast each tensor from its owner, in place."""
    if count() == 1:
        return
    for tensor, source in zip(tensors, owner, strict=True):
        carried = tensor.to(torch.uint8) if tensor.dtype == torch.bool else tensor.detach()
        carried = carried.contiguous()
        dist.broadcast(carried, source)
        tensor.copy_(carried)


def _message_device() -> torch.device:
    """Return the device for small messages: NCCL transfers only CUDA tensors."""
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _share_first_error(error: NxmSweepError | None) -> NxmSweepError | None:
    """Return, on every rank, the error of the lowest rank that has one."""
    lowest = torch.tensor(count() if error is None else rank(), device=_message_device())
    dist.all_reduce(lowest, op=dist.ReduceOp.MIN)
    source = int(lowest)
    if source == count():
        return None
    fields = [] if error is None else [type(error).__name__, error.message, error.hint]
    name, message, hint = share(fields, source)
    if source == rank():
        return error
    error_class = getattr(errors, name, NxmSweepError)
    remote: NxmSweepError = error_class(message, hint)
    return remote
