import pytest
import torch
from benchmarks import naive
from benchmarks.maps import OPERATORS, SIGMA, SIZE, check_parity

POINTS = torch.rand(2, 17, 2, generator=torch.Generator().manual_seed(0)) * 100 + 14


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_agree_with_the_naive_formulas_in_value_and_gradient(name):
    ours, formula = OPERATORS[name]
    check_parity(ours, formula, POINTS, torch.randn_like(ours(POINTS)))


def test_no_speed_is_reported_for_a_wrong_operator():
    def wrong(points):
        return 1.001 * naive.joint_heatmaps(points, SIZE, SIGMA)

    cotangent = torch.randn(2, 17, *SIZE)
    with pytest.raises(SystemExit, match=r"parity failed: value differs by 1\.0e-03"):
        check_parity(wrong, OPERATORS["joint_heatmaps"][1], POINTS, cotangent)
