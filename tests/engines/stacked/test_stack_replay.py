"""Replayed steps against plain ones: the same bits, whatever the module, the optimizer and the batches."""

import copy
import pickle
import random
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from test_stack import (
    CRITERIA,
    LRS,
    MODULES,
    N_CELLS,
    N_STEPS,
    OPTIMIZERS,
    cells_of,
    data,
    mlp,
    rates,
    stack_of,
)
from torch import nn
from torch.nn import functional as F

from sklr import MLP, LRGridSearchCV, NeuralNetClassifier
from sklr.engines.stacked.data.batch import Batch
from sklr.engines.stacked.model import feed
from sklr.engines.stacked.optim.clipping import Clip
from sklr.engines.stacked.optim.known import is_steady
from sklr.engines.stacked.purity.untouched import Untouched
from sklr.engines.stacked.replay import cuda_graph, replay
from sklr.engines.stacked.replay import recorder as recorder_module
from sklr.engines.stacked.replay.cuda_graph import GraphReplay
from sklr.engines.stacked.replay.recorder import Recorder, read
from sklr.engines.stacked.replay.replay import MET_BEFORE_GRAPH, Replay, Replays
from sklr.engines.stacked.setup.packing import out_of_memory
from sklr.exceptions import StackFallbackWarning

UNSTEADY = {"Adam, foreach", "NAdam", "RAdam", "Adagrad", "Adamax"}  # their steps read their own number
SHORT = 12


def lr_of(n_steps, lrs=LRS):
    return torch.stack([rates(t, lrs) for t in range(n_steps)]).unsqueeze(1)


def plainly(stack, lr, batches):
    return torch.stack([stack.step(lr[t], batches.part(t)) for t in range(len(lr))])


def state_of(stack):
    entries = {
        (k, c, i, name): value
        for k in range(stack.n_candidates)
        for c in range(stack.n_cells)
        for i, entry in stack.optimizer_state(k, c)["state"].items()
        for name, value in entry.items()
    }
    return {**stack.optimizer.params, **stack._state.buffers, **entries}


def assert_equal_states(a, b):
    ours, theirs = state_of(a), state_of(b)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(torch.as_tensor(ours[name]), torch.as_tensor(value)), name


def compare(modules, n_replayed, lr=None, batches=None, **options):
    """Train two equal stacks, one of them with replays; return it."""
    if batches is None:
        batches = Batch(*data(SHORT))
    lr = lr_of(len(batches.y)) if lr is None else lr
    torch.manual_seed(1)
    replaying = stack_of(modules, **copy.deepcopy(options))
    losses = replaying.steps(lr, batches)
    torch.manual_seed(1)
    plain = stack_of(modules, **copy.deepcopy(options))
    assert torch.equal(losses, plainly(plain, lr, batches))
    assert_equal_states(replaying, plain)
    assert replaying._replays.n_replayed == n_replayed
    return replaying


@pytest.mark.one_fast
@pytest.mark.parametrize("name", MODULES)
def test_replayed_modules_take_the_same_steps(name):
    compare(cells_of(MODULES[name]), SHORT - 3, optimizer=torch.optim.SGD, kwargs={"momentum": 0.9})


@pytest.mark.one_fast
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("module", ["mlp", "batch norm"])
def test_replayed_optimizers_take_the_same_steps(module, name):
    optimizer, kwargs = OPTIMIZERS[name]
    assert is_steady(optimizer, kwargs) == (name not in UNSTEADY)
    n_replayed = 0 if name in UNSTEADY else SHORT - 3
    compare(cells_of(MODULES[module]), n_replayed, optimizer=optimizer, kwargs=kwargs)


@pytest.mark.parametrize("criterion", CRITERIA.values(), ids=CRITERIA)
def test_replayed_criteria_take_the_same_steps(criterion):
    compare(cells_of(mlp), SHORT - 3, criterion=criterion)


@pytest.mark.parametrize("clip", [Clip(0.5), Clip(percentile=50, startup_steps=5)], ids=["norm", "percentile"])
def test_replayed_gradients_are_clipped(clip):
    norms, plain = (compare(cells_of(mlp), SHORT - 3, clips=clips) for clips in ([clip], []))
    assert norms.take_norms().shape == (SHORT, 1, len(LRS), N_CELLS)
    assert not torch.equal(norms.optimizer.params["0.weight"], plain.optimizer.params["0.weight"])


def test_steps_are_recorded_once_though_the_table_of_norms_grows():
    x, y = data(SHORT)
    stack = stack_of(cells_of(mlp), clips=[Clip(percentile=50, startup_steps=1)])
    for n_more in (2 * SHORT, SHORT, 0):
        stack.steps(lr_of(SHORT), Batch(x, y), n_more)
    assert stack._replays.n_replayed == 3 * SHORT - 3


def test_candidates_may_differ_in_their_optimizers_arguments():
    kwargs = [{"weight_decay": 0.1}, {}, {"betas": (0.5, 0.9), "weight_decay": 0.2}]
    compare(cells_of(mlp), SHORT - 3, optimizer=torch.optim.AdamW, kwargs=kwargs)


def test_masked_rows_and_rows_by_name():
    x, y = data(SHORT)
    weight = torch.rand(SHORT, N_CELLS, y.shape[2], dtype=torch.float64)
    compare(cells_of(mlp), SHORT - 3, batches=Batch(x, y, weight))
    words = torch.randint(0, 5, (SHORT, N_CELLS, 6, 4))
    modules = cells_of(lambda: nn.Sequential(nn.Embedding(5, 2), nn.Flatten(), nn.Linear(8, 3)))
    compare(modules, SHORT - 3, batches=Batch(words, y), example=(words[0, 0], y[0, 0]))


class ByIndex(nn.Module):
    """Whose operations take lists, some with gaps, and numbers of every kind."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 3)
        self.register_buffer("order", torch.tensor([1, 0, 2]))

    def forward(self, x):
        x = torch.cat([x[:, ::2], x[:, 1::2]], 1).roll(1, 1).clamp(-torch.inf, 1e10)
        return self.layer(x)[:, self.order].to(torch.float64) * 1e-3 + torch.zeros(()).double()


def test_arguments_of_every_kind():
    compare(cells_of(ByIndex), SHORT - 3)


class Mixed(nn.Module):
    """That computes in bfloat16 by `torch.autocast`, if asked."""

    def __init__(self, enabled=True):
        super().__init__()
        self.layers, self.enabled = nn.Sequential(nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 3)), enabled

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.enabled):
            return self.layers(x).float()


def test_mixed_precision():
    """It is trained in the lower one, of which the stack rounds other intermediate results."""
    x, y = data(SHORT)
    batches, lr, modules = Batch(x.float(), y), lr_of(SHORT), [Mixed() for _ in range(N_CELLS)]
    stack = compare(modules, SHORT - 3, lr, batches, example=(batches.x[0, 0], y[0, 0]))
    assert not stack.traits.thread_safe
    for c, start in enumerate(modules):
        found = stack.load_run(len(LRS) - 1, c, copy.deepcopy(start))
        mixed, full = copy.deepcopy(start), copy.deepcopy(start)
        full.enabled = False
        for module in (mixed, full):
            optimizer = torch.optim.SGD(module.parameters())
            for t in range(SHORT):
                optimizer.param_groups[0]["lr"] = lr[t, 0, -1, c].item()
                optimizer.zero_grad()
                F.cross_entropy(module(batches.x[t, c]), y[t, c]).backward()
                optimizer.step()
        from_mixed, from_full = (
            max(
                float((a - b).detach().abs().max()) for a, b in zip(found.parameters(), other.parameters(), strict=True)
            )
            for other in (mixed, full)
        )
        assert from_mixed < 1e-3
        assert from_full > 1e-5  # a hundred times what rounding does in float32


@pytest.mark.parametrize("make", [lambda: mlp(nn.Dropout(0.5)), lambda: mlp(nn.LayerNorm(7), nn.Dropout(0.5))])
def test_dropout_draws_the_same_numbers(make):
    compare(cells_of(make), SHORT - 3)


class Counting(nn.Module):
    """Which remembers how often it was called, and in `where` it is told to."""

    def __init__(self, where):
        super().__init__()
        self.layer, self.where, self.calls, self.seen = nn.Linear(8, 3), where, 0, []
        self.notes = SimpleNamespace(last={"n": 0})

    def forward(self, x):
        if self.where == "list":
            self.seen.append(None)
            return self.layer(x) * 2
        if self.where == "deep inside":
            self.notes.last["n"] += 1
            return self.layer(x) * 2
        if self.where == "a tensor":
            self.seen = [x.detach().clone()]
            return self.layer(x) * 2
        if self.where == "at random":
            return self.layer(x) * (2 if random.random() < 2 else 3)
        self.calls += 1
        return self.layer(x) * (1 + self.calls // 1000) if self.where == "silently" else self.layer(x) / self.calls


@pytest.mark.parametrize("where", ["list", "silently", "in the result", "deep inside", "at random", "a tensor"])
def test_a_module_that_remembers_is_called_each_time(where):
    compare(cells_of(lambda: Counting(where)), 0)


@pytest.mark.parametrize("change", ["another tensor", "another place", "no change"])
def test_a_tensor_is_as_it_was_where_it_was(change):
    holder = SimpleNamespace(t=torch.zeros(2))
    untouched = Untouched(holder)
    holder.t.add_(1)
    assert untouched.holds()
    if change == "another tensor":
        holder.t = holder.t.clone()
    elif change == "another place":
        holder.t.data = holder.t.clone()
    assert untouched.holds() == (change == "no change")


def test_hooks_are_called_each_time():
    modules, calls = cells_of(mlp), []
    modules[0].register_forward_hook(lambda *args: calls.append(1))
    stack = stack_of(modules)
    before = len(calls)
    stack.steps(lr_of(SHORT), Batch(*data(SHORT)))
    assert len(calls) - before == SHORT


class SwitchingSGD(torch.optim.SGD):
    """Whose momentum changes after some steps."""

    def step(self, closure=None):
        self.n = getattr(self, "n", 0) + 1
        for group in self.param_groups:
            group["momentum"] = 0.5 if self.n < 8 else 0.9
        return super().step(closure)


class AnnealedLoss(nn.CrossEntropyLoss):
    """Which counts its calls."""

    n = 0

    def forward(self, output, target):
        self.n += 1
        return super().forward(output, target) * (1 if self.n < 12 else 2)


def test_optimizers_and_criteria_that_remember_are_called_each_time():
    modules = cells_of(MODULES["layer norm"])
    compare(modules, 0, optimizer=SwitchingSGD, kwargs={"momentum": 0.5})
    compare(modules, 0, criterion=AnnealedLoss())


class Constant(nn.Module):
    """Which makes a tensor out of Python's numbers, and writes to it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 3)

    def forward(self, x):
        total = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
        return self.layer(x) + total.add_(1)


def test_memory_that_is_new_each_time_is_no_memory_to_replay_on():
    compare(cells_of(Constant), 0)


def test_runs_that_leave_and_cells_that_step_alone():
    """Whenever memory moves, recordings are forgotten."""
    modules, (x, y) = cells_of(MODULES["batch norm"]), data()
    stacks = [stack_of(modules, optimizer=torch.optim.Adam) for _ in range(2)]
    for stack, take in zip(stacks, (type(stacks[0]).steps, plainly), strict=True):
        take(stack, lr_of(10), Batch(x[:10], y[:10]))
        stack.keep([2, 0])
        kept = [LRS[2], LRS[0]]
        take(stack, lr_of(10, kept), Batch(x[10:20], y[10:20]))
        stack.step(rates(3, kept), Batch(x[0, 1:2], y[0, 1:2], cells=(1,)))
        take(stack, lr_of(10, kept), Batch(x[20:], y[20:]))
    assert_equal_states(*stacks)
    assert stacks[0]._replays.n_replayed == 3 * 7


def test_a_stack_that_was_sent_away_records_anew():
    modules, batches = cells_of(mlp), Batch(*data(SHORT))
    here = stack_of(modules)
    here.steps(lr_of(SHORT), batches)
    away = pickle.loads(pickle.dumps(here))
    for stack in (here, away):
        stack.steps(lr_of(SHORT), batches)
    assert_equal_states(away, here)
    assert away._replays.n_replayed == SHORT - 3


def test_batches_of_other_shapes_are_recorded_for_themselves():
    stack, (x, y) = stack_of(cells_of(mlp)), data(SHORT)
    plain = copy.deepcopy(stack)
    for rows in (slice(None), slice(4), slice(None)):
        batches = Batch(x[:, :, rows], y[:, :, rows])
        assert torch.equal(stack.steps(lr_of(SHORT), batches), plainly(plain, lr_of(SHORT), batches))
    assert stack._replays.n_replayed == 2 * (SHORT - 3) + SHORT


def test_a_run_that_diverges_in_a_replay_changes_no_bit_of_another():
    modules, batches, lr = cells_of(MODULES["batch norm"]), Batch(*data()), lr_of(N_STEPS)
    calm, broken = (stack_of(modules, optimizer=torch.optim.Adam) for _ in range(2))
    calm.steps(lr, batches)
    lr[15, :, 1, 0] = torch.inf
    assert broken.steps(lr, batches)[-1].isnan().sum() == 1
    for name, param in calm.optimizer.params.items():
        for c in range(N_CELLS):
            for k in range(len(LRS)):
                assert (k, c) == (1, 0) or torch.equal(broken.optimizer.params[name][c, k], param[c, k])


def test_few_steps_are_not_worth_a_recording(monkeypatch):
    monkeypatch.setattr(replay, "WORTH_STEPS", 40)
    stack, (x, y) = stack_of(cells_of(mlp)), data(SHORT)
    stack.steps(lr_of(SHORT), Batch(x, y), 20)
    assert stack._replays.n_replayed == 0
    stack.steps(lr_of(SHORT), Batch(x, y), 30)
    assert stack._replays.n_replayed == SHORT - 3


def test_an_epoch_that_comes_in_parts_is_as_long_as_their_sum(monkeypatch):
    """Each part alone has too few steps to be recorded."""
    X, y = load_digits(return_X_y=True)
    met = set[Replays]()
    steps = Replays.steps

    def spied(replays, *args, **kwargs):
        met.add(replays)
        return steps(replays, *args, **kwargs)

    monkeypatch.setattr(replay, "WORTH_STEPS", 40)
    monkeypatch.setattr(Replays, "steps", spied)
    monkeypatch.setattr(feed, "SMALL", 64 * 16 * 10 * 2)  # columns, rows of a batch, batches, cells
    net = NeuralNetClassifier(MLP, max_epochs=1, batch_size=16)
    LRGridSearchCV(net, lrs=LRS, cv=2, random_state=0, engine="stacked", refit=False).fit(X / 16, y)
    assert max(replays.n_replayed for replays in met) > 30


def test_without_torchscript_steps_stay_plain_which_is_said_once(monkeypatch):
    monkeypatch.setattr(torch.jit, "CompilationUnit", lambda source: exec("raise RuntimeError('gone')"))
    recorder_module._compiled.cache_clear()
    recorder_module._say_once.cache_clear()
    with pytest.warns(StackFallbackWarning, match="cannot compile a recorded training step") as said:
        compare(cells_of(mlp), 0)
    assert len(said) == 1
    recorder_module._compiled.cache_clear()


def test_what_writes_must_not_be_left_out():
    """TorchScript drops a call whose result is not used, if it overlooks that the call writes to memory."""
    a, b, losses = torch.zeros(2), torch.zeros(2), torch.zeros(())
    with Recorder([]) as recorder:
        torch._foreach_add_([a, b], 1.0)
    assert recorder.lines == ["torch.ops.aten._foreach_add_(k[0], 1.0)"]
    assert Replay.of(recorder, losses) is not None
    recorder.lines[0] = recorder.lines[0].replace("k[0]", "[t[0], t[1]]")
    assert Replay.of(recorder, losses) is None


def test_memory_that_a_tensor_has_left_is_not_replayed_on():
    tensor, places, calls = torch.zeros(2), torch.zeros(3, 2), []

    def step(lr, batch):
        calls.append(1)
        tensor.data = places[len(calls) % 3]
        return (tensor.add_(1) * lr).sum()

    replays = Replays()
    replays.steps(step, torch.ones(8), Batch(torch.ones(8, 1), torch.ones(8, 1)))
    assert replays.n_replayed == 0
    assert len(calls) == 8


@pytest.mark.parametrize(
    "look",
    [
        lambda t: t[0].item(), lambda t: bool(t[0]), lambda t: t.tolist(), lambda t: t.numpy(), np.asarray,
        lambda t: t.nonzero(), lambda t: t[t > 0], lambda t: torch.equal(t, t),
    ],
)  # fmt: skip
def test_what_python_could_act_on_ends_a_recording(look):
    t = torch.ones(2)
    with Recorder([t]) as recorder:
        _ = t[torch.tensor([1])] + 1
    assert recorder.replayable
    with Recorder([t]) as recorder:
        look(t)
    assert not recorder.replayable


def test_running_out_of_memory_in_a_replay_is_known_as_that():
    replays, batches = Replays(), Batch(torch.ones(6, 1), torch.ones(6, 1))
    replays.steps(lambda lr, batch: batch.x.sum() * lr, torch.ones(6), batches)
    (replay,) = replays._known.values()
    replay.script.function = read(Replay.HEAD, ["losses[i].copy_(torch.ones([1 << 55]).sum())"])
    with pytest.raises(RuntimeError) as error:
        replay(torch.ones(6), batches)
    assert out_of_memory(error.value)


class Shifting(nn.Module):
    """One of whose buffers takes the other's place."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 3)
        self.register_buffer("now", torch.zeros((), dtype=torch.float64))
        self.register_buffer("before", torch.zeros((), dtype=torch.float64))

    def forward(self, x):
        if self.training:
            self.before = self.now
            self.now = 0.9 * self.now + x.detach().mean()
        return self.layer(x) - self.before


def test_a_buffer_may_take_anothers_place():
    torch.manual_seed(1)
    (x, y), modules = data(SHORT), cells_of(Shifting)
    stack = compare(modules, SHORT - 3, batches=Batch(x, y))
    alone = copy.deepcopy(modules[0]).train()
    for t in range(SHORT):
        alone(x[t, 0])
    found = stack.load_run(0, 0, copy.deepcopy(alone))
    assert torch.allclose(found.now, alone.now)
    assert torch.allclose(found.before, alone.before)


def test_cells_with_batches_of_two_sizes_do_not_end_recordings():
    """With batch normalization every epoch ends so; nothing moves in memory."""
    stack, (x, y) = stack_of(cells_of(MODULES["batch norm"])), data(SHORT)
    uneven = [Batch(x[0, :2, :5], y[0, :2, :5], cells=(0, 1)), Batch(x[0, 2:, :4], y[0, 2:, :4], cells=(2,))]
    for _ in range(3):
        stack.steps(lr_of(SHORT), Batch(x, y))
        stack.step(rates(0), *uneven)
    assert stack._replays.n_replayed == 3 * SHORT - 3


def test_threads_replay_at_the_same_time():
    batches, lr = Batch(*data()), lr_of(N_STEPS)
    modules = [cells_of(MODULES["layer norm"]) for _ in range(4)]
    alone = [stack_of(m, optimizer=torch.optim.Adam) for m in modules]
    together = copy.deepcopy(alone)
    for stack in alone:
        plainly(stack, lr, batches)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda stack: stack.steps(lr, batches), together))
    for a, b in zip(together, alone, strict=True):
        assert_equal_states(a, b)
        assert a._replays.n_replayed == N_STEPS - 3


class CalledAgain:
    """What a CUDA graph is to a replay, where there is none: the step itself, on the tensors it was captured with."""

    def __init__(self, step, lr, batch, losses):
        self.replay = lambda: losses.copy_(step(lr, batch))

    @classmethod
    def captured(cls, step, lr, batch):
        losses = torch.full(lr.shape[1:], torch.nan, dtype=lr.dtype)  # a captured step computes nothing
        return cls(step, lr, batch, losses), losses


@pytest.fixture
def graphs(monkeypatch):
    monkeypatch.setattr(replay, "in_graphs", lambda lr: True)
    monkeypatch.setattr(cuda_graph, "captured", CalledAgain.captured)


GRAPH_STEPS = 60
N_CAPTURED = GRAPH_STEPS - MET_BEFORE_GRAPH - 2


@pytest.mark.one_fast
@pytest.mark.parametrize("name", MODULES)
def test_steps_in_graphs_are_shown_each_batch_once(name, graphs):
    compare(cells_of(MODULES[name]), N_CAPTURED, batches=Batch(*data(GRAPH_STEPS)), kwargs={"momentum": 0.9})


def test_weights_and_named_rows_are_shown_to_graphs(graphs):
    x, y = data(GRAPH_STEPS)
    weight = torch.rand(GRAPH_STEPS, N_CELLS, y.shape[2], dtype=torch.float64)
    compare(cells_of(mlp), N_CAPTURED, batches=Batch(x, y, weight))


def test_what_cannot_be_captured_stays_plain(graphs, monkeypatch):
    def refuse(step, lr, batch):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(cuda_graph, "captured", refuse)
    compare(cells_of(mlp), 0, batches=Batch(*data(GRAPH_STEPS)))


def test_a_step_on_two_devices_is_not_captured(graphs):
    lr, batch = torch.ones(2), Batch(torch.ones(2), torch.ones(2))
    with Recorder([lr]) as recorder:
        losses = lr * batch.x
    assert GraphReplay.of(recorder, lambda lr, batch: losses, lr, batch) is not None
    with Recorder([lr]) as recorder:
        _ = torch.ones(2, device="meta") + 1
    assert GraphReplay.of(recorder, lambda lr, batch: losses, lr, batch) is None


def test_few_steps_are_not_worth_a_graph(graphs):
    compare(cells_of(mlp), 0, batches=Batch(*data(MET_BEFORE_GRAPH)))
