"""NxMTransformer: ADMM drives the weights towards the pattern while the task is learned."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Self

import torch
from torch import Tensor

from nxm_sweep.errors import SparsityError
from nxm_sweep.methods.base import Budget, Iteration, SparseMethod
from nxm_sweep.methods.measures import RunningMean, RunningNorm, gradient_norm, share_of
from nxm_sweep.settings import StrengthSettings, TrialSettings
from nxm_sweep.sparsity import Admm, Constraint, Masking, Pattern, Schedule, Target, Unstructured

_SHARE, _CLIP, _NORM = "penalty_share.", "clip_factor.", "gradient_norm."  # prefixes in a checkpoint
_CUT_NORM, _UNIT = "cut_norm", "rho_unit"
_REFRESH = 10  # steps between looks at the running norm of the gradient; in the first so many, every one


@dataclass(frozen=True, slots=True)
class AdmmSwitches:
    """The points that the paper leaves open; the defaults are the paper's, or its authors' later code.

    Attributes:
        first_iteration: ``project`` (a Z and a dual step at the start), ``zero_dual`` (U0 = 0) or ``no_dual`` (U = 0 always).
        clip: ``total`` adds the penalty gradient before clipping, ``task`` clips the task's gradient alone.
        rho_unit: ``absolute`` takes rho as it is. ``relative`` takes it as kappa, the ratio of the penalty's gradient on the
            weights to be cut to the task's: ``rho = kappa * ||clipped task gradient|| / ||W0 - P(W0)||`` over the targets, with
            a running root mean square of the former. The penalty is added after the clip then, whatever ``clip`` says.
        interval: Epochs or steps between Z and dual steps, or how many of them an epoch has.
        interval_unit: ``epoch``, ``step`` or ``per_epoch``.
        penalty: ``gradient`` (through the optimizer) or ``decoupled`` (``W <- W - s (W - Z + U)`` after its step; rho is not
            used then).
        efolds: Total contraction by the decoupled penalty: the product of all ``1 - s`` is ``exp(-efolds)``.
        pace: How it is spread over the steps of ADMM: ``learning_rate`` in proportion to theirs, as AdamW decays; ``constant``;
            ``linear`` from zero upwards.
        finish: ``prune`` trains by ADMM to the end; ``refit`` freezes the support and trains masked for the rest.
        admm_fraction: Share of the step budget before the support is frozen, in [0, 1]; for ``refit``.
        frozen_support: The support that is frozen: that of P(W) (``weights``) or of the last Z = P(W + U) (``z``).
    """

    first_iteration: str = "project"
    clip: str = "total"
    interval: int = 1
    interval_unit: str = "epoch"
    penalty: str = "gradient"
    rho_unit: str = "absolute"
    efolds: float = 5.0
    pace: str = "learning_rate"
    finish: str = "prune"
    admm_fraction: float = 0.5
    frozen_support: str = "weights"

    def __post_init__(self) -> None:
        for name, allowed in {
            "clip": ("total", "task"),
            "interval_unit": ("epoch", "step", "per_epoch"),
            "penalty": ("gradient", "decoupled"),
            "rho_unit": ("absolute", "relative"),
            "pace": ("learning_rate", "constant", "linear"),
            "finish": ("prune", "refit"),
            "frozen_support": ("weights", "z"),
        }.items():
            if getattr(self, name) not in allowed:
                raise SparsityError(f"{name} must be one of {', '.join(allowed)} but got {getattr(self, name)!r}")
        if self.interval < 1:
            raise SparsityError(f"interval must be at least 1 but got {self.interval}")
        if not 0.0 <= self.admm_fraction <= 1.0:
            raise SparsityError(f"admm_fraction must lie in [0, 1] but got {self.admm_fraction}")
        if not (math.isfinite(self.efolds) and self.efolds >= 0.0):
            raise SparsityError(f"efolds must be finite and not negative but got {self.efolds}")

    @property
    def adds_penalty(self) -> str:
        """When the penalty enters the gradient: before clipping (``total``), after it (``task``), or never (empty)."""
        if self.penalty == "decoupled":
            return ""
        return "task" if self.rho_unit == "relative" else self.clip


RECOMMENDED = AdmmSwitches("zero_dual", penalty="decoupled", interval=4, interval_unit="per_epoch")
"""The switches of ``method=nxm``: need no rho."""


class Nxm(SparseMethod):
    """N:M sparsity by ADMM during fine-tuning.

    Args:
        targets: What is constrained.
        rho: Strength of the penalty over the run; a float is a constant. Not used by the decoupled penalty.
        switches: The open points of the paper; its own by default, or :data:`RECOMMENDED`.

    Source: NxMTransformer (Holmes et al., 2021).
    """

    def __init__(
        self, targets: Sequence[Target], rho: float | Schedule = 0.0, switches: AdmmSwitches | None = None
    ) -> None:
        super().__init__(targets)
        self.rho = rho if isinstance(rho, Schedule) else Schedule(rho)
        self.switches = switches or AdmmSwitches()
        self._admm: Admm | None = None
        self._masking: Masking | None = None  # set once a refit has frozen the support
        self._budget = Budget(1, 1)
        self._step = 0
        self._spent: list[float] = []  # e-folds of the decoupled penalty, before each step and after the last
        self._measure_anew_()

    def _measure_anew_(self) -> None:
        self._penalty_share, self._clip_factor, self._task_norm = RunningMean(), RunningMean(), RunningNorm()
        self._cut_norm = self._rho_unit = 0.0
        self._before_clip: Tensor | None = None

    @classmethod
    def read_settings(cls, settings: TrialSettings) -> dict[str, Any]:
        """Return rho and the switches, less those that another switch puts out of use: these stay at their defaults."""
        admm = dataclasses.asdict(settings.method.admm)
        read: dict[str, Any] = {"method": {"admm": admm}}
        if admm["penalty"] == "decoupled":
            admm["clip"] = "total"  # idle; no trial may lose the identity that it got with this default in it
        else:
            del admm["efolds"], admm["pace"]
            read["rho"] = _read_strength(settings.rho)
            if settings.rho.unit != "absolute":
                admm["clip"], read["rho"]["unit"] = "task", settings.rho.unit
        if admm["finish"] == "prune":
            del admm["admm_fraction"]
        if admm["finish"] == "prune" or admm["frozen_support"] == "weights":
            del admm["frozen_support"]
        else:
            read["method"]["version"] = 2  # in the first, `z` froze another support
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
        self._begin_(budget, 0)
        self._measure_anew_()
        self.iterations.clear()
        if self.importance is not None:
            self.importance.refresh_()
        self._admm = Admm(self.targets, self._rho_now(), first_iteration=self.switches.first_iteration)
        if self.switches.adds_penalty:
            self._cut_norm = self._distance_to_z()
        self._freeze_when_due_()

    def before_clip_(self, *, scale: float = 1.0) -> None:
        if self._masking is not None:
            self._masking.mask_gradients_()
            return
        if self.switches.adds_penalty == "total":
            self._add_penalty_(scale)
        self._before_clip = self._one_norm(scale)

    def after_clip_(self, *, scale: float = 1.0) -> None:
        if self._masking is not None:
            return
        after = self._one_norm(scale)
        if after is not None and self._before_clip is not None:
            self._clip_factor.add_(after / self._before_clip)
        if self.switches.adds_penalty == "task":
            self._add_penalty_(scale)

    def after_step_(self) -> None:
        self._step += 1
        if self._masking is not None:
            self._masking.apply_()
            return
        if self.switches.penalty == "decoupled":
            self.admm.decay_(-math.expm1(self._spent[self._step - 1] - self._spent[self._step]))
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
        held: dict[str, Any] = {
            "admm.": self.admm,
            _SHARE: self._penalty_share,
            _CLIP: self._clip_factor,
            _NORM: self._task_norm,
        }
        state = {f"{prefix}{name}": value for prefix, part in held.items() for name, value in part.state_dict().items()}
        numbers = {_CUT_NORM: self._cut_norm, _UNIT: self._rho_unit}
        return state | {name: torch.tensor(number, dtype=torch.float64) for name, number in numbers.items()}

    def load_state_dict(self, state: Mapping[str, Tensor], budget: Budget, *, step: int) -> None:
        self._begin_(budget, step)
        masks = _part(state, "mask.")
        if masks:
            self._admm, self._masking = None, Masking(self.targets)
            self._masking.load_state_dict(masks)
            return
        if self.switches.penalty == "decoupled" and float(state["admm.rho"]) != 0.0:
            raise SparsityError(
                "the checkpoint is of an earlier version, in which rho acted on the decoupled penalty",
                hint="remove the trial's folder `work` to train it from the start",
            )
        self._admm = Admm(self.targets, 0.0, first_iteration=self.switches.first_iteration)
        self._admm.load_state_dict(_part(state, "admm."))
        self._penalty_share = RunningMean(_part(state, _SHARE), whole=self._is_due(step))
        self._clip_factor = RunningMean(_part(state, _CLIP), whole=self._is_due(step))
        self._task_norm = RunningNorm(_part(state, _NORM))
        self._cut_norm, self._rho_unit = (float(state.get(name, 0.0)) for name in (_CUT_NORM, _UNIT))

    def _begin_(self, budget: Budget, step: int) -> None:
        self._budget, self._step, self._masking = budget, step, None
        if self.switches.penalty == "decoupled":
            phase = self._admm_steps() if self.switches.finish == "refit" else budget.steps
            spent = spread(self.switches.efolds, self.switches.pace, phase, budget.learning_rates)
            self._spent = spent + spent[-1:] * (budget.steps - phase)

    def _admm_steps(self) -> int:
        """Optimizer steps before a refit freezes the support."""
        return math.ceil(self.switches.admm_fraction * self._budget.steps)

    def _progress(self) -> float:
        return min(1.0, self._step / max(1, self._budget.steps))

    def _rho_now(self) -> float:
        if self.switches.penalty == "decoupled":
            return 0.0
        return self.rho.at(self._progress()) * (self._rho_unit if self.switches.rho_unit == "relative" else 1.0)

    def _distance_to_z(self) -> float:
        """``||W - Z||`` over the targets, which is ``||W0 - P(W0)||`` before the first step."""
        gaps = [torch.linalg.vector_norm(target.weight.detach() - self.admm.z[target.name]) for target in self.targets]
        distance = float(torch.linalg.vector_norm(torch.stack(gaps))) if gaps else 0.0
        if distance == 0.0 and gaps and self.switches.rho_unit == "relative":
            raise SparsityError(
                "the weights hold their pattern already, so that a relative rho has no scale", hint="rho.unit=absolute"
            )
        return distance

    def _one_norm(self, scale: float) -> Tensor | None:
        """The norm of the first target's gradient without a gradient scaler's factor: what shows the clip's factor."""
        gradient = self.targets[0].weight.grad if self.targets else None
        return None if gradient is None else torch.linalg.vector_norm(gradient).double() / scale

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
        task = gradient_norm(self.targets)
        self._task_norm.add_(task / scale)
        if self.switches.rho_unit == "relative" and (self._step < _REFRESH or self._step % _REFRESH == 0):
            self._rho_unit = self._task_norm.read() / self._cut_norm
            self.admm.set_rho_(self._rho_now())
        self._penalty_share.add_(share_of(self.admm.add_penalty_gradient_(scale), task))

    def _iterate_(self) -> None:
        if self.importance is not None:
            self.importance.refresh_()
        kappa = None
        if self._cut_norm and (norm := self._task_norm.read()):  # 0: decoupled, or of a checkpoint that did not hold it
            kappa = self.admm.rho * self._cut_norm / norm
        found = Iteration(
            step=self._step,
            residuals=self.admm.update_(),
            mean_penalty_share=self._penalty_share.take(),
            kappa=kappa,
            efolds=self._spent[self._step] if self._spent else None,
            mean_clip_factor=self._clip_factor.take(),
        )
        self.iterations.append(found)

    def _freeze_when_due_(self) -> None:
        """For a refit: freeze the support once its share of the budget is spent; Z and U are let go."""
        if self.switches.finish == "refit" and self._admm_steps() <= self._step < self._budget.steps:
            masks = self.admm.masks if self.switches.frozen_support == "z" else None
            self._masking, self._admm = Masking(self.targets, masks), None


def _read_strength(strength: StrengthSettings) -> dict[str, Any]:
    """What is read of a strength: a constant has no start."""
    values = {"value": strength.value, "schedule": strength.schedule}
    return values if strength.schedule == "constant" else {**values, "start": strength.start}


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def spread(efolds: float, pace: str, steps: int, learning_rates: Sequence[float] = ()) -> list[float]:
    """Return the e-folds that are spent before each of so many optimizer steps and after the last one.

    Args:
        efolds: Spent by all of them together.
        pace: ``learning_rate``, ``constant`` or ``linear``; see :class:`AdmmSwitches`.
        steps: Number of steps.
        learning_rates: Of every step of a run that may be longer, up to a common factor; without them it counts as constant.
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
    """:class:`Nxm` for a share ``admm_fraction`` of the steps; then the support is frozen and trained masked.

    In a short run pure ADMM ends far from the pattern, and the last prune costs what was learned. Here nothing is left to
    prune at the end. A share of 1 is pure ADMM, a share of 0 is ASP.

    Args:
        targets: As for :class:`Nxm`.
        rho: As for :class:`Nxm`.
        switches: As for :class:`Nxm`; the finish is ``refit`` whatever they say.
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
