"""The ledger of a search: every trial is recorded in an Optuna study as it happens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import Trial, TrialState

from sklr.experiment.lr_param import is_number
from sklr.results import DIVERGED, FAILED, STOPPED, Outcome, candidate_status, has_status
from sklr.search._interrupts import stoppable
from sklr.search._start import NOTHING, Known
from sklr.search.pruning.pruners import ask_pruner
from sklr.search.storage.claims import Entry
from sklr.search.storage.codec import epoch_means, outcome_attrs
from sklr.search.storage.fingerprint import candidate_key
from sklr.search.storage.stages import Stages
from sklr.search.storage.stored_study import Book


class Ledger:
    """Open a trial per candidate, report its epochs, close it with its score.

    Parameters
    ----------
    study : optuna.Study
        A study that maximizes.
    log_params : collection of str
        Parameters on a logarithmic scale: the lr.
    book : Book, optional
        The search's record in a storage. `study` itself stays in memory: samplers and pruners read it, and it is the
        same in a resumed search as in one that was never interrupted.
    metric : str, optional
        With multimetric scoring, the score that candidates are compared by.
    stages : sequence of sequences of numbers
        The budget of each space, in candidates: when the search began, and after each extension on resuming. Within a
        stage a strategy proposes as if it did not know of the later, larger budgets.

    Attributes
    ----------
    n_opened : int
        How many candidates have been opened; they are numbered from 0 in the order of their proposal.
    known : Known
        The candidates of the search that this one starts from.
    stopped : bool
        Whether the sampler, a pruner or a callback has called ``study.stop()``.
    """

    def __init__(
        self,
        study: optuna.Study,
        log_params: Sequence[str] = (),
        book: Book | None = None,
        metric: str | None = None,
        stages: Stages = (),
    ):
        self.study = study
        self.log_params = log_params
        self.book = book
        self.metric = metric
        self.stages = stages
        self.n_opened = 0
        self.stopped = False
        self.known: Known = NOTHING
        self._turns: Counter[str] = Counter()
        self._asked: list[Trial] = []
        self._open: list[Trial] = []
        self._recorded: dict[int, dict[int, float]] = {}

    def ask(self, distributions: Mapping[str, BaseDistribution], n: int) -> list[dict[str, Any]]:
        """Ask the study's sampler for `n` trials; return their parameters, to be yielded as the next candidates."""
        known = {} if self.book is None else self.book.drawn()
        with self._stoppable():
            self._asked = [self._ask(dict(distributions), known.get(self.n_opened + i)) for i in range(n)]
        return [dict(trial.params) for trial in self._asked]

    def place(self, raws: Sequence[Mapping[str, Any] | None], distributions: Mapping[str, BaseDistribution]) -> None:
        """Open trials with given raw parameters as the next candidates; None stands for one outside of the space."""
        for raw in raws:
            if raw is not None:
                self.study.enqueue_trial(dict(raw))
            self._asked.append(self.study.ask({} if raw is None else dict(distributions)))

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        """Record calls of ``study.stop()``, such as those of a sampler that has nothing left to propose."""
        with stoppable(self.study) as stops:
            yield
        self.stopped = self.stopped or bool(stops)

    def _ask(self, distributions: dict[str, BaseDistribution], drawn: dict[str, Any] | None) -> Trial:
        """Ask the sampler; if the book has a different draw for this trial (the sampler is not seeded), use that."""
        trial = self.study.ask(distributions)
        if drawn is None or drawn == trial.params or not _may_be(drawn, distributions):
            return trial
        self.study.tell(trial, state=TrialState.FAIL)
        self.study.enqueue_trial(drawn)
        return self.study.ask(distributions)

    def open(self, candidates: Sequence[Mapping[str, Any]]) -> list[Entry]:
        """Open a trial for each candidate, unless the sampler proposed them and their trials are open already."""
        self._open = self._asked or [self._enqueue(candidate) for candidate in candidates]
        self._asked, self._recorded = [], {}
        return [self._enter(trial, candidate) for trial, candidate in zip(self._open, candidates, strict=True)]

    def _enter(self, trial: Trial, candidate: Mapping[str, Any]) -> Entry:
        attrs = {"params": {name: _plain(value) for name, value in candidate.items()}, "candidate": self.n_opened}
        for name, value in attrs.items():
            trial.set_user_attr(name, value)
        key = candidate_key(candidate)
        entry = Entry(self._turns[key], key, trial.params, trial.distributions, attrs)
        self._turns[key] += 1
        self.n_opened += 1
        return entry

    def follow(self, recorded: Mapping[int, Sequence[Outcome]]) -> None:
        """Mark open trials, by position, as already in the book: they are not trained, their epochs are known."""
        self._recorded = {place: epoch_means(row) for place, row in recorded.items()}

    def _enqueue(self, candidate: Mapping[str, Any]) -> Trial:
        numbers = {name: float(value) for name, value in candidate.items() if is_number(value)}
        self.study.enqueue_trial(numbers)
        return self.study.ask({name: self._axis(name, value) for name, value in numbers.items()})

    def _axis(self, name: str, value: float) -> FloatDistribution:
        log = name in self.log_params and value > 0
        return FloatDistribution(value, value, log=log)

    def report(self, epoch: int, means: np.ndarray) -> None:
        """Report the mean validation score of each trained trial at `epoch`; NaN is not reported.

        Trials in the book are reported too, so that a pruner decides as if they were trained beside the others.
        """
        now = dict(zip(self._trained, means, strict=True))
        now |= {place: of_epoch.get(epoch, np.nan) for place, of_epoch in self._recorded.items()}
        for place, mean in sorted(now.items()):
            if np.isfinite(mean):
                self._open[place].report(float(mean), epoch)

    @property
    def _trained(self) -> list[int]:
        return [place for place in range(len(self._open)) if place not in self._recorded]

    def note(self, key: str, values: Sequence[np.ndarray | None]) -> None:
        """Set a user attribute of each open trial to a list of numbers; None is skipped."""
        for trial, value in zip(self._open, values, strict=True):
            if value is not None:
                trial.set_user_attr(key, value.tolist())

    def should_prune(self) -> np.ndarray:
        """Ask the study's pruner about every trained trial; return the reasons to stop, or "", shape (n_trained,)."""
        return ask_pruner(self.study, self._open)[self._trained]

    def close(self, ended: Mapping[int, Sequence[Outcome]], scores: np.ndarray) -> None:
        """Tell the study how open trials ended; the others stay open.

        Parameters
        ----------
        ended : mapping of int to sequence of Outcome
            The outcomes of the trials that ended, by their position in the batch.
        scores : ndarray of shape (n_ended,)
            Mean test scores; NaN for a trial without one.

        Notes
        -----
        A sampler learns nothing from a failed trial, so a diverged one is told as complete, with a value below all
        scores so far; the user attribute ``status`` says that it diverged.
        """
        worst = self._below_all(scores)
        with self._stoppable():
            for (i, row), score in zip(ended.items(), scores, strict=True):
                trial = self._open[i]
                state, value = how_it_ended(row, float(score), worst)
                self._fill_in(trial, row)
                for key, text in {"status": candidate_status(row, self.metric), **outcome_attrs(row)}.items():
                    trial.set_user_attr(key, text)
                self.study.tell(trial, value, state=state)
        self._open = [trial for i, trial in enumerate(self._open) if i not in ended]

    def _fill_in(self, trial: Trial, row: Sequence[Outcome]) -> None:
        """Report those epochs of a trial that have not been reported, as without a pruner."""
        known = self.study._storage.get_trial(trial._trial_id).intermediate_values
        for epoch, mean in epoch_means(row).items():
            if epoch not in known:
                trial.report(mean, epoch)

    def results(self, row: Sequence[Outcome], score: float, engine: str) -> dict[str, Any]:
        """Return state, value, epochs and attributes of a candidate's trial in the book."""
        state, value = how_it_ended(row, score, self._below_all(np.array([score])))
        attrs = {"status": candidate_status(row, self.metric), "engine": engine, **outcome_attrs(row)}
        return {"state": state, "value": value, "intermediate_values": epoch_means(row), "user_attrs": attrs}

    def _below_all(self, scores: np.ndarray) -> float | None:
        """Return a value below all scores so far, by a tenth of their range and a bit; None if there are none."""
        told = [t.value for t in self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
        known = [*told, *scores[np.isfinite(scores)].tolist()]
        if not known:
            return None
        low, high = min(known), max(known)
        return low - 0.1 * (high - low) - 1e-6 * max(abs(low), 1.0)

    def abandon(self, why: str = "not finished") -> None:
        """Mark the open trials as failed, because the search ends before they do."""
        with self._stoppable():
            for trial in [*self._open, *self._asked]:
                if not self.study._storage.get_trial(trial._trial_id).state.is_finished():
                    trial.set_user_attr("status", why)
                    self.study.tell(trial, state=TrialState.FAIL)
        if self.book is not None:
            self.book.close(why)
        self._open = self._asked = []


def _may_be(drawn: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]) -> bool:
    """Return whether these parameters can be drawn from the distributions."""
    return drawn.keys() == distributions.keys() and all(
        type(known) is CategoricalDistribution or known._contains(known.to_internal_repr(drawn[name]))
        for name, known in distributions.items()
    )


def how_it_ended(row: Sequence[Outcome], score: float, worst: float | None) -> tuple[TrialState, float | None]:
    """Return the state and the value of a trial; a diverged one gets `worst`, a value below all others.

    >>> how_it_ended([Outcome(0.5)], 0.5, None)
    (<TrialState.COMPLETE: 1>, 0.5)
    >>> how_it_ended([Outcome(float("nan"), DIVERGED)], float("nan"), 0.1)
    (<TrialState.COMPLETE: 1>, 0.1)
    """
    if has_status(row, STOPPED):
        return TrialState.PRUNED, None
    if np.isfinite(score):
        return TrialState.COMPLETE, score
    if has_status(row, DIVERGED) and not has_status(row, FAILED) and worst is not None:
        return TrialState.COMPLETE, worst
    return TrialState.FAIL, None


def _plain(value: Any) -> Any:
    """Return the value if JSON can hold it, else its repr."""
    if is_number(value) or isinstance(value, (str, bool, type(None))):
        return value.item() if isinstance(value, np.generic) else value
    return repr(value)
