"""Weights under a fixed support: hard pruning, its bit-exact undo, and masked training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from nxm_sweep.errors import SparsityError
from nxm_sweep.sparsity import distributed
from nxm_sweep.sparsity.targets import Target

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of an element


def as_bits(mask: Tensor) -> Tensor:
    """Return a boolean mask as ``int8``: all bits set where it is True, none where it is False."""
    return mask.to(torch.int8).neg_()


@torch.no_grad()
def keep_(matrix: Tensor, bits: Tensor) -> None:
    """Set entries that ``bits`` (of :func:`as_bits`) does not keep to exactly ``+0``; the others stay bit for bit.

    Takes an eighth of ``masked_fill_``'s time on a CPU, and allocates nothing.
    """
    matrix.view(_INTEGERS[matrix.element_size()]).bitwise_and_(bits)


@torch.no_grad()
def kept_part(matrix: Tensor, bits: Tensor) -> Tensor:
    """Return a copy of ``matrix`` with exactly ``+0`` where ``bits`` (of :func:`as_bits`) keeps nothing."""
    return torch.bitwise_and(matrix.view(_INTEGERS[matrix.element_size()]), bits).view(matrix.dtype)


@torch.no_grad()
def merge_(matrix: Tensor, other: Tensor) -> None:
    """Put the bits of ``other`` where ``matrix`` holds ``+0``: the inverse of a split by :func:`kept_part`."""
    integers = _INTEGERS[matrix.element_size()]
    matrix.view(integers).bitwise_or_(other.view(integers))


@torch.no_grad()
def prune_(targets: Sequence[Target]) -> None:
    """Replace every target weight by its projection, in place. Each rank does all of the work itself."""
    for target in targets:
        keep_(target.weight, as_bits(target.support()))


@contextmanager
def pruned(targets: Sequence[Target]) -> Iterator[None]:
    """Hard-prune the weights inside the block; restore the unpruned ones bit for bit, even after an error."""
    whole = [target.weight.detach().clone() for target in targets]
    try:
        prune_(targets)
        yield
    finally:
        with torch.no_grad():
            for target, weight in zip(targets, whole, strict=True):
                target.weight.copy_(weight)


@torch.no_grad()
def distance(targets: Sequence[Target]) -> float:
    """Return ``||W - P(W)|| / ||W||`` over all targets together: what a hard prune would cut now; 0 without targets."""
    cut = total = 0.0
    for target in targets:
        weight = target.weight.double()
        total += float(weight.square().sum(dtype=torch.float64))
        cut += float(kept_part(weight, as_bits(~target.support(weight))).square().sum(dtype=torch.float64))
    return (cut / total) ** 0.5 if total else 0.0


class Masking:
    """Masked training on a support fixed at construction: NVIDIA ASP's recipe when the weights are pretrained.

    Masking gradients is not enough under AdamW, whose momentum and weight decay move pruned weights: call
    :meth:`apply_` after every ``optimizer.step()``.

    Args:
        targets: Matrices to mask.
        masks: The supports, by parameter name: boolean, True is kept. Default: the support of each current weight's
            projection. They are applied immediately.
    """

    def __init__(self, targets: Sequence[Target], masks: Mapping[str, Tensor] | None = None) -> None:
        self.targets = list(targets)
        if masks is None:
            drawn = distributed.supports(self.targets)
            masks = {target.name: mask for target, mask in zip(self.targets, drawn, strict=True)}
        self._bits = {target.name: as_bits(masks[target.name]) for target in self.targets}
        self.apply_()

    @property
    def masks(self) -> dict[str, Tensor]:
        """The supports, by parameter name: boolean, True is kept."""
        return {name: bits != 0 for name, bits in self._bits.items()}

    @torch.no_grad()
    def apply_(self) -> None:
        """Set the pruned weights to exactly zero."""
        for target in self.targets:
            keep_(target.weight, self._bits[target.name])

    @torch.no_grad()
    def mask_gradients_(self) -> None:
        """Zero the gradients of pruned weights, so that clipping depends only on the weights in training."""
        for target in self.targets:
            if target.gradient is not None:
                keep_(target.gradient, self._bits[target.name])

    def state_dict(self) -> dict[str, Tensor]:
        """Return the masks as ``uint8`` tensors, by parameter name."""
        return {name: mask.to(torch.uint8) for name, mask in self.masks.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load the masks of :meth:`state_dict` and apply them.

        Raises:
            SparsityError: The names or shapes are not those of the targets.
        """
        foreign = set(state) - set(self._bits)
        if foreign:
            raise SparsityError(f"the saved masks are of other targets: {min(foreign)}")
        loaded: dict[str, Tensor] = {}
        for target in self.targets:
            stored = state.get(target.name)
            if stored is None or stored.shape != target.weight.shape:
                raise SparsityError(
                    f"the saved state has no mask of shape {tuple(target.weight.shape)} for {target.name}"
                )
            loaded[target.name] = as_bits(stored.to(device=target.weight.device, dtype=torch.bool))
        self._bits = loaded
        self.apply_()
