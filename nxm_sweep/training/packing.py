"""Encoders without padding on a CPU: the rows of a batch are concatenated before the layers.

A batch of shape ``(rows, longest)`` becomes one of ``(1, tokens)``, where ``tokens`` is the sum of the rows' lengths,
rounded up: linear layers, activations, dropout and layer norms see no padding. Attention runs over rows of similar
length at a time. In the last layer, everything after attention runs on the first token of each row, the only one that a
sequence classifier's head reads. Outputs and gradients are those of the padded model up to rounding; dropout draws
other masks of the same distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import flash_attention_mask
from transformers.models.mpnet.modeling_mpnet import MPNetAttention, MPNetEncoder

from nxm_sweep.training.cpu_layers import draw_kept

FAMILIES = frozenset({"bert", "camembert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta"})
"""Values of ``config.model_type`` whose encoders and heads have the expected structure."""
_NAME = "nxm_sweep_packed"  # of the attention, as registered in Transformers
_ROWS = 8  # rows per block: more mean fewer calls, fewer mean less padding
_TOKENS, _LENGTH = 32, 8  # sizes are rounded up to these: each new shape creates, and caches, a bf16 kernel


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of similar length, padded to the longest for attention.

    Attributes:
        rows: Number of rows.
        length: Tokens of the longest, rounded up.
        index: Packed position of each of the block's tokens; for padding, that of the row's first token. Shape
            ``(rows * length,)``.
        first: Packed position of each row's first token. Shape ``(rows,)``.
        real: Mask of the tokens that are not padding, shape ``(rows, length)``; None without padding.
    """

    rows: int
    length: int
    index: Tensor
    first: Tensor
    real: Tensor | None


@dataclass(frozen=True, slots=True)
class Layout:
    """Positions of a padded batch's tokens after its rows are concatenated, longest row first.

    Attributes:
        index: Position of each packed token in the flattened padded batch. Shape ``(tokens,)``.
        size: Number of packed rows: the tokens, plus rows of zeros up to a round number.
        blocks: Rows that attention processes at a time.
        unblock: Position of each packed token among the blocks' tokens, block after block. Shape ``(tokens,)``.
        first: Packed position of each row's first token, in the batch's order. Shape ``(rows,)``.
    """

    index: Tensor
    size: int
    blocks: list[Block]
    unblock: Tensor
    first: Tensor

    @classmethod
    def of(cls, mask: Tensor | None, shape: tuple[int, int]) -> Layout:
        """Return the layout of a batch.

        Args:
            mask: Nonzero for a token and 0 for padding, before or after the tokens; None without padding.
            shape: ``(rows, longest)``.
        """
        rows, longest = shape
        tokens = torch.ones(shape, dtype=torch.bool) if mask is None else mask != 0
        lengths, order = tokens.sum(1).sort(descending=True, stable=True)
        positions = torch.arange(rows * longest).view(shape)[order]
        starts = lengths.cumsum(0) - lengths
        blocks: list[Block] = []
        unblock: list[Tensor] = []
        for begin in range(0, rows, _ROWS):
            ours, start = lengths[begin : begin + _ROWS], starts[begin : begin + _ROWS]
            step = torch.arange(_round_up(int(ours[0]), _LENGTH))
            real = step < ours[:, None]
            index = start[:, None] + torch.where(real, step, 0)
            before = sum(block.rows * block.length for block in blocks)
            unblock.append(real.flatten().nonzero().squeeze(1) + before)
            padding = None if int(ours[-1]) == len(step) else real
            blocks.append(Block(len(ours), len(step), index.flatten(), start, padding))
        index = positions[tokens[order]]
        return cls(
            index=index,
            size=_round_up(len(index), _TOKENS),
            blocks=blocks,
            unblock=torch.cat(unblock),
            first=torch.empty_like(starts).index_copy_(0, order, starts),
        )


def pack_(model: PreTrainedModel) -> bool:
    """Make a sequence classifier compute without padding; return whether its family is among :data:`FAMILIES`.

    A call that requests hidden states or attention is computed with padding, as before. Saved files and parameter names
    do not change.

    Args:
        model: A model on the CPU, not yet wrapped for training.
    """
    config = model.config
    supported = (
        config.model_type in FAMILIES
        and type(model).__name__.endswith("ForSequenceClassification")
        and not getattr(config, "is_decoder", False)
        and not getattr(config, "chunk_size_feed_forward", 0)
    )
    if supported:
        _Packing().attach_(model)
    return supported


class _Packing:
    """Hooks of one model, and the layout of its current batch."""

    def __init__(self) -> None:
        self.layout: Layout | None = None
        self._mask: Tensor | None = None
        self._attention = ""  # name in the configuration of the attention that allows packing
        self._padded = False  # whether this call is computed with padding
        self._trims = True  # whether the last layer returns only the rows' first tokens

    def attach_(self, model: PreTrainedModel) -> None:
        base: Any = model.base_model
        encoder: Any = getattr(base, "encoder", None) or base.transformer
        base.register_forward_pre_hook(self._begin, with_kwargs=True)
        encoder.register_forward_pre_hook(self._pack, with_kwargs=True)
        encoder.register_forward_hook(self._unpack)
        if model.config.model_type == "mpnet":
            _pack_mpnet_(encoder, self)
        else:
            AttentionInterface.register(_NAME, _attend)
            AttentionMaskInterface.register(_NAME, flash_attention_mask)  # leaves the (rows, longest) mask as it is
            model.set_attn_implementation(_NAME)
            last = encoder.layer[-1].attention
            self._trims = hasattr(last, "output")
            if self._trims:
                last.self.register_forward_hook(self._keep_first)
                last.output.register_forward_pre_hook(self._keep_first_residual)
                last.self.reads_first_token_only = True
        self._attention = model.config._attn_implementation  # noqa: SLF001 - there is no public name

    def _begin(self, base: Any, args: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        requested = (
            inputs.get(name) or getattr(base.config, name, False)
            for name in ("output_hidden_states", "output_attentions")
        )
        self._mask = inputs.get("attention_mask")
        other = base.config._attn_implementation != self._attention  # noqa: SLF001 - there is no public name
        self._padded = any(requested) or other or len(args) > 1  # a mask may be among several positional arguments

    def _pack(self, _: nn.Module, args: tuple[Tensor, ...], inputs: dict[str, Any]) -> tuple[tuple[Tensor, ...], Any]:
        if self._padded:
            mask = inputs.get("attention_mask")
            if mask is not None and mask.dim() == 2:
                inputs = {**inputs, "attention_mask": (mask != 0)[:, None, None, :]}
            return args, inputs
        hidden, *others = args or (inputs["hidden_states"],)
        self.layout = Layout.of(self._mask, (hidden.shape[0], hidden.shape[1]))
        packed = _take(hidden.flatten(0, 1), self.layout.index, self.layout.size)[None]
        inputs = {**inputs, "attention_mask": None, "layout": self.layout}
        inputs.pop("hidden_states", None)
        return (packed, *others), inputs

    def _unpack(self, _: nn.Module, __: Any, output: Any) -> Any:
        if self.layout is None:
            return output
        hidden = (output[0] if self._trims else self.first_tokens(output[0]))[0][:, None]  # shape (rows, 1, width)
        self.layout = None
        if isinstance(output, tuple):
            return hidden, *output[1:]
        output.last_hidden_state = hidden
        return output

    def first_tokens(self, hidden: Tensor) -> Tensor:
        """Return the first tokens of packed rows, shape ``(1, rows, width)``; all tokens if not packed."""
        return hidden if self.layout is None else _take(hidden[0], self.layout.first)[None]

    def _keep_first(self, _: nn.Module, __: Any, output: tuple[Tensor, Any]) -> tuple[Tensor, Any]:
        return self.first_tokens(output[0]), output[1]

    def _keep_first_residual(self, _: nn.Module, args: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return args[0], self.first_tokens(args[1])


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    layout: Layout | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Compute attention for Transformers, from ``(1, heads, tokens, width)`` to ``(1, tokens, heads, width)``."""
    if layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **options)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    how = _How(layout, dropout, scale, first_only=getattr(module, "reads_first_token_only", False))
    return _Attention.apply(query, key, value, None, how), None  # type: ignore[no-untyped-call]


def _pack_mpnet_(encoder: Any, packing: _Packing) -> None:
    """Replace MPNet's own attention, which has a bias by the distance of two tokens."""
    encoder.__class__, encoder.packing = _MPNetEncoder, packing
    for layer in encoder.layer:
        layer.attention.__class__, layer.attention.packing = _MPNetAttention, packing
        layer.attention.is_last = layer is encoder.layer[-1]


class _MPNetEncoder(MPNetEncoder):
    packing: _Packing

    def compute_position_bias(self, x: Tensor, *args: Any, **options: Any) -> Tensor:
        layout = self.packing.layout
        if layout is not None:
            x = x.new_empty(1, layout.blocks[0].length, 1)  # the longest block's
        bias: Tensor = super().compute_position_bias(x, *args, **options)  # type: ignore[no-untyped-call]
        return bias


class _MPNetAttention(MPNetAttention):
    packing: _Packing
    is_last: bool

    def forward(
        self, hidden_states: Any, attention_mask: Any = None, position_bias: Any = None, *args: Any, **options: Any
    ) -> Any:
        layout = self.packing.layout
        if layout is None:
            return super().forward(hidden_states, attention_mask, position_bias, *args, **options)  # type: ignore[no-untyped-call]
        attention = self.attn
        width = attention.attention_head_size
        query, key, value = (
            linear(hidden_states).unflatten(2, (-1, width)).transpose(1, 2)
            for linear in (attention.q, attention.k, attention.v)
        )
        dropout = attention.dropout.p if self.training else 0.0
        how = _How(layout, dropout, width**-0.5, first_only=self.is_last)
        bias = position_bias[0].to(query.dtype)
        mixed = _Attention.apply(query, key, value, bias, how).flatten(2)  # type: ignore[no-untyped-call]
        if self.is_last:
            mixed, hidden_states = self.packing.first_tokens(mixed), self.packing.first_tokens(hidden_states)
        return (self.LayerNorm(self.dropout(attention.o(mixed)) + hidden_states),)


@dataclass(frozen=True, slots=True)
class _How:
    layout: Layout
    dropout: float
    scale: float
    first_only: bool  # the queries are the rows' first tokens, and the other tokens' outputs are zero


class _Attention(torch.autograd.Function):
    """Softmax attention within each row, block by block, in the inputs' dtype.

    ``bias``, if given, is added to the scores: shape ``(heads, length, length)``, the longest block's length.
    """

    @staticmethod
    def forward(  # noqa: PLR0917 - an autograd function takes positions
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, how: _How
    ) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return _Attention._forward(ctx, (query, key, value), bias, how)

    @staticmethod
    def _forward(ctx: Any, inputs: tuple[Tensor, ...], bias: Tensor | None, how: _How) -> Tensor:
        layout, p, first_only = how.layout, how.dropout, how.first_only
        shape = inputs[0][0].transpose(0, 1).shape  # (tokens, heads, width)
        flat = [matrix[0].transpose(0, 1).flatten(1) for matrix in inputs]
        saved: list[Tensor] = []
        mixed = []
        for block in layout.blocks:
            q = _split_heads(flat[0].index_select(0, block.first if first_only else block.index), block.rows, shape)
            k, v = (_split_heads(matrix.index_select(0, block.index), block.rows, shape) for matrix in flat[1:])
            scores = torch.bmm(q.mul_(how.scale), k.transpose(1, 2))
            by_row = scores.view(block.rows, -1, *scores.shape[1:])
            if bias is not None:
                by_row.add_(bias[:, : scores.shape[1], : scores.shape[2]])
            if block.real is not None:
                by_row.add_(torch.where(block.real, 0.0, float("-inf")).to(scores.dtype)[:, None, None, :])
            probabilities = scores.softmax(-1)
            kept = draw_kept(probabilities.shape, p) if p else None
            out = torch.bmm(probabilities if kept is None else probabilities * kept, v).mul_(1.0 / (1.0 - p))
            mixed.append(_merge_heads(out, block.rows))
            saved += [q, k, v, probabilities, out] + ([] if kept is None else [kept])
        ctx.save_for_backward(*saved)
        ctx.how, ctx.shape = how, shape
        ctx.bias = None if bias is None else (bias.shape, bias.dtype)
        return _repack(torch.cat(mixed), layout, first_only=first_only).view(1, *shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        how, shape = ctx.how, ctx.shape
        layout, p, first_only = how.layout, how.dropout, how.first_only
        gradient = gradients[0].reshape(shape[0], -1)
        each = 6 if p else 5
        parts: tuple[list[Tensor], ...] = ([], [], [])
        d_bias = None if ctx.bias is None else gradient.new_zeros(ctx.bias[0], dtype=ctx.bias[1])
        for number, block in enumerate(layout.blocks):
            q, k, v, probabilities, out, *kept = ctx.saved_tensors[number * each : (number + 1) * each]
            rows = gradient.index_select(0, block.first if first_only else block.index)
            if block.real is not None and not first_only:
                rows.mul_(block.real.flatten()[:, None])
            d_out = _split_heads(rows, block.rows, shape)
            mean = (d_out * out).sum(-1, keepdim=True)  # sum of probability times its gradient, over keys
            d_out = d_out.mul_(1.0 / (1.0 - p))
            d_v = torch.bmm((probabilities * kept[0] if kept else probabilities).transpose(1, 2), d_out)
            d_scores = torch.bmm(d_out, v.transpose(1, 2))
            if kept:
                d_scores.mul_(kept[0])
            d_scores.sub_(mean).mul_(probabilities)
            if d_bias is not None:
                by_row = d_scores.view(block.rows, -1, *d_scores.shape[1:])
                d_bias[:, : d_scores.shape[1], : d_scores.shape[2]] += by_row.sum(0)
            d_q, d_k = torch.bmm(d_scores, k).mul_(how.scale), torch.bmm(d_scores.transpose(1, 2), q)
            for part, d_block in zip(parts, (d_q, d_k, d_v), strict=True):
                part.append(_merge_heads(d_block, block.rows))
        firsts = (first_only, False, False)
        placed = (_repack(torch.cat(part), layout, first_only=first) for part, first in zip(parts, firsts, strict=True))
        return *(matrix.view(1, *shape).transpose(1, 2) for matrix in placed), d_bias, None


def _split_heads(rows: Tensor, count: int, shape: tuple[int, ...]) -> Tensor:
    """Reshape ``(count * length, heads * width)`` to ``(count * heads, length, width)``."""
    _, heads, width = shape
    return rows.view(count, -1, heads, width).transpose(1, 2).reshape(count * heads, -1, width)


def _merge_heads(matrices: Tensor, count: int) -> Tensor:
    """Reshape ``(count * heads, length, width)`` to ``(count * length, heads * width)``."""
    _, length, width = matrices.shape
    return matrices.view(count, -1, length, width).transpose(1, 2).reshape(count * length, -1)


def _repack(blocks: Tensor, layout: Layout, *, first_only: bool) -> Tensor:
    """Move tokens from block order to packed positions; rows without a token are zero."""
    packed = blocks.new_zeros(layout.size, blocks.shape[1])
    if first_only:
        return packed.index_copy_(0, torch.cat([block.first for block in layout.blocks]), blocks)
    torch.index_select(blocks, 0, layout.unblock, out=packed[: len(layout.unblock)])
    return packed


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _take(rows: Tensor, index: Tensor, size: int | None = None) -> Tensor:
    """Return ``rows[index]``, each taken at most once, followed by rows of zeros up to ``size``."""
    taken: Tensor = _Take.apply(rows, index, len(index) if size is None else size)  # type: ignore[no-untyped-call]
    return taken


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(index)
        ctx.count = len(rows)
        taken = rows.new_zeros(size, rows.shape[1])
        torch.index_select(rows, 0, index, out=taken[: len(index)])
        return taken

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (index,) = ctx.saved_tensors
        gradient = gradients[0][: len(index)]
        return gradient.new_zeros(ctx.count, gradient.shape[1]).index_copy_(0, index, gradient), None, None
