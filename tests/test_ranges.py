"""Checks of configurations: what each range holds, and what the messages say."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from posegeom_models.ranges import RANGES, check_choices, check_numbers

HELD = {
    "at least 1": ([1, 2, 1.5], [0, 0.99, -1, math.nan]),
    "at least 0": ([0, 0.0, 3, 1e30], [-1e-9, math.inf, math.nan]),
    "positive": ([1e-9, 3], [0, 0.0, -1, math.inf, math.nan]),
    "in [0, 1]": ([0, 0.5, 1], [-1e-9, 1.01, math.nan]),
    "in [0, 1)": ([0, 0.999], [1, -1e-9, math.nan]),
}


@pytest.mark.parametrize("wanted", RANGES)
def test_a_range_holds_its_numbers_and_no_others(wanted: str) -> None:
    inside, outside = HELD[wanted]
    for value in inside:
        check_numbers(SimpleNamespace(rate=value), wanted, "rate")
    for value in outside:
        with pytest.raises(ValueError, match="rate must be "):
            check_numbers(SimpleNamespace(other=1, rate=value), wanted, "rate")


def test_messages_name_the_field_what_is_wanted_and_what_came() -> None:
    configuration = SimpleNamespace(width=8, steps=0, rate=math.inf, kind="c")
    with pytest.raises(ValueError, match=r"^steps must be at least 1, got 0$"):
        check_numbers(configuration, "at least 1", "width", "steps")
    with pytest.raises(ValueError, match=r"^rate must be at least 0 and finite, got inf$"):
        check_numbers(configuration, "at least 0", "rate")
    with pytest.raises(ValueError, match=r"^kind must be one of a, b, got 'c'$"):
        check_choices(configuration, kind=("a", "b"))
    check_choices(configuration, kind={"c": 1})
