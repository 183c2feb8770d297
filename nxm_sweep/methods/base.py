"""What a method is: hooks that a training loop calls around the optimizer's step."""

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
        steps: Optimizer steps in all.
        steps_per_epoch: Optimizer steps of one epoch.
        learning_rates: That of every step, up to a common factor; empty where it is constant or not known beforehand.
    """

    steps: int
    steps_per_epoch: int
    learning_rates: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Iteration:
    """One ADMM iteration.

    Attributes:
        step: Optimizer steps done when it was.
        residuals: What it found.
        mean_penalty_share: Mean over the optimizer steps since the iteration before (or the start) of
            ``||penalty gradient|| / (||penalty gradient|| + ||task gradient||)`` over the targets, in [0, 1]; the task's is
            clipped where the penalty is added after clipping. None where no penalty entered a gradient.
        kappa: The penalty's strength without a unit, ``rho * ||W0 - P(W0)|| / ||clipped task gradient||`` over the targets; the
            gradient's norm is a running root mean square. At 1 the penalty on the weights to be cut is as large as the task's
            gradient. None where no penalty entered a gradient.
        efolds: By which the decoupled penalty has contracted the weights to be cut so far; None for another penalty.
        mean_clip_factor: Mean over the same optimizer steps of what clipping multiplied the gradients by, in (0, 1].
    """

    step: int
    residuals: Residuals
    mean_penalty_share: float | None = None
    kappa: float | None = None
    efolds: float | None = None
    mean_clip_factor: float | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the iteration of ``dataclasses.asdict``; what earlier versions did not save is None."""
        return cls(**{**values, "residuals": Residuals.from_dict(values["residuals"])})


class SparseMethod:
    """How a model reaches its pattern. This base trains densely and prunes nothing.

    A loop calls, in this order: :meth:`start_` once; in every optimizer step :meth:`before_forward_` (before each
    micro-batch), :meth:`before_clip_` (gradients complete, not clipped), :meth:`after_clip_`, then the optimizer's step, then
    :meth:`after_step_`; :meth:`after_epoch_` at every epoch's end. Inside :meth:`pruned` the model is what would be shipped.

    Args:
        targets: The matrices that the pattern applies to; none for dense training.

    Attributes:
        importance: What ranks the weights beside their magnitude; None is magnitude alone.
        sparse: Whether it has targets. Nothing reads ``sparsity``, ``method.trained`` and ``method.importance`` without them.
    """

    sparse: ClassVar[bool] = True

    def __init__(self, targets: Sequence[Target] = ()) -> None:
        self.targets = list(targets)
        self.iterations: list[Iteration] = []
        self.importance: Importance | None = None

    @classmethod
    def read_settings(cls, settings: TrialSettings) -> dict[str, Any]:
        """Return the settings in use, nested as in the configuration: ``{"method": {"gradual": {"end_fraction": 0.5}}}``.

        The method is built from these values alone and the identity is the hash of them, so a setting that is left out cannot
        change the outcome. Which keys are in use may depend on words among the settings, such as another switch, but not on
        numbers: a sweep looks once per combination of words.
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
        """Return what a target that the rules give ``constraint`` holds after training: another one in some methods."""
        return constraint

    @property
    def prunes(self) -> bool:
        """Whether the weights in training differ from the pruned ones, so that both scores are worth knowing."""
        return False

    @property
    def gap(self) -> float | None:
        """Latest ``||W - P(W)|| / ||W||`` (0 under a mask), for a progress line; None where it means nothing."""
        return None

    def start_(self, budget: Budget) -> None:
        """Prepare the weights and the state, once the model is on its device."""

    def before_forward_(self) -> None:
        """Change the weights that a micro-batch is computed with; not called by evaluation."""

    def before_clip_(self, *, scale: float = 1.0) -> None:
        """Change the gradients before they are clipped; ``scale`` is a gradient scaler's factor."""

    def after_clip_(self, *, scale: float = 1.0) -> None:
        """Change the gradients after they were clipped; ``scale`` is a gradient scaler's factor, 1 once it was removed."""

    def after_step_(self) -> None:
        """Change the weights after the optimizer stepped."""

    def after_epoch_(self) -> None:
        """Do what belongs to an epoch's end, before the evaluation."""

    def pruned(self) -> AbstractContextManager[None]:
        """Hold the weights that would be shipped inside a block; give the weights in training back, bit for bit."""
        return pruned(self.targets) if self.prunes else nullcontext()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors that a resumed run needs."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor], budget: Budget, *, step: int) -> None:
        """Continue from :meth:`state_dict` at optimizer step ``step``; the weights are loaded already."""

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
    """Dense fine-tuning. Has no targets."""

    sparse = False

    def __init__(self) -> None:
        super().__init__(())

    @classmethod
    def from_settings(cls, targets: Sequence[Target], values: Mapping[str, Any]) -> Self:
        return cls()
