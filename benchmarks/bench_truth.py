"""Are the choice and its interval accurate on tables of real trainings, where the truth is known?

A table has the scores of one net and task at 41 learning rates in many cells: repetitions ("worlds") of five folds. A
search sees every third or fourth learning rate in the five cells of one world. The truth is the mean over all other
cells, where a diverged run has the score of a guess. All such searches are evaluated, so nothing here is random. The
true optimum is the vertex of a parabola fitted to the best point of that mean and its four highest neighbours. Its
uncertainty is estimated by resampling worlds; goals apply only where it is known to 0.1 decades.

Pass the folder of the tables, one .npz file each: `u` (n_lrs,), log10 of the lr; `world` (n_cells,); and for each score
NAME `s_NAME` (n_lrs, n_cells), where higher is better and NaN means diverged, and `g_NAME`, the score of a guess.

--constants tries other values of the constants of `select="fit"`, one at a time. --quick uses a single grid.

Coverage: how often `lr_interval_` contains the optimum. Width: median, in decades. Bias and error: mean and mean
absolute value of chosen minus optimum, in decades. Regret: in percent of the difference between a guess and the best.
Corrected: mean of the corrected score minus the true score of the chosen lr, in the same percent, +- twice its standard
error over worlds. Moves: standard deviation of the chosen lr over the worlds of one grid in decades, as
`search_variance` estimates it / as observed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from _common import environment, print_environment, table, tell, write_json

from sklr.selection import Choice, LRCurve, choose, lr_curve, search_variance
from sklr.selection import _fit as fit
from sklr.selection import _neighbours as neighbours
from sklr.selection import _noise as noise

RULES = ("best", "one_se", "fit")
STEPS = (3, 4)  # a search uses every third or fourth learning rate of the table: 0.375 or 0.5 decades apart
MOST = 13  # maximum number of learning rates of a search
KNOWN = 0.1  # decades: the optimum counts as known up to this standard error
CONSTANTS = (
    (neighbours, "SCALE", (0.25, 0.5, 2.0, 4.0)),
    (neighbours, "SHAPE", (0.1, 0.2, 0.25)),
    (noise, "PRIOR_DOF", (2, 8)),
    (noise, "SIZE", (0.6, 1.0)),
    (fit, "DOUBT", (0.0, 0.1)),
)


@dataclass(frozen=True, eq=False)
class Search:
    """The curve that one search saw, and log10 of the true optimum."""

    curve: LRCurve
    world: int


@dataclass(frozen=True, eq=False)
class TrueTable:
    """The scores of one task, by learning rate and cell."""

    name: str
    u: np.ndarray
    scores: np.ndarray
    guess: float
    world: np.ndarray

    @cached_property
    def by_world(self) -> np.ndarray:
        """Mean score of each learning rate in each world, shape (n_lrs, n_worlds)."""
        worth = np.fmax(self.scores, self.guess)
        return np.stack([worth[:, self.world == w].mean(axis=1) for w in np.unique(self.world)], axis=1)

    def truth(self, without: int) -> np.ndarray:
        """Return the mean score of each learning rate in all other worlds."""
        return np.delete(self.by_world, without, axis=1).mean(axis=1)

    @cached_property
    def doubt(self) -> float:
        """Standard error of the optimum in decades, by resampling worlds with replacement."""
        n = self.by_world.shape[1]
        drawn = np.random.default_rng(0).integers(n, size=(200, n))
        return float(np.std([top_of(self.u, self.by_world[:, worlds].mean(axis=1)) for worlds in drawn]))

    def searches(self, quick: bool) -> Iterator[Search]:
        """Return all searches: each world, on grids with two spacings and all offsets."""
        for place, world in enumerate(np.unique(self.world)):
            cells = self.scores[:, self.world == world]
            for step in STEPS[:1] if quick else STEPS:
                for offset in range(1 if quick else step):
                    at = np.arange(offset, len(self.u), step)[-MOST:]
                    status = ["ok" if ok else "diverged" for ok in np.isfinite(cells[at]).all(axis=1)]
                    yield Search(lr_curve(10 ** self.u[at], cells[at], status), place)


def top_of(u: np.ndarray, mean: np.ndarray) -> float:
    """Return the optimum of a dense curve: the vertex of a parabola fitted to the best point and four neighbours.

    >>> u = np.arange(-4, 0, 0.25)
    >>> round(top_of(u, -(u + 2.1) ** 2), 6)
    -2.1
    """
    low = high = int(mean.argmax())
    while high - low < 4:
        left, right = (mean[i] if 0 <= i < len(u) else -np.inf for i in (low - 1, high + 1))
        low, high = (low - 1, high) if left >= right else (low, high + 1)
    near = slice(low, high + 1)
    square, linear, _ = np.polyfit(u[near] - u[low], mean[near], 2)
    vertex = u[low] - linear / (2 * square) if square < 0 else u[mean.argmax()]
    return float(np.clip(vertex, u[low], u[high]))


def read_tables(folder: Path) -> list[TrueTable]:
    """Return the tables of a folder, one for each file and score."""
    return [found for path in sorted(folder.glob("*.npz")) for found in _scores_of(path)]


def _scores_of(path: Path) -> list[TrueTable]:
    with np.load(path) as file:
        names = sorted(key[2:] for key in file.files if key.startswith("s_"))
        return [
            TrueTable(f"{path.stem} {name}", file["u"], file[f"s_{name}"], float(file[f"g_{name}"]), file["world"])
            for name in names
        ]


def judge(truth: TrueTable, rule: str, searches: Sequence[Search]) -> dict[str, Any]:
    """Apply one rule to every search of a table, and compare the choices with the truth."""
    choices = [choose(search.curve, rule) for search in searches]
    worlds = np.array([search.world for search in searches])
    means = {world: truth.truth(world) for world in np.unique(worlds)}
    tops = np.array([top_of(truth.u, means[world]) for world in worlds])
    best = np.array([means[world].max() for world in worlds])
    at = np.log10([choice.lr for choice in choices])
    worth = np.array([np.interp(u, truth.u, means[world]) for u, world in zip(at, worlds, strict=True)])
    way = (best - truth.guess) / 100
    low, high = np.log10([choice.interval for choice in choices]).T
    luckless = (
        np.array([_corrected(search, choice) for search, choice in zip(searches, choices, strict=True)]) - worth
    ) / way
    by_world = np.array([luckless[worlds == world].mean() for world in np.unique(worlds)])
    return {
        "table": truth.name,
        "rule": rule,
        "known": truth.doubt <= KNOWN,
        "coverage": float(100 * np.mean((low <= tops) & (tops <= high))),
        "width": float(np.median(high - low)),
        "bias": float(np.mean(at - tops)),
        "error": float(np.mean(np.abs(at - tops))),
        "regret": float(np.mean((best - worth) / way)),
        "refused": float(100 * np.mean([bool(choice.refused) for choice in choices])),
        "quadratic": float(100 * np.mean([choice.method == "quadratic" for choice in choices])),
        **dict(zip(("moves told", "moves"), moves(searches, at, rule), strict=True)),
        "corrected": float(by_world.mean()),
        "corrected se": float(by_world.std(ddof=1) / np.sqrt(len(by_world))) if len(by_world) > 1 else np.nan,
    }


def moves(searches: Sequence[Search], at: np.ndarray, rule: str) -> tuple[float, float]:
    """Return the scatter of the chosen lr over the worlds of one grid: the median estimate, and the observed one."""
    grids = np.array([f"{len(search.curve)} from {search.curve.lr[0]:.6g}" for search in searches])
    really = np.mean([at[grids == grid].var(ddof=1) for grid in np.unique(grids)])
    told = [search_variance(search.curve, rule).decades for search in searches]
    return float(np.median(told)), float(np.sqrt(really))


def _corrected(search: Search, choice: Choice) -> float:
    return min(choice.corrected, float(search.curve.mean[search.curve.best]))


def show(results: Sequence[dict[str, Any]]) -> str:
    """Return a table with a row for each table of scores and each rule."""
    header = ["table", "rule", "known", "coverage", "width", "bias", "error", "regret", "refused", "moves", "corrected"]
    rows = [
        [
            r["table"], r["rule"], "yes" if r["known"] else "no", f"{r['coverage']:.0f} %", f"{r['width']:.2f}",
            f"{r['bias']:+.2f}", f"{r['error']:.2f}", f"{r['regret']:.2f}", f"{r['refused']:.0f} %",
            f"{r['moves told']:.2f} / {r['moves']:.2f}",
            f"{r['corrected']:+.2f} +- {2 * r['corrected se']:.2f}",
        ]
        for r in results
    ]  # fmt: skip
    return table(header, rows)


def goals(results: Sequence[dict[str, Any]]) -> list[tuple[str, str, bool]]:
    """Return the goals for tables with a known optimum: the claim, the measured value, and whether it is met."""
    fitted = [r for r in results if r["rule"] == "fit" and r["known"]]
    best = {r["table"]: r for r in results if r["rule"] == "best"}
    coverage, regret = np.array([(r["coverage"], r["regret"]) for r in fitted]).T
    bias = float(np.mean([abs(r["bias"]) for r in fitted]))
    width, refused = float(np.median([r["width"] for r in fitted])), float(np.mean([r["refused"] for r in fitted]))
    wins = float(np.mean([r["regret"] < best[r["table"]]["regret"] for r in fitted]))
    unbiased = float(np.mean([abs(r["corrected"]) <= 2 * r["corrected se"] for r in results if r["known"]]))
    return [
        ("coverage 87 to 97 %", f"{coverage.mean():.1f} %", 87 <= coverage.mean() <= 97),
        ("none below 80 %", f"{coverage.min():.0f} %", coverage.min() >= 80),
        ("regret at most 0.42 %", f"{regret.mean():.2f} %", regret.mean() <= 0.42),
        ("below that of best on 80 % of tables", f"{100 * wins:.0f} %", wins >= 0.8),
        ("mean size of the bias at most 0.08", f"{bias:.3f}", bias <= 0.08),
        ("median width at most 0.62", f"{width:.2f}", width <= 0.62),
        ("refused in under 5 %", f"{refused:.1f} %", refused < 5),
        ("corrected score within two standard errors on 90 %", f"{100 * unbiased:.0f} %", unbiased >= 0.9),
    ]


def run(tables: Sequence[TrueTable], rules: Sequence[str], quick: bool) -> list[dict[str, Any]]:
    """Judge all rules on all tables."""
    results = []
    for truth in tables:
        tell(truth.name)
        searches = list(truth.searches(quick))
        results += [judge(truth, rule, searches) for rule in rules]
    return results


def constants(tables: Sequence[TrueTable], quick: bool) -> str:
    """Return the numbers of the goals for other values of each constant, with the others unchanged."""
    rows = [["as it is", *(found for _, found, _ in goals(run(tables, ("best", "fit"), quick)))]]
    for module, name, values in CONSTANTS:
        kept = getattr(module, name)
        for value in values:
            setattr(module, name, value)
            rows.append([f"{name} {value}", *(found for _, found, _ in goals(run(tables, ("best", "fit"), quick)))])
        setattr(module, name, kept)
    header = ["", "coverage", "lowest", "regret", "wins", "bias", "width", "refused", "unbiased"]
    return table(header, rows)


def main() -> None:
    """Print versions, machine, the tables and the goals; write numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", type=Path, help="folder with .npz files")
    parser.add_argument("--constants", action="store_true", help="try other constants")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--quick", action="store_true", help="one grid in every world")
    given = parser.parse_args()
    tables, found = read_tables(given.tables), environment()
    print_environment(found)
    start = time.perf_counter()
    results = run(tables, RULES, given.quick)
    print(f"\n{show(results)}\n")
    for claim, measured, met in goals(results):
        print(f"{claim}: {measured}, {'met' if met else 'NOT met'}")
    if given.constants:
        print(f"\n{constants(tables, given.quick)}")
    print(f"\n{time.perf_counter() - start:.0f} s")
    if given.json:
        write_json(given.json, {**found, "results": results})


if __name__ == "__main__":
    main()
