"""What the last hard prune cost a run that ended off its pattern, and which settings close the gap."""

from __future__ import annotations

from typing import Any

from nxm_sweep.training.methods import Nxm
from nxm_sweep.training.trial_trainer import TrialTrainer

_CLOSE = 0.05  # relative residual up to which a last prune is taken to cost nothing


def last_prune_of(trainer: TrialTrainer) -> dict[str, Any] | None:
    """Return what pruning the weights of the last epoch cost; None for a method whose weights hold the pattern.

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
        advice = (
            f"the weights ended {residual:.2f} (relative) off the pattern and the last prune cost {cost:.4f}; closer: "
            "method=nxm_refit, method.admm.penalty=decoupled, a higher rho.value or learning_rate.value, more training.epochs"
        )
    return {"relative_residual": residual, "cost": cost, "advice": advice}
