"""Runs all strategies on all tables, and summarizes what they found as arrays and printed tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from _common import table as as_text
from _common import tell
from _ranking import average_ranks, band, wilcoxon, wins
from _strategies import FEWEST, ONCE, OURS, Found, search_once
from _tabulated import Table
from joblib import Parallel, delayed

Key = tuple[str, int]  # strategy and number of evaluations; 0 for methods without a search


@dataclass(frozen=True, eq=False)
class Contest:
    """What every strategy found on every task with every seed.

    Attributes
    ----------
    tables : list of Table
        One for each task.
    found : dict of (strategy, evaluations) to list of list of Found
        By task and seed.
    """

    tables: Sequence[Table]
    found: dict[Key, list[list[Found]]]

    def values(self, key: Key, what: str) -> np.ndarray:
        """Return one attribute of what was found, shape (n_tasks, n_seeds)."""
        return np.array([[getattr(found, what) for found in row] for row in self.found[key]], dtype=float)

    def means(self, keys: Sequence[Key], what: str) -> np.ndarray:
        """Return means over the seeds, shape (n_keys, n_tasks); a missing value counts as the whole range."""
        farthest = np.array([np.ptp(t.log_lr) for t in self.tables])[:, None]
        return np.array([np.where(np.isnan(v), farthest, v).mean(axis=1) for v in (self.values(k, what) for k in keys)])

    def budgets(self) -> list[int]:
        """Return the numbers of evaluations, ascending."""
        return sorted({n for _, n in self.found if n})

    def keys(self, n: int) -> list[Key]:
        """Return the strategies with `n` evaluations and the methods without a search; sklr's default comes first."""
        keys = [key for key in self.found if key[1] in (0, n)]
        return sorted(keys, key=lambda key: key[0] != OURS)


def hold(
    tables: Sequence[Table], strategies: Sequence[str], budgets: Sequence[int], seeds: int, jobs: int, whole: bool
) -> dict[Key, list[list[Found]]]:
    """Let every strategy search every table; the slowest strategies only with one budget."""
    keys = [(s, n) for s in strategies for n in budgets if n >= FEWEST.get(s, 1) and n == ONCE.get(s, n)]
    tasks = [(key, table) for key in keys for table in tables]
    calls = (delayed(_search_all)(table, *key, seeds, whole) for key, table in tasks)
    rows = Parallel(n_jobs=jobs, return_as="generator")(calls)
    found: dict[Key, list[list[Found]]] = {key: [] for key in keys}
    for (key, table), row in zip(tasks, rows, strict=True):
        tell(f"{key[0]}, {key[1]} evaluations, {table.name}")
        found[key].append(row)
    return found


def _search_all(table: Table, strategy: str, n: int, seeds: int, whole: bool) -> list[Found]:
    return [search_once(table, strategy, n, seed, whole) for seed in range(seeds)]


def standings(contest: Contest, n: int) -> list[dict]:
    """Return one row per strategy for a number of evaluations, with the lowest regret first.

    Ranks, p values (Wilcoxon over tasks, Holm) and wins are relative to the first of `contest.keys`, sklr's default.
    """
    keys = contest.keys(n)
    regret, loss = contest.means(keys, "regret"), contest.means(keys, "loss")
    p = wilcoxon(regret[1:], regret[0])
    noise = np.array([t.noise() for t in contest.tables])
    rows = []
    for i, key in enumerate(keys):
        low, high = band(contest.values(key, "regret"))
        row = {"strategy": key[0], "evaluations": n if key[1] else 0, "regret": regret[i].mean(), "band": [low, high]}
        row |= {"worst task": regret[i].max(), "decades": contest.means([key], "distance").mean()}
        row |= {what: _relative(contest, key, keys, what) for what in ("epochs", "seconds")}
        row |= {"own": contest.values(key, "own").mean(), "rank": average_ranks(regret)[i]}
        rest = {"p": float(p[i - 1]), "wins": wins(loss[i], loss[0], noise)} if i else {"p": None, "wins": None}
        rows.append(row | rest)
    return sorted(rows, key=lambda row: row["regret"])


def _relative(contest: Contest, key: Key, keys: Sequence[Key], what: str) -> float:
    """Return the cost relative to a grid's on the same task, averaged over the tasks."""
    grid = next((k for k in keys if k[0] == "grid"), keys[0])
    ours, theirs = contest.means([key, grid], what)
    return float((ours / np.maximum(theirs, 1e-12)).mean())


def show_standings(rows: Sequence[dict]) -> str:
    """Return the standings as text."""
    header = ["strategy", "regret %", "90 % band", "worst task", "decades", "epochs", "seconds", "own ms", "rank"]
    header += ["p (Holm)", "win/tie/loss"]
    return as_text(header, [_cells(row) for row in rows])


def _cells(row: dict) -> list[str]:
    low, high = row["band"]
    first = [row["strategy"], f"{row['regret']:.2f}", f"{low:.2f}..{high:.2f}", f"{row['worst task']:.1f}"]
    costs = [f"{row['decades']:.2f}", f"{row['epochs']:.2f}", f"{row['seconds']:.2f}", f"{1e3 * row['own']:.0f}"]
    against = ["", ""] if row["p"] is None else [f"{row['p']:.3f}", "/".join(map(str, row["wins"]))]
    return [*first, *costs, f"{row['rank']:.1f}", *against]


def by_group(contest: Contest, n: int, groups: dict[str, Callable[[str], bool]]) -> str:
    """Return the mean regret over the tasks of each group as text; a group is a condition on the task's name."""
    keys = contest.keys(n)
    regret = contest.means(keys, "regret")
    inside = {name: np.array([holds(t.name) for t in contest.tables]) for name, holds in groups.items()}
    inside = {name: mask for name, mask in inside.items() if mask.any()}
    rows = [
        [key[0], *(f"{r[mask].mean():.2f}" for mask in inside.values())] for key, r in zip(keys, regret, strict=True)
    ]
    return as_text(["mean regret %", *inside], rows)


def as_numbers(contest: Contest) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Return mean regret, loss, decades, epochs and seconds of each strategy and budget by task, for JSON."""
    return {
        f"{strategy}, {n}" if n else strategy: {
            what: dict(
                zip(
                    [t.name for t in contest.tables],
                    contest.means([(strategy, n)], what)[0].round(4).tolist(),
                    strict=True,
                )
            )
            for what in ("regret", "loss", "distance", "epochs", "seconds")
        }
        for strategy, n in contest.found
    }
