"""LSP and LSPET, whose files have their axes in different orders, and the part segmentations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from posegeom import LSP_14
from posegeom_models.data.files import MotionFileError
from posegeom_models.data.lsp import read_lsp, read_lspet, read_parts


def place(image: int, joint: int) -> tuple[float, float]:
    """Where the test puts a joint, in numbers that no other joint has."""
    return image + joint / 100, 3 * image + joint / 10


def lsp(folder: Path, joints: np.ndarray | None = None) -> Path:
    if joints is None:
        joints = np.zeros((3, 14, 2000))
        for image in (0, 999, 1000, 1999):
            for joint in range(14):
                joints[:2, joint, image] = place(image, joint)
        joints[2, 5, 1000] = 1
    scipy.io.savemat(folder / "joints.mat", {"joints": joints}, do_compression=True)
    return folder


def lspet(folder: Path) -> Path:
    joints = np.zeros((14, 3, 10000))
    joints[:, 2] = 1
    for joint in range(14):
        joints[joint, :2, 9999] = place(9999, joint)
    joints[3, :, 9999] = (-20, 5, 0)
    scipy.io.savemat(folder / "joints.mat", {"joints": joints}, do_compression=True)
    return folder


def test_lsp_is_read_with_its_axes_and_split(tmp_path: Path) -> None:
    lsp(tmp_path)
    test, train = list(read_lsp(tmp_path)), list(read_lsp(tmp_path, "train"))
    assert (len(test), len(train), len(list(read_lsp(tmp_path, "all", step=100)))) == (1000, 1000, 20)
    for sample, image in ((train[0], 0), (train[-1], 999), (test[0], 1000), (test[-1], 1999)):
        np.testing.assert_allclose(sample.points, [place(image, joint) for joint in range(14)], rtol=1e-6)
        assert sample.image == (tmp_path / "images" / f"im{image + 1:04d}.jpg", None)
        assert sample.skeleton is LSP_14
    assert test[0].mask == (tmp_path / "im1001_part_segmentation.png", None)
    assert test[0].visible is not None
    assert np.flatnonzero(~test[0].visible).tolist() == [5]
    assert test[0].joints is None


def test_lspet_is_read_with_its_other_axes(tmp_path: Path) -> None:
    samples = list(read_lspet(lspet(tmp_path), step=3333))
    assert [sample.frame for sample in samples] == [0, 3333, 6666, 9999]
    expected = np.array([place(9999, joint) for joint in range(14)])
    expected[3] = 0
    np.testing.assert_allclose(samples[-1].points, expected, rtol=1e-6)
    assert samples[-1].known is not None
    assert np.flatnonzero(~samples[-1].known).tolist() == [3]
    assert samples[-1].image == (tmp_path / "images" / "im10000.jpg", None)


def test_the_two_are_not_taken_for_one_another(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(MotionFileError, match=r"these are the joints of LSPET.*read them with read_lspet"):
        list(read_lsp(lspet(tmp_path / "a")))
    with pytest.raises(MotionFileError, match=r"these are the joints of LSP.*read them with read_lsp"):
        list(read_lspet(lsp(tmp_path / "b")))


@pytest.mark.parametrize(
    ("joints", "message"),
    [
        (np.full((3, 14, 2000), np.nan), "joints must be finite"),
        (np.zeros((3, 16, 2000)), r"joints must be \(3, 14, 2000\), got \(3, 16, 2000\)"),
        (np.zeros((3, 14, 0)), r"joints must be \(3, 14, 2000\), got \(3, 14, 0\)"),
        (np.array(["a"]), "joints must hold numbers"),
    ],
)
def test_broken_joints_give_one_clear_error(tmp_path: Path, joints: np.ndarray, message: str) -> None:
    with pytest.raises(MotionFileError, match=message) as caught:
        list(read_lsp(lsp(tmp_path, joints)))
    assert str(caught.value).startswith(f"{tmp_path / 'joints.mat'}: ")


def test_parts_and_missing_data(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 2, 3], [4, 5, 6, 255]], np.uint8)
    Image.fromarray(labels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_parts(tmp_path / "a.png"), labels)
    labels[0, 0] = 9
    Image.fromarray(labels).save(tmp_path / "a.png")
    with pytest.raises(MotionFileError, match=r"a\.png: labels must be 0 to 6 or 255, got 9"):
        read_parts(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError, match=r"joints\.mat: no LSP here; get lsp_dataset\.zip"):
        read_lsp(tmp_path)
    with pytest.raises(ValueError, match="split of LSP must be one of train, test, all; got 'val'"):
        read_lsp(tmp_path, "val")
