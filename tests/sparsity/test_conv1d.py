"""GPT-2's ``Conv1D``: a linear layer whose weight is stored with its inputs first is pruned along its inputs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments
from transformers.pytorch_utils import Conv1D

from nxm_sweep.export.audit import audit_model
from nxm_sweep.export.weights import open_weights
from nxm_sweep.methods import AdmmSwitches, AdmmUnstructured, Asp, Gradual, Nxm, NxmRefit, SparseMethod, SrSte
from nxm_sweep.sparsity import Pattern, Rule, Target, select_targets
from nxm_sweep.sparsity.importance import Importance, InputNorms, SecondMoments
from nxm_sweep.sparsity.matrix_check import check_file
from nxm_sweep.training.trainer import SparseTrainer

TWO_OF_FOUR = Pattern(2, 4)
RULES = [Rule("h.*", TWO_OF_FOUR)]
MATRICES = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
METHODS: dict[str, Callable[[list[Target]], SparseMethod]] = {
    "asp": Asp,
    "nxm, penalty in the gradient": lambda targets: Nxm(targets, 1e-2, AdmmSwitches(penalty="gradient")),
    "nxm, decoupled penalty": lambda targets: Nxm(targets, 0.0, AdmmSwitches(penalty="decoupled")),
    "nxm_refit": lambda targets: NxmRefit(targets, 1e-2),
    "sr_ste": SrSte,
    "gradual": Gradual,
}


def gpt2(seed: int = 0) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=32, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0, pad_token_id=0
    )
    return GPT2LMHeadModel(config)


class Net(nn.Module):
    """Two layers of either kind, with the loss that a trainer expects."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        outputs = self.second(torch.tanh(self.first(inputs)))
        return {"loss": (outputs - labels).square().mean(), "logits": outputs}


def as_linear(layer: nn.Module) -> nn.Linear:
    """Return the same layer with its weight the usual way round."""
    weight, bias = layer.get_parameter("weight").detach(), layer.get_parameter("bias").detach()
    linear = nn.Linear(*weight.shape)
    with torch.no_grad():
        linear.weight.copy_(weight.T)
        linear.bias.copy_(bias)
    return linear


def nets() -> tuple[Net, Net]:
    """Return a net of ``Conv1D`` and one of ``nn.Linear`` with the same weights."""
    torch.manual_seed(0)
    layers = [Conv1D(24, 16), Conv1D(8, 24)]  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for layer in layers:
            layer.weight.mul_(20)
    return Net(*copy.deepcopy(layers)), Net(*map(as_linear, layers))


def rows() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        {"inputs": torch.randn(16, generator=generator), "labels": torch.randn(8, generator=generator)}
        for _ in range(16)
    ]


def trained(net: Net, make: Callable[[list[Target]], SparseMethod], folder: Path) -> SparseTrainer:
    arguments = TrainingArguments(
        str(folder),
        num_train_epochs=3,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = SparseTrainer(net, arguments, train_dataset=rows(), sparse_method=make(select_targets(net, TWO_OF_FOUR)))
    trainer.train()
    return trainer


def test_rule_takes_the_matrices_of_every_block_and_the_group_runs_along_the_inputs() -> None:
    model = gpt2()
    targets = select_targets(model, RULES)
    assert [target.name for target in targets] == [
        f"transformer.h.{layer}.{matrix}.weight" for layer in range(2) for matrix in MATRICES
    ]
    for target in targets:
        module: Any = model.get_submodule(target.name.removesuffix(".weight"))
        assert tuple(target.weight.shape) == (module.nf, module.nx)
        assert target.parameter is module.weight
        assert set(target.support().reshape(-1, 4).sum(1).tolist()) == {2}


def test_default_rule_still_names_what_it_did_not_find() -> None:
    from nxm_sweep.errors import SparsityError
    from nxm_sweep.sparsity import encoder_rules

    with pytest.raises(SparsityError, match="matches none of the model's 9 linear modules") as caught:
        select_targets(gpt2(), encoder_rules(TWO_OF_FOUR))
    assert "transformer.h.0.attn.c_attn" in caught.value.hint


def test_inputs_that_do_not_divide_are_refused_and_outputs_that_do_not_are_none_of_the_patterns_business() -> None:
    from nxm_sweep.errors import SparsityError

    with pytest.raises(SparsityError, match="in_features must be a multiple of group = 4 but got 6"):
        select_targets(nn.Sequential(Conv1D(8, 6)), TWO_OF_FOUR)  # type: ignore[no-untyped-call]
    assert select_targets(nn.Sequential(Conv1D(6, 8)), TWO_OF_FOUR)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_it_as_it_trains_the_same_linear_layer(name: str, tmp_path: Path) -> None:
    conv, linear = nets()
    ours, theirs = (trained(net, METHODS[name], tmp_path) for net in (conv, linear))
    with ours.sparse_method.pruned(), theirs.sparse_method.pruned():
        for layer in ("first", "second"):
            stored, usual = (net.get_parameter(f"{layer}.weight").detach() for net in (conv, linear))
            torch.testing.assert_close(stored.T, usual, rtol=1e-4, atol=1e-6)
            assert torch.equal(stored.T == 0, usual == 0)
            assert (stored.T.reshape(-1, 4) != 0).sum(1).max() <= 2
    residuals = [[step.residuals.primal for step in run.sparse_method.iterations] for run in (ours, theirs)]
    assert residuals[0] == pytest.approx(residuals[1], rel=1e-3)


def test_unstructured_density_counts_over_the_matrix_however_it_is_stored(tmp_path: Path) -> None:
    conv, linear = nets()
    make = lambda targets: AdmmUnstructured(targets, 1e-2)  # noqa: E731
    ours, theirs = (trained(net, make, tmp_path) for net in (conv, linear))
    with ours.sparse_method.pruned(), theirs.sparse_method.pruned():
        assert torch.equal(conv.get_parameter("first.weight").T == 0, linear.get_parameter("first.weight") == 0)


@pytest.mark.parametrize("metric", [InputNorms, SecondMoments])
def test_importance_factors_are_those_of_the_linear_layer(metric: type[Importance]) -> None:
    class WithLoss(nn.Module):
        def __init__(self, net: Net) -> None:
            super().__init__()
            self.net = net

        def forward(self, **batch: Tensor) -> object:
            return type("Output", (), self.net(**batch))

    batch = {name: torch.stack([row[name] for row in rows()]) for name in ("inputs", "labels")}
    factors = []
    for net in nets():
        targets = select_targets(net, TWO_OF_FOUR)
        metric(targets, WithLoss(net), [batch]).refresh_()
        factors.append([target.factors.values for target in targets])
    for ours, theirs in zip(*factors, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_interrupted_training_resumes_bit_for_bit(tmp_path: Path) -> None:
    def run(folder: Path, *, resume: bool) -> GPT2LMHeadModel:
        model = gpt2()
        arguments = TrainingArguments(
            str(folder),
            max_steps=8,
            per_device_train_batch_size=2,
            learning_rate=1e-3,
            save_steps=4,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        ids = torch.randint(0, 32, (16, 8), generator=torch.Generator().manual_seed(0))
        data = [{"input_ids": row, "labels": row} for row in ids]
        method = Nxm(
            select_targets(model, RULES), 1e-2, AdmmSwitches(penalty="gradient", interval_unit="step", interval=2)
        )
        trainer = SparseTrainer(model, arguments, train_dataset=data, sparse_method=method)
        trainer.train(resume_from_checkpoint=str(folder / "checkpoint-4") if resume else None)
        trainer.save_model(str(folder / "whole"))
        return model

    whole = run(tmp_path, resume=False)
    again = run(tmp_path, resume=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(whole.parameters(), again.parameters(), strict=True))
    targets = select_targets(again, RULES)
    checks = check_file(
        tmp_path / "whole/model.safetensors",
        {target.name: target.constraint for target in targets},
        inputs_first=[target.name for target in targets],
    )
    assert all(check.holds and check.exact for check in checks)
    stored = load_file(tmp_path / "whole/model.safetensors")["transformer.h.0.mlp.c_fc.weight"]
    assert set((stored.T.reshape(-1, 4) != 0).sum(1).tolist()) == {2}
    found, _ = audit_model(open_weights(tmp_path / "whole"), TWO_OF_FOUR, "h.*")
    assert not found.broken
    assert len(found.checks) == 8
