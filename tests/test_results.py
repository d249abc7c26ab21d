"""What is written down about runs, and the tables made of it."""

import numpy as np
import pytest

from sklr.results import (
    DIVERGED,
    FAILED,
    OK,
    STOPPED,
    EpochRow,
    Outcome,
    candidate_status,
    cell_scores,
    has_status,
    history_table,
    pick_score,
    rank_last,
    split_rows,
)

NAN = float("nan")


def test_seeds_of_a_fold_are_averaged_and_folds_are_not():
    runs = [Outcome(score, fit_time=score, n_test_samples=7) for score in (0.2, 0.4, 0.6, 1.0)]
    first, second = split_rows([runs], n_seeds=2)
    assert (first["test_scores"], second["test_scores"]) == (pytest.approx(0.3), pytest.approx(0.8))
    assert first["fit_time"] == pytest.approx(0.3)
    assert first["n_test_samples"] == 7
    assert first["fit_error"] is None
    assert "train_scores" not in first


def test_a_single_seeds_score_stays_as_it_is():
    whole = 10**17 + 1  # not to be had as a float
    assert split_rows([[Outcome(whole)]], n_seeds=1)[0]["test_scores"] == whole


def test_several_metrics_are_averaged_one_by_one_and_a_failed_seed_stands_for_each():
    ok, failed = Outcome({"a": 0.5, "b": -2.0}), Outcome(-1.0, FAILED, fit_error="why")
    row = split_rows([[failed, ok]], n_seeds=2)[0]
    assert row["test_scores"] == {"a": -0.25, "b": -1.5}
    assert row["fit_error"] == "why"


def test_training_scores_are_averaged_too():
    runs = [Outcome(0.5, train_scores=0.6), Outcome(0.5, train_scores=0.8)]
    assert split_rows([runs], n_seeds=2)[0]["train_scores"] == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([OK, OK], "ok"),
        ([OK, STOPPED], "stopped (1 of 2 runs)"),
        ([STOPPED, DIVERGED], "diverged (1 of 2 runs)"),
        ([DIVERGED, FAILED], "failed (1 of 2 runs)"),
        ([DIVERGED, DIVERGED], "diverged (2 of 2 runs)"),
    ],
)
def test_a_candidate_is_as_bad_as_its_worst_run(statuses, expected):
    runs = [Outcome(0.9 if status == OK else NAN, status) for status in statuses]
    assert candidate_status(runs) == expected
    assert all(has_status(runs, status) for status in statuses)
    assert not has_status(runs, "no such status")


def test_a_run_without_a_score_is_not_ok():
    assert candidate_status([Outcome(NAN), Outcome(0.5)]) == "no score: the score is nan (1 of 2 runs)"
    assert candidate_status([Outcome(-np.inf)]) == "no score: the score is -inf (1 of 1 runs)"
    several = [Outcome({"a": 0.5, "b": NAN})]
    assert candidate_status(several, "a") == "ok"
    assert candidate_status(several, "b") == "no score: the score is nan (1 of 1 runs)"


def test_scores_are_one_number_per_run():
    several = [[Outcome({"a": 0.1, "b": 0.2}), Outcome({"a": 0.3, "b": NAN})]]
    np.testing.assert_array_equal(cell_scores(several, "b"), [[0.2, NAN]])
    np.testing.assert_array_equal(cell_scores(several, None), [[0.1, 0.3]])
    assert pick_score(0.5, "b") == 0.5


def test_the_history_has_a_row_per_epoch_in_order():
    def run(n, lr):
        return Outcome(0.0, history=[EpochRow(i, lr, 1.0 / (i + 1), 0.5) for i in range(n)])

    table = history_table([[run(2, 0.1), run(1, 0.1)], [run(0, 1.0), run(1, 1.0)]], n_seeds=2)
    assert table["candidate"].tolist() == [0, 0, 0, 1]
    assert table["fold"].tolist() == [0, 0, 0, 0]
    assert table["seed"].tolist() == [0, 0, 1, 1]
    assert table["epoch"].tolist() == [0, 1, 0, 0]
    assert table["train_loss"].tolist() == [1.0, 0.5, 1.0, 1.0]
    assert {column.dtype.kind for column in list(table.values())[:4]} == {"i"}
    assert {column.dtype.kind for column in list(table.values())[4:]} == {"f"}


@pytest.mark.parametrize(
    ("ranks", "last", "expected"),
    [
        ([1, 2, 3], [True, False, False], [3, 1, 2]),
        ([2, 1, 2], [False, True, False], [1, 3, 1]),
        ([1, 1, 3, 4], [True, False, True, False], [3, 1, 3, 2]),
        ([1, 2], [False, False], [1, 2]),
        ([1, 2], [True, True], [1, 2]),
    ],
)
def test_marked_candidates_rank_behind_all_others(ranks, last, expected):
    results = {"rank_test_score": np.array(ranks, dtype=np.int32), "mean_test_score": np.array(ranks)}
    rank_last(results, np.array(last))
    assert results["rank_test_score"].tolist() == expected
    assert results["rank_test_score"].dtype == np.int32
    assert results["mean_test_score"].tolist() == ranks
