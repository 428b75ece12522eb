"""Where a training's frames come from: the rendered clips of one camera, or footage, with the constant answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from posegeom.skeleton import convert_joints
from posegeom_models.data.image_sets import DATA_SETS
from posegeom_models.data.reels import Film, Reel
from posegeom_models.data.rendered import RenderedBenchmark, RenderedConfig
from posegeom_models.material import Material


@pytest.fixture(scope="module")
def benchmark() -> RenderedBenchmark:
    config = RenderedConfig(size=32, clips=(4, 1, 1), identities=(2, 1, 1), frames=4, anywhere=0.0, cameras=2)
    return RenderedBenchmark(config, "train")


def test_on_a_cpu_the_frames_of_a_camera_are_rendered_when_they_are_asked_for(benchmark: RenderedBenchmark) -> None:
    material = Material(benchmark, every=2)
    for camera in (0, 1):
        reel = material.reel(camera)
        assert isinstance(reel, Film)
        assert not bool(reel.rendered.any())
        shown = benchmark.render([1], [2], camera)
        torch.testing.assert_close(reel.frames(torch.tensor([3])).image, shown.image, rtol=0, atol=1 / 255)
    reel = material.reel()
    torch.testing.assert_close(material.constants(reel).joints, reel.canonical.mean(0))


def test_footage_takes_the_clips_place_and_the_constants_are_the_rendered_peoples(
    benchmark: RenderedBenchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    whole = Reel.render(benchmark)
    monkeypatch.setattr(Reel, "from_footage", lambda *given, **named: asked.append((given, named)))
    material = Material(benchmark, 3, footage=Path("films"), boxes=Path("boxes.csv"), skip_broken=True)
    assert material.reel() is None
    ((folder, size, rate, boxes), named) = asked[0]
    assert (folder, size, rate, boxes) == (Path("films"), 32, benchmark.config.frame_rate / 3, Path("boxes.csv"))
    assert named == {
        "skeleton": benchmark.skeleton,
        "skip_broken": True,
        "detector": None,
        "background": "median",
        "follow": True,
        "shortest": 5.0,
    }
    # One frame of each clip; the footage itself, here nothing at all, is not asked.
    unknown: Any = None
    torch.testing.assert_close(material.constants(unknown).points, whole.points[::4].mean(0), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"boxes": Path("boxes.csv")}, "boxes says where people are in footage, and there is none"),
        ({"detector": Path("weights.pth")}, "detector says where people are in footage, and there is none"),
        ({"skip_broken": True}, "skip_broken is of files that are read"),
        ({"footage": Path("a"), "boxes": Path("b.csv"), "detector": Path("c.pth")}, "boxes and detector both say"),
        ({"footage": Path("a"), "data_set": "human36m", "path": Path("b")}, "footage and data_set would both take"),
        ({"path": Path("b")}, "data_set and path, its folder, must be given together"),
        ({"data_set": "coco", "path": Path("b")}, "data_set must be one of human36m, mpi_inf_3dhp, threedpw"),
    ],
)
def test_what_would_have_no_effect_is_refused(benchmark: RenderedBenchmark, given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Material(benchmark, **given)


def test_a_detector_is_loaded_by_its_weights(benchmark: RenderedBenchmark) -> None:
    material = Material(benchmark, footage=Path("films"), detector=Path("nowhere.pth"))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth: no weights of the person detector; download"):
        material.reel()


def test_labels_of_a_data_set_are_poses_with_every_joint(tmp_path: Path, benchmark: RenderedBenchmark) -> None:
    from tests.test_mpi_inf_3dhp import train

    train(tmp_path)
    samples = list(DATA_SETS["mpi_inf_3dhp"](tmp_path, "train", 1, False))
    placed = torch.ones(len(samples[0].skeleton.joints), 1)
    assert not bool(convert_joints(placed, samples[0].skeleton, benchmark.skeleton, missing="nan").isnan().any())
    with pytest.raises(ValueError, match="split of mpi_inf_3dhp must be train or test, got 'validation'"):
        DATA_SETS["mpi_inf_3dhp"](tmp_path, "validation", 1, False)
