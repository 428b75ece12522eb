"""`posegeom demo`: real motion, pictures of it, and the pose and cameras recovered from the pictures."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from posegeom import (
    BODY_17,
    PerspectiveCamera,
    bounded_translation,
    camera_rotation,
    canonicalize,
    forward_kinematics,
    local_directions,
    p_mpjpe,
    procrustes_align,
    skeleton_image,
)
from posegeom_models.data.mocap import Motion, read_motion
from posegeom_models.data.procedural import walk
from posegeom_models.data.repertoire import motion_folder
from posegeom_models.drawing import (
    FITTED,
    TRUTH,
    color_parts,
    frame_skeletons,
    label_rows,
    plot_skeleton,
    save_animation,
    to_bytes,
)
from posegeom_models.fitting import Guess, Recipe, Scene, Studio, fit_drawings, fit_heatmaps, random_guess

if TYPE_CHECKING:
    from rich.console import Console

SIZE = 128
FOCAL = 1.145  # of the image width, as Human3.6M's cameras
DRAWN_GAMMA = 0.224
PEAK_NOISE = 2.0


@dataclass(frozen=True)
class DemoOptions:
    """Options of `posegeom demo`.

    Args:
        motion: a .bvh, .amc (with its .asf beside it) or .npz file; default: a walking clip of the motion-capture data
            in $POSEGEOM_DATA or ../shared/data, else the built-in walk.
        clip: name or number of the clip in an .npz.
        frames: how many frames of the clip to fit at once, spread over it.
        views: how many cameras look at each frame.
        seed: of cameras and random starts.
        out: folder for panel.png, fit.gif and results.json.
        noise: also run with heatmaps whose peaks are 2 px off, and repair the fit with the drawings.
    """

    motion: Path | None = None
    clip: str | None = None
    frames: int = 8
    views: int = 2
    seed: int = 0
    out: Path = Path("demo")
    noise: bool = True

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(f"frames must be at least 1, got {self.frames}")
        if not 1 <= self.views <= 4:
            raise ValueError(f"views must be 1 to 4, got {self.views}")


@dataclass(frozen=True)
class Scores:
    """Errors of every frame: P-MPJPE in millimetres and mean 2D distance in pixels at full size."""

    pose: list[float]
    pixels: list[float]


def load_motion(options: DemoOptions) -> tuple[Motion, str]:
    """The motion asked for, and a sentence that says which it is."""
    path, clip = options.motion, options.clip
    if path is None:
        folder = motion_folder()
        if folder is None:
            if clip is not None:
                raise ValueError(f"clip {clip!r} needs a motion file; pass --motion FILE")
            return walk(120, seed=options.seed), "the built-in walk generator (no motion-capture data found)"
        path = folder / "cmu17_test.npz"
        clip = clip or "exp_test_walking_1"
    chosen: str | int | None = int(clip) if clip is not None and clip.isdigit() else clip
    motion = read_motion(path, clip=chosen)
    return motion, f"real motion, {path.name}, clip {motion.name}"


def make_scene(motion: Motion, options: DemoOptions, studio: Studio) -> Scene:
    """Frames of a motion as BODY_17 with standard proportions, seen by cameras 60 to 120 degrees apart."""
    generator = torch.Generator().manual_seed(options.seed)
    positions = motion.to_skeleton(studio.skeleton)
    if len(positions) < options.frames:
        raise ValueError(f"{motion.name} has {len(positions)} frames, fewer than the {options.frames} to fit")
    chosen = np.linspace(0, len(positions) - 1, options.frames).round().astype(int)
    canonical = canonicalize(torch.tensor(positions[chosen], dtype=torch.float32), studio.skeleton).canonical
    pose = local_directions(canonical, studio.skeleton)
    joints = forward_kinematics(pose.directions, pose.hip_angle, studio.skeleton)

    shape = (options.frames, options.views)

    def uniform(low: float, high: float, *size: int) -> Tensor:
        return low + (high - low) * torch.rand(*size, generator=generator)

    apart = torch.deg2rad(uniform(60, 120, *shape))
    apart[:, 0] = 0
    turn = uniform(-math.pi, math.pi, options.frames, 1) + apart.cumsum(1)
    rotation = camera_rotation(turn, uniform(-0.35, 0.35, *shape), uniform(-0.1, 0.1, *shape))
    raw = torch.randn(*shape, 3, generator=generator) * torch.tensor([0.7, 0.7, 0.5]) + torch.tensor([0, 0, -3.0])
    return Scene(joints, rotation, bounded_translation(raw, studio.camera, studio.radius))


def score(guess: Guess, truth: Scene, studio: Studio) -> Scores:
    """Errors of the first candidate of every frame."""
    scene = guess.scene(studio)
    pose = p_mpjpe(scene.joints[0], truth.joints, reduction="none").mean(-1) * 1000
    pixels = (studio.look(scene)[0][0] - studio.look(truth)[0]).norm(dim=-1).mean((-1, -2))
    return Scores(pose.tolist(), pixels.tolist())


def run_demo(options: DemoOptions, recipe: Recipe | None = None) -> dict[str, object]:
    """Run the demo; print tables, write pictures, and return what results.json holds."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console()
    started = time.perf_counter()
    recipe = Recipe() if recipe is None else recipe
    studio = Studio(BODY_17, PerspectiveCamera(FOCAL * SIZE, None, (SIZE, SIZE)))
    motion, source = load_motion(options)
    truth = make_scene(motion, options, studio)
    peaks, _ = studio.look(truth)
    # A folder that cannot be written should say so before a minute of work, not after it.
    options.out.mkdir(parents=True, exist_ok=True)
    console.print(f"[bold]posegeom demo[/bold]  {source}")
    console.print(
        f"{options.frames} frames, {options.views} view{'s' * (options.views > 1)} each, {SIZE} x {SIZE} pixels; "
        "unknown: 13 limb directions, the hip angle, and every camera's rotation and translation"
    )

    generator = torch.Generator().manual_seed(options.seed + 1000)
    start = random_guess(studio, 1, options.frames, options.views, torch.Generator().manual_seed(options.seed + 1000))
    redraw = options.noise and options.views > 1
    total = recipe.heatmap_steps * (2 if redraw else 1) + (recipe.redraw_steps if redraw else 0)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("heatmaps", total=total)

        def advance(steps: int) -> None:
            bar.advance(task, steps)

        alternatives = 1 if options.views > 1 else 4
        fitted, _ = fit_heatmaps(peaks, studio, recipe, generator, advance, alternatives)
        rough = repaired = None
        if redraw:
            bar.update(task, description="noisy heatmaps")
            noisy = peaks + PEAK_NOISE * torch.randn(peaks.shape, generator=generator)
            rough, _ = fit_heatmaps(noisy, studio, recipe, generator, advance)
            bar.update(task, description="parts + skeleton")
            drawings = [
                studio.draw(*studio.look(truth, stage.size), stage.size, stage.width) for stage in recipe.redraw
            ]
            repaired, _ = fit_drawings(rough, drawings, studio, recipe, advance)
        bar.update(task, description="fitted")

    with torch.no_grad():
        before, after = score(start, truth, studio), score(fitted, truth, studio)
        _print_scores(console, "Exact heatmaps", ("random start", before), ("fitted", after))
        results: dict[str, object] = {
            "source": source,
            "seed": options.seed,
            "views": options.views,
            "start": vars(before),
            "fitted": vars(after),
        }
        if options.views == 1:
            _print_ambiguity(console, fitted, truth, studio)
        if rough is not None and repaired is not None:
            first, second = score(rough, truth, studio), score(repaired, truth, studio)
            title = f"Heatmaps {PEAK_NOISE:g} px off at their peaks, then part segmentation + skeleton image alone"
            _print_scores(console, title, ("noisy heatmaps", first), ("parts + skeleton", second))
            cut = 1 - statistics.median(second.pose) / statistics.median(first.pose)
            console.print(f"The drawings cut the median P-MPJPE by {100 * cut:.0f} %.")
            results |= {"noisy": vars(first), "repaired": vars(second)}
        _write_panel(options.out / "panel.png", truth, start, fitted, after, studio)
        _write_animation(options.out / "fit.gif", truth, fitted, studio)
    results["seconds"] = round(time.perf_counter() - started, 1)
    (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    console.print(f"{results['seconds']} s; wrote panel.png, fit.gif and results.json to {options.out}/")
    return results


def _print_scores(console: Console, title: str, *columns: tuple[str, Scores]) -> None:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("frame", justify="right")
    for name, _ in columns:
        table.add_column(f"{name}\nP-MPJPE mm", justify="right")
        table.add_column("\n2D px", justify="right")

    def add_row(name: str, pick: Callable[[list[float]], float]) -> None:
        cells = ((f"{pick(scores.pose):.1f}", f"{pick(scores.pixels):.2f}") for _, scores in columns)
        table.add_row(name, *(cell for pair in cells for cell in pair))

    for frame in range(len(columns[0][1].pose)):
        add_row(str(frame), itemgetter(frame))
    table.add_section()
    add_row("median", statistics.median)
    add_row("worst", max)
    console.print(table)


def _print_ambiguity(console: Console, fitted: Guess, truth: Scene, studio: Studio) -> None:
    """How different the poses are that explain one picture equally well."""
    scene = fitted.scene(studio)
    pixels = (studio.look(scene)[0] - studio.look(truth)[0]).norm(dim=-1).mean((-1, -2))
    explained = (pixels < 1.0).sum(0)
    one, other = torch.broadcast_tensors(scene.joints.unsqueeze(0), scene.joints.unsqueeze(1))
    apart = p_mpjpe(one, other, reduction="none")
    widest = apart.mean(-1).amax((0, 1)) * 1000
    console.print(
        f"One view cannot tell a limb bent towards the camera from one bent away: with n limbs, up to 2^n poses "
        f"share a picture.\nOf {len(pixels)} poses kept per frame, {explained.float().mean():.1f} on average are "
        f"within 1 px of the picture, yet up to {widest.median():.0f} mm (median over frames) apart in 3D.\n"
        "Which one is right the picture does not say; a second view does (--views 2)."
    )


def _write_panel(path: Path, truth: Scene, start: Guess, fitted: Guess, after: Scores, studio: Studio) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    frames, views = truth.rotation.shape[:2]
    scenes = {"target": truth, "start": _first(start.scene(studio)), "fitted": _first(fitted.scene(studio))}
    drawn = {name: _colored(scene, studio) for name, scene in scenes.items()}
    drawn["error × 8"] = (drawn["fitted"] - drawn["target"]).abs() * 8
    rows = len(drawn) * views
    heights = [1.0] * rows + [1.45]
    figure = plt.figure(figsize=(1.45 * frames + 0.9, 1.45 * sum(heights)))
    grid = figure.add_gridspec(
        rows + 1,
        frames,
        height_ratios=heights,
        hspace=0.05,
        wspace=0.05,
        left=0.075,
        right=0.995,
        top=0.975,
        bottom=0.025,
    )
    for view in range(views):
        for k, (name, pictures) in enumerate(drawn.items()):
            for frame in range(frames):
                axes = figure.add_subplot(grid[view * len(drawn) + k, frame])
                axes.imshow(to_bytes(pictures[frame, view]), interpolation="nearest")
                axes.set_xticks([])
                axes.set_yticks([])
                if frame == 0:
                    axes.set_ylabel(f"{name}\nview {view + 1}", fontsize=9)
                if view == 0 and k == 0:
                    axes.set_title(f"frame {frame}", fontsize=9)
    aligned = procrustes_align(scenes["fitted"].joints, truth.joints).aligned
    for frame in range(frames):
        axes = figure.add_subplot(grid[rows, frame], projection="3d")
        both = np.stack((truth.joints[frame].numpy(), aligned[frame].numpy()))
        beside = both + np.array([[[0.0, -0.42, 0.0]], [[0.0, 0.42, 0.0]]])
        plot_skeleton(axes, beside[0], studio.skeleton, TRUTH)
        plot_skeleton(axes, beside[1], studio.skeleton, FITTED)
        frame_skeletons(axes, beside)
        axes.text2D(
            0.5, -0.01, f"{after.pose[frame]:.1f} mm", fontsize=9, transform=axes.transAxes, ha="center", va="top"
        )
    caption = "3D: truth grey, fitted red, with P-MPJPE"
    figure.text(0.535, 0.006, caption, fontsize=9, ha="center")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _first(scene: Scene) -> Scene:
    return Scene(*(values[0] for values in scene))


def _colored(scene: Scene, studio: Studio) -> Tensor:
    """Parts in colour with the skeleton over them, (F, V, H, W, 3)."""
    pictures = studio.draw(*studio.look(scene), studio.size, DRAWN_GAMMA)
    lines = pictures.skeleton.unsqueeze(-1)
    return color_parts(pictures.parts, studio.puppet) * (1 - 0.6 * lines) + 0.6 * lines


def _write_animation(path: Path, truth: Scene, fitted: Guess, studio: Studio) -> None:
    """Target over fit for every view, and a third view that was never given, over the steps of the descent."""
    target = _colored(truth, studio)
    views = range(1, target.shape[1] + 1)
    labels = [*(f"given\nview {k}" for k in views), *(f"fitted\nview {k}" for k in views), "3D from an\nunseen side"]
    frames = []
    for scene in (*fitted.path, fitted.scene(studio)):
        now = _first(scene)
        rows = [*_view_rows(target), *_view_rows(_colored(now, studio)), _novel_view(now, truth, studio)]
        frames.append(label_rows(to_bytes(torch.cat(rows)), labels))
    save_animation(frames, path)


def _view_rows(pictures: Tensor) -> list[Tensor]:
    """Pictures (F, V, H, W, 3) as one row (H, F · W, 3) of frames per view."""
    return [torch.cat(list(view), dim=1) for view in pictures.unbind(1)]


def _novel_view(scene: Scene, truth: Scene, studio: Studio) -> Tensor:
    """Truth (grey) and aligned fit (red) as stick figures from a camera half-way round."""
    aligned = procrustes_align(scene.joints, truth.joints).aligned
    angle = torch.full(truth.joints.shape[:1], 0.6).unsqueeze(-1)
    rotation = camera_rotation(angle, 0.5 * angle, 0 * angle)
    distance = torch.tensor([0.0, 0.0, 3.4]).expand(*angle.shape, 3)
    layers = []
    for joints in (truth.joints, aligned):
        points, _ = studio.look(Scene(joints, rotation, distance))
        size = (studio.size, studio.size)
        layers.append(skeleton_image(points, studio.skeleton.bones, size, DRAWN_GAMMA).squeeze(1).unsqueeze(-1))
    grey, red = torch.tensor([0.62, 0.64, 0.67]), torch.tensor([0.90, 0.25, 0.33])
    picture = layers[0] * grey * (1 - layers[1]) + layers[1] * red
    return torch.cat(list(picture), dim=1)
