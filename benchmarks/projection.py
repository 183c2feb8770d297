"""Speed of the exact projection by pairwise ranks, against ``topk`` and a stable sort.

Every method projects the same matrix in turn, in one process and one thread; prints medians and ratios.
Usage: python benchmarks/projection.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from nxm_sweep.sparsity import Pattern, support

ROUNDS = 15
SHAPE = (3072, 768)  # a feed-forward matrix of BERT-base


def by_topk(weight: Tensor, pattern: Pattern) -> Tensor:
    """Select by ``topk``, as is usual; the choice among ties is undefined."""
    groups = weight.abs().reshape(-1, pattern.group)
    kept = torch.zeros_like(groups, dtype=torch.bool)
    return kept.scatter_(1, groups.topk(pattern.keep, dim=1).indices, value=True).reshape(weight.shape)


def by_sort(weight: Tensor, pattern: Pattern) -> Tensor:
    """Select by sorting every group; exact and deterministic."""
    groups = weight.abs().reshape(-1, pattern.group)
    order = groups.argsort(dim=1, descending=True, stable=True)
    kept = torch.zeros_like(groups, dtype=torch.bool)
    return kept.scatter_(1, order[:, : pattern.keep], value=True).reshape(weight.shape)


def main() -> None:
    torch.set_num_threads(1)
    weight = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    print(f"{SHAPE[0]} x {SHAPE[1]} fp32, one thread, median of {ROUNDS} rounds taken in turn")
    for pattern in (Pattern(2, 4), Pattern(4, 8), Pattern(8, 16)):
        ways: dict[str, Callable[[Tensor, Pattern], Tensor]] = {"ranks": support, "topk": by_topk, "sort": by_sort}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for name, way in ways.items():
            if not torch.equal(way(weight, pattern), support(weight, pattern)):
                raise SystemExit(f"{name} disagrees on {pattern}")
        for _ in range(ROUNDS):
            for name, way in ways.items():
                started = time.perf_counter()
                way(weight, pattern)
                seconds[name].append(time.perf_counter() - started)
        median = {name: statistics.median(times) for name, times in seconds.items()}
        print(
            f"{pattern}: ranks {median['ranks'] * 1e3:.1f} ms, "
            f"topk {median['topk'] / median['ranks']:.1f} times, sort {median['sort'] / median['ranks']:.1f} times as long"
        )


if __name__ == "__main__":
    main()
