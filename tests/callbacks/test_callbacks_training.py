"""What changes a training beside its lr: batches in parts or growing, clipping, stopping early, resuming."""

import numpy as np
import pytest
import torch
from skorch import NeuralNetRegressor as SkorchRegressor
from skorch.callbacks import Checkpoint, EpochScoring, GradientNormClipping, LoadInitState
from skorch.dataset import ValidSplit
from torch import nn

from sklr import MLP, EngineError, LRGridSearchCV, NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor
from sklr.callbacks import BatchSizeSchedule, EarlyStopping, GradientClipping, Resume
from sklr.callbacks._clipping import percentile_of_sorted

RNG = np.random.default_rng(0)
X = RNG.normal(size=(26, 3))  # in batches of 4 x 2 the last one has two rows: half a part
VALUES = X @ [1.0, -2.0, 0.5] + 0.1
LABELS = np.where(VALUES > 0.5, 2, np.where(VALUES > -0.5, 1, 0))
WEIGHTS = RNG.uniform(0.1, 3, size=26)
WEIGHTS[[0, 1, 2, 3]] = 0  # a part in which nothing counts


def net(kind=NeuralNetRegressor, **kwargs):
    arguments = {
        "module": MLP,
        "module__hidden": (5,),
        "module__dtype": torch.float64,
        "lr": 0.05,
        "max_epochs": 4,
        "batch_size": 4,
        "iterator_train__shuffle": True,
        "random_state": 0,
    }
    return kind(**(arguments | kwargs))


def weights(fitted):
    return nn.utils.parameters_to_vector(fitted.module_.parameters()).detach().numpy()


def column(fitted, name):
    return [batch[name] for row in fitted.history_ for batch in row["batches"] if name in batch]


IN_PARTS = {
    "mse": (NeuralNetRegressor, VALUES, {}),
    "mse, two targets": (NeuralNetRegressor, np.c_[VALUES, X[:, 0]], {}),
    "cross entropy": (NeuralNetClassifier, LABELS, {}),
    "class weights": (NeuralNetClassifier, LABELS, {"criterion__weight": torch.tensor([1.0, 5.0, 0.2]).double()}),
    "ignored class": (NeuralNetClassifier, LABELS, {"criterion__ignore_index": 1}),
    "binary": (NeuralNetBinaryClassifier, LABELS > 0, {}),
    "sum": (NeuralNetRegressor, VALUES, {"criterion__reduction": "sum", "lr": 0.001}),
    "adam, decay and momentum": (NeuralNetRegressor, VALUES, {"optimizer": "adamw", "lr": 0.01}),
    "schedule and warmup": (NeuralNetRegressor, VALUES, {"schedule": "cosine", "warmup_epochs": 1}),
    "clipped": (NeuralNetRegressor, VALUES, {"clip": 0.3}),
}


@pytest.mark.parametrize("case", IN_PARTS)
@pytest.mark.parametrize("sample_weight", [None, WEIGHTS], ids=["unweighted", "weighted"])
def test_a_batch_in_parts_is_the_batch(case, sample_weight):
    kind, y, params = IN_PARTS[case]
    whole = net(kind, **params, batch_size=8).fit(X, y, sample_weight=sample_weight)
    parts = net(kind, **params, batch_size=4, accumulate_steps=2).fit(X, y, sample_weight=sample_weight)
    np.testing.assert_allclose(weights(parts), weights(whole), rtol=1e-12, atol=1e-13)
    for name in ("train_loss", "train_batch_size", "lr"):
        np.testing.assert_allclose(column(parts, name), column(whole, name), rtol=1e-12)


def test_the_clock_of_a_schedule_counts_steps_not_parts():
    fitted = net(accumulate_steps=3, schedule="linear", lr=1.0, max_epochs=2).fit(X, VALUES)
    # 26 rows in batches of 12, 12 and 2: three steps an epoch, six in all
    np.testing.assert_allclose(column(fitted, "lr"), [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])


def test_no_more_rows_than_a_part_go_through_the_module():
    class Counting(nn.Linear):
        def forward(self, x):
            if self.training:
                SEEN.append(len(x))
            return super().forward(x)

    SEEN = []
    plain = NeuralNetRegressor(Counting, module__in_features=3, module__out_features=1, batch_size=4, max_epochs=1)
    plain.set_params(accumulate_steps=5).fit(X, VALUES)
    assert SEEN == [4, 4, 4, 4, 4, 4, 2]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"accumulate_steps": 0}, "accumulate_steps must be an integer >= 1, got 0."),
        ({"accumulate_steps": 2, "batch_size": -1}, "batch_size must be at least 1 for accumulate_steps, got -1."),
        ({"clip": "p0"}, "clip must be a number above 0 or a percentile between 0 and 100 such as 'p90', got 'p0'."),
        ({"clip": 0}, "clip must be a number above 0 or a percentile between 0 and 100 such as 'p90', got 0."),
        ({"clip": True}, "clip must be a number above 0 or a percentile between 0 and 100 such as 'p90', got True."),
        ({"callbacks": [BatchSizeSchedule(1, every=2)]}, "factor of BatchSizeSchedule must be a number above 1, got 1"),
        ({"callbacks": [BatchSizeSchedule(2)]}, "must be given one without the other, got (None, None)."),
        ({"callbacks": [BatchSizeSchedule(2, every=1, at=[2])]}, "one without the other, got (1, [2])."),
        ({"callbacks": [BatchSizeSchedule(2, every=0)]}, "every of BatchSizeSchedule must be an integer >= 1, got 0."),
        ({"callbacks": [BatchSizeSchedule(2, at=[1.5])]}, "at of BatchSizeSchedule must be an integer >= 1, got 1.5."),
        ({"callbacks": [BatchSizeSchedule(2, every=1)], "batch_size": -1}, "batch_size must be at least 1 for a Batch"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:30],
)
def test_bad_values_are_refused_before_training(params, message):
    refused = net(**params)
    with pytest.raises(ValueError) as info:  # noqa: PT011 - the text is compared
        refused.fit(X, VALUES)
    assert message in str(info.value)
    assert not getattr(refused, "history_", None)


ONE_BY_ONE = {
    "accumulate_steps=2: layers like BatchNorm see the rows of a part together": {
        "accumulate_steps": 2,
        "module__batch_norm": True,
        "iterator_train__drop_last": True,
    },
}


@pytest.mark.parametrize("reason", ONE_BY_ONE)
def test_a_search_says_why_such_nets_are_not_stacked_and_trains_them(reason):
    search = LRGridSearchCV(net(**ONE_BY_ONE[reason]), lrs=[0.01, 0.1], cv=2, random_state=0, refit=False)
    search.fit(X, VALUES)
    assert search.engine_ == "sequential"
    assert reason in "; ".join(search.engine_reasons_)
    assert np.isfinite(search.cell_scores_).all()
    with pytest.raises(EngineError, match=r"engine='stacked' cannot train"):
        search.set_params(engine="stacked").fit(X, VALUES)


def test_a_fixed_norm_is_clipped_at_in_stacks_too():
    lrs = [0.01, 0.1]
    stacked, one_by_one, unclipped = (
        LRGridSearchCV(net(clip=clip), lrs=lrs, cv=2, random_state=0, refit=False, engine=engine).fit(X, VALUES)
        for clip, engine in ((0.3, "stacked"), (0.3, "sequential"), (None, "stacked"))
    )
    np.testing.assert_allclose(stacked.cell_scores_, one_by_one.cell_scores_, rtol=1e-9)
    assert np.abs(stacked.cell_scores_ - unclipped.cell_scores_).min() > 1e-4


def test_both_ways_to_clip_at_once_are_applied_one_after_the_other():
    both = net(clip=1.0, callbacks=[GradientNormClipping(0.3)]).fit(X, VALUES)
    np.testing.assert_allclose(weights(both), weights(net(clip=0.3).fit(X, VALUES)), rtol=1e-5)


def test_batches_grow_and_the_schedule_keeps_its_place_in_epochs():
    grow = BatchSizeSchedule(2, at=(1, 3), max_batch_size=13)
    fitted = net(callbacks=[grow], schedule="linear", lr=1.0).fit(X, VALUES)
    assert fitted.history_[:, "batch_size"] == [4, 8, 8, 13]
    assert [len(row["batches"]) for row in fitted.history_] == [7, 4, 4, 2]
    lrs = [[batch["lr"] for batch in row["batches"]] for row in fitted.history_]
    for epoch, row in enumerate(lrs):  # the line from 1 to 0 over 4 epochs, sampled as often as the epoch has steps
        np.testing.assert_allclose(row, 1 - (epoch + np.arange(len(row)) / len(row)) / 4)


@pytest.mark.parametrize("weighted", [None, WEIGHTS], ids=["unweighted", "weighted"])
def test_growing_batches_go_on_where_the_training_was_left(weighted):
    whole = net(callbacks=[BatchSizeSchedule(2, every=1)]).fit(X, VALUES, sample_weight=weighted)
    parts = net(callbacks=[BatchSizeSchedule(2, every=1)], max_epochs=2, schedule_epochs=4)
    for _ in range(2):
        parts.partial_fit(X, VALUES, sample_weight=weighted)
    assert parts.history_[:, "batch_size"] == [4, 8, 16, 32]
    np.testing.assert_array_equal(weights(parts), weights(whole))


def test_skorchs_own_nets_are_told_that_their_batches_cannot_grow():
    plain = SkorchRegressor(
        nn.Linear,
        module__in_features=3,
        module__out_features=1,
        train_split=None,
        callbacks=[BatchSizeSchedule(2, every=1)],
    )
    with pytest.raises(TypeError, match=r"must be one of sklr's nets, got 'NeuralNetRegressor'"):
        plain.fit(X.astype("float32"), VALUES.astype("float32")[:, None])


def test_a_percentile_is_taken_of_the_norms_before():
    fitted = net(callbacks=[GradientClipping("p50", startup_steps=5)], max_epochs=3).fit(X, VALUES)
    norms, clipped = column(fitted, "grad_norm"), column(fitted, "clipped")
    thresholds = [np.inf if i < 5 else np.percentile(norms[:i], 50) for i in range(len(norms))]
    assert clipped == [norm > threshold for norm, threshold in zip(norms, thresholds, strict=True)]
    assert 0 < sum(clipped) < len(norms) - 5
    assert fitted.history_[:, "grad_norm"] == [np.median(norms[i : i + 7]) for i in (0, 7, 14)]
    np.testing.assert_allclose(fitted.history_[:, "clipped"], np.reshape(clipped, (3, 7)).mean(axis=1))


@pytest.mark.parametrize("percentile", [0.5, 50, 90, 99.5])
def test_our_percentile_is_numpys(percentile):
    values = sorted(RNG.exponential(size=37))
    np.testing.assert_allclose(percentile_of_sorted(values, percentile), np.percentile(values, percentile))


def test_clipping_limits_the_step_and_a_huge_number_changes_nothing():
    unclipped, loose = net().fit(X, VALUES), net(clip=1e9).fit(X, VALUES)
    np.testing.assert_array_equal(weights(loose), weights(unclipped))
    assert set(loose.history_[:, "clipped"]) == {0.0}
    one_step = net(clip=0.01, batch_size=-1, max_epochs=1, lr=1.0)
    before = weights(net(max_epochs=1, lr=0.0, batch_size=-1).fit(X, VALUES))
    moved = np.linalg.norm(weights(one_step.fit(X, VALUES)) - before)
    np.testing.assert_allclose(moved, 0.01, rtol=1e-3)  # lr 1 times a gradient of norm 0.01


def test_percentiles_go_on_where_the_training_was_left():
    whole = net(clip="p60", max_epochs=8).fit(X, VALUES)
    parts = net(clip="p60", max_epochs=4).fit(X, VALUES).partial_fit(X, VALUES)
    assert sum(column(whole, "clipped")[28:]) > 0
    assert column(parts, "clipped") == column(whole, "clipped")
    np.testing.assert_array_equal(weights(parts), weights(whole))


def test_a_new_clip_takes_effect_on_a_net_in_training():
    fitted = net(clip=None).fit(X, VALUES).set_params(clip=1e-6).partial_fit(X, VALUES)
    assert fitted.history_[-1, "clipped"] == 1
    assert "clipped" not in fitted.history_[0]


# early stopping


class Spy(nn.Linear):
    """Remembers which rows it was ever shown; the first column of a row is its number."""

    shown: set = set()  # noqa: RUF012 - shared by all of them

    def forward(self, x):
        Spy.shown |= set(x[:, 0].int().tolist())
        return super().forward(x)


@pytest.mark.parametrize("engine", ["auto", "sequential"])
def test_early_stopping_in_a_search_sees_no_row_of_the_validation_fold(engine):
    rows = np.c_[np.arange(40.0), RNG.normal(size=(40, 2))]
    y = rows[:, 1]
    seen = []

    def score(estimator, X, y):
        """Called after each epoch, on the validation fold: so far the training has been shown what it is ever shown."""
        seen.append((set(X[:, 0].astype(int)), set(Spy.shown), estimator.history_[-1, "valid_loss"]))
        return -float(np.mean((X[:, 1] - y) ** 2))  # without a prediction, which would show the rows

    stopping = NeuralNetRegressor(
        Spy,
        module__in_features=3,
        module__out_features=1,
        lr=1e-4,
        max_epochs=30,
        train_split=ValidSplit(4),
        callbacks=[EarlyStopping(patience=2, threshold=0.5)],
        random_state=0,
    )
    for half in (0, 1):  # a fold at a time, so that what one training shows is not laid to another
        Spy.shown = set()
        seen.clear()
        train, test = np.arange(40)[half::2], np.arange(40)[1 - half :: 2]
        search = LRGridSearchCV(stopping, lrs=[1e-4], cv=[(train, test)], scoring=score, refit=False, engine=engine)
        search.fit(rows, y)
        assert len(search.history_["epoch"]) < 30  # it did stop
        validation, _, _ = seen[-1]
        assert validation == set(test)
        shown_while_training = Spy.shown  # Guard looks at training rows only
        assert shown_while_training == set(train)


def test_early_stopping_ends_each_run_by_its_own_split_and_can_take_the_best_epoch_back():
    y = VALUES + RNG.normal(size=26)
    params = {"max_epochs": 60, "lr": 0.3, "train_split": ValidSplit(3), "iterator_train__shuffle": False}
    fitted = net(**params, callbacks=[EarlyStopping(patience=3, load_best=True)]).fit(X, y)
    losses = fitted.history_[:, "valid_loss"]
    assert len(losses) < 60
    best = int(np.argmin(losses))
    assert len(losses) - 1 - best >= 3
    again = net(**params).set_params(max_epochs=fitted.callbacks_[-2][1].best_epoch_, schedule_epochs=60).fit(X, y)
    np.testing.assert_array_equal(weights(fitted), weights(again))


def test_patience_goes_on_where_the_training_was_left():
    y = VALUES + RNG.normal(size=26)
    params = {"lr": 0.3, "train_split": ValidSplit(3), "schedule_epochs": 60}
    whole = net(**params, max_epochs=60, callbacks=[EarlyStopping(patience=4)]).fit(X, y)
    n_epochs = len(whole.history_)
    parts = net(**params, max_epochs=n_epochs - 2, callbacks=[EarlyStopping(patience=4)]).fit(X, y)
    assert len(parts.partial_fit(X, y).history_) == n_epochs < 2 * (n_epochs - 2)


# checkpoints

KINDS = {
    "sgd and cosine": {"schedule": "cosine", "warmup_epochs": 1.5, "optimizer__momentum": 0.9},
    "adam, dropout, batch norm": {"optimizer": "adam", "module__dropout": 0.3, "module__batch_norm": True},
    "plateau, percentile, growing batch": {
        "schedule": "plateau",
        "clip": "p80",
        "callbacks": [BatchSizeSchedule(2, every=2)],
    },
    "own scores": {"callbacks": [EpochScoring("r2", on_train=True)], "train_split": ValidSplit(3)},
}


class Crash(Exception):
    pass


def crashing(path, epoch):
    class Crashing(Resume):
        def on_epoch_end(self, net, **kwargs):
            super().on_epoch_end(net, **kwargs)
            if len(net.history) == epoch:
                raise Crash

    return Crashing(path)


@pytest.mark.parametrize("case", KINDS)
def test_a_training_taken_up_again_ends_as_if_it_had_never_been_left(case, tmp_path):
    params = KINDS[case] | {"max_epochs": 6}
    callbacks = params.pop("callbacks", [])
    path = tmp_path / "training.pt"
    whole = net(**params, callbacks=callbacks).fit(X, VALUES)
    with pytest.raises(Crash):
        net(**params, callbacks=[*callbacks, crashing(path, 4)]).fit(X, VALUES)
    torch.rand(3)  # the process that goes on has drawn other numbers meanwhile
    resumed = net(**params, callbacks=[*callbacks, Resume(path)]).fit(X, VALUES)
    np.testing.assert_array_equal(weights(resumed), weights(whole))
    assert column(resumed, "train_loss") == column(whole, "train_loss")
    assert column(resumed, "lr") == column(whole, "lr")
    names = [name for name in whole.history_[-1] if name.endswith("_best")]
    assert [resumed.history_[:, name] for name in names] == [whole.history_[:, name] for name in names]
    assert not list(tmp_path.glob("*.unfinished"))
    assert len(resumed.fit(X, VALUES).history_) == 6  # nothing is left to train


def test_a_saved_training_is_not_taken_for_another(tmp_path):
    path = tmp_path / "training.pt"
    net(callbacks=[Resume(path)]).fit(X, VALUES)
    for changed, data, named in [({"lr": 0.2}, X, "lr"), ({}, 2 * X, "X"), ({"random_state": 1}, X, "random_state")]:
        with pytest.raises(ValueError, match=rf"the same parameters and data, got others: {named}\. Delete"):
            net(**changed, callbacks=[Resume(path)]).fit(data, VALUES)


def test_resume_saves_every_so_many_epochs(tmp_path):
    path = tmp_path / "training.pt"
    with pytest.raises(Crash):
        net(callbacks=[_every(crashing(path, 3), 2)]).fit(X, VALUES)
    assert len(torch.load(path)["history"].split('"epoch"')) - 1 == 2


def _every(callback, every):
    callback.every = every
    return callback


def test_skorchs_checkpoint_brings_back_weights_optimizer_and_the_place_in_the_schedule(tmp_path):
    params = {"schedule": "cosine", "schedule_epochs": 6, "optimizer__momentum": 0.9, "iterator_train__shuffle": False}
    whole = net(**params, max_epochs=6).fit(X, VALUES)
    saving = Checkpoint(monitor=None, dirname=str(tmp_path))
    net(**params, max_epochs=4, callbacks=[saving]).fit(X, VALUES)
    loading = LoadInitState(Checkpoint(monitor=None, dirname=str(tmp_path)))
    resumed = net(**params, max_epochs=2, callbacks=[loading]).fit(X, VALUES)
    np.testing.assert_array_equal(weights(resumed), weights(whole))
    assert column(resumed, "lr") == column(whole, "lr")
