"""The Z-step: the nearest matrix that satisfies a pattern.

The Frobenius distance to a matrix with a given support is the norm of what is cut, so the nearest feasible matrix keeps
the largest magnitudes: per group for N:M, per matrix for an unstructured density. Ties keep the lower index. Quantiles
and thresholds break on ties and zeros; nothing here relies only on them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nxm_sweep.errors import SparsityError
from nxm_sweep.sparsity.pattern import Constraint, Pattern, Unstructured

_RANK_LIMIT = 16  # above this a stable sort beats the group * (group - 1) / 2 pairwise comparisons


def support(weight: Tensor, constraint: Constraint) -> Tensor:
    """Return which entries of ``weight`` the projection keeps.

    Exactly ``keep`` entries of every group (or ``constraint.count(numel)`` of the matrix) are kept, zeros included;
    among equal magnitudes the lower index wins, so the result is deterministic on every device.

    Args:
        weight: Shape ``(out_features, in_features)``, any floating dtype; not modified.
        constraint: A :class:`Pattern` (groups run along ``in_features`` and never straddle rows) or
            an :class:`Unstructured` density.

    Returns:
        Boolean tensor of the same shape and device; True is kept.

    Raises:
        SparsityError: ``weight`` is not a floating matrix, holds NaN, or ``in_features`` is not a multiple of the group.

    Source: Z-step of NxMTransformer (Holmes et al., 2021), section on ADMM.
    """
    check_projectable(weight, constraint)
    if constraint.is_dense:
        return torch.ones_like(weight, dtype=torch.bool)
    magnitude = weight.detach().abs()
    if bool(magnitude.sum().isnan()):  # a sum of non-negative values is NaN only if one of them is
        raise SparsityError("the matrix holds NaN, which has no magnitude to rank", hint="the training has diverged")
    if isinstance(constraint, Unstructured):
        return _largest(magnitude, constraint.count(magnitude.numel()))
    groups = magnitude.reshape(-1, constraint.group)
    kept = _by_ranks(groups, constraint) if constraint.group <= _RANK_LIMIT else _by_sorting(groups, constraint)
    return kept.reshape(weight.shape)


def project(weight: Tensor, constraint: Constraint) -> Tensor:
    """Return the tensor nearest to ``weight`` in Frobenius norm that satisfies ``constraint``.

    Args:
        weight: Shape ``(out_features, in_features)``; not modified.
        constraint: As for :func:`support`.

    Returns:
        Same shape, dtype and device; kept entries are bit-identical, the others are exactly ``+0``.

    Raises:
        SparsityError: As for :func:`support`.

    Source: Z-step of NxMTransformer (Holmes et al., 2021), section on ADMM.
    """
    return weight.detach().masked_fill(~support(weight, constraint), 0.0)


def check_projectable(weight: Tensor, constraint: Constraint) -> None:
    """Raise unless ``weight`` is a floating matrix whose rows divide into the constraint's groups.

    Raises:
        SparsityError: The rule that is broken, with the shape received.
    """
    if weight.ndim != 2 or not weight.is_floating_point():
        raise SparsityError(f"expected a floating-point matrix but got {weight.dtype} of shape {tuple(weight.shape)}")
    if weight.numel() == 0:
        raise SparsityError(f"the matrix of shape {tuple(weight.shape)} has no weights")
    if isinstance(constraint, Pattern) and weight.shape[1] % constraint.group:
        raise SparsityError(
            f"in_features must be a multiple of group = {constraint.group} but got {weight.shape[1]}",
            hint="exclude this matrix by a rule, or choose a group that divides its rows",
        )


def _by_ranks(groups: Tensor, pattern: Pattern) -> Tensor:
    """Mask of shape (n, group): an entry's rank is the number of entries of its group that precede it."""
    columns = [groups[:, index].contiguous() for index in range(pattern.group)]  # group tensors of shape (n,)
    last = pattern.group - 1
    ranks = [torch.full_like(column, last - index, dtype=torch.uint8) for index, column in enumerate(columns)]
    for low in range(pattern.group):
        for high in range(low + 1, pattern.group):
            low_wins = (columns[low] >= columns[high]).view(torch.uint8)  # the lower index wins a tie
            ranks[high] += low_wins
            ranks[low] -= low_wins
    return torch.stack(ranks, dim=1) < pattern.keep


def _by_sorting(groups: Tensor, pattern: Pattern) -> Tensor:
    """Mask of shape (n, group) by a stable descending sort."""
    order = groups.argsort(dim=1, descending=True, stable=True)
    kept = torch.zeros(groups.shape, dtype=torch.bool, device=groups.device)
    return kept.scatter_(1, order[:, : pattern.keep], value=True)


def _largest(magnitude: Tensor, count: int) -> Tensor:
    """Mask of the ``count`` largest of a whole matrix; ties at the threshold go to the lower flat index."""
    flat = magnitude.flatten()
    threshold = flat.kthvalue(flat.numel() - count + 1).values
    kept = flat > threshold
    ties = (flat == threshold).nonzero().squeeze(1)
    kept[ties[: count - int(kept.sum())]] = True
    return kept.reshape(magnitude.shape)
