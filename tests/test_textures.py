"""Noise, patterns and edges of the procedural textures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from posegeom_models.data.textures import PATTERNS, cells, fractal_noise, lattice, pattern, soft, value_noise

SALT = torch.tensor(5, dtype=torch.int32)


def test_lattice_numbers_are_uniform_and_depend_on_all_three() -> None:
    row, column = torch.meshgrid(*[torch.arange(-32, 32, dtype=torch.int32)] * 2, indexing="ij")
    values = lattice(row, column, SALT)
    # Kolmogorov's distance of 4096 uniform numbers is below 0.0255 in 99 of 100 cases.
    ordered = np.sort(
        lattice(torch.zeros(4096, dtype=torch.int32), torch.arange(4096, dtype=torch.int32), SALT).numpy()
    )
    assert np.abs(ordered - np.linspace(0, 1, ordered.size)).max() < 0.0255
    for neighbour in (lattice(row + 1, column, SALT), lattice(row, column + 1, SALT), lattice(row, column, SALT + 1)):
        assert abs(float(torch.corrcoef(torch.stack((values.flatten(), neighbour.flatten())))[0, 1])) < 0.06


def test_noise_meets_the_lattice_and_is_smooth() -> None:
    at = torch.arange(-20, 20, dtype=torch.int32)
    noise = value_noise(at.float(), at.float() * 3, SALT)
    torch.testing.assert_close(noise, lattice(at * 3, at, SALT))
    x = torch.linspace(-5, 5, 20001, dtype=torch.float64).float()
    steps = fractal_noise(x, torch.full_like(x, 0.3), SALT).diff().abs()
    # Four octaves, each 2ᵏ as fine and 2⁻ᵏ as strong, of a slope of at most 1.5: 6 over weights that sum to 1.875.
    assert float(steps.max()) < 6 / 1.875 * 5e-4 * 1.1
    y, x = torch.meshgrid(*[torch.linspace(-30, 30, 400)] * 2, indexing="ij")
    noise = fractal_noise(x, y, SALT)
    assert 0 <= float(noise.min()) <= float(noise.max()) < 1
    assert float(noise.mean()) == pytest.approx(0.5, abs=0.02)


def test_coordinates_beyond_the_lattice_stay_finite() -> None:
    far = torch.tensor([1e9, -1e9, 3e4])
    assert torch.isfinite(fractal_noise(far, far, SALT)).all()
    cell, share = cells(torch.tensor([-0.25, 2.5]))
    assert cell.tolist() == [-1, 2]
    torch.testing.assert_close(share, torch.tensor([0.75, 0.5]))


@pytest.mark.parametrize(
    ("name", "places", "shares"),
    [
        ("plain", [(0.0, 0.0, 0.0), (0.3, 0.0, 0.1)], [0, 0]),
        ("hoops", [(0.3, 0.1, 0.02), (0.0, 0.0, 0.07)], [1, 0]),
        ("stripes", [(0.02, 0.1, 0.3), (0.07, 0.0, 0.0)], [1, 0]),
        ("dots", [(0.05, 0.0, 0.05), (0.0, 0.0, 0.0)], [1, 0]),
        ("plaid", [(0.02, 0.0, 0.02), (0.02, 0.0, 0.07), (0.07, 0.0, 0.07)], [1, 0.5, 0]),
    ],
)
def test_patterns_at_ten_repeats_a_metre(name: str, places: list[tuple[float, ...]], shares: list[float]) -> None:
    count = len(places)
    kind = torch.full((count,), float(PATTERNS.index(name)))
    share = pattern(torch.tensor(places), kind, torch.full((count,), 10.0), SALT.expand(count))
    assert share.tolist() == shares


def test_an_edge_is_one_footprint_wide() -> None:
    distance = torch.tensor([-1.0, -0.1, 0.0, 0.05, 0.2])
    torch.testing.assert_close(soft(distance, torch.tensor(0.2)), torch.tensor([1.0, 1.0, 0.5, 0.25, 0.0]))
