"""`lr_range_test`, the function that runs a range test."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.base import is_classifier
from sklearn.model_selection import check_cv
from sklearn.utils import check_random_state, indexable

from sklr._utils.sklearn import count_rows, take_params
from sklr._utils.validation import check_count, check_is_object, must_be
from sklr.engines import Engine, check_engine
from sklr.experiment.cell_data import check_rows
from sklr.experiment.datasets import bring_to
from sklr.experiment.experiment import Cell, Experiment
from sklr.experiment.folds import MAX_SEED, draw_cells
from sklr.experiment.lr_param import check_lr_range
from sklr.experiment.settings import check_settings
from sklr.experiment.wrappers import A_NET, pass_its_net, trains_nets
from sklr.range_test._ramp import Ramp, plain, ramp_losses
from sklr.range_test._result import RangeTest, read

MIN_STEPS = 20


def lr_range_test(
    net: Any,
    X: Any,
    y: Any = None,
    *,
    lr_range: tuple[float, float] = (1e-7, 10.0),
    n_steps: int = 200,
    cv: Any = None,
    n_seeds: int = 3,
    engine: str | Engine = "auto",
    n_jobs: int | None = None,
    random_state: Any = None,
    **fit_params: Any,
) -> RangeTest:
    r"""Increase the learning rate every step until training becomes unstable, to find the range worth searching.

    This is Leslie Smith's range test (2015, arXiv:1506.01186, section 3.3) in fastai's form: the learning rate
    increases by a constant factor every optimizer step, :math:`lr_i = low (high / low)^{i / (n - 1)}`, and the training
    loss is recorded. Here it is repeated with several seeds, and optionally on several folds, as one stack if possible.

    Parameters
    ----------
    net : skorch net, or Pipeline or TransformedTargetRegressor around one
        It is not changed: clones are trained. Its optimizer, batch size, loss and gradient clipping are used. Its `lr`
        (except for its ratio to parameter groups with their own lr), schedule, warmup, `max_epochs` and `train_split`
        are not used, and neither are callbacks that stop, score, report or set the learning rate.
    X, y : as in `fit`
        Training rows. As many epochs are trained as the steps need.
    lr_range : tuple (low, high)
        The first and the last learning rate.
    n_steps : int, default=200
        Number of learning rates, with one optimizer step each. The default is 25 per decade: with half as many the
        suggestions of the rules scatter more.
    cv : int, splitter or iterable, optional
        Train on the training rows of these folds. By default all rows are used, since no score is computed.
    n_seeds : int, default=3
        Number of runs per fold, each with its own initial weights and batch order.
    engine : {"auto", "stacked", "sequential"} or Engine
        Whether to train all runs as one batched model; ``"auto"`` does so if possible.
    n_jobs : int, optional
        Number of workers for runs that cannot be stacked.
    random_state : int, RandomState instance or None
        Determines folds and seeds. The global random generators are left unchanged.
    **fit_params
        As in `fit`, such as ``sample_weight``.

    Returns
    -------
    result : RangeTest
        With the `suggestions` of all rules, the `edge`, which is the highest learning rate at which training is stable,
        and the `search_range`.

    Raises
    ------
    ValueError
        If an argument is invalid, or a loss is not finite before the first step.
    EngineError
        If ``engine="stacked"`` and the runs cannot be stacked.

    Notes
    -----
    The loss recorded for a learning rate is that of the next batch, after the update with this learning rate. Other
    implementations record the loss before the update, and so attribute the effect of each learning rate to the next
    one. A run ends when it diverges, and the learning rate at which it does is never suggested. Curves are smoothed
    with a centred Gaussian of 0.2 decade, which unlike a running average has no lag. A run is unstable when its loss
    (the median of five steps) has risen again by half of its total decrease. No threshold is a multiple of the loss, so
    the loss may be negative.

    Limitations: the weights at step `i` have been trained for few steps, at lower learning rates. The test finds the
    edge of stability well (to a tenth or a quarter of a decade), but the best learning rate of a whole training is
    decades below it. Search that range, as ``LRGridSearchCV(net, lr_range="auto")`` does; do not train with a
    suggestion without checking it, in particular if `result.agree` is False.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklr import MLP, NeuralNetClassifier
    >>> X, y = load_wine(return_X_y=True)
    >>> net = make_pipeline(StandardScaler(), NeuralNetClassifier(MLP, batch_size=32, iterator_train__shuffle=True))
    >>> test = lr_range_test(net, X, y, random_state=0)
    >>> test.loss.shape, sorted(test.suggestions)
    ((200, 3), ['midway', 'minimum', 'slide', 'steep', 'valley'])
    >>> 0.1 < test.edge < 10 and all(lr < test.edge for lr in test.suggestions.values())
    True
    >>> lr_range_test(net, X, y, lr_range=(1e-7, 1e-5), random_state=0).suggestions  # the loss does not fall here
    {}
    """
    low, high = check_lr_range(lr_range)
    check_count("n_steps", n_steps, MIN_STEPS)
    check_count("n_seeds", n_seeds)
    check_net("net", net)
    check_engine(engine)
    check_rows(X)
    net, X, y = bring_to(net, X, y, whole=cv is None)
    X, y = indexable(X, y)
    experiment = Experiment(
        net,
        X,
        y,
        _cells(net, X, y, cv, n_seeds, check_random_state(random_state)),
        scorer=None,
        fit_params=take_params(X, params=fit_params),
        n_jobs=n_jobs,
        caller=lr_range_test,
    )
    check_settings(replace(experiment, estimator=plain(net)), [{}], n_seeds=1)
    return read(ramp_losses(experiment, Ramp(low, high, n_steps), engine))


def check_net(what: str, net: Any, next_step: str = "") -> None:
    """Raise a TypeError unless `net` is a skorch net or a known wrapper around one."""
    check_is_object(what, net)
    if not trains_nets(net):
        raise TypeError(must_be(what, A_NET, type(net).__name__, next_step or pass_its_net(net)))


def _cells(net: Any, X: Any, y: Any, cv: Any, n_seeds: int, random_state: np.random.RandomState) -> list[Cell]:
    if cv is not None:
        folds = check_cv(cv, y, classifier=is_classifier(net))
        return draw_cells(folds, X, y, {}, n_seeds=n_seeds, rows=None, random_state=random_state)
    rows = np.arange(count_rows(X))
    seeds = random_state.randint(MAX_SEED, size=n_seeds)
    return [Cell(0, index, int(seed), rows, rows[:1]) for index, seed in enumerate(seeds)]  # test rows are not used
