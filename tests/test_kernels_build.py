"""Every kernel compiles to machine code for real GPUs, which needs none: the interpreter accepts more than a compiler.

It does not say that the code is right or fast; test_kernels.py and the benchmark do that.
"""

from __future__ import annotations

import pytest

from tests.cases import INTERPRETED

triton = pytest.importorskip("triton")

pytestmark = pytest.mark.skipif(INTERPRETED, reason="the interpreter replaces the compiler in this process")

CHAINS = dict.fromkeys(("hip_angle", "lengths", "limbs", "positions", "pulls", "by_hip_angle", "by_lengths"), "compute")
TABLES = dict.fromkeys(("parents", "children", "table"), "i32")
AFFINE = dict.fromkeys(
    ("linear", "mu", "bar", "template", "anchors", "depth", "by_linear", "by_mu", "by_across", "by_depth"), "compute"
)
MAPS = dict.fromkeys(("shape_out", "uncertainty_out", "by_shape", "by_uncertainty", "image", "maps", "gradient"), "io")
ANGLES = ("azimuth", "elevation", "roll", "by_azimuth", "by_elevation", "by_roll", "rotation", "angles")
CAMERAS = dict.fromkeys(
    (
        *ANGLES,
        "sincos",
        "by_sincos",
        "raw",
        "by_raw",
        "translation",
        "pixels_out",
        "depth_out",
        "by_pixels_out",
        "by_depth_out",
    ),
    "io",
)
POINTERS = {
    **dict.fromkeys(("precision", "weight", "sums", "across", "stretch", "hides", "by_hides"), "compute"),
    **dict.fromkeys(("points", "by_points", "out", "by_maps", "by_foreground", "foreground", "uncertainty"), "io"),
    **dict.fromkeys(("directions", "joints_out", "by_directions"), "io"),
    **TABLES,
    **CHAINS,
    **AFFINE,
    **MAPS,
    **CAMERAS,
    "counts": "i64",
    "fixed_point": "fp64",
}


def tile(shape):
    """A tile's rows and columns, as constants."""
    return {"ROWS": shape[0], "COLUMNS": shape[1]}


def kernels():
    """(kernel, constants, warps) in every form that a launcher asks for, with the tiles of an image of 128 x 128."""
    from posegeom.kernels import (
        camera,
        kinematics,
        maps_bones,
        maps_heatmaps,
        maps_limbs,
        maps_skeleton,
        puppet,
        puppet_joints,
        segmentation,
        segmentation_hiding,
    )

    size = (128, 128)
    for given in (False, True):
        weights = {"HAS_WEIGHT": given}
        for power in (1, 2):
            figure = {"POWER": power, "BONES": 16, **weights}
            forward, backward = maps_skeleton.FORWARD, maps_skeleton.BACKWARD
            yield maps_skeleton._skeleton_image_fwd_kernel, {**figure, **tile(forward.shape(*size))}, forward.warps
            yield maps_skeleton._skeleton_image_bwd_kernel, {**figure, **tile(backward.shape(*size))}, backward.warps
        heat = {"HAS_PRECISION": given, **weights}
        limb = {"HAS_ACROSS": given, "HAS_STRETCH": given, **weights}
        for module, name, form in ((maps_heatmaps, "joint_heatmaps", heat), (maps_limbs, "limb_maps", limb)):
            forward, backward = module.FORWARD, module.BACKWARD
            yield getattr(module, f"_{name}_fwd_kernel"), {**form, **tile(forward.shape(*size))}, forward.warps
            form = {"PER_PROGRAM": 16, **form, **tile(backward.shape(*size))}
            yield getattr(module, f"_{name}_bwd_kernel"), form, backward.warps
        form = {"BY_TEMPLATE": given, **tile(puppet.BACKWARD.shape(*size))}
        yield puppet._part_maps_bwd_kernel, form, puppet.BACKWARD.warps
    yield puppet._part_maps_fwd_kernel, tile(puppet.FORWARD.shape(*size)), puppet.FORWARD.warps
    yield maps_bones._joints_from_bones_kernel, {"VALUES": 5, "JOINTS": 32}, 1
    for given in (False, True):
        yield kinematics._forward_kinematics_fwd_kernel, {"HAS_HIP": given}, 1
        yield kinematics._forward_kinematics_bwd_kernel, {"HAS_HIP": given}, 1
        yield puppet_joints._part_affines_fwd_kernel, {"HAS_ACROSS": given, "PARTS": 16}, 1
        yield puppet_joints._part_affines_bwd_kernel, {"HAS_ACROSS": given, "PARTS": 16, "JOINTS": 32}, 1
    for pixels, depth in ((True, False), (False, True), (True, True)):
        yield camera._project_bwd_kernel, {"HAS_PIXELS": pixels, "HAS_DEPTH": depth}, 4
    for name in ("camera_rotation", "angles_from_sincos", "bounded_translation"):
        yield getattr(camera, f"_{name}_fwd_kernel"), {}, 4
        yield getattr(camera, f"_{name}_bwd_kernel"), {}, 4
    yield camera._project_fwd_kernel, {}, 4
    yield segmentation_hiding._part_hiding_fwd_kernel, {"PARTS": 16}, 1
    yield segmentation_hiding._part_hiding_bwd_kernel, {"PARTS": 16, "JOINTS": 32}, 1
    for kernel, tiling in (
        (segmentation._puppet_segmentation_fwd_kernel, segmentation.FORWARD),
        (segmentation._puppet_segmentation_bwd_kernel, segmentation.BACKWARD),
    ):
        yield kernel, {"PARTS": 16, **tile(segmentation._shape(tiling, *size, 12))}, tiling.warps


def build(kernel, constants, warps, compute, io, capability):
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants = {**constants, "COMPUTE": tl.float64 if compute == "fp64" else tl.float32}
    signature = {}
    for name in kernel.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif name in POINTERS:
            kind = POINTERS[name]
            signature[name] = "*" + {"compute": compute, "io": io}.get(kind, kind)
        else:
            signature[name] = "fp32" if name.endswith(("_high", "_low")) else "i32"
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, constexprs=places)
    return triton.compile(
        source,
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": warps, "enable_fp_fusion": "kinematics" not in kernel.__name__},
    )


def fewer():
    """Each kernel with all that it can be given; stick figures without weights too, which have code of their own."""
    plain = [form for form in kernels() if form[1].get("POWER") == 1 and not form[1]["HAS_WEIGHT"]]
    return [*plain, *{form[0].__name__: form for form in kernels()}.values()]


@pytest.mark.parametrize(
    ("forms", "count", "compute", "io"),
    [
        pytest.param(kernels, 42, "fp32", "fp32", id="every form in fp32"),
        # Machine code takes seconds to make, most of all for fp64: what is left out when less is given, is left out
        # in every type.
        pytest.param(fewer, 27, "fp32", "bf16", id="bf16"),
        pytest.param(fewer, 27, "fp64", "fp64", id="fp64"),
    ],
)
def test_every_kernel_compiles_for_hopper(forms, count, compute, io):
    built = [build(*form, compute, io, 90) for form in forms()]
    assert len(built) == count
    assert all("ptx" in one.asm and len(one.asm["cubin"]) > 1000 for one in built)


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 12, 32])
def test_no_puppet_has_tiles_of_sixteen_rows_of_sixteen_columns(parts):
    # Their backward ends Triton 3.6 and the process. 13, 112 and 129 columns are covered best by 16 at a time.
    from posegeom.kernels import segmentation

    for height in (7, 65, 128, 1000):
        for width in (13, 112, 128, 129):
            for tiling in (segmentation.FORWARD, segmentation.BACKWARD):
                rows, columns, across, tiles = segmentation._shape(tiling, height, width, parts)
                assert rows <= 8 or columns > 16
                assert across * columns >= width
                assert tiles // across * rows >= height


def test_the_list_of_kernels_is_complete():
    from posegeom.kernels import (
        camera,
        kinematics,
        maps_bones,
        maps_heatmaps,
        maps_limbs,
        maps_skeleton,
        puppet,
        puppet_joints,
        segmentation,
        segmentation_hiding,
    )

    modules = (
        camera,
        kinematics,
        maps_bones,
        maps_heatmaps,
        maps_limbs,
        maps_skeleton,
        puppet,
        puppet_joints,
        segmentation,
        segmentation_hiding,
    )
    every = {name for module in modules for name in vars(module) if name.endswith("_kernel")}
    assert {form[0].__name__ for form in kernels()} == every
