"""What several test files share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# pytest-xdist already keeps every core busy; more threads only get in one another's way.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def motion_data() -> Path:
    """The folder with the motion-capture test files (POSEGEOM_DATA, or shared/data beside the repository)."""
    folder = Path(os.environ.get("POSEGEOM_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not (folder / "freefall17.npz").is_file():
        pytest.skip(f"no motion data in {folder}; set POSEGEOM_DATA to the folder with freefall17.npz")
    return folder


@pytest.fixture
def unwritten_memory_is_nan() -> Iterator[None]:
    """An element that a kernel left unwritten shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills new memory with NaN
    yield
    torch.use_deterministic_algorithms(False)
