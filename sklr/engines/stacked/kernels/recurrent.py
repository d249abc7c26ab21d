"""Recurrent layers computed time step by time step, because `torch.func.vmap` cannot map PyTorch's own kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

State = tuple[Tensor, ...]  # h, and for an LSTM also c, of one layer and direction: (n_rows, n_features)
Step = Callable[[Tensor, State, Sequence[Any]], State]


class BatchableRecurrence(TorchFunctionMode):
    """Within this mode, `nn.RNN`, `nn.LSTM` and `nn.GRU` are computed from linear layers and elementwise functions.

    So are the cells such as `nn.LSTMCell`. `torch.lstm` and `torch.gru` have no batching rule, and neither have cuDNN's
    kernels, which CUDA uses for all of them. The formulas are those in the layers' documentation. Packed sequences are
    left to PyTorch's functions: their sizes depend on the values in a batch.

    >>> layer, x = torch.nn.GRU(3, 4), torch.rand(2, 5, 7, 3)  # two models, five time steps, seven rows
    >>> with BatchableRecurrence():
    ...     output, state = torch.func.vmap(layer)(x)
    >>> torch.allclose(output[1], layer(x[1])[0], atol=1e-6)
    True
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name not in RECURRENT or is_packed(args):
            return func(*args, **(kwargs or {}))
        compute = _cell if name.endswith(CELL) else _layers
        return compute(_STEPS[name.removesuffix(CELL)], *args, **(kwargs or {}))


def is_packed(args: Sequence[Any]) -> bool:
    """Whether the arguments of `torch.lstm` and its like are a packed sequence: the second one is its sizes.

    >>> is_packed((torch.rand(5, 3), torch.tensor([3, 2]), torch.zeros(1, 3, 4)))
    True
    """
    return len(args) > 1 and isinstance(args[1], Tensor) and not args[1].is_floating_point()


def leave_weights_apart(module: nn.Module) -> None:
    """Keep a module's recurrent layers from moving their weights into one chunk of memory, which cuDNN wants.

    They do so on CUDA whenever weights have changed, as in each functional call, and read addresses that tensors under
    `torch.func.vmap` do not have.
    """
    for layer in module.modules():
        if isinstance(layer, nn.RNNBase):
            vars(layer)["flatten_parameters"] = _do_nothing


def _do_nothing() -> None:
    pass


def _layers(
    step: Step,
    x: Tensor,
    hx: Tensor | Sequence[Tensor],
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool = False,
) -> tuple[Tensor, ...]:
    """Return the outputs and the last states, as `torch.lstm(...)` and `torch.gru(...)` do."""
    x = x.transpose(0, 1) if batch_first else x
    first = (hx,) if isinstance(hx, Tensor) else tuple(hx)
    n_directions = 1 + bidirectional
    n_params = len(params) // (num_layers * n_directions)
    last: list[State] = []
    for layer in range(num_layers):
        outputs = []
        for direction in range(n_directions):
            i = len(last)
            own, state = params[i * n_params : (i + 1) * n_params], tuple(h[i] for h in first)
            output, state = _sequence(step, x, state, own, biased=has_biases, backwards=direction == 1)
            outputs.append(output)
            last.append(state)
        x = torch.cat(outputs, -1) if bidirectional else outputs[0]
        if dropout and train and layer < num_layers - 1:
            x = F.dropout(x, dropout)
    return (x.transpose(0, 1) if batch_first else x, *map(torch.stack, zip(*last, strict=True)))


def _cell(
    step: Step,
    x: Tensor,
    hx: Tensor | Sequence[Tensor],
    w_input: Tensor,
    w_state: Tensor,
    b_input: Tensor | None = None,
    b_state: Tensor | None = None,
) -> Tensor | State:
    """Return the next state, as `torch.lstm_cell(...)` and `torch.gru_cell(...)` do."""
    first = (hx,) if isinstance(hx, Tensor) else tuple(hx)
    params = [p for p in (w_input, w_state, b_input, b_state) if p is not None]
    _, state = _sequence(step, x.unsqueeze(0), first, params, biased=b_input is not None, backwards=False)
    return state[0] if len(state) == 1 else state


def _sequence(
    step: Step, x: Tensor, state: State, params: Sequence[Tensor], *, biased: bool, backwards: bool
) -> tuple[Tensor, State]:
    """Return one layer's outputs (n_times, n_rows, n_features) in one direction, and its last state."""
    w_input, w_state, *others = params
    bias, own_bias = _BIASES.get(step, _added)(*others[:2]) if biased else (None, None)
    weights = w_state, own_bias, *others[2 * biased :]
    # the inputs of all time steps at once; `unbind`, because the gradients of views by index would be added one by one
    inputs = F.linear(x, w_input, bias).unbind(0)
    outputs = []
    for given in reversed(inputs) if backwards else inputs:
        state = step(given, state, weights)
        outputs.append(state[0])
    return torch.stack(outputs[::-1] if backwards else outputs), state


def _added(b_input: Tensor, b_state: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return a bias to add to all inputs at once, and one to add in every time step."""
    return b_input + b_state, None


def _added_of_gru(b_input: Tensor, b_state: Tensor) -> tuple[Tensor, Tensor | None]:
    """Do the same for a GRU, whose reset gate multiplies the third part of the state's bias."""
    *both, own = b_state.chunk(3)
    return b_input + torch.cat([*both, torch.zeros_like(own)]), own


def _lstm(given: Tensor, state: State, weights: Sequence[Any]) -> State:
    (h, c), (weight, _, *projection) = state, weights
    i, f, g, o = (given + F.linear(h, weight)).chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    return (F.linear(h, *projection) if projection else h), c


def _gru(given: Tensor, state: State, weights: Sequence[Any]) -> State:
    (h,), (weight, bias) = state, weights
    size = h.shape[-1]
    (gates, n_x), (of_state, n_h) = given.split([2 * size, size], -1), F.linear(h, weight).split([2 * size, size], -1)
    r, z = (gates + of_state).sigmoid().chunk(2, -1)
    n = (n_x + r * (n_h if bias is None else n_h + bias)).tanh()
    return (n + z * (h - n),)


def _rnn_tanh(given: Tensor, state: State, weights: Sequence[Any]) -> State:
    return ((given + F.linear(state[0], weights[0])).tanh(),)


def _rnn_relu(given: Tensor, state: State, weights: Sequence[Any]) -> State:
    return ((given + F.linear(state[0], weights[0])).relu(),)


_BIASES: dict[Step, Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]] = {_gru: _added_of_gru}
_STEPS: dict[str, Step] = {"lstm": _lstm, "gru": _gru, "rnn_tanh": _rnn_tanh, "rnn_relu": _rnn_relu}
CELL = "_cell"  # ending of the functions that take a single time step
RECURRENT = {name + ending for name in _STEPS for ending in ("", CELL)}
