"""`posegeom render`: a clip of the rendered benchmark as a video and a contact sheet."""

from __future__ import annotations

import difflib
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posegeom.capsules import part_joints
from posegeom.presets import BODY_17
from posegeom_models.data.filming import RenderedFrames, render_takes
from posegeom_models.data.identities import DOMAINS
from posegeom_models.data.mocap import Motion, read_motion
from posegeom_models.data.rendered import RenderedBenchmark, RenderedConfig, contact_sheet
from posegeom_models.data.repertoire import Recording, load_pool, motion_folder, recording, step_of
from posegeom_models.data.takes import Staging, Take, make_take
from posegeom_models.drawing import save_video, to_bytes

FRAMES = 45
"""Of a clip, where nothing else is asked for: those of the standard benchmark."""

SHOWN, COLUMN = 512, 256
"""Pixels that a small image is enlarged to at most in the video, and in a column of the contact sheet."""

LARGEST = 1024
"""Pixels; a larger image would need gigabytes for a contact sheet."""

SHEET_FRAMES = 6
CHUNK = 1 << 19
"""Pixels rendered at once, so that memory does not grow with the length of the video."""


@dataclass(frozen=True)
class RenderOptions:
    """Options of `posegeom render`.

    Args:
        motion: a .bvh, .amc (with its .asf beside it) or .npz file, or a folder with the benchmark's motion files, of
            which those of the test split are used; default: the folder $POSEGEOM_DATA or ../shared/data where it
            exists, else the built-in walks and jumps.
        clip: name or number of the clip in an .npz or among a folder's motions; of the latter the seed chooses one.
        out: the video; the contact sheet goes beside it, with the ending .png.
        size: height and width of the images in pixels; small ones are shown enlarged.
        domain: "A" (indoors, even light) or "B" (outdoors, patterns, hard light).
        content: "daily", or "freefall" for a part of the motion with a jump or dive in it.
        seed: of the people, the place, the light, the cameras, and the part of the motion.
        person: who does it; of seed 0, numbers 0 to 3 are the people of the standard benchmark's test split.
        frames: how many; default: 45, or all where a motion file has fewer.
        frame_rate: frames per second; every how many-th recorded frame comes nearest to it.
        camera: number of the camera, each 50 to 130 degrees from the one before.
        moving: the camera turns, so that the background moves.
        anywhere: the person is small and anywhere in the image, instead of filling it.
        labels: also write joints, points, part labels and cameras of every frame, beside the video as .npz.
    """

    motion: Path | None = None
    clip: str | None = None
    out: Path = Path("clip.mp4")
    size: int = 128
    domain: str = "A"
    content: str = "daily"
    seed: int = 0
    person: int = 0
    frames: int | None = None
    frame_rate: float = 15.0
    camera: int = 0
    moving: bool = False
    anywhere: bool = False
    labels: bool = False

    def __post_init__(self) -> None:
        # The benchmark's own checks, in its words.
        RenderedConfig(self.size, self.domain, None, self.content, frame_rate=self.frame_rate, seed=self.seed)
        if self.size > LARGEST:
            raise ValueError(f"size must be at most {LARGEST}, got {self.size}")
        if self.frames is not None and self.frames < 1:
            raise ValueError(f"frames must be at least 1, got {self.frames}")
        if self.person < 0:
            raise ValueError(f"person must be at least 0, got {self.person}")
        if not 0 <= self.camera < 100:
            raise ValueError(f"camera must be 0 to 99, got {self.camera}")
        if self.out.suffix.lower() != ".mp4":
            raise ValueError(f"out must be the name of an .mp4 file, got {self.out}")


def choose_recording(options: RenderOptions, random: np.random.Generator) -> tuple[Recording, int]:
    """The motion asked for, and how many of its frames are shown.

    Raises:
        MotionFileError: the file is broken, or of another kind.
        FileNotFoundError: no such file or folder.
        ValueError: the motion is too short, has no free fall where one is wanted, or lacks joints, all of them named;
            or no such clip.
    """
    path = motion_folder() if options.motion is None else options.motion
    if path is None or path.is_dir():
        frames = FRAMES if options.frames is None else options.frames
        pool = load_pool("test", path, BODY_17, options.content, frames, options.frame_rate)
        where = "the built-in motions" if path is None else f"{path} (test split)"
        return _pick(pool, options.clip, where, random), frames
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such motion file or folder")
    clip = options.clip
    falling = options.content == "freefall"
    motion = read_motion(path, clip=int(clip) if clip is not None and clip.isdecimal() else clip)
    try:
        found = recording(_named(motion), BODY_17, falling)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    there = 1 + (len(found.joints) - 1) // step_of(found.rate, options.frame_rate)
    if options.frames is not None and options.frames > there:
        raise ValueError(
            f"{path}: {found.name} has {there} frames at {options.frame_rate:g} frames/s, got frames {options.frames}"
        )
    if falling and not found.flying.any():
        raise ValueError(f"{path}: {found.name} has no free fall; content must be 'daily' for it")
    return found, min(there, FRAMES) if options.frames is None else options.frames


def _named(motion: Motion) -> Motion:
    """A motion under posegeom's own names of joints, by which `recording` knows a person."""
    if "left_hip" in motion.joints:
        return motion
    return Motion(motion.name, BODY_17.joints, BODY_17.parents, motion.to_skeleton(BODY_17), motion.frame_rate)


def _pick(pool: Sequence[Recording], clip: str | None, where: str, random: np.random.Generator) -> Recording:
    number = int(random.integers(len(pool)))  # also where a clip is named: what is drawn later stays the same
    names = [each.name for each in pool]
    if clip is None:
        return pool[number]
    if clip in names:
        return pool[names.index(clip)]
    if not clip.isdecimal():
        nearest = ", ".join(difflib.get_close_matches(clip, names, 5, 0))
        raise ValueError(f"no clip {clip!r} of enough frames among the {len(pool)} of {where}; nearest: {nearest}")
    if int(clip) >= len(pool):
        raise ValueError(f"clip must be a name, or 0 to {len(pool) - 1} in {where}, got {clip}")
    return pool[int(clip)]


def film(options: RenderOptions) -> tuple[Take, float]:
    """The take that the options describe, and its frames per second."""
    random = np.random.default_rng(options.seed)
    found, frames = choose_recording(options, random)
    counts = (1, 1, options.person + 1)
    people = RenderedConfig(domain=options.domain, seed=options.seed, identities=counts, clips=counts, frames=1)
    # The person-th clip of a split is that person's; only who it is counts here, not what is done in it.
    identity = RenderedBenchmark(people, "test").take(options.person).identity
    staging = Staging(
        (options.size, options.size),
        frames,
        options.frame_rate,
        options.content == "freefall",
        options.moving,
        options.anywhere,
        options.camera + 1,
        people.shadow,
    )
    take = make_take(random, 0, (options.person, identity), found, BODY_17, DOMAINS[options.domain], staging)
    step = step_of(found.rate, options.frame_rate)
    return take, found.rate / step or options.frame_rate  # a single pose has no rate of its own


def run_render(options: RenderOptions) -> None:
    """Write the video, the contact sheet and, where asked for, the labels; say what was written and how fast.

    All files appear at the end, or none.

    Raises:
        MotionFileError, FileNotFoundError, ValueError: see `choose_recording`; or a file would be written over the
            motion that it is made from.
        OSError: the files cannot be written.
    """
    out, size = options.out, options.size
    written = [out, out.with_suffix(".png"), *([out.with_suffix(".npz")] if options.labels else [])]
    for path in written:
        if path.is_dir():
            raise ValueError(f"{path} is a folder, and would have to be a file")
        if options.motion is not None and path.resolve() == options.motion.resolve():
            raise ValueError(f"{path} is the motion itself; choose another name than {out} for out")
    take, rate = film(options)
    count = len(take.joints)

    def render(numbers: Sequence[int]) -> RenderedFrames:
        same = [take] * len(numbers)
        return render_takes(same, numbers, [options.camera] * len(numbers), BODY_17, (size, size))

    known: list[dict[str, Any]] = []
    scale = max(1, SHOWN // size)
    rendering = 0.0

    def pictures() -> Iterator[NDArray[np.uint8]]:
        nonlocal rendering
        chunk = max(1, CHUNK // size**2)
        for start in range(0, count, chunk):
            began = time.perf_counter()
            frames = render(range(start, min(start + chunk, count)))
            rendering += time.perf_counter() - began
            if options.labels:
                known.append(_known(frames))
            for image in frames.image.movedim(1, -1):
                yield to_bytes(image).repeat(scale, axis=0).repeat(scale, axis=1)

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".render-", dir=out.parent) as folder:
        parts = [Path(folder) / path.name for path in written]
        save_video(pictures(), parts[0], rate)
        _save_sheet(render(spread(count, SHEET_FRAMES)), parts[1])
        if options.labels:
            _save_labels(known, rate, parts[2])
        for part, path in zip(parts, written, strict=True):
            part.replace(path)
    print(f"wrote {_listed(written)}")
    print(
        f"{take.motion} by person {options.person} of domain {options.domain}: {count} frames of {size} x {size}, "
        f"{rate:.4g} a second; {count / rendering:.0f} a second were rendered"
    )


def spread(count: int, most: int) -> list[int]:
    """At most so many numbers below `count`, evenly from the first to the last."""
    return sorted({int(number) for number in np.linspace(0, count - 1, min(count, most)).round()})


def _known(frames: RenderedFrames) -> dict[str, Any]:
    """Arrays of what is known of frames, but the pictures."""
    pictures = ("image", "background", "foreground", "mask", "camera", "identity", "clip", "moving")
    names = [field.name for field in fields(frames) if field.name not in pictures]
    camera = {"focal": frames.camera.focal, "center": frames.camera.center}
    values = {name: getattr(frames, name) for name in names} | camera
    return {name: np.asarray(value) for name, value in values.items()}


def _save_sheet(frames: RenderedFrames, path: Path) -> None:
    from PIL import Image

    sheet = contact_sheet(frames, BODY_17, max(1, COLUMN // frames.image.shape[-1]))
    Image.fromarray(sheet).save(path, optimize=True)


def _save_labels(known: Sequence[dict[str, Any]], rate: float, path: Path) -> None:
    arrays: dict[str, Any] = {name: np.concatenate([each[name] for each in known]) for name in known[0]}
    arrays["joint_names"] = np.array(BODY_17.joints)
    arrays["part_names"] = np.array(["background", *(name for name, _ in part_joints(BODY_17))])
    np.savez_compressed(path, frame_rate=np.array(rate), **arrays)


def _listed(paths: Sequence[Path]) -> str:
    """a, b and c."""
    return f"{', '.join(map(str, paths[:-1]))} and {paths[-1]}"
