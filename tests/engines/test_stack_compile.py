"""Compiled stacks against plain ones in float64, few of them: each shape of batch is seconds of compiling."""

import copy
import pickle

import numpy as np
import pytest
import torch
from sklearn.metrics import check_scoring
from torch import nn

from sklr import MLP, NeuralNetClassifier
from sklr.engines._base import Cell, Experiment
from sklr.engines._stack import Batch, ModelStack
from sklr.engines._stacked import StackedEngine
from sklr.exceptions import EngineError

N_CELLS, N_ROWS = 2, 6


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


def batch():
    return Batch(torch.randn(N_CELLS, N_ROWS, 8, dtype=torch.float64), torch.randint(0, 3, (N_CELLS, N_ROWS)))


def rates(*lrs):
    return torch.tensor(lrs, dtype=torch.float64).unsqueeze(1).expand(-1, N_CELLS)


def state_of(stack):
    runs = [(k, c) for k in range(stack.n_candidates) for c in range(N_CELLS)]
    return [stack.load_run(*run, copy.deepcopy(stack.module)).state_dict() for run in runs]


def normed():
    # no bias before a batch norm: its gradient is zero but for rounding, which Adam would blow up to a full step
    return nn.Sequential(nn.Linear(8, 7, bias=False), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3))


def test_batch_norm_trains_as_without_and_goes_on_in_a_smaller_stack():
    compiled, plain = (stack_of(normed, compile=flag) for flag in (True, False))
    compiled.compile(batch())
    batches = [batch() for _ in range(4)]
    kept = []
    for step, shown in enumerate(batches):
        lrs = (1e-3, 0.01, 0.1)
        if step == 3:
            compiled, lrs = pickle.loads(pickle.dumps(compiled)), (1e-3, 0.1)
            for stack in (compiled, plain):
                stack.keep([0, 2])
        losses = [stack.step(rates(*lrs), shown) for stack in (compiled, plain)]
        torch.testing.assert_close(*losses, rtol=1e-9, atol=0)
        kept.append((losses[0], losses[0].clone()))
    assert all(torch.equal(losses, then) for losses, then in kept)  # no later step wrote over them
    for ours, theirs in zip(state_of(compiled), state_of(plain), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_dropout_is_drawn_anew_for_each_step_and_cell_and_shared_by_candidates():
    stack = stack_of(lambda: nn.Sequential(nn.Linear(8, 30), nn.Dropout(0.5), nn.Linear(30, 3)), 2, compile=True)
    shown = batch()
    shown = Batch(shown.x[:1].expand(2, -1, -1), shown.y[:1].expand(2, -1))
    for t in stack.optimizer.params.values():
        t[1] = t[0]  # both cells are alike but for what they drop
    losses = torch.stack([stack.step(rates(0.0, 0.0), shown) for _ in range(3)])
    assert torch.equal(losses[:, 0], losses[:, 1])
    assert len(losses[:, 0].unique()) == 6, losses


FOLDS = [Cell(0, 0, 1, np.arange(0, 35), np.arange(35, 60)), Cell(1, 0, 2, np.arange(24, 60), np.arange(24))]


def experiment():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 8)), rng.integers(0, 3, 60)
    net = NeuralNetClassifier(MLP, module__hidden=(7,), module__dtype=torch.float64, batch_size=20, max_epochs=2)
    return Experiment(net, X, y, FOLDS, check_scoring(net, None), n_jobs=2)


LRS = [{"lr": lr} for lr in (0.01, 0.1, 1.0)]


def test_a_plain_network_on_unequal_folds_trains_as_without():
    described = experiment()
    outcomes = [StackedEngine(compile=flag).start(described, LRS).finish() for flag in (True, False)]
    for ours, theirs in zip(*outcomes, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert (a.status, a.test_scores) == (b.status, b.test_scores)
            np.testing.assert_allclose(np.array(a.history), np.array(b.history), rtol=1e-9)


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
