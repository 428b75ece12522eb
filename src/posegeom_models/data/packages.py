"""Optional packages, imported when they are first needed."""

from __future__ import annotations

import importlib
from typing import Any


def require(module: str, purpose: str, package: str | None = None) -> Any:
    """An optional module.

    Args:
        module: its import name.
        purpose: what it is needed for, as the subject of a sentence: "reading HDF5 files".
        package: its name for pip, where that differs.

    Raises:
        ImportError: it is not installed; one sentence says what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{purpose} needs the package {package or module}: pip install {package or module}"
        ) from error
