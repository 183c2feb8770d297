"""How close to the pattern Adam can bring the weights: it moves one by about the sum of the learning rates at most."""

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
        ``relative_distance`` (``||W - P(W)|| / ||W||``), ``mean_magnitude_to_cut`` and, with a budget, ``share_out_of_reach``
        (of the weights that a prune would cut now, the share whose magnitude exceeds the budget) and ``residual_floor`` (the
        relative distance that would be left if each of them spent the whole budget on its way to zero).
    """
    if not targets:
        return None
    cut = torch.cat([target.weight.detach()[~target.support()].abs().float().flatten() for target in targets])
    relative = distance(targets)
    go = {"relative_distance": relative, "mean_magnitude_to_cut": float(cut.mean())}
    if budget is None:
        return go
    left, norm = (cut - budget).clamp(min=0.0), float(torch.linalg.vector_norm(cut))
    return {
        **go,
        "share_out_of_reach": float((left > 0).float().mean()),
        "residual_floor": relative * float(torch.linalg.vector_norm(left)) / norm if norm else 0.0,
    }
