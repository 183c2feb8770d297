"""Settings as people write them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nxm_sweep.notation import alias, short


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
    assert short(value) == words
    if isinstance(value, float) and words != "nan":
        assert float(words) == value


def test_the_usual_axes_have_short_names() -> None:
    assert [alias(key) for key in ("learning_rate.value", "training.epochs")] == ["lr", "training.epochs"]
