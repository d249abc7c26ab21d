"""The MLP: its layers, what it computes on, and what it refuses."""

import pytest
import torch
from torch import nn

from sklr.modules import MLP


def test_layers_stand_in_the_order_linear_norm_activation_dropout():
    mlp = MLP(4, 3, hidden=(8, 5), activation=nn.Tanh, dropout=0.1, batch_norm=True)
    hidden = [nn.Linear, nn.BatchNorm1d, nn.Tanh, nn.Dropout]
    assert [type(layer) for layer in mlp.layers] == [*hidden, *hidden, nn.Linear]
    assert [p.shape[0] for p in mlp.layers[4].parameters()] == [5, 5]


def test_without_hidden_layers_it_is_linear():
    mlp = MLP(3, 2, hidden=())
    x = torch.randn(5, 3)
    assert torch.equal(mlp(x), x @ mlp.layers[0].weight.T + mlp.layers[0].bias)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.float16, torch.float64])
def test_numbers_of_any_dtype_become_that_of_the_weights(dtype):
    mlp, x = MLP(3, 2), torch.eye(3)
    assert torch.equal(mlp(x.to(dtype)), mlp(x))
    assert MLP(3, 2, batch_norm=True, dtype=torch.float64)(x.to(dtype)).dtype == torch.float64


def test_many_copies_run_as_one_under_vmap():
    mlps = [MLP(3, 2, hidden=(4,)) for _ in range(3)]
    params, buffers = torch.func.stack_module_state(mlps)

    def run(params, buffers, x):
        return torch.func.functional_call(mlps[0], (params, buffers), (x,))

    x = torch.randn(3, 5, 3)
    together = torch.vmap(run)(params, buffers, x)
    apart = torch.stack([mlp(rows) for mlp, rows in zip(mlps, x, strict=True)])
    torch.testing.assert_close(together, apart)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"hidden": 64}, TypeError, r"hidden must be a sequence of widths, got 64. Write \(64,\) for one layer of 64."),
        ({"hidden": (64, 0)}, ValueError, "each width of hidden must be an integer >= 1, got 0."),
        ({"hidden": (2.5,)}, ValueError, "each width of hidden must be an integer >= 1, got 2.5."),
        ({"activation": "tanh"}, TypeError, "activation must be a callable that returns a module, got 'tanh'. Write"),
        ({"activation": nn.ReLU()}, TypeError, "activation must be a callable that returns a module, got ReLU()"),
        ({"dropout": 1.0}, ValueError, "dropout must be at least 0 and less than 1, got 1.0."),
        ({"n_inputs": 0}, ValueError, "n_inputs must be an integer >= 1, got 0."),
        ({"n_outputs": True}, ValueError, "n_outputs must be an integer >= 1, got True."),
    ],
)
def test_wrong_arguments_are_refused(wrong, error, message):
    with pytest.raises(error, match=message):
        MLP(**{"n_inputs": 3, "n_outputs": 2, **wrong})
