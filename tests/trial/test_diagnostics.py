"""The travel budget against closed forms and against the Trainer itself; the way to go against NumPy."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, Trainer

from nxm_sweep.config.compose import compose_settings
from nxm_sweep.settings import TrialSettings
from nxm_sweep.sparsity import Pattern, Target, Unstructured
from nxm_sweep.trial.diagnostics import distance_to_go, explain_residual, learning_rate_sum
from nxm_sweep.trial.trainer import training_arguments

PEAK = 3e-4


def settings(schedule: str, warmup: float = 0.0, *more: str) -> TrialSettings:
    training = [f"training.schedule={schedule}", f"training.warmup_ratio={warmup}", "training.device=cpu"]
    return compose_settings(["task=demo/paraphrase", "method=dense", f"learning_rate.value={PEAK}", *training, *more])


@pytest.mark.parametrize("steps", [1, 7, 100])
def test_the_sum_of_a_constant_rate_is_rate_times_steps(steps: int) -> None:
    assert learning_rate_sum(settings("constant"), steps) == pytest.approx(PEAK * steps)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [1, 7, 100])
def test_the_sum_of_a_falling_rate_is_half_of_one_step_more(schedule: str, steps: int) -> None:
    assert learning_rate_sum(settings(schedule), steps) == pytest.approx(PEAK * (steps + 1) / 2)  # n/n + ... + 1/n


@pytest.mark.parametrize(("steps", "ratio"), [(10, 0.5), (100, 0.1), (7, 0.2), (11, 0.3), (1, 0.5)])
def test_the_sum_with_a_warm_up_is_that_of_two_triangles(steps: int, ratio: float) -> None:
    warm = math.ceil(steps * ratio)
    rising = (warm - 1) / 2  # 0/w + ... + (w - 1)/w
    falling = (steps - warm + 1) / 2 if steps > warm else 0.0
    assert learning_rate_sum(settings("linear", ratio), steps) == pytest.approx(PEAK * (rising + falling))


@pytest.mark.parametrize(("schedule", "ratio"), [("linear", 0.15), ("cosine", 0.4), ("constant", 0.3), ("linear", 0.0)])
def test_the_sum_is_that_of_the_rates_the_trainer_takes(tmp_path: Path, schedule: str, ratio: float) -> None:
    trial = settings(schedule, ratio, "training.epochs=2", "training.batch_size=2")
    arguments = training_arguments(trial, tmp_path)
    arguments.eval_strategy = arguments.save_strategy = arguments.logging_strategy = "no"
    shape: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    model = BertForSequenceClassification(BertConfig(vocab_size=9, max_position_embeddings=8, **shape))
    optimizer = torch.optim.SGD(model.parameters(), lr=PEAK)
    taken: list[float] = []
    optimizer.register_step_pre_hook(lambda *_: taken.append(optimizer.param_groups[0]["lr"]))
    rows: list[dict[str, Any]] = [{"input_ids": [1, 2, 3], "labels": row % 2} for row in range(9)]
    Trainer(model=model, args=arguments, train_dataset=rows, optimizers=(optimizer, None)).train()
    assert len(taken) == 10
    assert learning_rate_sum(trial, 10) == pytest.approx(sum(taken))


def _target(name: str, weight: np.ndarray[Any, Any], constraint: Pattern | Unstructured) -> Target:
    return Target(name, nn.Parameter(torch.tensor(weight, dtype=torch.float32)), constraint)


def test_the_way_to_go_is_counted_over_the_weights_to_be_cut() -> None:
    draw = np.random.default_rng(0)
    grouped, free = draw.normal(size=(6, 8)) * 0.04, draw.normal(size=(4, 8)) * 0.1
    cut = np.concatenate(
        [
            np.sort(np.abs(grouped).reshape(-1, 4), axis=1)[:, :2].flatten(),
            np.sort(np.abs(free).flatten())[: 32 - 8],
        ]
    )
    targets = [_target("grouped", grouped, Pattern(2, 4)), _target("free", free, Unstructured(0.25))]
    before = [target.weight.detach().clone() for target in targets]
    budget = float(np.median(cut)) + 1e-6
    found = distance_to_go(targets, budget)
    assert found == pytest.approx(
        {
            "relative_distance": np.sqrt(np.sum(cut**2) / (np.sum(grouped**2) + np.sum(free**2))),
            "mean_magnitude_to_cut": np.mean(cut),
            "share_out_of_reach": np.mean(cut > budget),
            "residual_floor": np.sqrt(
                np.sum(np.maximum(cut - budget, 0.0) ** 2) / (np.sum(grouped**2) + np.sum(free**2))
            ),
        },
        rel=1e-5,
    )
    assert all(torch.equal(target.weight, kept) for target, kept in zip(targets, before, strict=True))


def test_without_a_budget_nothing_is_said_about_reach() -> None:
    found = distance_to_go([_target("w", np.array([[3.0, 4.0, 0.0, 0.0]]), Pattern(1, 4))])
    assert found == pytest.approx({"relative_distance": 3 / 5, "mean_magnitude_to_cut": 1.0})


def test_a_weight_that_the_budget_just_covers_is_within_reach() -> None:
    target = _target("w", np.array([[0.5, 2.0, 0.25, 1.0]]), Pattern(2, 4))
    assert distance_to_go([target], 0.5) == pytest.approx(
        {
            "relative_distance": math.sqrt(0.3125 / 5.3125),
            "mean_magnitude_to_cut": 0.375,
            "share_out_of_reach": 0.0,
            "residual_floor": 0.0,
        }
    )


def test_dense_training_has_no_way_to_go() -> None:
    assert distance_to_go([], 1.0) is None


def test_weights_that_hold_the_pattern_already_have_a_floor_of_zero() -> None:
    found = distance_to_go([_target("w", np.array([[0.0, 2.0, 0.0, 1.0]]), Pattern(2, 4))], 0.5)
    assert found is not None
    assert found["residual_floor"] == 0.0


@pytest.mark.parametrize(
    ("residual", "cause"),
    [
        (0.25, "could have brought it to 0.09, but the last Z-step still changed 39%"),
        (0.1, "could not bring it below 0.09"),
    ],
)
def test_the_travel_budget_is_blamed_only_where_it_explains_the_residual(residual: float, cause: str) -> None:
    assert cause in explain_residual(residual, floor=0.09, flips=0.39)
