"""A stack's runs are the runs trained one by one: weights, buffers, losses, optimizer state, in float64 to rounding."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from sklr.engines.stacked.data.batch import Batch
from sklr.engines.stacked.data.cell_rows import CellRows, PackRows
from sklr.engines.stacked.kernels import module_call
from sklr.engines.stacked.model.stack import ModelStack
from sklr.engines.stacked.optim.clipping import Clip

N_CELLS, N_ROWS, N_STEPS = 3, 6, 30
LRS = (1e-4, 3e-3, 0.05)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.out = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.out(x + torch.tanh(self.inner(x)))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.back = nn.Linear(8, 3, bias=False), nn.Linear(3, 3)

    def forward(self, x):
        h = self.embed(x)
        return self.back(h) + h @ self.embed.weight @ self.embed.weight.T


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend, self.out = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        h = x.unflatten(1, (2, 4))
        return self.out(self.attend(h, h, h, need_weights=False)[0].flatten(1))


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, a, b):
        return self.left(a) * self.right(b).sigmoid()


def mlp(*between):
    between = between or (nn.ReLU(),)
    return nn.Sequential(nn.Linear(8, 7), *between, nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3))


MODULES = {
    "linear": lambda: nn.Linear(8, 3),
    "mlp": mlp,
    "no bias": lambda: nn.Sequential(nn.Linear(8, 5, bias=False), nn.ReLU(), nn.Linear(5, 3)),
    "images": lambda: nn.Sequential(nn.Unflatten(1, (2, 4)), nn.Flatten(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)),
    "function first": lambda: nn.Sequential(nn.ReLU(), nn.Linear(8, 3)),
    "functions": lambda: mlp(nn.Tanh(), nn.Linear(7, 7), nn.Sigmoid(), nn.ReLU(), nn.GELU(), nn.Tanh()),
    "more functions": lambda: mlp(nn.LeakyReLU(0.1), nn.Linear(7, 7), nn.ELU(0.5), nn.Linear(7, 7), nn.SiLU()),
    "softmax": lambda: mlp(nn.Softmax(dim=-1), nn.LogSoftmax(dim=1)),
    "no dropout": lambda: mlp(nn.ReLU(), nn.Dropout(0.0)),
    "frozen": lambda: nn.Sequential(nn.Linear(8, 7).requires_grad_(False), nn.ReLU(), nn.Linear(7, 3)),
    "residual": Residual,
    "tied": Tied,
    # no bias before a batch norm: its gradient is zero but for rounding, which Adam would blow up to a full step
    "batch norm": lambda: nn.Sequential(
        nn.Linear(8, 7, bias=False), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3)
    ),
    "layer norm": lambda: mlp(nn.LayerNorm(7), nn.ReLU()),
    "group norm": lambda: nn.Sequential(nn.Linear(8, 6), nn.GroupNorm(2, 6), nn.Linear(6, 3)),
    "conv": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 4, 2, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 3),
    ),
    "conv 1d": lambda: nn.Sequential(nn.Unflatten(1, (2, 4)), nn.Conv1d(2, 4, 2), nn.Flatten(), nn.Linear(12, 3)),
    "attention": Attention,
    "transformer": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 4)), nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True), nn.Flatten(),
        nn.Linear(8, 3),
    ),
}  # fmt: skip
FAST = {"linear", "mlp", "no bias", "function first", "functions", "more functions", "softmax", "no dropout"}
FAST |= {"batch norm"}

OPTIMIZERS = {
    "SGD": (torch.optim.SGD, {}),
    "SGD, all of it": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "SGD, dampened": (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.1, "maximize": True, "weight_decay": 0.01}),
    "Adam": (torch.optim.Adam, {}),
    "Adam, all of it": (torch.optim.Adam, {"amsgrad": True, "weight_decay": 0.01, "betas": (0.8, 0.9)}),
    "Adam, foreach": (torch.optim.Adam, {"foreach": True}),
    "AdamW": (torch.optim.AdamW, {"weight_decay": 0.1}),
    "RMSprop": (torch.optim.RMSprop, {"momentum": 0.5, "centered": True, "weight_decay": 0.01}),
    "NAdam": (torch.optim.NAdam, {"weight_decay": 0.01, "decoupled_weight_decay": True}),
    "RAdam": (torch.optim.RAdam, {"weight_decay": 0.01}),
    "Adagrad": (torch.optim.Adagrad, {"lr_decay": 0.1}),
    "Adamax": (torch.optim.Adamax, {}),
    "Adadelta": (torch.optim.Adadelta, {"weight_decay": 0.01}),
}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def cells_of(make):
    return [make().double() for _ in range(N_CELLS)]


def data(n_steps=N_STEPS, n_rows=N_ROWS, n_classes=3):
    x = torch.randn(n_steps, N_CELLS, n_rows, 8, dtype=torch.float64)
    return x, torch.randint(0, n_classes, (n_steps, N_CELLS, n_rows))


def multiplier(step):
    return (step % 7 + 1) / 7


def rates(step, lrs=LRS):
    return torch.tensor(lrs, dtype=torch.float64).unsqueeze(1).expand(-1, N_CELLS) * multiplier(step)


def stack_of(modules, criterion=None, optimizer=torch.optim.SGD, kwargs=None, n_candidates=3, **options):
    example = options.pop("example", (torch.randn(4, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 1])))
    return ModelStack(
        modules, n_candidates, criterion or nn.CrossEntropyLoss(), optimizer, kwargs or {}, example=example, **options
    )


class Alone:
    """One run trained as anybody would: the reference."""

    def __init__(self, module, optimizer, kwargs, lr, groups=None):
        self.module = copy.deepcopy(module)
        params = dict(self.module.named_parameters())
        groups = groups or [([n for n, p in params.items() if p.requires_grad], {})]
        described = [{**override, "params": [params[n] for n in names]} for names, override in groups]
        self.optimizer = optimizer(described, lr=lr, **kwargs)
        self.lrs = [group["lr"] for group in self.optimizer.param_groups]
        self.met = []

    def step(self, loss_of, step, clip=None):
        for group, lr in zip(self.optimizer.param_groups, self.lrs, strict=True):
            group["lr"] = lr * multiplier(step)
        self.optimizer.zero_grad()
        loss = loss_of(self.module)
        loss.backward()
        if clip is not None:
            clip(self)
        self.optimizer.step()
        return loss.detach()


def assert_same(stack, candidate, cell, reference, rtol=1e-9):
    mine = stack.load_run(candidate, cell, copy.deepcopy(reference)).state_dict()
    for name, expected in reference.state_dict().items():
        error = (mine[name] - expected).abs().max() / expected.abs().max().clamp(min=1e-12)
        assert error <= rtol, f"{name} of candidate {candidate}, cell {cell}: relative error {error:.2g}"


def assert_agrees(modules, stack, loss_of, batches_of, optimizer=torch.optim.SGD, kwargs=None, groups=None, clip=None):
    """Train both ways; `loss_of(step, cell)` is a function of the module, `batches_of(step)` the stack's batches."""
    alone = {
        (k, c): Alone(module, optimizer, kwargs or {}, lr, groups)
        for k, lr in enumerate(LRS)
        for c, module in enumerate(modules)
    }
    for step in range(N_STEPS):
        lr = rates(step)
        if groups:
            factors = [override.get("lr", 1.0) for _, override in groups]
            lr = torch.stack([torch.full_like(lr, f) * multiplier(step) if f != 1.0 else lr for f in factors])
        losses = stack.step(lr, *batches_of(step))
        for (k, c), run in alone.items():
            loss = loss_of(step, c)
            if loss is None:
                assert losses[k, c].isnan()
            else:
                assert torch.allclose(losses[k, c], run.step(loss, step, clip), rtol=1e-9)
    for (k, c), run in alone.items():
        assert_same(stack, k, c, run.module)
    return alone


def plain_agreement(modules, optimizer, kwargs, **options):
    x, y = data()
    stack = stack_of(modules, optimizer=optimizer, kwargs=kwargs, **options)
    alone = assert_agrees(
        modules,
        stack,
        lambda t, c: lambda m: nn.functional.cross_entropy(m(x[t, c]), y[t, c]),
        lambda t: [Batch(x[t], y[t])],
        optimizer,
        kwargs,
    )
    return stack, alone, x


@pytest.mark.one_fast
@pytest.mark.parametrize("optimizer", ["SGD, all of it", "AdamW"])
@pytest.mark.parametrize("name", MODULES)
def test_modules_train_as_one_by_one(name, optimizer):
    stack, alone, x = plain_agreement(cells_of(MODULES[name]), *OPTIMIZERS[optimizer])
    assert (stack.traits.chain is not None) == (name in FAST)
    outputs = stack.outputs(x[0])
    for (k, c), run in alone.items():
        assert torch.allclose(outputs[k, c], run.module.eval()(x[0, c]), rtol=1e-8)


@pytest.mark.one_fast
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("module", ["mlp", "batch norm"])
def test_optimizers_step_as_one_by_one(module, name):
    stack, alone, _ = plain_agreement(cells_of(MODULES[module]), *OPTIMIZERS[name])
    for (k, c), run in alone.items():
        expected, state = run.optimizer.state_dict(), stack.optimizer_state(k, c)
        assert state["param_groups"][0].keys() == expected["param_groups"][0].keys()
        assert state["state"].keys() == expected["state"].keys()
        for i, entry in expected["state"].items():
            for key, value in entry.items():
                assert torch.allclose(torch.as_tensor(state["state"][i][key]), torch.as_tensor(value), rtol=1e-8)


def test_many_rows_are_evaluated_in_blocks(monkeypatch):
    seen, forward = [], nn.LayerNorm.forward

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.norm = nn.Linear(8, 3), nn.LayerNorm(3)

        def forward(self, x):
            return self.norm(self.linear(x)), self.linear.bias.sum()

    def watched(norm, x):  # in a class of PyTorch's: what a module writes down itself is seen
        seen.append(len(x))
        return forward(norm, x)

    monkeypatch.setattr(nn.LayerNorm, "forward", watched)
    monkeypatch.setattr(module_call, "ROWS", 10)
    modules = cells_of(Watched)
    stack = stack_of(modules, lambda output, y: output[0].sum())
    x, seen[:] = torch.rand(len(modules), 24, 8, dtype=torch.float64), []
    outputs, _ = module_call.in_blocks(stack.outputs, PackRows([CellRows.all_of(rows) for rows in x]))
    assert max(seen) <= 10
    for k in range(stack.n_candidates):
        for c, module in enumerate(modules):
            assert torch.allclose(outputs[k, c], module(x[c])[0], rtol=1e-12)


def test_a_run_taken_out_of_the_stack_trains_on():
    modules = cells_of(mlp)
    stack, alone, x = plain_agreement(modules, torch.optim.Adam, {"weight_decay": 0.01})
    module = stack.load_run(2, 1, copy.deepcopy(modules[0]))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    optimizer.load_state_dict(stack.optimizer_state(2, 1))
    reference = alone[2, 1]
    for group in (*optimizer.param_groups, *reference.optimizer.param_groups):
        group["lr"] = 0.01
    for m, o in ((module, optimizer), (reference.module, reference.optimizer)):
        o.zero_grad()
        m(x[0, 0]).square().mean().backward()
        o.step()
    assert_same(stack_of([module], n_candidates=1), 0, 0, reference.module, rtol=1e-8)


def test_the_users_modules_are_not_touched():
    modules = cells_of(MODULES["batch norm"])
    before = copy.deepcopy([m.state_dict() for m in modules])
    x, y = data(1)
    stack_of(modules).step(rates(6), Batch(x[0], y[0]))
    for module, state in zip(modules, before, strict=True):
        assert all(torch.equal(v, state[n]) for n, v in module.state_dict().items())


CRITERIA = {
    "class weights": nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 0.5]).double()),
    "label smoothing": nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 0.5]).double(), label_smoothing=0.1),
    "ignored class": nn.CrossEntropyLoss(ignore_index=1),
    "sum": nn.CrossEntropyLoss(reduction="sum"),
    "margin": nn.MultiMarginLoss(),
}


@pytest.mark.one_fast
@pytest.mark.parametrize("module", ["mlp", "layer norm"])
@pytest.mark.parametrize("name", CRITERIA)
def test_padded_rows_are_left_out(name, module):
    modules, criterion = cells_of(MODULES[module]), CRITERIA[name]
    x, y = data()
    n_real = [N_ROWS, N_ROWS - 1, 2]
    y[:, :, 0] = 0  # a row that counts, whatever is ignored
    weight = (torch.arange(N_ROWS) < torch.tensor(n_real).unsqueeze(1)).double()
    assert_agrees(
        modules,
        stack_of(modules, criterion),
        lambda t, c: lambda m: criterion(m(x[t, c, : n_real[c]]), y[t, c, : n_real[c]]),
        lambda t: [Batch(x[t], y[t], weight)],
    )


@pytest.mark.one_fast
@pytest.mark.parametrize("module", ["mlp", "layer norm"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_sample_weights_make_a_weighted_mean(module, smoothing):
    modules, criterion = cells_of(MODULES[module]), nn.CrossEntropyLoss(label_smoothing=smoothing)
    per_row = nn.CrossEntropyLoss(label_smoothing=smoothing, reduction="none")
    (x, y), weight = data(), torch.rand(N_STEPS, N_CELLS, N_ROWS).double()
    assert_agrees(
        modules,
        stack_of(modules, criterion),
        lambda t, c: lambda m: (per_row(m(x[t, c]), y[t, c]) * weight[t, c]).sum() / weight[t, c].sum(),
        lambda t: [Batch(x[t], y[t], weight[t])],
    )


TARGETS = {
    "regression": (nn.MSELoss(), lambda x: x[..., :3].sin(), None),
    "one number": (nn.HuberLoss(), lambda x: x[..., 0].sin(), lambda out: out[..., 0]),
    "logits": (nn.BCEWithLogitsLoss(pos_weight=torch.tensor(2.0)), lambda x: (x[..., 0] > 0).double(),
               lambda out: out[..., 0]),
    "probabilities": (nn.CrossEntropyLoss(), lambda x: x[..., :3].softmax(-1), None),
    "log of softmax": (nn.NLLLoss(), lambda x: x[..., :3].argmax(-1),
                       lambda out: torch.log(torch.softmax(out, dim=1) + 1e-7)),
    "not of rows": (lambda out, target: (out - target).square().mean() + out.std(), lambda x: x[..., :3], None),
}  # fmt: skip


@pytest.mark.one_fast
@pytest.mark.parametrize("module", ["mlp", "layer norm"])
@pytest.mark.parametrize("name", TARGETS)
def test_criteria_and_targets(name, module):
    criterion, target, transform = TARGETS[name]
    modules, (x, _) = cells_of(MODULES[module]), data()
    stack = stack_of(modules, criterion, example=(x[0, 0], target(x[0, 0])), transform=transform)
    assert stack.mixes_rows == (name == "not of rows")
    assert_agrees(
        modules,
        stack,
        lambda t, c: lambda m: criterion((transform or (lambda out: out))(m(x[t, c])), target(x[t, c])),
        lambda t: [Batch(x[t], target(x[t]))],
    )


@pytest.mark.parametrize("module", ["mlp", "batch norm"])
def test_cells_with_other_numbers_of_rows_and_steps(module):
    """Cell 2 has smaller batches and skips every fifth step: as where its fold is smaller."""
    modules, (x, y) = cells_of(MODULES[module]), data()
    kwargs = {"weight_decay": 0.01}

    def batches_of(t):
        full = Batch(x[t, :2], y[t, :2], cells=(0, 1))
        return [full] if t % 5 == 4 else [full, Batch(x[t, 2:, :4], y[t, 2:, :4], cells=(2,))]

    def loss_of(t, c):
        rows = slice(4 if c == 2 else None)
        skipped = c == 2 and t % 5 == 4
        return None if skipped else lambda m: nn.functional.cross_entropy(m(x[t, c, rows]), y[t, c, rows])

    stack = stack_of(modules, optimizer=torch.optim.Adam, kwargs=kwargs)
    assert stack.mixes_rows == (module == "batch norm")
    alone = assert_agrees(modules, stack, loss_of, batches_of, torch.optim.Adam, kwargs)
    assert [int(stack.optimizer_state(0, c)["state"][0]["step"]) for c in range(N_CELLS)] == [30, 30, 24]
    stack.keep([2])
    assert_same(stack, 0, 2, alone[2, 2].module)


def clipped_one_after_the_other(parameters, norm_type, met):
    """Clip as in PyTorch: at a number, then at a percentile of the norms that were `met`."""
    nn.utils.clip_grad_norm_(parameters, 0.1, norm_type)
    threshold = np.percentile(met, 60) if len(met) >= 2 else np.inf
    met.append(float(nn.utils.clip_grad_norm_(parameters, threshold)))


@pytest.mark.one_fast
@pytest.mark.parametrize("module", ["mlp", "layer norm"])
@pytest.mark.parametrize("norm_type", [2.0, torch.inf])
def test_gradients_are_clipped_run_by_run(module, norm_type):
    modules, (x, y) = cells_of(MODULES[module]), data()
    assert_agrees(
        modules,
        stack_of(modules, clips=[Clip(0.1, norm_type=norm_type), Clip(percentile=60, startup_steps=2)]),
        lambda t, c: lambda m: nn.functional.cross_entropy(m(x[t, c] * 10**c), y[t, c]),
        lambda t: [Batch(x[t] * torch.tensor([1.0, 10.0, 100.0]).double()[:, None, None], y[t])],
        clip=lambda run: clipped_one_after_the_other(list(run.module.parameters()), norm_type, run.met),
    )


def test_parameter_groups_have_their_own_rates_and_decay():
    modules, (x, y) = cells_of(mlp), data()
    groups = [
        (["4.weight", "4.bias"], {"lr": 0.02, "weight_decay": 0.0, "momentum": 0.5}),
        (["0.weight", "0.bias", "2.weight", "2.bias"], {}),
    ]
    kwargs = {"weight_decay": 0.1, "momentum": 0.9}
    stack = stack_of(modules, kwargs=kwargs, groups=groups)
    alone = assert_agrees(
        modules,
        stack,
        lambda t, c: lambda m: nn.functional.cross_entropy(m(x[t, c]), y[t, c]),
        lambda t: [Batch(x[t], y[t])],
        kwargs=kwargs,
        groups=groups,
    )
    expected, state = alone[1, 1].optimizer.state_dict(), stack.optimizer_state(1, 1)
    assert [g["params"] for g in state["param_groups"]] == [g["params"] for g in expected["param_groups"]]
    for i, entry in expected["state"].items():
        assert torch.allclose(state["state"][i]["momentum_buffer"], entry["momentum_buffer"])


@pytest.mark.parametrize(
    ("optimizer", "kwargs"),
    [
        (torch.optim.SGD, [{"momentum": 0.9}, {"momentum": 0.9, "weight_decay": 0.1}, {"weight_decay": 0.3}]),
        (torch.optim.AdamW, [{"weight_decay": 0.1}, {}, {"betas": (0.5, 0.9), "weight_decay": 0.2}]),
        (torch.optim.NAdam, [{"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled_weight_decay": True}, {}]),
    ],
)
def test_candidates_may_differ_in_their_optimizers_arguments(optimizer, kwargs):
    modules, (x, y) = cells_of(mlp), data()
    stack = stack_of(modules, optimizer=optimizer, kwargs=kwargs)
    alone = [[Alone(m, optimizer, own, lr) for m in modules] for own, lr in zip(kwargs, LRS, strict=True)]

    def train(steps, candidates):
        for t in steps:
            stack.step(rates(t, [LRS[k] for k in candidates]), Batch(x[t], y[t]))
            for k in candidates:
                for c, run in enumerate(alone[k]):
                    run.step(lambda m, c=c, t=t: nn.functional.cross_entropy(m(x[t, c]), y[t, c]), t)

    train(range(15), [0, 1, 2])
    stack.keep([2, 0])
    train(range(15, 30), [2, 0])
    assert stack.n_candidates == 2
    for position, k in enumerate([2, 0]):
        for c, run in enumerate(alone[k]):
            assert_same(stack, position, c, run.module)


@pytest.mark.parametrize("module", ["mlp", "batch norm", "frozen"])
def test_candidates_that_stay_do_not_notice_the_others_leaving(module):
    modules, (x, y) = cells_of(MODULES[module]), data()
    all_along, kept = (stack_of(modules, optimizer=torch.optim.Adam) for _ in range(2))
    for t in range(N_STEPS):
        if t == 10:
            kept.keep([2, 0])
        all_along.step(rates(t), Batch(x[t], y[t]))
        kept.step(rates(t) if t < 10 else rates(t, [LRS[2], LRS[0]]), Batch(x[t], y[t]))
    for position, k in enumerate([2, 0]):
        for c, module_ in enumerate(modules):
            assert_same(kept, position, c, all_along.load_run(k, c, copy.deepcopy(module_)))


@pytest.mark.parametrize("optimizer", ["SGD, all of it", "Adam", "RMSprop"])
@pytest.mark.parametrize("module", ["mlp", "batch norm", "attention"])
def test_a_run_that_diverges_changes_no_bit_of_another(module, optimizer):
    modules, (x, y) = cells_of(MODULES[module]), data()
    cls, kwargs = OPTIMIZERS[optimizer]
    calm, broken = (stack_of(modules, optimizer=cls, kwargs=kwargs, clips=[Clip(1.0)]) for _ in range(2))
    for t in range(10):
        lr = rates(t)
        calm.step(lr, Batch(x[t], y[t]))
        lr = lr.clone()
        lr[1, 0] = torch.inf if t == 3 else lr[1, 0]
        losses = broken.step(lr, Batch(x[t], y[t]))
    assert losses[1, 0].isnan()
    assert losses.isnan().sum() == 1
    for k in range(len(LRS)):
        for c, module_ in enumerate(modules):
            if (k, c) != (1, 0):
                expected = calm.load_run(k, c, copy.deepcopy(module_)).state_dict()
                found = broken.load_run(k, c, copy.deepcopy(module_)).state_dict()
                assert all(torch.equal(found[n], expected[n]) for n in expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda: mlp(nn.Dropout(0.5)),
        lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 3)),
        lambda: mlp(nn.LayerNorm(7), nn.Dropout(0.5)),
        lambda: nn.Sequential(
            nn.Unflatten(1, (2, 4)), nn.TransformerEncoderLayer(4, 2, 8, dropout=0.5, batch_first=True), nn.Flatten(),
            nn.Linear(8, 3),
        ),
    ],
    ids=["chain", "on the input", "layer norm", "transformer"],
)  # fmt: skip
def test_dropout_is_shared_by_the_candidates_of_a_cell_only(make):
    first = make().double()
    modules = [copy.deepcopy(first) for _ in range(N_CELLS)]
    x, y = data()
    x, y = x[:, :1].expand_as(x), y[:, :1].expand_as(y)
    stack = stack_of(modules)
    for t in range(3):
        losses = stack.step(torch.full((len(LRS), N_CELLS), 0.1), Batch(x[t], y[t]))
        assert torch.allclose(losses, losses[:1].expand_as(losses), rtol=1e-12)
        assert len(losses[0].unique()) == N_CELLS


def test_dropout_in_the_fast_lane_drops_and_rescales():
    module = nn.Sequential(nn.Dropout(0.25), nn.Linear(8, 1))
    nn.init.ones_(module[1].weight), nn.init.zeros_(module[1].bias)
    target, ones = torch.zeros(1, 4000, 1), torch.ones(1, 4000, 8)
    stack = ModelStack([module], 1, nn.L1Loss(), torch.optim.SGD, {}, example=(ones[0], target[0]))
    loss = float(stack.step(torch.zeros(1, 1), Batch(ones, target)))
    # 4000 x 8 draws of mean 1 and variance 1/3, summed in eights: standard error 8 x sqrt(1/3 / 32000) = 0.026
    assert abs(loss - 8) < 0.1, loss


def test_inputs_by_name_and_embeddings():
    modules = cells_of(TwoInputs)
    x, y = data()
    x2 = {"a": x, "b": x.flip(0)}
    stack = stack_of(modules, example=({k: v[0, 0] for k, v in x2.items()}, y[0, 0]))
    assert_agrees(
        modules,
        stack,
        lambda t, c: lambda m: nn.functional.cross_entropy(m(**{k: v[t, c] for k, v in x2.items()}), y[t, c]),
        lambda t: [Batch({k: v[t] for k, v in x2.items()}, y[t])],
    )
    words = torch.randint(0, 5, (N_STEPS, N_CELLS, N_ROWS, 4))
    modules = cells_of(lambda: nn.Sequential(nn.Embedding(5, 2), nn.Flatten(), nn.Linear(8, 3)))
    assert_agrees(
        modules,
        stack_of(modules, example=(words[0, 0], y[0, 0])),
        lambda t, c: lambda m: nn.functional.cross_entropy(m(words[t, c]), y[t, c]),
        lambda t: [Batch(words[t], y[t])],
    )


def test_float32_follows_float64():
    modules, (x, y) = cells_of(mlp), data()
    double = stack_of(modules, optimizer=torch.optim.Adam)
    single = stack_of([copy.deepcopy(m).float() for m in modules], optimizer=torch.optim.Adam,
                      example=(x[0, 0].float(), y[0, 0]))  # fmt: skip
    for t in range(N_STEPS):
        a, b = double.step(rates(t), Batch(x[t], y[t])), single.step(rates(t), Batch(x[t].float(), y[t]))
    assert torch.allclose(a, b.double(), rtol=1e-4)


def test_a_criterion_of_whole_batches_refuses_weights():
    stack = stack_of([mlp().double()], lambda out, target: out.std())
    x, y = data(1)
    with pytest.raises(ValueError, match="weight must be None for a criterion that is not a mean or sum over rows"):
        stack.step(torch.ones(3, 1), Batch(x[0, :1], y[0, :1], torch.ones(1, N_ROWS)))
