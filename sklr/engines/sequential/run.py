"""Trains and scores one candidate in one cell, and records divergence and errors as outcomes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import format_exc
from typing import Any

from sklr.engines.scoring import final_scores, followed_score, followed_scorer
from sklr.engines.sequential.fit import EpochFit, WholeFit
from sklr.engines.sequential.monitor import detached_copy
from sklr.engines.verbose import Label, print_end, print_start
from sklr.exceptions import TrainingDiverged
from sklr.experiment.cell_data import (
    CellData,
    Head,
    cell_data,
    looks_only_at_predictions,
    predicts_as_its_library,
)
from sklr.experiment.experiment import Cell, Experiment
from sklr.experiment.wrappers import fitted_around, fitted_net, is_net, net_in_place, net_to_fit, without_pipelines
from sklr.results import DIVERGED, FAILED, OK, STOPPED, EpochRow, Outcome, Scores


class Run:
    """The training of one candidate in one cell: `advance` it, `stop` it, and read its `outcome` when `done`.

    Parameters
    ----------
    experiment, cell
        What all runs share, and this run's fold and seed.
    estimator : estimator
        An unfitted clone with the candidate's parameters, for this run alone.
    label : Label
        For the lines that are printed.
    head : Head or None
        The fitted steps around the net, shared by several runs. None for a bare net, and where they failed to fit.
    context : CallbackContext or None
        scikit-learn's callback context of this run. If given, the estimator is fitted as scikit-learn would.
    """

    def __init__(
        self,
        experiment: Experiment,
        cell: Cell,
        estimator: Any,
        label: Label,
        head: Head | None = None,
        context: Any = None,
    ):
        self.experiment, self.cell, self.estimator = experiment, cell, estimator
        self.label, self.head, self.context = label, head, context
        self.fit: WholeFit | EpochFit | None = None
        self.outcome: Outcome | None = None
        self.seconds = 0.0

    @property
    def done(self) -> bool:
        """Whether the run has been scored, or has ended without a score."""
        return self.outcome is not None

    @property
    def history(self) -> list[EpochRow]:
        """The epochs trained so far."""
        if self.outcome is not None:
            return self.outcome.history
        return self.fit.watcher.history if self.fit is not None else []

    def advance(self, n_epochs: int | None = None) -> Run:
        """Train for `n_epochs` (None: to the end), score at the end, and return self: in a worker that is a copy."""
        start = time.time()
        try:
            finished = self._train(n_epochs)
        except TrainingDiverged as error:
            self._close(DIVERGED, str(error), start)
        except Exception:
            if self.experiment.error_score == "raise":
                raise
            self._close(FAILED, "failed", start, fit_error=format_exc())
        else:
            self.seconds += time.time() - start
            if finished:
                self._score(OK, "")
        return self

    def stop(self, reason: str) -> None:
        """End the run now, and score it as it is."""
        self._score(STOPPED, reason)

    def _train(self, n_epochs: int | None) -> bool:
        if self.fit is None:
            print_start(self.label, self.experiment.verbose)
            self.fit = self._make_fit()
        with self._hooks():
            self.fit.advance(n_epochs)
        return self.fit.done

    def _make_fit(self) -> WholeFit | EpochFit:
        raw = cell_data(self.experiment, self.cell, self.estimator)
        net = self.estimator if self.head is None else self._join_head()
        self.train_data = raw if self.head is None else self.head.data
        self.subject, self.score_data = self.estimator, raw
        if self.head is not None and looks_only_at_predictions(self.experiment.scorer):
            self.subject, self.score_data = without_pipelines(self.estimator), self.head.scored
        watched = net if self.head is not None else net_in_place(self.estimator)
        follow = self._follow if is_net(watched) and self.experiment.follow == "always" else None
        if self.context is not None or not is_net(net):
            return WholeFit(self.estimator, raw, self.cell.seed, follow)
        return EpochFit(net, self.train_data, self.cell.seed, follow)

    def _join_head(self) -> Any:
        assert self.head is not None
        net = net_to_fit(self.estimator)
        self.estimator = fitted_around(self.estimator, self.head.fitted, net)
        self.seconds += self.head.seconds
        return net

    @contextmanager
    def _hooks(self) -> Iterator[None]:
        """Call scikit-learn's callbacks around the fit, as its own searches do."""
        if self.context is None:
            yield
            return
        weight = self.train_data.fit_params.get("sample_weight")
        hook = {
            "estimator": self.experiment.caller,
            "X": self.train_data.X_train,
            "y": self.train_data.y_train,
            "metadata": None if weight is None else {"sample_weight": weight},
        }
        with self.context.propagate_callback_context(self.estimator):
            self.context.call_on_fit_task_begin(**hook)
            try:
                yield
            finally:
                self.context.call_on_fit_task_end(**hook)

    def _follow(self) -> float:
        """Return the current score; a user's scorer is given a copy, since the training goes on."""
        subject, data = self.subject, self.score_data
        predictions_do = looks_only_at_predictions(followed_scorer(self.experiment))
        if not (predictions_do and predicts_as_its_library(fitted_net(subject))):
            subject, data = detached_copy(subject), self._own_rows()
        return followed_score(self.experiment, self.cell, subject, data)

    def _own_rows(self) -> CellData:
        if self.subject is not self.estimator:
            return self.score_data  # rows already transformed by the head, for scorers that use predictions alone
        return cell_data(self.experiment, self.cell, self.estimator)

    def _score(self, status: str, reason: str) -> None:
        start = time.time()
        about = self.experiment, self.cell, self.subject, self.score_data
        test = final_scores(*about)
        score_time = time.time() - start
        train = final_scores(*about, train=True) if self.experiment.return_train_score else None
        error = test.error or (train and train.error)
        self._finish(status, reason, test.scores, train and train.scores, score_time, score_error=error)

    def _close(self, status: str, reason: str, start: float, fit_error: str | None = None) -> None:
        """End a run that has no score, as it has diverged or failed."""
        self.seconds += time.time() - start
        scores = error_scores(self.experiment)
        self._finish(status, reason, scores, scores if self.experiment.return_train_score else None, 0.0, fit_error)

    def _finish(
        self,
        status: str,
        reason: str,
        test: Scores,
        train: Scores | None,
        score_time: float,
        fit_error: str | None = None,
        score_error: str | None = None,
    ) -> None:
        watching = self.fit.watcher.seconds if self.fit is not None else 0.0
        outcome = Outcome(
            test_scores=test,
            status=status,
            reason=reason,
            train_scores=train,
            fit_time=self.seconds - watching,
            score_time=score_time,
            n_test_samples=len(self.cell.test),
            fit_error=fit_error,
            score_error=score_error,
            history=self.history,
            estimator=self.estimator if self.experiment.keep_estimators else None,
        )
        print_end(self.label, outcome, self.experiment.verbose)
        self.end(outcome)

    def end(self, outcome: Outcome) -> None:
        """Set the outcome, and release the estimator and its data."""
        # so that a finished run is small when it is kept or sent from a worker; in one assignment, since another thread
        # may read it
        self.__dict__ = {"outcome": outcome}


def error_scores(experiment: Experiment) -> Scores:
    """Return the scores of a run that has none: `error_score`, or NaN where that is 'raise', once per metric."""
    score = float("nan") if experiment.error_score == "raise" else experiment.error_score
    scorers = getattr(experiment.scorer, "_scorers", None)
    return score if scorers is None else dict.fromkeys(scorers, score)
