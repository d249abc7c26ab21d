"""Parameters beside the learning rate whose best value lies at an end of what was searched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sklr._utils.warnings import warn
from sklr.exceptions import EdgeOfRangeWarning
from sklr.experiment.lr_param import is_number
from sklr.search.proposals.dimension_types import Range

FEW = 3  # values: with fewer than these every best is at an end
END = 0.05  # of a range: a best value no further from its end is at the end


class ParamEdge(NamedTuple):
    """At which end of a parameter's range the best value lies, and that range."""

    side: str
    low: float
    high: float

    def __str__(self) -> str:
        end = "lower" if self.side == "low" else "upper"
        return f"best at the {end} end of [{self.low:.6g}, {self.high:.6g}]"


def param_edges(
    candidates: Sequence[Mapping[str, Any]],
    scores: np.ndarray,
    ranges: Mapping[str, Range],
    lr_param: str | None = None,
) -> dict[str, ParamEdge]:
    """Return the numeric parameters whose best value is at an end of what was searched, by their names.

    A value is at an end if it is the lowest or the highest that was tried. In a range of which any number may be tried
    it is at an end if it lies in the outer 5 %; of fewer than 20 values the outermost is at an end if it lies no
    further from it than they would lie from each other, spread evenly. Nothing is said of a parameter with fewer than
    three values, of one some of whose values are no numbers, and where another value has the same score.

    Parameters
    ----------
    candidates : sequence of mapping
    scores : ndarray of shape (n_candidates,)
        NaN where there is none.
    ranges : mapping of str to Range
        The parameters that were searched in a range.
    lr_param : str, optional
        The learning rate, which has its own edge.

    >>> decays = [{"lr": 0.1, "optimizer__weight_decay": value} for value in (0.01, 0.1, 1.0)]
    >>> for name, edge in param_edges(decays, np.array([0.9, 0.8, 0.7]), {}, "lr").items():
    ...     print(f"{name}: {edge}")
    optimizer__weight_decay: best at the lower end of [0.01, 1]
    >>> param_edges(decays, np.array([0.8, 0.9, 0.7]), {}), param_edges(decays, np.array([0.9, 0.9, 0.7]), {})
    ({}, {})
    """
    if not np.isfinite(scores).any():
        return {}
    best = np.flatnonzero(scores == np.nanmax(scores))
    found = {
        name: _edge_of(
            _values(candidates, range(len(candidates)), name), _values(candidates, best, name), ranges.get(name)
        )
        for name in sorted({name for candidate in candidates for name in candidate} - {lr_param})
        if not name.endswith("random_state")  # a number, but none that is more or less
    }
    return {name: edge for name, edge in found.items() if edge is not None}


def _values(candidates: Sequence[Mapping[str, Any]], places: Sequence[int] | np.ndarray, name: str) -> list[Any]:
    return list(dict.fromkeys(_comparable(candidates[i][name]) for i in places if name in candidates[i]))


def _comparable(value: Any) -> Any:
    """Return a number, or something else that can be compared: None says that it is no number."""
    return (value.item() if isinstance(value, np.generic) else value) if is_number(value) else None


def _edge_of(values: list[Any], best: list[Any], known: Range | None) -> ParamEdge | None:
    if len(values) < FEW or len(best) != 1 or None in values:
        return None
    low, high = min(values), max(values)
    outermost = best[0] in (low, high)
    if known is None:
        return ParamEdge("low" if best[0] == low else "high", low, high) if outermost else None
    position = known.position(best[0])
    if min(position, 1 - position) > max(END, 1 / len(values) if outermost else 0.0):
        return None
    return ParamEdge("low" if position < 0.5 else "high", known.low, known.high)


def edges_text(edges: Mapping[str, ParamEdge]) -> str:
    """Return all edges in one line."""
    return "; ".join(f"{name}: {edge}" for name, edge in edges.items())


def warn_of_param_edges(edges: Mapping[str, ParamEdge]) -> None:
    """Warn if a parameter's best value is at an end."""
    if edges:
        advice = "A better value may lie beyond; widen the range, where it can be wider."
        warn(f"{edges_text(edges)}. {advice}", EdgeOfRangeWarning)
