"""`LRPruner`, Optuna's pruners by name, and how a pruner is asked about candidates that are trained in lockstep."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import optuna
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    PatientPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
)
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from sklr._utils.quiet_optuna import at_verbosity
from sklr._utils.validation import check_count, must_be, unknown_name
from sklr.search.pruning.lr_path import PATH
from sklr.search.pruning.lr_window import Window, first_epoch, lr_window

SHARE = 1 / 9  # of the epochs before the first pruning; after 1/27 of them the best lr is still half a decade too high


@dataclass(frozen=True)
class LRPruner(BasePruner):
    """Prune learning rates that can no longer turn out best: large ones freely, small ones reluctantly.

    A window of learning rates around the best one so far is kept; `lr_window` defines it. Nothing is pruned before
    warmup is over and a ninth of the epochs is done, and at least the `keep` candidates nearest to the best are trained
    to the end. A candidate is compared only with those that have the same values of all other parameters; if there are
    none, it is not pruned.

    Parameters
    ----------
    keep : int
        Minimum number of candidates to train to the end.
    lr_param : str
        The name of the learning-rate parameter. A search sets its own.
    n_epochs : int, optional
        Number of epochs of a training, for use in a study of your own: the lr is assumed to be constant over them, and
        None prunes nothing. It is not used for trials with the user attribute ``lr_path``, into which a search writes
        its actual schedule.

    Raises
    ------
    ValueError
        If `keep` or `n_epochs` is not an integer >= 1.

    Examples
    --------
    In a search: `LRGridSearchCV(net, pruner="lr")`. In a study of your own, with trials trained side by side:

    >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
    >>> study = optuna.create_study(direction="maximize", pruner=LRPruner(keep=2, n_epochs=18))
    >>> trials = [study.ask({"lr": optuna.distributions.FloatDistribution(lr, lr)}) for lr in (1e-4, 0.01, 0.1, 1.0)]
    >>> for epoch in range(2):
    ...     for trial, score in zip(trials, (0.1, 0.5, 0.8, 0.2)):
    ...         trial.report(score + epoch / 10, epoch)
    >>> [trial.should_prune() for trial in trials]
    [True, False, False, True]
    >>> LRPruner(keep=0)
    Traceback (most recent call last):
    ValueError: keep must be an integer >= 1, got 0.
    """

    keep: int = 3
    lr_param: str = "lr"
    n_epochs: int | None = None

    def __post_init__(self) -> None:
        check_count("keep", self.keep)
        if self.n_epochs is not None:
            check_count("n_epochs", self.n_epochs)

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Return whether a trial should be pruned; Optuna calls this through `Trial.should_prune`."""
        return bool(self.judge(study, [trial])[0])

    def judge(self, study: Study, trials: Sequence[FrozenTrial]) -> list[str]:
        """Return for each trial the reason why it should be pruned, or "" if it should not."""
        known = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.RUNNING, TrialState.PRUNED))
        sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
        tables: dict[Any, _Table | None] = {}
        return [self._reason(trial, known, sign, tables) for trial in trials]

    def _reason(self, trial: FrozenTrial, known: Sequence[FrozenTrial], sign: float, tables: dict) -> str:
        line, step = self._line(trial), trial.last_step
        if line is None or step is None:
            return ""
        if (line, step) not in tables:
            tables[line, step] = self._table([other for other in known if self._line(other) == line], step, sign)
        table = tables[line, step]
        return "" if table is None else table.reason(np.log10(_params(trial)[self.lr_param]))

    def _line(self, trial: FrozenTrial) -> Any:
        """Return what all trials that are compared have in common (all but the lr); None without an lr or a path."""
        params = dict(_params(trial))
        lr = params.pop(self.lr_param, None)
        path = trial.user_attrs.get(PATH, self.n_epochs)
        if not isinstance(lr, int | float) or lr <= 0 or not path:
            return None
        return repr(sorted(params.items())), path if isinstance(path, int) else tuple(path)

    def _table(self, trials: Sequence[FrozenTrial], step: int, sign: float) -> _Table | None:
        path = np.asarray(trials[0].user_attrs.get(PATH, np.arange(1.0, (self.n_epochs or 0) + 1)))
        if not first_epoch(path, SHARE) <= step + 1 < len(path):
            return None
        log_lr = np.log10([_params(trial)[self.lr_param] for trial in trials])
        scores = sign * np.array([[t.intermediate_values.get(e, np.nan) for e in range(step + 1)] for t in trials])
        here = np.isfinite(scores[:, -1])
        return _Table(lr_window(log_lr, scores, path), np.sort(log_lr[here]), self.keep) if here.any() else None


@dataclass(frozen=True)
class _Table:
    """The candidates that have reached an epoch, and the window of learning rates at that epoch."""

    window: Window
    log_lr: np.ndarray
    keep: int

    def reason(self, log_lr: float) -> str:
        """Return why this learning rate is pruned, or "" if it is not."""
        farthest = np.sort(self._distance(self.log_lr))[: self.keep].max()
        if self.window.contains(np.array(log_lr)) or self._distance(log_lr) <= farthest:
            return ""
        best = self.window.best
        return f"too {'high' if log_lr > best else 'low'} compared with lr {10**best:.3g}"

    def _distance(self, log_lr: Any) -> Any:
        """Return the distance to the best in decades; of two at the same distance the lower one is nearer."""
        return np.round(np.abs(log_lr - self.window.best), 9) + 1e-9 * (log_lr > self.window.best)


def _params(trial: FrozenTrial) -> Mapping[str, Any]:
    """Return a candidate's parameters; a search stores all of them, also those Optuna cannot hold, in an attribute."""
    return trial.user_attrs.get("params") or trial.params


Maker = Callable[[int, int], BasePruner]
PRUNERS: dict[str, Maker] = {  # (number of epochs, first epoch after which to prune) -> pruner
    "halving": lambda n, first: SuccessiveHalvingPruner(min_resource=first, reduction_factor=3),
    "hyperband": lambda n, first: HyperbandPruner(min_resource=first, max_resource=n, reduction_factor=3),
    "lr": lambda n, first: LRPruner(),
    "median": lambda n, first: MedianPruner(n_startup_trials=5, n_warmup_steps=first - 1),
}


def check_pruner(pruner: Any) -> bool:
    """Check that `pruner` is None, one of `PRUNERS`, or one of Optuna's; return whether it needs the name of the lr.

    >>> check_pruner(LRPruner()), check_pruner("median")
    (True, False)
    >>> check_pruner("hyper")
    Traceback (most recent call last):
    ValueError: pruner must be one of 'halving', 'hyperband', 'lr', 'median', got 'hyper'. Did you mean 'hyperband'?
    >>> check_pruner(MedianPruner)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: pruner must be None, a name or an optuna.pruners.BasePruner, got <class ...>...
    """
    if isinstance(pruner, str) and pruner not in PRUNERS:
        raise unknown_name("pruner", pruner, PRUNERS)
    if not isinstance(pruner, str | BasePruner | None):
        advice = f"Write for example pruner='lr'; names are {', '.join(PRUNERS)}."
        raise ValueError(must_be("pruner", "None, a name or an optuna.pruners.BasePruner", pruner, advice))
    return isinstance(pruner, LRPruner) or pruner == "lr"


def make_pruner(pruner: str | BasePruner, lr_param: str | None, path: np.ndarray | None) -> BasePruner:
    """Return the pruner for one `fit`: the one of that name, or a copy of the object, which `fit` must not change.

    Parameters
    ----------
    pruner : str or BasePruner
    lr_param : str or None
        The name of the learning-rate parameter.
    path : ndarray of shape (n_epochs,) or None
        See `sklr.search.pruning.lr_path.lr_path`; None if there are no epochs.

    Examples
    --------
    >>> make_pruner("lr", "net__lr", None)
    LRPruner(keep=3, lr_param='net__lr', n_epochs=None)
    """
    made = copy.deepcopy(pruner) if isinstance(pruner, BasePruner) else _by_name(pruner, path)
    return replace(made, lr_param=lr_param) if isinstance(made, LRPruner) and lr_param is not None else made


def _by_name(name: str, path: np.ndarray | None) -> BasePruner:
    if path is None:
        return PRUNERS[name](1, 1)
    return PRUNERS[name](len(path), first_epoch(path, SHARE))


def ask_pruner(study: Study, trials: Sequence[Trial]) -> np.ndarray:
    """Ask the study's pruner about trials that are trained in lockstep; return the reason to stop each, or "".

    All trials are judged by the same scores. Optuna's pruners expect trials to come one after another: halving would
    favour the first trial it is asked about, and a percentile of the finished trials does not exist in the first batch.
    So halving and Hyperband are asked twice, first to record all scores and then to decide; and a percentile includes
    the whole batch, with the last score of a pruned trial carried forward. A trial that is trained alone is judged as
    in `Study.optimize`.

    Returns
    -------
    reasons : ndarray of str, of shape (n_trials,)
    """
    by_number = {trial.number: trial for trial in study.get_trials(deepcopy=False)}
    batch = [by_number[trial.number] for trial in trials]
    farthest = max((_step(trial) for trial in batch), default=-1)
    going = [trial for trial in batch if _step(trial) == farthest >= 0]  # the others were stopped or have finished
    reasons = _reasons(study, batch, going)
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if going and not finished and all(reasons) and not ends_early(study.pruner):
        best = max(range(len(going)), key=lambda i: going[i].intermediate_values[farthest])
        reasons[best] = ""  # at least one candidate of a search must finish
    said = dict(zip((trial.number for trial in going), reasons, strict=True))
    return np.array([said.get(trial.number, "") for trial in trials], dtype=object)


def ends_early(pruner: BasePruner) -> bool:
    """Return whether a pruner only ends trials that stop improving (early stopping): then the score reached counts.

    >>> import warnings
    >>> with warnings.catch_warnings(action="ignore"):  # PatientPruner is experimental
    ...     ends_early(PatientPruner(None, patience=3)), ends_early(PatientPruner(MedianPruner(), patience=3))
    (True, False)
    """
    if not isinstance(pruner, PatientPruner):
        return False
    return pruner._wrapped_pruner is None or ends_early(pruner._wrapped_pruner)


def _step(trial: FrozenTrial) -> int:
    return -1 if trial.last_step is None else trial.last_step


def _reasons(study: Study, batch: Sequence[FrozenTrial], going: Sequence[FrozenTrial]) -> list[str]:
    pruner = study.pruner
    if isinstance(pruner, LRPruner):
        return pruner.judge(study, going)
    if len(batch) == 1:
        return [type(pruner).__name__ if pruner.prune(study, trial) else "" for trial in going]
    if isinstance(pruner, SuccessiveHalvingPruner | HyperbandPruner):
        for trial in going:
            pruner.prune(study, trial)
    asked = study
    if isinstance(pruner, PercentilePruner):
        asked = _as_finished(study, batch)
        n_others = len(asked.get_trials(deepcopy=False)) - 1  # the trial itself does not count towards the minimum
        if n_others < max(pruner._n_startup_trials, pruner._n_min_trials):
            return [""] * len(going)
    return [type(pruner).__name__ if pruner.prune(asked, trial) else "" for trial in going]


def _as_finished(study: Study, batch: Sequence[FrozenTrial]) -> Study:
    """Return a copy of the study in which the trials of a batch have finished with their last scores."""
    steps = range(max(map(_step, batch), default=-1) + 1)
    others = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    with at_verbosity(optuna.logging.WARNING):
        made = optuna.create_study(direction=study.direction, sampler=study.sampler, pruner=study.pruner)
    for values in [trial.intermediate_values for trial in [*others, *batch] if trial.intermediate_values]:
        carried = {step: values.get(step, values[max(values)]) for step in [*values, *steps]}
        made.add_trial(create_trial(value=carried[max(carried)], intermediate_values=carried))
    return made
