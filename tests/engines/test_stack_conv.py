"""Networks of convolutions in stacks: run by run where they are large, their shared pictures by one product if not."""

import copy
import pickle

import pytest
import torch
from test_stack import LRS, N_CELLS, N_STEPS, assert_same, cells_of, data, plain_agreement, rates, stack_of
from torch import nn
from torch.func import vmap
from torch.nn import functional as F

from sklr.engines.stacked.kernels import convolution
from sklr.engines.stacked.kernels.convolution import Columns, SharedPictures
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


@pytest.fixture(params=["mapped", "run by run"])
def lane(request, monkeypatch):
    monkeypatch.setattr(convolution, "LARGE", 0.0 if request.param == "run by run" else 1e5)
    return request.param


@pytest.mark.parametrize("name", MODULES)
def test_convolutions_train_as_one_by_one(name, lane):
    stack, alone, x = plain_agreement(cells_of(made(name)), torch.optim.SGD, {"momentum": 0.9})
    assert stack.kernel.run_by_run == (lane == "run by run")
    outputs = stack.outputs(x[0])
    for (k, c), run in alone.items():
        assert torch.allclose(outputs[k, c], run.module.eval()(x[0, c]), rtol=1e-8)


def test_dropout_is_shared_by_candidates_and_indifferent_to_packing(lane):
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


def test_a_run_that_diverges_changes_no_bit_of_another(lane):
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


def test_candidates_leave_and_cells_wait(lane):
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


@pytest.mark.parametrize(
    "call",
    [
        lambda x: F.max_pool2d(x, 2),
        lambda x: F.max_pool2d(x, (2, 2), stride=2),
        lambda x: torch.max_pool2d(x, 2),
        lambda x: F.max_pool2d(x, 2, stride=1),
        lambda x: F.max_pool2d(x, 2, ceil_mode=True),
        lambda x: F.max_pool2d(x, 2, padding=1),
        lambda x: F.max_pool2d(x, 2, dilation=2),
        lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
        lambda x: F.max_pool2d(x, 3),
    ],
    ids=["default", "stride", "torch", "overlapping", "ceil", "padding", "dilation", "indices", "three"],
)
def test_pooling_and_its_ties(call):
    x = torch.randint(0, 3, (4, 2, 5, 6)).double().requires_grad_()  # few values: many are equal
    expected = call(x)
    gradient = torch.rand_like(expected)
    with SharedPictures():
        for found in (call(x), vmap(call)(x.unsqueeze(1)).squeeze(1)):
            assert torch.equal(found, expected)
            for y in (found, expected):
                (grad,) = torch.autograd.grad(y, x, gradient, retain_graph=True)
                assert torch.equal(grad, torch.autograd.grad(expected, x, gradient, retain_graph=True)[0])
    with torch.no_grad(), SharedPictures():
        assert torch.equal(call(x), expected)


def test_rows_that_candidates_do_not_share_are_convolved_by_pytorch():
    """Kernels that all runs share, rows of each candidate its own, and a kernel known to one axis only."""
    x, w, b = torch.rand(3, 2, 4, 1, 5, 5), torch.rand(3, 2, 6, 1, 2, 2), torch.rand(3, 2, 6)

    def nested(x, w, b, in_dims):
        def call(x, w, b):
            return F.conv2d(x, w, b)

        return vmap(vmap(call, in_dims=in_dims[1]), in_dims=in_dims[0])(x, w, b)

    cases = [
        (x, w, b, ((0, 0, 0), (0, 0, 0))),
        (x[0], w, b, ((None, 0, 0), (0, 0, 0))),
        (x[0, 0], w, b, ((None, 0, 0), (None, 0, 0))),
        (x, w[0, 0], b[0, 0], ((0, None, None), (0, None, None))),
        (x[:, 0], w[0], b[0], ((0, None, None), (None, 0, 0))),
        (x[0], w, b[0, 0], ((None, 0, None), (0, 0, None))),
    ]
    for *tensors, in_dims in cases:
        with SharedPictures():
            found = nested(*tensors, in_dims)
        assert torch.allclose(found, nested(*tensors, in_dims), rtol=1e-5)


def test_columns_notice_that_their_rows_have_changed_or_are_elsewhere():
    columns, x = Columns((1, 1), (1, 1), (0, 0), (1, 1)), torch.rand(2, 1, 2, 2)
    assert columns(x) is columns(x.view(2, 1, 2, 2))
    x.mul_(2)
    for same in (columns, pickle.loads(pickle.dumps(columns))):
        assert torch.equal(same(x), x.flatten(2))
        assert torch.equal(same(x[1:]), x[1:].flatten(2))
