"""scikit-optimize's `Optimizer` with an even initial cover, without repeated points, and with NaN scores allowed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any

import numpy as np
from skopt import Optimizer

from sklr.search.proposals.acquisition import bounded, propose
from sklr.search.proposals.dimension_types import Choices, Dimension, Range
from sklr.search.proposals.dimensions import line_of, raw_point
from sklr.search.proposals.even_cover import batch_size, even_cover, keep_apart, start_size
from sklr.search.proposals.gp import LineGP, fit_line

Point = list[Any]  # one raw value per dimension
MODEL_KWARGS = ("base_estimator", "acq_func", "acq_func_kwargs", "acq_optimizer", "acq_optimizer_kwargs")
ENUMERABLE = 10_000  # spaces up to this size are enumerated to find a point not tried yet


class Surrogate:
    """Propose points and learn their scores.

    Parameters
    ----------
    dimensions : mapping of str to Dimension
    n_iter : int
        Maximum number of points.
    n_points : int or None
        How many to propose at a time; None decides by `batch_size`.
    kwargs : mapping
        Passed to `skopt.Optimizer`.
    random_state : numpy.random.RandomState

    Raises
    ------
    ValueError
        If scikit-optimize rejects `kwargs`.
    """

    def __init__(
        self,
        dimensions: Mapping[str, Dimension],
        n_iter: int,
        n_points: int | None,
        kwargs: Mapping[str, Any],
        random_state: np.random.RandomState,
    ):
        self.dimensions = dimensions
        self._random_state = random_state
        self._n_iter, self._n_points = n_iter, n_points
        self._n_start = _n_start(n_iter, n_points or 1, kwargs)
        self._start = [] if "initial_point_generator" in kwargs else self._cover(self._n_start)
        self._line = line_of(dimensions)
        self._is_blind = _is_dummy(kwargs)
        self._knows_lines = self._line is not None and not any(key in kwargs for key in MODEL_KWARGS)
        self._scores: list[float] = []
        self._points: list[Point] = []
        with _narrowly_quiet():
            self.optimizer = self._make_optimizer(dict(kwargs))

    def _make_optimizer(self, kwargs: dict[str, Any]) -> Optimizer:
        _check_base_estimator(kwargs)
        kwargs.pop("n_random_starts", None)  # scikit-optimize's old name of n_initial_points
        if _is_dummy(kwargs):
            kwargs.pop("base_estimator")
        kwargs["n_initial_points"] = self._n_start
        kwargs.setdefault("random_state", self._random_state.randint(2**31 - 1))
        dimensions = [d.skopt(name) for name, d in self.dimensions.items()]
        if self._knows_lines:
            dimensions[0].set_transformer("normalize")  # LineGP expects positions from 0 to 1
            kwargs |= {"base_estimator": LineGP(), "acq_func": "EI", "acq_optimizer": "sampling"}
            kwargs["acq_optimizer_kwargs"] = {"n_points": 100}  # few: `_propose` replaces its choice anyway
        return Optimizer(dimensions, **kwargs)

    def _cover(self, n: int) -> list[Point]:
        positions = even_cover(n, len(self.dimensions), self._random_state)
        return [[d.at(u) for d, u in zip(self.dimensions.values(), row, strict=True)] for row in positions]

    def candidate(self, point: Point) -> dict[str, Any]:
        """Return the estimator's parameters for a point."""
        return {name: d.decode(raw) for (name, d), raw in zip(self.dimensions.items(), point, strict=True)}

    def ask(self, left: int) -> list[Point]:
        """Return the points to try next, at most `left`, all of them new; empty if the space is exhausted."""
        n = self._n_points or batch_size(len(self._points), self._n_start, left)
        asked: list[Point] = []
        for point in self._propose(min(n, left)):
            new = self._renew(list(point), [*self._points, *asked])
            asked.extend([] if new is None else [new])
        return asked

    def _propose(self, n: int) -> list[Point]:
        if self._is_blind and len(self._points) >= len(self._start):
            return self._cover(n)  # the budget was extended after the start
        start = self._start[len(self._points) : len(self._points) + n]
        if start:
            return start
        if self._knows_lines and self._line is not None and len(self._points) >= self._n_start:
            positions = np.array([self._line.position(raw) for (raw,) in self._points])
            new = propose(positions, np.array(self._scores), n, self._distance(self._line), fit_line)
            return [[self._line.at(position)] for position in new]
        with _narrowly_quiet():
            return self.optimizer.ask(n_points=n)

    def tell(self, points: Sequence[Point], scores: np.ndarray) -> Any:
        """Learn the scores of points proposed before; NaN and infinite scores count as the worst finite one.

        Returns
        -------
        result : scipy.optimize.OptimizeResult
            Of all points so far.
        """
        self._points.extend(points)
        self._scores.extend(map(float, scores))
        losses = [-score for score in bounded(np.array(self._scores)).tolist()]
        self.optimizer.yi = losses[: -len(points)]  # the lower bound of earlier scores may have changed
        with _narrowly_quiet():
            return self.optimizer.tell(list(points), losses[-len(points) :])

    def recall(self, candidates: Sequence[Mapping[str, Any]], scores: np.ndarray) -> None:
        """Learn the scores of earlier candidates that lie in the space."""
        points = [raw_point(candidate, self.dimensions) for candidate in candidates]
        inside = [(list(raw.values()), score) for raw, score in zip(points, scores, strict=True) if raw is not None]
        if inside:
            self.tell([point for point, _ in inside], np.array([score for _, score in inside]))

    def _renew(self, point: Point, taken: list[Point]) -> Point | None:
        """Return `point` if it is new, else another new point, or None if the space is exhausted."""
        if self._line is not None:
            return [self._spread(self._line, point[0], [p[0] for p in taken])]
        seen = [self._key(p) for p in taken]
        if self._key(point) not in seen:
            return point
        return next((p for p in self._others() if self._key(p) not in seen), None)

    def _key(self, point: Point) -> Point:
        """Return the point in a comparable form: the labels of choices, the values of ranges."""
        pairs = zip(self.dimensions.values(), point, strict=True)
        return [raw if isinstance(d, Choices) else d.decode(raw) for d, raw in pairs]

    def _spread(self, line: Range, raw: float, taken: list[float]) -> float:
        position = line.position(raw)
        kept = keep_apart(position, np.array([line.position(t) for t in taken]), self._distance(line))
        return raw if kept == position else line.at(kept)

    def _distance(self, line: Range) -> float:
        return min(line.resolution, 0.5 / self._n_iter)

    def _others(self) -> Iterator[Point]:
        sizes = [d.size for d in self.dimensions.values()]
        if math.prod(sizes) > ENUMERABLE:
            while True:
                yield self._cover(1)[0]
        axes = [[d.at((i + 0.5) / d.size) for i in range(int(d.size))] for d in self.dimensions.values()]
        points = [list(point) for point in product(*axes)]
        yield from (points[i] for i in self._random_state.permutation(len(points)))


def _n_start(n_iter: int, n_points: int, kwargs: Mapping[str, Any]) -> int:
    """Return how many points to try before the model proposes; all of them if there is no model."""
    if _is_dummy(kwargs):
        return n_iter
    given = kwargs.get("n_initial_points", kwargs.get("n_random_starts"))
    if given is not None:
        return int(given)
    return start_size(n_iter, n_points)


def _is_dummy(kwargs: Mapping[str, Any]) -> bool:
    return str(kwargs.get("base_estimator")).upper() == "DUMMY"


def _check_base_estimator(kwargs: Mapping[str, Any]) -> None:
    if str(kwargs.get("base_estimator")).upper() == "GBRT":
        raise ValueError(
            "optimizer_kwargs['base_estimator'] must be 'GP', 'RF', 'ET', 'DUMMY' or a regressor, got 'GBRT', which "
            "scikit-optimize 0.10.2 cannot run with today's scikit-learn and NumPy. Use 'RF' or 'ET'."
        )
    if kwargs.get("acq_func") in ("EIps", "PIps"):
        raise ValueError(
            "optimizer_kwargs['acq_func'] must be 'gp_hedge', 'EI', 'LCB' or 'PI', "
            f"got {kwargs['acq_func']!r}, which needs the time of each training. Use 'EI'."
        )


@contextmanager
def _narrowly_quiet() -> Iterator[None]:
    """Silence two warnings that are of no use to the user: repeated points (replaced here), unbalanced Sobol points."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The objective has been evaluated at")
        warnings.filterwarnings("ignore", message="The balance properties of Sobol")
        yield
