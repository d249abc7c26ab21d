"""Whatever is put together: the stacked engine does what the sequential one does."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import assume, given, note, settings
from hypothesis import strategies as st
from test_agreement import XR, YR, Double, X, Y, assert_agree, experiment
from torch import nn

from sklr import NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor
from sklr.callbacks import BatchSizeSchedule
from sklr.engines.sequential.engine import SequentialEngine
from sklr.engines.stacked.engine import StackedEngine

pytestmark = pytest.mark.slow

MODULES = [partial(Double, hidden=h, activation=a) for h, a in (((8,), nn.ReLU), ((), nn.ReLU), ((5, 7), nn.Tanh))]
NORMED = partial(Double, hidden=(8,), batch_norm=True)
OPTIMIZERS = {
    "sgd": [
        {},
        {"momentum": 0.9},
        {"momentum": 0.5, "nesterov": True, "weight_decay": 0.1},
        {"momentum": 0.9, "dampening": 0.5},
        {"maximize": True, "weight_decay": 0.01},
    ],
    "adam": [{}, {"amsgrad": True, "weight_decay": 0.01}],
    "adamw": [{}, {"weight_decay": 0.3}],
    "rmsprop": [{"momentum": 0.5, "centered": True}],
    "adagrad": [{"lr_decay": 0.1}],
}
CLASS_WEIGHT = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
TASKS = {  # net, data, targets, criteria
    "classes": (
        *(NeuralNetClassifier, X, Y),
        [
            {},
            {"criterion__weight": CLASS_WEIGHT},
            {"criterion__weight": CLASS_WEIGHT, "criterion__label_smoothing": 0.1},
            {"criterion__ignore_index": 1},
            {"criterion__reduction": "sum"},
        ],
    ),
    "two classes": (
        *(NeuralNetBinaryClassifier, X, np.where(Y == 0, "no", "yes")),
        [{}, {"criterion__pos_weight": 3 * torch.ones(1).double()}, {"criterion__reduction": "sum"}],
    ),
    "numbers": (
        *(NeuralNetRegressor, XR, YR),
        [{}, {"criterion": nn.L1Loss}, {"criterion": nn.HuberLoss}, {"criterion__reduction": "sum"}],
    ),
}
SCHEDULES = [None, "cosine", "linear", "onecycle", "plateau", "wsd", "exponential", lambda epoch: 0.5**epoch]
OFTEN_EXPLODES = 1e12
ALSO = {  # what candidates differ in besides the lr
    "batch_size": [5, 16],
    "schedule": ["cosine", "constant"],
    "optimizer__weight_decay": [0.0, 0.2],
    "warmup_epochs": [0, 1],
}


@st.composite
def searches(draw):
    """An experiment and its candidates."""

    def one_of(values):
        return draw(st.sampled_from(list(values)))

    cls, data, y, criteria = TASKS[one_of(TASKS)]
    optimizer = one_of(OPTIMIZERS)
    # others divide rounding by rounding: before batch norm a bias has no gradient but that
    modules = [*MODULES, NORMED] if optimizer == "sgd" else MODULES
    batch_size = one_of([3, 16, 33, 34, 67, 500, -1])
    in_parts, growing = one_of([1, 1, 3]), one_of([None, BatchSizeSchedule(2.5, every=2), BatchSizeSchedule(9, at=[1])])
    net = cls(
        one_of(modules),
        optimizer=optimizer,
        batch_size=batch_size,
        accumulate_steps=in_parts if batch_size > 0 else 1,
        callbacks=[growing] if growing is not None and batch_size > 0 else None,
        max_epochs=draw(st.integers(1, 4)),
        schedule=one_of(SCHEDULES),
        warmup_epochs=one_of([0, 0.4, 1, 2]),
        random_state=one_of([None, 0]),
        clip=one_of([None, 0.5, "p40"]),
        iterator_train__shuffle=draw(st.booleans()),
        iterator_train__drop_last=draw(st.booleans()),
        **{f"optimizer__{name}": value for name, value in one_of(OPTIMIZERS[optimizer]).items()},
        **one_of(criteria),
    )
    lrs = draw(st.lists(st.sampled_from([1e-4, 1e-3, 1e-2, 0.03, OFTEN_EXPLODES]), min_size=1, max_size=4))
    name = one_of([None, *ALSO])
    candidates = [{"lr": lr} if name is None else {"lr": lr, name: ALSO[name][i % 2]} for i, lr in enumerate(lrs)]
    random = np.random.default_rng(0)
    weights = random.uniform(0.1, 2, len(data)), random.integers(0, 2, len(data))
    weight = one_of([None, *weights])
    given = {} if weight is None else {"fit_params": {"sample_weight": weight}}
    return experiment(net, X=data, y=y, return_train_score=draw(st.booleans()), **given), candidates


@settings(deadline=None, max_examples=15)
@given(searches(), st.integers(1, 3), st.lists(st.booleans(), min_size=4, max_size=4))
def test_whatever_is_put_together(search, n_epochs, stopped):
    described, candidates = search
    note(f"{described.estimator.get_params()} {candidates} {described.fit_params}")
    engine, outcomes = StackedEngine(), []
    assume(not engine.unsupported(described, candidates))
    mask = np.repeat(np.array(stopped)[: len(candidates), None], len(described.cells), axis=1)
    for one in (engine, SequentialEngine()):
        training = one.start(described, candidates)
        training.advance(n_epochs)
        training.stop(mask, "enough")
        outcomes.append(training.finish())
    assert_agree(*outcomes, rtol=1e-5)  # training can amplify what products round differently
