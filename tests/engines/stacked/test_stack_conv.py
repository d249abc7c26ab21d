"""Networks of convolutions in stacks."""

import copy

import pytest
import torch
from test_stack import LRS, N_CELLS, N_STEPS, assert_same, cells_of, data, plain_agreement, rates, stack_of
from torch import nn

from sklr.engines.stacked.model.stack import Batch


class Counting(nn.Module):
    """Has a buffer that is replaced, and one that is written to."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean()
            self.calls.add_(1)
        return x - self.mean


def pictures(*layers):
    return nn.Sequential(nn.Unflatten(1, (1, 2, 4)), *layers, nn.Flatten(), nn.LazyLinear(3))


MODULES = {
    "pooled": lambda: pictures(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
    "two": lambda: pictures(nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 2, 2, bias=False)),
    "strided": lambda: pictures(nn.Conv2d(1, 3, 2, stride=(1, 2), dilation=(1, 2), padding=(1, 2), bias=False)),
    "odd": lambda: pictures(nn.Conv2d(1, 2, 2, padding=(1, 0)), nn.MaxPool2d(2)),
    "frozen": lambda: pictures(nn.Conv2d(1, 3, 1).requires_grad_(False), nn.Conv2d(3, 3, (1, 3), padding="same")),
    "scaled": lambda: pictures(nn.Sigmoid(), nn.Conv2d(1, 2, 2), nn.ReLU()),
    "batch norm": lambda: pictures(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.MaxPool2d(2)),
    "counting": lambda: pictures(Counting(), nn.Conv2d(1, 2, 2)),
    "1d": lambda: nn.Sequential(nn.Unflatten(1, (2, 4)), nn.Conv1d(2, 4, 2), nn.Flatten(), nn.Linear(12, 3)),
}


def made(name):
    def make():
        module = MODULES[name]()
        module(torch.zeros(2, 8))  # lazy layers
        return module

    return make


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.mark.one_fast
@pytest.mark.parametrize("name", MODULES)
def test_convolutions_train_as_one_by_one(name):
    stack, alone, x = plain_agreement(cells_of(made(name)), torch.optim.SGD, {"momentum": 0.9})
    outputs = stack.outputs(x[0])
    for (k, c), run in alone.items():
        assert torch.allclose(outputs[k, c], run.module.eval()(x[0, c]), rtol=1e-8)


def test_dropout_is_shared_by_candidates_and_indifferent_to_packing():
    first = made("pooled")().double()
    first.insert(2, nn.Dropout(0.5))
    modules = [copy.deepcopy(first) for _ in range(N_CELLS)]
    (x, y), losses = data(), {}
    x, y = x[:, :1].expand_as(x), y[:, :1].expand_as(y)
    for pack in ([0, 1, 2], [2]):
        stack = stack_of(modules, n_candidates=len(pack))
        torch.manual_seed(1)
        each = [stack.step(rates(t, [LRS[k] for k in pack]), Batch(x[t], y[t])) for t in range(5)]
        losses[len(pack)] = torch.stack(each)
    first_step = losses[3][0]
    assert torch.allclose(first_step, first_step[:1].expand_as(first_step), rtol=1e-12)
    assert len(first_step[0].unique()) == N_CELLS
    assert torch.allclose(losses[3][:, 2], losses[1][:, 0], rtol=1e-12)
    assert not torch.allclose(losses[3][1, 0], losses[3][0, 0], rtol=1e-3)  # other masks at the next step


def test_a_run_that_diverges_changes_no_bit_of_another():
    modules, (x, y) = cells_of(made("batch norm")), data()
    calm, broken = (stack_of(modules) for _ in range(2))
    for t in range(6):
        lr = rates(t).clone()
        calm.step(lr, Batch(x[t], y[t]))
        lr[1, 0] = torch.inf if t == 3 else lr[1, 0]
        losses = broken.step(lr, Batch(x[t], y[t]))
    assert losses.isnan().nonzero().tolist() == [[1, 0]]
    for k, c in ((0, 0), (2, 0), (1, 1), (1, 2)):
        expected = calm.load_run(k, c, copy.deepcopy(modules[c])).state_dict()
        found = broken.load_run(k, c, copy.deepcopy(modules[c])).state_dict()
        assert all(torch.equal(found[n], expected[n]) for n in expected)


def test_candidates_leave_and_cells_wait():
    """Batches of some cells only, and fewer candidates from a step on."""
    modules, (x, y) = cells_of(made("counting")), data()
    all_along, kept = (stack_of(modules, optimizer=torch.optim.Adam) for _ in range(2))
    for t in range(N_STEPS):
        cells = (0, 1, 2) if t % 3 else (0, 2)
        batch = Batch(x[t, list(cells)], y[t, list(cells)], cells=cells)
        if t == 10:
            kept.keep([2, 0])
        all_along.step(rates(t), batch)
        kept.step(rates(t) if t < 10 else rates(t, [LRS[2], LRS[0]]), batch)
    for position, k in enumerate([2, 0]):
        for c, module in enumerate(modules):
            assert_same(kept, position, c, all_along.load_run(k, c, copy.deepcopy(module)))
    counts = [int(kept.load_run(0, c, copy.deepcopy(m))[1].calls) for c, m in enumerate(modules)]
    assert counts == [N_STEPS + 1, 20 + 1, N_STEPS + 1]  # and once when the lazy layer was made
