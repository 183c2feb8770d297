"""An identity leaves out what cannot change the weights, and holds what can: every setting is changed and trained with."""

from __future__ import annotations

import copy
import dataclasses
import gc
import operator
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import set_seed

from nxm_sweep.config.compose import compose_settings
from nxm_sweep.config.explain import keys_of
from nxm_sweep.methods import METHODS
from nxm_sweep.settings import RuleSettings, SweepSettings, TrialSettings
from nxm_sweep.sweep.planning.axes import assign_
from nxm_sweep.training.trainer import SparseTrainer
from nxm_sweep.trial.build import build_importance, build_method
from nxm_sweep.trial.identity import identity_of
from nxm_sweep.trial.trainer import training_arguments
from tests.training.tiny import VOCABULARY, bert

VALUES: dict[str, tuple[Any, Any]] = {  # two values of every setting that a training on given rows can read
    "method.trained": ("all", "targets"),
    "method.importance.metric": ("magnitude", "input_norm"),
    "method.importance.rows": (8, 1),
    "method.admm.first_iteration": ("project", "zero_dual"),  # no_dual: a case of nxm
    "method.admm.clip": ("total", "task"),
    "method.admm.interval": (1, 2),
    "method.admm.interval_unit": ("epoch", "step"),
    "method.admm.penalty": ("gradient", "decoupled"),
    "method.admm.efolds": (1.0, 2.0),
    "method.admm.pace": ("learning_rate", "constant"),
    "method.admm.finish": ("prune", "refit"),
    "method.admm.admm_fraction": (0.5, 0.2),
    "method.admm.frozen_support": ("weights", "z"),
    "method.admm.dense_fraction": (0.0, 0.4),
    "method.sr_ste.decay": (0.1, 0.3),
    "method.gradual.end_fraction": (0.5, 0.9),
    "method.warmup_asp.fraction": (0.5, 0.9),
    "method.options": ({}, {"any": 1}),
    "rho.unit": ("absolute", "relative"),
    "rho.value": (0.05, 0.2),
    "rho.schedule": ("constant", "linear"),
    "rho.start": (0.01, 0.03),
    "sparsity.rules": (
        [RuleSettings(match="layer*.[0-9]*.*", keep=2, group=4)],
        [RuleSettings(match="layer*.[0-9]*.*", keep=1, group=4)],
    ),
    "learning_rate.value": (5e-3, 1e-3),
    "seed": (0, 1),
    "training.epochs": (2, 3),
    "training.batch_size": (8, 4),
    "training.gradient_accumulation": (1, 2),
    "training.schedule": ("linear", "constant"),
    "training.warmup_ratio": (0.0, 0.5),
    "training.weight_decay": (0.0, 0.5),
    "training.max_grad_norm": (0.5, 0.1),
    "training.precision": ("fp32", "bf16"),
    "training.batching": ("by_length", "random"),
    "training.arguments": ({}, {"adam_beta1": 0.5}),
}
ELSEWHERE = {  # settings that are not trained with here, and why
    "names and places, whose content has a digest in the identity": (
        *("task.name", "task.kind", "task.text_columns", "task.label_column", "task.labels", "task.train_split"),
        *("task.validation_splits", "task.config", "task.rows", "task.files", "data.path", "data.revision"),
        *("model.name", "model.source", "model.path", "model.revision", "sparsity.name", "distillation.name"),
        *(f"distillation.teacher.{name}" for name in ("source", "path", "revision")),
    ),
    "what the rules were made from": tuple(f"sparsity.{name}" for name in ("keep", "group", "also", "scan")),
    "grids of a sweep": ("task.learning_rates", "method.learning_rates", "learning_rate.grid", "rho.grid"),
    "how a sweep is run, where a trial runs, and what is kept of it": (
        *(f"sweep.{field.name}" for field in dataclasses.fields(SweepSettings)),
        *("output_dir", "force", "save_model", "training.device", "training.threads", "training.report_to"),
    ),
    "hashed: which rows and tokens there are, what the loss is and which epoch is selected, whatever the method": (
        *(
            "task.problem",
            "task.metrics",
            "task.selection_metric",
            "task.positive_class",
            "selection.name",
            "selection.fraction",
        ),
        *("training.max_length", "training.max_train_samples", "training.max_eval_samples", "training.subset"),
        *(f"distillation.{name}" for name in ("weight", "temperature", "logits", "hidden", "attention")),
    ),
    "hashed: needs several processes": ("training.devices",),
    "hashed where the checkpoint holds a head (tests/training/test_heads.py)": ("model.head",),
    "hashed: each method is a case here": ("method.name",),
}
DECOUPLED = {"method.admm.penalty": "decoupled"}
RELATIVE = {"rho.unit": "relative"}
REFIT = {"method.admm.finish": "refit"}
Z = {"method.admm.frozen_support": "z"}
CASES: dict[
    str, list[dict[str, Any]]
] = {  # switches that put other settings in and out of use; the first is none of them
    "dense": [{}],
    "asp": [{}, {"method.importance.metric": "input_norm"}],
    "warmup_asp": [{}, {"method.importance.metric": "input_norm"}],
    "gradual": [{}],
    "sr_ste": [{}],
    "nxm": [
        *({}, {"rho.schedule": "linear"}, DECOUPLED, {**DECOUPLED, "method.admm.pace": "linear"}),
        *({**DECOUPLED, "rho.schedule": "linear"}, REFIT, {**REFIT, **Z}, Z, {**DECOUPLED, **REFIT}),
        *(RELATIVE, {**RELATIVE, **DECOUPLED}, {"method.admm.first_iteration": "no_dual"}),
    ],
    "nxm_paper": [{}],
    "admm_unstructured": [{}, DECOUPLED, {"method.importance.metric": "input_norm"}],
    "nxm_refit": [{}, Z, {**DECOUPLED, **Z}, {"method.admm.interval_unit": "per_epoch"}],
}


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    """Hundreds of trainings of milliseconds: one thread, and no garbage collection over what is there already."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.freeze()
    yield
    gc.unfreeze()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def base() -> TrialSettings:
    settings = compose_settings(["task=glue/rte", "model=minilm_l6", "training.device=cpu"])
    return assign_(settings, {key: first for key, (first, _) in VALUES.items()})


def changed(settings: TrialSettings, values: Mapping[str, Any]) -> TrialSettings:
    return assign_(copy.deepcopy(settings), values)


def identity(settings: TrialSettings) -> str:
    return identity_of(settings, data_digest="rows", model_digest="files")[0]


def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    longest = max(row["length"] for row in rows)
    ids = torch.tensor([row["input_ids"] + [0] * (longest - row["length"]) for row in rows])
    return {
        "input_ids": ids,
        "attention_mask": (ids != 0).long(),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }


def weights_after(settings: TrialSettings, folder: Path) -> bytes:
    """Train a random BERT of two narrow layers on 24 rows; return its weights in training and the pruned ones."""
    draw = random.Random(0)
    lengths = [draw.randint(3, 10) for _ in range(24)]
    rows = [
        {
            "input_ids": [draw.randrange(1, VOCABULARY) for _ in range(length)],
            "length": length,
            "labels": draw.randrange(2),
        }
        for length in lengths
    ]
    model = bert()
    arguments = training_arguments(settings, folder)
    arguments.eval_strategy = arguments.save_strategy = arguments.logging_strategy = "no"
    set_seed(settings.seed)
    trainer = SparseTrainer(
        model=model,
        args=arguments,
        sparse_method=build_method(settings, model),
        train_dataset=rows,
        data_collator=collate,
    )
    method = trainer.sparse_method
    method.importance = build_importance(settings.method.importance, trainer)
    trainer.train()
    trained = _bits(model)
    with method.pruned():
        return trained + _bits(model)


def _bits(model: torch.nn.Module) -> bytes:
    return b"".join(value.numpy().tobytes() for value in model.state_dict().values())


def test_every_setting_is_trained_with_or_said_to_be_tested_elsewhere() -> None:
    elsewhere = [key for keys in ELSEWHERE.values() for key in keys]
    settings = {re.sub(r"^(sparsity\.rules)\..*", r"\1", key) for key in keys_of(TrialSettings)}
    assert sorted([*VALUES, *elsewhere]) == sorted(settings)


@pytest.mark.parametrize("method", METHODS)
def test_the_identity_holds_what_changes_the_weights_and_nothing_else(
    base: TrialSettings, method: str, tmp_path: Path
) -> None:
    kept, telling = set(), set()
    for number, switches in enumerate(CASES[method]):
        settings = changed(base, {"method.name": method, **switches})
        weights = weights_after(settings, tmp_path)
        for key in _keys_to_change(method, first=number == 0):
            other = next(value for value in VALUES[key] if value != operator.attrgetter(key)(settings))
            varied = changed(settings, {key: other})
            if identity(varied) == identity(settings):
                same = weights_after(varied, tmp_path) == weights
                assert same, f"{key}={other} under {switches} is another outcome of one identity"
            elif key not in telling:
                kept.add(key)
                telling |= {key} if weights_after(varied, tmp_path) != weights else set()
    assert kept == telling, "the identity holds what no case here tells apart"


def _keys_to_change(method: str, *, first: bool) -> list[str]:
    """All for one method; under the others not those that every method shares; under switches those that switches concern."""
    if not first:
        return [key for key in VALUES if key.startswith(("rho.", "method.admm.", "method.importance."))]
    return [key for key in VALUES if method == "nxm" or key.startswith(("rho.", "method."))]
