"""Every kernel computes what PyTorch computes for each run by itself, and one function chooses among them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from sklr.engines.stacked.data.batch import Batch
from sklr.engines.stacked.kernels.blocks import OF_CANDIDATES, Blocks
from sklr.engines.stacked.kernels.kernel import choose_kernel
from sklr.engines.stacked.kernels.mlp import MLPKernel
from sklr.engines.stacked.kernels.mlp_trace import record
from sklr.engines.stacked.kernels.traits import examine
from sklr.engines.stacked.kernels.vmap import VmapKernel

N_CELLS, N_CANDIDATES, N_ROWS = 2, 3, 5
CRITERION = nn.CrossEntropyLoss()


def chain():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def normed():
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).double()


def normed_twice():
    """One after a layer without bias, whose output it overwrites, and one after a function, whose output is kept."""
    return nn.Sequential(
        nn.Linear(4, 6, bias=False),
        nn.BatchNorm1d(6, momentum=0.3, eps=0.01),
        nn.Tanh(),
        nn.Linear(6, 5),
        nn.ReLU(),
        nn.BatchNorm1d(5),
        nn.Linear(5, 3),
    ).double()


def pictures():
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 4, 2, padding=1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 3)
    ).double()


def traits_of(module):
    x, y = torch.rand(6, 4).double(), torch.randint(0, 3, (6,))
    return examine(module, (x, y), CRITERION, None)


def kernels():
    for make in (chain, normed, normed_twice, pictures):
        module = make()
        traits = traits_of(module)
        for blocks in Blocks(), Blocks(2**30), Blocks(2**30, draws=True), Blocks(OF_CANDIDATES / N_ROWS / 2):
            yield make, VmapKernel(module, traits.loss, blocks=blocks)
        if traits.chain is not None:
            yield make, MLPKernel(traits.chain, traits.eval_chain, traits.loss)


@pytest.mark.parametrize(("make", "kernel"), list(kernels()), ids=lambda v: getattr(v, "__name__", type(v).__name__))
@pytest.mark.parametrize("weighted", [False, True])
def test_a_kernel_computes_what_each_run_would(make, kernel, weighted):
    torch.manual_seed(0)
    assert_computes_what_each_run_would(make(), kernel, weighted)


LAYERS = {
    "linear": lambda: nn.Linear(4, 4),
    "without bias": lambda: nn.Linear(4, 4, bias=False),
    "normalized": lambda: nn.BatchNorm1d(4, momentum=0.3),
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softmax": lambda: nn.Softmax(dim=1),
}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(sorted(LAYERS)), max_size=7), st.booleans(), st.booleans())
def test_any_chain_of_layers_is_computed_as_each_run_would(names, weighted, in_blocks):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 4), *(LAYERS[name]() for name in names), nn.Linear(4, 3)).double()
    traits = traits_of(module)
    chained = MLPKernel(traits.chain, traits.eval_chain, traits.loss)
    mapped = VmapKernel(module, traits.loss, blocks=Blocks(2**30 if in_blocks else 0))
    for kernel in chained, mapped:
        assert_computes_what_each_run_would(module, kernel, weighted)


def assert_computes_what_each_run_would(module, kernel, weighted):
    kernel.forget()  # tensors of an earlier test
    shape = (N_CELLS, N_CANDIDATES)
    params = {name: torch.randn(*shape, *p.shape).double() for name, p in module.named_parameters()}
    buffers = {n: b.expand(*shape[::-1], *b.shape).clone() for n, b in module.named_buffers()}
    grads = {name: torch.empty_like(p) for name, p in params.items()}
    x, y = torch.rand(N_CELLS, N_ROWS, 4).double(), torch.randint(0, 3, (N_CELLS, N_ROWS))
    weight = torch.rand(N_CELLS, N_ROWS).double() if weighted else None
    losses, after = kernel.gradients(params, {}, {n: b.clone() for n, b in buffers.items()}, Batch(x, y, weight), grads)
    for c in range(N_CELLS):
        for k in range(N_CANDIDATES):
            own = {name: p[c, k].clone().requires_grad_() for name, p in params.items()}
            state = {name: b[k, c].clone() for name, b in buffers.items()}
            each = nn.functional.cross_entropy(
                functional_call(module.train(), {**own, **state}, x[c]), y[c], reduction="none"
            )
            loss = each.mean() if weight is None else (each * weight[c]).sum() / weight[c].sum()
            loss.backward()
            torch.testing.assert_close(losses[c, k], loss.detach())
            for name, p in own.items():
                torch.testing.assert_close(grads[name][c, k], p.grad)
            for name, buffer in after.items():
                torch.testing.assert_close(buffer[k, c], state[name], check_dtype=False)
            expected = functional_call(module.eval(), {**own, **state}, x[c]).detach()
            found = kernel.outputs(params, {}, after, x)[c, k]
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("make", "kind"), [(chain, MLPKernel), (normed, MLPKernel), (pictures, VmapKernel)])
def test_one_function_chooses(make, kind):
    module = make()
    traits = traits_of(module)
    assert type(choose_kernel(module, traits.loss, traits)) is kind


class Pretrained(nn.Sequential):
    """Its normalization stays in evaluation mode."""

    def train(self, mode=True):
        super().train(mode)
        self[1].eval()
        return self


class Doubled(nn.BatchNorm1d):
    def forward(self, x):
        return 2 * super().forward(x)


def between(*layers):
    return nn.Sequential(nn.Linear(4, 6), *layers, nn.Linear(6, 3)).double()


KEPT = nn.BatchNorm1d(6)
NO_CHAINS = {
    "before the first layer": lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm1d(4), nn.Linear(4, 3)).double(),
    "without parameters": lambda: between(nn.BatchNorm1d(6, affine=False)),
    "of the batch also in evaluation": lambda: between(nn.BatchNorm1d(6, track_running_stats=False)),
    "in evaluation mode": lambda: Pretrained(*between(nn.BatchNorm1d(6))),
    "a class of the user's": lambda: between(Doubled(6)),
    "used twice": lambda: between(KEPT, nn.ReLU(), KEPT),
    "frozen": lambda: between(nn.BatchNorm1d(6).requires_grad_(False)),
    "beside another buffer": lambda: between(nn.BatchNorm1d(6), nn.InstanceNorm1d(6, track_running_stats=True)),
}


@pytest.mark.parametrize("make", NO_CHAINS.values(), ids=NO_CHAINS)
def test_batch_normalization_that_the_mlp_kernel_does_not_know(make):
    assert record(make().train(), torch.rand(6, 4).double()) is None


def test_looking_at_a_module_leaves_its_statistics():
    module = normed()
    record(module.train(), torch.rand(6, 4).double())
    assert module[1].num_batches_tracked == 0
    assert not module[1].running_mean.any()
