"""NxMTransformer: ADMM drives the weights towards the pattern while the task is learned."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, Self

import torch
from torch import Tensor

from nxm_sweep.errors import SparsityError
from nxm_sweep.methods.base import Budget, Iteration, SparseMethod
from nxm_sweep.methods.measures import RunningMean, RunningNorm, gradient_norm, share_of
from nxm_sweep.settings import AdmmSettings, StrengthSettings, TrialSettings, choices_of
from nxm_sweep.sparsity import Admm, Constraint, Masking, Pattern, Schedule, Target, Unstructured

_SHARE, _CLIP, _NORM = "penalty_share.", "clip_factor.", "gradient_norm."  # prefixes in a checkpoint
_CUT_NORM, _UNIT = "cut_norm", "rho_unit"
_REFRESH = 10  # steps between reads of the gradient's running norm; the first 10 steps all read it


@dataclass
class AdmmSwitches(AdmmSettings):
    """Choices that the paper leaves open, and the unit of rho.

    Attributes:
        rho_unit: ``absolute`` uses rho as it is. ``relative`` reads it as kappa, the ratio of the penalty's gradient on
            the weights to be cut to the task's: ``rho = kappa * ||clipped task gradient|| / ||W0 - P(W0)||`` over the
            targets, with a running root mean square of the former. The penalty is then added after clipping, whatever
            ``clip`` is.

    Raises:
        SparsityError: A value is out of its range.
    """

    rho_unit: str = field(default="absolute", metadata={"choices": ("absolute", "relative")})

    def __post_init__(self) -> None:
        for name, allowed in choices_of(AdmmSwitches):
            if getattr(self, name) not in allowed:
                raise SparsityError(f"{name} must be one of {', '.join(allowed)} but got {getattr(self, name)!r}")
        if self.interval < 1:
            raise SparsityError(f"interval must be at least 1 but got {self.interval}")
        for name in ("admm_fraction", "dense_fraction"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise SparsityError(f"{name} must lie in [0, 1] but got {getattr(self, name)}")
        if self.finish == "refit" and self.dense_fraction > self.admm_fraction:
            raise SparsityError(
                f"dense_fraction must be at most admm_fraction ({self.admm_fraction}) but got {self.dense_fraction}"
            )
        if not (math.isfinite(self.efolds) and self.efolds >= 0.0):
            raise SparsityError(f"efolds must be finite and not negative but got {self.efolds}")

    @property
    def adds_penalty(self) -> str:
        """When the penalty enters the gradient: before clipping (``total``), after it (``task``), or never (empty)."""
        if self.penalty == "decoupled":
            return ""
        return "task" if self.rho_unit == "relative" else self.clip


RECOMMENDED = AdmmSwitches(
    "zero_dual", penalty="decoupled", interval=4, interval_unit="per_epoch", dense_fraction=0.3, admm_fraction=0.6
)
"""Switches of ``method=nxm`` and ``nxm_refit``; they need no rho."""


class Nxm(SparseMethod):
    """N:M sparsity by ADMM during fine-tuning.

    Args:
        targets: Matrices to constrain.
        rho: Strength of the penalty over the run; a float is constant. Unused by the decoupled penalty.
        switches: Choices that the paper leaves open; default: the paper's. See also :data:`RECOMMENDED`.

    Source: NxMTransformer (Holmes et al., 2021).
    """

    def __init__(
        self, targets: Sequence[Target], rho: float | Schedule = 0.0, switches: AdmmSwitches | None = None
    ) -> None:
        super().__init__(targets)
        self.rho = rho if isinstance(rho, Schedule) else Schedule(rho)
        self.switches = switches or AdmmSwitches()
        self._admm: Admm | None = None
        self._masking: Masking | None = None  # set when a refit freezes the support
        self._budget = Budget(1, 1)
        self._step = 0
        self._spent: list[float] = []  # e-folds of the decoupled penalty, before each step and after the last
        self._reset_measures_()

    def _reset_measures_(self) -> None:
        self._penalty_share, self._clip_factor, self._task_norm = RunningMean(), RunningMean(), RunningNorm()
        self._cut_norm = self._rho_unit = 0.0
        self._before_clip: Tensor | None = None

    @classmethod
    def read_settings(cls, settings: TrialSettings) -> dict[str, Any]:
        """Return rho and the switches, without those that another switch makes unused: these stay at their defaults."""
        admm = dataclasses.asdict(settings.method.admm)
        read: dict[str, Any] = {"method": {"admm": admm}}
        if admm["penalty"] == "decoupled":
            admm["clip"] = "total"  # unused, but part of the identity of existing trials
        else:
            del admm["efolds"], admm["pace"]
            read["rho"] = _read_strength(settings.rho)
            if settings.rho.unit != "absolute":
                admm["clip"], read["rho"]["unit"] = "task", settings.rho.unit
        if not admm["dense_fraction"]:
            del admm["dense_fraction"]  # the behavior before the setting existed; the setting is no axis
        if admm["finish"] == "prune":
            del admm["admm_fraction"]
        if admm["finish"] == "prune" or admm["frozen_support"] == "weights":
            del admm["frozen_support"]
        else:
            read["method"]["version"] = 2  # version 1 of `z` froze another support
        return read

    @classmethod
    def from_settings(cls, targets: Sequence[Target], values: Mapping[str, Any]) -> Self:
        rho = values.get("rho", {"value": 0.0, "schedule": "constant"})
        switches = AdmmSwitches(**values["method"]["admm"], rho_unit=rho.get("unit", "absolute"))
        return cls(targets, Schedule(rho["value"], rho["schedule"], rho.get("start", 0.0)), switches)

    @property
    def admm(self) -> Admm:
        """Z, U and rho.

        Raises:
            SparsityError: ADMM has not begun, or the support is frozen already.
        """
        if self._admm is None:
            raise SparsityError("the method has no ADMM state before ADMM begins or after its support was frozen")
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
        self._begin_(budget, 0)
        self._reset_measures_()
        self.iterations.clear()
        self._begin_admm_when_due_()
        self._freeze_when_due_()

    def before_clip_(self, *, scale: float = 1.0) -> None:
        if self._masking is not None:
            self._masking.mask_gradients_()
            return
        if self._is_dense:
            return
        if self.switches.adds_penalty == "total":
            self._add_penalty_(scale)
        self._before_clip = self._first_gradient_norm(scale)

    def after_clip_(self, *, scale: float = 1.0) -> None:
        if self._masking is not None or self._is_dense:
            return
        after = self._first_gradient_norm(scale)
        if after is not None and self._before_clip is not None:
            self._clip_factor.add_(after / self._before_clip)
        if self.switches.adds_penalty == "task":
            self._add_penalty_(scale)

    def after_step_(self) -> None:
        was_dense = self._is_dense
        self._step += 1
        if self._masking is not None:
            self._masking.apply_()
            return
        if was_dense:
            self._begin_admm_when_due_()
        else:
            if self.switches.penalty == "decoupled":
                self.admm.decay_(-math.expm1(self._spent[self._step - 1] - self._spent[self._step]))
            if self.switches.interval_unit != "epoch" and self._is_due(self._step):
                self._iterate_()
            self.admm.set_rho_(self._rho_now())
        self._freeze_when_due_()

    def after_epoch_(self) -> None:
        due = self.switches.interval_unit == "epoch" and self._is_due(self._step)
        if due and self._masking is None and not self._is_dense:
            self._iterate_()

    def state_dict(self) -> dict[str, Tensor]:
        if self._masking is not None:
            return {f"mask.{name}": mask for name, mask in self._masking.state_dict().items()}
        if self._is_dense:
            return {}
        parts: dict[str, Any] = {
            "admm.": self.admm,
            _SHARE: self._penalty_share,
            _CLIP: self._clip_factor,
            _NORM: self._task_norm,
        }
        state = {
            f"{prefix}{name}": value for prefix, part in parts.items() for name, value in part.state_dict().items()
        }
        numbers = {_CUT_NORM: self._cut_norm, _UNIT: self._rho_unit}
        return state | {name: torch.tensor(number, dtype=torch.float64) for name, number in numbers.items()}

    def load_state_dict(self, state: Mapping[str, Tensor], budget: Budget, *, step: int) -> None:
        self._begin_(budget, step)
        masks = _select_prefix(state, "mask.")
        if masks:
            self._masking = Masking(self.targets)
            self._masking.load_state_dict(masks)
            return
        self._reset_measures_()
        if self._is_dense:
            return
        if self.switches.penalty == "decoupled" and float(state["admm.rho"]) != 0.0:
            raise SparsityError(
                "the checkpoint is of an earlier version, in which rho acted on the decoupled penalty",
                hint="remove the trial's folder `work` to train it from the start",
            )
        self._admm = Admm(self.targets, 0.0, first_iteration=self.switches.first_iteration)
        self._admm.load_state_dict(_select_prefix(state, "admm."))
        self._penalty_share = RunningMean(_select_prefix(state, _SHARE), whole=self._is_due(step))
        self._clip_factor = RunningMean(_select_prefix(state, _CLIP), whole=self._is_due(step))
        self._task_norm = RunningNorm(_select_prefix(state, _NORM))
        self._cut_norm, self._rho_unit = (float(state.get(name, 0.0)) for name in (_CUT_NORM, _UNIT))

    def _begin_(self, budget: Budget, step: int) -> None:
        self._budget, self._step, self._admm, self._masking = budget, step, None, None
        if self.switches.penalty == "decoupled":
            first = self._steps_of(self.switches.dense_fraction)
            last = self._steps_of(self.switches.admm_fraction) if self.switches.finish == "refit" else budget.steps
            spent = spread(self.switches.efolds, self.switches.pace, last - first, budget.learning_rates[first:])
            self._spent = [0.0] * first + spent + spent[-1:] * (budget.steps - last)

    @property
    def _is_dense(self) -> bool:
        """Whether ADMM has not begun yet; with a share of 1 it begins when training ends."""
        return self._step < self._steps_of(self.switches.dense_fraction)

    def _steps_of(self, fraction: float) -> int:
        """Return a share of the budget in optimizer steps."""
        return math.ceil(fraction * self._budget.steps)

    def _progress(self) -> float:
        """Return the share of ADMM's steps that have been made."""
        first = self._steps_of(self.switches.dense_fraction)
        return min(1.0, (self._step - first) / max(1, self._budget.steps - first))

    def _rho_now(self) -> float:
        if self.switches.penalty == "decoupled":
            return 0.0
        return self.rho.at(self._progress()) * (self._rho_unit if self.switches.rho_unit == "relative" else 1.0)

    def _distance_to_z(self) -> float:
        """Return ``||W - Z||`` over the targets, which is ``||W0 - P(W0)||`` before the first step."""
        gaps = [torch.linalg.vector_norm(target.weight.detach() - self.admm.z[target.name]) for target in self.targets]
        distance = float(torch.linalg.vector_norm(torch.stack(gaps))) if gaps else 0.0
        if distance == 0.0 and gaps and self.switches.rho_unit == "relative":
            raise SparsityError(
                "the weights hold their pattern already, so that a relative rho has no scale", hint="rho.unit=absolute"
            )
        return distance

    def _first_gradient_norm(self, scale: float) -> Tensor | None:
        """Return the unscaled norm of the first target's gradient; its ratio across clipping is the clip factor."""
        gradient = self.targets[0].gradient if self.targets else None
        return None if gradient is None else torch.linalg.vector_norm(gradient).double() / scale

    def _is_due(self, step: int) -> bool:
        """Return whether a Z and a dual step follow optimizer step ``step``; with epochs, the end of its epoch."""
        epoch, interval = self._budget.steps_per_epoch, self.switches.interval
        match self.switches.interval_unit:
            case "step":
                return step % interval == 0
            case "per_epoch":
                return step * interval // epoch > (step - 1) * interval // epoch
            case _:
                return round(step / epoch) % interval == 0

    def _add_penalty_(self, scale: float) -> None:
        task = gradient_norm(self.targets)
        self._task_norm.add_(task / scale)
        if self.switches.rho_unit == "relative" and (self._step < _REFRESH or self._step % _REFRESH == 0):
            self._rho_unit = self._task_norm.read() / self._cut_norm
            self.admm.set_rho_(self._rho_now())
        self._penalty_share.add_(share_of(self.admm.add_penalty_gradient_(scale), task))

    def _begin_admm_when_due_(self) -> None:
        """Project the weights for the first time once the dense share of the budget is spent."""
        if self._is_dense:
            return
        if self.importance is not None:
            self.importance.refresh_()
        self._admm = Admm(self.targets, self._rho_now(), first_iteration=self.switches.first_iteration)
        if self.switches.adds_penalty:
            self._cut_norm = self._distance_to_z()

    def _iterate_(self) -> None:
        if self.importance is not None:
            self.importance.refresh_()
        kappa = None
        if self._cut_norm and (norm := self._task_norm.read()):  # 0: decoupled, or from a checkpoint without it
            kappa = self.admm.rho * self._cut_norm / norm
        iteration = Iteration(
            step=self._step,
            residuals=self.admm.update_(),
            mean_penalty_share=self._penalty_share.take(),
            kappa=kappa,
            efolds=self._spent[self._step] if self._spent else None,
            mean_clip_factor=self._clip_factor.take(),
        )
        self.iterations.append(iteration)

    def _freeze_when_due_(self) -> None:
        """For a refit: freeze the support and drop Z and U once ADMM's share of the budget is spent."""
        first = self._steps_of(self.switches.admm_fraction)
        if self.switches.finish == "refit" and first <= self._step < self._budget.steps:
            masks = self.admm.masks if self.switches.frozen_support == "z" else None
            self._masking, self._admm = Masking(self.targets, masks), None


def _read_strength(strength: StrengthSettings) -> dict[str, Any]:
    """Return the settings of a strength that are in use: a constant has no start."""
    values = {"value": strength.value, "schedule": strength.schedule}
    return values if strength.schedule == "constant" else {**values, "start": strength.start}


def _select_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def spread(efolds: float, pace: str, steps: int, learning_rates: Sequence[float] = ()) -> list[float]:
    """Return the e-folds spent before each of ``steps`` optimizer steps and after the last one.

    Args:
        efolds: Total over all steps.
        pace: ``learning_rate``, ``constant`` or ``linear``; see :class:`AdmmSwitches`.
        steps: Number of steps.
        learning_rates: Rate of every step of a run that may be longer, up to a common factor; default: constant.
    """
    match pace:
        case "linear":
            parts = [step + 0.5 for step in range(steps)]
        case "learning_rate" if any(learning_rates[:steps]):
            parts = list(learning_rates[:steps])
        case _:
            parts = [1.0] * steps
    total = sum(parts)
    return [0.0, *(efolds * part / total for part in accumulate(parts))]


class NxmRefit(Nxm):
    """:class:`Nxm` for a share ``admm_fraction`` of the steps; then masked training on the frozen support.

    In a short run, pure ADMM ends far from the pattern, and the final prune loses what was learned. Here nothing is
    left to prune at the end. A share of 1 is pure ADMM, a share of 0 is ASP.

    Args:
        targets: As for :class:`Nxm`.
        rho: As for :class:`Nxm`.
        switches: As for :class:`Nxm`, but ``finish`` is always ``refit``.
    """

    @classmethod
    def read_settings(cls, settings: TrialSettings) -> dict[str, Any]:
        admm = dataclasses.replace(settings.method.admm, finish="refit")
        method = dataclasses.replace(settings.method, admm=admm)
        return super().read_settings(dataclasses.replace(settings, method=method))

    def __init__(
        self, targets: Sequence[Target], rho: float | Schedule = 0.0, switches: AdmmSwitches | None = None
    ) -> None:
        super().__init__(targets, rho, dataclasses.replace(switches or AdmmSwitches(), finish="refit"))


class AdmmUnstructured(Nxm):
    """ADMM towards an unstructured density, the paper's "ADMM-Unstructured".

    Args:
        targets: A target with an N:M pattern is constrained to that pattern's density instead.
        rho: As for :class:`Nxm`.
        switches: As for :class:`Nxm`.
    """

    def __init__(
        self, targets: Sequence[Target], rho: float | Schedule = 0.0, switches: AdmmSwitches | None = None
    ) -> None:
        free = (replace(target, constraint=self.final_constraint(target.constraint)) for target in targets)
        super().__init__(list(free), rho, switches)

    @staticmethod
    def final_constraint(constraint: Constraint) -> Constraint:
        return Unstructured(constraint.density) if isinstance(constraint, Pattern) else constraint
