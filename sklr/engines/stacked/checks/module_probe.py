"""Calls a module on one small batch to find out what a stack must know of it, and whether it can be stacked at all."""

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
from sklr.engines.stacked.kernels.recurrent import RECURRENT, is_packed
from sklr.engines.stacked.kernels.traits import Traits, examine
from sklr.engines.stacked.purity.untouched import Untouched


def probe(
    module: nn.Module, x: Any, y: Any, criterion: Any, *, transform: Transform | None = None
) -> tuple[list[str], Traits | None]:
    """Find out what stacks of a module need to know, or why it cannot be stacked.

    Whether a stack then trains the same model as a single net is left to the audit. The module, the criterion and the
    global random state are left as they were.

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
        Why the module cannot be stacked; empty if it can.
    traits : Traits or None
        None if it cannot be stacked.

    >>> probe(nn.Linear(3, 2), torch.rand(4, 3), torch.tensor([0, 1, 1, 0]), nn.CrossEntropyLoss())[0]
    []
    >>> probe(nn.Linear(3, 2).requires_grad_(False), torch.rand(4, 3), torch.rand(4, 2), nn.MSELoss())
    (['module Linear: it has no trainable parameter (none has requires_grad=True)'], None)
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
        except Exception as error:  # a user's module may raise anything: the reason is given, and the search goes on
            problem = explained(error, module)
    return [f"module {name}: {problem}"], None


def _structure(module: nn.Module) -> list[str]:
    if any(isinstance(p, nn.UninitializedParameter) for p in module.parameters()):
        return [
            "its lazy layers are not initialized yet, and a stack copies the weights before the first batch: give the "
            "layers their input sizes (nn.Linear instead of nn.LazyLinear)"
        ]
    trained = [p for p in module.parameters() if p.requires_grad]
    if not trained:
        return ["it has no trainable parameter (none has requires_grad=True)"]
    kinds = {f"{p.dtype} on {p.device}" for p in trained}
    reasons = []
    if len(kinds) > 1:
        reasons.append(
            f"its parameters differ in dtype or device ({', '.join(sorted(kinds))}), and a stack steps them together: "
            "convert the module by .to()"
        )
    if any(p.is_sparse or p.is_complex() for p in trained):
        reasons.append("its parameters are sparse or complex, and a stack trains dense real ones")
    if any(getattr(m, "sparse", False) for m in module.modules()):
        reasons.append("its gradients are sparse (sparse=True), and a stack computes dense ones: leave sparse at False")
    return reasons


class _Unfit(Exception):
    """A stack would not do what a single net does; the argument says why."""


def _trial(module: nn.Module, x: Any, y: Any, criterion: Any, transform: Transform | None) -> Traits:
    """Return the module's traits; raise `_Unfit` if its calls, its evaluation or its state rule a stack out."""
    _check_calls(module, x)
    traits = examine(copy.deepcopy(module), (x, y), copy.deepcopy(criterion), transform)
    _check_evaluation(copy.deepcopy(module).eval(), x, is_chain=traits.eval_chain is not None)
    if traits.counts:
        raise _Unfit(
            f"it or its criterion {traits.counts}, and a stack calls one module for all runs: keep state in buffers "
            "(register_buffer), and leave random numbers to nn.Dropout"
        )
    return traits


def _check_calls(module: nn.Module, x: Any) -> None:
    """Refuse calls that `torch.func.vmap` cannot map, or for which it computes other gradients.

    Those gradients differ for certain values only, which the batches of an audit need not contain.
    """
    seen = CallRecorder(first_tensor(x).device.type)
    with torch.enable_grad(), seen:
        call(copy.deepcopy(module).train(), x)
    for name, args, kwargs, _ in seen.calls:
        if name in RECURRENT and is_packed(args):
            raise _Unfit(
                "it packs its sequences (pack_padded_sequence), and the sizes of packed batches depend on values: give "
                "the layer the padded sequences, and take each row's own last output by torch.gather"
            )
        if name == "register_hook":
            raise _Unfit(
                "it registers a hook on a tensor, which would see the gradients of all runs at once: leave it out "
                "(clip= of sklr's nets clips gradients)"
            )
        padding = args[2] if len(args) > 2 else kwargs.get("padding_idx")
        if name == "embedding" and padding is not None and padding != -1:
            raise _Unfit(
                "it has an Embedding with padding_idx, whose row torch.func does not leave out of the gradient: mask "
                "the padding in forward instead"
            )
        if name == "multi_head_attention_forward" and kwargs.get("key_padding_mask") is not None:
            raise _Unfit(
                "it gives MultiheadAttention a key_padding_mask, and a stack may compute something else where that "
                "masks a whole row: leave the mask out, or train in several processes (n_jobs)"
            )


def _check_evaluation(module: nn.Module, x: Any, *, is_chain: bool) -> None:
    """Check that predictions depend neither on the other rows of a batch nor on earlier calls."""
    before = generator_states(x)
    with torch.no_grad():
        call(module, x)
        if not all(map(torch.equal, before, generator_states(x))):
            raise _Unfit(
                "in evaluation mode it draws random numbers, and a stack would draw others: draw only in training mode "
                "(F.dropout wants training=self.training)"
            )
        if is_chain:
            return
        untouched = Untouched(module)
        call(module, x)
    if changed := untouched.what_changed():
        raise _Unfit(
            f"in evaluation mode it {changed}, and a stack calls it at other times, once for all runs: leave that out "
            "of forward"
        )
    if mixes_rows(module, x):
        axis = next((path for path, layer in module.named_modules() if not getattr(layer, "batch_first", True)), None)
        advice = "normalize by running statistics (track_running_stats=True) or within each row (nn.LayerNorm)"
        if axis is not None:
            advice = f"make its layer {axis!r} with batch_first=True, so that the rows are not its time steps"
        raise _Unfit(
            "what it predicts for a row depends on the other rows of the batch, and a stack predicts in other batches: "
            + advice
        )
