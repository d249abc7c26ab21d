"""`stacked`: a context in which scikit-learn's own searches train their fits as one batched model where possible."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from joblib import parallel_config

from sklr._utils.random import global_generators_kept
from sklr._utils.validation import must_be
from sklr._utils.warnings import warn
from sklr.accelerate._backend import GatheringBackend, StackedBackend, Task
from sklr.accelerate._fits import Block, blocks, fits_among, result
from sklr.engines import StackedEngine
from sklr.engines.scoring import tell_of_scorers
from sklr.engines.stacked.checks.explain import first_line
from sklr.engines.stacked.reasons import describe
from sklr.results import OK

__all__ = ["Stacking", "stacked"]


@dataclass
class Stacking:
    """How the fits in a `stacked` context were run.

    Attributes
    ----------
    n_stacked : int
        Number of fits that were trained in a stack.
    n_single : int
        Number of fits that were run one by one, as without `stacked`.
    reasons : list of str
        Why these could not be stacked, each reason once.
    """

    n_stacked: int = 0
    n_single: int = 0
    reasons: list[str] = field(default_factory=list)


@contextmanager
def stacked(engine: StackedEngine | None = None, verbose: int = 0) -> Iterator[Stacking]:
    """Context in which scikit-learn's own searches over nets train candidates and folds as one batched model.

    Inside the ``with`` block, all fits that `GridSearchCV`, `RandomizedSearchCV`, the halving searches,
    `cross_validate`, `cross_val_score`, `validation_curve`, `learning_curve` and scikit-optimize's `BayesSearchCV`
    start together (those of a search, of a round of halving, of a proposal) are collected. Fits of nets, sklr's or
    skorch's own, and of pipelines that end in a net are stacked; all others run as usual. `cross_val_predict` and
    `permutation_test_score` run as usual, too, and their fits are not counted.

    Parameters
    ----------
    engine : StackedEngine, optional
        The engine to use: ``StackedEngine(max_stack=100)`` trains at most 100 nets at once.
    verbose : int, default=0
        If above 0, warn of the reasons why fits could not be stacked, once each.

    Yields
    ------
    stacking : Stacking
        How many fits were stacked, how many were not, and why not.

    Raises
    ------
    ValueError
        If `engine` is not a `StackedEngine`.

    Notes
    -----
    The results are those of the same search without `stacked` and with ``n_jobs=1``, if a fit does not depend on
    earlier fits:

    - sklr's nets with an integer ``random_state``, and skorch's nets whose module seeds torch when it is created, have
      the same initial weights and the same batches. They differ only by rounding: in float64 accuracies are equal and
      other scores agree to about twelve digits, in float32 to about five. A training that amplifies rounding errors,
      for example at an unstable learning rate, amplifies these differences too.
    - Dropout, and everything else that draws random numbers during training, agrees only in distribution.
    - Nets that draw from torch's global generator get one seed per split from it. The results are reproducible after
      ``torch.manual_seed``, but initial weights and batches differ from those without `stacked`, and are the same for
      all candidates of a split. The same is true of other steps of a pipeline whose `random_state` is None.

    Nets on a `SliceDataset` with random items are not stacked, since each fit is scored on its own random items.

    A run that diverges leaves its stack and is fitted again by itself, so that its score is the one without `stacked`.
    Fit times are shares of the time of the batch, including preparation. The epochs of nets with ``verbose=1``
    are not printed. `n_jobs` of the search is the number of processes over which the stacks are distributed.

    Searches that are themselves fitted in a worker process, as in ``cross_val_score(search, X, y, n_jobs=2)``, are
    not affected by `stacked`; with ``n_jobs=None`` they are.

    Examples
    --------
    >>> from sklearn.datasets import make_classification
    >>> from sklearn.model_selection import GridSearchCV, cross_val_score
    >>> from sklearn.svm import SVC
    >>> from sklr import MLP, NeuralNetClassifier
    >>> X, y = make_classification(random_state=0)
    >>> net = NeuralNetClassifier(MLP, module__hidden=(8,), max_epochs=5, random_state=0)
    >>> search = GridSearchCV(net, {"lr": [0.01, 0.1, 1.0]}, cv=3)
    >>> scores = search.fit(X, y).cv_results_["mean_test_score"]
    >>> with stacked() as stacking:
    ...     bool((search.fit(X, y).cv_results_["mean_test_score"] == scores).all())
    True
    >>> stacking
    Stacking(n_stacked=9, n_single=0, reasons=[])
    >>> with stacked() as stacking:
    ...     _ = cross_val_score(SVC(), X, y)
    >>> stacking.n_single, stacking.reasons
    (5, ['SVC is not a skorch net, nor a Pipeline or TransformedTargetRegressor around one'])
    """
    engine = StackedEngine() if engine is None else engine
    if not isinstance(engine, StackedEngine):
        raise ValueError(must_be("engine", "a StackedEngine or None", engine))
    batches = Batches(engine, verbose, Stacking())
    with parallel_config(backend=StackedBackend(batches.run)):
        yield batches.stacking


_ALONE = "a fit shares its estimator, data and splits with no other fit, and a stack of one has no benefit"

_DIVERGED = "a run that diverges leaves its stack and is fitted again by itself"


class Batches:
    """Runs batches of calls: fits that can be stacked are, all other calls are run as usual."""

    def __init__(self, engine: StackedEngine, verbose: int, stacking: Stacking):
        self.engine, self.verbose, self.stacking = engine, verbose, stacking

    def run(self, tasks: list[Task], gatherer: GatheringBackend) -> list[Any]:
        """Return the results of all calls of a batch."""
        fits = fits_among(tasks)
        ended: dict[int, dict | None] = {}
        with parallel_config(backend=gatherer.outside):
            for block in blocks(fits):
                ended |= self._stack(block, gatherer.parallel.n_jobs)
        results: dict[int, Any] = {number: found for number, found in ended.items() if found is not None}
        self.stacking.n_stacked += len(results)
        self.stacking.n_single += len(fits) - len(results)
        left = [i for i in range(len(tasks)) if i not in results]
        plain = gatherer.run_plainly([_without_callbacks(tasks[i]) if i in ended else tasks[i] for i in left])
        results.update(zip(left, plain, strict=True))
        return [results[i] for i in range(len(tasks))]

    def _stack(self, block: Block, n_jobs: int | None) -> dict[int, dict | None]:
        """Return the results of the fits that were trained in a stack, by number; None for those that diverged."""
        if len(block.fits) == 1:
            self._note([_ALONE])
            return {}
        try:
            ended, reasons = self._train(block, n_jobs)
        except Exception as error:  # the fits are then run one by one, and raise their errors as in scikit-learn
            ended, reasons = {}, [f"training in a stack raised {type(error).__name__}: {first_line(error)}"]
        if None in ended.values():
            reasons = [*reasons, _DIVERGED]
        self._note(reasons)
        return ended

    def _train(self, block: Block, n_jobs: int | None) -> tuple[dict[int, dict | None], list[str]]:
        """Train a block as one experiment; return the results, and the reasons why other fits were not stacked."""
        start, before = time.time(), torch.random.get_rng_state()
        experiment, candidates = block.experiment(n_jobs), block.candidates
        with global_generators_kept():  # reading items of a Dataset may draw random numbers
            reasons = self.engine.refusals(experiment, candidates)
        if len(reasons) == len(candidates):
            torch.random.set_rng_state(before)  # undo the drawing of seeds, which are not used
            return {}, describe(reasons, candidates)
        training = self.engine.start(experiment, candidates, block.contexts)
        training.leave_out()
        stacked = [pair for row in zip(block.rows, training.finish(), strict=True) for pair in zip(*row, strict=False)]
        tell_of_scorers([outcome for _, outcome in stacked], experiment.error_score, set())
        spent = sum(outcome.fit_time + outcome.score_time for _, outcome in stacked)
        spare = max(0.0, time.time() - start - spent) / max(1, len(stacked))
        ended = {fit.number: result(fit, o, spare) if o.status == OK else None for fit, o in stacked}
        return ended, describe(training.reasons(), candidates)

    def _note(self, reasons: list[str]) -> None:
        """Record new reasons, and warn of them if `verbose`."""
        new = [reason for reason in reasons if reason not in self.stacking.reasons]
        self.stacking.reasons += new
        if new and self.verbose > 0:
            warn(f"Some fits are not stacked, but run one by one: {'; '.join(new)}.", UserWarning)


def _without_callbacks(task: Task) -> Task:
    """Return a fit without scikit-learn's callbacks, which the stack has already notified of it."""
    function, args, kwargs = task
    return function, args, {name: value for name, value in kwargs.items() if name != "callback_ctx"}
