"""Can the weights reach the pattern in time? Adam moves a weight by about the sum of the learning rates at most."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from transformers import get_scheduler

from nxm_sweep.settings import TrialSettings
from nxm_sweep.sparsity import Target, distance


def learning_rate_sum(settings: TrialSettings, steps: int) -> float:
    """Return the sum of the learning rates over all optimizer steps: the travel budget of a weight under Adam."""
    optimizer = torch.optim.SGD([torch.zeros((), requires_grad=True)], lr=settings.learning_rate.value)
    warmup = math.ceil(steps * settings.training.warmup_ratio)  # as the Trainer rounds it
    scheduler = get_scheduler(settings.training.schedule, optimizer, warmup, steps)
    total = 0.0
    for _ in range(steps):
        total += float(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return total


def distance_to_go(targets: Sequence[Target], budget: float | None = None) -> dict[str, float] | None:
    """Return how far the weights are from their pattern, against the travel budget; None without targets.

    Args:
        targets: The matrices, as they are now.
        budget: Travel budget, in the unit of the weights; None where nothing is left of it.

    Returns:
        ``relative_distance`` (``||W - P(W)|| / ||W||``), ``mean_magnitude_to_cut`` and, with a budget, ``share_out_of_reach``:
        of the weights that a prune would cut now, the share whose magnitude exceeds the budget.
    """
    if not targets:
        return None
    cut = torch.cat([target.weight.detach()[~target.support()].abs().float().flatten() for target in targets])
    go = {"relative_distance": distance(targets), "mean_magnitude_to_cut": float(cut.mean())}
    return go if budget is None else {**go, "share_out_of_reach": float((cut > budget).float().mean())}
