import json

import pytest
import torch
from benchmarks import naive, report
from benchmarks.measure import check_parity, peak_memory, quantiles
from benchmarks.model_step import recorded
from benchmarks.operators import workload
from benchmarks.results import ROWS_OF_003, temporal_row
from benchmarks.run import PLAN, largest_batch, moved_bytes, renewed

import posegeom as pg
from posegeom_models.runs import build_config, config_parser, find_config, plain

OPERATORS = list(dict.fromkeys(plan[0] for plan in PLAN["cuda"]))


@pytest.mark.parametrize("operator", OPERATORS)
def test_operators_agree_with_the_naive_formulas_in_value_and_gradient(operator):
    load = workload(operator, 2, 12 if "p" in operator[:2] else 16, 48, "cpu", torch.float32)
    exact = workload(operator, 2, load.items, 48, "cpu", torch.float64)
    check_parity(load, exact.contenders["eager"], 1e-5)


def test_no_speed_is_reported_for_a_wrong_operator():
    load = workload("joint_heatmaps", 2, 17, 32, "cpu", torch.float32)
    load.contenders["ours"] = lambda p: 1.001 * naive.joint_heatmaps(p, (32, 32), 3.0)
    with pytest.raises(SystemExit, match=r"parity failed: value of joint_heatmaps differs by 1\.0e-03"):
        check_parity(load, load.contenders["eager"], 1e-5)


def test_peak_memory_counts_what_is_held_at_once():
    def step():
        first = torch.ones(1000, 1000)
        second = first + 1
        del first
        return second * 2

    assert 2 * 4 * 10**6 <= peak_memory(step, "cpu") < 2 * 4 * 10**6 + 100  # and a scalar or two


def test_bytes_that_must_move_are_the_image_and_the_points():
    load = workload("skeleton_image", 2, 16, 32, "cpu", torch.float32)
    assert moved_bytes(load, "forward") == 4 * (2 * 32 * 32 + 2 * 17 * 2)
    assert moved_bytes(load, "backward") == 4 * (2 * 32 * 32 + 2 * (2 * 17 * 2))
    assert moved_bytes(load, "forward+backward") == moved_bytes(load, "forward") + moved_bytes(load, "backward")


def test_the_largest_batch_is_the_last_that_fits(monkeypatch):
    monkeypatch.setitem(__import__("benchmarks.run", fromlist=["BUDGET"]).BUDGET, "cpu", 2**20)
    batch = largest_batch("skeleton_image", 16, 32, "cpu", "eager")
    assert 1 <= batch <= 8  # one image with 16 bones takes some 16 · 32² · 4 bytes, several times over
    assert largest_batch("skeleton_image", 16, 32, "cpu", "ours") > batch


def test_a_steps_calls_of_operators_are_recorded_and_made_again_with_their_gradients(monkeypatch):
    asked = []

    def joint_heatmaps(points, *, sigma):
        points.register_hook(lambda gradient: asked.append(sigma))
        return sigma * points

    monkeypatch.setattr(pg, "joint_heatmaps", joint_heatmaps)
    points = torch.rand(2, 17, 2, requires_grad=True)
    with recorded() as calls:
        pg.joint_heatmaps(2 * points, sigma=1.5).sum().backward()
        with torch.no_grad():
            pg.bone_vectors(pg.flip_joints(points, pg.BODY_17), pg.BODY_17)
    assert pg.joint_heatmaps is joint_heatmaps
    assert [(call.operator.__name__, call.graded) for call in calls] == [
        ("joint_heatmaps", True),
        ("flip_joints", False),
        ("bone_vectors", False),
    ]
    assert asked == [1.5]
    for call in calls:
        call.again()
    assert asked == [1.5, 1.5]
    assert torch.equal(points.grad, torch.full((2, 17, 2), 3.0)), "the step's own gradients must stay as they are"


def test_a_row_measured_anew_takes_its_old_ones_place_and_names_its_commit():
    old = [
        {"operator": operator, "shape": [2, 17, 8, 8], "dtype": "float32", "direction": direction, "median_ms": 1.0}
        for operator in ("joint_heatmaps", "limb_maps")
        for direction in ("forward", "backward")
    ]
    row = {**old[1], "median_ms": 0.5}
    assert renewed(old, row, "abc1234") == [old[0], {**row, "commit": "abc1234"}, *old[2:]]
    other = {**row, "dtype": "bfloat16"}
    assert renewed(old, other, "abc1234") == [*old, {**other, "commit": "abc1234"}]


def test_quantiles_are_in_order():
    assert quantiles([3.0, 1.0, 2.0, 5.0, 4.0]) == (3.0, 1.8, 4.2)


def test_the_committed_page_is_the_one_that_the_results_give(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "PAGE", tmp_path / "benchmarks.md")
    monkeypatch.setattr(report, "plot_scaling", lambda *arguments: None)
    before = (report.ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    report.main()
    assert (tmp_path / "benchmarks.md").read_text(encoding="utf-8") == before
    for path in report.RESULTS.glob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        assert {"device", "torch", "triton", "commit", "copy_ceiling_gb_s", "speed"} <= set(content)


def test_every_baseline_of_003_has_a_row_of_its_own():
    names = ["ae_stn_dec", "css", "css_stn_dec_split", "drnet", "dsl", "dsl_stn", "dsl_stn_dec", "mv_css", "nsd"]
    rows = set()
    for name in [None, *names]:
        parser = config_parser("temporal")
        parsed = parser.parse_path(find_config("temporal", "tiny"))
        if name is not None:
            layer = parser.parse_path(find_config("temporal", name), defaults=False)
            parsed.update(layer)
        rows.add(temporal_row(plain(build_config("temporal", parsed)))[0].split(",")[0])
    assert rows == set(ROWS_OF_003.values())
