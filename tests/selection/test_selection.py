"""The LR curve: what stands on it, and how sure its scores are."""

import numpy as np
import pytest

from sklr.selection import lr_curve, paired_standard_error

NAN = float("nan")


def test_what_all_candidates_share_in_a_cell_is_no_noise():
    rng = np.random.default_rng(0)
    own, shared = rng.normal(size=(4, 6)), 100 * rng.normal(size=6)
    np.testing.assert_allclose(paired_standard_error(own + shared), paired_standard_error(own), rtol=1e-9)


def test_the_error_of_independent_candidates_is_the_usual_one_on_average():
    # Scaling by n / (n - 1) makes up for the mean that was subtracted (Morey 2008), so that with no shared effect
    # the squared error is 1 / n_cells on average
    rng = np.random.default_rng(0)
    squares = [paired_standard_error(rng.normal(size=(3, 5))) ** 2 for _ in range(2000)]
    assert np.mean(squares) == pytest.approx(1 / 5, rel=0.05)


def test_a_candidate_that_half_collapses_is_nobody_elses_noise():
    rng = np.random.default_rng(0)
    steady = 0.9 + 0.002 * rng.normal(size=(6, 5))
    collapsing = np.array([[0.9, 0.1, 0.9, 0.1, 0.9]])
    se = paired_standard_error(np.vstack([steady, collapsing]))
    np.testing.assert_allclose(se[:6], paired_standard_error(steady), rtol=1e-9)
    assert se[6] > 0.1


def test_order_does_not_matter():
    scores = np.random.default_rng(0).normal(size=(5, 4))
    order = [3, 0, 4, 1, 2]
    np.testing.assert_allclose(paired_standard_error(scores[order]), paired_standard_error(scores)[order])
    np.testing.assert_allclose(paired_standard_error(scores[:, ::-1]), paired_standard_error(scores))


def test_a_candidate_without_all_scores_has_no_error_and_shifts_nobodys():
    scores = np.array([[0.5, 0.7, 0.6], [0.6, 0.9, 0.5]])
    with_gap = np.vstack([scores, [NAN, 1e6, 1e6]])
    se = paired_standard_error(with_gap)
    np.testing.assert_array_equal(se[:2], paired_standard_error(scores))
    assert np.isnan(se[2])


@pytest.mark.parametrize("scores", [np.ones((3, 1)), np.full((2, 4), NAN)])
def test_too_little_to_tell_is_nan(scores):
    assert np.isnan(paired_standard_error(scores)).all()


def test_one_candidate_alone_has_the_error_of_its_mean():
    # scores 1, 2, 3: standard deviation 1, so the mean's error is 1 / sqrt(3)
    assert paired_standard_error(np.array([[1.0, 2.0, 3.0]]))[0] == pytest.approx(3**-0.5)


def test_the_curve_is_sorted_and_the_best_of_equal_lrs_stands_for_them():
    scores = np.array([[0.9, 0.7], [0.1, 0.3], [0.2, 0.4], [NAN, NAN]])
    curve = lr_curve([0.1, 0.01, 0.01, 1.0], scores, ["ok", "ok", "ok", "diverged at step 2: loss nan"])
    assert curve.lr.tolist() == [0.01, 0.1, 1.0]
    np.testing.assert_allclose(curve.mean, [0.3, 0.8, NAN])
    assert curve.diverged.tolist() == [False, False, True]
    assert len(curve) == 3


def test_a_numeric_error_score_of_what_diverged_is_not_a_score():
    curve = lr_curve([0.1, 1.0], np.array([[-2.0, -2.0], [0.0, 0.0]]), ["ok", "diverged at step 1: loss inf"])
    np.testing.assert_array_equal(curve.mean, [-2.0, NAN])
    assert "<- best" in str(curve).splitlines()[1]


def test_equal_lrs_that_all_failed_stay_one_point():
    curve = lr_curve([0.1, 0.1], np.full((2, 2), NAN), ["failed (2 of 2 runs)"] * 2)
    assert curve.lr.tolist() == [0.1]
    assert "best" not in str(curve)


def test_the_columns_of_a_printed_curve_are_as_wide_as_their_numbers():
    scores = np.array([[-17334.25, -17000.5], [-1.5, -2.5], [np.nan, 0.0]])
    lines = str(lr_curve([0.01, 0.1, 1.0], scores, ["ok", "ok", "diverged"])).splitlines()
    assert {line.index(status) for line, status in zip(lines, ["status", "ok", "ok", "diverged"], strict=True)} == {
        lines[0].index("status")
    }
    assert lines[2].endswith("ok  <- best")
