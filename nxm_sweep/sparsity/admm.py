"""Scaled ADMM for weights under a sparsity constraint.

Per target weight W:
    W-step     optimizer steps on   task loss + (rho / 2) ||W - Z + U||_F^2
    Z-step     Z = P(W + U)         P the projection on the constraint
    dual step  U = U + W - Z
Source: NxMTransformer (Holmes et al., 2021), section on ADMM; scaled form of Boyd et al. (2011), section 3.1.1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from nxm_sweep.errors import SparsityError
from nxm_sweep.sparsity import distributed
from nxm_sweep.sparsity.masking import as_bits, keep_, kept_part, prune_, pruned
from nxm_sweep.sparsity.targets import Target

FIRST_ITERATIONS = ("project", "zero_dual", "no_dual")


@dataclass(frozen=True, slots=True)
class Residuals:
    """Distances of the weights from the constraint at one Z and dual step, over all targets.

    Attributes:
        primal: ``||W - Z|| / max(||W||, ||Z||)``.
        dual: ``||Z - Z_before|| / ||U||``, 0 where both vanish (relative dual residual of the scaled form); where there is no
            dual, ``||Z - Z_before|| / ||Z||``.
        distance: ``||W - P(W)|| / ||W||``: what a hard prune would cut now.
        support_flips: Share of Z's kept entries that the previous step did not keep.
        rho: Strength of the penalty during the preceding W-step.
        groups: The same for each group of matrices (:attr:`Target.group`); empty inside a group.
    """

    primal: float
    dual: float
    distance: float
    support_flips: float
    rho: float
    groups: Mapping[str, Residuals] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild residuals from ``dataclasses.asdict``; the groups may be missing."""
        groups = {name: cls.from_dict(group) for name, group in values.get("groups", {}).items()}
        return cls(**{**values, "groups": groups})


@dataclass(slots=True)
class Energies:
    """Squared norms and counts over a set of matrices, from which residuals are computed."""

    weight: float = 0.0
    cut: float = 0.0
    z: float = 0.0
    primal: float = 0.0
    moved: float = 0.0
    dual: float = 0.0
    flipped: int = 0
    kept: int = 0

    def add_(self, **more: float) -> None:
        """Add each value to the sum of its name."""
        for name, value in more.items():
            setattr(self, name, getattr(self, name) + value)

    def residuals(self, rho: float) -> Residuals:
        """Return the relative residuals."""
        return Residuals(
            primal=_ratio(self.primal, max(self.weight, self.z)),
            dual=_ratio(self.moved, self.dual),
            distance=_ratio(self.cut, self.weight),
            support_flips=self.flipped / self.kept if self.kept else 0.0,
            rho=rho,
        )


def _ratio(numerator: float, denominator: float) -> float:
    """Return the ratio of two norms given as energies; 0 for ``0 / 0``, infinite for any other ``x / 0``."""
    if numerator == 0.0:
        return 0.0
    return (numerator / denominator) ** 0.5 if denominator else float("inf")


class Admm:
    """ADMM state (Z, U, rho) over a set of targets, for any training loop.

    Use::

        with Admm(select_targets(model, Pattern(2, 4)), rho=1e-3) as admm:  # prunes W when the block ends
            ...  # in every step, after backward() and before clipping:
            admm.add_penalty_gradient_()
            ...  # at the end of every epoch:
            admm.update_()

    Z and U are fp32, or fp64 for fp64 weights. ``masks`` is the support of the last Z-step by parameter name (boolean,
    True is kept): a kept entry may be zero, so Z does not determine its support.

    Args:
        targets: Matrices to constrain.
        rho: Strength of the penalty, not negative.
        first_iteration: ``project`` starts with a Z and a dual step, ``Z0 = P(W0), U0 = W0 - Z0``, as the paper's authors
            do in later code; ``zero_dual`` starts with ``Z0 = P(W0), U0 = 0``; ``no_dual`` keeps U = 0 throughout, which is not
            ADMM but the quadratic penalty method, W drawn to ``P(W)`` of the last Z-step.

    Raises:
        SparsityError: A negative rho, an unknown first iteration, or a target that is not trained.
    """

    def __init__(self, targets: Sequence[Target], rho: float, *, first_iteration: str = "project") -> None:
        if first_iteration not in FIRST_ITERATIONS:
            raise SparsityError(
                f"first_iteration must be one of {', '.join(FIRST_ITERATIONS)} but got {first_iteration!r}"
            )
        frozen = [target.name for target in targets if not target.parameter.requires_grad]
        if frozen:
            raise SparsityError(f"ADMM must train its targets but {frozen[0]} does not require a gradient")
        self.targets = list(targets)
        self._rho = _checked_rho(rho)
        self._has_dual = first_iteration != "no_dual"
        self.z: dict[str, Tensor] = {}
        self.u: dict[str, Tensor] = {}
        self.masks: dict[str, Tensor] = {}
        masks = distributed.supports(self.targets, lambda target: _full_precision(target.weight))
        for target, mask in zip(self.targets, masks, strict=True):
            weight = _full_precision(target.weight)
            self.masks[target.name] = mask
            self.z[target.name] = kept_part(weight, as_bits(mask))
            cut = first_iteration == "project"
            self.u[target.name] = kept_part(weight, as_bits(~mask)) if cut else torch.zeros_like(weight)

    @property
    def rho(self) -> float:
        """Strength of the penalty."""
        return self._rho

    def set_rho_(self, rho: float) -> None:
        """Change rho and rescale U by ``rho_before / rho``, which leaves the unscaled dual ``rho * U`` as it was.

        From or to rho = 0 there is no dual to preserve, and U stays.
        """
        rho = _checked_rho(rho)
        if rho != self._rho and rho > 0.0 and self._rho > 0.0:
            for dual in self.u.values():
                dual.mul_(self._rho / rho)
        self._rho = rho

    def penalty(self) -> Tensor:
        """Return ``(rho / 2) * sum ||W - Z + U||_F^2``, a scalar through which autograd can differentiate."""
        terms = [
            (_upcast(target.weight) - self.z[target.name] + self.u[target.name]).square().sum()
            for target in self.targets
        ]
        return torch.stack(terms).sum() * (self._rho / 2.0) if terms else torch.zeros(())

    @torch.no_grad()
    def add_penalty_gradient_(self, scale: float = 1.0) -> Tensor:
        """Add ``scale * rho * (W - Z + U)`` to the targets' gradients: once per optimizer step, not per micro-batch.

        Args:
            scale: Factor of a gradient scaler, if the current gradients are multiplied by one.

        Returns:
            Norm of the added gradient over all targets: a scalar on their device.
        """
        if self._rho == 0.0 or not self.targets:
            return torch.zeros(())
        factor, norms = scale * self._rho, []
        for target in self.targets:
            gap = self._gap(target)
            norms.append(torch.linalg.vector_norm(gap))
            if target.parameter.grad is None:
                target.parameter.grad = torch.zeros_like(target.parameter)
            target.parameter.grad.add_(target.orient(gap).to(target.parameter.grad.dtype), alpha=factor)
        total: Tensor = factor * torch.linalg.vector_norm(torch.stack(norms))
        return total

    @torch.no_grad()
    def decay_(self, strength: float) -> None:
        """Decoupled penalty: ``W <- W - strength * (W - Z + U)``, after ``optimizer.step()``, as AdamW decays weights.

        Args:
            strength: Fraction of the distance to ``Z - U`` that one step covers, in [0, 1].
        """
        for target in self.targets:
            target.weight.sub_(self._gap(target).to(target.weight.dtype), alpha=strength)

    @torch.no_grad()
    def update_(self) -> Residuals:
        """Run the Z-step and the dual step; return the residuals.

        Each rank projects and measures a share of the targets; Z, U and residuals are the same on all.
        """
        owner = distributed.owners_of(self.targets)
        masks = distributed.supports(self.targets, lambda target: _full_precision(target.weight) + self.u[target.name])
        rows = torch.zeros(len(self.targets), len(dataclasses.fields(Energies)), dtype=torch.float64)
        for index, (target, mask) in enumerate(zip(self.targets, masks, strict=True)):
            weight, z_before = _full_precision(target.weight), self.z[target.name]
            dual = weight + self.u[target.name]
            z = kept_part(dual, as_bits(mask))
            if self._has_dual:
                keep_(dual, as_bits(~mask))  # W + U - Z, which is 0 where Z = W + U
            else:
                dual.zero_()
            kept_before, self.masks[target.name] = self.masks[target.name], mask
            self.z[target.name], self.u[target.name] = z, dual
            if owner[index] != distributed.rank():
                continue
            energies = Energies(
                weight=_energy(weight),
                cut=_energy(kept_part(weight, as_bits(~target.support(weight)))),
                z=_energy(z),
                primal=_energy(weight - z),
                moved=_energy(z - z_before),
                dual=_energy(dual if self._has_dual else z),
                flipped=int(torch.count_nonzero(mask & ~kept_before)),
                kept=int(torch.count_nonzero(mask)),
            )
            rows[index] = torch.tensor(dataclasses.astuple(energies), dtype=torch.float64)
        return self._residuals(distributed.total(rows))

    def _residuals(self, rows: Tensor) -> Residuals:
        """Return the residuals of a Z and dual step, from a row of energies per target."""
        sums: dict[str, Energies] = {}
        for target, row in zip(self.targets, rows.tolist(), strict=True):
            sums.setdefault(target.group, Energies()).add_(**dataclasses.asdict(Energies(*row)))
        total = Energies()
        for energies in sums.values():
            total.add_(**dataclasses.asdict(energies))
        groups = {group: energies.residuals(self._rho) for group, energies in sums.items()}
        return dataclasses.replace(total.residuals(self._rho), groups=groups)

    def prune_(self) -> None:
        """Replace W by its projection, for good."""
        prune_(self.targets)

    def pruned(self) -> AbstractContextManager[None]:
        """Hard-prune the weights inside a block, and restore the unpruned ones bit for bit."""
        return pruned(self.targets)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state that a resumed run needs: ``z.<name>``, ``u.<name>`` and ``rho`` (fp64 scalar)."""
        state = {f"z.{name}": z for name, z in self.z.items()} | {f"u.{name}": u for name, u in self.u.items()}
        return {**state, "rho": torch.tensor(self._rho, dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load the state of :meth:`state_dict`; tensors are copied to the targets' devices.

        The masks are not part of it: they are the support of Z. Ties keep the lower index, so a projection of Z keeps
        the same entries again, zeros included. An importance metric must first restore the targets' factors of the last
        Z-step.

        Raises:
            SparsityError: The state belongs to other targets.
        """
        expected = {"rho"} | {f"{variable}.{target.name}" for target in self.targets for variable in "zu"}
        if set(state) != expected:
            raise SparsityError(f"the saved ADMM state is of other targets: {min(expected ^ set(state))}")
        for target in self.targets:
            for variable in "zu":
                shape = state[f"{variable}.{target.name}"].shape
                if shape != target.weight.shape:
                    raise SparsityError(
                        f"{target.name} has shape {tuple(target.weight.shape)} but its saved state {tuple(shape)}"
                    )
        self._rho = _checked_rho(float(state["rho"]))
        for variable, tensors in (("z", self.z), ("u", self.u)):
            for name, tensor in tensors.items():
                tensors[name] = state[f"{variable}.{name}"].to(tensor, copy=True)
        supports = distributed.supports(self.targets, lambda target: self.z[target.name])
        self.masks = {target.name: mask for target, mask in zip(self.targets, supports, strict=True)}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.prune_()

    def _gap(self, target: Target) -> Tensor:
        """Return ``W - Z + U`` of one target; only one is in memory at a time."""
        return (_full_precision(target.weight) - self.z[target.name]).add_(self.u[target.name])


def _checked_rho(rho: float) -> float:
    if not 0.0 <= rho < float("inf"):
        raise SparsityError(f"rho must be finite and not negative but got {rho}")
    return float(rho)


def _upcast(weight: Tensor) -> Tensor:
    return weight.to(torch.promote_types(weight.dtype, torch.float32))


def _full_precision(weight: Tensor) -> Tensor:
    return _upcast(weight.detach())


def _energy(matrix: Tensor) -> float:
    """Squared Frobenius norm."""
    return float(torch.linalg.vector_norm(matrix)) ** 2
