"""What a search says of fits that failed."""

import traceback
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import FitFailedWarning
from strategies import X, Y, grid, net
from torch.utils.data import TensorDataset

from sklr import MLP, LRGridSearchCV, NeuralNetClassifier, NeuralNetRegressor
from sklr._utils.errors import LONGEST, cause_of
from sklr.exceptions import AllDivergedError
from sklr.results import DIVERGED, FAILED, Outcome
from sklr.search._cv_results import Record
from sklr.search._failures import MOST_CAUSES, report_failures


def raised(error):
    try:
        raise error
    except Exception:
        return traceback.format_exc()


def chained():
    try:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise ValueError("outer\nsecond line") from inner
    except ValueError:
        return traceback.format_exc()


CAUSES = [
    (raised(ValueError("lr is high: 3")), "ValueError: lr is high: 3"),
    (raised(RuntimeError()), "RuntimeError"),
    (raised(KeyError("lr")), "KeyError: 'lr'"),
    (raised(AllDivergedError("gone")), "AllDivergedError: gone"),
    (raised(ValueError("X has NaN.\n\n  Drop it.\n")), "ValueError: X has NaN. Drop it."),
    (raised(ValueError("x" * 9999)), f"ValueError: {'x' * LONGEST}"[: LONGEST - 3] + "..."),
    (chained(), "ValueError: outer second line"),
    ("a note left by hand", "a note left by hand"),
    (raised(ExceptionGroup("two", [ValueError("a"), ValueError("b")])), None),
]


@pytest.mark.parametrize(("text", "cause"), CAUSES)
def test_the_cause_of_a_traceback_is_its_exception_on_one_line(text, cause):
    found = cause_of(text)
    assert found
    assert "\n" not in found
    assert len(found) <= LONGEST
    assert cause is None or found == cause


def test_nothing_is_said_where_nothing_failed():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report_failures([None, None], [{}, {}], np.nan)


def test_the_commonest_causes_come_first_and_every_traceback_once_at_the_end():
    errors = [raised(ValueError(f"number {k}")) for k in range(8) for _ in range(k + 1)]
    params = [{"lr": k} for k in range(8) for _ in range(k + 1)]
    with pytest.raises(ValueError, match="All the 36 fits failed, with 8 different errors:\n") as found:
        report_failures(errors, params, np.nan)
    head, *tracebacks = str(found.value).split("-" * 80)
    told = [line for line in head.splitlines() if line.startswith("- ")]
    assert told == [
        *(f"- {k + 1} fits, the first of them with {{'lr': {k}}}: ValueError: number {k}" for k in (7, 6, 5, 4, 3)),
        "- and 3 more",
    ]
    assert [text.strip().splitlines()[-1] for text in tracebacks] == [
        line.partition(": ")[2].partition(": ")[2] for line in told[:-1]
    ]
    assert len(tracebacks) == MOST_CAUSES


def test_one_fit_alone_that_failed_is_one_fit():
    with pytest.warns(
        FitFailedWarning, match="^1 fit failed out of a total of 2: OSError: disk\nThe first of them has"
    ):
        report_failures([None, raised(OSError("disk"))], [{}, {"lr": 1}], 0.0)


class Picky(ClassifierMixin, BaseEstimator):
    """Takes one value of `kind` alone."""

    def __init__(self, kind="a"):
        self.kind = kind

    def fit(self, X, y):
        if self.kind != "a":
            raise ValueError(f"kind must be 'a', got {self.kind!r}.")
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return np.zeros(len(X), dtype=int)


@pytest.mark.filterwarnings("ignore:One or more of the test scores are non-finite")
def test_a_search_tells_each_cause_with_one_of_its_candidates():
    with pytest.warns(FitFailedWarning) as caught:
        grid(Picky(), "kind", ["a", "b", "c"], cv=2).fit(X, Y)
    [said] = [str(w.message) for w in caught if w.category is FitFailedWarning]
    assert said.splitlines()[:3] == [
        "4 fits failed out of a total of 6, with 2 different errors:",
        "- 2 fits, the first of them with {'kind': 'b'}: ValueError: kind must be 'a', got 'b'.",
        "- 2 fits, the first of them with {'kind': 'c'}: ValueError: kind must be 'a', got 'c'.",
    ]
    assert said.count("Traceback (most recent call last)") == 2


def test_where_all_diverged_or_failed_the_cause_of_the_failures_is_named():
    record = Record(n_seeds=1, metric=None)
    failed = Outcome(np.nan, FAILED, "failed", fit_error=raised(ValueError("out of memory")))
    record.add([{"lr": 1}, {"lr": 2}], [[Outcome(np.nan, DIVERGED, "diverged at step 3: loss nan")], [failed]])
    with pytest.raises(AllDivergedError, match="Some fits failed: ValueError: out of memory\n"):
        record.cv_results(None, np.nan, False)


def test_a_row_that_is_not_a_number_is_looked_for_in_the_data():
    """All candidates meet it at the same step, so that no smaller learning rate would help."""
    rows = torch.tensor(np.asarray(X, dtype="float32")).clone()
    rows[5, 0] = np.nan
    data = TensorDataset(rows, torch.tensor(np.asarray(Y)))
    search = LRGridSearchCV(net(batch_size=4, iterator_train__shuffle=False), lrs=[1e-4, 1e-3], random_state=0)
    with pytest.raises(AllDivergedError, match="As all of them diverged at the same step, also check X and y for NaN"):
        search.fit(data, validation=data)


class Broken(torch.nn.Module):
    """A module whose outputs are not finite."""

    def __init__(self, n_inputs, n_outputs):
        super().__init__()
        self.layer = torch.nn.Linear(n_inputs, n_outputs)

    def forward(self, x):
        return self.layer(x) * torch.nan


FAR = np.asarray(X, dtype="float32") * np.float32(1e30)
LOSSES = {
    "mse": (NeuralNetRegressor(MLP, criterion="mse", max_epochs=1), "", FAR),
    "nll": (
        NeuralNetClassifier(Broken, criterion=torch.nn.NLLLoss, max_epochs=1),
        " With criterion NLLLoss the module must return probabilities, not their logarithms.",
        np.asarray(X, dtype="float32"),
    ),
}


@pytest.mark.parametrize(("loss", "engine"), [("mse", "sequential"), ("nll", "sequential"), ("nll", "stacked")])
def test_the_advice_for_a_first_loss_that_is_not_finite_is_for_the_criterion(loss, engine):
    estimator, advice, rows = LOSSES[loss]
    search = LRGridSearchCV(estimator, lrs=[1e-3, 1e-2], cv=2, engine=engine)
    with pytest.raises(AllDivergedError) as error:
        search.fit(rows, np.asarray(Y) if advice else np.asarray(Y, dtype="float32"))
    assert str(error.value).endswith(f"and for numbers far larger than 1.{advice}")


def test_a_searched_criterion_gets_no_advice():
    record = Record(1, None, "NLLLoss")
    first = Outcome(np.nan, DIVERGED, "diverged at step 0: loss nan")
    record.add([{"criterion": "mse"}], [[first]])
    with pytest.raises(AllDivergedError, match=r"numbers far larger than 1\.$"):
        record.cv_results(None, np.nan, False)
