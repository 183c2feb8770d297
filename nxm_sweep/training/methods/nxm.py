"""NxMTransformer: ADMM drives the weights towards the pattern while the task is learned."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from nxm_sweep.errors import SparsityError
from nxm_sweep.settings import StrengthSettings, TrialSettings
from nxm_sweep.sparsity import Admm, Masking, Schedule, Target
from nxm_sweep.training.methods.base import Budget, Iteration, SparseMethod

_SHARE = "penalty_share."  # prefix of the mean share's numbers in a checkpoint


@dataclass(frozen=True, slots=True)
class AdmmSwitches:
    """The points that the paper leaves open; the defaults are the paper's, or its authors' later code.

    Attributes:
        first_iteration: ``project`` (a Z and a dual step at the start) or ``zero_dual`` (U0 = 0).
        clip: ``total`` adds the penalty gradient before clipping, ``task`` clips the task's gradient alone.
        interval: Epochs or steps between Z and dual steps, or how many of them an epoch has.
        interval_unit: ``epoch``, ``step`` or ``per_epoch``.
        penalty: ``gradient`` (through the optimizer) or ``decoupled`` (``W <- W - s (W - Z + U)`` after its step).
        strength: ``s`` of the decoupled penalty, in [0, 1]; it takes the place of rho, which is not used then.
        finish: ``prune`` trains by ADMM to the end; ``refit`` freezes the support and trains masked for the rest.
        admm_fraction: Share of the step budget before the support is frozen, in [0, 1]; for ``refit``.
        frozen_support: The support that is frozen: that of P(W) (``weights``) or of the last Z = P(W + U) (``z``).
    """

    first_iteration: str = "project"
    clip: str = "total"
    interval: int = 1
    interval_unit: str = "epoch"
    penalty: str = "gradient"
    strength: Schedule = field(default_factory=lambda: Schedule(0.02, "linear"))
    finish: str = "prune"
    admm_fraction: float = 0.5
    frozen_support: str = "weights"

    def __post_init__(self) -> None:
        for name, allowed in {
            "clip": ("total", "task"),
            "interval_unit": ("epoch", "step", "per_epoch"),
            "penalty": ("gradient", "decoupled"),
            "finish": ("prune", "refit"),
            "frozen_support": ("weights", "z"),
        }.items():
            if getattr(self, name) not in allowed:
                raise SparsityError(f"{name} must be one of {', '.join(allowed)} but got {getattr(self, name)!r}")
        if self.interval < 1:
            raise SparsityError(f"interval must be at least 1 but got {self.interval}")
        if not 0.0 <= self.admm_fraction <= 1.0:
            raise SparsityError(f"admm_fraction must lie in [0, 1] but got {self.admm_fraction}")


class Nxm(SparseMethod):
    """N:M sparsity by ADMM during fine-tuning.

    Args:
        targets: What is constrained.
        rho: Strength of the penalty over the run; a float is a constant. Not used by the decoupled penalty.
        switches: The open points of the paper.

    Source: NxMTransformer (Holmes et al., 2021).
    """

    def __init__(self, targets: Sequence[Target], rho: float | Schedule, switches: AdmmSwitches | None = None) -> None:
        super().__init__(targets)
        self.rho = rho if isinstance(rho, Schedule) else Schedule(rho)
        self.switches = switches or AdmmSwitches()
        self._admm: Admm | None = None
        self._masking: Masking | None = None  # set once a refit has frozen the support
        self._budget = Budget(1, 1)
        self._step = 0
        self._penalty_share = _MeanShare()

    @classmethod
    def read_settings(cls, settings: TrialSettings) -> dict[str, Any]:
        """Return rho and the switches, less those that another switch puts out of use: these stay at their defaults."""
        admm = dataclasses.asdict(settings.method.admm)
        read: dict[str, Any] = {"method": {"admm": admm}}
        if admm["penalty"] == "decoupled":
            admm["strength"] = _read_strength(settings.method.admm.strength)
            admm["clip"] = "total"  # idle; no trial may lose the identity that it got with this default in it
        else:
            del admm["strength"]
            read["rho"] = _read_strength(settings.rho)
        if admm["finish"] == "prune":
            del admm["admm_fraction"]
        if admm["finish"] == "prune" or admm["frozen_support"] == "weights":
            del admm["frozen_support"]
        else:
            read["method"]["version"] = 2  # in the first, `z` froze another support
        return read

    @classmethod
    def from_settings(cls, targets: Sequence[Target], values: Mapping[str, Any]) -> Self:
        admm = {**values["method"]["admm"]}
        if "strength" in admm:
            admm["strength"] = _schedule(admm["strength"])
        return cls(targets, _schedule(values["rho"]) if "rho" in values else 0.0, AdmmSwitches(**admm))

    @property
    def admm(self) -> Admm:
        """Z, U and rho.

        Raises:
            SparsityError: Training has not started, or the support is frozen already.
        """
        if self._admm is None:
            raise SparsityError("the method has no ADMM state before start_() or after its support was frozen")
        return self._admm

    @property
    def prunes(self) -> bool:
        return bool(self.targets) and self._masking is None

    @property
    def gap(self) -> float | None:
        if self._masking is not None:
            return 0.0
        return self.iterations[-1].residuals.distance if self.iterations else None

    def start_(self, budget: Budget) -> None:
        self._budget, self._step, self._masking = budget, 0, None
        self._penalty_share = _MeanShare()
        self.iterations.clear()
        if self.importance is not None:
            self.importance.refresh_()
        self._admm = Admm(self.targets, self._rho_now(), first_iteration=self.switches.first_iteration)
        self._freeze_when_due_()

    def before_clip_(self, *, scale: float = 1.0) -> None:
        if self._masking is not None:
            self._masking.mask_gradients_()
        elif self.switches.penalty == "gradient" and self.switches.clip == "total":
            self._add_penalty_(scale)

    def after_clip_(self, *, scale: float = 1.0) -> None:
        if self._masking is None and self.switches.penalty == "gradient" and self.switches.clip == "task":
            self._add_penalty_(scale)

    def after_step_(self) -> None:
        self._step += 1
        if self._masking is not None:
            self._masking.apply_()
            return
        if self.switches.penalty == "decoupled":
            self.admm.decay_(self.switches.strength.at(self._progress()))
        if self.switches.interval_unit != "epoch" and self._is_due(self._step):
            self._iterate_()
        self.admm.set_rho_(self._rho_now())
        self._freeze_when_due_()

    def after_epoch_(self) -> None:
        if self._masking is None and self.switches.interval_unit == "epoch" and self._is_due(self._step):
            self._iterate_()

    def state_dict(self) -> dict[str, Tensor]:
        if self._masking is not None:
            return {f"mask.{name}": mask for name, mask in self._masking.state_dict().items()}
        shares = {f"{_SHARE}{name}": value for name, value in self._penalty_share.state_dict().items()}
        return {**{f"admm.{name}": value for name, value in self.admm.state_dict().items()}, **shares}

    def load_state_dict(self, state: Mapping[str, Tensor], budget: Budget, *, step: int) -> None:
        self._budget, self._step = budget, step
        masks = {name.removeprefix("mask."): value for name, value in state.items() if name.startswith("mask.")}
        if masks:
            self._admm, self._masking = None, Masking(self.targets)
            self._masking.load_state_dict(masks)
            return
        if self.switches.penalty == "decoupled" and float(state["admm.rho"]) != 0.0:
            raise SparsityError(
                "the checkpoint is of an earlier version, in which rho acted on the decoupled penalty",
                hint="remove the trial's folder `work` to train it from the start",
            )
        self._admm, self._masking = Admm(self.targets, self._rho_now()), None
        admm = {name.removeprefix("admm."): value for name, value in state.items() if name.startswith("admm.")}
        self._admm.load_state_dict(admm)
        shares = {name.removeprefix(_SHARE): value for name, value in state.items() if name.startswith(_SHARE)}
        self._penalty_share = _MeanShare(shares, whole=self._is_due(step))

    def _progress(self) -> float:
        return min(1.0, self._step / max(1, self._budget.steps))

    def _rho_now(self) -> float:
        return 0.0 if self.switches.penalty == "decoupled" else self.rho.at(self._progress())

    def _is_due(self, step: int) -> bool:
        """Whether a Z and a dual step follow optimizer step ``step``; by epochs: once that epoch has ended."""
        epoch, interval = self._budget.steps_per_epoch, self.switches.interval
        match self.switches.interval_unit:
            case "step":
                return step % interval == 0
            case "per_epoch":
                return step * interval // epoch > (step - 1) * interval // epoch
            case _:
                return round(step / epoch) % interval == 0

    def _add_penalty_(self, scale: float) -> None:
        task = _gradient_norm(self.targets)
        self._penalty_share.add_(self.admm.add_penalty_gradient_(scale), task)

    def _iterate_(self) -> None:
        if self.importance is not None:
            self.importance.refresh_()
        residuals = self.admm.update_()
        self.iterations.append(Iteration(self._step, residuals, self._penalty_share.take()))

    def _freeze_when_due_(self) -> None:
        """For a refit: freeze the support once its share of the budget is spent; Z and U are let go."""
        due = self.switches.admm_fraction * self._budget.steps
        if self.switches.finish == "refit" and self._step >= due and self._step < self._budget.steps:
            masks = self.admm.masks if self.switches.frozen_support == "z" else None
            self._masking, self._admm = Masking(self.targets, masks), None


def _read_strength(strength: StrengthSettings) -> dict[str, Any]:
    """What is read of a strength: a constant has no start."""
    values = {"value": strength.value, "schedule": strength.schedule}
    return values if strength.schedule == "constant" else {**values, "start": strength.start}


def _schedule(values: Mapping[str, Any]) -> Schedule:
    return Schedule(values["value"], values["schedule"], values.get("start", 0.0))


def _gradient_norm(targets: Sequence[Target]) -> Tensor:
    """Norm of the targets' gradients together, on their device."""
    return torch.nn.utils.get_total_norm([target.weight.grad for target in targets if target.weight.grad is not None])


class _MeanShare:
    """Mean over optimizer steps of the penalty's share of the gradient norm; no step waits for the device.

    A step whose gradient is not finite does not count: a gradient scaler has the optimizer skip it.

    Args:
        state: That of :meth:`state_dict`; checkpoints of earlier versions have none.
        whole: Whether a mean may begin here if there is no state.
    """

    def __init__(self, state: Mapping[str, Tensor] | None = None, *, whole: bool = True) -> None:
        start = torch.tensor(0.0 if whole else float("nan"), dtype=torch.float64)
        self._total, self._steps = start, torch.zeros((), dtype=torch.float64)
        if state:
            self._total, self._steps = state["total"].clone(), state["steps"].clone()

    def add_(self, penalty: Tensor, task: Tensor) -> None:
        """Count one step by the norms of its two gradients."""
        together = penalty + task
        share = torch.where(together > 0.0, penalty / together, 0.0)
        counts = together.isfinite()
        self._total = self._total.to(together.device) + torch.where(counts, share, 0.0)
        self._steps = self._steps.to(together.device) + counts

    def take(self) -> float | None:
        """Return the mean and begin anew; None without a step, or where some were not counted."""
        total, steps = float(self._total), float(self._steps)
        self._total, self._steps = torch.zeros_like(self._steps), torch.zeros_like(self._steps)
        return total / steps if steps and math.isfinite(total) else None

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a resumed run needs: ``total`` and ``steps``, fp64 scalars."""
        return {"total": self._total, "steps": self._steps}
