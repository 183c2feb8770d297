"""The default rule and one training step on the encoder architectures of Transformers, tiny and with random weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    MPNetConfig,
    MPNetForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from nxm_sweep.config.compose import compose_settings
from nxm_sweep.errors import SparsityError
from nxm_sweep.sparsity import (
    Admm,
    Masking,
    Pattern,
    Rule,
    Target,
    check_targets,
    encoder_rules,
    project,
    select_targets,
)
from nxm_sweep.trial.build import build_method

LAYERS = 2
VOCABULARY = 50
PAGE = Path(__file__).parents[2] / "docs" / "targets.md"
TWO_OF_FOUR = Pattern(2, 4)


def bert() -> nn.Module:
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            num_hidden_layers=LAYERS,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=40,
        )
    )


def roberta() -> nn.Module:
    return RobertaForSequenceClassification(
        RobertaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            num_hidden_layers=LAYERS,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=40,
        )
    )


def distilbert() -> nn.Module:
    return DistilBertForSequenceClassification(
        DistilBertConfig(
            vocab_size=VOCABULARY, dim=16, n_layers=LAYERS, n_heads=2, hidden_dim=32, max_position_embeddings=40
        )
    )


def electra() -> nn.Module:
    return ElectraForSequenceClassification(
        ElectraConfig(
            vocab_size=VOCABULARY,
            embedding_size=8,  # differs from hidden_size, so that embeddings_project exists
            hidden_size=16,
            num_hidden_layers=LAYERS,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=40,
        )
    )


def deberta_v2(share_att_key: bool) -> nn.Module:
    # Not a field of the config class: its constructor takes it as a further keyword, the model reads it by getattr.
    further: dict[str, Any] = {"share_att_key": share_att_key}
    return DebertaV2ForSequenceClassification(
        DebertaV2Config(
            vocab_size=VOCABULARY,
            hidden_size=16,
            num_hidden_layers=LAYERS,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=40,
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
            **further,
        )
    )


def mpnet() -> nn.Module:
    return MPNetForSequenceClassification(
        MPNetConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            num_hidden_layers=LAYERS,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=40,
        )
    )


def modernbert() -> nn.Module:
    return ModernBertForSequenceClassification(
        ModernBertConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            num_hidden_layers=LAYERS,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=40,
            pad_token_id=0,
            bos_token_id=1,
            cls_token_id=1,
            eos_token_id=2,
            sep_token_id=2,
        )
    )


def albert() -> nn.Module:
    return AlbertForSequenceClassification(
        AlbertConfig(
            vocab_size=VOCABULARY,
            embedding_size=8,
            hidden_size=16,
            num_hidden_layers=LAYERS,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=40,
        )
    )


@dataclass(frozen=True, slots=True)
class Architecture:
    """What the default rule must find, spelled out by hand.

    ``layer`` is the state dict's prefix of layer 0, ``matrices`` the targets in it, ``outside`` every linear module of
    the model that must stay dense.
    """

    title: str
    build: Callable[[], nn.Module]
    layer: str
    matrices: tuple[str, ...]
    outside: tuple[str, ...]

    def expected(self, layer: int) -> set[str]:
        prefix = self.layer.replace(".0.", f".{layer}.")
        return {prefix + matrix for matrix in self.matrices}


BERT_MATRICES = (
    "attention.self.query.weight",
    "attention.self.key.weight",
    "attention.self.value.weight",
    "attention.output.dense.weight",
    "intermediate.dense.weight",
    "output.dense.weight",
)
DEBERTA_MATRICES = (
    "attention.self.query_proj.weight",
    "attention.self.key_proj.weight",
    "attention.self.value_proj.weight",
    "attention.output.dense.weight",
    "intermediate.dense.weight",
    "output.dense.weight",
)
ARCHITECTURES = (
    Architecture("BERT", bert, "bert.encoder.layer.0.", BERT_MATRICES, ("bert.pooler.dense", "classifier")),
    Architecture(
        "RoBERTa", roberta, "roberta.encoder.layer.0.", BERT_MATRICES, ("classifier.dense", "classifier.out_proj")
    ),
    Architecture(
        "DistilBERT",
        distilbert,
        "distilbert.transformer.layer.0.",
        (
            "attention.q_lin.weight",
            "attention.k_lin.weight",
            "attention.v_lin.weight",
            "attention.out_lin.weight",
            "ffn.lin1.weight",
            "ffn.lin2.weight",
        ),
        ("pre_classifier", "classifier"),
    ),
    Architecture(
        "ELECTRA",
        electra,
        "electra.encoder.layer.0.",
        BERT_MATRICES,
        ("electra.embeddings_project", "classifier.dense", "classifier.out_proj"),
    ),
    Architecture(
        "DeBERTa-v2, `share_att_key=True`",
        lambda: deberta_v2(share_att_key=True),
        "deberta.encoder.layer.0.",
        DEBERTA_MATRICES,
        ("pooler.dense", "classifier"),
    ),
    Architecture(
        "DeBERTa-v2, `share_att_key=False`",
        lambda: deberta_v2(share_att_key=False),
        "deberta.encoder.layer.0.",
        (*DEBERTA_MATRICES, "attention.self.pos_key_proj.weight", "attention.self.pos_query_proj.weight"),
        ("pooler.dense", "classifier"),
    ),
    Architecture(
        "MPNet",
        mpnet,
        "mpnet.encoder.layer.0.",
        (
            "attention.attn.q.weight",
            "attention.attn.k.weight",
            "attention.attn.v.weight",
            "attention.attn.o.weight",
            "intermediate.dense.weight",
            "output.dense.weight",
        ),
        ("classifier.dense", "classifier.out_proj"),
    ),
    Architecture(
        "ModernBERT",
        modernbert,
        "model.layers.0.",
        ("attn.Wqkv.weight", "attn.Wo.weight", "mlp.Wi.weight", "mlp.Wo.weight"),
        ("head.dense", "classifier"),
    ),
)
FEED_FORWARD = {
    *("intermediate.dense.weight", "output.dense.weight"),
    *("ffn.lin1.weight", "ffn.lin2.weight"),
    *("mlp.Wi.weight", "mlp.Wo.weight"),
}
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda each: each.title)


@pytest.fixture(autouse=True)
def _offline_one_thread_seeded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # the variable was read at import
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def default_targets(model: nn.Module) -> list[Target]:
    return select_targets(model, encoder_rules(TWO_OF_FOUR))


def backward_on_random_tokens(model: nn.Module) -> None:
    model.train()
    tokens = torch.randint(3, VOCABULARY, (4, 8))  # (batch, length); 0 to 2 are special tokens
    output = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), labels=torch.tensor([0, 1, 1, 0]))
    assert bool(output.loss.isfinite())
    output.loss.backward()


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def kept_in_groups_of_four(target: Target) -> set[int]:
    """How many non-zeros the groups of four hold, counted without the package."""
    return {int(torch.count_nonzero(four)) for row in target.weight.detach() for four in row.split(4)}


@every_architecture
def test_targets_are_the_same_hand_written_matrices_in_every_layer(architecture: Architecture) -> None:
    names = [target.name for target in default_targets(architecture.build())]
    assert len(names) == len(set(names))
    assert set(names) == architecture.expected(0) | architecture.expected(1)


@every_architecture
def test_targets_are_the_weights_that_the_state_dict_holds_under_their_name(architecture: Architecture) -> None:
    model = architecture.build()
    parameters = dict(model.named_parameters())
    targets = default_targets(model)
    assert all(target.weight is parameters[target.name] for target in targets)
    assert {target.name for target in targets} <= set(model.state_dict())


@every_architecture
def test_every_linear_module_outside_the_layers_stays_dense(architecture: Architecture) -> None:
    model = architecture.build()
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    found = {target.name for target in default_targets(model)}
    assert linear - found == {f"{name}.weight" for name in architecture.outside}


@pytest.mark.parametrize("preset", ["all", "ffn_only", "attention_only"])
@every_architecture
def test_preset_prunes_its_part_of_every_layer_and_nothing_else(architecture: Architecture, preset: str) -> None:
    settings = compose_settings([f"sparsity={preset}", "sparsity.keep=1", "method=asp"])
    targets = build_method(settings, architecture.build()).targets
    feed_forward = {matrix for matrix in architecture.matrices if matrix in FEED_FORWARD}
    assert len(feed_forward) == 2
    wanted = {
        "all": set(architecture.matrices),
        "ffn_only": feed_forward,
        "attention_only": set(architecture.matrices) - feed_forward,
    }[preset]
    layers = [architecture.layer.replace(".0.", f".{layer}.") for layer in range(LAYERS)]
    assert {target.name for target in targets} == {layer + matrix for layer in layers for matrix in wanted}
    assert {target.constraint for target in targets} == {Pattern(1, 4)}


@every_architecture
def test_embeddings_norms_and_biases_are_no_targets_even_where_every_linear_module_is(
    architecture: Architecture,
) -> None:
    model = architecture.build()
    found = {target.name for target in select_targets(model, TWO_OF_FOUR)}
    others = {
        f"{module_name}.{name}"
        for module_name, module in model.named_modules()
        for name, parameter in module.named_parameters(recurse=False)
        if isinstance(module, nn.Embedding | nn.LayerNorm) or parameter.ndim == 1
    }
    assert all(any(kind in name.lower() for name in others) for kind in ("embeddings", "norm", "bias"))
    assert found.isdisjoint(others)
    assert found | others == set(dict(model.named_parameters()))


@every_architecture
def test_admm_step_pulls_the_weights_to_the_pattern_and_pruning_makes_it_exact(architecture: Architecture) -> None:
    model = architecture.build()
    targets = default_targets(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    admm = Admm(targets, rho=1.0)
    penalty_before, weights_before = float(admm.penalty().detach()), snapshot(model)

    backward_on_random_tokens(model)
    assert all(target.weight.grad is not None and bool(target.weight.grad.any()) for target in targets)
    admm.add_penalty_gradient_()
    optimizer.step()

    assert float(admm.penalty().detach()) < penalty_before
    assert not any(torch.equal(target.weight, weights_before[target.name]) for target in targets)
    residuals = admm.update_()
    assert 0.0 < residuals.distance < 1.0
    assert not any(check.holds for check in check_targets(targets))

    trained = snapshot(model)
    admm.prune_()
    assert all(check.holds and check.exact for check in check_targets(targets))
    assert all(kept_in_groups_of_four(target) == {2} for target in targets)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, trained[name])}
    assert changed == architecture.expected(0) | architecture.expected(1)


@every_architecture
def test_masked_step_trains_the_kept_weights_alone(architecture: Architecture) -> None:
    model = architecture.build()
    targets = default_targets(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    masking = Masking(targets)
    masked_before = snapshot(model)

    backward_on_random_tokens(model)
    optimizer.step()
    assert not any(check.holds for check in check_targets(targets))  # AdamW moved pruned weights: apply_ has work to do
    masking.apply_()

    assert all(check.holds and check.exact for check in check_targets(targets))
    assert all(kept_in_groups_of_four(target) == {2} for target in targets)
    for target in targets:
        before = masked_before[target.name]
        assert torch.equal(target.weight != 0, before != 0)
        assert not torch.equal(target.weight, before)


def test_position_projections_of_deberta_are_targets_only_where_they_exist() -> None:
    shared, unshared = (
        {target.name for target in default_targets(deberta_v2(share_att_key=share))} for share in (True, False)
    )
    assert shared < unshared
    assert unshared - shared == {
        "deberta.encoder.layer.0.attention.self.pos_key_proj.weight",
        "deberta.encoder.layer.0.attention.self.pos_query_proj.weight",
        "deberta.encoder.layer.1.attention.self.pos_key_proj.weight",
        "deberta.encoder.layer.1.attention.self.pos_query_proj.weight",
    }


def test_pattern_on_a_fused_matrix_is_the_pattern_on_each_of_its_parts() -> None:
    parameters = dict(modernbert().named_parameters())
    for name, parts in (("attn.Wqkv", 3), ("mlp.Wi", 2)):
        fused = parameters[f"model.layers.0.{name}.weight"]
        apart = torch.cat([project(part, TWO_OF_FOUR) for part in fused.detach().chunk(parts)])
        assert torch.equal(project(fused, TWO_OF_FOUR), apart)


@pytest.mark.parametrize(
    "build", [lambda: nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)), albert], ids=["MLP", "ALBERT"]
)
def test_default_rule_on_a_model_without_such_layers_is_an_error(build: Callable[[], nn.Module]) -> None:
    with pytest.raises(SparsityError, match=r"matches none of the model's [0-9]+ linear modules") as caught:
        default_targets(build())
    assert "layer*.[0-9]*.*" in caught.value.message


def test_own_rule_reaches_the_one_layer_that_albert_shares() -> None:
    layer = "albert.encoder.albert_layer_groups.0.albert_layers.0."
    matrices = {"attention.query", "attention.key", "attention.value", "attention.dense", "ffn", "ffn_output"}
    names = {target.name for target in select_targets(albert(), [Rule("albert_layers.*", TWO_OF_FOUR)])}
    assert names == {f"{layer}{matrix}.weight" for matrix in matrices}


@every_architecture
def test_page_lists_the_matrices_of_the_architecture(architecture: Architecture) -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith(f"| {architecture.title} |")]
    assert len(rows) == 1
    _, _, layer, matrices, count, outside, _ = (cell.strip() for cell in rows[0].split("|"))
    assert layer == f"`{architecture.layer}`"
    assert set(re.findall(r"`([^`]+)`", matrices)) == set(architecture.matrices)
    assert int(count) == len(architecture.matrices)
    assert set(re.findall(r"`([^`]+)`", outside)) == set(architecture.outside)


def test_example_of_the_page_gives_the_constraints_that_it_describes() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    namespace: dict[str, Any] = {"model": bert()}
    exec(example, namespace)
    layer = "bert.encoder.layer.1."  # layer 0 stays dense
    assert {target.name: target.constraint for target in namespace["targets"]} == {
        f"{layer}attention.self.query.weight": Pattern(2, 4),
        f"{layer}attention.self.key.weight": Pattern(2, 4),
        f"{layer}attention.self.value.weight": Pattern(2, 4),
        f"{layer}attention.output.dense.weight": Pattern(2, 4),
        f"{layer}intermediate.dense.weight": Pattern(4, 8),
        f"{layer}output.dense.weight": Pattern(4, 8),
    }
