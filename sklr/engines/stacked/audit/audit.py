"""The audit: a few training steps are taken both in a small stack and by skorch's own nets, and compared.

Inspecting a net is not enough to know that it can be stacked. So a few runs that differ in cell and candidate are
trained in a small stack, and each by itself, on batches of every size that will occur: losses, learning rates, weights,
buffers and predictions must agree up to rounding.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from numbers import Real
from typing import Any

from sklr._utils.precision import full_precision
from sklr._utils.random import RandomStream
from sklr.engines.stacked.audit.compare import DiffersAfterStep, StepComparison, try_step
from sklr.engines.stacked.checks.static import Unstackable
from sklr.engines.stacked.model.dropout import WithoutDropout
from sklr.engines.stacked.model.group import Group
from sklr.engines.stacked.model.member import PackCell
from sklr.experiment.experiment import Cell, Experiment

MOST_CANDIDATES = 4  # to audit in one stack


def audit(experiment: Experiment, candidates: Sequence[dict], group: Group) -> None:
    """Train a few runs of a group in a stack and by themselves, and compare them step by step.

    Parameters
    ----------
    experiment, candidates
        What is searched.
    group : Group
        Candidates that are to share stacks, initialized in every cell.

    Raises
    ------
    Unstackable
        If a stack trains something other than skorch does, or either raises an error; the reason says what differs.
    """
    rounds = choose_candidates([candidates[member.candidate] for member in group.members])
    cells = choose_cells([place.cell for place in group.group_cells], [place.pack_cell for place in group.group_cells])
    draws = group.stack_args["traits"].draws
    with RandomStream(0), full_precision(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the training itself will give them
        # PyTorch has no batching rule for an operation and loops over the runs, which is slower than no stack
        warnings.filterwarnings("error", "There is a performance drop")
        for members in rounds:
            if draws:
                try_step(group, members, cells)
            # a stack draws other dropout masks than a single net: steps are compared without dropout
            with WithoutDropout() if draws else nullcontext():
                _compare(experiment, candidates, group, members, cells)


def _compare(*what: Any) -> None:
    """Compare a small stack; where weights differ after a step, compare once more, from slightly different weights.

    Rounding may decide on which side of 0 the input of a ReLU lies. In a wide layer with a large batch that happens in
    one audit of some thirty, and hardly twice, while a real difference does not depend on the exact weights.
    """
    try:
        StepComparison(*what).run()
    except DiffersAfterStep as difference:
        if not _is_repeated(difference, *what):
            raise
        again = StepComparison(*what)
        again.shake()
        again.run()


def _is_repeated(difference: DiffersAfterStep, *what: Any) -> bool:
    """Say whether the same comparison ends in the same way: rounding on a CPU does.

    What does not has changed something outside of the module, such as a global count of warm-up steps, and the next
    comparison would not meet it either.
    """
    if what[2].device.type != "cpu":
        return True  # sums on other devices are not always taken in the same order
    try:
        StepComparison(*what).run()
    except Unstackable as found:
        return found.args == difference.args
    return False


def choose_candidates(candidates: Sequence[dict]) -> list[list[int]]:
    """Return the positions of candidates to audit together: at least two, and in all of them every kind of value.

    All numbers but 0 are of one kind; 0, which may switch a term off, and each other value are kinds of their own.

    >>> choose_candidates([{"lr": lr, "schedule": name} for lr, name in enumerate("abacdef")])
    [[3, 0, 1, 4], [3, 5, 6]]
    """
    kinds, met, rounds = [kinds_of(candidate) for candidate in candidates], set[Any](), list[list[int]]()
    while not rounds or met < set().union(*kinds):
        rounds.append(_choose(candidates, kinds, met))
        met = met.union(*(kinds[i] for i in rounds[-1]))
    return rounds


def _choose(candidates: Sequence[dict], kinds: Sequence[frozenset], met: set[Any]) -> list[int]:
    """Return positions for one audit: candidates that differ in many parameters and have kinds not `met` so far."""
    chosen = [len(candidates) // 2]  # the middle of a sorted grid: neither the smallest nor the largest lr

    def gain(i: int) -> tuple[int, int]:
        known, first = met.union(*(kinds[k] for k in chosen)), candidates[chosen[0]]
        return len(kinds[i] - known), sum(repr(candidates[i].get(name)) != repr(first[name]) for name in first)

    while len(chosen) < min(MOST_CANDIDATES, len(candidates)):
        best = max((i for i in range(len(candidates)) if i not in chosen), key=gain)
        if len(chosen) > 1 and gain(best)[0] == 0:  # a second candidate is audited even if its kinds are known
            break
        chosen.append(best)
    return chosen


def kinds_of(candidate: dict) -> frozenset:
    """Return the kind of each of a candidate's values; see `choose_candidates`.

    >>> kinds_of({"lr": 0.1}) == kinds_of({"lr": 0.2}), kinds_of({"lr": 0.1}) == kinds_of({"lr": 0.0})
    (True, False)
    """
    return frozenset((name, _kind(value)) for name, value in candidate.items())


def _kind(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return tuple(map(_kind, value))  # such as Adam's betas
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    return value == 0 if is_number else repr(value)


def choose_cells(cells: Sequence[Cell], pack_cells: Sequence[PackCell]) -> list[int]:
    """Return the positions of the first cell and the one that differs most from it: in batch sizes, fold and seed."""

    def difference(k: int) -> tuple[int, int]:
        sizes, others = ([len(rows) for rows in pack_cells[i].epochs[0]] for i in (0, k))
        return (set(sizes) != set(others)) + (len(sizes) != len(others)), (
            (cells[k].fold != cells[0].fold) + (cells[k].seed_index != cells[0].seed_index)
        )

    return [0, *([max(range(1, len(cells)), key=difference)] if len(cells) > 1 else [])]
