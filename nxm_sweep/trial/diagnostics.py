"""Diagnose a run that ended off its pattern: the last hard prune's cost, the cause, and settings that close the gap."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import get_scheduler

from nxm_sweep.methods import Nxm
from nxm_sweep.settings import TrialSettings
from nxm_sweep.sparsity import Target, distance
from nxm_sweep.trial.trainer import TrialTrainer

_CLOSE = 0.05  # relative residual up to which a last prune counts as free
_NEAR_FLOOR = 1.25  # times the floor: a residual above it is not explained by the travel budget


def learning_rate_sum(settings: TrialSettings, steps: int) -> float:
    """Return the sum of the learning rates over all optimizer steps: a weight's travel budget under Adam."""
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
    """Compare the weights' distance from their pattern with the travel budget; None without targets.

    Args:
        targets: The matrices in their current state.
        budget: Travel budget, in the unit of the weights; None if it is spent.

    Returns:
        ``relative_distance`` (``||W - P(W)|| / ||W||``), ``mean_magnitude_to_cut`` and, with a budget,
        ``share_out_of_reach`` (of the weights that a prune would cut now, the share whose magnitude exceeds the budget)
        and ``residual_floor`` (the relative distance left if each of them spent the whole budget on its way to zero).
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


def last_prune_of(trainer: TrialTrainer, start: Mapping[str, float] | None) -> dict[str, Any] | None:
    """Return the cost of pruning the last epoch's weights; None for a method whose weights satisfy the pattern.

    Args:
        trainer: A finished trainer.
        start: Result of :func:`~nxm_sweep.trial.diagnostics.distance_to_go` before the first step.

    Returns:
        ``relative_residual`` (``||W - P(W)|| / ||W||`` at the end), ``residuals`` (that of each target), ``cost``
        (unpruned minus pruned score of the last epoch, in the metric's unit) and ``advice``, one line, empty up to a residual
        of 0.05.
    """
    method, last = trainer.sparse_method, trainer.epochs[-1]
    if not isinstance(method, Nxm) or not method.prunes:
        return None
    residual, cost = last["relative_distance"], last["unpruned_selection"] - last["selection"]
    advice = ""
    if residual > _CLOSE:
        flips = method.iterations[-1].residuals.support_flips if method.iterations else 0.0
        advice = (
            f"the weights ended {residual:.2f} (relative) off the pattern and the last prune cost {100 * cost:.2f} points; "
            f"{explain_residual(residual, 0.0 if start is None else start['residual_floor'], flips)}"
        )
    of_targets = [distance([target]) for target in method.targets]
    return {"relative_residual": residual, "residuals": of_targets, "cost": cost, "advice": advice}


def explain_residual(residual: float, floor: float, flips: float) -> str:
    """Explain why weights ended off their pattern, and name settings that bring them closer.

    Args:
        residual: ``||W - P(W)|| / ||W||`` at the end.
        floor: Minimum that the travel budget allowed.
        flips: Share of the support that the last Z-step changed.
    """
    if residual <= _NEAR_FLOOR * floor:
        return (
            f"Adam's steps could not bring it below {floor:.2f}: closer with a higher learning_rate.value, more "
            "training.epochs, or method=nxm_refit"
        )
    return (
        f"Adam's steps could have brought it to {floor:.2f}, but the last Z-step still changed {flips:.0%} of the support: "
        "closer with method.admm.penalty=decoupled, or method=nxm_refit"
    )
