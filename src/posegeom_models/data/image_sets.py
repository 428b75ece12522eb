"""The data sets with images and 3D poses that a model can be trained and scored on, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from posegeom import MPI_INF_3DHP_28
from posegeom_models.data.human36m import read_h36m_fetch
from posegeom_models.data.mpi_inf_3dhp import read_3dhp_test, read_3dhp_train
from posegeom_models.data.samples import Samples
from posegeom_models.data.threedpw import read_3dpw

Reader = Callable[[Path, str, int, bool], Samples]


def _read_h36m(path: Path, split: str, step: int, skip_broken: bool) -> Samples:
    return read_h36m_fetch(path, split, step, skip_broken=skip_broken)


def _read_3dhp(path: Path, split: str, step: int, skip_broken: bool) -> Samples:
    if split not in ("train", "test"):
        raise ValueError(f"split of mpi_inf_3dhp must be train or test, got {split!r}")
    if split == "test":
        return read_3dhp_test(path, step=step, skip_broken=skip_broken)
    # All of its joints: the 17 of the protocol lack the feet.
    return read_3dhp_train(path, step=step, skeleton=MPI_INF_3DHP_28, skip_broken=skip_broken)


def _read_3dpw(path: Path, split: str, step: int, skip_broken: bool) -> Samples:
    return read_3dpw(path, split, step, skip_broken=skip_broken)


DATA_SETS: dict[str, Reader] = {"human36m": _read_h36m, "mpi_inf_3dhp": _read_3dhp, "threedpw": _read_3dpw}
"""By name: (folder, split, every how many-th frame, leave out what cannot be read) to samples."""

STANDING = ("human36m", "mpi_inf_3dhp")
"""Those whose cameras stand still, so that a recording's median is its background."""
