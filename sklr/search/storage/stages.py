"""A search that has been gone on with for more candidates: it proposes first what it proposed before, and then more."""

from __future__ import annotations

from collections.abc import Sequence

# How many candidates were asked for, in each space: at the start, and each time there were to be more.
Stages = Sequence[Sequence[float]]


def extended(stages: Stages, counts: Sequence[float]) -> list[list[float]]:
    """Return the stages, with another one if `counts` asks for more than the last.

    >>> extended([], [3]), extended([[3]], [2]), extended([[3, 3]], [5, 2])
    ([[3]], [[3]], [[3, 3], [5, 3]])
    """
    last = stages[-1] if stages else [0] * len(counts)
    more = [max(old, new) for old, new in zip(last, counts, strict=True)]
    return [*map(list, stages), *([more] if more != list(last) or not stages else [])]


def left_in_stage(stages: Stages, space: int, done: int) -> float:
    """Return how many candidates of a space are left to the end of its stage.

    A strategy that divides its budget divides that of the stage: a larger one would have changed what it proposed.

    >>> [left_in_stage([[3], [5]], 0, done) for done in range(5)]
    [3, 2, 1, 2, 1]
    """
    return min(stage[space] for stage in stages if stage[space] > done) - done
