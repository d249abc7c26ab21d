"""Datasets and DataLoaders in the place of arrays: what is read, how often, and that both engines agree."""

import pickle
import random
import warnings

import numpy as np
import pytest
import skorch
import torch
from sklearn.model_selection import PredefinedSplit
from torch import nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from sklr import MLP, BayesSearchCV, LRGridSearchCV, NeuralNetClassifier, OptunaSearchCV, lr_range_test
from sklr.exceptions import SettingsWarning, StudyError
from sklr.experiment.dataset_labels import labels_of
from sklr.experiment.datasets import DatasetRows, bring
from sklr.experiment.loaders import loader_params

N = 61
generator = torch.Generator().manual_seed(0)
X = torch.randn(N, 5, generator=generator)
Y = (X[:, 0] > 0).long()
LRS = [0.01, 0.1, 0.5]


class Plain(Dataset):
    """Rows that stay as they are, but nobody can know that."""

    def __init__(self, n=N):
        self.n, self.targets, self.reads = n, Y[:n], 0

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        self.reads += 1
        return self.x(i), Y[i]

    def x(self, i):
        return X[i]


class Augmented(Plain):
    """Which draws from all generators there are."""

    def x(self, i):
        return X[i] + 0.1 * torch.randn(5) + 0.1 * np.random.randn() + 0.1 * random.random()


class Dicts(Augmented):
    def x(self, i):
        return {"a": super().x(i), "b": X[i, :2]}


class Tuples(Augmented):
    def x(self, i):
        return super().x(i), X[i, :2]


class Faced(Dicts):
    """Items as the datasets of Hugging Face have them."""

    def __getitem__(self, i):
        return {**self.x(i), "label": int(Y[i])}


class Foreign:
    """A class that does not know PyTorch, as those of Hugging Face."""

    column_names, shape = ("a", "b", "label"), (N, 3)

    def __init__(self):
        self.inside = Faced()

    def __len__(self):
        return N

    def __getitem__(self, i):
        return Y.tolist() if isinstance(i, str) else self.inside[i]

    def __getitems__(self, rows):
        return [self[i] for i in rows]


class OwnKind:
    """Neither a Dataset nor a table."""

    def __len__(self):
        return N

    def __getitem__(self, i):
        return X[i], Y[i]

    targets = Y


class Triples(Augmented):
    def __getitem__(self, i):
        return self.x(i), X[i, :2], Y[i]


class Ragged(Plain):
    def x(self, i):
        return torch.arange(1, 3 + i % 5)


def padded(items):
    x, y = zip(*items, strict=True)
    return nn.utils.rnn.pad_sequence(x, batch_first=True), torch.stack(y)


def as_dict(items):
    """Collate dicts as Hugging Face's collators do."""
    rows = {name: torch.stack([torch.as_tensor(item[name]) for item in items]) for name in items[0]}
    return {"labels" if name == "label" else name: column for name, column in rows.items()}


def of_triples(items):
    a, b, y = zip(*items, strict=True)
    return {"a": torch.stack(a), "b": torch.stack(b)}, torch.stack(y)


def tripled(items):
    x, y = zip(*items, strict=True)
    return 3 * torch.stack(x), torch.stack(y)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(7, 2)

    def forward(self, a, b):
        return self.layer(torch.cat([a, b], 1))


class OfTuple(Two):
    def forward(self, x):
        return super().forward(*x)


class Embedded(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.layer = nn.Embedding(10, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.layer(self.embedding(x).mean(1))


class Normed(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def net(module=Normed, **params):
    defaults = {"max_epochs": 3, "batch_size": 16, "random_state": 0, "iterator_train__shuffle": True}
    return NeuralNetClassifier(module, **{**defaults, **params})


def searched(estimator, data, engine="auto", n_seeds=1, n_jobs=None, refit=False, **fit):
    cv = None if "validation" in fit else 3
    params = {"engine": engine, "refit": refit, "n_seeds": n_seeds, "n_jobs": n_jobs, "error_score": "raise"}
    return LRGridSearchCV(estimator, lrs=LRS, cv=cv, random_state=0, **params).fit(data, **fit)


CASES = {
    "tensors": (net(), TensorDataset(X, Y), {}),
    "a dataset": (net(), Plain(), {}),
    "augmented": (net(), Augmented(), {}),
    "a chain of layers": (net(MLP, optimizer="adam", schedule="cosine"), Augmented(), {}),
    "dicts": (net(Two), Dicts(), {}),
    "tuples": (net(OfTuple), Tuples(), {}),
    "Hugging Face's": (net(Two), Faced(), {}),
    "ragged": (
        net(
            Embedded,
            iterator_train__collate_fn=padded,
            iterator_valid__collate_fn=padded,
            iterator_valid__batch_size=99,
        ),
        Ragged(),
        {},
    ),
    "a part of two": (net(), ConcatDataset([Subset(Augmented(), range(30)), Augmented(31)]), {}),
    "validation": (net(), Augmented(), {"validation": TensorDataset(X[:20], Y[:20])}),
    "read otherwise to predict": (net(), Augmented(), {"eval_dataset": Plain()}),
    "a loader": (net(), DataLoader(Augmented(), batch_size=9, shuffle=True), {}),
    "without the rest": (net(), DataLoader(Augmented(), batch_size=16, shuffle=True, drop_last=True), {}),
    "no rest": (net(), DataLoader(Augmented(48), batch_size=16, shuffle=True), {}),
    "a sampler": (
        net(),
        DataLoader(Augmented(), batch_size=16, sampler=WeightedRandomSampler(torch.ones(N), 40)),
        {"validation": Plain(20)},
    ),
    "a class of Hugging Face's": (net(Two), Foreign(), {}),
    "neither a Dataset nor a table": (net(), OwnKind(), {"validation": OwnKind()}),
    "collated to dicts": (
        net(Two),
        DataLoader(Faced(), batch_size=16, shuffle=True, collate_fn=as_dict),
        {"validation": DataLoader(Faced(), batch_size=16, collate_fn=as_dict)},
    ),
    "triples": (net(Two), DataLoader(Triples(), batch_size=16, shuffle=True, collate_fn=of_triples), {}),
    "triples of the net": (
        net(Two, iterator_train__collate_fn=of_triples, iterator_valid__collate_fn=of_triples),
        Triples(),
        {"validation": Triples(20)},
    ),
    "collated in two ways": (
        net(),
        DataLoader(Augmented(), batch_size=16, shuffle=True, collate_fn=tripled),
        {"validation": DataLoader(Plain(20), batch_size=7)},
    ),
    "parts of one": (
        net(),
        DataLoader(Augmented(), batch_size=8, sampler=SubsetRandomSampler(range(0, N, 2))),
        {"validation": DataLoader(Plain(), sampler=SubsetRandomSampler(range(1, N, 2)))},
    ),
    "skorch's net": (
        skorch.NeuralNetClassifier(
            Normed,
            criterion=nn.CrossEntropyLoss,
            max_epochs=3,
            batch_size=16,
            iterator_train__shuffle=True,
            train_split=None,
        ),
        Augmented(),
        {},
    ),
}


@pytest.mark.one_fast
@pytest.mark.parametrize("name", CASES)
def test_a_stack_reads_what_each_net_would_read(name):
    estimator, data, fit = CASES[name]
    stacked, alone = (searched(estimator, data, engine, **fit) for engine in ("auto", "sequential"))
    assert (stacked.engine_, stacked.engine_reasons_) == ("stacked", [])
    np.testing.assert_allclose(stacked.history_["train_loss"], alone.history_["train_loss"], rtol=2e-5)
    np.testing.assert_allclose(stacked.cell_scores_, alone.cell_scores_, atol=1e-6)


@pytest.mark.slow
def test_workers_of_a_loader_are_the_users_own():
    data = DataLoader(Augmented(24), batch_size=8, shuffle=True, num_workers=2)
    stacked, alone = (searched(net(max_epochs=2), data, engine, n_seeds=1) for engine in ("auto", "sequential"))
    assert stacked.engine_ == "stacked"
    np.testing.assert_allclose(stacked.history_["train_loss"], alone.history_["train_loss"], rtol=2e-5)


@pytest.mark.slow
def test_workers_of_a_loader_work_in_workers_of_a_search():
    estimator = net(max_epochs=1, iterator_train__num_workers=1)
    search = LRGridSearchCV(estimator, lrs=[0.1], engine="sequential", n_jobs=2, refit=False, error_score="raise")
    assert np.isfinite(search.fit(Plain(16), validation=Plain(20)).cell_scores_).all()


def test_all_candidates_share_what_is_read_and_no_epoch_is_like_another():
    reads = []
    for lrs in (LRS, [*LRS, 0.02, 0.05, 0.2]):
        data = Augmented()
        search = LRGridSearchCV(net(), lrs=lrs, cv=3, random_state=0, refit=False).fit(data)
        assert search.engine_ == "stacked"
        reads.append(data.reads)
    assert reads[0] == reads[1]
    assert reads[0] < 3 * (2 * N) + 600, "an epoch of each cell, the test folds, and what the audit looks at"
    seen = []

    class Noted(Augmented):
        def x(self, i):
            x = super().x(i)
            seen.append(float(x[0]))
            return x

    searched(net(), Noted())
    assert len(set(seen)) > 3 * 2 * N


def test_a_fixed_validation_set_is_a_predefined_split_to_the_last_bit():
    fold = PredefinedSplit([-1] * 40 + [0] * 21)
    for x, y in ((X.numpy(), Y.numpy()), (X, Y)):
        ours = LRGridSearchCV(net(), lrs=LRS, random_state=0).fit(x[:40], y[:40], validation=(x[40:], y[40:]))
        theirs = LRGridSearchCV(net(), lrs=LRS, cv=fold, random_state=0).fit(x, y)
        np.testing.assert_array_equal(ours.cell_scores_, theirs.cell_scores_)
        np.testing.assert_array_equal(ours.history_["train_loss"], theirs.history_["train_loss"])
        alone = net(lr=ours.best_lr_).fit(x[:40], y[:40])
        assert ours.best_estimator_.predict_proba(x).tolist() == alone.predict_proba(x).tolist()


@pytest.mark.one_fast
@pytest.mark.parametrize("kind", [LRGridSearchCV, BayesSearchCV, OptunaSearchCV])
def test_every_search_takes_datasets_and_says_that_one_fold_has_no_noise(kind):
    train, held = TensorDataset(X[:40], Y[:40]), DataLoader(TensorDataset(X[40:], Y[40:]), batch_size=7)
    few = {"lrs": LRS} if kind is LRGridSearchCV else {"n_iter": 4} if kind is BayesSearchCV else {"n_trials": 4}
    search = kind(net(), random_state=0, **few)
    assert "dataset" not in str(search.plan(train, validation=held))
    search.fit(train, validation=held)
    assert search.engine_ == "stacked"
    assert search.n_splits_ == 1
    assert search.lr_interval_ is None or not all(np.isfinite(search.lr_interval_))
    assert "n_seeds" in search.summary()
    assert search.best_estimator_.predict(held.dataset).shape == (21,)


def test_a_sampler_of_a_part_leaves_the_rest_out():
    odd = list(range(1, N, 2))
    loader = DataLoader(Plain(), batch_size=8, sampler=SubsetRandomSampler(range(0, N, 2)))
    for validation in (Subset(Plain(), odd), DataLoader(Plain(), sampler=SubsetRandomSampler(odd))):
        cell = searched(net(), loader, validation=validation).cells_[0]
        assert (len(cell.train), len(cell.test)) == (31, 30)
    few = DataLoader(Plain(), batch_size=8, sampler=RandomSampler(range(N), num_samples=9))
    assert "iterator_train__sampler" in loader_params(few, "X", whole=True)
    with pytest.raises(ValueError, match="X cannot be a DataLoader with a sampler of its own"):
        loader_params(few, "X", whole=False)


def test_the_best_candidate_is_trained_on_the_validation_rows_as_well_where_that_is_asked_for():
    alone = net().fit(X, Y)
    halves = [(X[:40], Y[:40]), (X[40:], Y[40:])]
    datasets = [TensorDataset(*half) for half in halves]
    for (*given, validation), refit_on in (((*halves[0], halves[1]), "all"), (datasets, "all"), (datasets, "train")):
        search = LRGridSearchCV(net(), lrs=[0.1], random_state=0)
        search.fit(*given, validation=validation, refit_on=refit_on)
        alike = np.array_equal(search.predict_proba(X), alone.set_params(lr=0.1).fit(X, Y).predict_proba(X))
        assert alike == (refit_on == "all")
    sampled = DataLoader(Plain(), batch_size=16, sampler=WeightedRandomSampler(torch.ones(N), 40))
    with pytest.raises(ValueError, match="refit_on must be 'train' where the DataLoader in X has a sampler of its own"):
        search.fit(sampled, validation=Plain(20), refit_on="all")
    with pytest.raises(ValueError, match="subsample must be left out where the DataLoader in X has a sampler"):
        OptunaSearchCV(net(), subsample=20, n_trials=2).fit(sampled, validation=Plain(20))


@pytest.mark.one_fast
@pytest.mark.parametrize("data", [TensorDataset(X, Y), Faced(), Foreign(), OwnKind(), DataLoader(Faced(), 7)])
def test_what_can_be_fitted_can_be_predicted_and_scored(data):
    module = Normed if isinstance(data, TensorDataset | OwnKind) else Two
    search = pickle.loads(pickle.dumps(searched(net(module), data, refit=True)))
    assert search.predict(data).shape == (N,)
    assert search.predict_proba(data).shape == (N, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SettingsWarning)  # all labels are read
        assert search.score(data) == pytest.approx(np.mean(search.predict(data) == Y.numpy()), abs=0.1)


def test_a_study_is_gone_on_with_by_what_is_read_and_how(tmp_path):
    def search(data, **params):
        where = {"storage": f"sqlite:///{tmp_path}/a.db", "study_name": "a"}
        return LRGridSearchCV(net(max_epochs=1), lrs=LRS, cv=3, random_state=0, refit=False, **where, **params).fit(
            data
        )

    def loader(data, batch_size=16):
        return DataLoader(data, batch_size=batch_size, shuffle=True)

    data = Augmented()
    search(loader(data))
    search(loader(data), resume=True)  # it counts what is read of it
    with pytest.raises(StudyError, match="batch_size is 8, was 16"):
        search(loader(data, 8), resume=True)
    with pytest.raises(StudyError, match="data: X "):
        search(loader(Plain()), resume=True)


@pytest.mark.parametrize("cv", [None, 3], ids=["all rows", "unequal folds"])
@pytest.mark.parametrize(
    "data",
    [Augmented(), DataLoader(Augmented(), batch_size=9, shuffle=True, drop_last=True), TensorDataset(X, Y)],
    ids=["augmented", "a loader", "tensors"],
)
def test_a_range_test_takes_datasets_and_stacks_its_runs(data, cv):
    stacked, alone = (
        lr_range_test(net(), data, n_steps=20, lr_range=(1e-4, 1), cv=cv, n_seeds=2, random_state=0, engine=engine)
        for engine in ("auto", "sequential")
    )
    assert (stacked.engine, stacked.engine_reasons) == ("stacked", ())
    np.testing.assert_allclose(stacked.loss, alone.loss, rtol=1e-4)


def test_a_range_test_of_arrays_is_that_of_their_dataset():
    arrays, tensors = (
        lr_range_test(net(), *data, n_steps=20, n_seeds=1, random_state=0) for data in ((X, Y), (TensorDataset(X, Y),))
    )
    np.testing.assert_allclose(arrays.loss, tensors.loss, rtol=1e-5)


class Broken(Plain):
    def x(self, i):
        if i == 7:
            raise OSError("truncated file")
        return X[i]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_item_that_cannot_be_read_is_named(num_workers):
    data = DataLoader(Broken(16), batch_size=4, num_workers=num_workers)
    with pytest.raises(OSError, match="truncated file") as error:
        searched(net(max_epochs=1), data, "sequential", n_seeds=1)
    said = str(error.value) + "".join(getattr(error.value, "__notes__", []))
    assert "item 7 of the Broken" in said


class Endless(IterableDataset):
    def __iter__(self):
        return iter([(X[0], Y[0])])


class WithoutLength:
    def __getitem__(self, i):
        return X[i], Y[i]


class WithoutLengthDataset(WithoutLength, Dataset):
    pass


def only_inputs(items):
    return torch.stack([x for x, _ in items])


def with_ones(items):
    return *default_collate(items), torch.ones(len(items))


class Named(Plain):
    def __init__(self):
        super().__init__()
        self.targets = [str(int(label)) for label in Y]

    def __getitem__(self, i):
        return X[i], self.targets[i]


BAD = [
    ((Endless(),), {}, "got the IterableDataset Endless. Folds, seeds and candidates each read it"),
    ((DataLoader(Endless()),), {}, "got the IterableDataset Endless"),
    ((WithoutLengthDataset(),), {}, "X must be a dataset with __len__, got 'WithoutLengthDataset'"),
    ((X, Y), {"eval_dataset": Plain()}, "eval_dataset must be left out if X is not a Dataset, got 'Tensor'"),
    ((Plain(),), {"eval_dataset": Plain(7)}, "eval_dataset must be of the same 61 rows as X, got 7"),
    ((Plain(),), {"validation": (X, Y)}, "validation must be a Dataset or DataLoader, as X is one, got 'tuple'"),
    ((X, Y), {"validation": Plain()}, r"validation must be a tuple \(X, y\) of arrays, as X is one, got 'Plain'"),
    (
        (DataLoader(Plain(), sampler=WeightedRandomSampler(torch.ones(N), 9)),),
        {},
        "X cannot be a DataLoader with a sampler of its own, got WeightedRandomSampler",
    ),
    ((DataLoader(Plain(), generator=torch.Generator(), shuffle=True),), {}, "with a generator of its own"),
    (
        (DataLoader(Plain(), sampler=WeightedRandomSampler(torch.ones(N), 9, generator=torch.Generator())),),
        {"validation": Plain()},
        "X cannot be a DataLoader with a generator of its own",
    ),
    (
        (Plain(),),
        {"validation": DataLoader(Plain(), sampler=WeightedRandomSampler(torch.ones(N), 9))},
        "validation cannot be a DataLoader with a sampler of its own, got WeightedRandomSampler",
    ),
    ((Plain(),), {"validation": Plain(), "refit_on": "both"}, "refit_on must be one of 'train', 'all', got 'both'"),
    ((DataLoader(Plain(), batch_sampler=[[0, 1], [2]]),), {}, "with a batch_sampler of its own, got list"),
    (
        (DataLoader(Plain(), batch_sampler=BatchSampler(RandomSampler(Plain()), 8, False)),),
        {},
        "X cannot be a DataLoader with a batch_sampler of its own, got BatchSampler",
    ),
    ((DataLoader(Plain(), batch_size=None),), {}, "batch_size of the DataLoader in X must be a number of rows"),
    ((iter(DataLoader(Plain())),), {}, "got 'the iterator _SingleProcessDataLoaderIter'. It can be read only once"),
    (((pair for pair in [(X[0], Y[0])]),), {}, "got 'the iterator generator'. It can be read only once"),
    ((Plain(), Plain()), {}, "y must be the targets, .* got 'Plain'. Pass a dataset to validate on as validation="),
    ((DataLoader(Plain(), collate_fn=only_inputs),), {}, "collate_fn must be a function .* pair .* got 'Tensor'"),
    ((DataLoader(Plain(), collate_fn=with_ones),), {}, "collate_fn must be a function .* pair .* got '3 values'"),
    ((Named(),), {}, "the targets in X must be numbers, as the loss gets them, got '[01]'. Return the index"),
    ((X.numpy(), Y.numpy()), {"validation": (X[:, :2].numpy(), Y.numpy())}, r"rows of shape \(5,\) in X"),
]


@pytest.mark.parametrize(("given", "fit", "words"), BAD, ids=[words[:40] for _, _, words in BAD])
def test_what_cannot_be_taken_is_refused_at_once(given, fit, words):
    with pytest.raises((TypeError, ValueError), match=words):
        LRGridSearchCV(net(), lrs=LRS).fit(*given, **fit)


def test_a_validation_set_and_folds_are_two():
    with pytest.raises(ValueError, match="cv must be left out if there is a validation set, got 3"):
        LRGridSearchCV(net(), lrs=LRS, cv=3).fit(X, Y, validation=(X, Y))


def test_labels_are_found_without_reading_where_that_can_be_done():
    data = Plain()
    assert labels_of(data).tolist() == Y.tolist()
    assert labels_of(Subset(ConcatDataset([data, TensorDataset(X, Y)]), [60, 61, 3])).tolist() == Y[[60, 0, 3]].tolist()
    assert data.reads <= 6

    class Renamed(Plain):
        def __getitem__(self, i):
            return X[i], 1 - Y[i]  # `targets` is what a transform has not seen yet

    class Merged(Plain):
        def __init__(self):
            super().__init__()
            self.targets = torch.arange(N) % 10

        def __getitem__(self, i):
            return X[i], min(int(self.targets[i]), 8)

    class Relabelled(Subset):
        def __getitem__(self, i):
            x, y = super().__getitem__(i)
            return x, 1 - y

        def __getitems__(self, rows):
            return [self[i] for i in rows]

    turned = (1 - Y).tolist()
    merged = [min(i % 10, 8) for i in range(N)]
    for dataset, labels in ((Renamed(), turned), (Merged(), merged), (Relabelled(Plain(), range(N)), turned)):
        with pytest.warns(SettingsWarning, match="All 61 items of X are read once for their targets"):
            assert labels_of(dataset).tolist() == labels

    class RaggedTargets(Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, i):
            return X[i], torch.ones(1 + i % 2)

    with pytest.warns(SettingsWarning), pytest.raises(ValueError, match=r"targets in X must be of one shape, \(1,\)"):
        labels_of(RaggedTargets())


def test_the_way_out_for_an_iterable_dataset_is_one():
    items = list(zip(X, Y, strict=True))
    with pytest.warns(SettingsWarning):
        search = searched(net(), Subset(items, range(len(items))))
    assert search.engine_ == "stacked"


def test_rows_are_taken_without_reading():
    rows = DatasetRows(Broken())
    assert len(rows[np.arange(5, 10)]) == 5
    assert rows[np.arange(5, 10), ...][0][0].tolist() == X[5].tolist()
    assert bring(rows, Y).X is rows


def test_a_loader_says_how_it_reads():
    loader = DataLoader(Plain(), batch_size=4, num_workers=1, collate_fn=padded, pin_memory=False, prefetch_factor=4)
    assert loader_params(loader, "X", whole=False) == {
        "batch_size": 4,
        "iterator_train__num_workers": 1,
        "iterator_train__collate_fn": padded,
        "iterator_train__prefetch_factor": 4,
    }


OWN_GENERATORS = {
    "torch": (torch.Generator, lambda own: torch.randn(5, generator=own)),
    "numpy": (np.random.default_rng, lambda own: float(own.standard_normal())),
    "older numpy": (np.random.RandomState, lambda own: float(own.randn())),
    "python": (random.Random, lambda own: own.random()),
}


class OwnGenerator(Plain):
    def __init__(self, kind, used):
        super().__init__()
        make, self.draw = OWN_GENERATORS[kind]
        self.held, self.used = {"generator": make()}, used

    def x(self, i):
        return X[i] + (self.draw(self.held["generator"]) if self.used else 0)


@pytest.mark.parametrize("used", [True, False], ids=["drawn from", "kept"])
@pytest.mark.parametrize("kind", OWN_GENERATORS)
def test_a_generator_that_each_training_moves_on_is_a_reason(kind, used):
    net = NeuralNetClassifier(MLP, module__hidden=(4,), max_epochs=1, batch_size=16, random_state=0)
    search = LRGridSearchCV(net, lrs=LRS, cv=2, refit=False, random_state=0).fit(OwnGenerator(kind, used))
    assert search.engine_ == ("sequential" if used else "stacked")
    assert any("a random generator of its own" in reason for reason in search.engine_reasons_) == used


class Loaded(Plain):
    """Keeps what it has loaded."""

    def __init__(self):
        super().__init__()
        self.kept = {}

    def x(self, i):
        if i not in self.kept:
            self.kept[i] = self.made(i)
        return self.kept[i]

    def made(self, i):
        return 2 * X[i]


class Drawn(Loaded):
    """Keeps what it has drawn: whoever reads an item first decides what it is."""

    def made(self, i):
        return X[i] + torch.randn(5)


class DrawnByNumPy(Loaded):
    def made(self, i):
        return X[i] + np.random.randn()


class Counting(Plain):
    def x(self, i):
        return X[i] * (1 + self.reads / 1000)


@pytest.mark.parametrize("kind", [Loaded, Drawn, DrawnByNumPy, Counting])
def test_a_dataset_whose_items_depend_on_who_read_them_before_is_a_reason(kind):
    stacked, alone = (searched(net(max_epochs=2), kind(), engine) for engine in ("auto", "sequential"))
    assert stacked.engine_ == ("stacked" if kind is Loaded else "sequential")
    assert any("when it is read again" in reason for reason in stacked.engine_reasons_) == (kind is not Loaded)
    if kind is Loaded:
        np.testing.assert_allclose(stacked.history_["train_loss"], alone.history_["train_loss"], rtol=2e-5)
