"""Compiled stacks against plain ones in float64, few of them: each shape of batch is seconds of compiling."""

import copy
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.metrics import check_scoring
from torch import nn

from sklr import MLP, NeuralNetClassifier
from sklr.engines.stacked.data.batch import Batch
from sklr.engines.stacked.engine import StackedEngine
from sklr.engines.stacked.kernels.compiled import CompiledGradients
from sklr.engines.stacked.kernels.vmap import RunGradients, RunMap
from sklr.engines.stacked.model.stack import ModelStack
from sklr.exceptions import EngineError
from sklr.experiment.experiment import Cell, Experiment

N_CELLS = 2


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def stack_of(make, n_candidates=3, *, compile):
    torch.manual_seed(0)
    modules = [make().double() for _ in range(N_CELLS)]
    example = torch.randn(4, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 1])
    return ModelStack(
        modules, n_candidates, nn.CrossEntropyLoss(), torch.optim.Adam, {}, example=example, compile=compile
    )


def batch(n_cells=N_CELLS, n_rows=6, cells=None):
    x, y = torch.randn(n_cells, n_rows, 8, dtype=torch.float64), torch.randint(0, 3, (n_cells, n_rows))
    return Batch(x, y, cells=cells)


def rates(*lrs):
    return torch.tensor(lrs, dtype=torch.float64).unsqueeze(1).expand(-1, N_CELLS)


def state_of(stack, candidate, cell):
    return stack.load_run(candidate, cell, copy.deepcopy(stack.module)).state_dict()


def plain_network():
    return nn.Sequential(nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3))


def normed():
    # no bias before a batch norm: its gradient is zero but for rounding, which Adam would blow up to a full step
    return nn.Sequential(nn.Linear(8, 7, bias=False), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3))


def dropping_chain():
    return nn.Sequential(nn.Linear(8, 30), nn.Dropout(0.5), nn.Linear(30, 3))


def dropping():
    return nn.Sequential(nn.Linear(8, 30), nn.LayerNorm(30), nn.Dropout(0.5), nn.Linear(30, 3))


@pytest.fixture
def quick(monkeypatch):
    """Record the steps and have their graphs read, but not made machine code of."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))


@pytest.mark.parametrize("make", [plain_network, normed])
def test_compiled_steps_are_the_plain_ones(make):
    compiled, plain = (stack_of(make, compile=flag) for flag in (True, False))
    compiled.compile(batch())
    for shown in [batch() for _ in range(4)]:
        ours, theirs = (stack.step(rates(1e-3, 1e300, 0.1), shown) for stack in (compiled, plain))
        torch.testing.assert_close(ours[[0, 2]], theirs[[0, 2]], rtol=1e-9, atol=0)
    assert not ours[1].isfinite().any(), ours
    for candidate, cell in [(0, 0), (0, 1), (2, 0), (2, 1)]:
        ours, theirs = (state_of(stack, candidate, cell) for stack in (compiled, plain))
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_a_stack_goes_on_compiled_when_it_was_pickled_and_when_runs_have_left(quick):
    compiled, plain = (stack_of(normed, compile=flag) for flag in (True, False))
    for kept, lrs in [((0, 1, 2), (0.01, 0.02, 0.1)), ((2, 0), (0.1, 0.01))]:
        compiled.keep(kept)
        plain.keep(kept)
        for shown in (batch(), batch()):
            if kept == (2, 0):
                compiled = pickle.loads(pickle.dumps(compiled))
            ours, theirs = (stack.step(rates(*lrs), shown) for stack in (compiled, plain))
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)


def test_cells_with_batches_of_their_own_sizes_train_as_without(quick):
    compiled, plain = (stack_of(normed, compile=flag) for flag in (True, False))
    for n_rows in (4, 5):
        shown = [batch(1, n_rows, cells=(1,)), batch(1, 6, cells=(0,))]
        compiled.compile(*shown)
        ours, theirs = (stack.step(rates(0.01, 0.02, 0.1), *shown) for stack in (compiled, plain))
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
    torch.testing.assert_close(state_of(compiled, 2, 0), state_of(plain, 2, 0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("make", [dropping, dropping_chain])
def test_dropout_is_drawn_anew_for_each_step_and_cell_and_shared_by_candidates(make, quick):
    stack = stack_of(make, 2, compile=True)
    shown = batch()
    shown = Batch(shown.x[:1].expand(2, -1, -1), shown.y[:1].expand(2, -1))
    for t in stack.optimizer.params.values():
        t[1] = t[0]  # both cells are alike but for what they drop
    losses = torch.stack([stack.step(rates(0.0, 0.0), shown) for _ in range(3)])
    assert torch.equal(losses[:, 0], losses[:, 1])
    assert len(losses[:, 0].unique()) == 6, losses


@pytest.mark.parametrize("make", [dropping, dropping_chain])
def test_recording_a_step_draws_no_random_numbers(make, quick):
    losses = []
    for flag in (True, False):
        stack = stack_of(make, compile=flag)
        losses.append([stack.step(rates(0.01, 0.02, 0.1), batch(n_rows=n)) for n in (6, 6, 5)])
    torch.testing.assert_close(*losses, rtol=1e-9, atol=0)


def test_a_compiled_call_writes_to_none_of_its_inputs(quick):
    plain = RunGradients(
        RunMap(nn.BatchNorm1d(8), attention=False), lambda out, y, weight: (out - y).square().sum((2, 3))
    )
    params = {"weight": torch.ones(2, 3, 8), "bias": torch.zeros(2, 3, 8)}
    buffers = {"running_mean": torch.zeros(3, 2, 8), "running_var": torch.ones(3, 2, 8)}
    _, _, after = CompiledGradients(plain)(params, {}, buffers, torch.randn(2, 6, 8), torch.zeros(2, 1, 6, 8), None)
    assert buffers["running_mean"].count_nonzero() == 0
    assert after["running_mean"].count_nonzero() == 3 * 2 * 8


def test_compiling_ahead_changes_nothing(quick):
    stack, shown = stack_of(lambda: nn.Sequential(*normed(), nn.Dropout(0.5)), compile=True), batch()
    before = torch.get_rng_state()
    state = state_of(stack, 0, 0)
    stack.compile(shown)
    assert all(torch.equal(t, state[name]) for name, t in state_of(stack, 0, 0).items())
    assert torch.equal(torch.get_rng_state(), before)


FOLDS = [Cell(0, 0, 1, np.arange(0, 35), np.arange(35, 60)), Cell(1, 0, 2, np.arange(24, 60), np.arange(24))]


def experiment():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 8)), rng.integers(0, 3, 60)
    net = NeuralNetClassifier(MLP, module__hidden=(7,), module__dtype=torch.float64, batch_size=20, max_epochs=1)
    return Experiment(net, X, y, FOLDS, check_scoring(net, None), n_jobs=2)


LRS = [{"lr": lr} for lr in (0.01, 0.1, 1e300)]


def test_a_plain_network_on_unequal_folds_trains_as_without(quick):
    described = experiment()
    trainings = [StackedEngine(compile=flag).start(described, LRS) for flag in (True, False)]
    assert [len(training.packs) for training in trainings] == [1, 2]  # two workers share out plain packs only
    outcomes = [training.finish() for training in trainings]
    for ours, theirs in zip(*outcomes, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert (a.status, a.reason) == (b.status, b.reason)
            assert a.test_scores == pytest.approx(b.test_scores, nan_ok=True)
            np.testing.assert_allclose(np.array(a.history), np.array(b.history), rtol=1e-9)
    assert [row[0].status for row in outcomes[0]] == ["ok", "ok", "diverged"]


def test_no_compiler_is_said_before_any_training():
    engine, described = StackedEngine(compile=True), experiment()
    with (
        torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(EngineError, match=r"cannot compile the training step: .*compiler.* Use StackedEngine\(compile"),
    ):
        engine.start(described, LRS)


class Counting(nn.Linear):
    """Counts its calls, and answers accordingly."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * self.calls


def test_a_module_that_does_something_else_each_time_is_refused():
    stack = stack_of(lambda: Counting(8, 3), compile=True)
    with pytest.raises(ValueError, match="the module does other operations"):
        stack.compile(batch())
