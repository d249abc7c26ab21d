"""The bar of a search says how far it is, and is silent unless asked for."""

import pytest
from strategies import CV, X, Y, net

from sklr.search import _progress


@pytest.mark.parametrize("engine", ["stacked", "sequential"])
def test_it_ends_with_all_trials_and_the_best_score(make, engine, capsys):
    search = make(net(), cv=CV, random_state=0, engine=engine, refit=False, progress=True).fit(X, Y)
    n_trials = len(search.cv_results_["params"])
    printed = capsys.readouterr().out
    assert f" {n_trials}/" in printed
    assert f"best {search.best_score_:.4g}" in printed


def test_epochs_are_told(make, monkeypatch):
    told = []
    monkeypatch.setattr(_progress.Progress, "epoch", lambda self, n_epochs: told.append(n_epochs))
    make(net(), cv=CV, random_state=0, refit=False, progress=True).fit(X, Y)
    assert told[:4] == [1, 2, 3, 4]


def test_nothing_is_printed_by_default(make, capsys):
    make(net(), cv=CV, random_state=0, refit=False).fit(X, Y)
    assert capsys.readouterr().out == ""


def test_bad_values_are_refused(make):
    with pytest.raises(ValueError, match="progress must be True or False, got 'yes'"):
        make(net(), progress="yes").fit(X, Y)
