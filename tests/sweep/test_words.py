"""Points, scores and times in words."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from nxm_sweep.sweep.words import clock, describe, number_words, plain_table, score_words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (7e-5, "7e-5"),
        (2e-4, "2e-4"),
        (1.5e-3, "1.5e-3"),
        (1e-2, "1e-2"),
        (0.1, "0.1"),
        (0.0, "0.0"),
        (2.0, "2"),
        (32, "32"),
        ("linear", "linear"),
        (True, "true"),
        (None, "null"),
    ],
    ids=str,
)
def test_a_value_is_short_and_reads_back_as_the_same(value: Any, words: str) -> None:
    assert number_words(value) == words
    if isinstance(value, float):
        assert float(words) == value


def test_a_point_is_its_cell_and_its_values() -> None:
    values = {"learning_rate.value": 1e-4, "training.batch_size": 16, "seed": 3}
    assert describe("glue/rte asp 2of4 tiny", values) == "glue/rte asp 2of4 tiny lr 1e-4 batch 16 seed 3"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0:00"), (59.6, "1:00"), (65, "1:05"), (3600, "1:00:00"), (7384, "2:03:04")]
)
def test_seconds_are_a_clock_time(seconds: float, words: str) -> None:
    assert clock(seconds) == words


def test_no_score_is_a_dash() -> None:
    assert (score_words(None), score_words(0.5)) == ("-", "0.5000")


@pytest.mark.parametrize("width", [60, 200])
def test_a_narrow_terminal_cuts_no_number(width: int) -> None:
    table = plain_table("cell", "done", "best", "at")
    table.add_row("glue/mrpc admm_unstructured 2of4 minilm_l6", "12/18", "0.8125", "lr 2e-4 batch 32 seed 12345")
    file = io.StringIO()
    Console(file=file, width=width).print(table)
    shown = "".join(file.getvalue().split())
    for word in ("12/18", "0.8125", "admm_unstructured", "12345"):
        assert word in shown
