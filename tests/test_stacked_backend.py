"""Plain scikit-learn under `sklr.stacked()`: the results of the plain run, from fits that went through a stack."""

import contextlib
import random
import re
import threading
import time
import warnings

import joblib
import numpy as np
import pytest
import skorch
import torch
from scipy.stats import loguniform
from sklearn.base import clone
from sklearn.callback import ProgressBar
from sklearn.datasets import make_classification
from sklearn.exceptions import FitFailedWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401 - its import is what it does
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    HalvingRandomSearchCV,
    KFold,
    RandomizedSearchCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
    validation_curve,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils.parallel import Parallel, delayed
from skopt import BayesSearchCV
from skorch.callbacks import Callback
from skorch.helper import SliceDataset
from torch import nn

import sklr
from sklr import MLP, NeuralNetClassifier, NeuralNetRegressor
from sklr.accelerate._fits import Fingerprints
from sklr.engines import StackedEngine

X, y = make_classification(90, 5, n_informative=4, n_redundant=0, random_state=0)
LRS = [0.01, 0.1, 1.0]
FOLDS = KFold(3, shuffle=True, random_state=0)


def net(**params):
    given = {"module__hidden": (6,), "module__dtype": torch.float64, "max_epochs": 3, "batch_size": 16}
    return NeuralNetClassifier(MLP, random_state=0, iterator_train__shuffle=True, **given | params)


def self_seeding_module(n_hidden=6):
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, n_hidden), nn.Tanh(), nn.Linear(n_hidden, 2)).double()


def skorch_net(module=self_seeding_module, **params):
    given = {"criterion": nn.CrossEntropyLoss, "train_split": None, "max_epochs": 3, "batch_size": 16, "verbose": 0}
    return skorch.NeuralNetClassifier(module, iterator_train__shuffle=True, **given | params)


class PackedLSTM(nn.Module):
    """A net that cannot be stacked."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(1, 3, batch_first=True, dtype=torch.float64), nn.Linear(3, 2).double()

    def forward(self, X):
        packed = nn.utils.rnn.pack_padded_sequence(X[:, :1, None], torch.ones(len(X)), batch_first=True)
        return self.head(self.lstm(packed)[1][0][-1])


def assert_same_results(found, plain):
    """Compare two `cv_results_`: all but the times."""
    assert list(found) == list(plain)
    for name in plain:
        ours, theirs = np.asarray(found[name]), np.asarray(plain[name])
        assert ours.dtype == theirs.dtype, name
        if ours.dtype == object:
            assert list(map(str, ours)) == list(map(str, theirs)), name  # nets equal none but themselves
        elif not name.endswith("_time"):
            np.testing.assert_array_equal(ours, theirs, err_msg=name)


def assert_search_agrees(search, **fit_params):
    """Fit a search plainly and stacked; return what became of the fits."""
    plain = clone(search).fit(X, y, **fit_params)
    with sklr.stacked() as stacking:
        found = clone(search).fit(X, y, **fit_params)
    assert_same_results(found.cv_results_, plain.cv_results_)
    if plain.refit:
        np.testing.assert_array_equal(found.predict(X), plain.predict(X))
    return stacking


def grid(estimator, params=None, **kwargs):
    return GridSearchCV(estimator, params or {"lr": LRS}, **{"cv": FOLDS} | kwargs)


space = {"lr": loguniform(1e-3, 1.0)}
SEARCHES = [
    (grid(net(), return_train_score=True), 9),
    (grid(net(), {"lr": LRS, "batch_size": [8, 16]}), 18),
    (grid(net(), [{"lr": [0.1]}, {"lr": LRS, "max_epochs": [2]}, {"lr": [0.1]}]), 15),  # one of them twice
    (RandomizedSearchCV(net(), space, n_iter=4, cv=FOLDS, random_state=0), 12),
    (HalvingGridSearchCV(net(), {"lr": LRS}, cv=FOLDS, factor=3, min_resources=30, random_state=0), 12),
    (
        HalvingRandomSearchCV(
            net(), space, n_candidates=4, resource="max_epochs", max_resources=4, factor=2, cv=FOLDS, random_state=0
        ),
        3 * (4 + 2 + 1),
    ),
    (BayesSearchCV(net(), {"lr": (1e-3, 1.0, "log-uniform")}, n_iter=4, n_points=2, cv=FOLDS, random_state=0), 12),
    (grid(skorch_net()), 9),
    (grid(skorch_net(), {"optimizer__momentum": [0.0, 0.9], "module__n_hidden": [3, 6]}), 12),
    (grid(skorch_net(), scoring="roc_auc"), 9),
    (grid(skorch_net(train_split=skorch.dataset.ValidSplit(3))), 9),
    (grid(skorch_net(lambda: self_seeding_module(4))), 9),  # nothing that pickle could tell from others
    (grid(make_pipeline(StandardScaler(), net()), {"neuralnetclassifier__lr": LRS}), 9),
    (grid(net(), scoring=["roc_auc", "accuracy"], refit="roc_auc", return_train_score=True), 9),
    (grid(net(), scoring=lambda est, X, y: {"right": (est.predict(X) == y).sum(), "n": len(X)}, refit="right"), 9),
    (grid(net(), cv=[(np.arange(90) % 3 != k, np.arange(90) % 3 == k) for k in range(3)]), 9),  # masks of rows
    (grid(net(), cv=4), 12),  # unequal folds
    (grid(net(), pre_dispatch=1), 9),  # all fits are gathered nevertheless
]


@pytest.mark.one_fast
@pytest.mark.parametrize(
    ("search", "n_fits"), SEARCHES, ids=[f"{i}-{type(s).__name__}" for i, (s, _) in enumerate(SEARCHES)]
)
def test_a_search_gives_what_it_gives_without(search, n_fits):
    assert assert_search_agrees(search) == sklr.accelerate.Stacking(n_stacked=n_fits)


@pytest.mark.one_fast
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
@pytest.mark.parametrize(
    "search",
    [
        grid(net(), scoring="neg_log_loss", refit=False),
        grid(NeuralNetRegressor(MLP, max_epochs=3, random_state=1), {"lr": [0.001, 0.01, 0.1]}, refit=False),
    ],
    ids=["log loss", "R2"],
)
def test_scores_that_are_not_shares_of_rows_agree_to_rounding(search, dtype, rtol):
    search = clone(search).set_params(estimator__module__dtype=dtype)
    plain = clone(search).fit(X, y).cv_results_["mean_test_score"]
    with sklr.stacked() as stacking:
        found = clone(search).fit(X, y).cv_results_["mean_test_score"]
    assert stacking.n_stacked == 9
    np.testing.assert_allclose(found, plain, rtol=rtol)


class Computed(torch.utils.data.Dataset):
    """Items that are made when they are asked for."""

    def __init__(self, draw):
        self.draw = draw

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return torch.as_tensor(X[i] + self.draw()), int(y[i])


DRAWS = {
    "nothing": lambda: 0,
    "torch": lambda: float(torch.randn(())),
    "numpy": np.random.randn,
    "python": lambda: random.gauss(0, 1),
}


@pytest.mark.parametrize("labels", ["read", "known"])
@pytest.mark.parametrize("source", DRAWS)
def test_fits_on_a_dataset_score_what_they_score_without(source, labels):
    data = Computed(DRAWS[source])
    target = SliceDataset(data, idx=1) if labels == "read" else y
    means = []
    for context in (contextlib.nullcontext(), sklr.stacked()):
        torch.manual_seed(0), np.random.seed(0), random.seed(0)
        with context as stacking:
            search = grid(net(max_epochs=2), refit=False, scoring="neg_log_loss").fit(SliceDataset(data), target)
        means.append(search.cv_results_["mean_test_score"])
    np.testing.assert_allclose(*means, rtol=1e-9)
    assert stacking.n_stacked == (9 if source == "nothing" else 0)
    assert ["gives each fit other rows" in reason for reason in stacking.reasons] == [True] * (source != "nothing")


def test_fit_parameters_go_along():
    weight = np.linspace(0, 2, len(y))
    assert assert_search_agrees(grid(net()), sample_weight=weight).n_stacked == 9


def test_a_scorer_is_called_once_per_fit():
    calls = []

    def scorer(estimator, X, y):
        calls.append(1)
        return estimator.score(X, y)

    with sklr.stacked() as stacking:
        cross_val_score(net(), X, y, cv=FOLDS, scoring=scorer)
    assert (len(calls), stacking.n_stacked) == (3, 3)


@pytest.mark.parametrize("estimator", [net(lr=0.3), skorch_net(lr=0.3)], ids=["sklr", "skorch"])
def test_cross_validate_hands_back_fitted_estimators(estimator):
    model = make_pipeline(StandardScaler(), estimator)
    how = {"cv": FOLDS, "return_estimator": True, "return_train_score": True, "return_indices": True}
    plain = cross_validate(model, X, y, **how)
    with sklr.stacked() as stacking:
        found = cross_validate(model, X, y, **how)
    assert stacking.n_stacked == 3
    np.testing.assert_array_equal(found["train_score"], plain["train_score"])
    np.testing.assert_array_equal(found["test_score"], plain["test_score"])
    assert found.keys() == plain.keys()
    for ours, theirs in zip(found["estimator"], plain["estimator"], strict=True):
        np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-9)
        np.testing.assert_array_equal(ours.classes_, theirs.classes_)
        assert ours[-1].history_[:, "epoch"] == theirs[-1].history_[:, "epoch"]


@pytest.mark.parametrize(
    ("function", "n_fits"),
    [
        (lambda: [cross_val_score(net(), X, y, cv=FOLDS)], 3),
        (lambda: validation_curve(net(), X, y, param_name="lr", param_range=np.array(LRS), cv=FOLDS), 9),
        (lambda: learning_curve(net(), X, y, train_sizes=[20, 40, 60], cv=FOLDS), 9),
    ],
    ids=["cross_val_score", "validation_curve", "learning_curve"],
)
def test_functions_that_fit_and_score(function, n_fits):
    plain = function()
    with sklr.stacked() as stacking:
        found = function()
    assert stacking == sklr.accelerate.Stacking(n_stacked=n_fits)
    for ours, theirs in zip(found, plain, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.one_fast
@pytest.mark.parametrize(
    ("search", "n_stacked", "n_single", "reason"),
    [
        (grid(SVC(), {"C": [0.1, 1.0]}), 0, 6, "SVC is not a skorch net"),
        (grid(skorch_net(callbacks=[skorch.callbacks.Freezer("0.*")])), 0, 9, "the callback Freezer may change"),
        (grid(NeuralNetClassifier(PackedLSTM, max_epochs=2, random_state=0), cv=2), 0, 6, "packs its sequences"),
        (
            grid(
                Pipeline([("scale", StandardScaler()), ("clf", SVC())]),
                [{"clf": [SVC(), SVC(C=9.0)]}, {"clf": [net(), net(max_epochs=2)], "clf__lr": LRS}],
            ),
            18,
            6,
            "is not a skorch net",
        ),
    ],
    ids=["svc", "callback", "packed", "nets and others"],
)
def test_what_cannot_be_stacked_is_run_as_it_was(search, n_stacked, n_single, reason):
    stacking = assert_search_agrees(search)
    assert (stacking.n_stacked, stacking.n_single) == (n_stacked, n_single)
    assert any(reason in text for text in stacking.reasons), stacking.reasons
    assert len(set(stacking.reasons)) == len(stacking.reasons)


def test_a_run_that_diverges_scores_what_it_would_have():
    stacking = assert_search_agrees(grid(net(), {"lr": [0.1, 1e30]}, cv=2))
    assert (stacking.n_stacked, stacking.n_single) == (2, 2)
    assert stacking.reasons == ["a run that diverges leaves its stack and is fitted again by itself"]


def test_fits_that_fail_are_recorded_as_without():
    search = grid(net(), {"lr": [0.1, 0.2, "high"]}, cv=2, error_score=-1.0)
    with pytest.warns(FitFailedWarning, match="2 fits failed out of a total of 6"):
        plain = clone(search).fit(X, y)
    with pytest.warns(FitFailedWarning, match="2 fits failed out of a total of 6"), sklr.stacked() as stacking:
        found = clone(search).fit(X, y)
    assert_same_results(found.cv_results_, plain.cv_results_)
    assert any("setting the nets up raised" in reason for reason in stacking.reasons), stacking.reasons


def test_an_error_that_is_raised_leaves_the_block_usable():
    with sklr.stacked() as stacking:
        with pytest.raises(ValueError, match=r"lr must be a finite number >= 0, got .high"):
            grid(net(), {"lr": ["high", "higher"]}, error_score="raise").fit(X, y)
        assert stacking.n_stacked == 0
        grid(net()).fit(X, y)
    assert stacking.n_stacked == 9


def test_inside_a_nested_cross_validation_the_inner_searches_are_stacked():
    search = grid(net(), {"lr": [0.1, 1.0]}, cv=2)
    plain = cross_val_score(search, X, y, cv=FOLDS)
    with sklr.stacked() as stacking:
        found = cross_val_score(search, X, y, cv=FOLDS)
    np.testing.assert_array_equal(found, plain)
    assert (stacking.n_stacked, stacking.n_single) == (3 * 4, 3)


def test_nets_that_draw_from_torch_are_reproducible_and_others_leave_it_alone():
    def module():
        return nn.Linear(5, 2).double()

    def scores(estimator):
        torch.manual_seed(5)
        with sklr.stacked() as stacking:
            result = cross_validate(estimator, X, y, cv=FOLDS, return_estimator=True)
        assert stacking.n_stacked == 3
        return torch.cat([fitted.module_.weight.detach() for fitted in result["estimator"]]), torch.rand(1)

    (first, after), (again, after_again) = scores(skorch_net(module)), scores(skorch_net(module))
    assert torch.equal(first, again)
    assert torch.equal(after, after_again)
    assert len({float(w) for w in first[::2, 0]}) == 3, "each split has initial weights of its own"
    torch.manual_seed(5)
    before = torch.rand(1)
    assert not torch.equal(after, before)
    seeded = NeuralNetClassifier(module, max_epochs=2, random_state=0)
    assert torch.equal(scores(seeded)[1], before)


def test_times_are_shares_of_what_the_batch_took():
    start = time.time()
    with sklr.stacked():
        result = cross_validate(net(), X, y, cv=FOLDS)
    spent = result["fit_time"].sum() + result["score_time"].sum()
    assert 0 < spent < time.time() - start
    assert result["fit_time"].min() > 0.2 * result["fit_time"].max()


def test_lines_printed_are_those_of_the_plain_search(capsys):
    def lines(search):
        search.fit(X, y)
        return sorted(re.sub(r"\.{3,}|total time=.*", "", line) for line in capsys.readouterr().out.splitlines())

    search = grid(net(), {"lr": [0.1, 1.0]}, cv=2, verbose=3)
    plain = lines(search)
    with sklr.stacked():
        assert lines(search) == plain
    assert len(plain) == 5


@pytest.mark.parametrize("lrs", [[0.1, 1.0], [0.1, 1e30]], ids=["all well", "one diverges"])
def test_a_progress_bar_gets_to_its_end(lrs, capsys):
    search = grid(net(), {"lr": lrs}, cv=2).set_callbacks(ProgressBar())
    with sklr.stacked() as stacking:
        search.fit(X, y)
    assert stacking.n_stacked == 2 * sum(lr < 9 for lr in lrs)
    assert "100%" in capsys.readouterr().out


def test_other_batches_run_where_they_would_have():
    def where(n_jobs, kind=Parallel, wrap=delayed, **kwargs):
        return list(kind(n_jobs=n_jobs, **kwargs)(wrap(threading.get_ident)() for _ in range(3)))

    here = [threading.get_ident()] * 3
    with joblib.parallel_config(backend="threading"), sklr.stacked() as stacking:
        assert where(None) == here
        assert not set(where(2)) & set(here)
        assert not set(where(2, joblib.Parallel, joblib.delayed)) & set(here)
        assert not set(where(2, return_as="generator")) & set(here)
        assert joblib.effective_n_jobs(2) == 2
    with sklr.stacked():
        assert not set(where(2, prefer="threads")) & set(here)
        assert not set(where(2, require="sharedmem")) & set(here)
        assert joblib.effective_n_jobs(None) == 1
        with pytest.raises(ValueError, match="n_jobs == 0"):
            where(0)
    assert stacking == sklr.accelerate.Stacking()


def test_predictions_by_cross_validation_are_left_as_they_are():
    plain = cross_val_predict(net(), X, y, cv=FOLDS)
    with sklr.stacked() as stacking:
        np.testing.assert_array_equal(cross_val_predict(net(), X, y, cv=FOLDS), plain)
    assert stacking == sklr.accelerate.Stacking()


def test_workers_of_the_search_train_the_stacks():
    search = grid(net(), {"lr": LRS, "batch_size": [8, 16]}, cv=2)
    plain = clone(search).fit(X, y).cv_results_
    with joblib.parallel_config(backend="threading"), sklr.stacked() as stacking:
        found = clone(search).set_params(n_jobs=2).fit(X, y).cv_results_
    assert_same_results(found, plain)
    assert stacking.n_stacked == 12


def test_the_context_ends_with_its_block():
    with sklr.stacked() as stacking, sklr.stacked() as inner:
        cross_val_score(net(), X, y, cv=FOLDS)
    cross_val_score(net(), X, y, cv=FOLDS)
    assert (inner.n_stacked, stacking.n_stacked) == (3, 0)


def test_reasons_are_told_once_where_asked_for():
    with warnings.catch_warnings(record=True) as caught, sklr.stacked(verbose=1):
        warnings.simplefilter("always")
        cross_val_score(SVC(), X, y)
        cross_val_score(SVC(), X, y)
    reason = "SVC is not a skorch net, nor a Pipeline or TransformedTargetRegressor around one."
    text = f"Some fits are not stacked, but run one by one: {reason}"
    assert [str(warning.message) for warning in caught] == [text]


def test_the_engine_given_is_used():
    class Counting(StackedEngine):
        asked = 0

        def start(self, *args):
            self.asked += 1
            return super().start(*args)

    engine = Counting(max_stack=3)
    with sklr.stacked(engine) as stacking:
        grid(skorch_net(lambda: self_seeding_module(4)), refit=False).fit(X, y)
    assert (engine.asked, stacking.n_stacked) == (1, 9), "a batch is one experiment"


def test_an_engine_must_be_one():
    with (
        pytest.raises(ValueError, match=re.escape("engine must be a StackedEngine or None, got 'stacked'.")),
        sklr.stacked("stacked"),
    ):
        raise AssertionError("no block is entered")


def test_an_engine_that_breaks_down_leaves_the_fits_to_be_run_one_by_one():
    class Broken(StackedEngine):
        def start(self, *args):
            raise ArithmeticError("out of luck")

    plain = cross_val_score(net(), X, y, cv=FOLDS)
    with sklr.stacked(Broken()) as stacking:
        np.testing.assert_array_equal(cross_val_score(net(), X, y, cv=FOLDS), plain)
    assert stacking.n_single == 3
    assert stacking.reasons == ["training in a stack raised ArithmeticError: out of luck"]


def module_of_a_local_class():
    class Local(nn.Sequential):
        """One that no pickle can name."""

    return Local(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)).double()


MODULES = {
    "Sequential": lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double(),
    "MLP": lambda: MLP(5, 2, hidden=(4,), dtype=torch.float64),
    "local class": module_of_a_local_class,
}


@pytest.mark.one_fast
@pytest.mark.parametrize("kind", ["sklr", "skorch"])
@pytest.mark.parametrize("module", MODULES)
def test_clones_of_a_module_instance_share_a_stack(kind, module):
    made = MODULES[module]()
    estimator = skorch_net(made).set_params(iterator_train__shuffle=False) if kind == "skorch" else NeuralNetClassifier(
        made, max_epochs=3, batch_size=16, random_state=0
    )  # fmt: skip
    search = GridSearchCV(estimator, {"lr": LRS}, cv=FOLDS, refit=False)
    data = (X if kind == "sklr" else X.astype(np.float64)), y
    plain = search.fit(*data).cv_results_["mean_test_score"]
    with sklr.stacked() as stacking:
        found = search.fit(*data).cv_results_["mean_test_score"]
    assert (stacking.n_stacked, stacking.n_single, stacking.reasons) == (9, 0, [])
    np.testing.assert_allclose(found, plain)


def test_modules_with_other_weights_are_not_taken_for_equal():
    torch.manual_seed(0)
    prints = Fingerprints()
    first, second = (nn.Linear(2, 2) for _ in range(2))
    assert prints.of(first) == prints.of(clone(first, safe=False)) != prints.of(second)
    frozen = clone(first, safe=False).requires_grad_(False)
    assert prints.of(first) != prints.of(frozen)
    assert prints.of(nn.ReLU()) != prints.of(nn.Tanh())


def test_a_dict_with_something_that_cannot_be_hashed_equals_itself_alone():
    prints = Fingerprints()
    dicts = [{"lr": lr, "rows": (i for i in range(3))} for lr in (0.1, 0.2)]
    assert prints.of(dicts[0]) != prints.of(dicts[1])
    assert prints.of_params(dicts[0]) != prints.of_params(dicts[1])


class Unpicklable(Callback):
    """Equals only itself: a clone is another one."""

    def __deepcopy__(self, memo):
        return Unpicklable()

    def __reduce_ex__(self, protocol):
        raise TypeError("not to be sent away")


@pytest.mark.parametrize(
    ("search", "n_single"),
    [
        (GridSearchCV(net(), {"lr": [0.1]}, cv=[(np.arange(60), np.arange(60, 90))], refit=False), 1),
        (GridSearchCV(net(callbacks=[("odd", Unpicklable())]), {"lr": [0.1, 0.2]}, cv=2, refit=False), 4),
    ],
    ids=["one fit", "parameters that equal themselves alone"],
)
def test_fits_that_are_not_stacked_always_have_a_reason(search, n_single):
    with sklr.stacked() as stacking:
        search.fit(X, y)
    assert (stacking.n_stacked, stacking.n_single) == (0, n_single)
    assert [reason.partition(" its ")[0] for reason in stacking.reasons] == ["a fit shares"]
