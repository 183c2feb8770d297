"""Which matrices the rules select."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from nxm_sweep.errors import SparsityError
from nxm_sweep.sparsity import Pattern, Rule, Unstructured, describe_targets, encoder_rules, select_targets, support
from nxm_sweep.sparsity.targets import Target

TWO_OF_FOUR = Pattern(2, 4)


class Block(nn.Module):
    """An encoder layer in names and shapes only."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(8, 8)
        self.output = nn.Sequential(OrderedDict(dense=nn.Linear(8, 16), LayerNorm=nn.LayerNorm(16)))


class Encoder(nn.Module):
    """Two layers between an embedding and a head, named as BERT names them."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Sequential(OrderedDict(words=nn.Embedding(12, 8), LayerNorm=nn.LayerNorm(8)))
        self.layer = nn.ModuleList([Block(), Block()])
        self.conv = nn.Conv1d(8, 8, 1)
        self.pooler = nn.Linear(8, 8)
        self.classifier = nn.Linear(8, 3)


def names(targets: list[Target]) -> list[str]:
    return [target.name for target in targets]


IN_LAYERS = [
    "layer.0.query.weight",
    "layer.0.output.dense.weight",
    "layer.1.query.weight",
    "layer.1.output.dense.weight",
]


def test_encoder_rules_select_the_linear_matrices_of_the_layers_alone() -> None:
    assert names(select_targets(Encoder(), encoder_rules(TWO_OF_FOUR))) == IN_LAYERS


@pytest.mark.parametrize(
    ("name", "matched"),
    [
        ("bert.encoder.layer.11.attention.self.query", True),
        ("distilbert.transformer.layer.0.ffn.lin1", True),
        ("model.layers.3.mlp.Wo", True),
        ("bert.pooler.dense", False),
        ("classifier", False),
        ("bert.embeddings.projection", False),
        ("bert.encoder.layer.query", False),
    ],
)
def test_encoder_rules_match_by_the_layers_number(name: str, matched: bool) -> None:
    assert encoder_rules(TWO_OF_FOUR)[0].matches(name) is matched


def test_one_constraint_takes_every_linear_matrix_and_nothing_else() -> None:
    targets = select_targets(Encoder(), TWO_OF_FOUR)
    assert names(targets) == [*IN_LAYERS, "pooler.weight", "classifier.weight"]
    assert all(target.constraint == TWO_OF_FOUR for target in targets)


def test_target_is_the_models_own_parameter_under_its_state_dict_name() -> None:
    model = Encoder()
    state, parameters = model.state_dict(), dict(model.named_parameters())
    for target in select_targets(model, TWO_OF_FOUR):
        assert target.weight is parameters[target.name]
        assert target.name in state


def test_later_rule_wins() -> None:
    rules = [Rule("*", TWO_OF_FOUR), Rule("layer.1.*", Pattern(1, 4)), Rule("layer.1.query", Unstructured(0.5))]
    chosen = {target.name: target.constraint for target in select_targets(Encoder(), rules)}
    assert chosen["layer.0.query.weight"] == TWO_OF_FOUR
    assert chosen["layer.1.output.dense.weight"] == Pattern(1, 4)
    assert chosen["layer.1.query.weight"] == Unstructured(0.5)
    overruled = select_targets(Encoder(), [*rules, Rule("*", Pattern(3, 4))])
    assert {target.constraint for target in overruled} == {Pattern(3, 4)}


@pytest.mark.parametrize("dense", [None, Pattern(4, 4), Unstructured(1.0)], ids=str)
def test_later_rule_can_leave_a_matrix_dense(dense: Pattern | Unstructured | None) -> None:
    rules = [Rule("layer.*", TWO_OF_FOUR), Rule("layer.0.*", dense)]
    assert names(select_targets(Encoder(), rules)) == IN_LAYERS[2:]


def test_matrix_that_a_dense_rule_leaves_out_need_not_divide_into_groups() -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 2))
    assert names(select_targets(model, [Rule("*", TWO_OF_FOUR), Rule("1", None)])) == ["0.weight"]


def test_matrix_that_does_not_divide_is_named() -> None:
    with pytest.raises(SparsityError, match=r"^1: in_features must be a multiple of group = 4 but got 6") as caught:
        select_targets(nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 2)), TWO_OF_FOUR)
    assert "exclude this matrix" in caught.value.hint


@pytest.mark.parametrize(
    "match", ["decoder.*", "layer.2.*", "embeddings.*", "layer.0.output.LayerNorm", "conv", "Pooler"]
)
def test_rule_that_matches_no_linear_module_is_an_error(match: str) -> None:
    with pytest.raises(SparsityError, match="matches none of the model's 6 linear modules") as caught:
        select_targets(Encoder(), [Rule("*", TWO_OF_FOUR), Rule(match, None)])
    assert "layer.0.query" in caught.value.hint


def test_model_without_linear_modules_is_an_error() -> None:
    with pytest.raises(SparsityError, match="0 linear modules"):
        select_targets(nn.Sequential(nn.Embedding(4, 4)), TWO_OF_FOUR)


def test_no_rules_select_nothing() -> None:
    assert select_targets(Encoder(), []) == []


def test_alternatives_are_joined_by_a_bar() -> None:
    targets = select_targets(Encoder(), [Rule("layer.0.query|classifier", TWO_OF_FOUR)])
    assert names(targets) == ["layer.0.query.weight", "classifier.weight"]


@pytest.mark.parametrize(
    ("glob", "name", "matched"),
    [
        ("layer.0.*", "layer.0.x", True),
        ("layer.0.*", "encoder.layer.0.x", True),
        ("layer.0.*", "a.b.layer.0.x.y", True),
        ("ayer.0.*", "layer.0.x", False),
        ("ayer.0.*", "encoder.layer.0.x", False),
        ("query", "self.query", True),
        ("query", "self.subquery", False),
        ("query", "query.lora", False),
        ("layer.0.*", "layer.10.x", False),
        ("Query", "self.query", False),
        ("key|query", "self.query", True),
        ("key|query", "self.key", True),
        ("key|query", "self.value", False),
    ],
)
def test_glob_matches_a_whole_name_or_its_end_after_a_dot(glob: str, name: str, matched: bool) -> None:
    assert Rule(glob, None).matches(name) is matched


class Tied(nn.Module):
    """Three modules that share one weight, besides one of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.own, self.second = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.alias = self.first


def test_tied_weight_is_taken_once_under_its_first_name() -> None:
    assert names(select_targets(Tied(), TWO_OF_FOUR)) == ["first.weight", "own.weight"]


def test_equal_but_separate_weights_are_both_taken() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    same: Tensor = torch.ones(4, 4)
    for parameter in (model[0].weight, model[1].weight):
        parameter.data = same.clone()
    assert names(select_targets(model, TWO_OF_FOUR)) == ["0.weight", "1.weight"]


def test_description_has_a_row_per_target_with_the_weights_that_stay() -> None:
    rules = [Rule("layer.0.output.dense", Pattern(1, 4)), Rule("classifier", Unstructured(0.3))]
    assert describe_targets(select_targets(Encoder(), rules)) == [
        {"matrix": "layer.0.output.dense.weight", "rows": 16, "columns": 8, "constraint": "1 of 4", "kept": 32},
        {"matrix": "classifier.weight", "rows": 3, "columns": 8, "constraint": "0.3 unstructured", "kept": 7},
    ]
    assert describe_targets([]) == []


@pytest.mark.parametrize("constraint", [Pattern(1, 3), Pattern(5, 6), Unstructured(0.001), Unstructured(0.33)], ids=str)
def test_described_count_is_what_a_prune_keeps(constraint: Pattern | Unstructured) -> None:
    targets = select_targets(nn.Sequential(nn.Linear(12, 5)), constraint)
    assert describe_targets(targets)[0]["kept"] == int(support(targets[0].weight, constraint).sum())
