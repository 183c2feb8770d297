"""Dropout and embeddings for CPUs against PyTorch's own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from nxm_sweep.training.cpu_layers import FastDropout, FastEmbedding, draw_kept, use_fast_layers_
from tests.training.tiny import bert


@pytest.mark.parametrize("p", [0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
def test_each_quarter_of_a_random_number_keeps_its_share(p: float) -> None:
    torch.manual_seed(0)
    count = 1_000_000
    shares = draw_kept((count, 4), p).double().mean(0)  # column: which 16 of the 64 bits
    deviation = (p * (1.0 - p) / count) ** 0.5
    assert (shares - (1.0 - p)).abs().max() <= 5.0 * deviation + 1 / 131_072


def test_neighbours_are_kept_independently() -> None:
    torch.manual_seed(1)
    kept = draw_kept((1_000_001,), 0.1).double() - 0.9
    for distance in (1, 2, 3, 4, 8):
        correlation = (kept[distance:] * kept[:-distance]).mean() / 0.09
        assert abs(float(correlation)) < 5e-3  # five deviations of 1 / sqrt(1,000,000)


def test_a_saved_generator_state_reproduces_the_draw() -> None:
    torch.manual_seed(2)
    draw_kept((7,), 0.5)
    state = torch.get_rng_state()
    first = draw_kept((1001, 3), 0.3)
    torch.set_rng_state(state)
    assert torch.equal(draw_kept((1001, 3), 0.3), first)
    assert not torch.equal(draw_kept((1001, 3), 0.3), first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_zeroes_or_scales_and_its_gradient_has_the_same_mask(dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    dropout = FastDropout(0.25)
    x = (torch.rand(300, 40) + 0.5).to(dtype).requires_grad_()
    out = dropout(x)
    out.sum().backward()
    kept = out != 0.0
    assert x.grad is not None
    assert out.dtype == dtype
    torch.testing.assert_close(out[kept], (x / 0.75)[kept])
    assert torch.equal(x.grad, kept.to(dtype) * torch.tensor(1.0 / 0.75, dtype=dtype))
    assert abs(float(kept.float().mean()) - 0.75) < 0.02


def test_dropout_rests_in_evaluation_and_at_the_ends() -> None:
    x = torch.randn(5, 5)
    assert torch.equal(FastDropout(0.5).eval()(x), x)
    assert torch.equal(FastDropout(0.0)(x), x)
    assert not FastDropout(1.0)(x).any()


def embeddings(padding_idx: int | None) -> tuple[nn.Embedding, nn.Embedding]:
    torch.manual_seed(4)
    plain = nn.Embedding(50, 6, padding_idx=padding_idx)
    fast = copy.deepcopy(plain)
    fast.__class__ = FastEmbedding
    return plain, fast


@pytest.mark.parametrize("padding_idx", [None, 0, 7])
def test_an_embedding_gives_the_plain_gradient_over_steps_and_micro_batches(padding_idx: int | None) -> None:
    plain, fast = embeddings(padding_idx)
    memory = None
    for step in range(3):
        for _ in range(2):  # micro-batches
            rows = torch.randint(50, (4, 9))
            rows[0, :3] = 7  # drawn more than once
            factors = torch.randn(4, 9, 6)
            for module in (plain, fast):
                (module(rows) * factors).sum().backward()
        assert plain.weight.grad is not None
        assert fast.weight.grad is not None
        torch.testing.assert_close(fast.weight.grad, plain.weight.grad)
        if step:
            assert fast.weight.grad.data_ptr() == memory
        memory = fast.weight.grad.data_ptr()
        plain.zero_grad()
        fast.zero_grad()


def test_a_frozen_embedding_gets_no_gradient() -> None:
    _, fast = embeddings(None)
    fast.weight.requires_grad = False
    assert not fast(torch.tensor([1])).requires_grad


def test_a_models_parameters_and_answers_stay() -> None:
    model = bert()
    model.train(mode=False)
    model.resize_token_embeddings(5000)
    fast = copy.deepcopy(model)
    use_fast_layers_(fast)
    kinds = {type(module) for module in fast.modules()}
    assert {FastDropout, FastEmbedding} <= kinds
    assert nn.Dropout not in kinds
    assert fast.state_dict().keys() == model.state_dict().keys()
    ids = torch.randint(4, 40, (3, 8))
    answers: list[Tensor] = [one(ids).logits for one in (model, fast)]
    assert torch.equal(*answers)
    use_fast_layers_(model, embeddings=False)
    assert FastEmbedding not in {type(module) for module in model.modules()}
