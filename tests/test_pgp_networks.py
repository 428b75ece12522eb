"""000: shapes of its networks, their blocks by hand, T, and what the decoder is told of the pose."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import posegeom as pg

pytest.importorskip("torchvision")

from posegeom_models.data.rendered import RenderedBenchmark, RenderedConfig
from posegeom_models.pgp.configuration import NetworkConfig
from posegeom_models.pgp.networks import ChannelwiseFC, PgpNetworks, Residual
from posegeom_models.pgp.recipe import predict
from posegeom_models.pgp.synthesis import part_labels, transfer, turned_views
from posegeom_models.poses import Pose

SMALL = NetworkConfig(
    size=32,
    stride=4,
    backbone="pyramid",
    width=4,
    hidden=16,
    appearance_widths=(8, 16),
    appearance_channels=8,
    decoder_widths=(16, 8),
    squeeze=2,
)


@pytest.fixture
def networks() -> PgpNetworks:
    torch.manual_seed(0)
    return PgpNetworks(SMALL).eval()


def standing(networks: PgpNetworks, distance: float = 5.0, azimuth: float = 0.0) -> Pose:
    """A person with the arms held out, as a camera in front sees it."""
    directions = torch.zeros(1, 13, 3)
    free = [pg.BODY_17.joints[joint] for joint in pg.BODY_17.free_joints]
    for place, name in enumerate(free):
        along = (0.0, 0.0, 1.0) if name == "head" else (0.0, 0.0, -1.0)
        if "shoulder" in name or "elbow" in name or "wrist" in name:
            along = (0.0, 1.0 if name.startswith("left") else -1.0, 0.0)
        directions[0, place] = torch.tensor(along)
    joints = pg.forward_kinematics(directions, torch.zeros(1), pg.BODY_17, frame="canonical")
    turn = pg.camera_rotation(torch.tensor([azimuth]), torch.zeros(1), torch.zeros(1))
    return networks.encoder.seen(joints, turn, torch.tensor([[0.0, 0.0, distance]]))


def test_the_papers_networks_have_the_papers_shapes() -> None:
    networks = PgpNetworks(NetworkConfig()).eval()
    image = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        pose, appearance = networks.encoder(image)
        drawn, said = networks.decoder(networks.drawn(pose).maps[:, :-1], appearance)
    assert networks.encoder.local_vectors[-1].out_features == 2 + 13 * 3  # 004 §2
    assert networks.encoder.camera_parameters[-1].out_features == 6 + 3
    assert appearance.shape == (1, 64, 14, 14)
    assert drawn.shape == image.shape
    assert said.shape == (1, 13, 224, 224)  # twelve parts and the background
    torch.testing.assert_close(said.sum(1), torch.ones(1, 224, 224))
    lengths = pg.bone_vectors(pose.joints, pg.BODY_17).norm(dim=-1)[0]
    torch.testing.assert_close(lengths, torch.tensor(pg.BODY_17.lengths), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ablation", ["none", "without_fk"])
def test_before_training_everybody_stands_upright_and_faces_the_camera(ablation: str) -> None:
    torch.manual_seed(0)
    networks = PgpNetworks(replace(SMALL, hidden=256, ablation=ablation)).eval()
    with torch.no_grad():
        pose = networks(torch.rand(8, 3, 32, 32))
    where = dict(zip(pg.BODY_17.joints, pose.in_camera.unbind(1), strict=True))
    thigh, shank, torso, arm = 0.443, 0.443, 0.49, 0.277 + 0.248
    # x is to the right, y down and z away: the left hand is to the right, the feet point to the camera.
    expected = {
        "neck": (0.0, -torso, 0.0),
        "left_wrist": (0.151, arm - torso, 0.0),
        "right_wrist": (-0.151, arm - torso, 0.0),
        "left_ankle": (0.1337, thigh + shank, 0.0),
        "right_foot": (-0.1337, thigh + shank, -0.134),
    }
    for name, place in expected.items():
        off = (where[name] - torch.tensor(place)).norm(dim=-1)
        assert float(off.mean()) < 0.2, name


def test_one_pass_gives_what_pose_and_appearance_give_alone(networks: PgpNetworks) -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, 32, 32)
    for each in (networks, PgpNetworks(replace(SMALL, backbone="resnet18")).eval()):
        pose, appearance = each.encoder(images)
        torch.testing.assert_close(each.encoder.pose(images).points, pose.points)
        torch.testing.assert_close(each.encoder.appearance(images), appearance)


def test_a_channelwise_layer_mixes_places_and_no_maps() -> None:
    layer = ChannelwiseFC(3, 4)
    assert layer.weight.numel() == 3 * 4**4
    maps = torch.rand(2, 3, 4, 4)
    by_hand = torch.stack(
        [
            torch.stack([layer.weight[m] @ maps[b, m].flatten() + layer.bias[m] for m in range(3)]).view(3, 4, 4)
            for b in range(2)
        ]
    )
    torch.testing.assert_close(layer(maps), by_hand)
    slope = torch.autograd.functional.jacobian(lambda one: layer(one.unsqueeze(0))[0], maps[0])
    assert bool((slope[0, 3, 3, 0, 0, 0] != 0).all())  # from one corner to the other
    assert bool((slope[0, :, :, 1:] == 0).all())  # and from no other map


def test_at_first_a_channelwise_layer_says_the_same_everywhere_of_each_map() -> None:
    torch.manual_seed(0)
    layer = ChannelwiseFC(3, 4)
    said = layer(torch.rand(2, 3, 4, 4))
    torch.testing.assert_close(said, said[..., :1, :1].expand_as(said))
    torch.testing.assert_close(layer(torch.full((1, 3, 4, 4), 0.7)), torch.full((1, 3, 4, 4), 0.7))
    assert float((layer.weight[0, 0] - layer.weight[1, 0]).detach().abs().max()) > 0.01  # each map of another region


def test_lifted_branches_see_key_points_alone_and_the_figure_at_one_size() -> None:
    torch.manual_seed(0)
    encoder = PgpNetworks(replace(SMALL, lifted=True)).eval().encoder
    features: list[Tensor] = []
    encoder.local_vectors.register_forward_hook(lambda module, inputs, output: features.append(inputs[0]))
    points = 8 + 16 * torch.rand(1, 17, 2)
    pose = encoder.lift(torch.cat((points, 2 * points - 3)))
    figure, place, extent = features[0].split((34, 2, 1), dim=-1)
    torch.testing.assert_close(figure[0], figure[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(place, torch.stack((points.mean(1)[0], (2 * points - 3).mean(1)[0])) / 32 - 0.5)
    assert float(extent[1] - extent[0]) == pytest.approx(math.log(2), abs=1e-3)
    # Of an image, the branches are told where its heatmaps have the joints; a heatmap's cell is four pixels wide.
    assert pose.heat is None
    image = torch.rand(2, 3, 32, 32)
    seen = encoder.pose(image)
    assert seen.heat is not None
    found = 4 * pg.soft_argmax(seen.heat) + 1.5
    torch.testing.assert_close(encoder.lift(found).joints, seen.joints)
    torch.testing.assert_close(encoder.lift(found).points, seen.points)


def test_a_mirror_image_has_the_mirrored_key_points_where_both_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    networks = PgpNetworks(replace(SMALL, lifted=True, mirrored=True)).eval()
    found: list[Tensor] = []
    lift = networks.encoder.lift

    def noted(points: Tensor) -> Pose:
        found.append(points)
        return lift(points)

    monkeypatch.setattr(networks.encoder, "lift", noted)
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        told = predict(networks, images)
        networks(images.flip(-1))
        networks.encoder.pose(images)
    both, of_mirrored, one = found
    torch.testing.assert_close(of_mirrored, pg.flip_joints(both, pg.BODY_17, width=32))
    torch.testing.assert_close(told.points, lift(both).points)
    assert not torch.allclose(one, both, atol=1e-3)
    with pytest.raises(ValueError, match="mirrored takes means of key points"):
        replace(SMALL, mirrored=True)


def test_a_standardized_appearance_is_never_the_same_for_everybody() -> None:
    torch.manual_seed(0)
    images = torch.rand(8, 3, 1, 1).expand(8, 3, 32, 32)  # people of one colour each
    encoder = PgpNetworks(replace(SMALL, standardized=True)).encoder.train()
    last = encoder.appearance_maps[1]
    assert isinstance(last, nn.Conv2d)
    for scale in (10.0, 1.0):
        nn.init.normal_(last.weight, std=scale)
        appearance = encoder.appearance(images)
        alive = appearance.std(0, unbiased=False) > 0
        assert float(alive.float().mean()) > 0.4  # a rectifier may be shut for all eight
        torch.testing.assert_close(appearance.mean(0), torch.zeros(8, 8, 8), rtol=0, atol=1e-3)
        torch.testing.assert_close(
            appearance.std(0, unbiased=False)[alive].median(), torch.tensor(1.0), rtol=0, atol=0.05
        )


def test_a_residual_block_is_its_shortcut_where_its_layers_are_nothing() -> None:
    block = Residual(6, (2, 3, 6)).eval()
    widths = [(c.in_channels, c.out_channels, c.kernel_size[0]) for c in block.layers if isinstance(c, nn.Conv2d)]
    assert widths == [(6, 2, 1), (2, 3, 3), (3, 6, 1)]
    maps = torch.randn(1, 6, 4, 4)
    last = [layer for layer in block.layers if isinstance(layer, nn.Conv2d)][-1]
    nn.init.zeros_(last.weight)
    torch.testing.assert_close(block(maps), maps.relu())
    assert Residual(6, (2, 2, 8), stride=2)(maps.expand(2, -1, -1, -1)).shape == (2, 8, 2, 2)


def test_points_are_where_a_pinhole_sees_the_joints(networks: PgpNetworks) -> None:
    pose = standing(networks, 5.0)
    # Seen from +X: y is to the right, z is up; x comes nearer. The focal length is two sides of 32 pixels.
    x, y, z = pose.joints[0].unbind(-1)
    expected = torch.stack((64 * y / (5 - x) + 15.5, -64 * z / (5 - x) + 15.5), dim=-1)
    torch.testing.assert_close(pose.points[0], expected, rtol=0, atol=1e-4)


def test_the_restricted_translations_keep_every_joint_in_the_image() -> None:
    networks = PgpNetworks(SMALL)
    raw = torch.tensor([[9.0, -9.0, -9.0], [-9.0, 9.0, 9.0], [0.0, 9.0, -9.0]])
    translation = networks.encoder.translation(raw)
    joints = standing(networks).joints
    for azimuth in (0.0, 1.0, math.pi):
        turn = pg.camera_rotation(torch.full((3,), azimuth), torch.full((3,), 0.3), torch.zeros(3))
        points = networks.encoder.seen(joints.expand(3, -1, -1), turn, translation).points
        assert float(points.min()) > -0.5
        assert float(points.max()) < 31.5


def test_autocast_leaves_the_geometry_in_full_precision(networks: PgpNetworks) -> None:
    images = torch.rand(2, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        pose, appearance = networks.encoder(images)
        maps = networks.drawn(pose).maps
        drawn, said = networks.decoder(maps[:, :-1], appearance)
    again = networks.encoder.seen(pose.joints, pose.rotation, pose.translation)
    assert torch.equal(pose.points, again.points)
    assert torch.equal(maps, networks.drawn(pose).maps)
    assert {value.dtype for value in (pose.points, appearance, maps, drawn, said)} == {torch.float32}


def test_a_person_twice_as_far_covers_a_quarter(networks: PgpNetworks) -> None:
    networks = PgpNetworks(replace(SMALL, size=128))
    near, far = (float(networks.drawn(standing(networks, at)).foreground.sum()) for at in (4.0, 8.0))
    assert near / far == pytest.approx(4, rel=0.1)


def unaware(networks: PgpNetworks, pose: Pose) -> Tensor:
    """The labels of y_p, whatever the appearance."""
    side = networks.config.size // networks.config.stride
    blank = torch.zeros(len(pose.points), networks.config.appearance_channels, side, side)
    return part_labels(networks, pose, blank)[1]


def test_the_nearer_arm_hides_the_other_in_profile(networks: PgpNetworks) -> None:
    networks = PgpNetworks(replace(SMALL, size=128))
    for azimuth, front in ((math.pi / 2, "right_wrist"), (-math.pi / 2, "left_wrist")):
        pose = standing(networks, 4.0, azimuth)
        side = pose.in_camera[0, pg.BODY_17.index(front), 2]
        assert side < 0  # nearer than the pelvis
        labels = unaware(networks, pose)
        counts = {name: int((labels == 1 + part).sum()) for part, name in enumerate(networks.parts)}
        behind = front.replace("right", "left") if "right" in front else front.replace("left", "right")
        assert counts[front] > 10 * max(counts[behind], 1)
        # A depth from elsewhere has the last word.
        own = (pose.in_camera + pose.translation.unsqueeze(1))[..., 2]
        swapped = networks.drawn(pose, 8 - own).maps.argmax(1)
        assert int((swapped == networks.parts.index(behind)).sum()) > counts[behind]
        assert int((swapped == networks.parts.index(front)).sum()) < counts[front]


def test_labels_are_numbered_like_the_rendered_benchmarks() -> None:
    """The puppet in the true pose covers each part of rendered people, by number."""
    config = RenderedConfig(size=96, clips=(6, 1, 1), identities=(6, 1, 1), frames=2, anywhere=0.0, cameras=1)
    frames = RenderedBenchmark(config, "train").render(list(range(6)), [0] * 6)
    networks = PgpNetworks(replace(SMALL, size=96))
    focal = frames.camera.focal
    assert isinstance(focal, torch.Tensor)
    # As far as the fixed camera has to be for people of this size.
    distance = networks.config.focal * 96 * frames.joints[:, 0, 2] / focal[:, 0]
    shift = torch.stack((torch.zeros(6), torch.zeros(6), distance), dim=-1)
    about = frames.joints - frames.joints[:, :1]
    pose = Pose(about, torch.eye(3).expand(6, 3, 3), shift, frames.points)
    labels = unaware(networks, pose)
    overlap = []
    for number in range(1, 13):
        said, true = labels == number, frames.labels == number
        if int(true.sum()) > 60:
            overlap.append(float((said & true).sum() / (said | true).sum()))
    assert len(overlap) >= 6
    assert sum(overlap) / len(overlap) > 0.4
    assert float(((labels > 0) == (frames.labels > 0)).float().mean()) > 0.93


def test_the_part_maps_join_at_every_level(networks: PgpNetworks) -> None:
    seen: list[Tensor] = []
    blocks = [part for part in networks.decoder.modules() if isinstance(part, Residual)]
    for block in blocks:
        block.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0][:, -12:]))
    parts = torch.rand(2, 12, 32, 32)
    networks.decoder(parts, torch.rand(2, 8, 8, 8))
    assert len(seen) == len(blocks)
    assert sorted(maps.shape[-1] for maps in seen) == [8, 16, 16, 32, 32]
    for maps in seen:
        side = 32 // maps.shape[-1]
        by_hand = parts.unflatten(2, (-1, side)).unflatten(4, (-1, side)).mean((3, 5))
        torch.testing.assert_close(maps, by_hand)


@pytest.mark.parametrize("background", [0.0, 0.7])
def test_before_training_the_parts_are_nearly_the_puppets_and_the_image_is_empty_behind(background: float) -> None:
    torch.manual_seed(0)
    networks = PgpNetworks(replace(SMALL, background=background))
    maps = networks.drawn(standing(networks)).maps.expand(2, -1, -1, -1)
    with torch.no_grad():
        image, said = networks.decoder(maps[:, :-1], torch.rand(2, 8, 8, 8))
    assert float((said.argmax(1) == maps.argmax(1)).float().mean()) > 0.95
    behind, before = (image.mean(1)[where].mean() for where in (maps[:, -1] > 0.99, maps[:, -1] < 0.01))
    assert float(behind) == pytest.approx(background, abs=0.1)
    assert float(before) == pytest.approx(0.5, abs=0.15)


def test_without_fk_joints_are_in_the_cameras_axes_and_have_any_length() -> None:
    torch.manual_seed(0)
    networks = PgpNetworks(replace(SMALL, ablation="without_fk")).eval()
    torch.nn.init.normal_(networks.encoder.local_vectors[-1].bias, std=0.1)
    pose = networks(torch.rand(2, 3, 32, 32))
    torch.testing.assert_close(pose.in_camera, pose.joints)
    lengths = pg.bone_vectors(pose.joints, pg.BODY_17).norm(dim=-1)
    assert not torch.allclose(lengths[0], torch.tensor(pg.BODY_17.lengths), atol=1e-2)
    plain = PgpNetworks(SMALL)
    seen = standing(plain, 5.0, 0.7)
    given = networks.encoder.posed(seen.joints, seen.rotation, seen.translation)
    torch.testing.assert_close(given.joints, seen.in_camera)
    torch.testing.assert_close(given.points, seen.points)


def test_a_puppet_of_one_labelled_picture_takes_the_capsules_place(tmp_path: Path) -> None:
    config = RenderedConfig(size=96, clips=(40, 1, 1), identities=(6, 1, 1), frames=1, anywhere=0.0, cameras=1)
    shown = RenderedBenchmark(config, "train").render(range(40), [0] * 40)
    counts = torch.stack([(shown.labels == number).flatten(1).sum(1) for number in range(1, 13)])
    best = int(counts.amin(0).argmax())  # the person whose smallest part is largest
    puppet = pg.Puppet.from_labels(shown.labels[best], shown.points[best], pg.BODY_17, erosion=0.5, blur=0.7)
    puppet.save(tmp_path / "person.npz")
    torch.manual_seed(0)
    networks = PgpNetworks(replace(SMALL, size=96, puppet=tmp_path / "person.npz"))
    capsules = PgpNetworks(replace(SMALL, size=96))
    assert torch.equal(networks.puppet.shape, puppet.shape)
    pose = standing(networks, 4.5)
    one, other = networks.drawn(pose).foreground > 0.5, capsules.drawn(pose).foreground > 0.5
    assert float((one & other).sum() / (one | other).sum()) > 0.5
    # The template travels with the weights, and so does how large it is: another file of the same size does no harm.
    pg.Puppet.capsules(pg.BODY_17, (96, 96)).save(tmp_path / "person.npz")
    again = PgpNetworks(replace(SMALL, size=96, puppet=tmp_path / "person.npz"))
    of_the_file = float(again.pixels_of_a_metre)
    again.load_state_dict(networks.state_dict())
    assert abs(float(networks.pixels_of_a_metre) - of_the_file) > 1
    torch.testing.assert_close(again.drawn(pose).maps, networks.drawn(pose).maps)
    pg.Puppet.capsules(pg.H36M_17, (16, 16)).save(tmp_path / "other.npz")
    with pytest.raises(ValueError, match="puppet of H36M_17"):
        PgpNetworks(replace(SMALL, puppet=tmp_path / "other.npz"))


def test_transfer_pairs_every_person_with_every_pose(networks: PgpNetworks) -> None:
    poses, people = torch.rand(3, 3, 32, 32), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        images, parts = transfer(networks, poses, people)
        maps = networks.drawn(networks.encoder.pose(poses[2:])).maps[:, :-1]
        alone, classes = networks.decoder(maps, networks.encoder.appearance(people[1:]))
    assert images.shape == (2, 3, 3, 32, 32)
    torch.testing.assert_close(images[1, 2], alone[0])
    torch.testing.assert_close(parts[1, 2], classes[0])
    pose, appearance = networks.encoder.pose(poses[2:]), networks.encoder.appearance(people[1:])
    with torch.no_grad():
        aware, _ = part_labels(networks, pose, appearance)
    torch.testing.assert_close(aware, (classes.argmax(1) + 1) % 13)


@pytest.mark.parametrize("ablation", ["none", "without_fk"])
def test_turned_views_turn_the_person_about_the_trunk(ablation: str) -> None:
    torch.manual_seed(0)
    networks = PgpNetworks(replace(SMALL, ablation=ablation)).eval()
    image = torch.rand(1, 3, 32, 32)
    quarter = math.pi / 2
    with torch.no_grad():
        pose = networks.encoder.pose(image)
        _, _, puppets = turned_views(networks, image, torch.tensor([0.0, quarter]))
        canonical, rotation, _ = pg.canonicalize(pose.in_camera, pg.BODY_17)
        # A quarter turn about +Z takes (x, y) to (-y, x).
        x, y, z = canonical.unbind(-1)
        turned = networks.encoder.seen(torch.stack((-y, x, z), dim=-1), rotation, pose.translation)
        for view, there in enumerate((pose, turned)):
            torch.testing.assert_close(puppets[0, view], networks.drawn(there).maps[0], rtol=0, atol=2e-2)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"stride": 3}, "power of two"),
        ({"decoder_widths": (8,)}, "decoder_widths must be 2"),
        ({"appearance_widths": (8,)}, "appearance_widths must be at least 2"),
        ({"ablation": "all"}, "ablation must be"),
        ({"background": 2.0}, "background must be"),
        ({"pool": 0}, "pool must be at least 1"),
        ({"squeeze": 0}, "squeeze must be at least 1"),
        ({"appearance_channels": 0}, "appearance_channels must be at least 1"),
        ({"decoder_widths": (8, 0)}, "decoder_widths must be numbers of at least 1"),
        ({"focal": 0.0}, "focal must be positive"),
        ({"backbone": "resnet18", "lifted": True}, "lifted needs the pyramid"),
        ({"weights": "IMAGENET1K_V1"}, "weights are of a ResNet, and the pyramid is none"),
        ({"radius": -1.0}, "radius must be above 0"),
        ({"far": 1.0}, "far must be above 1"),
        ({"backbone": "resnet18", "stride": 2, "decoder_widths": (8,)}, "stride must be 4, 8, 16 or 32"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(wrong: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        replace(SMALL, **wrong)  # type: ignore[arg-type]
