"""What the fields of a configuration may be: checks whose messages name the field, what is wanted and what came."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

RANGES: dict[str, Callable[[float], bool]] = {
    "at least 1": lambda value: value >= 1,
    "at least 0": lambda value: 0 <= value < math.inf,
    "positive": lambda value: 0 < value < math.inf,
    "in [0, 1]": lambda value: 0 <= value <= 1,
    "in [0, 1)": lambda value: 0 <= value < 1,
}
"""By how a message says them. NaN is in none of them."""


def check_numbers(configuration: object, wanted: str, *names: str) -> None:
    """Raise ValueError unless all these fields are numbers `wanted` says, one of `RANGES`."""
    for name in names:
        value = getattr(configuration, name)
        if not RANGES[wanted](value):
            raise ValueError(f"{name} must be {wanted}{' and finite' * (value == math.inf)}, got {value}")


def check_choices(configuration: object, **choices: Collection[str]) -> None:
    """Raise ValueError unless these fields are among their choices."""
    for name, allowed in choices.items():
        value = getattr(configuration, name)
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
