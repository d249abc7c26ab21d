"""The memory of one run, measured on one, is what its tensors take."""

from functools import partial

import numpy as np
import pytest
import torch
from test_agreement import X, classifier, experiment
from torch import nn
from torch.profiler import ProfilerActivity, profile

from sklr.engines import StackedEngine
from sklr.engines.stacked.data.cell_rows import CellRows, PackRows
from sklr.engines.stacked.kernels import module_call
from sklr.engines.stacked.kernels.module_call import in_blocks
from sklr.engines.stacked.kernels.recurrent import BatchableRecurrence
from sklr.engines.stacked.model.stack import ModelStack
from sklr.engines.stacked.setup.run_bytes import LiveBytes, measure_run


class Reads(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.out = nn.LSTM(8, 16, 2, batch_first=True, dropout=0.1), nn.Linear(16, 2)

    def forward(self, x):
        return self.out(self.layer(x.squeeze(1))[0][:, -1])


MODULES = {
    "dropout": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 99), nn.Dropout(), nn.ReLU(), nn.Linear(99, 2)),
    "norm": lambda: nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 99), nn.LayerNorm(99)),
    "convolution": lambda: nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
    "lstm": Reads,
}


def profiled(function):
    """Return the peak of all that PyTorch allocates in a call."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(np.cumsum([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]))


@pytest.mark.parametrize("name", MODULES)
def test_it_counts_what_pytorch_allocates(name):
    module, x = MODULES[name](), torch.randn(64, 1, 8, 8)

    def step():
        module.zero_grad(set_to_none=True)
        with BatchableRecurrence():  # as in stacks
            module(x).square().sum().backward()

    with LiveBytes() as live:
        step()
    gradients = sum(p.grad.nbytes for p in module.parameters())
    assert live.now == gradients
    module.zero_grad(set_to_none=True)
    assert live.now == 0
    assert live.peak == pytest.approx(profiled(step), rel=0.1)


def measured(module, **params):
    given = experiment(classifier(module=module, **params), X.astype("float32"))
    groups, refused = StackedEngine().prepared(given, [{"lr": 0.1}])
    assert not refused
    (group,) = groups
    return group, measure_run(group)


NORM = partial(nn.LayerNorm, 256)


def mlp(*hidden):
    return lambda: nn.Sequential(nn.Linear(6, 256), *(make() for make in hidden), nn.Linear(256, 3))


@pytest.mark.parametrize("hidden", [(nn.ReLU,), (NORM, nn.ReLU)], ids=["chain", "vmap"])
def test_masks_of_dropout_and_the_state_of_the_optimizer_count(hidden):
    (group, plain), (_, dropped) = measured(mlp(*hidden)), measured(mlp(*hidden, nn.Dropout))
    assert dropped.step > plain.step
    assert (plain.kept > 0) == group.stack_args["traits"].is_chain
    _, adam = measured(mlp(*hidden), optimizer=torch.optim.Adam)
    n_bytes = sum(4 * p.numel() for p in mlp(*hidden)().parameters())
    assert adam.state - plain.state == pytest.approx(2 * n_bytes, rel=0.1)


def test_large_batches_count_in_proportion():
    each = [measured(mlp(NORM), batch_size=size)[1].step for size in (16, 32, 64)]
    assert each[2] - each[1] == pytest.approx(2 * (each[1] - each[0]), rel=0.1)


def test_measuring_leaves_the_group_and_random_numbers_alone():
    group, first = measured(mlp(partial(nn.BatchNorm1d, 256), nn.Dropout))
    module = group.group_cells[0].pack_cell.net.module_
    before, drawn = {name: t.clone() for name, t in module.state_dict().items()}, torch.get_rng_state()
    assert measure_run(group) == first
    assert torch.equal(drawn, torch.get_rng_state())
    assert all(torch.equal(t, before[name]) for name, t in module.state_dict().items())


def test_predictions_that_are_the_rows_themselves_are_not_overwritten_by_the_next_block():
    rows = torch.randn(10, 3)
    found = in_blocks(lambda x: {"same": x.unsqueeze(0)}, PackRows([CellRows.all_of(rows)]), at_most=3)
    assert torch.equal(found["same"][0, 0], rows)


class Likelihood(nn.Module):
    """Of a Gaussian process: the covariance of a batch that has a row twice is singular."""

    def forward(self, outputs, y):
        covariance = torch.exp(-(outputs[:, None] - outputs[None]).square().sum(2))
        root = torch.linalg.cholesky(covariance)
        whitened = torch.linalg.solve_triangular(root, y.double().unsqueeze(1), upper=False)
        return whitened.square().mean() + root.diagonal().log().mean()


def test_it_is_measured_on_rows_as_they_are_trained_on():
    net = classifier(module=lambda: nn.Linear(6, 8).double(), criterion=Likelihood, batch_size=20)
    given = experiment(net, scoring=lambda *_: 0.0)
    groups, refused = StackedEngine().prepared(given, [{"lr": 1e-4}])
    assert not refused
    assert measure_run(groups[0]).step > 20 * 20 * 8


def test_no_more_rows_are_predicted_than_a_stack_predicts_at_once(monkeypatch):
    module = mlp(NORM)
    _, usual = measured(module)
    monkeypatch.setattr(module_call, "NUMBERS", 6 * 5)  # of 34 validation rows five at once
    called, outputs = [], ModelStack.outputs
    monkeypatch.setattr(ModelStack, "outputs", lambda self, x: called.append(x.shape) or outputs(self, x))
    _, few = measured(module)
    assert called[-1] == (1, 5, 6)
    assert few.outputs == pytest.approx(usual.outputs, rel=0.1)
