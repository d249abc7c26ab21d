"""What cannot be stacked says so before the training, in words."""

import copy

import pytest
import torch
from test_agreement import reasons_against
from torch import nn
from torch.nn import functional as F

from sklr._utils.precision import _switches, full_precision
from sklr.engines.stacked.kernels.attention import BatchableAttention, attention

X, Y = torch.rand(12, 8), torch.arange(12) % 3


class Custom(nn.Module):
    """A linear layer with a forward pass of the test's."""

    def __init__(self, forward, **extra):
        super().__init__()
        self.linear, self.calls, self.forward_ = nn.Linear(8, 3), 0, forward
        for name, value in extra.items():
            if isinstance(value, torch.Tensor):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, x):
        return self.forward_(self, x)


class Identity(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Mistaken(Identity):
    """With a rule for mapping that is wrong."""

    @staticmethod
    def vmap(info, in_dims, x):
        return Mistaken.apply(1.2 * x), in_dims[0]


def mistaken(m, x):
    return Mistaken.apply(m.linear(x))


def counting(m, x):
    m.calls += m.training
    return m.linear(x) * (1 + m.calls)


def counting_predictions(m, x):
    m.calls += not m.training
    return m.linear(x) * (1 + m.calls // 100)


def remembering(m, x):
    if m.training:
        m.mean = 0.9 * m.mean + 0.1 * x.mean()
    return m.linear(x) - m.mean


def own_attention(m, x):
    h = x.unflatten(1, (2, 4))
    return m.linear(F.scaled_dot_product_attention(h, h, h, dropout_p=0.2 if m.training else 0.0).flatten(1))


def mixed(dtype, back, layer=lambda m, x: m.linear(x)):
    def forward(m, x):
        with torch.autocast("cpu", dtype=dtype):
            h = layer(m, x)
        return h.float() if back else h

    return Custom(forward)


STACKABLE = {
    "mlp": nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)),
    "dropout": nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Dropout(0.3), nn.Linear(5, 3)),
    "functional dropout": Custom(lambda m, x: m.linear(F.dropout(x, 0.5, m.training))),
    "batch norm": nn.Sequential(nn.Linear(8, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)),
    "transformer": nn.Sequential(
        nn.Unflatten(1, (2, 4)), nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.Flatten(), nn.Linear(8, 3)
    ),
    "attention with dropout": Custom(own_attention),
    "float64": nn.Linear(8, 3).double(),
    "mixed precision": mixed(torch.bfloat16, back=True),
    "half precision outputs": mixed(torch.float16, back=False),
    "LSTM": Custom(
        lambda m, x: m.linear(m.rnn(x.unflatten(1, (2, 4)))[0].flatten(1)), rnn=nn.LSTM(4, 4, batch_first=True)
    ),
    "GRU": Custom(
        lambda m, x: m.linear(m.rnn(x.unflatten(1, (2, 4)))[0].flatten(1)), rnn=nn.GRU(4, 4, batch_first=True)
    ),
    "reassigned buffer": Custom(remembering, mean=torch.zeros(())),
}


@pytest.mark.parametrize("name", STACKABLE)
def test_no_reason_against(name):
    module = STACKABLE[name]
    before, rng = copy.deepcopy(module.state_dict()), torch.random.get_rng_state()
    assert reasons_against(module, X, Y) == []
    assert all(torch.equal(v, before[n]) for n, v in module.state_dict().items())
    assert torch.equal(rng, torch.random.get_rng_state())


UNSTACKABLE = {
    "RReLU": (nn.Sequential(nn.Linear(8, 3), nn.RReLU()), "(RReLU) uses an operation that PyTorch cannot vec"),
    "item": (Custom(lambda m, x: m.linear(x) * m.linear.weight.max().item()), "it reads a tensor's value in Python"),
    "if": (Custom(lambda m, x: m.linear(x) if x.sum() > 0 else m.linear(-x)), "it reads a tensor's value in Python"),
    "mistaken": (Custom(mistaken), "in a stack and"),
    "mistaken, mixed": (mixed(torch.bfloat16, True, mistaken), "in a stack"),
    "counted steps": (Custom(counting), "changes its attribute 'calls' each time it is called"),
    "counted predictions": (Custom(counting_predictions), "in evaluation mode it changes its attribute"),
    "batch statistics": (nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(3, track_running_stats=False)),
                         "what it predicts for a row depends on the other rows of the batch"),
    "noise": (Custom(lambda m, x: m.linear(x + torch.randn_like(x))), "in evaluation mode it draws random numbers"),
    "noise in training": (
        Custom(lambda m, x: m.linear(x + torch.randn_like(x) if m.training else x)),
        "it draws random numbers in training by other",
    ),
    "lazy": (nn.LazyLinear(3), "its lazy layers are not initialized yet"),
    "unused": (Custom(lambda m, x: m.linear(x), other=nn.Linear(2, 2)),
               "has a parameter 'other.weight' that a step does not use"),
    "frozen": (nn.Linear(8, 3).requires_grad_(False), "it has no trainable parameter"),
    "mixed": (nn.Sequential(nn.Linear(8, 3), nn.Linear(3, 3).double()), "same dtype"),
    "sparse": (Custom(lambda m, x: m.linear(x) + m.e(x[:, 0].long()), e=nn.Embedding(3, 3, sparse=True)),
               "its gradients are sparse"),
    "broken": (nn.Linear(7, 3), "mat1 and mat2 shapes cannot be multiplied"),
    "cumulative": (nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(3, momentum=None)),
                   "the layer '1' (BatchNorm1d) has momentum=None"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSTACKABLE)
def test_reasons_against_a_module(name):
    module, words = UNSTACKABLE[name]
    (reason,) = reasons_against(module, X, Y)
    assert words in reason


def test_a_criterion_that_learns_is_a_reason():
    class Scaled(nn.CrossEntropyLoss):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

    reasons = reasons_against(nn.Linear(8, 3), X, Y, Scaled)
    assert reasons == [
        "the criterion has trainable parameters, and a stack trains the module's alone: move them into the module"
    ]


class Precise(nn.Module):
    """Differs from call to call as TF32 does, unless products are to be precise."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 3)
        self.seen = []

    def forward(self, x):
        precise = not torch.backends.cudnn.allow_tf32 and torch.get_float32_matmul_precision() == "highest"
        return self.layer(x) * (1.0 if precise else 1.0 + 1e-3 * torch.rand(()))


def test_audits_are_precise_whatever_the_settings(settings):
    assert reasons_against(Precise(), X, Y) == []


@pytest.fixture(params=["usual", "high", "medium", "no TF32", "new", "mixed"])
def settings(request):
    """PyTorch's settings of float32 precision, the older ones and, from 2.9 on, the newer; as before afterwards."""
    backends, new = torch.backends, hasattr(torch.backends.cudnn, "conv")
    with full_precision():
        backends.cudnn.allow_tf32 = request.param != "no TF32"
        torch.set_float32_matmul_precision(request.param if request.param in ("high", "medium") else "highest")
        if new and request.param in ("new", "mixed"):
            backends.cudnn.conv.fp32_precision = "tf32" if request.param == "new" else "ieee"
            backends.cuda.matmul.fp32_precision = "tf32"
        yield


def test_settings_are_as_before_after_a_precise_part(settings):
    def found():
        values = []
        for where, name, _ in _switches():
            try:
                values.append(getattr(where, name))
            except RuntimeError:  # an older setting, where a newer one says something else
                values.append(None)
        return values

    before = found()
    with full_precision():
        assert torch.backends.cudnn.allow_tf32 is False
        assert torch.get_float32_matmul_precision() == "highest"
    assert found() == before


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_causal": True},
        {"scale": 0.3},
        {"attn_mask": torch.ones(5, 5).tril().bool()},
        {"attn_mask": torch.linspace(0, 1, 25).reshape(5, 5).double()},
    ],
)
def test_attention_by_steps_is_attention(options):
    q, k, v = torch.randn(3, 2, 4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(attention(q, k, v, **options), F.scaled_dot_product_attention(q, k, v, **options))
    with BatchableAttention():
        mapped = torch.func.vmap(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **options))(q, k, v)
    assert torch.allclose(mapped, F.scaled_dot_product_attention(q, k, v, **options))


def test_attention_by_steps_shares_keys_between_heads():
    q, k = torch.randn(2, 4, 5, 6), torch.randn(2, 2, 5, 6)
    expected = F.scaled_dot_product_attention(q, k, k, enable_gqa=True)
    assert torch.allclose(attention(q, k, k, enable_gqa=True), expected, rtol=1e-4, atol=1e-6)
