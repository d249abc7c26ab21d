"""Every kernel computes what PyTorch computes for each run by itself, and one function chooses among them."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from sklr.engines.stacked.data.batch import Batch
from sklr.engines.stacked.kernels.kernel import choose_kernel
from sklr.engines.stacked.kernels.mlp import MLPKernel
from sklr.engines.stacked.kernels.traits import examine
from sklr.engines.stacked.kernels.vmap import VmapKernel

N_CELLS, N_CANDIDATES, N_ROWS = 2, 3, 5
CRITERION = nn.CrossEntropyLoss()


def chain():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def normed():
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).double()


def pictures():
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 4, 2, padding=1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 3)
    ).double()


def traits_of(module):
    x, y = torch.rand(6, 4).double(), torch.randint(0, 3, (6,))
    return examine(module, (x, y), CRITERION, None)


def kernels():
    for make in (chain, normed, pictures):
        module = make()
        traits = traits_of(module)
        yield make, VmapKernel(module, traits.loss)
        if traits.chain is not None:
            yield make, MLPKernel(traits.chain, traits.eval_chain, traits.loss)


@pytest.mark.parametrize(("make", "kernel"), list(kernels()), ids=lambda v: getattr(v, "__name__", type(v).__name__))
@pytest.mark.parametrize("weighted", [False, True])
def test_a_kernel_computes_what_each_run_would(make, kernel, weighted):
    torch.manual_seed(0)
    module = make()
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


@pytest.mark.parametrize(("make", "kind"), [(chain, MLPKernel), (normed, VmapKernel), (pictures, VmapKernel)])
def test_one_function_chooses(make, kind):
    module = make()
    traits = traits_of(module)
    assert type(choose_kernel(module, traits.loss, traits)) is kind
