"""Check of the arguments that `fit` passes on: those that neither it nor the module's `forward` takes are mistakes."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from sklr._utils.validation import unknown_name

OF_FIT = ("X", "y", "sample_weight")
_CALLED_ELSEWHERE = {  # in the range tests of fastai, Lightning and torch-lr-finder
    **dict.fromkeys(("start_lr", "end_lr", "min_lr", "max_lr"), "lr_range"),
    **dict.fromkeys(("num_it", "num_iter", "num_training"), "n_steps"),
}


def check_fit_arguments(
    net: Any, names: Iterable[str], known: Iterable[str] = OF_FIT, prefix: str = "", called: str = "fit"
) -> None:
    """Raise a ValueError for an argument of `fit` that nothing takes, with the name that may be meant.

    Parameters
    ----------
    net : NeuralNet
        Initialized. A subclass of sklr's nets is not checked: it may use arguments in methods of its own.
    names : iterable of str
        The arguments given, except those of `fit` itself.
    known : iterable of str
        The arguments of `fit` itself, for the message.
    prefix : str
        What a pipeline's `fit` wants before each name.
    called : str
        The function that the user has called with these arguments.

    Examples
    --------
    >>> from sklr import MLP, NeuralNetClassifier
    >>> check_fit_arguments(NeuralNetClassifier(MLP(1, 2)).initialize(), ["sample_weights"])
    Traceback (most recent call last):
    ValueError: an argument of fit must be one of 'X', 'y', 'sample_weight', or one that MLP.forward takes,
    got 'sample_weights'. Did you mean 'sample_weight'?
    """
    names = list(names)
    if not names or not type(net).__module__.startswith("sklr."):
        return
    module = getattr(net.module_, "_orig_mod", net.module_)  # torch.compile wraps the module
    first, *others = inspect.signature(module.forward).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in (first, *others)):
        return
    taken = [p.name for p in others if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for name in names:
        if name not in (*taken, first.name):
            forward = f"one that {type(module).__name__}.forward takes"
            raise unknown_argument(called, f"{prefix}{name}", [f"{prefix}{n}" for n in (*known, *taken)], forward)


def unknown_argument(called: str, name: str, known: list[str], others: str) -> ValueError:
    """Return the error for an argument that `called` does not take, with the one that is meant.

    >>> print(unknown_argument("lr_range_test", "end_lr", ["lr_range"], "one that MLP.forward takes"))
    an argument of lr_range_test must be one of 'lr_range', or one that MLP.forward takes, got 'end_lr'.
    It is called 'lr_range' here.
    """
    return unknown_name(f"an argument of {called}", name, known, others, _CALLED_ELSEWHERE)
