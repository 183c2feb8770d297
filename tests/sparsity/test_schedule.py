"""Schedules against their closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nxm_sweep.errors import SparsityError
from nxm_sweep.sparsity import Schedule

RAMPS = ("linear", "cosine", "exponential")
AWKWARD = [(0.3, 0.1), (0.1, 0.3), (1e-3, 4e-3), (1e-8, 7.0), (5.0, 1e-17)]
"""Pairs of (start, value), some of which a careless interpolation does not return exactly."""


@pytest.mark.parametrize(("start", "value"), AWKWARD)
def test_constant_is_exactly_its_value_everywhere(start: float, value: float) -> None:
    schedule = Schedule(value, start=start)
    assert {schedule.at(progress) for progress in (0.0, 0.1, 0.5, 1.0)} == {value}


@pytest.mark.parametrize("kind", RAMPS)
@pytest.mark.parametrize(("start", "value"), AWKWARD)
def test_ramp_begins_and_ends_exactly(kind: str, start: float, value: float) -> None:
    schedule = Schedule(value, kind, start)
    assert (schedule.at(0.0), schedule.at(1.0)) == (start, value)


def test_linear_ramp_is_numpys_linspace() -> None:
    values = [Schedule(0.8, "linear", 0.2).at(step / 6) for step in range(7)]
    np.testing.assert_allclose(values, np.linspace(0.2, 0.8, 7), rtol=1e-12)


def test_exponential_ramp_is_numpys_geomspace() -> None:
    values = [Schedule(1e-2, "exponential", 1e-5).at(step / 6) for step in range(7)]
    np.testing.assert_allclose(values, np.geomspace(1e-5, 1e-2, 7), rtol=1e-12)


def test_cosine_ramp_goes_a_quarter_of_the_way_in_a_third_of_the_run() -> None:
    shares = [Schedule(2.0, "cosine", 1.0).at(progress) - 1.0 for progress in (0.0, 1 / 3, 0.5, 2 / 3, 1.0)]
    np.testing.assert_allclose(shares, [0.0, 0.25, 0.5, 0.75, 1.0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", RAMPS)
@pytest.mark.parametrize(("start", "value"), [(0.01, 1.0), (1.0, 0.01)])
def test_ramp_is_monotone(kind: str, start: float, value: float) -> None:
    steps = np.diff([Schedule(value, kind, start).at(progress) for progress in np.linspace(0, 1, 50)])
    assert bool((steps * (value - start) > 0).all())


def test_unknown_kind_is_refused_with_the_choices() -> None:
    with pytest.raises(SparsityError, match="constant, linear, cosine, exponential but got 'square'"):
        Schedule(1.0, "square")


@pytest.mark.parametrize("bad", [-1e-9, math.nan, math.inf])
@pytest.mark.parametrize("kind", ["constant", "linear"])
def test_negative_or_non_finite_strengths_are_refused(bad: float, kind: str) -> None:
    with pytest.raises(SparsityError, match="finite and not negative"):
        Schedule(bad, kind)
    with pytest.raises(SparsityError, match="finite and not negative"):
        Schedule(1.0, kind, bad)


@pytest.mark.parametrize(("start", "value"), [(0.0, 1.0), (1.0, 0.0)])
def test_exponential_ramp_from_or_to_zero_is_refused(start: float, value: float) -> None:
    with pytest.raises(SparsityError, match="exponential ramp needs"):
        Schedule(value, "exponential", start)
