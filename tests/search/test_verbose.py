"""What a search prints is what `GridSearchCV` prints, line for line, but for the times."""

import logging
import re
import sys
import textwrap
import types
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from strategies import CV, X, Y, grid, net

from sklr import DivergedWarning, OptunaSearchCV

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


def test_a_nets_lines_are_gridsearchcvs_and_those_of_sklr(capsys):
    kwargs = {"cv": CV, "verbose": 3}
    ours = printed(grid(net(random_state=0, max_epochs=2), values=[0.01, 0.03], **kwargs), capsys)
    theirs = printed(GridSearchCV(net(random_state=0, max_epochs=2), {"lr": [0.01, 0.03]}, **kwargs), capsys)
    assert [line for line in ours if not line.startswith("[sklr]")] == theirs
    assert "[sklr] engine: stacked" in ours


def test_seeds_are_told_of(capsys):
    grid(net(max_epochs=1), values=[0.01], cv=CV, n_seeds=2, verbose=1, random_state=0).fit(X, Y)
    first = "Fitting 3 folds x 2 seeds for each of 1 candidates, totalling 6 fits\n"
    assert capsys.readouterr().out.startswith(first + "[sklr] engine: stacked\n[sklr] lr 0.01: 0.")


@pytest.mark.parametrize("engine", ["stacked", "sequential"])
def test_every_candidate_has_a_line(make, capsys, engine):
    """In the stack each has one when the stack is through, one by one as soon as it has been trained."""
    search = make(net(max_epochs=2), cv=CV, verbose=1, engine=engine, random_state=0, refit=False).fit(X, Y)
    lines = [line for line in capsys.readouterr().out.splitlines() if "best so far" in line]
    scores, params = search.cv_results_["mean_test_score"], search.cv_results_["params"]
    for i, (line, score, candidate, row) in enumerate(zip(lines, scores, params, search.cell_scores_, strict=True)):
        best = int(scores[: i + 1].argmax())
        assert line == (
            f"[sklr] lr {candidate['lr']:.3g}: {score:.3f} +- {row.std():.3f}, "
            f"best so far {scores[best]:.3f} at {params[best]['lr']:.3g}"
        )


@pytest.mark.parametrize("pruner", [None, "median"])
def test_a_stack_says_how_far_it_is_after_each_epoch(capsys, pruner):
    search = grid(net(max_epochs=3), cv=CV, verbose=2, engine="stacked", random_state=0, pruner=pruner)
    quiet = clone(search).set_params(verbose=0).fit(X, Y)
    capsys.readouterr()
    np.testing.assert_array_equal(search.fit(X, Y).cell_scores_, quiet.cell_scores_)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[sklr] epoch")]
    assert [re.match(r"\[sklr\] epoch (\d): best mean score 0\.\d{3}$", line)[1] for line in lines] == ["1", "2", "3"]


def test_what_diverged_says_so(capsys):
    with pytest.warns(DivergedWarning):
        grid(net(optimizer="sgd", max_epochs=1), values=[0.01, 1e30], cv=CV, verbose=1, random_state=0).fit(X, Y)
    assert re.search(r"\[sklr\] lr 1e\+30: diverged at step .*, best so far 0.\d+ at 0.01", capsys.readouterr().out)


def test_the_logger_decides_what_is_seen(capsys, caplog):
    search = grid(net(max_epochs=1), cv=CV, verbose=1, random_state=0, refit=False)
    logger = logging.getLogger("sklr")
    logger.addHandler(caplog.handler)
    logger.setLevel(logging.WARNING)
    try:
        search.fit(X, Y)
        assert "[sklr]" not in capsys.readouterr().out
        logger.setLevel(logging.INFO)
        search.fit(X, Y)
        assert [r.levelname for r in caplog.records] == ["INFO"] * 4
    finally:
        logger.removeHandler(caplog.handler)
        logger.setLevel(logging.NOTSET)


def test_a_batch_of_candidates_is_told_of_at_a_time(capsys):
    search = OptunaSearchCV(MODEL, {"C": (0.1, 1.0)}, n_trials=3, n_points=2, cv=CV, verbose=1, random_state=0)
    assert printed(search, capsys) == [
        "Fitting 3 folds for each of 1 candidates, totalling 3 fits",
        "Fitting 3 folds for each of 2 candidates, totalling 6 fits",
    ]


def test_the_guides_trackers_are_told_of_every_trial(monkeypatch):
    """The trackers are not installed here: these stand-ins take the parameters that Optuna documents for them."""
    told = []

    def tell(study, trial):
        told.append((study.study_name, trial.number, trial.value, *trial.params))

    stand_ins = types.ModuleType("optuna_integration")
    stand_ins.TensorBoardCallback = lambda dirname, metric_name: tell
    stand_ins.MLflowCallback = lambda tracking_uri=None, metric_name="value", create_experiment=True: tell
    stand_ins.WeightsAndBiasesCallback = lambda metric_name="value", wandb_kwargs=None, as_multirun=False: tell
    monkeypatch.setitem(sys.modules, "optuna_integration", stand_ins)
    guide = (Path(__file__).parents[2] / "docs" / "guide" / "too_long.rst").read_text()
    (code,) = re.findall(r":class: not-run\n\n((?:    .*\n|\n)+)", guide)
    exec(textwrap.dedent(code), {"net": net(max_epochs=1), "X": X, "y": Y})
    assert [number for _, number, *_ in told] == [n for n in range(16) for _ in range(3)]
    assert all(value > 0 and name == "lr" for _, _, value, name in told)
