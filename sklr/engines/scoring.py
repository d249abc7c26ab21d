"""How all engines call the scorer: at the end of a run, and after each epoch where that is wanted."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from traceback import format_exc
from typing import Any, NamedTuple

from skorch import NeuralNet

from sklr._utils.errors import cause_of
from sklr._utils.random import RandomStream
from sklr._utils.sklearn import score_estimator
from sklr._utils.warnings import warn
from sklr.engines.metrics import quick_metric
from sklr.experiment.cell_data import CellData, scorers_of
from sklr.experiment.experiment import Cell, Experiment
from sklr.experiment.wrappers import changes_predictions
from sklr.results import Outcome, Scores, pick_score


class ScorerError(Exception):
    """A scorer raised the error that is this one's ``__cause__``, and with `error_score="raise"` it ends the search."""


def is_followed(experiment: Experiment, net: NeuralNet) -> bool:
    """Say whether a stack scores its runs after each epoch.

    With `follow="free"` it does so where it computes the scores of all runs at once, at almost no cost: accuracy, log
    loss and the usual errors of regressors. Other scorers, and steps that transform predictions, may be slow or count
    their calls. A net trained by itself has no free scores, since they take one more pass over the validation rows.
    """
    if experiment.follow == "free":
        own = not changes_predictions(experiment.estimator)
        return own and quick_metric(net, followed_scorer(experiment)) is not None
    return experiment.follow == "always"


def followed_scorer(experiment: Experiment) -> Any:
    """Return the scorer to call after each epoch: of several, only the one of the experiment's metric.

    Where there are score parameters it is the multimetric scorer as a whole, since that routes them to its parts.
    """
    parts = scorers_of(experiment.scorer)
    if parts is None or experiment.score_params:
        return experiment.scorer
    return next((part for name, part in parts.items() if name == experiment.metric), next(iter(parts.values())))


def followed_score(experiment: Experiment, cell: Cell, subject: Any, data: CellData) -> float:
    """Return the current score on the validation rows; NaN, without a warning, if the scorer raises.

    The final scores will report the error, once.
    """
    y = () if data.y_test is None else (data.y_test,)
    with RandomStream(cell.seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            scores = followed_scorer(experiment)(subject, data.X_test, *y, **data.score_test)
            return float(pick_score(scores, experiment.metric))
        except Exception:  # a user's scorer may raise anything
            return float("nan")


class Scored(NamedTuple):
    """The scores of a run, and the traceback of the first scorer that raised an exception."""

    scores: Scores
    error: str | None = None


def final_scores(experiment: Experiment, cell: Cell, subject: Any, data: CellData, train: bool = False) -> Scored:
    """Return the scores of a run on the validation rows, or on the training rows.

    Random numbers drawn while scoring come from the cell's own stream, so that scores are reproducible.
    """
    rows = (data.X_train, data.y_train) if train else (data.X_test, data.y_test)
    params = data.score_train if train else data.score_test
    scorer = _Noting(experiment.scorer, experiment.error_score)
    with RandomStream(cell.seed):
        return Scored(score_estimator(subject, *rows, scorer, params, experiment.error_score), scorer.error)


class _Noting:
    """A scorer that notes the exceptions of another, for which scikit-learn would print a traceback in every run."""

    def __init__(self, scorer: Any, error_score: Any):
        self.scorer, self.error_score = scorer, error_score
        self.error: str | None = None

    def __repr__(self) -> str:
        return repr(self.scorer)  # is part of scikit-learn's error messages

    def __call__(self, *rows: Any, **params: Any) -> Any:
        several = scorers_of(self.scorer) is not None
        try:
            scores = self.scorer(*rows, **params)
        except Exception:
            if several or self.error_score == "raise":
                raise
            return self._noted(format_exc())
        # of a scorer that raises an exception, scikit-learn's multimetric scorer returns the traceback as its score
        return {name: self._noted(s) if isinstance(s, str) else s for name, s in scores.items()} if several else scores

    def _noted(self, error: str) -> Any:
        self.error = self.error or error
        return self.error_score


def tell_of_scorers(outcomes: Iterable[Outcome], error_score: Any, told: set[str]) -> None:
    """Warn of the exceptions of scorers in these runs, but not again of those in `told`, to which they are added."""
    for error in (outcome.score_error for outcome in outcomes):
        if error is None or (cause := cause_of(error)) in told:
            continue
        told.add(cause)
        # begins as scikit-learn's own warning, so that a filter for that one also matches this one
        warn(
            "Scoring failed. The score on this train-test partition for these parameters will be set to "
            f"{error_score}, and so will be that of every other run in which this happens: {cause}\n"
            f"error_score='raise' stops at the first error. Details: \n{error}",
            UserWarning,
        )


def returned_no_number(error: Exception) -> bool:
    """Whether scikit-learn has raised this error because of what a scorer returned."""
    return isinstance(error, ValueError) and str(error).startswith("scoring must return a number")
