"""The fit that keeps the pelvis where both legs reach their feet, against a general solver."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import LinearConstraint, minimize

from posegeom_models.data.walking import fit_below, harmonics


@pytest.mark.parametrize("seed", range(5))
def test_the_bounded_fit_is_the_one_of_a_general_solver(seed: int) -> None:
    random = np.random.default_rng(seed)
    cycles = np.arange(64) / 64
    basis = harmonics(cycles)
    ideal = 0.9 + 0.05 * np.cos(4 * np.pi * cycles) + 0.02 * random.normal(size=64)
    highest = ideal + 0.02 * np.sin(9 * cycles + seed)
    weights = fit_below(basis, ideal, highest)
    assert (basis @ weights - highest).max() < 1e-12
    solved = minimize(
        lambda w: ((basis @ w - ideal) ** 2).sum(),
        np.zeros(5),
        method="SLSQP",
        constraints=LinearConstraint(basis, -np.inf, highest),
        options={"ftol": 1e-14, "maxiter": 500},
    )
    np.testing.assert_allclose(weights, solved.x, atol=1e-6)


def test_a_bound_that_does_not_touch_changes_nothing() -> None:
    basis = harmonics(np.arange(64) / 64)
    ideal = np.random.default_rng(0).normal(size=64)
    free = np.linalg.lstsq(basis, ideal, rcond=None)[0]
    np.testing.assert_allclose(fit_below(basis, ideal, ideal + 10), free, atol=1e-9)
