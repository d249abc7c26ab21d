"""Runs computed block by block train as all at once."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_stack import LRS, N_CELLS, assert_same, cells_of, data, plain_agreement, rates, stack_of
from test_stack_conv import MODULES, made
from torch import nn

from sklr.engines.stacked.data.batch import Batch
from sklr.engines.stacked.kernels import blocks
from sklr.engines.stacked.kernels.blocks import OF_CANDIDATES, OF_CELLS, Blocks, OutputSizes
from sklr.engines.stacked.kernels.traits import examine

COUNTS = st.integers(1, 40)
ROOMS = ((1e9, 1e9), (1, 1), (1, 1e9), (1e5, 2e3))  # for cells and for candidates, in bytes


@given(st.floats(0, 1e8), st.booleans(), COUNTS, COUNTS, COUNTS)
def test_every_run_is_in_one_block_and_no_block_is_large(n_bytes, draws, n_cells, n_candidates, n_rows):
    cells, candidates = Blocks(n_bytes, draws).of(n_cells, n_candidates, n_rows)
    for slices, n in (cells, n_cells), (candidates, n_candidates):
        assert [i for part in slices for i in range(n)[part]] == list(range(n))
        assert max(s.stop - s.start for s in slices) - min(s.stop - s.start for s in slices) <= 1
    largest = Blocks(n_bytes, draws).n_runs(n_cells, n_candidates, n_rows)
    assert largest == max((c.stop - c.start) * (k.stop - k.start) for c in cells for k in candidates)
    if not draws:
        assert largest == 1 or largest * n_bytes * n_rows <= max(OF_CELLS, OF_CANDIDATES) * (1 + 1e-9)


@given(st.floats(0, 1e8), COUNTS, COUNTS, COUNTS, COUNTS)
def test_what_is_drawn_depends_on_no_number_of_candidates(n_bytes, n_cells, before, after, n_rows):
    kept = [Blocks(n_bytes, draws=True).of(n_cells, n, n_rows) for n in (before, after)]
    assert kept[0][0] == kept[1][0]
    assert [len(candidates) for _, candidates in kept] == [1, 1]


def test_sizes_are_those_of_what_operations_return():
    module, x = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)), torch.rand(5, 1, 4, 4)
    with OutputSizes(module) as sizes, torch.no_grad():
        module(x)
    convolved = 5 * 4 * 2 * 2 * 4
    assert sizes.bytes == [convolved] * 3 + [5 * 2 * 4]  # the transposed weight of the last layer is left out


@pytest.fixture(params=ROOMS, ids=["all at once", "run by run", "cell by cell", "in between"])
def room(request, monkeypatch):
    monkeypatch.setattr(blocks, "OF_CELLS", request.param[0])
    monkeypatch.setattr(blocks, "OF_CANDIDATES", request.param[1])


@pytest.mark.one_fast
@pytest.mark.parametrize("name", MODULES)
@pytest.mark.usefixtures("room")
def test_convolutions_train_as_one_by_one(name):
    torch.manual_seed(0)
    stack, alone, x = plain_agreement(cells_of(made(name)), torch.optim.SGD, {"momentum": 0.9})
    outputs = stack.outputs(x[0])
    for (k, c), run in alone.items():
        assert torch.allclose(outputs[k, c], run.module.eval()(x[0, c]), rtol=1e-8)


class Swapping(nn.Module):
    """Exchanges two buffers, and lets another one grow."""

    def __init__(self):
        super().__init__()
        self.register_buffer("a", torch.zeros(1))
        self.register_buffer("b", torch.ones(1))
        self.register_buffer("seen", torch.zeros(1))
        self.layer = nn.Linear(8, 3)

    def forward(self, x):
        if self.training:
            self.a, self.b = self.b + x.detach().mean(), self.a
            self.seen = self.seen.double() + 1
        return self.layer(x * (1 + self.a) + self.b)


@pytest.mark.usefixtures("room")
def test_buffers_that_are_exchanged():
    torch.manual_seed(0)
    modules, (x, y) = cells_of(Swapping), data()
    stack = stack_of(modules)
    for t in range(5):
        stack.step(rates(t), Batch(x[t], y[t]))
    for c in range(N_CELLS):
        alone = copy.deepcopy(modules[c]).train()
        for t in range(5):
            alone(x[t, c])
        run = stack.run_state(1, c)
        for name, buffer in alone.named_buffers():
            torch.testing.assert_close(run[name], buffer, check_dtype=False)


@pytest.mark.usefixtures("room")
def test_dropout_draws_the_same_whichever_candidates_are_left():
    torch.manual_seed(0)
    first = made("pooled")().double()
    first.insert(2, nn.Dropout(0.5))
    modules, (x, y), losses = [copy.deepcopy(first) for _ in range(N_CELLS)], data(), {}
    for pack in ([0, 1, 2], [2]):
        stack = stack_of(modules, n_candidates=len(pack))
        torch.manual_seed(1)
        losses[len(pack)] = torch.stack(
            [stack.step(rates(t, [LRS[k] for k in pack]), Batch(x[t], y[t])) for t in (0, 1)]
        )
    assert torch.allclose(losses[3][:, 2], losses[1][:, 0], rtol=1e-12)
    assert torch.allclose(losses[3][0], losses[3][0, :1].expand_as(losses[3][0]), rtol=1e-12)


def test_evaluation_draws_nothing_and_is_divided_further(monkeypatch):
    monkeypatch.setattr(blocks, "OF_CELLS", 1)
    monkeypatch.setattr(blocks, "OF_CANDIDATES", 1)
    calls, forward = [], nn.LayerNorm.forward

    def watched(norm, x):  # in a class of PyTorch's: what a module writes down itself is seen
        calls.append(1)
        return forward(norm, x)

    monkeypatch.setattr(nn.LayerNorm, "forward", watched)
    stack = stack_of(cells_of(lambda: nn.Sequential(nn.LayerNorm(8), nn.Dropout(), nn.Linear(8, 3))))
    (x, y), n_calls = data(1), []
    for compute in lambda: stack.step(rates(0), Batch(x[0], y[0])), lambda: stack.outputs(x[0]):
        calls.clear()
        compute()
        n_calls.append(len(calls))
    assert n_calls == [N_CELLS, N_CELLS * len(LRS)]


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_sizes_are_those_of_what_the_kernel_calls(layer):
    def bytes_per_row(n_times):
        module, rows = nn.Sequential(layer(3, 5, batch_first=True), First()), torch.rand(4, n_times, 3)
        return examine(module, (rows, torch.rand(4, n_times, 5)), nn.MSELoss(), None).bytes_per_row

    # it is given a time step after the other, where PyTorch's LSTM may return all of them by one operation
    assert bytes_per_row(100) < 1.5 * bytes_per_row(10)


class First(nn.Module):
    def forward(self, outputs):
        return outputs[0]


@pytest.mark.usefixtures("room")
def test_some_cells_wait():
    torch.manual_seed(0)
    modules, (x, y) = cells_of(made("batch norm")), data()
    whole, parts = stack_of(modules), stack_of(modules)
    for t in range(4):
        whole.step(rates(t), Batch(x[t], y[t]))
        for cells in (0, 2), (1,):
            parts.step(rates(t), Batch(x[t, list(cells)], y[t, list(cells)], cells=cells))
    for k in range(len(LRS)):
        for c, module in enumerate(modules):
            assert_same(parts, k, c, whole.load_run(k, c, copy.deepcopy(module)))


class Masking(nn.Module):
    """Also returns which rows and features it has used: the same for all candidates, and for all runs."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(8, 3), nn.LayerNorm(3)

    def forward(self, x):
        return self.norm(self.layer(x)), x[:, 0] > 0, torch.arange(8)


def masked_loss(outputs, y):
    logits, used, _ = outputs
    return (nn.functional.cross_entropy(logits, y, reduction="none") * used).sum()


@pytest.mark.usefixtures("room")
@pytest.mark.parametrize("n_candidates", [1, N_CELLS, 5])  # `vmap` fails, or mixes up equally many cells and candidates
def test_outputs_that_depend_on_no_parameter(n_candidates):
    torch.manual_seed(0)
    modules, (x, y) = cells_of(Masking), data(1)
    stack = stack_of(modules, masked_loss, n_candidates=n_candidates)
    logits, used, numbers = stack.outputs(x[0])
    losses = stack.step(rates(0, LRS[:1] * n_candidates), Batch(x[0], y[0]))
    for k in range(n_candidates):
        assert numbers[k].tolist() == [list(range(8))] * N_CELLS
        for c, module in enumerate(modules):
            assert torch.equal(used[k, c], x[0, c, :, 0] > 0)
            assert torch.allclose(logits[k, c], module(x[0, c])[0])
            assert torch.allclose(losses[k, c], masked_loss(module(x[0, c]), y[0, c]))
