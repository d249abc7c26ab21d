"""What a stack needs to know of a module, and what no stack can do, found out by calling it on one small batch."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import nn

from sklr._utils.precision import full_precision
from sklr.engines.stacked.checks.explain import explained
from sklr.engines.stacked.kernels.loss import Transform
from sklr.engines.stacked.kernels.mlp_trace import CallRecorder
from sklr.engines.stacked.kernels.module_call import call, first_tensor, generator_states, mixes_rows, rng_kept
from sklr.engines.stacked.kernels.traits import Traits, examine
from sklr.engines.stacked.purity.untouched import Untouched


def probe(
    module: nn.Module, x: Any, y: Any, criterion: Any, *, transform: Transform | None = None
) -> tuple[list[str], Traits | None]:
    """Find out what stacks of such a module need to know, and what keeps it from being stacked at all.

    That a stack then trains what a net would is left to the audit. The module, the criterion and the global random
    state are left as found.

    Parameters
    ----------
    module : nn.Module
        Initialised.
    x, y : a batch of one run, at least two rows
    criterion : callable (output, target) -> Tensor
    transform : callable, optional
        As `ModelStack` takes it.

    Returns
    -------
    reasons : list of str
        Empty if they can.
    traits : Traits or None
        None if there is a reason.

    >>> probe(nn.Linear(3, 2), torch.rand(4, 3), torch.tensor([0, 1, 1, 0]), nn.CrossEntropyLoss())[0]
    []
    >>> probe(nn.Linear(3, 2).requires_grad_(False), torch.rand(4, 3), torch.rand(4, 2), nn.MSELoss())
    (['module Linear: it has no trainable parameter'], None)
    """
    name = type(module).__name__
    reasons = [f"module {name}: {what}" for what in _structure(module)]
    if reasons:
        return reasons, None
    with rng_kept(x), full_precision(), warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return [], _trial(module, x, y, criterion, transform)
        except _Unfit as unfit:
            problem = str(unfit)
        except Exception as error:  # anything may be raised by foreign code: each is a reason, none a crash
            problem = explained(error, module)
    return [f"module {name}: {problem}"], None


def _structure(module: nn.Module) -> list[str]:
    if any(isinstance(p, nn.UninitializedParameter) for p in module.parameters()):
        return ["its lazy layers are not initialised yet"]
    trained = [p for p in module.parameters() if p.requires_grad]
    if not trained:
        return ["it has no trainable parameter"]
    kinds = {(p.dtype, p.device) for p in trained}
    reasons = []
    if len(kinds) > 1:
        reasons.append(f"its parameters are of several kinds ({', '.join(sorted(map(str, kinds)))})")
    if any(p.is_sparse or p.is_complex() for p in trained):
        reasons.append("its parameters are sparse or complex")
    if any(getattr(m, "sparse", False) for m in module.modules()):
        reasons.append("its gradients are sparse")
    return reasons


class _Unfit(Exception):
    """A stack would do something else; the argument says what."""


def _trial(module: nn.Module, x: Any, y: Any, criterion: Any, transform: Transform | None) -> Traits:
    """Find the traits out; raise if a stack would call the module at other times than a net does, and that matters."""
    _check_calls(module, x)
    traits = examine(copy.deepcopy(module), (x, y), copy.deepcopy(criterion), transform)
    _check_evaluation(copy.deepcopy(module).eval(), x, is_chain=traits.eval_chain is not None)
    if traits.counts:
        raise _Unfit(f"it or its criterion {traits.counts}, and one module stands for all runs of a stack")
    return traits


_UNMAPPED = ("lstm", "gru")  # no batching rule in any PyTorch so far: the audit would find out, at ten times the price


def _check_calls(module: nn.Module, x: Any) -> None:
    """Refuse calls that cannot be mapped, or whose gradient is another one where it is, for some values alone."""
    seen = CallRecorder(first_tensor(x).device.type)
    with torch.enable_grad(), seen:
        call(copy.deepcopy(module).train(), x)
    for name, args, kwargs, _ in seen.calls:
        if name in _UNMAPPED:
            path = next((path for path, layer in module.named_modules() if type(layer).__name__.lower() == name), "")
            layer = f"the layer {path!r} ({name.upper()})" if path else "it"
            raise _Unfit(f"{layer} uses an operation that PyTorch cannot vectorise over models (aten::{name})")
        if name == "register_hook":
            raise _Unfit("registers a hook on a tensor, which would see the gradients of all runs at once")
        padding = args[2] if len(args) > 2 else kwargs.get("padding_idx")
        if name == "embedding" and padding is not None and padding != -1:
            raise _Unfit("has an Embedding with padding_idx, whose row torch.func does not leave out of the gradient")
        if name == "multi_head_attention_forward" and kwargs.get("key_padding_mask") is not None:
            raise _Unfit("gives MultiheadAttention a key_padding_mask, of which rows may be masked as a whole")


def _check_evaluation(module: nn.Module, x: Any, *, is_chain: bool) -> None:
    """Check that evaluation depends neither on the other rows of a batch nor on the number of calls."""
    before = generator_states(x)
    with torch.no_grad():
        call(module, x)
        if not all(map(torch.equal, before, generator_states(x))):
            raise _Unfit("in evaluation mode it draws random numbers (F.dropout wants training=self.training)")
        if is_chain:
            return
        untouched = Untouched(module)
        call(module, x)
    if changed := untouched.what_changed():
        raise _Unfit(f"in evaluation mode it {changed}, and a stack calls it at other times")
    if mixes_rows(module, x):
        raise _Unfit("what it predicts for a row depends on the other rows of the batch")
