"""Base class of methods: hooks that a training loop calls around the optimizer's step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import Tensor

from nxm_sweep.settings import TrialSettings
from nxm_sweep.sparsity import Constraint, Importance, Residuals, Target, pruned

_IMPORTANCE = "importance."  # prefix of the metric's tensors in a checkpoint


@dataclass(frozen=True, slots=True)
class Budget:
    """Length of a run, known before it starts.

    Args:
        steps: Total number of optimizer steps.
        steps_per_epoch: Optimizer steps per epoch.
        learning_rates: Rate of every step, up to a common factor; empty if it is constant or not known in advance.
    """

    steps: int
    steps_per_epoch: int
    learning_rates: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Iteration:
    """One ADMM iteration.

    Attributes:
        step: Number of optimizer steps before it.
        residuals: Residuals of its Z and dual step.
        mean_penalty_share: Mean over the optimizer steps since the previous iteration (or the start) of
            ``||penalty gradient|| / (||penalty gradient|| + ||task gradient||)`` over the targets, in [0, 1]; the
            task's is clipped where the penalty is added after clipping. None where no penalty entered a gradient.
        kappa: Dimensionless strength of the penalty, ``rho * ||W0 - P(W0)|| / ||clipped task gradient||`` over the
            targets; the gradient's norm is a running root mean square. At 1 the penalty on the weights to be cut is as
            large as the task's gradient. None where no penalty entered a gradient.
        efolds: Contraction of the weights to be cut by the decoupled penalty so far; None for another penalty.
        mean_clip_factor: Mean factor by which clipping multiplied the gradients over the same steps, in (0, 1].
    """

    step: int
    residuals: Residuals
    mean_penalty_share: float | None = None
    kappa: float | None = None
    efolds: float | None = None
    mean_clip_factor: float | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild an iteration from ``dataclasses.asdict``; fields that earlier versions did not save are None."""
        return cls(**{**values, "residuals": Residuals.from_dict(values["residuals"])})


class SparseMethod:
    """Hooks that lead a model to its pattern. The base class trains densely and prunes nothing.

    A loop calls, in this order: :meth:`start_` once; in every optimizer step :meth:`before_forward_` (before each
    micro-batch), :meth:`before_clip_` (gradients complete, not clipped), :meth:`after_clip_`, then the optimizer's
    step, then :meth:`after_step_`; :meth:`after_epoch_` at every epoch's end. Inside :meth:`pruned` the model has the
    weights to ship.

    Args:
        targets: The matrices that the pattern applies to; none for dense training.

    Attributes:
        importance: Metric that scales the magnitudes before ranking; None ranks by magnitude only.
        one_shot: Whether :meth:`start_` alone gives the weights of a run without steps.
        sparse: Whether it has targets. Without them ``sparsity``, ``method.trained`` and ``method.importance`` are not
            read.
    """

    one_shot: ClassVar[bool] = False
    sparse: ClassVar[bool] = True

    def __init__(self, targets: Sequence[Target] = ()) -> None:
        self.targets = list(targets)
        self.iterations: list[Iteration] = []
        self.importance: Importance | None = None

    @classmethod
    def read_settings(cls, settings: TrialSettings) -> dict[str, Any]:
        """Return the settings in use, nested as in the configuration: ``{"method": {"gradual": {"end_fraction": 0.5}}}``.

        The method is built from only these values and the identity is their hash, so an omitted setting cannot change
        the outcome. Which keys are in use may depend on text settings, such as another switch, but not on numbers: a
        sweep checks once per combination of text settings.
        """
        return {}

    @classmethod
    def from_settings(cls, targets: Sequence[Target], values: Mapping[str, Any]) -> Self:
        """Return the method over ``targets``.

        Args:
            targets: The matrices that the pattern applies to.
            values: What :meth:`read_settings` returned.
        """
        return cls(targets)

    @staticmethod
    def final_constraint(constraint: Constraint) -> Constraint:
        """Return a target's constraint after training; some methods replace ``constraint``, that of the rules."""
        return constraint

    @property
    def prunes(self) -> bool:
        """Whether the weights in training differ from the pruned ones, so that both are worth scoring."""
        return False

    @property
    def gap(self) -> float | None:
        """Latest ``||W - P(W)|| / ||W||`` (0 under a mask), for a progress line; None where it is undefined."""
        return None

    def start_(self, budget: Budget) -> None:
        """Prepare the weights and the state; the model is already on its device."""

    def before_forward_(self) -> None:
        """Change the weights before a micro-batch's forward pass; not called in evaluation."""

    def before_clip_(self, *, scale: float = 1.0) -> None:
        """Change the gradients before they are clipped; ``scale`` is a gradient scaler's factor."""

    def after_clip_(self, *, scale: float = 1.0) -> None:
        """Change the clipped gradients; ``scale`` is a gradient scaler's factor, 1 once they are unscaled."""

    def after_step_(self) -> None:
        """Change the weights after the optimizer's step."""

    def after_epoch_(self) -> None:
        """Update the weights or the state at an epoch's end, before the evaluation."""

    def pruned(self) -> AbstractContextManager[None]:
        """Switch to the weights to ship inside a block; restore the weights in training bit for bit."""
        return pruned(self.targets) if self.prunes else nullcontext()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors that a resumed run needs."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor], budget: Budget, *, step: int) -> None:
        """Continue from :meth:`state_dict` at optimizer step ``step``; the weights are already loaded."""

    def whole_state(self) -> dict[str, Tensor]:
        """Return :meth:`state_dict` and the importance metric's state."""
        metric = {} if self.importance is None else self.importance.state_dict()
        return {**self.state_dict(), **{f"{_IMPORTANCE}{name}": factors for name, factors in metric.items()}}

    def load_whole_state(self, state: Mapping[str, Tensor], budget: Budget, *, step: int) -> None:
        """Continue from :meth:`whole_state`."""
        if self.importance is not None:
            self.importance.load_state_dict(
                {name.removeprefix(_IMPORTANCE): value for name, value in state.items() if name.startswith(_IMPORTANCE)}
            )
        own = {name: value for name, value in state.items() if not name.startswith(_IMPORTANCE)}
        self.load_state_dict(own, budget, step=step)


class Dense(SparseMethod):
    """Dense fine-tuning, without targets."""

    one_shot = True
    sparse = False

    def __init__(self) -> None:
        super().__init__(())

    @classmethod
    def from_settings(cls, targets: Sequence[Target], values: Mapping[str, Any]) -> Self:
        return cls()
