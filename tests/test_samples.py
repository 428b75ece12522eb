"""What all readers share: samples that check themselves, splits, missing data, files left out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from posegeom import H36M_17
from posegeom_models.data import handdb, human36m, lsp, mads, mpi_inf_3dhp, threedpw
from posegeom_models.data.files import MotionFileError
from posegeom_models.data.samples import Part, Sample, Samples

PROTOCOLS = [module.PROTOCOL for module in (human36m, mpi_inf_3dhp, threedpw, handdb, lsp, mads)]


def sample(**changes: object) -> Sample:
    fields: dict[str, object] = {"joints": np.ones((17, 3), np.float32), "points": np.ones((17, 2), np.float32)}
    return Sample("x", "y", 3, H36M_17, **(fields | changes))  # type: ignore[arg-type]


def test_a_sample_refuses_what_does_not_fit_its_skeleton() -> None:
    assert sample().image is None
    with pytest.raises(ValueError, match=r"joints must be \(17, 3\) for H36M_17, got \(16, 3\)"):
        sample(joints=np.ones((16, 3)))
    with pytest.raises(ValueError, match=r"visible must be \(17,\) for H36M_17, got \(14,\)"):
        sample(visible=np.ones(14, bool))
    broken = np.ones((17, 2), np.float32)
    broken[16, 1] = np.nan
    with pytest.raises(ValueError, match="points must be finite, got right_wrist of frame 3 NaN or infinite"):
        sample(points=broken)


def good() -> Iterator[Sample]:
    yield sample()


def bad() -> Iterator[Sample]:
    yield sample()
    raise MotionFileError("b.pkl: broken")


def worse() -> Iterator[Sample]:
    yield sample(joints=np.full((17, 3), np.nan))


def test_broken_parts_stop_the_stream_or_are_skipped_and_counted() -> None:
    parts = [Part(Path("a.pkl"), good), Part(Path("b.pkl"), bad), Part(Path("c.pkl"), worse), Part(Path("d.pkl"), good)]
    with pytest.raises(MotionFileError, match=r"b\.pkl: broken"):
        list(Samples(PROTOCOLS[0], parts))
    with pytest.raises(MotionFileError, match=r"c\.pkl: joints must be finite, got pelvis"):
        list(Samples(PROTOCOLS[0], parts[2:]))
    samples = Samples(PROTOCOLS[0], parts, skip_broken=True)
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"Human3\.6M: 2 of 4 files skipped: b\.pkl: broken"):
            assert len(list(samples)) == 3
        assert len(samples.skipped) == 2
        assert samples.skipped[1].startswith("c.pkl: joints must be finite")


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.source)
def test_every_protocol_names_splits_joints_and_where_the_data_are_had(protocol) -> None:  # type: ignore[no-untyped-def]
    assert set(protocol.scored) <= set(protocol.skeleton.joints)
    assert protocol.members("train") == protocol.train
    assert set(protocol.test) <= set(protocol.members("all"))
    with pytest.raises(ValueError, match=f"split of {protocol.source} must be one of train"):
        protocol.members("trial")
    with pytest.raises(FileNotFoundError, match=f"nowhere: no {protocol.source} here; get .+, and put .+"):
        protocol.check_there(Path("nowhere"))


def test_the_papers_splits() -> None:
    assert human36m.PROTOCOL.train == ("S1", "S5", "S6", "S7", "S8")
    assert human36m.PROTOCOL.test == ("S9", "S11")
    assert mpi_inf_3dhp.PROTOCOL.test == ("TS1", "TS2", "TS3", "TS4", "TS5", "TS6")
    left_out = set(mpi_inf_3dhp.PROTOCOL.skeleton.joints) - set(mpi_inf_3dhp.PROTOCOL.scored)
    assert left_out == {"pelvis", "spine", "nose"}
