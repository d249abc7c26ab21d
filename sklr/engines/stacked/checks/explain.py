"""Errors raised while a stack is tried out, in words for the user: which layer does what, and what to write instead."""

from __future__ import annotations

import linecache
import re
import textwrap
from traceback import walk_tb
from types import FrameType
from typing import NamedTuple

from torch import nn

from sklr._utils.warnings import is_the_users


def not_vectorized(at: str) -> str:
    """Say that an operation has no batching rule in `torch.func`; `at` names it, in parentheses."""
    return (
        f"uses an operation that PyTorch cannot vectorize over models{at}: write it with other operations, or train in "
        "several processes (n_jobs)"
    )


# PyTorch's error messages as patterns, and what each means; {at} is the operation and the user's line, where known.
# The first match counts: the last pattern is the most general one.
_MEANINGS = {
    r"\.item\(\)|data-dependent control flow|to a scalar may lead": (
        "reads a tensor's value in Python, as float() or an if do{at}: use torch.where or other tensor operations"
    ),
    r"dynamic shape|differently shaped": (
        "makes tensors whose size depends on values, as boolean masks and torch.unique do{at}: use torch.where, or "
        "weights of 0 and 1"
    ),
    r"setup_context staticmethod|does not have vmap support": (
        "uses a torch.autograd.Function that torch.func cannot vectorize{at}: give it a setup_context method and "
        "generate_vmap_rule = True"
    ),
    r"randomness": (
        "draws random numbers by an in-place operation{at}: use one that returns new numbers, such as torch.rand_like"
    ),
    r"is not possible because there exists a Tensor|doesn't match the broadcast shape": (
        "writes in place into a tensor that the models of a stack would share{at}: make it from the input, as "
        "X.new_zeros(...) does, or use an operation that returns a new tensor"
    ),
    r"data pointer of Tensor|Cannot access storage": (
        "reads a tensor's memory, as .numpy(), .tolist() and copy.deepcopy do{at}: use tensor operations"
    ),
    r"accessing `data` under": "uses .data of a tensor{at}: use .detach()",
    r"escaped from inside a function|saved tensor hooks": (
        "computes a part of itself again in the backward pass, as torch.utils.checkpoint does{at}, which torch.func "
        "cannot vectorize: leave checkpointing out"
    ),
    r"not have been used in the graph": (
        "has a parameter that a step does not use, which torch.func cannot leave out: remove it, or set its "
        "requires_grad to False"
    ),
    r"requires_grad_\(\)": (
        "asks for gradients in its forward pass{at}, which torch.func does not allow: compute them by torch.func.grad"
    ),
    r"atching rule|not yet support|isn't supported|vmap|functorch|BatchedTensor": not_vectorized("{at}"),
}
_LONGEST = 200  # characters of an error's first line


class _Place(NamedTuple):
    """Where an error was raised: the outermost module, the innermost one, and the line of the user's code in that."""

    root: nn.Module | None = None
    layer: nn.Module | None = None
    line: str = ""


def explained(error: Exception, module: nn.Module | None = None) -> str:
    """Explain in one line an error that was raised while a stack was tried out.

    Parameters
    ----------
    error : Exception
        As caught, with its traceback, which tells the layer and the line.
    module : nn.Module, optional
        What was to be stacked. If the error comes from another module, such as the criterion, its class is named.

    Returns
    -------
    text : str
        A clause without a full stop, to be read after "module Net: ". It begins with the layer, or with "it".

    Examples
    --------
    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 2), nn.RReLU())
    >>> try:
    ...     _ = torch.vmap(net, randomness="different")(torch.rand(3, 5, 4))
    ... except RuntimeError as error:
    ...     print(explained(error, net).rpartition(":")[0])
    the layer '1' (RReLU) uses an operation that PyTorch cannot vectorize over models (aten::rrelu)
    """
    text, place = str(error), _place(error)
    subject = _subject(place, module)
    if isinstance(place.layer, nn.modules.batchnorm._BatchNorm) and place.layer.momentum is None:
        return f"{subject} has momentum=None, which counts batches in Python: set momentum to a number"
    known = [*_operation(text), *([f"`{place.line}`"] if place.line else [])]
    at = f" ({', '.join(known)})" if known else ""
    for pattern, meaning in _MEANINGS.items():
        if re.search(pattern, text):
            return f"{subject} {meaning.format(at=at)}"
    kind = "warns" if isinstance(error, Warning) else f"raises {type(error).__name__}"
    said = first_line(error)
    return f"{subject} {kind}{': ' * bool(said)}{said}"


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, without PyTorch's requests to file an issue.

    >>> first_line(RuntimeError("vmap: no rule for aten::lu. Please file an issue.\\nTriggered at ATen"))
    'no rule for aten::lu'
    """
    line = (str(error).strip().splitlines() or [""])[0].removeprefix("vmap: ")
    line = re.split(r"\(?(?:[Pp]lease file|For more details|Triggered internally|see https?:|https?:)", line)[0]
    return textwrap.shorten(line, _LONGEST, placeholder=" ...").rstrip(" .,:;(")


def _operation(text: str) -> list[str]:
    return re.findall(r"aten::\w+|torch\.\w+(?=\(|\ isn't)", text)[:1]


def _subject(place: _Place, module: nn.Module | None) -> str:
    if place.root is None or place.layer is None:
        return "it"
    if module is not None and type(place.root) is not type(module):
        return type(place.root).__name__
    known = next((name for name, layer in place.root.named_modules() if layer is place.layer), None)
    kind = type(place.layer).__name__
    return f"the layer {known!r} ({kind})" if known else kind if known is None else "it"


def _place(error: Exception) -> _Place:
    place = _Place()
    for frame, lineno in walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and owner is not place.layer:
            place = _Place(place.root or owner, owner)
        if place.layer is not None and is_the_users(frame):
            place = place._replace(line=_code(frame, lineno))
    return place


def _code(frame: FrameType, lineno: int) -> str:
    line = linecache.getline(frame.f_code.co_filename, lineno, frame.f_globals).strip()
    return textwrap.shorten(line, 80, placeholder=" ...")
