"""Optional packages: there, or one sentence that says what to install."""

from __future__ import annotations

import math
import sys

import pytest

from posegeom_models.data.packages import require


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    assert require("math", "counting") is math
    monkeypatch.setitem(sys.modules, "cv2", None)
    message = "saliency by OpenCV needs the package opencv-python-headless: pip install opencv-python-headless"
    with pytest.raises(ImportError, match=f"^{message}$"):
        require("cv2", "saliency by OpenCV", "opencv-python-headless")
