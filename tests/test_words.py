"""Points, scores and times in words."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from nxm_sweep.console import plain_table
from nxm_sweep.formatting import describe_point, format_duration, format_score


def test_a_point_is_its_cell_and_its_values() -> None:
    values = {"learning_rate.value": 1e-4, "training.batch_size": 16, "seed": 3}
    assert describe_point("glue/rte asp 2of4 tiny", values) == "glue/rte asp 2of4 tiny lr 1e-4 batch 16 seed 3"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0:00"), (59.6, "1:00"), (65, "1:05"), (3600, "1:00:00"), (7384, "2:03:04")]
)
def test_seconds_are_a_clock_time(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words


def test_no_score_is_a_dash() -> None:
    assert (format_score(None), format_score(0.5)) == ("-", "0.5000")


@pytest.mark.parametrize("width", [60, 200])
def test_a_narrow_terminal_cuts_no_number(width: int) -> None:
    table = plain_table("cell", "done", "best", "at")
    table.add_row("glue/mrpc admm_unstructured 2of4 minilm_l6", "12/18", "0.8125", "lr 2e-4 batch 32 seed 12345")
    file = io.StringIO()
    Console(file=file, width=width).print(table)
    shown = "".join(file.getvalue().split())
    for word in ("12/18", "0.8125", "admm_unstructured", "12345"):
        assert word in shown
