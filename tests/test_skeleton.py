import dataclasses
import json

import pytest
import torch

from posegeom import (
    BODY_17,
    COCO_17,
    H36M_17,
    HAND_21,
    LSP_14,
    MPI_INF_3DHP_17,
    MPI_INF_3DHP_28,
    SMPL_24,
    Skeleton,
    Trunk,
    convert_joints,
)

PRESETS = (BODY_17, COCO_17, H36M_17, HAND_21, LSP_14, MPI_INF_3DHP_17, MPI_INF_3DHP_28, SMPL_24)

# Orders and parents as the data sets publish them (joint names in this library's vocabulary).
PUBLISHED = {
    "BODY_17": (
        "pelvis neck head left_shoulder left_elbow left_wrist right_shoulder right_elbow right_wrist left_hip left_knee"
        " left_ankle left_foot right_hip right_knee right_ankle right_foot",
        [-1, 0, 1, 1, 3, 4, 1, 6, 7, 0, 9, 10, 11, 0, 13, 14, 15],
    ),
    "H36M_17": (
        "pelvis right_hip right_knee right_ankle left_hip left_knee left_ankle spine neck nose head_top left_shoulder"
        " left_elbow left_wrist right_shoulder right_elbow right_wrist",
        [-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15],
    ),
    "MPI_INF_3DHP_17": (
        "head_top neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist right_hip right_knee"
        " right_ankle left_hip left_knee left_ankle pelvis spine nose",
        [1, 15, 1, 2, 3, 1, 5, 6, 14, 8, 9, 14, 11, 12, -1, 14, 1],
    ),
    "MPI_INF_3DHP_28": (
        "spine3 spine4 spine2 spine pelvis neck nose head_top left_clavicle left_shoulder left_elbow left_wrist"
        " left_hand right_clavicle right_shoulder right_elbow right_wrist right_hand left_hip left_knee left_ankle"
        " left_foot left_toe right_hip right_knee right_ankle right_foot right_toe",
        [2, 0, 3, 4, -1, 1, 5, 6, 5, 8, 9, 10, 11, 5, 13, 14, 15, 16, 4, 18, 19, 20, 21, 4, 23, 24, 25, 26],
    ),
    "COCO_17": (
        "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow left_wrist"
        " right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle",
        [-1, 0, 0, 1, 2, 0, 0, 5, 6, 7, 8, 5, 6, 11, 12, 13, 14],
    ),
    "LSP_14": (
        "right_ankle right_knee right_hip left_hip left_knee left_ankle right_wrist right_elbow right_shoulder"
        " left_shoulder left_elbow left_wrist neck head_top",
        [1, 2, 12, 12, 3, 4, 7, 8, 12, 12, 9, 10, -1, 12],
    ),
    "SMPL_24": (
        None,  # its head, the base of the skull, has a name of this library's own
        [-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21],
    ),
    "HAND_21": (None, [-1, 0, 1, 2, 3, 0, 5, 6, 7, 0, 9, 10, 11, 0, 13, 14, 15, 0, 17, 18, 19]),
}


@pytest.mark.parametrize("skeleton", PRESETS, ids=lambda s: s.name)
def test_presets_have_the_published_order_and_tree(skeleton):
    names, parents = PUBLISHED[skeleton.name]
    if names is not None:
        assert skeleton.joints == tuple(names.split())
    assert list(skeleton.parents) == parents
    assert len(skeleton.joints) == int(skeleton.name.rsplit("_", 1)[1])
    assert skeleton.bones == tuple((p, j) for j, p in enumerate(parents) if p >= 0)


@pytest.mark.parametrize("skeleton", PRESETS, ids=lambda s: s.name)
def test_presets_levels_are_the_distances_from_the_root(skeleton):
    for level, joints in enumerate(skeleton.levels):
        for joint in joints:
            steps = 0
            while skeleton.parents[joint] != -1:
                joint, steps = skeleton.parents[joint], steps + 1
            assert steps == level
    assert sorted(j for level in skeleton.levels for j in level) == list(range(len(skeleton.joints)))


def test_h36m_mirror_is_the_published_left_right_pairs():
    pairs = {4: 1, 5: 2, 6: 3, 11: 14, 12: 15, 13: 16}
    pairs |= {b: a for a, b in pairs.items()}
    assert H36M_17.mirror == tuple(pairs.get(j, j) for j in range(17))


def test_smpl_mirror_is_the_published_flip():
    flip = (0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 11, 10, 12, 14, 13, 15, 17, 16, 19, 18, 21, 20, 23, 22)
    assert SMPL_24.mirror == flip


@pytest.mark.parametrize("skeleton", PRESETS, ids=lambda s: s.name)
def test_presets_mirror_maps_the_tree_onto_itself(skeleton):
    for joint, parent in enumerate(skeleton.parents):
        other = skeleton.parents[skeleton.mirror[joint]]
        assert other == (-1 if parent == -1 else skeleton.mirror[parent])


def test_h36m_order_and_sides_are_those_of_the_motion_data(motion_data):
    import numpy as np

    data = np.load(motion_data / "cmu17_test.npz")
    assert data["parents"].tolist() == list(H36M_17.parents)
    assert tuple(data["joint_names"].tolist()) == H36M_17.joints
    assert [H36M_17.mirror[j] for j in data["left"].tolist()] == data["right"].tolist()


def test_hand_order_is_that_of_the_motion_data(motion_data):
    import numpy as np

    assert np.load(motion_data / "hand21.npz")["parents"].tolist() == list(HAND_21.parents)
    assert HAND_21.joints[0] == "wrist"
    assert [HAND_21.joints[j].split("_")[0] for j in (4, 8, 12, 16, 20)] == [
        "thumb",
        "index",
        "middle",
        "ring",
        "pinky",
    ]
    assert all(HAND_21.joints[j].endswith("_tip") for j in (4, 8, 12, 16, 20))


def test_body_17_has_thirteen_free_joints_and_the_papers_lengths():
    free = [BODY_17.joints[j] for j in BODY_17.free_joints]
    assert free == [
        "head",
        *(f"left_{j}" for j in ("shoulder", "elbow", "wrist")),
        *(f"right_{j}" for j in ("shoulder", "elbow", "wrist")),
        *(f"left_{j}" for j in ("knee", "ankle", "foot")),
        *(f"right_{j}" for j in ("knee", "ankle", "foot")),
    ]
    arm, leg = [0.151, 0.277, 0.248], [0.1337, 0.443, 0.443, 0.134]
    assert list(BODY_17.lengths) == [0.490, 0.2315, *arm, *arm, *leg, *leg]
    assert BODY_17.trunk == Trunk(0, 1, 9, 13)


@pytest.mark.parametrize("skeleton", PRESETS, ids=lambda s: s.name)
def test_the_trunk_rule_is_only_where_the_root_is_the_mid_hip(skeleton):
    has_trunk = skeleton.name in ("BODY_17", "H36M_17", "MPI_INF_3DHP_17", "MPI_INF_3DHP_28")
    assert (skeleton.trunk is not None) == has_trunk
    if has_trunk:
        top = "neck" if skeleton is BODY_17 else "spine"
        assert [skeleton.joints[j] for j in skeleton.trunk] == ["pelvis", top, "left_hip", "right_hip"]
        assert len(skeleton.free_joints) == len(skeleton.joints) - 4
    else:
        assert len(skeleton.free_joints) == len(skeleton.joints) - 1


GOOD = {
    "name": "toy",
    "joints": ("root", "top", "left", "right", "end"),
    "parents": (-1, 0, 0, 0, 1),
    "mirror": (0, 1, 3, 2, 4),
    "lengths": (1.0, 2.0, 3.0, 4.0),
    "trunk": (0, 1, 2, 3),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"joints": (), "parents": (), "mirror": (), "lengths": None, "trunk": None}, "at least one joint"),
        ({"joints": ("root", "top", "left", "right", "top")}, "different names.*top"),
        ({"parents": (-1, 0, 0, 0)}, r"one entry per joint \(5\), got 4"),
        ({"parents": (-1, 0, 0, 0, 5)}, "below 5 or -1, got 5"),
        ({"parents": (-1, 0, 0, 0, -2)}, "below 5 or -1, got -2"),
        ({"parents": (-1, 0, 0, 0, -1)}, "exactly one root.*got 2"),
        ({"parents": (1, 2, 3, 4, 0), "trunk": None}, "exactly one root.*got 0"),
        ({"parents": (-1, 4, 0, 0, 1)}, "cycle through 'top'"),
        ({"parents": (-1, 1, 0, 0, 1)}, "cycle through 'top'"),
        ({"mirror": (0, 1, 3, 3, 4)}, "permutation of 0..4"),
        ({"mirror": (0, 1, 3, 2)}, "permutation of 0..4"),
        ({"mirror": (1, 2, 0, 3, 4)}, "own inverse, got 0 -> 1 -> 2"),
        ({"lengths": (1.0, 2.0, 3.0)}, r"one entry per bone \(4\), got 3"),
        ({"lengths": (1.0, 0.0, 3.0, 4.0)}, "positive and finite, got 0"),
        ({"lengths": (1.0, -2.0, 3.0, 4.0)}, "positive and finite, got -2"),
        ({"lengths": (1.0, float("nan"), 3.0, 4.0)}, "positive and finite, got nan"),
        ({"lengths": (1.0, float("inf"), 3.0, 4.0)}, "positive and finite, got inf"),
        ({"trunk": (1, 1, 2, 3)}, "trunk.root must be the root 0, got 1"),
        ({"trunk": (0, 1, 2, 2)}, "three different joints"),
        ({"trunk": (0, 4, 2, 3)}, "trunk.top must be a child of the root, got joint 4"),
        ({"trunk": (0, 1, 0, 3)}, "trunk.left must be a child of the root, got joint 0"),
        ({"trunk": (0, 1, 2, 7)}, "trunk.right must be a child of the root, got joint 7"),
    ],
)
def test_impossible_skeletons_are_refused_by_name(change, message):
    Skeleton(**GOOD)
    with pytest.raises(ValueError, match=message) as error:
        Skeleton(**{**GOOD, **change})
    assert "toy" in str(error.value)


def test_a_skeleton_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        BODY_17.name = "mine"


@pytest.mark.parametrize("skeleton", [*PRESETS, Skeleton("dot", ("only",), (-1,), (0,))], ids=lambda s: s.name)
def test_a_file_gives_the_same_skeleton_back(skeleton, tmp_path):
    path = tmp_path / "skeleton.json"
    skeleton.to_file(path)
    again = Skeleton.from_file(path)
    assert again == skeleton
    assert hash(again) == hash(skeleton)
    for name in ("root", "bones", "levels", "free_joints", "lengths", "trunk"):
        assert getattr(again, name) == getattr(skeleton, name)
    assert json.loads(path.read_text(encoding="utf-8"))["joints"] == list(skeleton.joints)


def test_names_in_any_language_survive_a_file(tmp_path):
    robot = Skeleton("Müller–α", ("槓", "桿"), (-1, 0), (0, 1))
    robot.to_file(tmp_path / "robot.json")
    assert Skeleton.from_file(tmp_path / "robot.json") == robot


TOY = {"name": "a", "joints": ["r", "s"], "parents": [-1, 0], "mirror": [0, 1]}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no json",
        "[1, 2]",
        '{"name": "a"}',
        json.dumps({**TOY, "extra": 1}),
        json.dumps({**TOY, "parents": [-1, 1]}),
        json.dumps({**TOY, "parents": [-1, None]}),
        json.dumps({**TOY, "parents": ["root", 0]}),
        json.dumps({**TOY, "parents": 3}),
        json.dumps({**TOY, "lengths": ["long"]}),
        json.dumps({**TOY, "lengths": [float("nan")]}),
        json.dumps({**TOY, "trunk": [0, 1]}),
        json.dumps({**TOY, "trunk": {"root": 0, "up": 1}}),
        json.dumps({**TOY, "trunk": 3}),
        json.dumps({**TOY, "joints": "rs"}),
        json.dumps({**TOY, "parents": [-1, 0.7]}),
        json.dumps({**TOY, "mirror": [0, 1.2]}),
        "[" * 100_000,
    ],
    ids=lambda text: text[:60] or "empty",
)
def test_broken_files_are_refused_with_the_files_name(text, tmp_path):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"broken\.json"):
        Skeleton.from_file(path)


def test_files_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "binary.json"
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ValueError, match=r"binary\.json"):
        Skeleton.from_file(path)


def numbered(count):
    """Joint j at (j, 10 j, 100 j)."""
    return torch.arange(count, dtype=torch.float64)[:, None] * torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)


def test_3dhp_to_h36m_is_the_published_order():
    order = [14, 8, 9, 10, 11, 12, 13, 15, 1, 16, 0, 5, 6, 7, 2, 3, 4]
    converted = convert_joints(numbered(17), MPI_INF_3DHP_17, H36M_17)
    assert converted[:, 0].tolist() == order
    assert torch.equal(converted, numbered(17)[order])


def test_3dhp_28_to_17_is_the_published_choice():
    order = [7, 5, 14, 15, 16, 9, 10, 11, 23, 24, 25, 18, 19, 20, 4, 3, 6]
    assert convert_joints(numbered(28), MPI_INF_3DHP_28, MPI_INF_3DHP_17)[:, 0].tolist() == order


def test_pelvis_and_neck_are_derived_as_middles():
    coco = numbered(17)
    converted = convert_joints(coco, COCO_17, H36M_17, missing="nan")
    assert torch.equal(converted[H36M_17.index("pelvis")], (coco[11] + coco[12]) / 2)
    assert torch.equal(converted[H36M_17.index("neck")], (coco[5] + coco[6]) / 2)
    assert torch.equal(converted[H36M_17.index("left_knee")], coco[13])


def test_a_joint_that_is_there_is_not_derived():
    smpl = numbered(24)
    assert torch.equal(convert_joints(smpl, SMPL_24, LSP_14, missing="nan")[LSP_14.index("neck")], smpl[12])


def test_missing_joints_are_an_error_that_names_all_of_them():
    with pytest.raises(ValueError) as error:
        convert_joints(numbered(17), COCO_17, H36M_17)
    for name in ("spine", "head_top", "COCO_17", "H36M_17", 'missing="nan"'):
        assert name in str(error.value)
    with pytest.raises(ValueError, match="missing must be one of"):
        convert_joints(numbered(17), COCO_17, H36M_17, missing="zero")


def test_missing_joints_can_be_nan_and_the_others_stay_finite():
    points = numbered(17)[:, :2].expand(3, 17, 2)
    converted = convert_joints(points, COCO_17, H36M_17, missing="nan")
    nan = {H36M_17.joints[j] for j in range(17) if converted[:, j].isnan().all()}
    assert nan == {"spine", "head_top"}
    assert converted.isnan().sum() == 3 * 2 * 2


def test_head_is_an_alias_of_head_top():
    assert BODY_17.index("head_top") == BODY_17.index("head") == 2
    assert H36M_17.index("head") == 10
    assert "head" in LSP_14
    assert "head_top" in BODY_17
    h36m = numbered(17)
    with pytest.raises(ValueError, match="left_foot, right_foot"):
        convert_joints(h36m, H36M_17, BODY_17)
    assert torch.equal(convert_joints(h36m, H36M_17, BODY_17, missing="nan")[2], h36m[10])
    assert torch.equal(convert_joints(numbered(17), BODY_17, LSP_14)[13], numbered(17)[2])


def test_an_unknown_joint_is_named_with_those_there_are():
    with pytest.raises(ValueError, match=r"BODY_17' has no joint 'tail'.*pelvis"):
        BODY_17.index("tail")


def test_a_nan_stays_in_its_own_joint_and_gradients_reach_the_source():
    points = numbered(17).requires_grad_()
    converted = convert_joints(points, COCO_17, LSP_14, missing="nan")
    converted[LSP_14.index("neck")].sum().backward()
    expected = torch.zeros(17, 3, dtype=torch.float64)
    expected[5:7] = 0.5
    assert torch.equal(points.grad, expected)
