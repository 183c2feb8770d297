"""Settings as people write them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from nxm_sweep.console import plain_table
from nxm_sweep.formatting import (
    cell_name,
    cell_title,
    describe_point,
    display_name,
    format_duration,
    format_score,
    format_value,
    pattern_label,
    short_name,
)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (7e-5, "7e-5"),
        (2e-4, "2e-4"),
        (1.5e-3, "1.5e-3"),
        (1e-2, "0.01"),
        (0.1, "0.1"),
        (-0.5, "-0.5"),
        (0.0, "0"),
        (2.0, "2"),
        (32, "32"),
        (3e7, "3e7"),
        ("linear", "linear"),
        (True, "true"),
        (None, "null"),
        (float("nan"), "nan"),
        (np.float64(2e-4), "2e-4"),
        (np.int64(32), "32"),
    ],
    ids=str,
)
def test_a_value_is_short_and_reads_back_as_the_same(value: Any, words: str) -> None:
    assert format_value(value) == words
    if isinstance(value, float) and words != "nan":
        assert float(words) == value


def test_the_usual_axes_have_short_names() -> None:
    assert [short_name(key) for key in ("learning_rate.value", "training.epochs")] == ["lr", "training.epochs"]


@pytest.mark.parametrize(
    ("held", "name", "label"),
    [
        (["2 of 4", "2 of 4"], "2of4", "2of4"),
        (["2 of 4"], "ffn_only_2of4", "ffn_only_2of4"),
        (["2 of 4"], "mine", "mine"),
        (["0.5 unstructured"], "2of4", "50% unstructured"),
        (["0.3 unstructured"], "2of4", "70% unstructured"),
        (["0.333333333333 unstructured"], "1of3", "66.6667% unstructured"),
        (["0.25 unstructured"], "attention_only_1of4", "attention_only 75% unstructured"),
        (["0.5 unstructured"], "2of4+rules", "50% unstructured+rules"),
        (["0.5 unstructured"], "half", "50% unstructured (half)"),
        (["1 of 4"], "2of4", "1of4"),
        (["2 of 4", "1 of 4"], "2of4+rules", "2of4+rules"),
        (["2 of 4", "1 of 4"], "mixed", "mixed"),
        (["2 of 4", "1 of 4"], "2of4", "mixed"),
        (["0.5 unstructured", "0.25 unstructured"], "2of4+rules", "mixed+rules"),
        ([], "2of4", "dense"),
    ],
)
def test_a_pattern_is_called_by_the_name_of_its_rules_unless_that_is_not_what_is_held(
    held: list[str], name: str, label: str
) -> None:
    assert pattern_label(held, name) == label


def test_a_dense_model_is_called_so_once() -> None:
    names = {"task": "glue/rte", "method": "dense", "sparsity": "dense", "model": "tiny"}
    assert cell_title(names) == "glue/rte dense tiny"
    assert cell_title({**names, "method": "asp", "sparsity": "2of4"}) == "glue/rte asp 2of4 tiny"
    assert cell_name(names) == "glue/rte dense dense tiny"  # the names of studies stay


def test_a_point_is_its_cell_and_its_values() -> None:
    values = {"learning_rate.value": 1e-4, "training.batch_size": 16, "seed": 3}
    assert describe_point("glue/rte asp 2of4 tiny", values) == "glue/rte asp 2of4 tiny lr 1e-4 batch 16 seed 3"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (65, "1 min 5 s"),
        (3599.6, "1 h"),
        (3605, "1 h"),
        (360_000, "4 d 4 h"),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words


def test_no_score_is_a_dash() -> None:
    assert (format_score(None), format_score(0.5)) == ("-", "50.00")


@pytest.mark.parametrize("width", [60, 200])
def test_a_narrow_terminal_cuts_no_number(width: int) -> None:
    table = plain_table("cell", "done", "best", "at")
    table.add_row("glue/mrpc admm_unstructured 2of4 minilm_l6", "12/18", "0.8125", "lr 2e-4 batch 32 seed 12345")
    file = io.StringIO()
    Console(file=file, width=width).print(table)
    shown = "".join(file.getvalue().split())
    for word in ("12/18", "0.8125", "admm_unstructured", "12345"):
        assert word in shown


@pytest.mark.parametrize(
    ("kind", "name", "shown"),
    [
        ("method", "nxm_refit", "NxM-Refit"),
        ("method", "asp (distillation=logits)", "ASP (distillation=logits)"),
        ("method", "mine", "mine"),
        ("task", "glue/stsb", "STS-B"),
        ("task", "glue/stsb (1a2b3c)", "STS-B (1a2b3c)"),
        ("task", "nxm", "nxm"),
        ("model", "minilm_l6", "MiniLM-L6"),
        ("model", "google-bert/bert-base-cased", "google-bert/bert-base-cased"),
        ("sparsity", "2of4", "2:4"),
        ("pattern", "2 of 4", "2:4"),
        ("pattern", "ffn_only_2of4", "ffn_only 2:4"),
        ("pattern", "50% unstructured", "50% unstructured"),
        ("pattern", "dense", "-"),
    ],
)
def test_display_names_are_those_of_the_field_and_other_names_stay(kind: str, name: str, shown: str) -> None:
    assert display_name(kind, name) == shown


def test_every_method_task_and_model_of_the_package_has_a_display_name() -> None:
    conf = Path(__file__).parents[1] / "conf"
    unnamed: dict[str, set[str]] = {"method": set(), "model": {"local"}, "task": {"files", "hub"}}
    for kind, own in unnamed.items():
        names = {path.relative_to(conf / kind).with_suffix("").as_posix() for path in (conf / kind).rglob("*.yaml")}
        assert {name for name in names if display_name(kind, name) == name} == own, kind
