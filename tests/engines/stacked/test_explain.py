"""What an error of a trial means, in words, over modules that torch.func cannot vectorize."""

import random
import re
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_agreement import reasons_against
from torch import nn
from torch.func import functional_call, vmap
from torch.utils.checkpoint import checkpoint

from sklr.engines.stacked.checks.explain import explained, first_line
from sklr.engines.stacked.purity.untouched import Untouched

X, Y = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3


class Layer(nn.Module):
    """Does with its input what `act` does; buffers and attributes are given by name."""

    def __init__(self, act, **held):
        super().__init__()
        self.act = act
        for name, value in held.items():
            if type(value) is torch.Tensor:
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, X):
        return self.act(self, X)


class Body(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.first, self.odd = nn.Linear(4, 4), layer

    def forward(self, X):
        return self.odd(self.first(X))


def net_of(layer):
    torch.manual_seed(0)
    return nn.Sequential(Body(layer), nn.Linear(4, 3))


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


class NoRule(Double):
    @staticmethod
    def forward(x):
        return x * 2

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass


def grown(m, x):
    out = torch.zeros(len(x), 4)
    return out.add_(x)


def placed(m, x):
    out = torch.zeros(len(x), 4)
    out[torch.arange(len(x)), 0] = x[:, 0]
    return out


def scattered(m, x):
    return torch.zeros_like(x).scatter_(1, torch.zeros(len(x), 4, dtype=torch.long), x)


def asks(m, x):
    x = x.detach().requires_grad_()
    return torch.autograd.grad((x**2).sum(), x)[0]


def halved(m, x):
    while x.abs().max() > 1:
        x = x / 2
    return x


class Embedded(nn.Module):
    def __init__(self, embedding):
        super().__init__()
        self.embedding = embedding

    def forward(self, X):
        return X + self.embedding((X.detach()[:, :1] * 3).long().clamp(0, 8)).reshape(len(X), -1)


VALUE = "reads a tensor's value in Python"
SIZE = "makes tensors whose size depends on values"
SHARED = "writes in place into a tensor that the models of a stack would share"
MEMORY = "reads a tensor's memory"
FUNCTION = "uses a torch.autograd.Function that torch.func cannot vectorize"
OPERATION = "uses an operation that PyTorch cannot vectorize over models"
ODD = {  # a module, the layer in it that is named, and what is said of it
    "item": (Layer(lambda m, x: x / x.sum().item()), "", VALUE),
    "float": (Layer(lambda m, x: x * float(x.detach().mean())), "", VALUE),
    "if": (Layer(lambda m, x: x if x.sum() > 0 else -x), "", VALUE),
    "while": (Layer(halved), "", VALUE),
    "index of a list": (Layer(lambda m, x: x * [1, 2, 3][x.argmax() % 3]), "", VALUE),
    "slice": (Layer(lambda m, x: x[: int(x[0, 0] * 0) + 8] * 1), "", VALUE),
    "tensor of tensors": (Layer(lambda m, x: x + torch.tensor([x.detach()[0, 0], 1, 1, 1])), "", VALUE),
    "unique": (Layer(lambda m, x: x + torch.unique(x.round()).numel()), "", f"{SIZE}, as .*aten::_unique2"),
    "nonzero": (Layer(lambda m, x: x + len(torch.nonzero(x))), "", f"{SIZE}.*aten::nonzero"),
    "boolean mask": (Layer(lambda m, x: x + x[x > 0].mean()), "", SIZE),
    "masked_select": (Layer(lambda m, x: x + torch.masked_select(x, x > 0).mean()), "", f"{SIZE}.*torch.masked_select"),
    "Function": (Layer(lambda m, x: Double.apply(x)), "", FUNCTION),
    "Function without vmap": (Layer(lambda m, x: NoRule.apply(x)), "", FUNCTION),
    "add_": (Layer(grown), "", SHARED),
    "index_put_": (Layer(placed), "", SHARED),
    "numpy": (Layer(lambda m, x: x + torch.as_tensor(np.sin(x.detach().numpy()))), "", MEMORY),
    "tolist": (Layer(lambda m, x: x + sum(x.flatten().tolist())), "", MEMORY),
    "data": (Layer(lambda m, x: x.data.clamp_(min=0) * 1), "", "uses .data of a tensor"),
    "in-place noise": (Layer(lambda m, x: x * torch.empty_like(x).bernoulli_(0.5)), "", "draws random numbers by an"),
    "requires_grad_": (Layer(asks), "", "asks for gradients in its forward pass"),
    "scatter_": (Layer(scattered), "", f"{OPERATION} .aten::scatter_"),
    "bincount": (Layer(lambda m, x: x + torch.bincount((x.detach() > 0).long().flatten(), minlength=4)), "", OPERATION),
    "allclose": (Layer(lambda m, x: x if torch.allclose(x, x) else -x), "", f"{OPERATION} .torch.allclose"),
    "sparse": (Layer(lambda m, x: torch.sparse.mm(torch.eye(4).to_sparse(), x.T).T), "", f"{OPERATION} .aten::_sp"),
    "RReLU": (nn.RReLU(), "", f"{OPERATION} .aten::rrelu.: "),
    "EmbeddingBag": (Embedded(nn.EmbeddingBag(9, 4)), ".embedding", f"{OPERATION} .aten::embedding_bag.: "),
    "max_norm": (Embedded(nn.Embedding(9, 4, max_norm=0.1)), ".embedding", f"{OPERATION} .aten::embedding_renorm_.: "),
    "spectral_norm": (
        nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)), ".parametrizations.weight.0", f"{OPERATION} .aten::"
    ),
    "momentum=None": (nn.BatchNorm1d(4, momentum=None), "", "has momentum=None.*: set momentum to a number$"),
    "an error of one's own": (Layer(lambda m, x: {}["key"]), "", "raises KeyError: 'key'$"),
    "wrong widths": (nn.Linear(5, 4), "", "raises RuntimeError: .*size"),
}  # fmt: skip


def error_of(net):
    """Return what two models of two cells raise when they are called as one."""
    many = lambda tensors: {name: t.detach().expand(2, 2, *t.shape).clone() for name, t in tensors}  # noqa: E731
    params = {name: p.requires_grad_() for name, p in many(net.named_parameters()).items()}
    buffers = many(net.named_buffers())

    def run(params, buffers, x):
        return functional_call(net, {**params, **buffers}, (x,))

    cells = vmap(run, randomness="different")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            vmap(cells, in_dims=(0, 0, None), randomness="same")(params, buffers, torch.stack([X, -X])).sum().backward()
        except Exception as error:
            return error
    return None


def assert_plain(text):
    """One line in a user's words."""
    for word in ("file an issue", "file us", "functorch", "vmap:", "Triggered", "http", "\n", "batching rule"):
        assert word not in text
    assert text[-1] not in ".:; "
    assert len(text) < 400


@pytest.mark.parametrize("name", ODD)
def test_the_layer_and_what_it_does_are_named(name):
    layer, inner, words = ODD[name]
    net = net_of(layer)
    text = explained(error_of(net), net)
    kind = type(layer.get_submodule(inner.removeprefix("."))).__name__
    assert re.match(re.escape(f"the layer '0.odd{inner}' ({kind}) ") + words, text), text
    assert_plain(text)


@pytest.mark.parametrize("name", ODD)
def test_the_reason_says_it_in_plain_words_too(name):
    (reason,) = reasons_against(net_of(ODD[name][0]), X, Y)
    assert reason.count("module ") <= 1
    assert_plain(reason)


def test_the_users_line_is_shown():
    text = explained(error_of(net_of(Layer(placed))))
    assert "(`out[torch.arange(len(x)), 0] = x[:, 0]`)" in text


def test_the_module_itself_is_it():
    module = Layer(halved, linear=nn.Linear(4, 3))
    assert explained(error_of(module)).startswith(f"it {VALUE}")


class Picky(nn.Module):
    def forward(self, output, target=None):
        return output.mean() if output.sum() > 0 else output.sum()


def test_another_module_is_called_by_its_class():
    assert explained(error_of(Layer(lambda m, x: Picky()(x), linear=nn.Linear(4, 3)))).startswith(f"Picky {VALUE}")
    assert explained(error_of(net_of(Picky())), nn.Linear(4, 3)).startswith(f"Sequential {VALUE}")
    assert_plain(reasons_against(nn.Linear(4, 3), X, Y, Picky)[0])


def test_recomputation_in_the_backward_pass():
    text = explained(error_of(net_of(Layer(lambda m, x: checkpoint(torch.sin, x, use_reentrant=False)))))
    again = "it computes a part of itself again in the backward pass, as torch.utils.checkpoint does"
    by_function = "the layer '0.odd' (Layer) uses a torch.autograd.Function"  # what PyTorch 2.6 raises
    assert text.startswith((again, by_function))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RuntimeError("vmap: no rule for aten::lu. Please file an issue."), "no rule for aten::lu"),
        (RuntimeError("no rule. For more details, please see https://pytorch.org"), "no rule"),
        (RuntimeError("\n a\nb"), "a"),
        (ValueError(), ""),
        (ValueError("lr must be above 0, got -1."), "lr must be above 0, got -1"),
    ],
)
def test_first_line(error, text):
    assert first_line(error) == text


def test_an_error_without_a_traceback_or_a_message():
    assert explained(ValueError()) == "it raises ValueError"
    assert explained(UserWarning("old")) == "it warns: old"


def counted(holder, x):
    holder.n_calls += 1
    return x


def kept(holder, x):
    holder.seen["all"].append(len(holder.seen["all"]))
    return x


def lost(holder, x):
    holder.seen["all"].pop()
    return x


CHANGES = {
    "a counter": (counted, {"n_calls": 0}, "changes its attribute 'odd.n_calls' each time it is called"),
    "a list that grows": (kept, {"seen": {"all": []}}, "changes its attribute 'odd.seen' each time it is called"),
    "a list that shrinks": (lost, {"seen": {"all": [1, 2, 3], "none": []}}, "changes its attribute 'odd.seen' each"),
    "a coin of Python's": (lambda m, x: x * random.random(), {}, "draws random numbers from Python's random module"),
    "a coin of NumPy's": (lambda m, x: x * np.random.rand(), {}, "draws random numbers from NumPy each time"),
    "a generator of its own": (
        lambda m, x: x * m.rng.random(), {"rng": np.random.default_rng(0)}, "changes its attribute 'odd.rng' each time"
    ),
    "nothing": (lambda m, x: x, {"seen": [1]}, ""),
    "a tensor": (lambda m, x: setattr(m, "last", x), {"last": None, "seen": [1]}, "changes its attribute 'odd.last'"),
    "a tensor again": (lambda m, x: setattr(m, "last", SimpleNamespace(x=x.clone()).x), {"last": X}, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_what_changed_is_named(name):
    act, held, words = CHANGES[name]
    layer = Layer(act)
    vars(layer).update(held)
    body = Body(layer)
    untouched = Untouched(body)
    assert untouched.what_changed() == ""
    act(layer, X)
    assert untouched.what_changed().startswith(words)
    assert bool(untouched.what_changed()) == (not untouched.holds(strict=False)) == bool(words)


@pytest.mark.parametrize("name", ["a counter", "a coin of Python's", "a coin of NumPy's", "a generator of its own"])
def test_the_reason_names_what_changes(name):
    act, held, words = CHANGES[name]
    layer = Layer(lambda m, x: m.linear(act(m, x)), linear=nn.Linear(4, 4))
    vars(layer).update(held)
    (reason,) = reasons_against(net_of(layer), X, Y)
    assert reason.startswith(f"module Sequential: in evaluation mode it {words.replace('odd', '0.odd')}"), reason
