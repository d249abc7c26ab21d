"""After how many evaluations is each strategy near the optimum of recorded LR curves?

Recorded trainings are replayed through the public searches, in seconds instead of hours: an engine looks up the scores
of every epoch, interpolated in log lr, and a run diverges where the nearest recorded one did. The strategies and
statistics are those of `bench_strategies.py`; there is no noise, so ties are rare. Regret is (best - found) / (best -
untrained) in percent, where `best` is the curve's highest final score, `found` the score at the chosen lr, and
`untrained` the score before the first epoch.

Pass the path of a file in the layout of the DeepOBS baselines (JSON, optionally gzipped): "runs", a list of dicts with
"problem", "optimizer", "lr", "train_losses" and "test_accuracies" or "test_losses" by epoch. Runs with the same
problem, optimizer and lr are averaged. Pass --quick for two seeds and only the fast strategies.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _common import environment, print_environment, threads, write_json
from _contest import Contest, by_group, hold, show_standings, standings
from _contest_pictures import draw_contest
from _strategies import ONCE, OURS, STRATEGIES
from _tabulated import Table

EVALUATIONS = (8, 12)
FREE = np.zeros(2)  # the training times are unknown


def read_curves(path: str | Path) -> list[Table]:
    """Return the curves of a file, by name."""
    path = Path(path)
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt") as file:
        runs = json.load(file)["runs"]
    by_name: dict[str, list[dict]] = defaultdict(list)
    for run in runs:
        by_name[f"{run['problem']} {run['optimizer']}"].append(run)
    return [_curve(name, found) for name, found in sorted(by_name.items())]


def _curve(name: str, runs: Sequence[Mapping[str, Any]]) -> Table:
    scores = defaultdict(list)
    for run in runs:
        lost = np.logical_or.accumulate(~np.isfinite(_numbers(run["train_losses"])))
        scores[run["lr"]].append(np.where(lost, np.nan, _scores(run))[1:])
    lrs = sorted(scores)
    means = np.array([np.mean(scores[lr], axis=0) for lr in lrs])
    untrained = np.median([_scores(run)[0] for run in runs])
    return Table(name, np.log10(lrs).round(9), means[:, None], untrained, np.array([1.0, 2.0]), FREE, FREE)


def _scores(run: Mapping[str, Any]) -> np.ndarray:
    """Return the test scores of a run by epoch; greater is better."""
    accuracies = run.get("test_accuracies")
    return _numbers(accuracies) if accuracies else -_numbers(run["test_losses"])


def _numbers(values: Sequence[Any]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", help="recorded curves")
    parser.add_argument("--evaluations", type=int, nargs="+", default=EVALUATIONS)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES), metavar="NAME")
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--pictures", type=Path, help="folder to draw the picture in")
    parser.add_argument("--quick", action="store_true", help="two seeds, without the slow strategies")
    given = parser.parse_args()
    if given.quick:
        given.seeds = min(2, given.seeds)
        given.strategies = [name for name in given.strategies if name not in (*ONCE, "Optuna's GP")]
    return given


def main() -> None:
    """Print versions, machine and the standings; write the numbers and the plot."""
    given = arguments()
    curves, found = read_curves(given.path), environment()
    print_environment(found)
    print(
        f"{len(curves)} curves, {given.seeds} seeds; epochs and seconds as shares of a grid's, seconds without training"
    )
    with threads(1):
        contest = Contest(
            curves, hold(curves, given.strategies, given.evaluations, given.seeds, given.jobs, whole=True)
        )
    optimizers = sorted({curve.name.rpartition(" ")[2] for curve in curves})
    groups = {name: lambda curve, name=name: curve.endswith(f" {name}") for name in optimizers}
    rows = [(n, standings(contest, n)) for n in given.evaluations]
    for n, ranked in rows:
        print(f"\n{n} evaluations; p and wins against {contest.keys(n)[0][0]}\n\n{show_standings(ranked)}")
        print("\n" + by_group(contest, n, groups))
    if given.pictures:
        draw_contest(contest, given.pictures / "replay.png", ("evaluations", "epochs"))
    results = [row for _, ranked in rows for row in ranked]
    if given.json:
        write_json(
            given.json, {**found, "curves": len(curves), "seeds": given.seeds, "against": OURS, "results": results}
        )


if __name__ == "__main__":
    main()
