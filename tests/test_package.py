import ast
import inspect
import subprocess
import sys
from pathlib import Path

import posegeom

PACKAGE = Path(posegeom.__file__).parent

# The public API; other people's code calls these names.
CONTRACT_TEXT = """
Skeleton Trunk convert_joints
BODY_17 H36M_17 MPI_INF_3DHP_17 MPI_INF_3DHP_28 COCO_17 LSP_14 SMPL_24 HAND_21
gram_schmidt_frame forward_kinematics local_directions canonicalize flip_joints affine_points bone_vectors bone_angles
PerspectiveCamera project unproject camera_rotation angles_from_sincos bounded_translation lift
elevation_azimuth_rotation
joint_heatmaps limb_maps skeleton_image soft_argmax
Puppet PartMaps part_transforms part_maps foreground_map uncertainty_map
part_depth depth_aware_segmentation hard_segmentation puppet_segmentation PuppetSegmentation
crop paste composite
distance_similarity_loss info_nce_loss temporal_triplet_loss gravity_tracking_loss TrackingLoss relative_bone_lengths
bone_length_nll deformation_loss masked_l1 segmentation_uncertainty_loss
mpjpe n_mpjpe p_mpjpe mpjve procrustes_align pck auc part_iou part_f1 mean_landmark_error
center_of_gravity DE_LEVA_MALE DE_LEVA_FEMALE DEMPSTER
"""
CONTRACT = CONTRACT_TEXT.split()

# Leading parameters as the contract orders them.
SIGNATURES = {
    "convert_joints": "joints source target missing",
    "gram_schmidt_frame": "primary reference",
    "forward_kinematics": "directions hip_angle skeleton lengths frame",
    "local_directions": "joints skeleton frame",
    "canonicalize": "joints skeleton",
    "flip_joints": "joints_or_points skeleton width",
    "affine_points": "points matrix",
    "PerspectiveCamera": "focal center size distortion",
    "project": "points camera",
    "unproject": "pixels depth camera",
    "camera_rotation": "azimuth elevation roll",
    "angles_from_sincos": "sincos",
    "bounded_translation": "raw camera radius far",
    "lift": "points depth_offset base floor",
    "elevation_azimuth_rotation": "elevation_own generator",
    "joint_heatmaps": "points size sigma visible",
    "limb_maps": "points bones size width stretch visible",
    "skeleton_image": "points bones size gamma power visible",
    "soft_argmax": "heatmaps temperature marginal",
    "part_transforms": "points puppet width_scale",
    "part_maps": "points puppet size",
    "part_depth": "joint_depth puppet",
    "depth_aware_segmentation": "shape depth rule sharpness",
    "hard_segmentation": "maps",
    "puppet_segmentation": "points joint_depth puppet size rule",
    "crop": "images boxes size",
    "paste": "patches boxes size padding",
    "composite": "foreground mask background",
    "distance_similarity_loss": "a b frame_distance max_distance",
    "info_nce_loss": "anchor positive negatives temperature",
    "temporal_triplet_loss": "anchor positive negative margin",
    "gravity_tracking_loss": "boxes margin down",
    "bone_length_nll": "joints skeleton mean std",
    "deformation_loss": "before after pairs power",
    "masked_l1": "a b weight",
    "segmentation_uncertainty_loss": "probabilities labels uncertainty",
    "mpjpe": "prediction target mask root reduction",
    "center_of_gravity": "joints skeleton table",
}

# One way down: a module imports from lower floors, or from its own floor's modules above it in this list.
FLOORS = [
    ["_checks", "_dispatch"],
    ["skeleton", "presets", "frames"],
    ["kinematics", "camera", "body"],
    ["capsules", "maps", "puppet", "crop"],
    ["procrustes", "segmentation", "losses", "metrics"],
]


def test_every_name_of_the_contract_is_importable():
    missing = [name for name in CONTRACT if not hasattr(posegeom, name)]
    assert not missing
    assert set(CONTRACT) <= set(posegeom.__all__)


def test_the_contracts_arguments_have_their_names_and_order():
    for name, arguments in SIGNATURES.items():
        have = list(inspect.signature(getattr(posegeom, name)).parameters)
        assert have[: len(arguments.split())] == arguments.split(), name


def test_every_loss_takes_a_reduction():
    losses = [name for name in CONTRACT if name.endswith("_loss") or name in ("bone_length_nll", "masked_l1")]
    assert len(losses) == 8
    for name in losses:
        assert inspect.signature(getattr(posegeom, name)).parameters["reduction"].default == "mean", name


def kind(name):
    """Constants, then classes, then functions, each in alphabetical order."""
    return 0 if name.isupper() else 1 if name[0].isupper() else 2


def test_all_is_sorted_and_complete():
    assert posegeom.__all__ == sorted(posegeom.__all__, key=lambda name: (kind(name), name))
    assert len(set(posegeom.__all__)) == len(posegeom.__all__)
    modules = {path.stem for path in PACKAGE.glob("*.py")} | {"kernels"}
    assert {name for name in vars(posegeom) if not name.startswith("_")} - modules <= set(posegeom.__all__)
    for name in posegeom.__all__:
        home = getattr(getattr(posegeom, name), "__module__", "posegeom.")
        assert home.startswith("posegeom."), f"{name} comes from {home}"


def imports_of(path):
    """Modules of this project that a file imports, anywhere in it, as dotted names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "posegeom" if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def test_imports_go_one_way_down():
    place = {name: floor for floor, names in enumerate(FLOORS) for name in names}
    files = {path.stem: path for path in PACKAGE.glob("*.py")}
    assert set(files) - {"__init__"} == set(place), "a module without a floor"
    within = {("_dispatch", "_checks"), ("presets", "skeleton"), ("puppet", "capsules"), ("metrics", "procrustes")}
    for name, path in files.items():
        if name == "__init__":
            continue
        for module in imports_of(path):
            parts = module.split(".")
            assert parts[0] != "posegeom_models", f"{name} imports {module}"
            if parts[0] != "posegeom" or len(parts) < 2 or parts[1] not in place:
                continue
            below = place[parts[1]] < place[name] or (name, parts[1]) in within
            assert below or parts[1] == name, f"{name} imports {module}"


def test_kernels_are_imported_only_by_their_twins_and_models_by_nobody():
    kernels = {path.stem for path in PACKAGE.glob("kernels/*.py")} - {"__init__"}
    for path in PACKAGE.rglob("*.py"):
        for module in imports_of(path):
            assert not module.startswith("posegeom_models"), f"{path.name} imports {module}"
            parts = module.split(".")
            if parts[:2] == ["posegeom", "kernels"] and len(parts) > 2 and path.parent.name != "kernels":
                assert parts[2] not in kernels or parts[2].startswith(path.stem), f"{path.name} imports {module}"


def run(program):
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def test_importing_the_package_loads_neither_scipy_nor_triton():
    extra = run(
        "import sys, torch; before = set(sys.modules); import posegeom;"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    ).split()
    assert "posegeom" in extra
    assert not {"scipy", "triton", "matplotlib", "torchvision", "posegeom_models"} & set(extra), extra


def test_importing_the_package_costs_less_than_a_third_of_a_second_beyond_torch():
    program = (
        "import time, torch, numpy; start = time.perf_counter(); import posegeom; print(time.perf_counter() - start)"
    )
    assert min(float(run(program)) for _ in range(3)) < 0.3
