"""Settings as people write them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nxm_sweep.formatting import format_value, pattern_label, short_name


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
