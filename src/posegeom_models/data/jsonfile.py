"""JSON files, read with one clear error."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from posegeom_models.data.files import MotionFileError, read_bytes


def read_json(path: str | Path) -> Any:
    """What a JSON file holds.

    Raises:
        MotionFileError: the file is broken, or nested without end.
        FileNotFoundError: no such file.
    """
    path = Path(path)
    content = read_bytes(path)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise MotionFileError(f"{path}: not readable JSON (truncated or damaged): {error}") from None


def is_number(value: object) -> bool:
    """Whether a value from JSON is a finite number (JSON readers also let NaN through)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf
