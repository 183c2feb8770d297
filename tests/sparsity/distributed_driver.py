"""One of several ranks of ``test_ranks``: ``rank_driver.py RANK COUNT FOLDER``; also what one process does, for comparison."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn

from nxm_sweep.errors import NxmSweepError, SparsityError
from nxm_sweep.sparsity import (
    Admm,
    Masking,
    Pattern,
    Target,
    Unstructured,
    distributed,
    select_targets,
    support,
    targets,
)
from nxm_sweep.sparsity.targets import Rule

STEPS = 3


def matrices() -> list[Target]:
    """Six matrices of several sizes under two constraints."""
    torch.manual_seed(0)
    sizes = [(8, 16), (16, 32), (4, 8), (32, 16), (8, 8), (12, 24)]
    model = nn.Sequential(*(nn.Linear(columns, rows) for rows, columns in sizes))
    return select_targets(model, [Rule("*", Pattern(2, 4)), Rule("3", Unstructured(0.3))])


@contextmanager
def projections() -> Iterator[list[int]]:
    """Count the entries that are projected inside the block."""
    sizes: list[int] = []

    def counted(matrix: Tensor, constraint: Any) -> Tensor:
        sizes.append(matrix.numel())
        return support(matrix, constraint)

    with mock.patch.object(targets, "support", counted):
        yield sizes


def work() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Run ADMM over weights that move, then mask; return the tensors and the figures."""
    found = matrices()
    with projections() as sizes:
        admm = Admm(found, rho=0.1)
        residuals = []
        for step in range(STEPS):
            torch.manual_seed(step)
            with torch.no_grad():
                for target in found:
                    target.weight.add_(torch.randn_like(target.weight), alpha=0.1)
            residuals.append(dataclasses.asdict(admm.update_()))
        masking = Masking(found)
    state = {**admm.state_dict(), **{f"mask.{name}": mask for name, mask in masking.state_dict().items()}}
    return state, {"residuals": residuals, "projected": sum(sizes)}


def agree(rank: int) -> dict[str, Any]:
    """What the ranks tell each other."""
    caught = ""
    try:
        with distributed.together():
            if rank == 1:
                raise SparsityError("only rank 1", hint="has this")
    except NxmSweepError as error:
        caught = f"{type(error).__name__}: {error.message} ({error.hint})"
    unprojectable = ""
    broken = matrices()
    with torch.no_grad():
        broken[1].weight[0, 0] = float("nan")  # which one rank alone projects
    try:
        Masking(broken)
    except NxmSweepError as error:
        unprojectable = type(error).__name__
    return {
        "caught": caught,
        "unprojectable": unprojectable,
        "shared": distributed.share({"from": rank, "text": "ü"}),
        "nothing": distributed.share(None if rank == 0 else "mine"),
        "mean": float(distributed.mean(torch.tensor(float(rank)))),
        "stacked": distributed.stack(torch.full((2, 1), rank)).flatten().tolist(),
    }


if __name__ == "__main__":
    rank, count, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
    tensors, figures = work()
    save_file(tensors, folder / f"{rank}.safetensors")
    (folder / f"{rank}.json").write_text(json.dumps({**figures, **agree(rank)}))
    dist.destroy_process_group()
