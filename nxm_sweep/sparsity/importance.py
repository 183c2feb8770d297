"""Importance metrics: factors that multiply ``|W|`` before weights are ranked.

A projection that keeps the largest ``f * |W|`` is the nearest feasible point in the norm ``||f * .||_F``: its kept
entries are those of W, and only the support differs from that of magnitude.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nxm_sweep.errors import SparsityError
from nxm_sweep.sparsity import distributed
from nxm_sweep.sparsity.targets import Target

Batch = Mapping[str, Tensor]

_FLOOR = 1e-6  # of a matrix's mean factor: where factors vanish, weights still rank by magnitude


class Importance:
    """Set the factors of targets by running their model on calibration batches.

    Args:
        targets: Targets whose factors are set.
        model: The model of the targets; called as ``model(**batch)``, returns an object with a ``loss``.
        batches: Calibration batches, the same for every measurement.
    """

    def __init__(self, targets: Sequence[Target], model: nn.Module, batches: Sequence[Batch]) -> None:
        self.targets = list(targets)
        self._model, self._batches = model, batches

    def refresh_(self) -> None:
        """Measure and set the factors. The model's gradients, random state and mode are unchanged."""
        for target, measured in zip(self.targets, self._measure(), strict=True):
            factors = measured.detach().to(torch.promote_types(measured.dtype, torch.float32))
            mean = factors.mean()
            if not bool(mean.isfinite()):
                raise SparsityError(f"the importance of {target.name} is not finite", hint="the training has diverged")
            target.factors.values = factors / mean + _FLOOR if float(mean) > 0.0 else None
        values = [target.factors.values for target in self.targets if target.factors.values is not None]
        distributed.spread_(values, [0] * len(values))  # bit-identical on every rank

    def state_dict(self) -> dict[str, Tensor]:
        """Return the factors by parameter name."""
        return {target.name: target.factors.values for target in self.targets if target.factors.values is not None}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load the factors of :meth:`state_dict`."""
        for target in self.targets:
            factors = state.get(target.name)
            target.factors.values = None if factors is None else factors.to(target.weight.device)

    def _measure(self) -> Iterator[Tensor]:
        """Yield each target's factors: shape ``(in_features,)`` or the weight's."""
        raise NotImplementedError


class InputNorms(Importance):
    """Root mean square of every input of a target's module over the calibration batches.

    Source: Wanda, ``|W| * ||X||`` (Sun et al., 2024, "A simple and effective pruning approach for large language models").
    """

    def _measure(self) -> Iterator[Tensor]:
        energy = {id(target.parameter): torch.zeros((), device=target.weight.device) for target in self.targets}

        def observe(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows = inputs[0].detach().float().flatten(0, -2)
            energy[id(module.weight)] = energy[id(module.weight)] + rows.square().sum(dim=0)

        modules = [module for module in self._model.modules() if id(getattr(module, "weight", None)) in energy]
        hooks = [module.register_forward_pre_hook(observe) for module in modules]
        try:
            with _evaluation_mode(self._model), torch.no_grad():
                for batch in self._batches:
                    self._model(**batch)
        finally:
            for hook in hooks:
                hook.remove()
        for target in self.targets:
            yield energy[id(target.parameter)].sqrt()


class SecondMoments(Importance):
    """Root of the second moment of every weight's gradient, as estimated by Adam.

    Before the first optimizer step, the mean square of the calibration batches' gradients replaces it.
    ``|W| * sqrt(E[g^2])`` ranks weights as the diagonal of the empirical Fisher matrix does, ``W^2 * E[g^2] / 2``.

    Args:
        targets: As for :class:`Importance`.
        model: As for :class:`Importance`.
        batches: As for :class:`Importance`.
        optimizer: Returns the optimizer, or None before it exists.

    Source: LeCun et al. (1990), "Optimal brain damage", with Adam's moment for the curvature.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        model: nn.Module,
        batches: Sequence[Batch],
        optimizer: Callable[[], torch.optim.Optimizer | None] = lambda: None,
    ) -> None:
        super().__init__(targets, model, batches)
        self._optimizer = optimizer

    def _measure(self) -> Iterator[Tensor]:
        optimizer = self._optimizer()
        states = [{} if optimizer is None else optimizer.state.get(target.parameter, {}) for target in self.targets]
        moments = [state.get("exp_avg_sq") for state in states]
        if any(moment is None for moment in moments):
            moments = self._sum_squared_gradients()
        for target, moment in zip(self.targets, moments, strict=True):
            yield target.orient(moment).sqrt()

    def _sum_squared_gradients(self) -> list[Tensor]:
        weights = [target.parameter for target in self.targets]
        squares = [torch.zeros_like(weight) for weight in weights]
        with _evaluation_mode(self._model), torch.enable_grad():
            for batch in self._batches:
                gradients = torch.autograd.grad(self._model(**batch).loss, weights)
                for square, gradient in zip(squares, gradients, strict=True):
                    square.add_(gradient.square())
        return squares


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch the model to evaluation mode inside the block; restore each module's mode at its end."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
