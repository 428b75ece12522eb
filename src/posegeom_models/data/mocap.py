"""Motion files (BVH, ASF+AMC, .npz) read into named joints in metres, Z up.

Each reader is small and strict: a broken file gives one `MotionFileError` that names the file, the line where
there is one, and what is wrong. Nothing in a file is ever executed, and the memory used is bounded by
`posegeom_models.data.files.MAX_BYTES` whatever sizes a file declares.
"""

from __future__ import annotations

from pathlib import Path

from posegeom_models.data.acclaim import read_asf_amc
from posegeom_models.data.bvh import read_bvh
from posegeom_models.data.clips import read_npz, read_npz_clips
from posegeom_models.data.files import MotionFileError
from posegeom_models.data.motion import Motion

__all__ = ["Motion", "MotionFileError", "read_asf_amc", "read_bvh", "read_motion", "read_npz", "read_npz_clips"]


def read_motion(
    path: str | Path,
    asf: str | Path | None = None,
    clip: str | int | None = None,
    scale: float | None = None,
    frame_rate: float | None = None,
) -> Motion:
    """Read one motion; the file's suffix (.bvh, .amc, .npz) says how.

    Args:
        path: the motion file.
        asf: the skeleton of an .amc; None looks beside it for 01_01.asf, then 01.asf, for 01_01.amc.
        clip: name or number of the clip of an .npz that holds several.
        scale: metres per unit of a .bvh or .amc; None as in `read_bvh` and `read_asf_amc`.
        frame_rate: frames per second, where the file does not say so or says it wrongly.

    Raises:
        MotionFileError: the file is broken, or of another kind.
        FileNotFoundError: no such file, or no .asf for an .amc.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if asf is not None and suffix != ".amc":
        raise ValueError(f"asf belongs to an .amc file, got {path.name}")
    if clip is not None and suffix != ".npz":
        raise ValueError(f"clip belongs to an .npz file, got {path.name}")
    if suffix == ".bvh":
        return read_bvh(path, scale, frame_rate)
    if suffix == ".amc":
        return read_asf_amc(_asf_of(path) if asf is None else asf, path, frame_rate or 120.0, scale)
    if suffix == ".npz":
        if scale is not None or frame_rate is not None:
            raise ValueError("an .npz is in metres and holds its frame rate; scale and frame_rate must be None")
        return read_npz(path, clip)
    if suffix == ".asf":
        raise MotionFileError(f"{path}: an .asf is a skeleton without motion; give the .amc file")
    raise MotionFileError(f"{path}: not a motion file; expected .bvh, .amc or .npz, got {suffix or 'no suffix'!r}")


def _asf_of(amc: Path) -> Path:
    for stem in (amc.stem, amc.stem.rsplit("_", 1)[0]):
        for suffix in (".asf", ".ASF"):
            if amc.with_name(stem + suffix).is_file():
                return amc.with_name(stem + suffix)
    first, second = amc.stem + ".asf", amc.stem.rsplit("_", 1)[0] + ".asf"
    raise FileNotFoundError(f"{amc}: found neither {first} nor {second} beside it; pass asf=")
