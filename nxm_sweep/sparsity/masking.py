"""Weights under a fixed support: hard pruning, its bit-exact undo, and masked training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from nxm_sweep.errors import SparsityError
from nxm_sweep.sparsity import ranks
from nxm_sweep.sparsity.targets import Target


@torch.no_grad()
def prune_(targets: Sequence[Target]) -> None:
    """Replace every target weight by its projection, in place. Of several ranks each does it for itself."""
    for target in targets:
        target.weight.masked_fill_(~target.support(), 0.0)


@contextmanager
def pruned(targets: Sequence[Target]) -> Iterator[None]:
    """Hold the hard-pruned weights inside the block; give back the unpruned ones, bit for bit, whatever happens in it."""
    kept = [target.weight.detach().clone() for target in targets]
    try:
        prune_(targets)
        yield
    finally:
        with torch.no_grad():
            for target, weight in zip(targets, kept, strict=True):
                target.weight.copy_(weight)


@torch.no_grad()
def distance(targets: Sequence[Target]) -> float:
    """Return ``||W - P(W)|| / ||W||`` over all targets together: what a hard prune would cut now; 0 without targets."""
    cut = total = 0.0
    for target in targets:
        weight = target.weight.double()
        total += float(weight.square().sum(dtype=torch.float64))
        cut += float(weight[~target.support(weight)].square().sum(dtype=torch.float64))
    return (cut / total) ** 0.5 if total else 0.0


class Masking:
    """Masked training on a support fixed at construction: NVIDIA ASP's recipe when the weights are pretrained.

    Masking gradients is not enough under AdamW, whose momentum and weight decay move pruned weights: call
    :meth:`apply_` after every ``optimizer.step()``.

    Args:
        targets: What is masked.
        masks: The supports, by parameter name: boolean, True is kept. Default: what a projection of each weight keeps as
            it is now. They are applied at once.
    """

    def __init__(self, targets: Sequence[Target], masks: Mapping[str, Tensor] | None = None) -> None:
        self.targets = list(targets)
        if masks is None:
            drawn = ranks.supports(self.targets)
            masks = {target.name: mask for target, mask in zip(self.targets, drawn, strict=True)}
        self._pruned = {target.name: ~masks[target.name] for target in self.targets}
        self.apply_()

    @property
    def masks(self) -> dict[str, Tensor]:
        """The supports, by parameter name: boolean, True is kept."""
        return {name: ~mask for name, mask in self._pruned.items()}

    @torch.no_grad()
    def apply_(self) -> None:
        """Set the pruned weights to exactly zero."""
        for target in self.targets:
            target.weight.masked_fill_(self._pruned[target.name], 0.0)

    @torch.no_grad()
    def mask_gradients_(self) -> None:
        """Drop the gradient of pruned weights, so that clipping sees the gradient of what is trained."""
        for target in self.targets:
            if target.weight.grad is not None:
                target.weight.grad.masked_fill_(self._pruned[target.name], 0.0)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the masks as ``uint8`` tensors, by parameter name."""
        return {name: mask.to(torch.uint8) for name, mask in self.masks.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take the masks of :meth:`state_dict` and apply them.

        Raises:
            SparsityError: The names or shapes are not those of the targets.
        """
        foreign = set(state) - set(self._pruned)
        if foreign:
            raise SparsityError(f"the saved masks are of other targets: {min(foreign)}")
        loaded: dict[str, Tensor] = {}
        for target in self.targets:
            stored = state.get(target.name)
            if stored is None or stored.shape != target.weight.shape:
                raise SparsityError(
                    f"the saved state has no mask of shape {tuple(target.weight.shape)} for {target.name}"
                )
            loaded[target.name] = stored.to(device=target.weight.device, dtype=torch.bool).logical_not()
        self._pruned = loaded
        self.apply_()
