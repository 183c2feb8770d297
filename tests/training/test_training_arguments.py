"""``training.arguments``: what is passed on reaches the training and keeps its promises; all else is refused with a reason."""

from __future__ import annotations

import dataclasses
import io
import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from rich.console import Console
from transformers import TrainingArguments

from nxm_sweep.config.compose import compose_settings
from nxm_sweep.config.training_arguments import _ALLOWED, _OTHER, _OWN_KEYS, _REASONS, check_arguments
from nxm_sweep.errors import ConfigError, TrialStoppedError
from nxm_sweep.settings import TrialSettings
from nxm_sweep.store.paths import trial_folder
from nxm_sweep.store.progress import INTERRUPTED, request_stop
from nxm_sweep.trial import train, trainer
from nxm_sweep.trial.run import run_point
from nxm_sweep.trial.trainer import TrialTrainer

ALL = (
    "adam_beta1: 0.5, adam_beta2: 0.9, adam_epsilon: 1e-6, gradient_checkpointing: true, "
    "gradient_checkpointing_kwargs: {use_reentrant: false}, label_smoothing_factor: 0.1, "
    "lr_scheduler_kwargs: {num_cycles: 0.25}, neftune_noise_alpha: 5.0, torch_empty_cache_steps: 2"
)


def settings_of(folder: Path, model: Path, *overrides: str) -> TrialSettings:
    return compose_settings(
        ["task=demo/paraphrase", "model=local", f"model.path={model}", f"output_dir={folder}", "method=nxm_paper",
         "training.epochs=2", "training.max_train_samples=64", "training.max_eval_samples=32", "training.max_length=32",
         "training.device=cpu", *overrides]
    )  # fmt: skip


def run(settings: TrialSettings) -> Any:
    return run_point(settings, Console(file=io.StringIO()))[0]


def losses(record: Any) -> list[float]:
    return [entry["training_loss"] for entry in record["epochs"]]


def test_every_allowed_argument_at_once_resumes_bit_for_bit(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = f"training.arguments={{{ALL}}}", "training.schedule=cosine", "method=nxm"
    given = settings_of(tmp_path / "whole", tiny_model, *options)
    assert set(given.training.arguments) == set(_ALLOWED)
    whole = run(given)
    assert whole["config"]["training"]["arguments"] == given.training.arguments

    def stop(self: TrialTrainer, *_: Any, **__: Any) -> None:
        request_stop(trial_folder(tmp_path / "parts", whole["identity"]), INTERRUPTED)

    parts = settings_of(tmp_path / "parts", tiny_model, *options)
    with monkeypatch.context() as patched:
        patched.setattr(TrialTrainer, "_print_epoch", stop)
        with pytest.raises(TrialStoppedError):
            run(parts)
    resumed = run(parts)
    assert resumed["resumed_from_step"] > 0
    assert resumed["epochs"] == whole["epochs"]
    assert resumed["sparsity"]["exact"]


@pytest.mark.parametrize(
    "argument",
    [
        "adam_beta1: 0.5",
        "adam_beta2: 0.5",
        "adam_epsilon: 0.1",
        "label_smoothing_factor: 0.3",
        "neftune_noise_alpha: 9",
    ],
)
def test_an_argument_changes_the_training_and_the_identity(argument: str, tmp_path: Path, tiny_model: Path) -> None:
    plain = run(settings_of(tmp_path, tiny_model, "method=dense"))
    changed = run(settings_of(tmp_path, tiny_model, "method=dense", f"training.arguments={{{argument}}}"))
    assert changed["identity"] != plain["identity"]
    assert losses(changed) != losses(plain)


def test_gradient_checkpointing_trains_the_same_and_is_hashed(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "pack_", lambda _: False)  # packed rows draw other dropout masks
    plain = run(settings_of(tmp_path, tiny_model, "method=dense"))
    again = run(settings_of(tmp_path, tiny_model, "method=dense", "training.arguments={gradient_checkpointing: true}"))
    assert losses(again) == pytest.approx(losses(plain), rel=1e-5)
    assert again["identity"] != plain["identity"]


def test_the_cosine_reaches_the_scheduler(tmp_path: Path, tiny_model: Path) -> None:
    settings = settings_of(
        tmp_path, tiny_model, "training.schedule=cosine", "training.arguments={lr_scheduler_kwargs: {num_cycles: 2}}"
    )
    assert trainer.training_arguments(settings, tmp_path).lr_scheduler_kwargs == {"num_cycles": 2}


# --- what is refused ----------------------------------------------------------------------------------------------------


def test_each_argument_of_transformers_is_passed_on_or_refused_with_a_reason(tmp_path: Path, tiny_model: Path) -> None:
    settings = settings_of(tmp_path, tiny_model)
    names = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert set(_ALLOWED) | set(_OWN_KEYS) <= names
    for name in names - set(_ALLOWED):
        settings.training.arguments = {name: 1}
        with pytest.raises(ConfigError) as error:
            check_arguments(settings)
        assert name in error.value.message
        assert error.value.hint


def test_each_reason_is_that_of_some_argument() -> None:
    names = [field.name for field in dataclasses.fields(TrainingArguments)]
    for starts in _REASONS:
        for start in starts:
            assert any(name.startswith(start) for name in names), start


def test_what_has_a_key_of_its_own_is_called_by_it(tmp_path: Path, tiny_model: Path) -> None:
    config = OmegaConf.structured(settings_of(tmp_path, tiny_model))
    arguments = {key.removeprefix("training.arguments.") for key in _OWN_KEYS.values() if "training.arguments." in key}
    assert arguments <= set(_ALLOWED)
    for key in set(_OWN_KEYS.values()) - {f"training.arguments.{name}" for name in arguments}:
        assert OmegaConf.select(config, key, throw_on_missing=False, default=KeyError) is not KeyError, key


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        ("learning_rate: 1e-5", "training.arguments names learning_rate, which has a key of its own", "learning_rate.value="),
        ("activation_checkpointing: true",
         "training.arguments names activation_checkpointing, which has a key", "training.arguments.gradient_checkpointing="),
        ("fsdp: full_shard", "training.arguments cannot take fsdp: a pattern needs whole weight matrices on every device", ""),
        ("save_steps: 10", "training.arguments cannot take save_steps: a trial is scored and saved after every epoch", ""),
        ("push_to_hub: true", "training.arguments cannot take push_to_hub: a trial sends nothing", ""),
        ("optim: sgd", "training.arguments cannot take optim: methods and checkpoints are tested with fused AdamW only", ""),
        ("torch_compile: true", f"training.arguments cannot take torch_compile: {_OTHER}", "it takes adam_beta1"),
        ("adam_beta_1: 0.5", "training.arguments cannot take adam_beta_1", "did you mean adam_beta1?"),
        ("adam_beta1: 1.0", "training.arguments.adam_beta1 must lie in [0, 1) but got 1.0", ""),
        ("adam_beta1: true", "training.arguments.adam_beta1 must lie in [0, 1) but got True", ""),
        ("adam_epsilon: 0", "training.arguments.adam_epsilon must be above 0 but got 0", ""),
        ("adam_epsilon: .inf", "training.arguments.adam_epsilon must be above 0 but got '.inf'", ""),
        ("gradient_checkpointing: 1", "training.arguments.gradient_checkpointing must be true or false but got 1", ""),
        ("gradient_checkpointing_kwargs: {use_reentrant: false}",
         "training.arguments.gradient_checkpointing_kwargs needs training.arguments.gradient_checkpointing=true", ""),
        ("gradient_checkpointing_kwargs: {f: 1}",
         "training.arguments.gradient_checkpointing_kwargs must be {use_reentrant: true} or {use_reentrant: false}", ""),
        ("label_smoothing_factor: x", "training.arguments.label_smoothing_factor must lie in [0, 1) but got 'x'", ""),
        ("lr_scheduler_kwargs: {num_cycles: 2}",
         "training.arguments.lr_scheduler_kwargs is for training.schedule=cosine but that is linear", ""),
        ("neftune_noise_alpha: -1", "training.arguments.neftune_noise_alpha must be above 0 but got -1", ""),
        ("torch_empty_cache_steps: 1.5", "torch_empty_cache_steps must be a whole number of steps above 0 but got 1.5", ""),
    ],
)  # fmt: skip
def test_bad_arguments_are_one_line(arguments: str, message: str, hint: str, tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        settings_of(tmp_path, tiny_model, f"training.arguments={{{arguments}}}")
    assert hint in error.value.hint


def test_label_smoothing_is_for_classes(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match="label_smoothing_factor is for classes, and demo/similarity is a regression"):
        settings_of(tmp_path, tiny_model, "task=demo/similarity", "training.arguments={label_smoothing_factor: 0.1}")


def test_text_in_place_of_a_mapping_is_one_line(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match=r"training\.arguments"):
        settings_of(tmp_path, tiny_model, "training.arguments=gradient_checkpointing")
