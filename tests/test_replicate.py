"""One configuration many times over, and two side by side."""

from hashlib import sha256

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklr import MLP, LRGridSearchCV, NeuralNetClassifier, characterize, compare

X, Y = load_iris(return_X_y=True)
CV = StratifiedKFold(3, shuffle=True, random_state=0)
NET = NeuralNetClassifier(
    MLP, module__hidden=(8,), optimizer="adam", max_epochs=5, batch_size=16, iterator_train__shuffle=True
)
SAME = {"cv": CV, "n_seeds": 4, "random_state": 0}


def test_every_fold_meets_the_same_seeds():
    noise = characterize(NET, X, Y, lr=0.01, **SAME)
    assert noise.scores.shape == (3, 4)
    assert len(set(noise.seeds)) == 4
    again = characterize(NET, X, Y, lr=0.01, engine="sequential", **SAME)
    np.testing.assert_array_equal(noise.scores, again.scores)
    assert (noise.folds, noise.seeds) == (again.folds, again.seeds)
    assert "over 3 folds x 4 seeds" in str(noise)


def test_a_search_is_characterized_at_its_choice():
    search = LRGridSearchCV(make_pipeline(StandardScaler(), NET), lrs=[1e-4, 0.01], cv=CV, random_state=0).fit(X, Y)
    noise = characterize(search, X, Y, n_seeds=2, random_state=0)
    assert noise.params == search.best_params_
    assert noise.scores.shape == (3, 2)
    assert characterize(search, X, Y, lr=1e-4, n_seeds=2, random_state=0).mean < noise.mean


def test_a_clear_gain_is_adopted_and_its_reverse_is_not():
    good, bad = (characterize(NET, X, Y, lr=lr, **SAME) for lr in (0.03, 1e-5))
    assert compare(good, bad).verdict == "adopt"
    assert compare(bad, good).verdict == "do not adopt"


def test_more_seeds_is_a_normal_answer():
    a, b = (characterize(NET, X, Y, lr=lr, **SAME) for lr in (0.02, 0.021))
    comparison = compare(a, b)
    assert comparison.verdict == "not enough evidence"
    assert comparison.more_seeds is None or comparison.more_seeds > 0


def test_one_fold_tells_of_seeds_alone():
    one = [(np.arange(0, 150, 2), np.arange(1, 150, 2))]
    noise = characterize(NET, X, Y, lr=0.01, cv=one, n_seeds=3, random_state=0)
    assert noise.components.seed == pytest.approx(noise.scores.var(ddof=1))
    assert np.isnan([noise.components.fold, noise.components.residual]).all()
    assert "over 1 fold x 3 seeds" in str(noise)
    assert "fold not known, residual not known" in str(noise)


def test_seeds_that_repeat_each_other_are_no_zero_variance():
    class Deterministic(LogisticRegression):
        pass

    noise = characterize(Deterministic(), X, Y, cv=CV, n_seeds=3, random_state=0)
    assert noise.repeated
    assert np.isnan([noise.components.seed, noise.components.residual]).all()
    assert noise.components.fold > 0
    assert "All seeds of a fold gave identical runs" in str(noise)
    equal_scores = characterize(NET.set_params(max_epochs=1), X, Y, lr=1e-12, **SAME)
    seeds_differ = np.ptp(equal_scores.scores, axis=1).any()
    assert not equal_scores.repeated, "losses differ even where scores do not"
    assert seeds_differ or equal_scores.components.seed == 0


def test_only_the_same_cells_compare():
    a = characterize(NET, X, Y, lr=0.01, **SAME)
    b = characterize(NET, X, Y, lr=0.01, cv=CV, n_seeds=4, random_state=1)
    with pytest.raises(ValueError, match="same cv, n_seeds and integer random_state"):
        compare(a, b)
    with pytest.raises(ValueError, match="n_seeds must be an integer >= 2, got 1"):
        characterize(NET, X, Y, n_seeds=1)


def test_different_scorings_do_not_compare():
    """The difference between an accuracy and a log loss would be adopted as an improvement."""
    by_default, by_name, by_loss = (
        characterize(NET, X, Y, lr=0.1, cv=2, n_seeds=2, random_state=0, scoring=scoring)
        for scoring in (None, "accuracy", "neg_log_loss")
    )
    assert compare(by_default, by_name).verdict == "do not adopt", "the same scores"
    with pytest.raises(ValueError, match=r"scored alike, .* got \('accuracy', 'neg_log_loss'\)"):
        compare(by_default, by_loss)


def test_what_is_no_characterization_does_not_compare():
    made = characterize(NET, X, Y, lr=0.1, cv=2, n_seeds=2, random_state=0)
    with pytest.raises(TypeError, match=r"old must be what characterize returned, got 'NeuralNetClassifier'. Write"):
        compare(made, NET)


def test_folds_are_recognized_in_another_process():
    """Python's own hash of bytes differs from process to process."""
    cv = KFold(2, shuffle=True, random_state=0)  # the rows are sorted by class
    made = characterize(NET, X, Y, lr=0.1, cv=cv, n_seeds=2, random_state=0)
    tests = [test.astype(np.int64).tobytes() for _, test in cv.split(X)]
    assert made.folds == tuple(sha256(rows).hexdigest() for rows in tests)


@pytest.mark.parametrize("lr", [[0.1, 0.2], -0.1, "0.1"], ids=str)
def test_the_lr_of_one_configuration_is_one_number(lr):
    with pytest.raises(ValueError, match="lr must be a single number above 0"):
        characterize(NET, X, Y, lr=lr, cv=2, n_seeds=2)
