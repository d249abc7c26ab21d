"""The variance of the search: no noise, no movement; with noise, what searches that are really repeated do."""

import numpy as np
import pytest

from sklr.selection import choose, lr_curve, search_variance

U = np.arange(-4.0, 0.1, 0.4)
SHAPES = {
    "quadratic": 0.9 - 0.05 * (U + 1.9) ** 2,
    "lopsided": 0.9 - 0.05 * np.where(U > -1.7, 4, 1) * (U + 1.7) ** 2,
}


def searched(mean, noise, seed, n_cells=5):
    """Return a search's curve: what a cell does to all learning rates alike, and noise of its own in every run."""
    generator = np.random.default_rng(seed)
    cells = mean[:, None] + 0.05 * generator.normal(size=n_cells)
    return lr_curve(10**U, cells + noise * generator.normal(size=(len(U), n_cells)), ["ok"] * len(U))


@pytest.mark.parametrize("select", ["best", "one_se", "fit"])
@pytest.mark.parametrize("mean", SHAPES.values(), ids=SHAPES)
def test_without_noise_nothing_moves(select, mean):
    still = search_variance(searched(mean, 0.0, 0), select)
    assert still.decades < 0.01
    assert abs(still.cost) < 1e-3
    low, high = still.lr_range
    assert low == pytest.approx(high, rel=0.03)
    if select == "best":
        assert (still.decades, low) == (0, high)
        assert "would choose the same lr" in str(still)


@pytest.mark.parametrize("select", ["best", "one_se", "fit"])
@pytest.mark.parametrize("mean", SHAPES.values(), ids=SHAPES)
def test_it_agrees_with_searches_that_are_repeated(select, mean):
    curves = [searched(mean, 0.02, seed) for seed in range(24)]
    chosen = np.log10([choose(curve, select).lr for curve in curves])
    cost = mean.max() - np.interp(chosen, U, mean)
    told = [search_variance(curve, select) for curve in curves]
    decades, costs = np.median([t.decades for t in told]), np.median([t.cost for t in told])
    assert 0.5 < decades / chosen.std() < 2, (decades, chosen.std())
    assert 0.3 < costs / cost.mean() < 3, (costs, cost.mean())
    held = np.mean([low <= 10**lr <= high for (low, high) in (t.lr_range for t in told[:12]) for lr in chosen[12:]])
    assert held > 0.6, held


def test_what_cannot_be_known_is_nan():
    one = lr_curve(10**U, SHAPES["quadratic"][:, None], ["ok"] * len(U))
    assert np.isnan(search_variance(one).decades)
    assert "do not tell" in str(search_variance(one))


def test_candidates_that_diverged_are_not_chosen():
    curve = searched(SHAPES["quadratic"], 0.02, 1)
    status = ["ok"] * 6 + ["diverged at step 1: loss nan"] * (len(U) - 6)
    assert search_variance(lr_curve(curve.lr, curve.cell_scores, status)).lr_range[1] <= curve.lr[5]
