"""A sensitivity scan: what it measures, on which rows, and that the model comes out as it went in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import BertForSequenceClassification

from nxm_sweep.data.loading import heldout_rows, limit_rows
from nxm_sweep.errors import ModelError
from nxm_sweep.sensitivity.scanner import (
    Measured,
    Meter,
    Seen,
    check_head,
    mean_loss,
    measure_alone,
    measure_together,
    scan_rows,
    scan_targets,
)
from nxm_sweep.settings import TaskSettings
from nxm_sweep.sparsity import Pattern, Target, project
from nxm_sweep.training.model_files import load_tokenizer

HALF, QUARTER = Pattern(2, 4), Pattern(1, 4)


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2))


def snapshot(module: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


# --- one matrix at a time ---------------------------------------------------------------------------------------------


def test_each_matrix_is_pruned_alone_to_each_candidate() -> None:
    net = model()
    before = snapshot(net)
    found: list[list[torch.Tensor]] = []

    def measure(_: Target) -> Measured:
        found.append(snapshot(net))
        return Measured(0.0, None)

    visited = [
        (target.name, target.constraint)
        for target, _ in measure_alone(scan_targets(net, "0|1", [HALF, QUARTER]), measure)
    ]
    assert visited == [(f"{place}.weight", held) for place in (0, 1) for held in (HALF, QUARTER)]
    for (name, held), weights in zip(visited, found, strict=True):
        for place, (weight, original) in enumerate(zip(weights, before, strict=True)):
            pruned_here = place == 2 * int(name[0])  # weights and biases alternate
            assert torch.equal(weight, project(original, held) if pruned_here else original)


def test_the_model_comes_back_bit_for_bit_even_where_a_measurement_fails() -> None:
    net = model()
    with torch.no_grad():
        net.get_parameter("0.weight")[0, 0] = -0.0
    before = snapshot(net)
    targets = scan_targets(net, "*", [HALF])
    list(measure_alone(targets, lambda _: Measured(0.0, None)))
    measure_together(targets, dict.fromkeys(targets, HALF), lambda: Measured(0.0, None))

    def fail(_: Target) -> Measured:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        list(measure_alone(targets, fail))
    for weight, original in zip(snapshot(net), before, strict=True):
        assert torch.equal(weight.view(torch.int32), original.view(torch.int32))


def test_together_prunes_each_matrix_to_its_own_constraint_and_leaves_the_dense() -> None:
    net = model()
    before = snapshot(net)
    targets = scan_targets(net, "*", [HALF, QUARTER])
    inside: list[torch.Tensor] = []

    def measure() -> Measured:
        inside.extend(snapshot(net))
        return Measured(1.5, 0.5)

    chosen = {"0.weight": QUARTER, "1.weight": None, "2.weight": HALF}
    assert measure_together(targets, chosen, measure) == Measured(1.5, 0.5)
    expected = [project(before[0], QUARTER), before[1], before[2], before[3], project(before[4], HALF), before[5]]
    assert all(torch.equal(found, wanted) for found, wanted in zip(inside, expected, strict=True))


# --- loss and score ---------------------------------------------------------------------------------------------------


def test_mean_loss_is_pytorchs() -> None:
    generator = np.random.default_rng(0)
    logits, classes = 40 * generator.normal(size=(20, 3)), generator.integers(0, 3, 20).astype(float)
    expected = nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(classes).long())
    assert mean_loss(logits, classes) == pytest.approx(float(expected))
    outputs, numbers = generator.normal(size=(20, 1)), generator.normal(size=20)
    expected = nn.functional.mse_loss(torch.tensor(outputs[:, 0]), torch.tensor(numbers))
    assert mean_loss(outputs, numbers) == pytest.approx(float(expected))


def task(problem: str, metric: str) -> TaskSettings:
    return TaskSettings("t", "files", problem, ["a", "b"], "label", [], [metric], metric, "train", {"dev": "dev"}, [])


@pytest.fixture
def classifier(tiny_model: Path) -> Callable[[int], tuple[BertForSequenceClassification, object]]:
    def load(outputs: int) -> tuple[BertForSequenceClassification, object]:
        torch.manual_seed(0)
        loaded = BertForSequenceClassification.from_pretrained(tiny_model, num_labels=outputs)
        loaded.train(mode=False)
        return loaded, load_tokenizer(tiny_model)

    return load


ROWS = {"text": ["a man walks", "the dog", "a"], "pair": ["a man", "the dog sleeps well", "b"]}


def test_meter_gives_the_models_own_loss(
    classifier: Callable[[int], tuple[BertForSequenceClassification, object]],
) -> None:
    net, tokenizer = classifier(2)
    rows = Dataset.from_dict({**ROWS, "label": [0, 1, 1]})
    found = Meter(net, tokenizer, rows, task("classification", "accuracy"), 32, precision="fp32").measure()
    batch = tokenizer(ROWS["text"], ROWS["pair"], padding=True, return_tensors="pt")  # type: ignore[operator]
    with torch.no_grad():
        own = net(**batch, labels=torch.tensor([0, 1, 1]))
    assert found.loss == pytest.approx(float(own.loss), rel=1e-5)
    assert found.score == pytest.approx(float((own.logits.argmax(1) == torch.tensor([0, 1, 1])).float().mean()))


def test_a_score_that_does_not_exist_is_none_and_the_loss_remains(
    classifier: Callable[[int], tuple[BertForSequenceClassification, object]],
) -> None:
    net, tokenizer = classifier(1)
    torch.nn.init.zeros_(net.classifier.weight)
    rows = Dataset.from_dict({**ROWS, "label": [0.0, 1.0, 3.0]})
    found = Meter(net, tokenizer, rows, task("regression", "pearson"), 32, precision="fp32").measure()
    assert found == Measured(pytest.approx(10 / 3), None)  # type: ignore[arg-type]


# --- rows -------------------------------------------------------------------------------------------------------------


def test_rows_that_were_not_trained_on_are_taken_where_there_are_enough() -> None:
    found = scan_rows(100, 30, Seen(limit=60))
    assert (len(set(found.numbers)), found.seen) == (30, 0)
    assert min(found.numbers) >= 60
    assert found.numbers == sorted(found.numbers)
    assert scan_rows(100, 30, Seen(limit=60)) == found


@pytest.mark.parametrize(("first", "trained"), [(None, 100), (80, 80), (500, 100)])
def test_rows_that_were_trained_on_are_counted(first: int | None, trained: int) -> None:
    found = scan_rows(100, 30, Seen(limit=first))
    assert len(set(found.numbers)) == 30
    assert found.seen == sum(number < trained for number in found.numbers)


def test_rows_outside_a_shuffled_subset_were_not_trained_on() -> None:
    found = scan_rows(100, 30, Seen(limit=60, subset="shuffled"))
    assert (len(set(found.numbers)), found.seen) == (30, 0)
    assert set(found.numbers).isdisjoint(limit_rows(range(100), 60, "shuffled"))


def test_rows_held_out_by_the_trial_are_the_ones_to_score_on() -> None:
    held = heldout_rows(100, 0.2)[1]
    every, some = scan_rows(100, 512, Seen(heldout=0.2)), scan_rows(100, 5, Seen(limit=10, heldout=0.2))
    assert (every.numbers, every.seen) == (held, 0)
    assert len(some.numbers) == 5
    assert set(some.numbers) < set(held)


def test_nobody_knows_what_a_strangers_model_has_seen() -> None:
    found = scan_rows(100, 30, None)
    assert (len(set(found.numbers)), found.seen) == (30, None)
    assert scan_rows(10, 512, None).numbers == list(range(10))


# --- the head ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "labels", "told"),
    [
        (["no", "yes"], ("no", "yes"), ""),
        (["No", "Yes"], ("no", "yes"), ""),
        (["LABEL_0", "LABEL_1"], ("no", "yes"), ""),
        (["score"], (), ""),
        (["yes", "no"], ("no", "yes"), "are yes, no but the task's are no, yes"),
        (["a", "b", "c"], ("no", "yes"), "has 3 outputs but the task needs 2"),
        (["no", "yes"], (), "has 2 outputs but the task needs 1"),
    ],
)
def test_a_head_of_another_task_is_refused(
    classes: list[str], labels: tuple[str, ...], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nxm_sweep.sensitivity.scanner.label_words", lambda _: tuple(classes))
    if not told:
        check_head(tmp_path, labels)
        return
    with pytest.raises(ModelError) as caught:
        check_head(tmp_path, labels)
    assert told in caught.value.message
