"""Coverage, error and regret of the selection rules `best`, `one_se` and `fit` on simulated LR curves.

A curve is a basin with its optimum at a random position and a cliff at a random distance above it. It is sampled on a
grid with a random offset, in cells that shift the scores of all learning rates alike, with independent noise in every
run. Shapes:

quadratic   score = top - c d^2; beyond the cliff runs diverge
collapse    the same, but beyond the cliff the score is that of guessing
plateau     the quadratic saturates far from the optimum
steep_right, steep_left   lopsided: c (exp(s d) - 1 - s d) 2 / s^2 with s = 1.2 and -1.2 per decade
fall        the score drops by 0.05 at the cliff, and by one more for every decade beyond
kink        the curvature is nine times higher above the optimum than below; no smooth fit is right there

Coverage: how often the 90 % interval contains the true optimum (for `fit`, if it was not refused). Error: mean distance
of the chosen lr from the optimum, in decades. Regret: mean loss of true score at the chosen lr, in 1e-3; if `fit` was
refused, its fallback counts. Pass --quick for a short run.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np
import scipy

from sklr.selection import LRCurve, choose, corrected_score, lr_curve

CURVATURE, CELL_SD, TOP, GUESSING = 0.08, 0.02, 0.95, 0.1  # score per decade^2, and scores
NOISES = (0.003, 0.01, 0.02)  # standard deviations of a run; half a decade from the optimum costs 0.02
SHAPES = ("quadratic", "collapse", "plateau", "steep_right", "steep_left", "fall", "kink")
RULES = ("best", "one_se", "fit")


@dataclass(frozen=True)
class Search:
    """One simulated search: the noisy curve, and log10 of the true optimum."""

    curve: LRCurve
    top: float


def loss(shape: str, distance: np.ndarray) -> np.ndarray:
    """Return the true loss of score at a distance from the optimum, in decades (positive above it)."""
    if shape in ("steep_right", "steep_left"):
        s = 1.2 if shape == "steep_right" else -1.2
        quadratic = CURVATURE * 2 / s**2 * (np.exp(s * distance) - 1 - s * distance)
    else:
        quadratic = CURVATURE * distance**2 * np.where((shape == "kink") & (distance > 0), 9, 1)
    saturates = shape not in ("quadratic", "collapse", "fall")
    return 0.6 * (1 - np.exp(-quadratic / 0.6)) if saturates else quadratic


def simulate(shape: str, spacing: float, n_cells: int, noise: float, generator: np.random.Generator) -> Search:
    """Run one search over five decades; `spacing` in decades."""
    u = np.arange(-5 + generator.uniform(0, spacing), 0, spacing)
    top = generator.uniform(-3.2, -1.6)
    cliff = top + generator.uniform(0.3, 1.2)
    over = u > cliff
    scores = TOP - loss(shape, u - top)[:, None] + CELL_SD * generator.standard_normal(n_cells)
    scores += noise * generator.standard_normal((len(u), n_cells))
    status = ["ok"] * len(u)
    if shape == "collapse":
        scores[over] = GUESSING + 0.01 * generator.standard_normal((over.sum(), n_cells))
    elif shape == "fall":
        scores[over] -= (0.05 + u - cliff)[over, None]
    else:
        scores[over], status = np.nan, ["diverged" if o else "ok" for o in over]
    return Search(lr_curve(10**u, np.maximum(scores, GUESSING), status), top)


@dataclass(frozen=True)
class Report:
    """Results of one rule in many searches of one kind."""

    coverage: float
    error: float
    regret: float
    width: float
    refused: Counter[str]
    n: int

    def __str__(self) -> str:
        refused = 100 * self.refused.total() / self.n
        return f"{100 * self.coverage:7.1f}% {self.error:6.3f} {self.regret:6.2f} {self.width:6.2f} {refused:6.1f}%"


def measure(rule: str, shape: str, searches: list[Search]) -> Report:
    """Apply one rule to every search."""
    choices = [choose(search.curve, rule) for search in searches]
    found = np.log10([choice.lr for choice in choices])
    top = np.array([search.top for search in searches])
    low, high = np.log10([choice.interval for choice in choices]).T
    fitted = np.array([not choice.refused for choice in choices])
    holds = ((low <= top) & (top <= high))[fitted]
    regret = 1e3 * loss(shape, found - top).mean()
    width = (high - low)[fitted].mean() if fitted.any() else np.nan
    refused = Counter(choice.refused for choice in choices if choice.refused)
    coverage = holds.mean() if fitted.any() else np.nan
    return Report(coverage, np.abs(found - top).mean(), regret, width, refused, len(choices))


def searches_of(shape: str, spacing: float, n_cells: int, noise: float, n: int, seed: int = 0) -> list[Search]:
    """Simulate `n` searches of one kind."""
    kind = (SHAPES.index(shape), round(1000 * spacing), n_cells, round(10_000 * noise))
    generator = np.random.default_rng((seed, *kind))
    return [simulate(shape, spacing, n_cells, noise, generator) for _ in range(n)]


def table(shapes: tuple[str, ...], n: int) -> None:
    """Print a row for each kind of search and each rule."""
    print(f"{'shape':12} {'step':>5} {'cells':>5} {'noise':>6}  {'rule':7} coverage  error regret  width refused")
    for shape in shapes:
        for spacing in (0.25, 0.5):
            for n_cells in (5, 15):
                for noise in NOISES:
                    searches = searches_of(shape, spacing, n_cells, noise, n)
                    for rule in RULES:
                        kind = f"{shape:12} {spacing:5} {n_cells:5} {noise:6}  {rule:7}"
                        print(kind, measure(rule, shape, searches), flush=True)


def winners_curse(n: int) -> None:
    """Print the errors of the best score and of corrected scores, as estimates of the chosen lr's true score."""
    print("\nThe winner's curse: error of the estimated score in 1e-3, mean (root mean square)")
    print(f"{'shape':12} {'step':>5} {'cells':>5} {'noise':>6}")
    for spacing, n_cells in ((0.25, 5), (0.5, 5), (0.25, 15)):
        for noise in NOISES:
            searches = searches_of("plateau", spacing, n_cells, noise, n)
            print(f"{'plateau':12} {spacing:5} {n_cells:5} {noise:6}  " + _corrections(searches))


def _corrections(searches: list[Search]) -> str:
    errors: dict[str, list[float]] = {"best_score": [], "bootstrap": [], "tibshirani": []}
    for search in searches:
        curve = search.curve
        # The cells are a sample, too. Their common effect has nothing to do with the choice, so it is not an error.
        easy = curve.cell_scores[curve.usable].mean() - np.mean(
            TOP - loss("plateau", np.log10(curve.lr[curve.usable]) - search.top)
        )
        truth = TOP - float(loss("plateau", np.log10(curve.lr[curve.best]) - search.top)) + easy
        errors["best_score"].append(curve.mean[curve.best] - truth)
        for method in ("bootstrap", "tibshirani"):
            score = corrected_score(curve.cell_scores, method, n_bootstrap=300, random_state=0)
            errors[method].append(score - truth)
    return ", ".join(
        f"{name} {1e3 * np.mean(e):+.2f} ({1e3 * np.sqrt(np.mean(np.square(e))):.2f})" for name, e in errors.items()
    )


def main() -> None:
    """Print versions, machine and all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one shape, 10 searches of a kind")
    quick = parser.parse_args().quick
    print(f"python {sys.version.split()[0]}, numpy {np.__version__}, scipy {scipy.__version__}")
    print(f"{platform.platform()}, {platform.machine()}, {os.cpu_count()} cores")
    start = time.perf_counter()
    table(SHAPES[:1] if quick else SHAPES, 10 if quick else 500)
    winners_curse(10 if quick else 500)
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
