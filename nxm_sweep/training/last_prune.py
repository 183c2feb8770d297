"""What the last hard prune cost a run that ended off its pattern, what kept it off, and which settings close the gap."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nxm_sweep.training.methods import Nxm
from nxm_sweep.training.trial_trainer import TrialTrainer

_CLOSE = 0.05  # relative residual up to which a last prune is taken to cost nothing
_NEAR_FLOOR = 1.25  # times the floor: a residual above it is not explained by the travel budget


def last_prune_of(trainer: TrialTrainer, start: Mapping[str, float] | None) -> dict[str, Any] | None:
    """Return what pruning the weights of the last epoch cost; None for a method whose weights hold the pattern.

    Args:
        trainer: A trainer that has finished.
        start: What :func:`~nxm_sweep.training.travel.distance_to_go` returned before the first step.

    Returns:
        ``relative_residual`` (``||W - P(W)|| / ||W||`` at the end), ``cost`` (unpruned less pruned score of the last epoch, in
        the metric's unit) and ``advice``, one line, empty up to a residual of 0.05.
    """
    method, last = trainer.sparse_method, trainer.epochs[-1]
    if not isinstance(method, Nxm) or not method.prunes:
        return None
    residual, cost = last["relative_distance"], last["unpruned_selection"] - last["selection"]
    advice = ""
    if residual > _CLOSE:
        flips = method.iterations[-1].residuals.support_flips if method.iterations else 0.0
        advice = (
            f"the weights ended {residual:.2f} (relative) off the pattern and the last prune cost {cost:.4f}; "
            f"{explain_residual(residual, 0.0 if start is None else start['residual_floor'], flips)}"
        )
    return {"relative_residual": residual, "cost": cost, "advice": advice}


def explain_residual(residual: float, floor: float, flips: float) -> str:
    """Return why weights ended off their pattern, and what brings them closer.

    Args:
        residual: ``||W - P(W)|| / ||W||`` at the end.
        floor: The least that the travel budget allowed.
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
