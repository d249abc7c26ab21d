"""What a search prints is what `GridSearchCV` prints, line for line, but for the times."""

import re

import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from strategies import CV, X, Y, grid, net

from sklr import OptunaSearchCV

SEVERAL = {"scoring": ["accuracy", "neg_log_loss"], "refit": False}
MODEL = LogisticRegression(max_iter=999)


def printed(search, capsys, n_jobs=1):
    search.set_params(n_jobs=n_jobs).fit(X, Y)
    out = capsys.readouterr().out
    # a longer time takes away a dot, and lines of several workers come in any order
    return sorted(re.sub(r"\.{2,}", "..", re.sub(r"[\d.]+(s|min)\n", "T\n", out)).splitlines())


@pytest.mark.one_fast
@pytest.mark.parametrize("return_train_score", [False, True])
@pytest.mark.parametrize("verbose", [0, 1, 2, 3, 10])
@pytest.mark.parametrize("several", [{}, SEVERAL], ids=["one metric", "several"])
def test_every_line_is_gridsearchcvs(capsys, verbose, return_train_score, several):
    kwargs = {"cv": CV, "verbose": verbose, "return_train_score": return_train_score, **several}
    ours = printed(grid(MODEL, "C", [0.1, 1.0], **kwargs), capsys)
    theirs = printed(GridSearchCV(MODEL, {"C": [0.1, 1.0]}, **kwargs), capsys)
    assert ours == theirs
    assert len(ours) == {0: 0, 1: 1, 2: 7, 3: 7, 10: 13}[verbose]


def test_lines_are_padded_to_gridsearchcvs_width(capsys):
    lines = {}
    for name, search in {"ours": grid(MODEL, "C", [1.0]), "theirs": GridSearchCV(MODEL, {"C": [1.0]})}.items():
        search.set_params(cv=CV, verbose=3).fit(X, Y)
        lines[name] = capsys.readouterr().out.splitlines()
    assert [len(line) for line in lines["ours"]] == [len(line) for line in lines["theirs"]]


def test_a_nets_lines_are_gridsearchcvs_and_one_that_names_the_engine(capsys):
    kwargs = {"cv": CV, "verbose": 3}
    ours = printed(grid(net(random_state=0, max_epochs=2), values=[0.01, 0.03], **kwargs), capsys)
    theirs = printed(GridSearchCV(net(random_state=0, max_epochs=2), {"lr": [0.01, 0.03]}, **kwargs), capsys)
    assert ours == sorted([*theirs, "[sklr] engine: stacked"])


def test_seeds_are_told_of(capsys):
    grid(net(max_epochs=1), values=[0.01], cv=CV, n_seeds=2, verbose=1, random_state=0).fit(X, Y)
    first = "Fitting 3 folds x 2 seeds for each of 1 candidates, totalling 6 fits\n"
    assert capsys.readouterr().out == first + "[sklr] engine: stacked\n"


def test_a_batch_of_candidates_is_told_of_at_a_time(capsys):
    search = OptunaSearchCV(MODEL, {"C": (0.1, 1.0)}, n_trials=3, n_points=2, cv=CV, verbose=1, random_state=0)
    assert printed(search, capsys) == [
        "Fitting 3 folds for each of 1 candidates, totalling 3 fits",
        "Fitting 3 folds for each of 2 candidates, totalling 6 fits",
    ]
