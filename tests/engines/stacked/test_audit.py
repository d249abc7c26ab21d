"""The audit: a stack that does anything else than the nets would is found out before any training."""

import copy
import random
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import skorch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from skorch.helper import SliceDataset
from test_agreement import LRS, Double, X, Y, assert_agree, both, classifier, experiment
from test_stack_reasons import Identity
from torch import nn

from sklr import MLP
from sklr.engines.stacked.audit import batches
from sklr.engines.stacked.audit.audit import choose_candidates, choose_cells, kinds_of
from sklr.engines.stacked.audit.batches import rare_rows
from sklr.engines.stacked.audit.tolerance import Tolerance
from sklr.engines.stacked.data.cell_rows import CellRows
from sklr.engines.stacked.engine import StackedEngine
from sklr.engines.stacked.kernels import loss as loss_module
from sklr.engines.stacked.model import feed, pack
from sklr.engines.stacked.model import stack as stack_module
from sklr.engines.stacked.model import state as state_module
from sklr.engines.stacked.optim import clipping as clipping_module
from sklr.engines.stacked.optim import optimizer as optimizer_module
from sklr.engines.stacked.replay import replay

MOMENTUM = classifier(optimizer__momentum=0.9, optimizer__weight_decay=0.01)
NORMED = classifier(partial(Double, batch_norm=True), module__hidden=(8,), optimizer="adam")
MAPPED = classifier(lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3)).double())
UNEVEN = classifier(batch_size=12)  # folds of 67 and 68 rows: the last batches are of 7 and 8 rows, and are masked
LONG = classifier(optimizer__momentum=0.9, max_epochs=12)  # steps enough to be recorded


def wrapped(owner, name, around):
    """Return a mutation that has a method's result, or its arguments, changed by `around(original, *args)`."""

    def mutate(patch):
        original = getattr(owner, name)
        patch.setattr(owner, name, lambda *args, **kwargs: around(original, *args, **kwargs))

    return mutate


def one_steps_lr(step, self, positions, sizes, lr, n_more=0):
    self.n_taken = getattr(self, "n_taken", 0) + 1
    return step(self, positions, sizes, lr * (1.001 if self.n_taken == 3 else 1), n_more)


def one_cells_weights(stacked, per_cell, n_candidates):
    found = stacked(per_cell, n_candidates)
    found[-1] *= 1.001
    return found


def another_candidates_lr(lrs, self, sizes):
    return lrs(self, sizes)[:, :, ::-1].copy()


def late_lrs(lrs, self, sizes):
    return np.roll(lrs(self, sizes), 1, axis=0)


def unmasked(masked, self, weight, sizes):
    return torch.ones_like(masked(self, weight, sizes))


def one_row_twice(masked, self, weight, sizes):
    found = masked(self, weight, sizes)
    found[..., 0] *= 2
    return found


def without_momentum(init, self, params, optimizer, kwargs, groups=None):
    init(self, params, optimizer, [{**own, "momentum": 0.0} for own in kwargs], groups)


def without_decay(init, self, params, optimizer, kwargs, groups=None):
    init(self, params, optimizer, [{**own, "weight_decay": 0.0} for own in kwargs], groups)


def another_row(gathered, self, steps, n_rows):
    self.group_cells[0, -1, 0] = self.group_cells[0, -1, 1]
    return gathered(self, steps, n_rows)


def no_update(update, self, buffers, index):
    pass


def cells_swapped(outputs, self, x, **kwargs):
    return outputs(self, x, **kwargs).flip(1)


def nearly(outputs, self, x, **kwargs):
    return outputs(self, x, **kwargs) * (1 + 1e-6)


def a_line_less(of, recorder, losses):
    recorder.lines = [line for line in recorder.lines if "addcmul_" not in line] + recorder.lines[-1:]
    return of(recorder, losses)


def one_parameter_less(step, self, lr, *args):
    before = self.params[self.names[0]].clone()
    moved = step(self, lr, *args)
    self.params[self.names[0]].copy_(before)
    return moved


def scaled(call, self, outputs, targets, weight):
    return call(self, outputs, targets, weight) * (1 + 1e-5)


MUTATIONS = {
    "one step's lr": (MOMENTUM, wrapped(pack.Pack, "steps", one_steps_lr)),
    "one cell's weights": (MOMENTUM, wrapped(stack_module, "stacked", one_cells_weights)),
    "lrs of candidates mixed up": (MOMENTUM, wrapped(pack.Pack, "lrs", another_candidates_lr)),
    "a schedule one step late": (classifier(schedule="cosine"), wrapped(pack.Pack, "lrs", late_lrs)),
    "padding not masked": (UNEVEN, wrapped(feed.Feed, "_masked", unmasked)),
    "one row's weight": (UNEVEN, wrapped(feed.Feed, "_masked", one_row_twice)),
    "momentum dropped": (MOMENTUM, wrapped(optimizer_module.StackedOptimizer, "__init__", without_momentum)),
    "weight decay dropped": (MOMENTUM, wrapped(optimizer_module.StackedOptimizer, "__init__", without_decay)),
    "another row in a batch": (MOMENTUM, wrapped(feed.Feed, "_gathered", another_row)),
    "running statistics not kept": (NORMED, wrapped(state_module.FixedState, "update", no_update)),
    "a parameter that is not trained": (NORMED, wrapped(optimizer_module.StackedOptimizer, "step", one_parameter_less)),
    "predictions of another cell": (MOMENTUM, wrapped(stack_module.ModelStack, "outputs", cells_swapped)),
    "predictions a little off": (MOMENTUM, wrapped(stack_module.ModelStack, "outputs", nearly)),
    "a recording without its step": (LONG, wrapped(replay.Replay, "of", a_line_less)),
    "clipping dropped": (
        classifier(clip=0.01),
        wrapped(clipping_module.StackedClip, "_threshold", lambda threshold, self: torch.inf),
    ),
    "norms forgotten": (
        classifier(clip="p20"),
        wrapped(clipping_module.NormTable, "add", lambda add, self, norms, cells: None),
    ),
    "a loss a little off": (MAPPED, wrapped(loss_module.StackedLoss, "__call__", scaled)),
}


@pytest.mark.one_fast
@pytest.mark.parametrize(("net", "mutate"), MUTATIONS.values(), ids=MUTATIONS)
def test_a_stack_that_is_wrong_in_one_place_is_found_out(net, mutate, monkeypatch):
    assert StackedEngine().unsupported(experiment(net), LRS) == []
    mutate(monkeypatch)
    (reason,) = StackedEngine().unsupported(experiment(net), LRS)
    assert "raised" not in reason
    assert "trial step failed" not in reason


class Quirky(nn.Module):
    """A small net with habits that a stack may not share, by name."""

    def __init__(self, habits=(), n_tokens=9):
        super().__init__()
        self.habits = habits
        self.tokens = nn.Embedding(
            n_tokens,
            4,
            padding_idx=0 if "padding" in habits else None,
            max_norm=0.5 if "max_norm" in habits else None,
        )
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)
        self.register_buffer("shift", torch.rand(6) if "drawn buffer" in habits else torch.zeros(6))
        self.scale = float(torch.rand(())) + 0.5 if "drawn scale" in habits else 1.0
        self.order = torch.randperm(6) if "drawn order" in habits else torch.arange(6)
        self.settings = {"mask": (torch.rand(6) > 0.3).double() if "drawn mask" in habits else torch.ones(6).double()}
        self.double()
        if "masked gradient" in habits:
            self.a.weight.register_hook(lambda g: g * (torch.arange(4) > 1))
        if "clamped weights" in habits:
            self.b.weight.register_post_accumulate_grad_hook(lambda p: p.data.clamp_(-0.2, 0.2))
        if "noted" in habits:
            self.a.register_forward_hook(lambda layer, inputs, output: output * 2)

    def forward(self, X):
        h = torch.relu(self.a(self.tokens(X).mean(1)) * self.scale)[:, self.order] * self.settings["mask"] + self.shift
        if "mean of the batch" in self.habits:
            h = h * (8 / len(X))
        if "positions" in self.habits:
            h = h + torch.arange(len(X)).unsqueeze(1) / 100
        if "small batches" in self.habits and len(X) < 6:
            h = h / 2
        if "large batches" in self.habits and len(X) > 20:
            h = h / 2
        return self.b(h)


HABITS = [
    "padding", "max_norm", "drawn buffer", "drawn scale", "drawn order", "drawn mask", "masked gradient",
    "clamped weights", "noted", "mean of the batch", "positions", "small batches", "large batches",
]  # fmt: skip


class CountingLoss(nn.CrossEntropyLoss):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.float64))

    def forward(self, output, target):
        self.calls += self.training
        return super().forward(output, target) * (1 + self.calls / 10)


class Centred(torch.optim.SGD):
    """Gradient centralisation, of matrices with more than four columns alone."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.dim() == 2 and p.shape[1] > 4:
                    p.grad.sub_(p.grad.mean(1, keepdim=True))
        return super().step(closure)


class LookAhead(torch.optim.SGD):
    """That goes back half of the way every so many steps."""

    def __init__(self, params, lr=0.1, every=50, **kwargs):
        super().__init__(params, lr=lr, **kwargs)
        self.every, self.n_taken = every, 0
        self.slow = [p.detach().clone() for group in self.param_groups for p in group["params"]]

    @torch.no_grad()
    def step(self, closure=None):
        super().step(closure)
        self.n_taken += 1
        if self.n_taken % self.every == 0:
            for p, slow in zip((p for group in self.param_groups for p in group["params"]), self.slow, strict=True):
                p.copy_(slow.lerp_(p, 0.5))


def made_by_a_function(params, lr, **kwargs):
    return torch.optim.Adam(params, lr=lr, betas=(0.7, 0.9), **kwargs)


def with_a_habit(params, lr, **kwargs):
    optimizer = torch.optim.SGD(params, lr=lr, momentum=0.8, **kwargs)
    optimizer.register_step_post_hook(lambda optimizer, args, kwargs: None)
    return optimizer


def flat(groups):
    return [p for group in groups for p in (group["params"] if isinstance(group, dict) else [group])]


def in_own_groups(params, lr):
    first, *others = flat(params)
    groups = [{"params": others, "lr": lr / 10}, {"params": [first], "lr": lr**2, "momentum": 0.5}]
    return torch.optim.SGD(groups, lr=lr, weight_decay=0.01)


def with_a_fixed_lr(params, lr):
    first, *others = flat(params)
    return torch.optim.Adam([{"params": [first], "lr": 0.03}, {"params": others}], lr=lr)


def without_decay_of_vectors(params, lr):
    return torch.optim.AdamW([{"params": [p], "weight_decay": 0.1 * (p.ndim > 1)} for p in flat(params)], lr=lr)


def by_the_lr(params, lr):
    return torch.optim.SGD(flat(params), lr=lr, momentum=0.9 if lr > 0.05 else 0.0)


def leaving_out_the_first(params, lr):
    return torch.optim.SGD(flat(params)[1:], lr=lr)


OPTIMIZERS = [
    in_own_groups,
    with_a_fixed_lr,
    without_decay_of_vectors,
    by_the_lr,
    leaving_out_the_first,
    torch.optim.SGD,
    "adam",
    partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    partial(partial(torch.optim.AdamW, weight_decay=0.3), betas=(0.5, 0.9)),
    lambda params, lr, **kwargs: torch.optim.RMSprop(params, lr=lr, alpha=0.5, **kwargs),
    made_by_a_function,
    with_a_habit,
    Centred,
    LookAhead,
    partial(LookAhead, every=7, momentum=0.5),
    partial(LookAhead, every=1000),
    lambda params, lr, **kwargs: LookAhead(params, lr=lr, every=3),
]
N_ROWS = 62
TOKENS = np.random.default_rng(0).integers(1, 9, (N_ROWS, 5))
TOKENS[::9, 4] = 0
LABELS = np.arange(N_ROWS) % 3
SAMPLERS = {
    "none": None,
    "weighted": torch.utils.data.WeightedRandomSampler(np.linspace(1, 2, 41), 30),
    "few rows": torch.utils.data.SubsetRandomSampler(range(25)),
    "too many rows": torch.utils.data.WeightedRandomSampler(np.ones(N_ROWS), 30),
}


@pytest.mark.slow
@settings(deadline=None, max_examples=20)
@given(
    st.sets(st.sampled_from(HABITS), max_size=2),
    st.sampled_from(OPTIMIZERS),
    st.sampled_from([5, 8, 13, 25]),
    st.sampled_from(["none", "none", *SAMPLERS]),
    st.booleans(),
)
def test_whatever_a_net_does_the_stack_does_or_is_refused(habits, optimizer, batch_size, sampler, counts):
    net = classifier(
        Quirky,
        module__habits=tuple(habits),
        criterion=CountingLoss if counts else nn.CrossEntropyLoss,
        optimizer=optimizer,
        batch_size=batch_size,
    )
    if sampler != "none":
        net.set_params(iterator_train__sampler=SAMPLERS[sampler], iterator_train__shuffle=False)
    described = experiment(net, X=TOKENS, y=LABELS)
    if not StackedEngine().unsupported(described, LRS[1:]):
        assert_agree(*both(net, LRS[1:], X=TOKENS, y=LABELS), rtol=1e-6)


STACKED = {
    "a partial": classifier(optimizer=partial(torch.optim.SGD, momentum=0.9)),
    "a function": classifier(optimizer=made_by_a_function),
    "a function that Python calls lambda": classifier(optimizer=OPTIMIZERS[9]),
    "a forward hook": classifier(partial(Quirky, ("noted",))),
    "a buffer drawn for each cell": classifier(partial(Quirky, ("drawn buffer",))),
    "a subclass of a net": type("Plain", (type(classifier()),), {})(Double, module__hidden=(8,), max_epochs=2),
}


OWN_GROUPS = (in_own_groups, with_a_fixed_lr, without_decay_of_vectors, by_the_lr)
STACKED |= {make.__name__: classifier(optimizer=make, schedule="cosine", warmup_epochs=0.5) for make in OWN_GROUPS}


@pytest.mark.one_fast
@pytest.mark.parametrize("net", STACKED.values(), ids=STACKED)
def test_what_a_stack_can_do_is_not_refused(net):
    rows = {"X": TOKENS, "y": LABELS} if "Quirky" in repr(net.module) else {}
    assert_agree(*both(net, **rows), rtol=1e-6)


def convolutions():
    """Return layers of which the first has a bias that the normalization takes out again: its gradient is rounding."""
    first = (nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
    then = (nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
    return nn.Sequential(*first, *then, nn.Flatten(), nn.Linear(64, 10))


@pytest.mark.one_fast
@pytest.mark.parametrize("optimizer", ["adamw", "adam", "rmsprop"])
def test_gradients_that_are_rounding_alone_are_no_reason(optimizer):
    digits = load_digits()
    rows = {"X": (digits.images[:400, None] / 16).astype("float32"), "y": digits.target[:400]}
    for seed in range(4):
        net = classifier(convolutions, optimizer=optimizer, batch_size=64, random_state=seed)
        assert StackedEngine().unsupported(experiment(net, **rows), [{"lr": lr} for lr in (1e-3, 0.01, 0.1)]) == []


@pytest.mark.parametrize("always", [False, True])
def test_a_difference_that_other_weights_do_not_show_is_no_reason(always, monkeypatch):
    compared, worst = [], Tolerance.worst

    def flips(self, *tensors):  # as where the input of a ReLU lies on the other side of 0 in one of the two
        compared.append(worst(self, *tensors))
        return ("w", 99.0) if always or len(compared) in (2, 4) else compared[-1]  # rounding is the same twice

    monkeypatch.setattr(Tolerance, "worst", flips)
    reasons = StackedEngine().unsupported(experiment(classifier()), LRS)
    assert [words for words in reasons if "different 'w' after a step" in words] == reasons
    assert len(reasons) == always
    assert len(compared) == 3 if always else len(compared) > 10


class WarmedUp(Identity):
    """The gradients of the first calls in this process are halved."""

    generate_vmap_rule, n_calls, n_halved = True, 0, 0

    @staticmethod
    def backward(ctx, gradient):
        WarmedUp.n_calls += 1
        return gradient / 2 if WarmedUp.n_calls <= WarmedUp.n_halved else gradient


class WarmsUp(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3))

    def forward(self, x):
        return self[2](WarmedUp.apply(self[1](self[0](x))))


@pytest.mark.parametrize("n_halved", [0, 1, 2, 4, 8, 13])
def test_what_differs_only_the_first_time_is_refused(n_halved, monkeypatch):
    monkeypatch.setattr(WarmedUp, "n_calls", 0)
    monkeypatch.setattr(WarmedUp, "n_halved", n_halved)
    reasons = StackedEngine().unsupported(experiment(classifier(WarmsUp), X.astype("float32")), LRS)
    assert len(reasons) == (n_halved > 0)
    assert all("after a step" in words for words in reasons)


def test_wide_layers_on_large_batches_are_not_refused():
    rows = np.random.default_rng(0).normal(size=(1000, 100)).astype("float32")
    net = classifier(MLP, module__hidden=(256, 256), batch_size=512)
    for seed in range(20):
        given = experiment(net.set_params(random_state=seed), rows, (rows[:, 0] > 0).astype(int))
        assert StackedEngine().unsupported(given, [{"lr": 0.01}, {"lr": 0.1}]) == []


REFUSED = {
    "padding": (Quirky, "padding", "padding_idx"),
    "hooks": (Quirky, "masked gradient", "the parameter 'a.weight' has hooks"),
    "attributes": (Quirky, "drawn scale", "is not the same in all folds"),
    "nested attributes": (Quirky, "drawn mask", "is not the same in all folds"),
    "rows": (Quirky, "mean of the batch", "in a stack and"),
    "few rows": (Quirky, "small batches", ""),
}


class Skipping(torch.optim.SGD):
    """That takes no step where a gradient is not finite."""

    def step(self, closure=None):
        finite = all(p.grad.isfinite().all() for group in self.param_groups for p in group["params"])
        return super().step(closure) if finite else None


def with_own_zero_grad(params, lr, **kwargs):
    optimizer = torch.optim.SGD(params, lr=lr, **kwargs)
    usual = optimizer.zero_grad
    optimizer.zero_grad = lambda set_to_none=True: usual(set_to_none)
    return optimizer


class Decaying:
    n = 0

    def __call__(self, epoch):
        self.n += 1
        return 0.9**self.n


class OwnLoss(skorch.NeuralNetClassifier):
    def get_loss(self, *args, **kwargs):
        return super().get_loss(*args, **kwargs) * (2 if len(self.history) > 3 else 1)


def counting_calls(m, x):
    m.n += m.training
    return m.b(torch.relu(m.a(x)) * (0.5 if m.n > 30 else 1))


def clipping(m, x):
    h = torch.relu(m.a(x))
    if h.requires_grad:
        h.register_hook(lambda g: g if g.norm() <= 0.5 else g * (0.5 / g.norm()))
    return m.b(h)


def made(forward=lambda m, x: m.b(torch.relu(m.a(x))), also=lambda m: None):
    class Made(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.n = nn.Linear(6, 8), nn.Linear(8, 3), 0
            also(self)
            self.double()

        def forward(self, x):
            return forward(self, x)

        def train(self, mode=True):
            if hasattr(self, "n_trained"):
                self.n_trained += 1
            return super().train(mode)

    return Made


def drawn_default(m):
    drawn = float(torch.rand(()))
    m.f = lambda x, q=drawn: x * q


def unregistered(m):
    m.kept = [nn.Parameter(torch.rand(3))]


def unregistered_layers(m):
    m.kept = {"layer": nn.Linear(2, 2)}


def hooked(m):
    m.b.register_full_backward_hook(lambda layer, inputs, outputs: None)


N_CALLS = [0]


class Counted(nn.Module):
    """Where a count may be kept that is no attribute of the module."""

    n, calls = 0, []

    def __init__(self, kept):
        super().__init__()
        self.kept, self.linear = kept, nn.Linear(6, 3).double()

    def forward(self, X):
        return self.linear(X) * (1 + 0.01 * getattr(self, self.kept)())

    def in_class(self):
        type(self).n += 1
        return type(self).n

    def in_list_of_class(self):
        self.calls.append(1)
        return len(self.calls)

    def in_global(self):
        N_CALLS[0] += 1
        return N_CALLS[0]

    def drawn(self):
        return nn.functional.dropout(torch.ones(3, dtype=self.linear.weight.dtype), 0.5)

    def in_nothing(self):
        return len(N_CALLS)


def test_what_belongs_to_classes_and_modules_may_be_read():
    net = classifier(Counted, module__kept="in_nothing")
    assert StackedEngine().unsupported(experiment(net), LRS) == []
    assert_agree(*both(net))


FOUND = {  # by those who tried to break it
    "counter of the class": (classifier(Counted, module__kept="in_class"), "changes its attribute 'n'"),
    "list of the class": (classifier(Counted, module__kept="in_list_of_class"), "changes its attribute 'calls'"),
    "global counter": (classifier(Counted, module__kept="in_global"), "changes the global variable 'N_CALLS'"),
    "dropout at prediction": (classifier(Counted, module__kept="drawn"), "in evaluation mode it draws random numbers"),
    "optimizer that skips steps": (classifier(optimizer=Skipping), "not one of PyTorch's own optimizers"),
    "optimizer without a parameter": (
        classifier(optimizer=leaving_out_the_first),
        "not given the parameter 'layers.0.weight'",
    ),
    "own zero_grad": (classifier(optimizer=with_own_zero_grad), "zero_grad that is not its class's"),
    "schedule with state": (classifier(schedule=Decaying()), "other values each time"),
    "class behind ours": (
        type("Mixed", (type(classifier()), OwnLoss), {})(Double, module__hidden=(8,), max_epochs=2),
        "overrides get_loss",
    ),
    "counter": (classifier(made(counting_calls)), "changes its attribute 'n'"),
    "counter in train()": (classifier(made(also=lambda m: setattr(m, "n_trained", 0))), "'n_trained'"),
    "hook in forward": (classifier(made(clipping)), "registers a hook"),
    "backward hook": (classifier(made(also=hooked)), "has backward hooks"),
    "default of a lambda": (classifier(made(also=drawn_default)), "is not the same in all folds"),
    "parameter in a list": (classifier(made(also=unregistered)), "is not the same in all folds"),
    "layer in a dict": (classifier(made(also=unregistered_layers)), "is not the same in all folds"),
}


@pytest.mark.parametrize(("net", "words"), FOUND.values(), ids=FOUND)
def test_what_was_found_by_trying_to_break_it(net, words):
    (reason,) = StackedEngine().unsupported(experiment(net), LRS)
    assert words in reason


@pytest.mark.parametrize(("module", "habit", "words"), REFUSED.values(), ids=REFUSED)
def test_the_reason_says_what_differs(module, habit, words):
    net = classifier(module, module__habits=(habit,), batch_size=8)
    reasons = StackedEngine().unsupported(experiment(net, X=TOKENS, y=LABELS), LRS)
    assert reasons
    assert words in reasons[0]


def test_a_dataset_that_computes_its_items_is_not_frozen():
    class Noisy(torch.utils.data.Dataset):
        def __len__(self):
            return len(X)

        def __getitem__(self, i):
            return torch.from_numpy(X[i]) + torch.randn(6).double(), int(Y[i])

    net = classifier(module__n_inputs=6, module__n_outputs=3)
    assert_agree(*both(net, X=SliceDataset(Noisy(), 0)))
    fixed = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    assert_agree(*both(net, X=SliceDataset(fixed, 0)))


class OwnRows:
    """An array-like that gives its rows with noise, or as they are."""

    def __init__(self, noise):
        self.noise, self.shape = noise, X.shape

    def __len__(self):
        return len(X)

    def __getitem__(self, rows):
        return X[rows] + self.noise * np.random.normal(size=X[rows].shape)


class OwnArray(np.ndarray):
    def __getitem__(self, rows):
        return np.asarray(super().__getitem__(rows)) + np.random.normal()


def test_rows_that_are_drawn_each_time_are_not_frozen():
    for noisy in (OwnRows(0.1), X.view(OwnArray)):
        before = np.random.get_state()[1].copy()
        (reason,) = StackedEngine().unsupported(experiment(classifier(), X=noisy), LRS)
        assert f"X, a {type(noisy).__name__}, gives other numbers each time" in reason
        np.testing.assert_array_equal(np.random.get_state()[1], before)
    assert_agree(*both(classifier(), X=OwnRows(0.0)))


def test_cells_and_candidates_that_are_audited_differ():
    described = experiment(classifier())
    pack_cells = [type("PackCell", (), {"epochs": [[np.zeros(n)]]}) for n in (5, 5, 6)]
    assert choose_cells(described.cells, pack_cells) == [0, 2]
    assert choose_cells(described.cells[:1], pack_cells) == [0]
    candidates = [{"lr": lr, "momentum": m} for lr in (0.1, 1.0) for m in (0.0, 0.9)]
    (chosen,) = ([candidates[i] for i in positions] for positions in choose_candidates(candidates))
    assert {c["momentum"] for c in chosen} == {0.0, 0.9}
    assert len({c["lr"] for c in chosen}) > 1


@given(st.lists(st.tuples(st.sampled_from([0, 1, 2, "a", "b"]), st.sampled_from("cdefghij")), min_size=1, max_size=30))
def test_every_kind_of_value_is_audited(values):
    candidates = [{"optimizer__x": x, "schedule": schedule} for x, schedule in values]
    audited = [i for positions in choose_candidates(candidates) for i in positions]
    assert set().union(*map(kinds_of, candidates)) == set().union(*(kinds_of(candidates[i]) for i in audited))


def test_tuples_of_numbers_are_of_one_kind():
    assert kinds_of({"optimizer__betas": (0.9, 0.99)}) == kinds_of({"optimizer__betas": (0.8, 0.9)})
    assert kinds_of({"optimizer__betas": (0.9, 0.99)}) != kinds_of({"optimizer__betas": (0.0, 0.9)})


@given(st.integers(2, 40), st.integers(1, 4), st.integers(2, 12), st.randoms(use_true_random=False))
def test_rare_rows_hold_every_value(n_rows, n_columns, n_values, random):
    tokens = torch.tensor([[random.randrange(n_values) for _ in range(n_columns)] for _ in range(n_rows)])
    seen = np.array([random.randrange(n_rows)])
    rows = rare_rows([tokens, tokens.double()], seen)
    for column in range(n_columns):
        assert set(tokens[:, column].tolist()) == set(tokens[np.concatenate([seen, rows])][:, column].tolist())


@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 80), st.data())
def test_of_large_data_only_so_many_rows_are_searched(n_rows, n_columns, most, data):
    """And all of these: a value that only one of them has is found."""
    seen = np.array(sorted(data.draw(st.sets(st.integers(0, n_rows - 1), min_size=1))))
    rows = CellRows.all_of(torch.zeros(n_rows, n_columns))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "MOST_NUMBERS", most)
        searched = batches.rows_to_search(rows, seen)
        assert set(seen) <= set(searched)
        assert (len(searched) - len(seen)) * n_columns <= most + n_columns  # the first of every n rows
        unseen = np.setdiff1d(searched, seen)
        values = torch.from_numpy(np.isin(searched, unseen[-1:]).astype("float32")).unsqueeze(1).expand(-1, n_columns)
        found = searched[rare_rows([values], np.searchsorted(searched, seen))]
        assert found.tolist() == unseen[-1:].tolist()


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.spectral_norm])
@pytest.mark.filterwarnings("ignore:.*is deprecated in favor of:FutureWarning")
def test_a_weight_that_is_computed_in_a_hook_is_named(norm):
    net = classifier(Normed, module__norm=norm)
    (reason,) = StackedEngine().unsupported(experiment(net), LRS)
    assert "'linear' computes its weight in a hook" in reason


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_a_parametrization_is_the_same_in_all_folds(norm):
    net = classifier(Normed, module__norm=norm)
    (reason,) = StackedEngine().unsupported(experiment(net), LRS)
    assert "'linear.parametrizations.weight.0'" in reason
    assert "cannot vectorize" in reason


class Normed(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.linear = norm(nn.Linear(6, 3).double())

    def forward(self, X):
        return self.linear(X)


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 3).double()
        self.linear.register_forward_pre_hook(lambda layer, args, kwargs: ((2 * args[0],), kwargs), with_kwargs=True)

    def forward(self, X):
        return self.linear(X)


def test_a_hook_before_a_layer_may_take_keywords():
    net = classifier(Scaled)
    assert StackedEngine().unsupported(experiment(net), LRS) == []
    assert_agree(*both(net))


STATS, N_GLOBAL = SimpleNamespace(seen=[], n=0), 0


class Shared(nn.Module):
    """That counts its calls where all its copies do, and does something else in every fifth."""

    n, seen = 0, {"calls": 0}
    hidden = nn.Linear  # of a library, which counts nothing

    def __init__(self, count):
        super().__init__()
        self.a, self.b, self.count = nn.Linear(6, 8).double(), nn.Linear(8, 3).double(), count

    def forward(self, x):
        return self.b(torch.relu(self.a(x))) * (1 if self.count() % 5 else 2)

    @classmethod
    def in_class(cls):
        cls.n += 1
        return cls.n

    @classmethod
    def in_dict(cls):
        cls.seen["calls"] += 1
        return cls.seen["calls"]

    @staticmethod
    def in_static_method():
        return in_global()


def in_global():
    global N_GLOBAL
    N_GLOBAL += 1
    return N_GLOBAL


def in_namespace():
    STATS.n += 1
    return STATS.n


def in_list():
    STATS.seen.append(1)
    return len(STATS.seen)


def counter():
    n = 0

    def count():
        nonlocal n
        n += 1
        return n

    return count


COUNTED = {
    "class": (Shared.in_class, "changes its attribute 'n'"),
    "dict of a class": (Shared.in_dict, "changes its attribute 'seen'"),
    "global variable": (in_global, "changes the global variable 'N_GLOBAL'"),
    "static method": (Shared.in_static_method, "changes the global variable 'N_GLOBAL'"),
    "global namespace": (in_namespace, "changes the global variable 'STATS'"),
    "global list": (in_list, "changes the global variable 'STATS'"),
    "closure": (counter(), "changes the variable 'n'"),
}


@pytest.mark.parametrize(("count", "words"), COUNTED.values(), ids=COUNTED)
@pytest.mark.parametrize("as_criterion", [False, True])
def test_what_all_copies_of_a_module_share_is_seen_and_left_as_it_was(count, words, as_criterion):
    class Loss(nn.CrossEntropyLoss):
        def forward(self, output, target):
            return super().forward(output, target) * (1 if count() % 5 else 2)

    net = classifier(criterion=Loss) if as_criterion else classifier(partial(Shared, count))
    before = count()
    (reason,) = StackedEngine().unsupported(experiment(net), LRS)
    assert ("changes" if as_criterion else words) in reason
    assert count() == before + 1


class Inheriting(Shared):
    """That counts in attributes of its own class, which are not there before the first call."""

    def forward(self, x):
        Inheriting.n += 1
        type(self).n_rows = getattr(self, "n_rows", 0) + len(x)
        return super().forward(x)


def test_a_count_that_begins_with_the_first_call():
    (reason,) = StackedEngine().unsupported(experiment(classifier(partial(Inheriting, lambda: 1))), LRS)
    assert "changes its attribute 'n" in reason
    assert not {"n", "n_rows"} & vars(Inheriting).keys()


GENERATORS = {
    "NumPy": (np.random.default_rng(0), lambda g: g.random()),
    "Python": (random.Random(0), lambda g: g.random()),
    "torch": (torch.Generator().manual_seed(0), lambda g: float(torch.rand((), generator=g))),
}


@pytest.mark.parametrize(("generator", "draw"), GENERATORS.values(), ids=GENERATORS)
def test_a_generator_that_all_copies_share_draws_on_where_it_stood(generator, draw):
    net, expected = classifier(partial(Shared, lambda: draw(generator))), draw(copy.deepcopy(generator))
    (reason,) = StackedEngine().unsupported(experiment(net), LRS)
    assert "changes the variable 'generator'" in reason
    assert draw(generator) == expected


def reading(x):
    return x * SCALES["a"] + len(STATS.seen)


SCALES = {"a": 0.5}


def test_what_is_shared_and_stays_the_same_is_no_reason():
    net = classifier(made(lambda m, x: m.b(torch.relu(m.a(reading(x))))))
    assert_agree(*both(net))


@pytest.mark.parametrize("lr", [1e6, 1e7, 1e8])
def test_what_has_diverged_both_ways_is_not_compared(lr):
    """Its rounding is amplified without bounds, long before the loss is infinite."""
    net = classifier(MLP, module__hidden=(8,), module__batch_norm=True, random_state=0)
    described = experiment(net, X=X.astype("float32"))
    assert StackedEngine().unsupported(described, [{"lr": 0.01}, {"lr": lr}]) == []
