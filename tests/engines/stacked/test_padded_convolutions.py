"""Channels padded with zeros change no convolution, and no training."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import vmap
from torch.nn import functional as F

from sklr import LRGridSearchCV, NeuralNetClassifier
from sklr.engines.stacked.kernels import convolution
from sklr.engines.stacked.kernels.convolution import PaddedConvolutions, gains_by_padding


# PyTorch says so once in a process
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@settings(max_examples=60, deadline=None)
@given(
    n_in=st.integers(1, 18),
    n_out=st.integers(1, 18),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    padding=st.one_of(st.integers(0, 2), st.sampled_from(["same", "valid"])),
    mode=st.sampled_from(["zeros", "reflect", "circular"]),
    bias=st.booleans(),
    batched=st.booleans(),
    seed=st.integers(0, 99),
)
def test_outputs_and_gradients_are_those_without(n_in, n_out, kernel, stride, padding, mode, bias, batched, seed):
    torch.manual_seed(seed)
    stride = 1 if padding == "same" else stride
    layer = nn.Conv2d(n_in, n_out, kernel, stride, padding, bias=bias, padding_mode=mode).double()
    x = torch.randn(*([3] if batched else []), n_in, 7, 6, dtype=torch.float64, requires_grad=True)
    leaves = [x, *layer.parameters()]
    expected = layer(x)
    with PaddedConvolutions():
        found = layer(x)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected)
    for one, other in zip(*(torch.autograd.grad(out.square().sum(), leaves) for out in (found, expected)), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("groups", [2, 6])
def test_grouped_and_mapped_convolutions_are_right_too(groups):
    layer = nn.Conv2d(6, 12, 3, groups=groups)
    x, weights = torch.randn(4, 2, 6, 5, 5), torch.randn(4, *layer.weight.shape)

    def run(weight, x):
        return torch.func.functional_call(layer, {"weight": weight}, x)

    expected = torch.stack([run(weight, one) for weight, one in zip(weights, x, strict=True)])
    with PaddedConvolutions():
        torch.testing.assert_close(vmap(run)(weights, x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("n_by_position", range(5))
def test_arguments_are_passed_as_to_conv2d(n_by_position):
    arguments = {"input": torch.randn(2, 6, 5, 5), "weight": torch.randn(9, 6, 2, 2), "bias": torch.randn(9)}
    arguments |= {"stride": 2, "padding": 1}
    given = list(arguments.values())[:n_by_position], dict(list(arguments.items())[n_by_position:])
    expected = F.conv2d(*given[0], **given[1])
    with PaddedConvolutions():
        torch.testing.assert_close(F.conv2d(*given[0], **given[1]), expected, atol=1e-5, rtol=1e-5)


class Merging(nn.Module):
    """Views channels and pixels as one axis, which not every layout in memory allows."""

    def forward(self, x):
        return x.view(x.shape[0], -1)


@pytest.mark.parametrize("n_rows", [1, 3])
@pytest.mark.parametrize(
    "layer",
    [
        *(nn.GroupNorm(2, 10), nn.InstanceNorm2d(10), nn.LayerNorm([10, 5, 5]), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(Merging(), nn.PReLU(10), nn.Conv2d(10, 6, 2), nn.ConvTranspose2d(10, 3, 2), nn.Softmax2d()),
    ],
)
def test_what_follows_a_mapped_convolution_computes_the_same(layer, n_rows):
    module = nn.Sequential(nn.Conv2d(6, 10, 1), layer).double()
    params = {name: torch.stack([p.detach(), 2 * p.detach()]).requires_grad_() for name, p in module.named_parameters()}
    x = torch.randn(n_rows, 6, 5, 5, dtype=torch.float64)
    found = []
    for mode in nullcontext(), PaddedConvolutions():
        with mode:
            out = vmap(lambda own: torch.func.functional_call(module, own, x))(params)
        found.append([out, *torch.autograd.grad(out.sin().sum(), list(params.values()))])
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize(
    ("layer", "gains"),
    [
        (nn.Conv2d(6, 16, 5), True),
        (nn.Conv2d(16, 20, 5), True),
        (nn.Conv2d(8, 16, 5), False),
        (nn.Conv2d(1, 6, 5), False),
        (nn.Conv2d(6, 12, 3, groups=2), False),
        (nn.Conv2d(6, 16, 5).double(), False),
        (nn.Linear(6, 16), False),
    ],
)
def test_it_is_done_where_it_is_faster(layer, gains):
    assert gains_by_padding(nn.Sequential(nn.ReLU(), layer)) is gains


def lenet():
    return nn.Sequential(
        *(nn.Unflatten(1, (1, 8)), nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 10, 3)),
        *(nn.ReLU(), nn.Flatten(), nn.Linear(40, 3)),
    )


def test_a_stack_trains_as_one_by_one(monkeypatch):
    """In float32, which padding is for; agreement to the last digits is tested above."""
    calls, padded = [], convolution._padded
    monkeypatch.setattr(convolution, "_padded", lambda *args, **kwargs: calls.append(args) or padded(*args, **kwargs))
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 8, 8)).astype("float32"), rng.integers(0, 3, 60)
    net = NeuralNetClassifier(lenet, max_epochs=3, batch_size=16, optimizer__momentum=0.9, random_state=0)
    stacked, alone = (
        LRGridSearchCV(net, lrs=[0.001, 0.01], cv=2, refit=False, engine=engine, random_state=0).fit(X, y)
        for engine in ("stacked", "sequential")
    )
    assert calls
    np.testing.assert_allclose(stacked.history_["train_loss"], alone.history_["train_loss"], rtol=1e-4)
    np.testing.assert_allclose(stacked.cell_scores_, alone.cell_scores_, atol=1 / 30)
