"""A ready-made module for tabular data: the multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import nn

from sklr._utils.validation import check_count, must_be


class MLP(nn.Module):
    """A multi-layer perceptron for tabular data; sklr's nets infer its input and output widths at `fit`.

    Each hidden layer consists of a linear layer, optional batch norm, the activation, and optional dropout. The
    output layer is linear, so it returns logits for a classifier and values for a regressor.
    All layers are in one `torch.nn.Sequential`, `layers`.

    Parameters
    ----------
    n_inputs : int
        Number of features. Inferred by the net.
    n_outputs : int
        Number of classes or targets, 1 for a binary classifier. Inferred by the net.
    hidden : sequence of int, default=(100,)
        Width of each hidden layer, in order from the input; `()` gives a linear model.
    activation : callable, default=torch.nn.ReLU
        Called without arguments for each hidden layer; returns a module.
    dropout : float, default=0.0
        Probability of zeroing each output of a hidden layer during training, in [0, 1).
    batch_norm : bool, default=False
        Whether to add batch normalization to each hidden layer.
    dtype : torch.dtype, optional
        The dtype of the parameters; torch's default dtype (float32) if not given.

    Raises
    ------
    TypeError, ValueError
        If a width is not a positive integer, `hidden` is not a sequence, `activation` is not a callable that returns
        a module, or `dropout` is outside [0, 1).

    Examples
    --------
    >>> MLP(4, 3, hidden=(8,), dropout=0.5).layers
    Sequential(
      (0): Linear(in_features=4, out_features=8, bias=True)
      (1): ReLU()
      (2): Dropout(p=0.5, inplace=False)
      (3): Linear(in_features=8, out_features=3, bias=True)
    )
    >>> MLP(4, 3, hidden=())(torch.ones(2, 4, dtype=torch.int64)).shape  # integer inputs are accepted
    torch.Size([2, 3])
    """

    def __init__(
        self,
        n_inputs: int,
        n_outputs: int,
        hidden: Sequence[int] = (100,),
        activation: Callable[[], nn.Module] = nn.ReLU,
        dropout: float = 0.0,
        batch_norm: bool = False,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if not isinstance(hidden, Sequence) or isinstance(hidden, str):
            raise TypeError(must_be("hidden", "a sequence of widths", hidden, "Write (64,) for one layer of 64."))
        if not callable(activation) or isinstance(activation, nn.Module):  # a module instance is called with its input
            advice = "Write for example torch.nn.Tanh."
            raise TypeError(must_be("activation", "a callable that returns a module", activation, advice))
        if not 0 <= dropout < 1:
            raise ValueError(must_be("dropout", "at least 0 and less than 1", dropout))
        widths = [check_count("n_inputs", n_inputs), *(check_count("each width of hidden", w) for w in hidden)]
        self.layers = nn.Sequential(
            *_hidden_layers(widths, activation, dropout, batch_norm, dtype),
            nn.Linear(widths[-1], check_count("n_outputs", n_outputs), dtype=dtype),
        )

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Return the outputs, shape (n_samples, n_outputs), for a batch of shape (n_samples, n_inputs).

        Inputs of any dtype are accepted; they are cast to the dtype of the weights.
        """
        return self.layers(X.to(next(self.parameters()).dtype))


def _hidden_layers(
    widths: Sequence[int],
    activation: Callable[[], nn.Module],
    dropout: float,
    batch_norm: bool,
    dtype: torch.dtype | None,
) -> Iterator[nn.Module]:
    for n_in, n_out in pairwise(widths):
        yield nn.Linear(n_in, n_out, dtype=dtype)
        if batch_norm:
            yield nn.BatchNorm1d(n_out, dtype=dtype)
        yield activation()
        if dropout:
            yield nn.Dropout(dropout)
