"""The puppet in random paint: its colours and pictures, its loss and what that moves, and its turns."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

pytest.importorskip("torchvision")

from posegeom_models.pgp.batches import PgpData
from posegeom_models.pgp.configuration import PgpConfig, Turn, turn_of
from posegeom_models.pgp.networks import PgpNetworks
from posegeom_models.pgp.objective import l_painted, painted
from posegeom_models.pgp.paint import Paint
from posegeom_models.pgp.recipe import PgpRecipe
from posegeom_models.supervision import heat_error
from tests.test_pgp_data import CONFIG, all_tensors
from tests.test_pgp_networks import SMALL, standing
from tests.test_pgp_training import POSE, watched

PAINTED = replace(CONFIG, painted_turns=2)
PARTS = ("head", "left_arm", "right_arm", "left_leg", "right_leg")


@pytest.fixture(scope="module")
def data() -> PgpData:
    return PgpData(PAINTED)


def paint(count: int) -> Paint:
    pictures = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 2, 2) / 4
    return Paint.random(count, PARTS, pictures, torch.Generator().manual_seed(0))


def test_limbs_of_both_sides_have_one_colour_and_parts_often_share_one() -> None:
    colors = paint(400).colors
    assert colors.shape == (400, 5, 3)
    assert 0 <= float(colors.min()) < 0.01
    assert 0.99 < float(colors.max()) <= 1
    assert torch.equal(colors[:, 1], colors[:, 2])
    assert torch.equal(colors[:, 3], colors[:, 4])
    # Of three kinds, one takes another's colour (or its own again) in half of the cases.
    alike = (colors[:, 0] == colors[:, 1]).all(-1).float().mean()
    assert 0.25 < float(alike) < 0.5
    again = paint(400)
    assert all(torch.equal(one, other) for one, other in zip(again, paint(400), strict=True))
    assert not torch.equal(again.cloth, again.scene)
    assert 0.4 < float(again.strength.mean()) < 0.6


def test_a_pixel_is_its_parts_colours_under_the_cloth_and_the_scene_where_nobody_is() -> None:
    # Half of part 0, a quarter of part 1, a quarter of the background.
    maps = torch.tensor([0.5, 0.25, 0.25]).view(1, 3, 1, 1)
    colors = torch.tensor([[[0.8, 0.4, 0.0], [0.4, 0.8, 0.8]]])
    cloth, scene = torch.full((1, 3, 1, 1), 0.75), torch.tensor([1.0, 0.0, 0.4]).view(1, 3, 1, 1)
    image = painted(maps, Paint(colors, cloth, torch.tensor([0.4]), scene))
    # The cloth makes it 1 + 0.4 * 0.5 = 1.2 times as bright.
    wanted = [1.2 * 0.5 + 0.25, 1.2 * 0.4, 1.2 * 0.2 + 0.1]
    torch.testing.assert_close(image.flatten(), torch.tensor(wanted))
    bright = painted(
        maps, Paint(colors.new_ones(1, 2, 3), torch.ones_like(cloth), torch.ones(1), torch.ones_like(scene))
    )
    assert bright.tolist() == [[[[1.0]], [[1.0]], [[1.0]]]]


def test_l_painted_has_the_terms_of_l_p3d_for_the_painted_image() -> None:
    torch.manual_seed(0)
    networks = PgpNetworks(SMALL).eval()
    pose = standing(networks)
    pictures = torch.rand(2, 3, SMALL.size, SMALL.size)
    coat = Paint.random(1, networks.parts, pictures, torch.Generator().manual_seed(1))
    seen: list[Tensor] = []
    heat = torch.zeros(1, 17, 8, 8)

    def look(images: Tensor) -> object:
        seen.append(images)
        return pose._replace(joints=pose.joints + 0.1, points=pose.points - 3.2, heat=heat)

    object.__setattr__(networks.encoder, "pose", look)
    photograph = torch.rand(1, 3, SMALL.size, SMALL.size)
    terms = l_painted(networks, pose, coat, photograph, 2.0, 3.0, 0.5)
    assert float(terms["p_3D"]) == pytest.approx(0.1, rel=1e-4)
    assert float(terms["q"]) == pytest.approx(2 * 3.2 / SMALL.size, rel=1e-4)
    shift = (pose.rotation @ torch.full((3,), 0.1)).abs().mean()
    assert float(terms["view"]) == pytest.approx(3 * float(shift), rel=1e-4)
    assert float(terms["heat"]) == pytest.approx(
        0.5 * float(heat_error(pose._replace(heat=heat), pose.points, SMALL.size))
    )
    assert torch.equal(seen[0], photograph)
    torch.testing.assert_close(seen[1], painted(networks.drawn(pose).maps, coat))
    # Far from the person there is the scene, and in the middle of the torso there is not.
    corner = seen[1][0, :, 0, 0]
    torch.testing.assert_close(corner, coat.scene[0, :, 0, 0], rtol=0, atol=1e-3)
    assert set(l_painted(networks, pose, coat, photograph)) == {"p_3D"}


def test_painted_puppets_move_the_pose_alone_and_photographs_the_statistics(data: PgpData) -> None:
    config = replace(PAINTED, lambda_view=1.0)
    watch = watched(config, data, 1)
    assert list(watch.moved) == ["painted"]
    assert watch.moved["painted"][0] == POSE
    # The statistics are those of one pass over the photographs.
    recipe = PgpRecipe(config)
    recipe.networks.train()
    with torch.no_grad():
        recipe.networks.encoder.pose(data.batch(1, 0, 1).target.image)
    wanted, found = recipe.networks.state_dict(), watch.recipe.networks.state_dict()
    kept = [name for name in wanted if name.endswith(("running_mean", "running_var"))]
    assert kept
    for name in kept:
        assert torch.equal(found[name], wanted[name]), name


def test_painted_steps_follow_each_iteration_in_both_stages() -> None:
    config = replace(
        PAINTED, base_share=0.5, labelled_turns=1
    )  # five steps of the base stage, its second round cut short
    turns = [turn_of(config, step) for step in range(10)]
    assert turns == [
        *(Turn("iteration", 0), Turn("painted", 0), Turn("painted", 1), Turn("iteration", 1), Turn("painted", 2)),
        *(Turn("iteration", 2), Turn("painted", 4), Turn("painted", 5), Turn("labelled", 0), Turn("iteration", 3)),
    ]
    unsup = replace(config, variant="unsup")
    assert [turn_of(unsup, step).name for step in range(6)] == ["iteration", "painted", "painted"] * 2
    assert [turn_of(replace(unsup, painted_turns=0), step) for step in (0, 9)] == [
        Turn("iteration", 0),
        Turn("iteration", 9),
    ]


@pytest.mark.parametrize("step", [1, 4])
def test_painted_batches_are_functions_of_the_step_and_shares_make_the_whole(data: PgpData, step: int) -> None:
    whole, again = (all_tensors(data.batch(step, 0, 1)) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(whole, again, strict=True))
    for rank in range(2):
        for one, other in zip(all_tensors(data.batch(step, rank, 2)), whole, strict=True):
            assert torch.equal(one, other[rank::2])
    batch = data.batch(step, 0, 1)
    assert len(batch.target.image) == 4
    parts = [all_tensors(data.part(batch, number, 2)) for number in range(2)]
    assert all(torch.equal(torch.cat(pair), one) for *pair, one in zip(*parts, whole, strict=True))
    assert "clip" in data.describe(step)


@pytest.mark.parametrize("without", ["self_supervised", "with_unpaired"])
def test_painted_puppets_need_poses(without: str) -> None:
    with pytest.raises(ValueError, match="painted_turns needs the poses D_z"):
        replace(PAINTED, **{without: False})
    assert PgpConfig().painted_turns == 0
