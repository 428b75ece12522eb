"""Every public function refuses what it cannot use, with a message that names the argument."""

import inspect

import pytest
import torch

import posegeom as pg
from posegeom import BODY_17, H36M_17, PerspectiveCamera, Puppet

CAMERA = PerspectiveCamera(100.0, None, (16, 16))
PUPPET = Puppet.capsules(BODY_17, (8, 8))
BONES = ((0, 1), (1, 2))


def real(*shape):
    return torch.rand(*shape)


def whole(*shape):
    return torch.zeros(*shape, dtype=torch.int64)


def case(function, good, shapes=None, numbers=None, choices=None):
    """A call that works, and what to spoil: wrong shapes, wrong numbers and wrong choices by argument."""
    return function, good, shapes or {}, numbers or {}, choices or {}


poses = {"prediction": real(2, 5, 3), "target": real(2, 5, 3), "mask": real(2, 5)}
pose_shapes = {"prediction": [(3,), (2, 4, 3)], "target": [(2, 5, 2)], "mask": [(2, 4), (3, 5)]}
sized = {"size": [(0, 5), (5,), (1.5, 2), "ab", 8, (-3, 3)]}
positive = [0, -1.0, float("nan"), "1"]
labels = {"prediction": whole(2, 3, 4), "target": whole(2, 3, 4), "classes": 3}

CASES = [
    case(
        pg.gram_schmidt_frame,
        {"primary": real(2, 3), "reference": real(2, 3)},
        {"primary": [(2, 4), (4, 3)], "reference": [(5,), (3, 3)]},
    ),
    case(
        pg.forward_kinematics,
        {"directions": real(2, 13, 3), "hip_angle": real(2), "skeleton": BODY_17, "lengths": real(2, 16)},
        {"directions": [(2, 12, 3), (2, 13, 2), (3,)], "hip_angle": [(3,)], "lengths": [(15,), (3, 16)]},
        choices={"frame": ["world", 3]},
    ),
    case(
        pg.local_directions,
        {"joints": real(2, 17, 3), "skeleton": BODY_17},
        {"joints": [(16, 3), (17, 2), (3,)]},
        choices={"frame": ["world"]},
    ),
    case(pg.canonicalize, {"joints": real(2, 17, 3), "skeleton": BODY_17}, {"joints": [(2, 17, 2), (2, 16, 3)]}),
    case(
        pg.flip_joints,
        {"joints_or_points": real(2, 17, 2), "skeleton": BODY_17},
        {"joints_or_points": [(2, 16, 2), (2, 17, 4), (17,)]},
        {"width": positive},
        {"axis": [2, -1]},
    ),
    case(
        pg.affine_points,
        {"points": real(2, 5, 2), "matrix": real(2, 2, 3)},
        {"points": [(5,)], "matrix": [(2, 3, 3), (3, 2, 3), (2, 3, 2)]},
    ),
    case(pg.bone_vectors, {"joints": real(2, 17, 3), "skeleton": BODY_17}, {"joints": [(2, 16, 3), (17,)]}),
    case(pg.bone_angles, {"joints": real(2, 17, 3), "skeleton": BODY_17}, {"joints": [(2, 16, 3), (2, 17, 4)]}),
    case(
        pg.convert_joints,
        {"joints": real(2, 17, 3), "source": BODY_17, "target": H36M_17, "missing": "nan"},
        {"joints": [(2, 16, 3), (17,)]},
        choices={"missing": ["zero"]},
    ),
    case(
        PerspectiveCamera,
        {"focal": real(2, 2) + 9, "center": real(2, 2), "size": (8, 8), "distortion": real(2, 5)},
        {"focal": [(2, 3), ()], "center": [(2, 1)], "distortion": [(2, 4)]},
        {"focal": [0.0, -5.0, (1.0, -2.0), float("nan")], **sized},
    ),
    case(CAMERA.crop, {"box": real(2, 4) + 1}, {"box": [(3,), ()]}, sized),
    case(CAMERA.resize, {"size": (4, 4)}, {}, sized),
    case(pg.project, {"points": real(2, 5, 3), "camera": CAMERA}, {"points": [(2, 5, 2), (3,)]}),
    case(
        pg.unproject,
        {"pixels": real(2, 5, 2), "depth": real(2, 5), "camera": CAMERA},
        {"pixels": [(2, 5, 3), (2,)], "depth": [(2, 4), (3, 5)]},
    ),
    case(
        pg.camera_rotation,
        {"azimuth": real(2), "elevation": real(2), "roll": real(2)},
        {"azimuth": [(3,)], "elevation": [(3,)], "roll": [(3,)]},
    ),
    case(pg.angles_from_sincos, {"sincos": real(2, 3, 2)}, {"sincos": [(2, 3), (2, 3, 3)]}),
    case(
        pg.bounded_translation,
        {"raw": real(2, 3), "camera": CAMERA, "radius": real(2)},
        {"raw": [(2, 2), ()], "radius": [(3,)]},
        {"radius": positive, "far": [1.0, 0.5, -3]},
    ),
    case(
        pg.lift,
        {"points": real(2, 5, 2), "depth_offset": real(2, 5)},
        {"points": [(2, 5, 3)], "depth_offset": [(2, 4), (3, 5)]},
        {"base": ["ten"], "floor": ["one"]},
    ),
    case(pg.elevation_azimuth_rotation, {"elevation_own": real(4)}),
    case(
        pg.joint_heatmaps,
        {"points": real(2, 5, 2), "size": (4, 4), "sigma": real(2, 5) + 1, "visible": real(2, 5)},
        {"points": [(2, 5, 3), (2,)], "sigma": [(4,), (3, 5)], "visible": [(2, 4), (3, 5)]},
        {"sigma": positive, **sized},
    ),
    case(
        pg.limb_maps,
        {
            "points": real(2, 5, 2),
            "bones": BONES,
            "size": (4, 4),
            "width": real(2, 2) + 1,
            "stretch": real(2),
            "visible": real(5),
        },
        {"points": [(2, 5, 3)], "width": [(3,), (3, 2)], "stretch": [(3,)], "visible": [(4,)]},
        {
            "width": positive,
            "stretch": positive,
            "bones": [(), [(0, 5)], [(-1, 0)], [(0, 1, 2)], real(2, 2), None, [1, 2]],
            **sized,
        },
    ),
    case(
        pg.skeleton_image,
        {"points": real(2, 5, 2), "bones": BONES, "size": (4, 4), "gamma": 1.0, "visible": real(2, 5)},
        {"points": [(2, 5, 3)], "visible": [(2, 4)]},
        {"gamma": positive, "bones": [(), [(0, 5)], None, 3], **sized},
        {"power": [0, 3, 1.5]},
    ),
    case(
        pg.soft_argmax,
        {"heatmaps": real(2, 5, 4, 4), "temperature": real(()) + 1},
        {"heatmaps": [(4,), (2, 0, 4)], "temperature": [(3,)]},
        {"temperature": positive},
    ),
    case(
        pg.part_transforms,
        {"points": real(2, 17, 2), "puppet": PUPPET, "width_scale": real(2, 1) + 1},
        {"points": [(2, 16, 2), (2, 17, 3)], "width_scale": [(3, 1), (5,)]},
        {"width_scale": positive, **sized},
    ),
    case(
        pg.part_maps,
        {"points": real(2, 17, 2), "puppet": PUPPET, "size": (4, 4), "width_scale": real(2, 1) + 1},
        {"points": [(2, 16, 2)], "width_scale": [(3, 1)]},
        {"width_scale": positive, **sized},
    ),
    case(pg.foreground_map, {"shape": real(2, 3, 4, 4)}, {"shape": [(4, 4), (2, 0, 4, 4)]}),
    case(pg.uncertainty_map, {"uncertainty": real(2, 3, 4, 4)}, {"uncertainty": [(4, 4), (2, 0, 4, 4)]}),
    case(pg.part_depth, {"joint_depth": real(2, 17), "puppet": PUPPET}, {"joint_depth": [(2, 16), ()]}),
    case(
        pg.depth_aware_segmentation,
        {"shape": real(2, 3, 4, 4), "depth": real(2, 3)},
        {"shape": [(4, 4), (2, 0, 4, 4)], "depth": [(2, 4), (3, 3)]},
        {"sharpness": positive},
        {"rule": ["best"]},
    ),
    case(pg.hard_segmentation, {"maps": real(2, 3, 4, 4)}, {"maps": [(4, 4)]}),
    case(
        pg.puppet_segmentation,
        {"points": real(2, 17, 2), "joint_depth": real(2, 17), "puppet": PUPPET, "size": (4, 4)},
        {"points": [(2, 16, 2)], "joint_depth": [(2, 16), (3, 17)]},
        {"sharpness": positive, "width_scale": positive, **sized},
        {"rule": ["best"]},
    ),
    case(
        pg.crop,
        {"images": real(2, 3, 8, 8), "boxes": real(2, 4), "size": (4, 4)},
        {"images": [(8, 8)], "boxes": [(2, 3), (3, 4)]},
        sized,
    ),
    case(
        pg.paste,
        {"patches": real(2, 3, 8, 8), "boxes": real(2, 4), "size": (4, 4)},
        {"patches": [(8, 8)], "boxes": [(2, 3), (3, 4)]},
        sized,
        {"padding": ["mirror"]},
    ),
    case(
        pg.composite,
        {"foreground": real(2, 3, 4, 4), "mask": real(2, 1, 4, 4), "background": real(2, 3, 4, 4)},
        {"foreground": [(4, 4)], "mask": [(2, 2, 4, 4), (3, 1, 4, 4)], "background": [(2, 3, 5, 4)]},
    ),
    case(
        pg.distance_similarity_loss,
        {"a": real(2, 6), "b": real(2, 6), "frame_distance": whole(2), "max_distance": 200},
        {"a": [(2, 5), ()], "b": [(2, 5), (3, 6)], "frame_distance": [(3,), (2, 2)]},
        {"max_distance": positive},
        {"reduction": ["avg"]},
    ),
    case(
        pg.info_nce_loss,
        {"anchor": real(2, 6), "positive": real(2, 6), "negatives": real(2, 3, 6), "temperature": 0.1},
        {"anchor": [()], "positive": [(2, 5)], "negatives": [(2, 3, 5), (3, 3, 6)]},
        {"temperature": positive},
        {"reduction": ["avg"]},
    ),
    case(
        pg.temporal_triplet_loss,
        {"anchor": real(2, 6), "positive": real(2, 6), "negative": real(2, 6), "margin": 0.1},
        {"anchor": [()], "positive": [(2, 5)], "negative": [(3, 6)]},
        {"margin": [-0.1, float("nan"), "1"]},
        {"reduction": ["avg"]},
    ),
    case(
        pg.gravity_tracking_loss,
        {"boxes": real(2, 4, 4), "margin": 0.1},
        {"boxes": [(2, 3, 4), (2, 4, 3), (4,)]},
        {"margin": [-0.1, "1"]},
        {"down": [0, 2], "reduction": ["avg"]},
    ),
    case(pg.relative_bone_lengths, {"joints": real(2, 17, 3), "skeleton": BODY_17}, {"joints": [(2, 16, 3)]}),
    case(
        pg.bone_length_nll,
        {"joints": real(2, 17, 3), "skeleton": BODY_17, "mean": real(16), "std": real(16) + 1},
        {"joints": [(2, 16, 3)], "mean": [(15,), (3, 16)], "std": [(15,), (3, 16)]},
        {"std": positive},
        {"reduction": ["avg"]},
    ),
    case(
        pg.deformation_loss,
        {"before": real(2, 5, 3), "after": real(2, 5, 3), "pairs": whole(4, 2)},
        {"before": [(5, 3)], "after": [(2, 4, 3)], "pairs": [(4, 3), (4,)]},
        {},
        {"power": [0, 3], "reduction": ["avg"]},
    ),
    case(
        pg.masked_l1,
        {"a": real(2, 3, 4, 4), "b": real(2, 3, 4, 4), "weight": real(2, 4, 4)},
        {"a": [(4, 4)], "b": [(2, 2, 4, 4)], "weight": [(3, 4, 4), (2, 5, 4)]},
        choices={"reduction": ["avg"]},
    ),
    case(
        pg.segmentation_uncertainty_loss,
        {"probabilities": real(2, 3, 4, 4), "labels": whole(2, 4, 4), "uncertainty": real(2, 4, 4)},
        {"probabilities": [(4, 4)], "labels": [(2, 3, 4)], "uncertainty": [(2, 4, 5)]},
        choices={"reduction": ["avg"]},
    ),
    case(pg.mpjpe, poses, pose_shapes, {"root": [5, -1, 1.5]}, {"reduction": ["avg"]}),
    case(pg.n_mpjpe, poses, pose_shapes, {"root": [5, -1]}, {"reduction": ["avg"]}),
    case(
        pg.p_mpjpe, poses, {**pose_shapes, "prediction": [(2, 4, 3), (3,)]}, {"root": [5, -1]}, {"reduction": ["avg"]}
    ),
    case(pg.mpjve, poses, {**pose_shapes, "prediction": [(5, 3)]}, {"root": [5, -1]}, {"reduction": ["avg"]}),
    case(
        pg.procrustes_align,
        {"prediction": real(2, 5, 3), "target": real(2, 5, 3)},
        {"prediction": [(2, 5, 2)], "target": [(2, 4, 3)]},
    ),
    case(
        pg.pck,
        poses,
        pose_shapes,
        {"threshold": [-0.1, float("nan"), "1"], "joints": [(), (5,), (-1,)], "root": [5, -1]},
    ),
    case(pg.auc, poses, pose_shapes, {"thresholds": [(), (-0.1,), ("1",), 0.1], "joints": [(), (5,)]}),
    case(
        pg.part_iou,
        labels,
        {"prediction": [(4,)], "target": [(2, 3, 5)]},
        {"classes": [0, 1.5, -2, True]},
        {"reduction": ["avg"]},
    ),
    case(
        pg.part_f1,
        labels,
        {"prediction": [(4,)], "target": [(2, 3, 5)]},
        {"classes": [0, 1.5, -2, True]},
        {"reduction": ["avg"]},
    ),
    case(
        pg.mean_landmark_error,
        {"prediction": real(2, 5, 2), "target": real(2, 5, 2), "size": (4, 4)},
        {"prediction": [(2, 5, 3)], "target": [(2, 4, 2)]},
        sized,
        {"reduction": ["avg"]},
    ),
    case(
        pg.center_of_gravity, {"joints": real(2, 17, 3), "skeleton": BODY_17}, {"joints": [(2, 16, 3), (2, 17, 4), ()]}
    ),
    case(Puppet.capsules, {"skeleton": BODY_17, "size": (8, 8)}, {}, sized),
]

MANY_KINDS = {"visible", "mask", "frame_distance"}  # bool, integers and weights are all right there


def spoiled():
    """(id, function, arguments, the argument at fault)."""
    for function, good, shapes, numbers, choices in CASES:
        name = function.__name__
        tensors = [key for key, value in good.items() if isinstance(value, torch.Tensor)]
        for key in tensors:
            value = good[key]
            if value.ndim and function is not PerspectiveCamera:  # which takes sequences of numbers
                yield f"{name}-{key}-list", function, {**good, key: value.tolist()}, key, "list"
            if key not in MANY_KINDS or function is pg.composite:
                other = value.float() if key in ("labels", "pairs") or good is labels else value.long()
                yield f"{name}-{key}-dtype", function, {**good, key: other}, key, "dtype"
            if (len(tensors) > 1 and function is not PerspectiveCamera) or function in (
                pg.part_transforms,
                pg.part_maps,
            ):
                yield f"{name}-{key}-device", function, {**good, key: value.to("meta")}, key, "device"
        for kind, table in (("shape", shapes), ("number", numbers), ("choice", choices)):
            for key, bad in table.items():
                for value in bad:
                    wrong = torch.zeros(value, dtype=good[key].dtype) if kind == "shape" else value
                    shown = "tensor" if isinstance(value, torch.Tensor) else value
                    yield f"{name}-{key}-{shown}", function, {**good, key: wrong}, key, kind


SPOILED = list(spoiled())


@pytest.mark.parametrize("entry", CASES, ids=lambda entry: entry[0].__name__)
def test_the_unspoiled_calls_work(entry):
    function, good, *_ = entry
    function(**good)


@pytest.mark.parametrize("entry", SPOILED, ids=[entry[0] for entry in SPOILED])
def test_a_wrong_argument_is_refused_by_name(entry):
    _, function, arguments, key, kind = entry
    with pytest.raises((ValueError, TypeError)) as error:
        function(**arguments)
    message = str(error.value)
    assert key in message
    if kind == "device":
        assert "meta" in message
        assert "cpu" in message
    elif kind == "shape":
        assert "got" in message or "must have the shape of" in message
        assert "must" in message
    else:
        assert "must be" in message or "must hold" in message or "must name" in message
        assert "got" in message


def test_every_public_function_is_in_the_table():
    table = {entry[0].__name__ for entry in CASES}
    public = {name for name in pg.__all__ if inspect.isfunction(getattr(pg, name))}
    assert public <= table, public - table


@pytest.mark.parametrize("field", ["focal", "center", "distortion"])
@pytest.mark.parametrize("fault", ["shape", "device"])
def test_a_camera_that_does_not_fit_the_points_is_refused_by_its_field(field, fault):
    values = {"focal": torch.full((2, 2), 50.0), "center": torch.full((2, 2), 8.0), "distortion": torch.zeros(2, 5)}
    wrong = values[field].to("meta") if fault == "device" else values[field][:1].expand(3, -1)
    camera = PerspectiveCamera(**{**values, field: wrong}, size=(16, 16))
    for call in (lambda: pg.project(real(2, 5, 3), camera), lambda: pg.unproject(real(2, 5, 2), real(2, 5), camera)):
        with pytest.raises(ValueError, match=f"camera.{field}"):
            call()
    if field != "distortion":
        plain = PerspectiveCamera(**{**values, field: wrong, "distortion": None}, size=(16, 16))
        with pytest.raises(ValueError, match=f"camera.{field}"):
            pg.bounded_translation(real(2, 3), plain, 1.0)


def test_a_box_that_does_not_fit_the_camera_is_refused():
    camera = PerspectiveCamera(torch.full((3, 2), 50.0), None, (16, 16))
    for box in (torch.ones(2, 4), torch.ones(3, 4, device="meta")):
        with pytest.raises(ValueError, match="box"):
            camera.crop(box)
    with pytest.raises(ValueError, match="s_x must be > 0"):
        camera.crop((0.0, 1.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="camera must have no distortion"):
        pg.bounded_translation(real(2, 3), PerspectiveCamera(9.0, None, (8, 8), (0.1, 0.0, 0.0, 0.0, 0.0)), 1.0)


def test_the_trunk_decides_whether_there_is_a_hip_angle():
    with pytest.raises(ValueError, match=r"hip_angle must be .* BODY_17"):
        pg.forward_kinematics(real(13, 3), None, BODY_17)
    with pytest.raises(ValueError, match=r"hip_angle must be None.*HAND_21"):
        pg.forward_kinematics(real(20, 3), real(()), pg.HAND_21, real(20))
    with pytest.raises(ValueError, match=r"lengths must be given.*HAND_21"):
        pg.forward_kinematics(real(20, 3), None, pg.HAND_21)
    with pytest.raises(ValueError, match=r"skeleton must have a trunk.*HAND_21"):
        pg.canonicalize(real(21, 3), pg.HAND_21)
    with pytest.raises(ValueError, match="width must be None"):
        pg.flip_joints(real(17, 3), BODY_17, width=64)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": real(11, 8, 8)},
        {"uncertainty": real(12, 8, 9)},
        {"anchors": real(12, 2, 2)},
        {"anchor_counts": whole(11)},
        {"anchor_counts": real(12)},
        {"anchors": torch.zeros(12, 4, 2, device="meta")},
        {"joints": PUPPET.joints[:-1]},
        {"joints": (*PUPPET.joints[:-1], (0, 17))},
        {"joints": (*PUPPET.joints[:-1], (0, 1, 2))},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_puppet_whose_fields_do_not_fit_is_refused(change):
    fields = {
        name: getattr(PUPPET, name) for name in ("shape", "uncertainty", "anchors", "anchor_counts", "joints", "parts")
    }
    with pytest.raises((ValueError, TypeError), match=next(iter(change))):
        Puppet(**{**fields, **change}, skeleton=BODY_17)
