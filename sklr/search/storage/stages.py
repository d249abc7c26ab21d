"""The stages of a search that is extended on resuming: it proposes the same candidates as before, and then more."""

from __future__ import annotations

from collections.abc import Sequence

# The budget of each space, in candidates: at the start, and after each extension.
Stages = Sequence[Sequence[float]]


def extended(stages: Stages, counts: Sequence[float]) -> list[list[float]]:
    """Return the stages, with one more if `counts` exceeds the last one.

    >>> extended([], [3]), extended([[3]], [2]), extended([[3, 3]], [5, 2])
    ([[3]], [[3]], [[3, 3], [5, 3]])
    """
    last = stages[-1] if stages else [0] * len(counts)
    more = [max(old, new) for old, new in zip(last, counts, strict=True)]
    return [*map(list, stages), *([more] if more != list(last) or not stages else [])]


def left_in_stage(stages: Stages, space: int, done: int) -> float:
    """Return how many candidates of a space are left to the end of the current stage.

    Strategies that split their budget split that of the stage: the larger budget of a later stage would change what
    they proposed before.

    >>> [left_in_stage([[3], [5]], 0, done) for done in range(5)]
    [3, 2, 1, 2, 1]
    """
    return min(stage[space] for stage in stages if stage[space] > done) - done
