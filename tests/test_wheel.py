"""What people install is what the tests test: the built wheel, without the extras."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = ("torchvision", "jsonargparse", "matplotlib", "PIL", "rich")

SMOKE = f"""
import sys
for name in {EXTRAS!r}:
    sys.modules[name] = None  # importing it fails, as where it is not installed
import torch, posegeom as pg
assert sys.argv[1] in pg.__file__, pg.__file__
joints = pg.forward_kinematics(torch.randn(2, 13, 3), torch.zeros(2), pg.BODY_17)
rotation = pg.camera_rotation(*torch.zeros(3, 2))
seen = joints @ rotation.transpose(1, 2) + torch.tensor([0.0, 0.0, 4.0])
points, depth = pg.project(seen, pg.PerspectiveCamera(150.0, None, (64, 64)))
drawn = pg.puppet_segmentation(points, depth, pg.Puppet.capsules(pg.BODY_17, (64, 64)), (64, 64))
assert drawn.maps.shape == (2, 13, 64, 64)
from posegeom_models.data.procedural import walk
assert walk(10).positions.shape == (10, 17, 3)
from posegeom_models.cli import main
assert main(["info"]) == 2  # says that the command line needs the extras
"""


def test_the_wheel_works_without_the_extras(tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(site)
    assert {"posegeom/py.typed", "posegeom_models/py.typed"} <= set(names)
    assert not [name for name in names if name.startswith(("tests", "benchmarks"))]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", SMOKE, str(site)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "posegeom[models]" in done.stderr
