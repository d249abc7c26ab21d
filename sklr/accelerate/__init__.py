"""`stacked`: the fits of scikit-learn's own searches, trained as one batched model where that can be done."""

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
from sklr.engines.stacked.checks.explain import first_line
from sklr.engines.stacked.reasons import describe
from sklr.results import OK

__all__ = ["Stacking", "stacked"]


@dataclass
class Stacking:
    """What became of the fits made under `stacked`.

    Attributes
    ----------
    n_stacked : int
        Fits that were trained in a stack.
    n_single : int
        Fits that were run one by one, as without `stacked`.
    reasons : list of str
        Why those could not be stacked, each reason once.
    """

    n_stacked: int = 0
    n_single: int = 0
    reasons: list[str] = field(default_factory=list)


@contextmanager
def stacked(engine: StackedEngine | None = None, verbose: int = 0) -> Iterator[Stacking]:
    """Let scikit-learn's own searches over nets train their candidates and folds as one batched model.

    Within the ``with`` block `GridSearchCV`, `RandomizedSearchCV`, the halving searches, `cross_validate`,
    `cross_val_score`, `validation_curve` and scikit-optimize's `BayesSearchCV` hand over all fits of a batch (of a
    search, of a round of halving, of a proposal) at once. Those of skorch nets, sklr's or skorch's own, and of
    pipelines ending in one are stacked; all others run as they would have.

    Parameters
    ----------
    engine : StackedEngine, optional
        How to stack: ``StackedEngine(max_stack=100)`` trains at most so many nets at once.
    verbose : int, default=0
        If above 0, a warning names the reasons why fits could not be stacked, once each.

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
    The results are those of the same search without `stacked` and with ``n_jobs=1`` wherever a fit does not depend on
    what was fitted before it:

    - sklr's nets with ``random_state`` an integer, and skorch's nets whose module seeds torch as it is built, have the
      same initial weights and the same batches. What remains is rounding: in float64 accuracies are equal and other
      scores agree to some twelve digits, in float32 to about five. A training that magnifies rounding, as one with a
      learning rate too high to be stable does, magnifies that too.
    - Dropout, and all else that draws random numbers as it trains, agrees in distribution only.
    - Nets that draw from torch's global generator get one seed per split from it: reproducible after
      ``torch.manual_seed``, but other initial weights and batches than without `stacked`, and the same ones for all
      candidates of a split. So do other steps of a pipeline whose `random_state` is None.

    Among the nets that are not stacked are those on a `SliceDataset` whose items are drawn anew each time: each fit is
    scored on items of its own.

    A run that diverges has left its stack and is fitted again by itself, so that its score is what it would have been.
    Fit times are a fair share of what the batch took, preparation included. The epochs of nets with ``verbose=1`` are
    not printed. `n_jobs` is that of the search: the stacks are spread over so many processes.

    Searches that are themselves fitted in a worker process, as in ``cross_val_score(search, X, y, n_jobs=2)``, are
    not reached; with ``n_jobs=None`` they are.

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


_ALONE = "a fit shares its estimator, its data and its splits with no other, and a stack of one gains nothing"

_DIVERGED = "a run that diverges leaves its stack, and is fitted again by itself"


class Batches:
    """Runs batches of calls: what can be stacked is, the rest goes its usual way."""

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
        plain = gatherer.run_plainly([_untold(tasks[i]) if i in ended else tasks[i] for i in left])
        results.update(zip(left, plain, strict=True))
        return [results[i] for i in range(len(tasks))]

    def _stack(self, block: Block, n_jobs: int | None) -> dict[int, dict | None]:
        """Return the results of the fits that went through a stack, by number; None for those that diverged in it."""
        if len(block.fits) == 1:
            self._note([_ALONE])
            return {}
        try:
            ended, reasons = self._train(block, n_jobs)
        except Exception as error:  # whatever it is, the fits meet it again, one by one, as scikit-learn wants it
            ended, reasons = {}, [f"training in a stack raised {type(error).__name__}: {first_line(error)}"]
        if None in ended.values():
            reasons = [*reasons, _DIVERGED]
        self._note(reasons)
        return ended

    def _train(self, block: Block, n_jobs: int | None) -> tuple[dict[int, dict | None], list[str]]:
        """Train a block as one experiment; return what came of it, and why it could not be done for the others."""
        start, before = time.time(), torch.random.get_rng_state()
        experiment, candidates = block.experiment(n_jobs), block.candidates
        with global_generators_kept():  # a Dataset that is looked at may draw
            reasons = self.engine.refusals(experiment, candidates)
        if len(reasons) == len(candidates):
            torch.random.set_rng_state(before)  # no seeds are needed
            return {}, describe(reasons, candidates)
        training = self.engine.start(experiment, candidates, block.contexts)
        training.leave_out()
        stacked = [pair for row in zip(block.rows, training.finish(), strict=True) for pair in zip(*row, strict=False)]
        spent = sum(outcome.fit_time + outcome.score_time for _, outcome in stacked)
        spare = max(0.0, time.time() - start - spent) / max(1, len(stacked))
        ended = {fit.number: result(fit, o, spare) if o.status == OK else None for fit, o in stacked}
        return ended, describe(training.reasons(), candidates)

    def _note(self, reasons: list[str]) -> None:
        """Write down the reasons that are new."""
        new = [reason for reason in reasons if reason not in self.stacking.reasons]
        self.stacking.reasons += new
        if new and self.verbose > 0:
            warn(f"Some fits are not stacked, but run one by one: {'; '.join(new)}.", UserWarning)


def _untold(task: Task) -> Task:
    """Return a fit without scikit-learn's callbacks, which have been told of it already."""
    function, args, kwargs = task
    return function, args, {name: value for name, value in kwargs.items() if name != "callback_ctx"}
