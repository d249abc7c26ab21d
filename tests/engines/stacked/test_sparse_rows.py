"""Sparse rows: dense once in a stack, as skorch makes each of them dense when it is read."""

import numpy as np
import pytest
import skorch
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MaxAbsScaler
from skorch.dataset import Dataset
from test_agreement import LRS, Double, assert_agree, both, classifier, experiment
from test_agreement import X as DENSE
from test_ragged_folds import both_after, described, ragged
from torch import nn

from sklr import LRGridSearchCV, NeuralNetRegressor
from sklr.engines.stacked.engine import StackedEngine
from sklr.engines.stacked.setup import dense

X = np.where(np.abs(DENSE) > 1, DENSE, 0.0)
KINDS = [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array]


@pytest.mark.one_fast
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_sparse_table_is_its_dense_one(kind):
    stacked, alone = both(classifier(), X=kind(X), return_train_score=True)
    assert_agree(stacked, alone)
    assert_agree(stacked, both(classifier(), X=X, return_train_score=True)[0])


def test_skorchs_own_nets_and_a_single_column():
    net = skorch.NeuralNetClassifier(
        lambda: nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 3)).double(),
        **{"criterion": nn.CrossEntropyLoss, "train_split": None, "max_epochs": 2, "batch_size": 16, "verbose": 0},
    )
    assert_agree(*both(net, X=sparse.csr_matrix(X[:, :1])))


def test_whole_numbers_stay_whole():
    net = classifier(lambda: nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(18, 3)).double())
    tokens = np.random.default_rng(0).integers(0, 5, X.shape)
    assert_agree(*both(net, X=sparse.csr_matrix(tokens)))


@pytest.mark.parametrize("n_seeds", [1, 2])
def test_folds_behind_a_head_are_dense_once_each(n_seeds):
    given = described(ragged(sparse=True), n_seeds=n_seeds, return_train_score=True)
    training, ours, alone = both_after(given, epochs=[1], stopping=[[1]])
    assert_agree(ours[1], alone[1])
    assert sum(len(scored.group_cells) for scored in training.packs) == 3 * n_seeds
    for scored in training.packs:
        rows = [place.pack_cell.x for place in scored.group_cells]
        assert {id(x.tensors) for x in rows} == {id(scored.pack.rows.tensors)}  # a pack has no copy of its own
        folds = {place.cell.fold: x.n_rows for place, x in zip(scored.group_cells, rows, strict=True)}
        assert len(rows[0].tensors) == sum(folds.values())


def test_texts():
    words = np.array(["red", "blue", "green", "warm", "cold"])
    texts = [" ".join(words[np.abs(row[:5]) > 0.8]) for row in DENSE]
    texts = np.array([text or "none" for text in texts], dtype=object)
    pipeline = Pipeline([("count", CountVectorizer(min_df=2)), ("scale", MaxAbsScaler()), ("net", classifier())])
    candidates = [{"net__lr": 0.1}, {"net__lr": 0.2, "net__batch_size": 8}]
    assert_agree(*both(pipeline, candidates, X=texts, scoring="neg_log_loss"))


def test_regression():
    net = NeuralNetRegressor(Double, module__hidden=(4,), max_epochs=2, batch_size=16)
    assert_agree(*both(net, X=sparse.csr_matrix(X), y=X[:, 0] - X[:, 1]))


def test_no_row_is_read_by_itself(monkeypatch):
    monkeypatch.setattr("sklr.engines.stacked.setup.prepare.audit", lambda *args: None)
    monkeypatch.setattr(Dataset, "__getitem__", lambda *args: pytest.fail("a row was read"))
    outcomes = StackedEngine().start(experiment(classifier(), X=sparse.csr_matrix(X)), LRS).finish()
    assert {outcome.status for row in outcomes for outcome in row} == {"ok"}


def test_rows_that_would_not_fit_are_a_reason(monkeypatch):
    monkeypatch.setattr(dense, "free_bytes", lambda device: 2e6)
    wide = sparse.random(101, 3000, 0.01, "csr", random_state=0)
    given = experiment(classifier(), X=wide)
    (reason,) = StackedEngine().unsupported(given, LRS)
    assert "would take 1 MB, more than half of the 2 MB of free memory; give the net fewer columns" in reason
    behind = experiment(make_pipeline(MaxAbsScaler(), classifier()), X=wide)
    (reason,) = StackedEngine().unsupported(behind, [{"neuralnetclassifier__lr": 0.1}])
    assert "would take 4 MB" in reason  # in three folds
    assert StackedEngine().unsupported(experiment(classifier(), X=wide[:, :500]), LRS) == []
    assert StackedEngine().unsupported(experiment(classifier(), X=wide.toarray()), LRS) == []


def test_a_plan_counts_them_dense():
    wide = sparse.random(1000, 2000, 0.01, "csr", random_state=0, dtype=np.float32)
    y = np.arange(1000) % 2

    def memory(X, *head):
        net = classifier(batch_size=32, max_epochs=1, module__hidden=(4,))
        pipeline, lr = (make_pipeline(*head, net), "neuralnetclassifier__lr") if head else (net, "lr")
        return LRGridSearchCV(pipeline, {lr: (0.1, 0.2, 0.3)}, cv=3).plan(X, y).memory

    assert memory(wide, MaxAbsScaler()) == pytest.approx(memory(wide.toarray(), MaxAbsScaler()), rel=0.05)
    assert memory(wide) == pytest.approx(memory(wide.toarray()), rel=0.05)  # which is cast to float64
