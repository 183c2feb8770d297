"""Masked training: the support holds after every step, also where the optimizer would leave it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune

from nxm_sweep.errors import SparsityError
from nxm_sweep.sparsity import Masking, Pattern, Target, project, prune_, pruned, select_targets, support
from nxm_sweep.sparsity.masking import as_bits, distance, keep_, kept_part, merge_

TWO_OF_FOUR = Pattern(2, 4)
INPUTS = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))
OUTPUTS = torch.randn(32, 3, generator=torch.Generator().manual_seed(2))


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 3))
    with torch.no_grad():
        for seed, parameter in enumerate(model.parameters()):
            parameter.copy_(0.5 * seeded(*parameter.shape, seed=seed))
    return model


def backward_(model: nn.Module) -> None:
    model.zero_grad()
    (model(INPUTS) - OUTPUTS).square().mean().backward()


def weights_outside(masking: Masking) -> float:
    """Largest magnitude of any weight that the masks cut."""
    return max(float(target.weight.detach()[~masking.masks[target.name]].abs().max()) for target in masking.targets)


def pretrained() -> tuple[nn.Sequential, torch.optim.AdamW]:
    """A model with an optimizer whose moments are warm from dense training."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(5):
        backward_(model)
        optimizer.step()
    return model, optimizer


def bits(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().view(torch.int32)


# ---- masking


def test_support_holds_after_every_adamw_step_with_warm_moments_and_weight_decay() -> None:
    model, optimizer = pretrained()
    masking = Masking(select_targets(model, TWO_OF_FOUR))
    start = [target.weight.detach().clone() for target in masking.targets]
    for _ in range(10):
        backward_(model)
        masking.mask_gradients_()
        optimizer.step()
        masking.apply_()
        assert weights_outside(masking) == 0.0
    for target, weight in zip(masking.targets, start, strict=True):
        mask = masking.masks[target.name]
        assert bool((target.weight[mask] != weight[mask]).all())  # what is kept does train


def test_masking_gradients_alone_does_not_hold_the_support() -> None:
    model, optimizer = pretrained()
    masking = Masking(select_targets(model, TWO_OF_FOUR))
    backward_(model)
    masking.mask_gradients_()
    optimizer.step()
    assert weights_outside(masking) > 1e-3


def test_masked_sgd_equals_training_through_pytorchs_own_mask() -> None:
    model, peer = network(), network()
    masking = Masking(select_targets(model, TWO_OF_FOUR))
    for index in (0, 2):
        prune.custom_from_mask(peer[index], "weight", masking.masks[f"{index}.weight"])  # type: ignore[no-untyped-call]
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.1) for each in (model, peer)]
    for _ in range(8):
        backward_(model)
        masking.mask_gradients_()
        backward_(peer)
        for optimizer in optimizers:
            optimizer.step()
        masking.apply_()
    for index in (0, 2):
        peer(INPUTS)  # recomputes the masked weight
        torch.testing.assert_close(model[index].weight, peer[index].weight)


def test_masks_are_the_magnitude_support_at_construction_and_are_applied_at_once() -> None:
    targets = select_targets(network(), TWO_OF_FOUR)
    before = {target.name: target.weight.detach().clone() for target in targets}
    masking = Masking(targets)
    for target in targets:
        assert torch.equal(masking.masks[target.name], support(before[target.name], TWO_OF_FOUR))
        assert torch.equal(target.weight, project(before[target.name], TWO_OF_FOUR))


def test_masks_stay_when_magnitudes_change() -> None:
    target = Target("w", nn.Parameter(torch.tensor([[4.0, 3.0, 2.0, 1.0]])), TWO_OF_FOUR)
    masking = Masking([target])
    with torch.no_grad():
        target.weight.copy_(torch.tensor([[0.1, -0.0, 8.0, 9.0]]))
    masking.apply_()
    assert torch.equal(bits(target.weight), bits(torch.tensor([[0.1, -0.0, 0.0, 0.0]])))


def test_gradients_are_dropped_where_pruned_and_untouched_where_kept() -> None:
    model = network()
    masking = Masking(select_targets(model, TWO_OF_FOUR))
    backward_(model)
    before = {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    masking.mask_gradients_()
    for name, parameter in model.named_parameters():
        mask = masking.masks.get(name, torch.ones_like(parameter, dtype=torch.bool))
        assert parameter.grad is not None
        assert torch.equal(bits(parameter.grad), bits(torch.where(mask, before[name], 0.0)))


def test_missing_gradients_stay_missing() -> None:
    model = network()
    Masking(select_targets(model, TWO_OF_FOUR)).mask_gradients_()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_infinite_and_nan_values_are_masked_too() -> None:
    target = Target("w", nn.Parameter(torch.tensor([[4.0, 3.0, 2.0, 1.0]])), TWO_OF_FOUR)
    masking = Masking([target])
    target.weight.grad = torch.tensor([[1.0, 2.0, math.nan, math.inf]])
    masking.mask_gradients_()
    assert target.weight.grad.tolist() == [[1.0, 2.0, 0.0, 0.0]]


# ---- state


def test_state_brings_the_masks_to_other_weights() -> None:
    saved = Masking(select_targets(network(), TWO_OF_FOUR))
    state = saved.state_dict()
    assert {tensor.dtype for tensor in state.values()} == {torch.uint8}
    other = network()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.copy_(seeded(*parameter.shape, seed=77))
    weights = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    loaded = Masking(select_targets(other, TWO_OF_FOUR))
    assert any(not torch.equal(loaded.masks[name], mask) for name, mask in saved.masks.items())
    other.load_state_dict(weights)
    loaded.load_state_dict(state)
    for target in loaded.targets:
        assert torch.equal(loaded.masks[target.name], saved.masks[target.name])
        assert torch.equal(target.weight, weights[target.name] * saved.masks[target.name])


@pytest.mark.parametrize("fault", ["missing", "shape", "extra"])
def test_state_of_other_targets_is_refused_and_changes_nothing(fault: str) -> None:
    other = network()
    with torch.no_grad():
        other.get_parameter("0.weight").copy_(seeded(12, 8, seed=5))
    state = Masking(select_targets(other, TWO_OF_FOUR)).state_dict()
    if fault == "missing":
        del state["2.weight"]
    elif fault == "shape":
        state["2.weight"] = state["2.weight"].T
    else:
        state["9.weight"] = state["2.weight"]
    masking = Masking(select_targets(network(), TWO_OF_FOUR))
    before = masking.masks
    with pytest.raises(SparsityError, match=r"[29]\.weight"):
        masking.load_state_dict(state)
    assert all(torch.equal(mask, before[name]) for name, mask in masking.masks.items())


# ---- pruning and its undo


def test_prune_is_the_projection_in_place() -> None:
    targets = select_targets(network(), TWO_OF_FOUR)
    expected = [project(target.weight, TWO_OF_FOUR) for target in targets]
    storages = [target.weight.data_ptr() for target in targets]
    prune_(targets)
    assert [target.weight.data_ptr() for target in targets] == storages
    assert all(torch.equal(bits(t.weight), bits(weight)) for t, weight in zip(targets, expected, strict=True))


def negative_zeros() -> Target:
    return Target("w", nn.Parameter(torch.tensor([[-0.0, 5.0, -0.0, 0.0], [1.0, -2.0, 3.0, -4.0]])), TWO_OF_FOUR)


def test_pruned_gives_back_every_bit_also_of_negative_zero() -> None:
    target = negative_zeros()
    before = bits(target.weight)
    with pruned([target]):
        assert torch.equal(bits(target.weight), bits(project(negative_zeros().weight, TWO_OF_FOUR)))
        assert not torch.equal(bits(target.weight), before)
    assert torch.equal(bits(target.weight), before)


def test_pruned_gives_back_every_bit_after_an_exception_and_after_edits() -> None:
    target = negative_zeros()
    before = bits(target.weight)

    def edit_and_fail() -> None:
        with torch.no_grad(), pruned([target]):
            target.weight.fill_(math.nan)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        edit_and_fail()
    assert torch.equal(bits(target.weight), before)


def test_pruned_that_cannot_prune_one_matrix_gives_back_the_others() -> None:
    diverged = Target("v", nn.Parameter(torch.full((1, 4), math.nan)), TWO_OF_FOUR)
    target = negative_zeros()
    before = bits(target.weight)
    with pytest.raises(SparsityError, match="NaN"), pruned([target, diverged]):
        pass
    assert torch.equal(bits(target.weight), before)
    assert bool(diverged.weight.isnan().all())


def test_pruned_blocks_nest() -> None:
    target = negative_zeros()
    before = bits(target.weight)
    with pruned([target]):
        inside = bits(target.weight)
        with pruned([target]):
            pass
        assert torch.equal(bits(target.weight), inside)
    assert torch.equal(bits(target.weight), before)


# ---- distance


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_distance_is_what_a_prune_cuts_over_all_targets_together(dtype: torch.dtype) -> None:
    weights = [seeded(6, 8, seed=1).to(dtype), (3 * seeded(4, 16, seed=2)).to(dtype)]
    targets = [Target(str(index), nn.Parameter(weight), TWO_OF_FOUR) for index, weight in enumerate(weights)]
    flat = np.concatenate([weight.double().numpy().reshape(-1, 4) for weight in weights])
    cut = np.sort(np.abs(flat), axis=1)[:, :2]
    assert distance(targets) == pytest.approx(np.linalg.norm(cut) / np.linalg.norm(flat), rel=1e-6)
    prune_(targets)
    assert distance(targets) == 0.0


def test_distance_of_nothing_and_of_zero_weights_is_zero() -> None:
    assert distance([]) == 0.0
    assert distance([Target("w", nn.Parameter(torch.zeros(2, 4)), TWO_OF_FOUR)]) == 0.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_keeping_by_bits_gives_plus_zero_and_leaves_every_other_bit(dtype: torch.dtype) -> None:
    values = torch.tensor([[1.5, -2.0, -0.0, float("nan"), float("inf"), -float("inf"), 6e-8, -1.0]]).to(dtype)
    for pattern in ([True, False] * 4, [False, True] * 4):
        mask = torch.tensor([pattern])
        expected = values.clone().masked_fill_(~mask, 0.0)
        part = kept_part(values, as_bits(mask))
        changed = values.clone()
        keep_(changed, as_bits(mask))
        for result in (part, changed):
            assert result.dtype == dtype
            assert result.contiguous().view(torch.uint8).tolist() == expected.view(torch.uint8).tolist()


@given(st.lists(st.floats(width=32), min_size=8, max_size=8), st.lists(st.booleans(), min_size=8, max_size=8))
def test_a_split_and_merged_matrix_is_bit_equal(values: list[float], kept: list[bool]) -> None:
    matrix, mask = torch.tensor([values]), torch.tensor([kept])
    merged, cut = kept_part(matrix, as_bits(mask)), kept_part(matrix, as_bits(~mask))
    merge_(merged, cut)
    assert merged.view(torch.int32).tolist() == matrix.view(torch.int32).tolist()
