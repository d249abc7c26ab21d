"""Recurrent layers in a stack, compared with PyTorch's own functions and with nets trained one by one."""

import pickle
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_agreement import assert_agree, both, experiment
from torch import nn

from sklr import LRGridSearchCV, NeuralNetClassifier
from sklr.engines import StackedEngine
from sklr.engines.stacked.data.batch import Batch
from sklr.engines.stacked.kernels.module_call import mixes_rows
from sklr.engines.stacked.kernels.recurrent import BatchableRecurrence
from sklr.engines.stacked.model.stack import ModelStack

RANDOM = np.random.default_rng(0)
WORDS = RANDOM.integers(0, 12, (46, 7))
LABELS = WORDS.max(1) // 5


@st.composite
def layers(draw):
    """Draw a recurrent layer, its input and first state."""
    kind = draw(st.sampled_from([nn.RNN, nn.LSTM, nn.GRU]))
    own = {"nonlinearity": draw(st.sampled_from(["tanh", "relu"]))} if kind is nn.RNN else {}
    if kind is nn.LSTM:
        own["proj_size"] = draw(st.sampled_from([0, 2]))
    size, n_layers, both_ways = draw(st.integers(3, 5)), draw(st.integers(1, 3)), draw(st.booleans())
    torch.manual_seed(draw(st.integers(0, 9)))
    first = draw(st.booleans())
    layer = kind(
        3, size, n_layers, bias=draw(st.booleans()), batch_first=first, bidirectional=both_ways, **own
    ).double()
    n_rows, n_times = draw(st.sampled_from([(), (1,), (4,)])), draw(st.integers(1, 4))
    shape = (*n_rows, n_times, 3) if first else (n_times, *n_rows, 3)
    h = torch.randn(n_layers * (1 + both_ways), *n_rows, own.get("proj_size") or size, dtype=torch.float64)
    c = torch.randn(n_layers * (1 + both_ways), *n_rows, size, dtype=torch.float64)
    hx = draw(st.sampled_from([None, (h, c) if kind is nn.LSTM else h]))
    return layer, torch.randn(shape, dtype=torch.float64), hx


def results(layer, x, hx):
    """Return the outputs, the last states, and the gradients of a function of all of them."""
    output, state = layer(x, hx)
    tensors = [output, *(state if isinstance(state, tuple) else (state,))]
    return tensors, torch.autograd.grad(
        sum((t.sin() * (i + 1)).sum() for i, t in enumerate(tensors)), layer.parameters()
    )


@settings(deadline=None, max_examples=60)
@given(layers())
def test_time_step_by_time_step_is_the_layer(drawn):
    expected = results(*drawn)
    with BatchableRecurrence():
        found = results(*drawn)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("cell", [nn.RNNCell, partial(nn.RNNCell, nonlinearity="relu"), nn.LSTMCell, nn.GRUCell])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3,), (1, 3), (4, 3)])
@pytest.mark.parametrize("starts", [True, False])
def test_a_cell_is_the_cell(cell, bias, shape, starts):
    layer, x = cell(3, 5, bias=bias).double(), torch.randn(shape, dtype=torch.float64)
    expected = layer(x) if starts else layer(x, layer(x))
    with BatchableRecurrence():
        found = layer(x) if starts else layer(x, layer(x))
    assert type(found) is type(expected)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(layers(), st.integers(1, 3))
def test_models_side_by_side_are_the_models(drawn, n_models):
    layer, x, hx = drawn
    scales = torch.linspace(0.5, 1.5, n_models, dtype=torch.float64)
    params = {name: torch.stack([s * p.detach() for s in scales]) for name, p in layer.named_parameters()}

    def called(own):
        return torch.func.functional_call(layer, own, (x, hx))[0]

    with BatchableRecurrence():
        found = torch.func.vmap(called)(params)
    for i in range(n_models):
        torch.testing.assert_close(found[i], called({name: p[i] for name, p in params.items()}), rtol=1e-10, atol=1e-12)


class Reader(nn.Module):
    """An embedding, a recurrent layer, and a linear layer over its outputs; classes of words of 0 to 11."""

    def __init__(self, layer=nn.GRU, last="output", **kwargs):
        super().__init__()
        self.embed, self.layer, self.last = nn.Embedding(12, 4), layer(4, 5, batch_first=True, **kwargs), last
        self.head = nn.Linear(5 * (1 + self.layer.bidirectional), 3)
        self.double()

    def forward(self, X):
        output, state = self.layer(self.embed(X))
        if self.last == "state":
            return self.head((state[0] if isinstance(state, tuple) else state)[-1])
        if self.last == "own":  # of each row, before the first 0 after it
            lengths = (X > 0).sum(1).clamp(min=1)
            at = (lengths - 1)[:, None, None].expand(-1, 1, output.shape[2])
            return self.head(output.gather(1, at)[:, 0])
        return self.head(output.mean(1) if self.last == "mean" else output[:, -1])


class FirstState(Reader):
    """Its first state is learned."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = nn.Parameter(torch.randn(1, 1, 5, dtype=torch.float64))

    def forward(self, X):
        return self.head(self.layer(self.embed(X), self.first.expand(-1, len(X), -1).contiguous())[0][:, -1])


class Twice(Reader):
    """It reads forwards and then backwards by one layer, which it has under two names, and keeps its output."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.again = self.layer

    def forward(self, X):
        words = self.embed(X)
        _, state = self.layer(words)
        self.output, self.states = self.again(words.flip(1), state)[0], {"forwards": state}
        return self.head(self.output[:, -1])


class Loop(nn.Module):
    """It calls a cell in a loop over the words."""

    def __init__(self, cell=nn.GRUCell):
        super().__init__()
        self.embed, self.cell, self.head = nn.Embedding(12, 4), cell(4, 5), nn.Linear(5, 3)
        self.double()

    def forward(self, X):
        state = None
        for word in self.embed(X).unbind(1):
            state = self.cell(word, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


def reader(module=Reader, **params):
    return NeuralNetClassifier(
        module, criterion=nn.CrossEntropyLoss, random_state=0,
        **{"batch_size": 8, "max_epochs": 3, "iterator_train__shuffle": True, **params},
    )  # fmt: skip


READERS = {
    "GRU": {},
    "LSTM": {"module__layer": nn.LSTM},
    "RNN": {"module__layer": nn.RNN},
    "two layers both ways": {"module__layer": nn.LSTM, "module__num_layers": 2, "module__bidirectional": True},
    "last state": {"module__layer": nn.LSTM, "module__last": "state"},
    "each row's own last output": {"module__last": "own"},
    "mean": {"module__bidirectional": True, "module__last": "mean", "module__bias": False},
    "learned first state": {"module": FirstState},
    "one layer twice": {"module": Twice, "module__layer": nn.LSTM},
    "GRUCell": {"module": Loop},
    "LSTMCell": {"module": Loop, "module__cell": nn.LSTMCell},
    "RNNCell": {"module": Loop, "module__cell": nn.RNNCell},
    "clipped, AdamW": {"clip": 0.1, "optimizer": torch.optim.AdamW},
}
CANDIDATES = [{"lr": 0.3}, {"lr": 0.03}]


@pytest.mark.one_fast
@pytest.mark.parametrize("name", READERS)
def test_recurrent_nets_train_as_one_by_one(name):
    assert_agree(*both(reader(**READERS[name]), CANDIDATES, X=WORDS, y=LABELS, scoring="accuracy"))


def test_replayed_steps_are_the_same():
    net = reader(max_epochs=12)  # 48 steps and more per run
    assert_agree(*both(net, CANDIDATES, X=WORDS, y=LABELS, scoring="accuracy"))
    training = StackedEngine().start(experiment(net, X=WORDS, y=LABELS, scoring="accuracy"), CANDIDATES)
    training.finish()
    assert sum(scored.pack.stack._replays.n_replayed for scored in training.packs) > 0


@pytest.mark.parametrize("module", [Reader, FirstState, Twice])
def test_a_pickled_stack_trains_on(module):
    """As in workers; what the module keeps from its calls is left out."""
    torch.manual_seed(0)
    x, y = torch.from_numpy(WORDS[:8]), torch.from_numpy(LABELS[:8])
    stack = ModelStack([module(), module()], 3, nn.CrossEntropyLoss(), torch.optim.SGD, {}, example=(x, y))
    lr, batch = torch.full((3, 2), 0.1, dtype=torch.float64), Batch(x.expand(2, -1, -1), y.expand(2, -1))
    stack.step(lr, batch)
    sent = pickle.loads(pickle.dumps(stack))
    assert all(torch.equal(stack.step(lr, batch), sent.step(lr, batch)) for _ in range(3))


def test_weights_are_not_moved_together_as_for_cudnn(monkeypatch):
    """On CUDA, PyTorch's layers read the addresses of their weights when these have changed."""
    moved = []

    def flatten(layer):
        moved.append([weight.data_ptr() for weight in layer._flat_weights])

    monkeypatch.setattr(nn.RNNBase, "flatten_parameters", flatten)
    assert_agree(*both(reader(module=Flattening), CANDIDATES, X=WORDS, y=LABELS, scoring="accuracy"))
    assert moved


class Flattening(Reader):
    def forward(self, X):
        self.layer.flatten_parameters()
        return super().forward(X)


def test_sequences_of_several_lengths():
    """Batches of a collate function that pads have as many time steps as their longest row."""

    class Texts(torch.utils.data.Dataset):
        targets = LABELS

        def __len__(self):
            return len(WORDS)

        def __getitem__(self, i):
            return torch.from_numpy(WORDS[i, : 2 + i % 5]), int(LABELS[i])

    def padded(items):
        words, labels = zip(*items, strict=True)
        return nn.utils.rnn.pad_sequence(list(words), batch_first=True), torch.tensor(labels)

    net = reader(iterator_train__collate_fn=padded, iterator_valid__collate_fn=padded, module__last="own")
    ours, theirs = (
        LRGridSearchCV(net, lrs=[0.1, 0.3], cv=2, random_state=0, refit=False, engine=engine).fit(Texts())
        for engine in ("stacked", "sequential")
    )
    np.testing.assert_allclose(ours.history_["train_loss"], theirs.history_["train_loss"], rtol=1e-9)
    np.testing.assert_array_equal(ours.cell_scores_, theirs.cell_scores_)


def test_dropout_between_layers_is_drawn_once_per_cell():
    net = reader(module__num_layers=2, module__dropout=0.5)
    ours, alone = both(net, [{"lr": 0.1}, {"lr": 0.1}], X=WORDS, y=LABELS, scoring="accuracy")
    one, other, single = ([[row[2] for row in outcome.history] for outcome in runs] for runs in (*ours, alone[0]))
    assert one == other != single  # the masks of single nets are others


class Packing(Reader):
    def forward(self, X):
        words = nn.utils.rnn.pack_padded_sequence(self.embed(X), torch.full((len(X),), 7), batch_first=True)
        return self.head(self.layer(words)[1][-1])


def test_packed_sequences_are_refused_with_a_way_out():
    described = experiment(reader(module=Packing), X=WORDS, y=LABELS, scoring="accuracy")
    (reason,) = StackedEngine().unsupported(described, CANDIDATES)
    assert "packs its sequences (pack_padded_sequence)" in reason
    assert "torch.gather" in reason


class RowsAsTimeSteps(Reader):
    """It forgets that torch's recurrent layers take the batch as their second axis by default."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.layer = nn.GRU(4, 5).double()


@pytest.mark.parametrize("backwards", [False, True])
def test_rows_as_time_steps_are_refused_with_a_way_out(backwards):
    described = experiment(reader(module=RowsAsTimeSteps), X=WORDS, y=LABELS, scoring="accuracy")
    (reason,) = StackedEngine().unsupported(described, CANDIDATES)
    assert "depends on the other rows" in reason
    assert "make its layer 'layer' with batch_first=True" in reason
    layer = nn.GRU(7, 5)  # the last row depends on the others, or the first

    def read(x):
        return layer(x.flip(0))[0].flip(0) if backwards else layer(x)[0]

    assert mixes_rows(Calling(read), torch.rand(8, 7))


class Calling(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, X):
        return self.function(X)


class Counting(Reader):
    """Its head has a counter under the name that torch's recurrent layers use for something else."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.head._flat_weights = [0]

    def forward(self, X):
        self.head._flat_weights[0] += 1
        return super().forward(X)


def test_names_of_torch_hide_state_in_its_own_layers_only():
    described = experiment(reader(module=Counting), X=WORDS, y=LABELS, scoring="accuracy")
    (reason,) = StackedEngine().unsupported(described, CANDIDATES)
    assert "changes its attribute 'head._flat_weights' each time it is called" in reason
