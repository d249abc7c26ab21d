"""The table of optimizers that stacks know, held to PyTorch: two runs stepped together, and each by itself."""

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sklr.engines.stacked.optim.known import decay_form, optimizer_reasons
from sklr.engines.stacked.optim.optimizer import StackedOptimizer

LRS = (0.3, 0.002)
SHAPES = {"a": (3, 4), "b": (5,)}
OPTIONS = {  # of each optimizer that can be stacked, and some of their values
    "SGD": {
        "momentum": [0.0, 0.9], "dampening": [0.0, 0.1], "nesterov": [False, True], "maximize": [False, True],
        "fused": [None, True], "foreach": [None, True],
    },
    "Adam": {
        "betas": [(0.9, 0.999), (0.5, 0.8)], "amsgrad": [False, True], "maximize": [False, True],
        "foreach": [None, True], "decoupled_weight_decay": [False, True],
    },
    "AdamW": {"amsgrad": [False, True], "maximize": [False, True], "eps": [1e-8, 0.1]},
    "RMSprop": {"momentum": [0.0, 0.5], "centered": [False, True], "alpha": [0.9, 0.99], "maximize": [False, True]},
    "Adadelta": {"rho": [0.5, 0.9], "maximize": [False, True]},
    "Adagrad": {"lr_decay": [0.0, 0.1], "initial_accumulator_value": [0.0, 0.1], "maximize": [False, True]},
    "Adamax": {"betas": [(0.9, 0.999), (0.5, 0.8)], "maximize": [False, True]},
    "NAdam": {"decoupled_weight_decay": [False, True], "momentum_decay": [0.0, 0.004], "maximize": [False, True]},
    "RAdam": {"decoupled_weight_decay": [False, True], "maximize": [False, True]},
}  # fmt: skip


@st.composite
def optimizers(draw):
    name = draw(st.sampled_from(sorted(OPTIONS)))
    known = inspect.signature(getattr(torch.optim, name)).parameters  # not all have been there in PyTorch 2.6
    chosen = {option: draw(st.sampled_from(values)) for option, values in OPTIONS[name].items() if option in known}
    if chosen.get("nesterov"):
        chosen |= {"momentum": 0.9, "dampening": 0.0}
    if chosen.get("fused"):
        chosen["foreach"] = None
    decay = [{"weight_decay": draw(st.sampled_from([0.0, 0.1]))} for _ in LRS]
    in_group = draw(st.sampled_from([{}, {"weight_decay": 0.5}]))
    return getattr(torch.optim, name), [{**chosen, **own} for own in decay], [(["a"], in_group), (["b"], {})]


def alone(optimizer, kwargs, groups, params):
    described = [{**override, "params": [params[name] for name in names]} for names, override in groups]
    return optimizer(described, lr=1.0, **kwargs)


@given(optimizers())
@settings(max_examples=60, deadline=None)
def test_runs_stepped_together_are_stepped_as_each_by_itself(drawn):
    optimizer, kwargs, groups = drawn
    draw = torch.Generator().manual_seed(0)

    def normal(shape):
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    start = {name: normal(shape) for name, shape in SHAPES.items()}
    stacked = {name: torch.stack([p, p]).unsqueeze(0) for name, p in start.items()}
    together = StackedOptimizer(stacked, optimizer, kwargs, groups)
    runs = [{name: p.clone().requires_grad_() for name, p in start.items()} for _ in LRS]
    optimizers = [alone(optimizer, own, groups, run) for own, run in zip(kwargs, runs, strict=True)]
    for multiplier in (0.5, 1.0, 0.25, 0.0, 1.5, 1.0):
        for name, shape in SHAPES.items():
            grad = normal(shape)
            together.grads[name].copy_(grad)
            for run in runs:
                run[name].grad = grad.clone()
        together.step((torch.tensor(LRS, dtype=torch.float64) * multiplier).expand(len(groups), 1, 2))
        for one, lr in zip(optimizers, LRS, strict=True):
            for group in one.param_groups:
                group["lr"] = lr * multiplier
            one.step()
    for i, run in enumerate(runs):
        for name, p in run.items():
            torch.testing.assert_close(stacked[name][0, i], p.detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["LBFGS", "Rprop", "ASGD", "Adafactor", "SparseAdam"])
def test_what_else_pytorch_has_is_refused_by_name(name):
    (reason,) = optimizer_reasons(getattr(torch.optim, name))
    assert reason.startswith(f"optimizer {name}: its step is not known to be elementwise and proportional to lr")


def test_other_peoples_optimizers_are_refused():
    class LrInBuffer(torch.optim.SGD):
        """Momentum that accumulates `lr x grad`: the same at a constant lr, not under a schedule."""

    (reason,) = optimizer_reasons(LrInBuffer)
    assert reason.startswith("LrInBuffer is not one of PyTorch's own optimizers")


@pytest.mark.parametrize(
    ("optimizer", "kwargs", "form"),
    [
        (torch.optim.SGD, {"momentum": 0.9}, "coupled"),
        (torch.optim.SGD, {"maximize": True}, "opposed"),
        (torch.optim.AdamW, {}, "decoupled"),
        (torch.optim.AdamW, {"maximize": True}, "decoupled"),
        (torch.optim.RAdam, {"decoupled_weight_decay": True}, "decoupled"),
    ],
)
def test_how_weight_decay_enters(optimizer, kwargs, form):
    assert decay_form(optimizer, kwargs) == form
