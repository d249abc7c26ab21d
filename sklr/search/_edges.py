"""Other parameters than the learning rate whose best value lies at an end of the searched values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sklr._utils.warnings import warn
from sklr.exceptions import EdgeOfRangeWarning
from sklr.experiment.lr_param import is_number
from sklr.search.proposals.dimension_types import Range

FEW = 3  # values; with fewer the best one is always at an end
END = 0.05  # share of a range: a best value within this distance of an end counts as being at the end


class ParamEdge(NamedTuple):
    """The end of a parameter's range at which the best value lies, and that range."""

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
    """Return the numeric parameters, by name, whose best value is at an end of the searched values.

    For a list of values, that is the lowest or the highest value tried. For a range, it is a value in the outer 5 % at
    an end; with fewer than 20 values tried, the outermost of them is also at an end if its distance from the end is at
    most one n-th of the range, the spacing of n values spread evenly. A parameter is left out if it has fewer than
    three values, if a value is not a number, or if two of its values share the best score.

    Parameters
    ----------
    candidates : sequence of mapping
    scores : ndarray of shape (n_candidates,)
        NaN for a candidate without a score.
    ranges : mapping of str to Range
        The parameters that were searched in a range.
    lr_param : str, optional
        The learning rate, which is left out: `lr_edge_` covers it.

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
        if not name.endswith("random_state")  # a number without an order
    }
    return {name: edge for name, edge in found.items() if edge is not None}


def _values(candidates: Sequence[Mapping[str, Any]], places: Sequence[int] | np.ndarray, name: str) -> list[Any]:
    return list(dict.fromkeys(_comparable(candidates[i][name]) for i in places if name in candidates[i]))


def _comparable(value: Any) -> Any:
    """Return the value as a Python number; None if it is not a number."""
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
    """Return all edges as one line of text."""
    return "; ".join(f"{name}: {edge}" for name, edge in edges.items())


def warn_of_param_edges(edges: Mapping[str, ParamEdge]) -> None:
    """Warn if a parameter's best value is at an end."""
    if edges:
        advice = "A better value may lie beyond: widen the range if possible."
        warn(f"{edges_text(edges)}. {advice}", EdgeOfRangeWarning)
