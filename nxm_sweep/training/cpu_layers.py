"""Faster layers for CPUs: dropout from 16 random bits per entry, embeddings that reuse their gradient's memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

_VOCABULARY = 4096  # rows from which an embedding's gradient is worth keeping
_LEVELS = 2**16  # probabilities are rounded to multiples of 1 / _LEVELS


def draw_kept(shape: Sequence[int], p: float) -> Tensor:
    """Draw the entries that dropout keeps: ``int16`` on the CPU, 1 with probability ``1 - p``, else 0.

    Four entries share a 64-bit number of PyTorch's default generator, so ``torch.manual_seed`` and a saved generator
    state reproduce the draw.

    Args:
        shape: Shape of the result.
        p: Probability of a 0, in [0, 1]; rounded by at most 1 / 131,072.
    """
    count = math.prod(shape)
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)  # None: all 64 bits
    threshold = round(p * _LEVELS) - _LEVELS // 2
    if threshold == _LEVELS // 2:  # p = 1 lies beyond int16
        return torch.zeros(tuple(shape), dtype=torch.int16)
    return bits.view(torch.int16)[:count].view(tuple(shape)).ge_(threshold)


class FastDropout(nn.Dropout):
    """``nn.Dropout`` whose mask costs a seventh on a CPU; unchanged on other devices and in place."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Dropout's name
        """Return ``input`` with some entries set to zero and the others divided by ``1 - p``, in training only."""
        if input.device.type != "cpu" or self.inplace or not 0.0 < self.p < 1.0:
            return super().forward(input)
        return _Dropout.apply(input, self.p) if self.training else input  # type: ignore[no-untyped-call]


class FastEmbedding(nn.Embedding):
    """``nn.Embedding`` that adds to ``weight.grad`` in place, in memory kept between optimizer steps.

    The original allocates and clears a gradient of the weight's size in every step, which for a vocabulary costs more
    than the embedding itself. Hooks on the weight's gradient do not run, so ``DistributedDataParallel`` is unsupported.
    """

    _memory: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Embedding's name
        """Return the rows of ``weight`` at the indices ``input``."""
        if self.max_norm is not None or self.scale_grad_by_freq:
            return super().forward(input)
        out: Tensor = _Embedding.apply(self.weight, input, self)  # type: ignore[no-untyped-call]
        return out

    @torch.no_grad()
    def add_gradient_(self, rows: Tensor, gradient: Tensor) -> None:
        """Add the gradient of the output of :meth:`forward` for ``rows``."""
        if self.weight.grad is None:
            if self._memory is None:
                self._memory = torch.empty_like(self.weight)
            self.weight.grad = self._memory.zero_()
        rows, gradient = rows.flatten(), gradient.flatten(0, -2)
        if self.padding_idx is not None:
            gradient = gradient.masked_fill((rows == self.padding_idx)[:, None], 0.0)
        self.weight.grad.index_add_(0, rows, gradient)


def use_fast_layers_(model: nn.Module, *, embeddings: bool = True) -> None:
    """Replace a model's dropout by :class:`FastDropout` and its vocabulary by :class:`FastEmbedding`.

    Subclasses of ``nn.Dropout`` and ``nn.Embedding``, and embeddings with few rows, do not change.

    Args:
        model: Changed in place, except for parameters and their names.
        embeddings: Whether to replace embeddings too.
    """
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = FastDropout
        elif embeddings and type(module) is nn.Embedding and module.num_embeddings >= _VOCABULARY and not module.sparse:
            module.__class__ = FastEmbedding


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, p: float) -> Tensor:
        kept = draw_kept(x.shape, p)
        ctx.save_for_backward(kept)
        ctx.scale = 1.0 / (1.0 - p)  # type: ignore[attr-defined]
        return (x * kept).mul_(1.0 / (1.0 - p))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return (gradients[0] * kept).mul_(ctx.scale), None


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: Tensor, module: FastEmbedding) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.module = module
        return weight.index_select(0, rows.flatten()).view(*rows.shape, -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None]:
        if ctx.needs_input_grad[0]:
            ctx.module.add_gradient_(ctx.saved_tensors[0], gradients[0])
        return None, None, None
