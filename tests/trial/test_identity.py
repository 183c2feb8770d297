"""A trial's identity: the hash of what can change its outcome, and of nothing else."""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nxm_sweep.config.compose import settings_of
from nxm_sweep.settings import (
    DataSettings,
    LearningRateSettings,
    MethodSettings,
    ModelSettings,
    RhoSettings,
    RuleSettings,
    SparsitySettings,
    SweepSettings,
    TaskSettings,
    TrainingSettings,
    TrialSettings,
)
from nxm_sweep.sweep.planning.axes import assign_
from nxm_sweep.trial.identity import canonical_json, hash_of, identity_of

EXAMPLES = Path(__file__).resolve().parents[2] / "outputs" / "examples"
FIRST_VERSION = {
    "refit": "57d3a1742fa71c01",
    "nxm_refit": "c58160663e6bd570",
    "task": "42c119defe912c81",
    "gradual": "8be6262e26768d18",
}


def _settings(method: str = "nxm") -> TrialSettings:
    return TrialSettings(
        task=TaskSettings(
            name="glue/rte",
            kind="glue",
            problem="classification",
            text_columns=["sentence1", "sentence2"],
            label_column="label",
            labels=["entailment", "not_entailment"],
            metrics=["accuracy"],
            selection_metric="accuracy",
            train_split="train",
            validation_splits={"validation": "validation"},
            learning_rates=[1e-5, 3e-5],
            config="rte",
        ),
        model=ModelSettings(name="bert_base", source="hub", path="google-bert/bert-base-uncased"),
        method=MethodSettings(name=method, learning_rates=[1e-5]),
        sparsity=SparsitySettings(name="2of4", rules=[RuleSettings(match="layer*.[0-9]*.*", keep=2, group=4)]),
        rho=RhoSettings(value=1e-3, grid=[1e-3, 4e-3]),
        learning_rate=LearningRateSettings(value=3e-5, grid=[1e-5, 3e-5]),
        training=TrainingSettings(
            epochs=5,
            batch_size=32,
            gradient_accumulation=1,
            max_length=128,
            max_train_samples=None,
            max_eval_samples=None,
            schedule="linear",
            warmup_ratio=0.0,
            weight_decay=0.0,
            max_grad_norm=1.0,
            precision="fp32",
            device="auto",
            threads=None,
        ),
        seed=0,
        data=DataSettings(path="nyu-mll/glue", revision=None),
        sweep=SweepSettings(),
        output_dir="outputs",
        force=False,
        save_model=False,
    )


def _identity(settings: TrialSettings, data: str = "rows", model: str = "files") -> str:
    return identity_of(settings, data_digest=data, model_digest=model)[0]


@pytest.mark.parametrize("limit", ["max_train_samples", "max_eval_samples"])
def test_which_rows_a_limit_keeps_counts_only_with_a_limit(limit: str) -> None:
    first, shuffled = _settings("asp"), _settings("asp")
    first.training.subset, shuffled.training.subset = "first", "shuffled"
    assert _identity(first) == _identity(shuffled)
    setattr(first.training, limit, 100)
    setattr(shuffled.training, limit, 100)
    assert _identity(first) != _identity(shuffled)
    assert (
        "subset" not in identity_of(first, data_digest="rows", model_digest="files")[1]["training"]
    )  # as before it existed


# --- what is hashed ---------------------------------------------------------------------------------------------------

METHODS_TESTED = ("dense", "asp", "nxm")
TASK = {"task.problem", "task.metrics", "task.selection_metric", "task.positive_class"}
SPARSITY = {f"sparsity.rules.0.{name}" for name in ("match", "keep", "group", "density", "dense")}
RHO = {"rho.unit", "rho.value", "rho.schedule", "rho.start"}
ADMM = {
    f"method.admm.{name}"
    for name in (
        *(
            "first_iteration",
            "clip",
            "interval",
            "interval_unit",
            "penalty",
            "finish",
            "admm_fraction",
            "frozen_support",
        ),
        *("efolds", "pace", "dense_fraction"),
    )
}
TRAINING = {
    f"training.{name}"
    for name in (
        *("epochs", "batch_size", "gradient_accumulation", "max_length", "max_train_samples", "max_eval_samples"),
        *("schedule", "warmup_ratio", "weight_decay", "max_grad_norm", "precision", "devices", "batching", "arguments"),
    )
}
ALWAYS = TASK | TRAINING | {"learning_rate.value", "seed", "method.name", "selection.name", "distillation.name"}
IDLE = {  # put out of use by the default switches
    *("rho.start", "method.admm.admm_fraction", "method.admm.frozen_support"),
    *("method.importance.rows", "selection.fraction", "training.subset"),
    *(f"distillation.{name}" for name in ("weight", "temperature", "logits", "hidden", "attention")),
    *("method.admm.efolds", "method.admm.pace"),
}
HASHED = {
    "dense": ALWAYS,
    "asp": ALWAYS | SPARSITY | {"method.trained", "method.importance.metric"},
    "nxm": ALWAYS | SPARSITY | {"method.trained", "method.importance.metric"} | (RHO | ADMM) - IDLE,
}
NOT_HASHED = {
    *("task.name", "task.kind", "task.text_columns", "task.label_column", "task.labels", "task.train_split"),
    *("task.validation_splits", "task.learning_rates", "task.config", "task.rows", "task.files"),
    *("model.name", "model.source", "model.path", "model.revision"),
    "model.head",  # of a model without a head, which gets a new one in any case
    *(
        "method.learning_rates",
        *(f"sparsity.{name}" for name in ("name", "keep", "group", "also", "scan")),
        "rho.grid",
        "learning_rate.grid",
    ),
    *("training.device", "training.threads", "data.path", "data.revision"),
    *(f"sweep.{name}" for name in ("cells", "axes", "exclude", "tie", "workers", "threads", "dry_run", "probe", "yes")),
    *(f"sweep.{name}" for name in ("retry_failed", "max_attempts", "time_limit", "lease", "storage", "point", "cwd")),
    *(
        f"sweep.{name}"
        for name in ("sampler", "n_trials", "pruner", "workers_per_device", "storage_patience", "detach", "jobs")
    ),
    *("output_dir", "force", "save_model", "training.report_to"),
    *(f"distillation.teacher.{name}" for name in ("source", "path", "revision")),
    *(
        "method.sr_ste.decay",
        "method.gradual.end_fraction",
        "method.warmup_asp.fraction",
        "method.options",
    ),  # other methods read them
}


def _changes(value: Any, prefix: str = "") -> Iterator[tuple[str, Callable[[], None]]]:
    """Every field below ``value`` by its dotted path, with a function that gives it another value."""
    for field in dataclasses.fields(value):
        current = getattr(value, field.name)
        if dataclasses.is_dataclass(current):
            yield from _changes(current, f"{prefix}{field.name}.")
        elif isinstance(current, list) and current and dataclasses.is_dataclass(current[0]):
            for index, item in enumerate(current):
                yield from _changes(item, f"{prefix}{field.name}.{index}.")
        else:
            other = _another(current)
            yield f"{prefix}{field.name}", functools.partial(setattr, value, field.name, other)


def _another(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case str():
            return "admm_unstructured" if value in METHODS_TESTED else f"{value}x"
        case int() | float():
            return value * 2 + 1
        case list():
            return [*value, "x"]
        case dict():
            return {**value, "x": "y"}
        case None:
            return 7
        case _:
            pytest.fail(f"no other value for {value!r}")


@pytest.mark.parametrize("method", ["dense", "asp", "nxm"])
def test_identity_changes_with_what_the_method_reads_and_with_nothing_else(method: str) -> None:
    before = _identity(_settings(method))
    paths = [path for path, _ in _changes(_settings(method))]
    changed = set()
    for index, path in enumerate(paths):
        settings = copy.deepcopy(_settings(method))
        _, change = list(_changes(settings))[index]
        change()
        assert settings != _settings(method), path
        if _identity(settings) != before:
            changed.add(path)
    assert changed == HASHED[method]


def test_every_field_is_said_to_be_hashed_or_not() -> None:
    paths = {path for path, _ in _changes(_settings())}
    assert paths == HASHED["nxm"] | IDLE | NOT_HASHED


def hashed(method: str = "nxm", **changes: Any) -> dict[str, Any]:
    """What the identity hashes where these settings have these values; a dot is written as two underscores."""
    settings = _settings()
    settings.method.name = method
    for key, value in changes.items():
        assign_(settings, {key.replace("__", "."): value})
    return identity_of(settings, data_digest="rows", model_digest="files")[1]


def test_a_switch_brings_into_the_identity_what_it_puts_to_use_and_drops_what_it_does_not() -> None:
    by_input = hashed(method__importance__metric="input_norm")
    assert by_input["method"]["importance"] == {"metric": "input_norm", "rows": 128}
    frozen_z = hashed(method__admm__finish="refit", method__admm__frozen_support="z")
    assert frozen_z["method"]["admm"]["frozen_support"] == "z"
    assert frozen_z["method"]["version"] == 2  # what it was the hash of before froze another support
    assert hashed(selection__name="heldout")["selection"] == {"fraction": 0.1, "name": "heldout"}
    assert hashed("sr_ste")["method"] == {
        "name": "sr_ste",
        "sr_ste": {"decay": 0.0002},
        "trained": "all",
        "version": 2,  # what it was the hash of before clipped the term with the gradient
    }
    assert hashed("gradual")["method"] == {"gradual": {"end_fraction": 0.5}, "name": "gradual", "trained": "all"}
    decoupled = hashed(method__admm__penalty="decoupled")
    assert "rho" not in decoupled
    assert decoupled["method"]["admm"].items() >= {"efolds": 5, "pace": "learning_rate"}.items()
    relative = hashed(rho__unit="relative")
    assert relative["rho"] == {"schedule": "constant", "unit": "relative", "value": 0.001}
    assert relative["method"]["admm"]["clip"] == "task"  # idle then
    assert hashed(method__admm__finish="refit")["method"]["admm"]["admm_fraction"] == 0.5
    assert hashed(rho__schedule="linear")["rho"] == {"schedule": "linear", "start": 0, "value": 0.001}


def test_what_is_one_outcome_is_one_identity() -> None:
    def named(method: str, **changes: Any) -> str:
        settings = _settings(method)
        for key, value in changes.items():
            holder = settings.rho if key == "schedule" else settings.method.admm
            setattr(holder, key, value)
        return _identity(settings)

    decoupled = named("nxm", penalty="decoupled")
    assert named("nxm", penalty="decoupled", clip="task") == decoupled
    assert named("nxm", penalty="decoupled", schedule="linear") == decoupled
    assert named("nxm_refit", finish="prune") == named("nxm_refit", finish="refit")
    assert named("nxm_refit", finish="prune", admm_fraction=0.2) != named("nxm_refit", finish="prune")


def test_identities_of_other_switches_are_those_of_the_first_version() -> None:
    """Computed by the version before ``read_settings``; decoupled, frozen_support=z and SR-STE have new ones."""
    found = {}
    for name, method, changes in (
        ("refit", "nxm", {"finish": "refit"}),
        ("nxm_refit", "nxm_refit", {"finish": "refit", "interval": 4, "interval_unit": "per_epoch"}),
        ("task", "admm_unstructured", {"clip": "task"}),
        ("gradual", "gradual", {}),
    ):
        settings = _settings(method)
        for key, value in changes.items():
            setattr(settings.method.admm, key, value)
        found[name] = _identity(settings)
    assert found == FIRST_VERSION


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*/trials/*/result.json")), ids=lambda path: path.parent.name)
def test_committed_records_keep_their_identities(path: Path) -> None:
    record = json.loads(path.read_text())
    strength = record["config"]["method"]["admm"].pop("strength", None)  # of the decoupled penalty, before its e-folds
    assert strength is None or record["hashed"]["method"].get("admm", {}).get("penalty") != "decoupled"
    settings = settings_of(record["config"])
    digests = {"data_digest": record["data"]["digest"], "model_digest": record["model"]["digest"]}
    identity, values = identity_of(settings, **digests)
    if (record["method"], record["schema"]) == ("sr_ste", 1):  # the term was clipped with the gradient: another outcome
        assert values["method"].pop("version") == 2
        identity = hash_of(values)
    assert (identity, values) == (record["identity"], record["hashed"])
    assert identity == path.parent.name


@pytest.mark.parametrize(("data", "model"), [("other", "files"), ("rows", "other")])
def test_identity_changes_with_the_content_of_rows_and_model(data: str, model: str) -> None:
    assert _identity(_settings(), data, model) != _identity(_settings())


def test_a_head_enters_where_there_is_one_to_keep() -> None:
    """Before there was a choice, a head of the right size was kept: that is neither of the two trials of today."""
    found = {}
    for head, carries in [("new", False), ("new", True), ("keep", True)]:
        settings = _settings()
        settings.model.head = head
        found[head, carries], values = identity_of(
            settings, data_digest="rows", model_digest="files", carries_head=carries
        )
        assert values.get("model.head") == (head if carries else None)
    assert found["new", False] == _identity(_settings())
    assert len(set(found.values())) == 3


def _taught(**changes: Any) -> TrialSettings:
    settings = _settings()
    settings.distillation.name = "logits"
    for key, value in changes.items():
        setattr(settings.distillation, key, value)
    return settings


def _taught_identity(settings: TrialSettings, teacher: str = "teacher") -> str:
    return identity_of(settings, data_digest="rows", model_digest="files", teacher_digest=teacher)[0]


def test_a_teacher_enters_by_its_content_and_what_is_learned_by_its_numbers() -> None:
    before = _taught_identity(_taught())
    assert before != _identity(_settings())
    assert _taught_identity(_taught(name="full")) == before  # a name for the same numbers
    moved = _taught()
    moved.distillation.teacher.source, moved.distillation.teacher.path = "folder", "elsewhere"
    assert _taught_identity(moved) == before
    others = [{"weight": 0.4}, {"temperature": 1.0}, {"logits": 0.5}, {"hidden": 1.0}, {"attention": 1.0}]
    found = {_taught_identity(_taught(**change)) for change in others}
    assert len(found | {before, _taught_identity(_taught(), "another")}) == len(others) + 2
    assert _taught_identity(_settings(), "another") == _identity(_settings())  # off: no teacher is looked at


def test_the_temperature_of_a_regression_is_idle() -> None:
    found = set()
    for temperature in (1.0, 2.0):
        settings = _taught(temperature=temperature)
        settings.task.problem = "regression"
        found.add(_taught_identity(settings))
    assert len(found) == 1


def test_methods_have_identities_of_their_own() -> None:
    assert len({_identity(_settings(method)) for method in METHODS_TESTED}) == len(METHODS_TESTED)


def test_a_second_rule_changes_the_identity_and_so_does_the_order() -> None:
    first, second = RuleSettings("*.query", keep=2, group=4), RuleSettings("*", dense=True)
    settings = _settings()
    found = set()
    for rules in ([first], [first, second], [second, first]):
        settings.sparsity.rules = rules
        found.add(_identity(settings))
    assert len(found) == 3


# --- stability --------------------------------------------------------------------------------------------------------

GOLDEN = (
    '{"data":"rows","learning_rate":{"value":3e-05},'
    '"method":{"admm":{"clip":"total","finish":"prune","first_iteration":"project","interval":1,'
    '"interval_unit":"epoch","penalty":"gradient"},'
    '"name":"nxm","trained":"all"},'
    '"model":"files","rho":{"schedule":"constant","value":0.001},"seed":0,'
    '"sparsity":{"rules":[{"dense":false,"density":null,"group":4,"keep":2,"match":"layer*.[0-9]*.*"}]},'
    '"task":{"metrics":["accuracy"],"problem":"classification","selection_metric":"accuracy"},'
    '"training":{"batch_size":32,"epochs":5,"gradient_accumulation":1,"max_eval_samples":null,"max_grad_norm":1,'
    '"max_length":128,"max_train_samples":null,"precision":"fp32","schedule":"linear","warmup_ratio":0,'
    '"weight_decay":0},"version":1}'
)


def test_identity_is_the_hash_of_this_text() -> None:
    assert _identity(_settings()) == hashlib.sha256(GOLDEN.encode()).hexdigest()[:16]


def test_finished_trials_keep_their_names() -> None:
    identities = {method: _identity(_settings(method)) for method in METHODS_TESTED}
    assert identities == {"dense": "562df1d5cd2c9bbc", "asp": "57b1bdcf7aa4af84", "nxm": "74f967ad2febe01e"}


def test_the_hashed_values_come_with_the_identity() -> None:
    identity, values = identity_of(_settings(), data_digest="rows", model_digest="files")
    assert canonical_json(values) == GOLDEN
    assert len(identity) == 16


def test_settings_are_not_changed() -> None:
    settings = _settings("dense")
    _identity(settings)
    assert settings == _settings("dense")


@pytest.mark.parametrize(("first", "second"), [(7.000000000000001e-05, 7e-05), (0.1 + 0.2, 0.3), (1, 1.0), (-0.0, 0)])
def test_equal_numbers_are_one_trial(first: float, second: float) -> None:
    assert canonical_json({"value": first}) == canonical_json({"value": second})


def test_a_rate_from_hydras_range_is_the_rate_that_was_meant() -> None:
    exact, noisy = _settings(), _settings()
    exact.learning_rate.value, noisy.learning_rate.value = 7e-5, 7.000000000000001e-05
    assert _identity(exact) == _identity(noisy)


@pytest.mark.parametrize(
    ("first", "second"), [(1e-5, 1.00000000001e-5), (0, False), (1, True), (1, "1"), (None, 0), (2**32 - 1, 2**32 - 2)]
)
def test_different_values_are_different_trials(first: Any, second: Any) -> None:
    assert canonical_json({"value": first}) != canonical_json({"value": second})


def test_order_of_keys_does_not_matter_and_order_of_items_does() -> None:
    assert canonical_json({"a": 1, "b": 2}) == canonical_json({"b": 2, "a": 1})
    assert canonical_json([1, 2]) != canonical_json([2, 1])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"value": value})


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", 1j])
def test_an_object_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match=f"a {type(value).__name__} has no canonical form"):
        canonical_json([value])
