"""A ready module for tables: the multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import nn

from sklr._utils.validation import check_count, must_be


class MLP(nn.Module):
    """A multi-layer perceptron for tables, whose input and output widths sklr's nets find at `fit`.

    Each hidden layer is a linear map, batch norm if wanted, the activation, and dropout if wanted; the
    output layer is linear, so it gives logits for a classifier and plain values for a regressor.
    All layers stand in one `torch.nn.Sequential`, `layers`.

    Parameters
    ----------
    n_inputs : int
        Number of columns of the table. Found by the net.
    n_outputs : int
        Number of classes or targets, 1 for a binary classifier. Found by the net.
    hidden : sequence of int, default=(100,)
        Width of each hidden layer, from the input on; `()` gives a linear model.
    activation : callable, default=torch.nn.ReLU
        Called without arguments for each hidden layer; returns a module.
    dropout : float, default=0.0
        Share of each hidden layer's outputs that is zeroed while training, in [0, 1).
    batch_norm : bool, default=False
        Whether each hidden layer is normalised over the batch.
    dtype : torch.dtype, optional
        What to compute in, torch's default (float32) if not given.

    Raises
    ------
    TypeError, ValueError
        If a width is not a positive integer, `hidden` is no sequence, `activation` does not make modules, or
        `dropout` is outside [0, 1).

    Examples
    --------
    >>> MLP(4, 3, hidden=(8,), dropout=0.5).layers
    Sequential(
      (0): Linear(in_features=4, out_features=8, bias=True)
      (1): ReLU()
      (2): Dropout(p=0.5, inplace=False)
      (3): Linear(in_features=8, out_features=3, bias=True)
    )
    >>> MLP(4, 3, hidden=())(torch.ones(2, 4, dtype=torch.int64)).shape  # whole numbers are numbers too
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
        if not callable(activation) or isinstance(activation, nn.Module):  # a module is called with its input
            raise TypeError(must_be("activation", "what makes a module", activation, "Write torch.nn.Tanh, say."))
        if not 0 <= dropout < 1:
            raise ValueError(must_be("dropout", "at least 0 and less than 1", dropout))
        widths = [check_count("n_inputs", n_inputs), *(check_count("each width of hidden", w) for w in hidden)]
        self.layers = nn.Sequential(
            *_hidden_layers(widths, activation, dropout, batch_norm, dtype),
            nn.Linear(widths[-1], check_count("n_outputs", n_outputs), dtype=dtype),
        )

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Return the outputs for a batch, shape (n_samples, n_outputs), from one of shape (n_samples, n_inputs).

        Numbers of any dtype are taken: they become the dtype of the weights here.
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
