"""Goals of the engine benchmark, and whether they are met."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from _common import table

GRID, GRID_2, LOOP = "GridSearchCV, 1 job", "GridSearchCV, 2 jobs", "plain PyTorch loop"
SEQUENTIAL, ONE = "sequential engine", "one skorch training"
GOAL_RUNS = 50  # 10 learning rates x 5 folds
# device -> rival -> model -> minimum speed-up; on two CPU cores, and on one H200
FASTER = {
    "cpu": {GRID_2: {"mlp-small": 25, "mlp-wide": 6, "cnn-8x8": 2, "cnn-28x28": 2}},
    "cuda": {SEQUENTIAL: {"mlp-small": 100, "mlp-wide": 100, "cnn-8x8": 30, "cnn-28x28": 30}},
}
PRICE = {"mlp-small": 3.0}  # time of 50 trainings, in single skorch trainings
GEMM_SHARE = {"mlp-wide": 0.5}
STOP_SHARE = 0.65


class Goal(NamedTuple):
    """One goal, and the value measured for it."""

    task: str
    claim: str
    measured: str
    met: bool


def fastest_stack(medians: Mapping[str, float]) -> str:
    """Return the name of the fastest stacked side."""
    return min((name for name in medians if name.startswith("stacked")), key=medians.__getitem__)


def speed_goals(model: str, optimizer: str, n_runs: int, device: str, medians: Mapping[str, float]) -> Iterator[Goal]:
    """Yield the goals for the timings of one grid; they use the fastest stacked side and name it.

    Parameters
    ----------
    medians : mapping of str to float
        Seconds by side.
    """
    ours = fastest_stack(medians)
    label, kind = f"{model}, {optimizer}, {n_runs} runs", torch.device(device).type

    def faster(rival: str, least: float, claim: str) -> Goal:
        factor = medians[rival] / medians[ours]
        return Goal(label, claim, f"{factor:.1f}x ({ours})", factor >= least)

    yield faster(SEQUENTIAL, 1, f"never slower than the {SEQUENTIAL}")
    if n_runs != GOAL_RUNS or optimizer != "sgd":
        return
    for rival, least in FASTER[kind].items():
        if model in least:
            yield faster(rival, least[model], f"at least {least[model]}x faster than {rival}")
    if model in PRICE and kind == "cpu":
        price = medians[ours] / medians[ONE]
        yield Goal(label, f"at most {PRICE[model]:g}x {ONE}", f"{price:.2f}x ({ours})", price <= PRICE[model])


def gemm_goals(model: str, n_runs: int, share: float) -> Iterator[Goal]:
    """Yield the model's goal for its share of the rate of `torch.bmm`, if it has one."""
    if model in GEMM_SHARE:
        least = GEMM_SHARE[model]
        claim = f"at least {least:.0%} of the rate of torch.bmm, in the whole search"
        yield Goal(f"{model}, {n_runs} runs", claim, f"{share:.0%}", share >= least)


def stop_goal(model: str, optimizer: str, n_runs: int, share: float) -> Goal:
    """Return the goal for stopping half of the runs; `share` is the time relative to training all to the end."""
    claim = f"half stopped after 2 of 10 epochs: at most {STOP_SHARE:.0%} of the time"
    return Goal(f"{model}, {optimizer}, {n_runs} runs", claim, f"{share:.0%}", share <= STOP_SHARE)


def print_goals(goals: Sequence[Goal], quick: bool) -> None:
    """Print each goal with the measured value."""
    print("Goals" + (" (the numbers of a quick run mean nothing)" if quick else ""))
    print(table(["task", "goal", "measured", ""], [(*goal[:3], "pass" if goal.met else "FAIL") for goal in goals]))
