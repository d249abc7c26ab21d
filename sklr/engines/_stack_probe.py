"""Whether a module can be trained as a stack, found out by training it for one step on one small batch."""

from __future__ import annotations

import copy
import re
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

from sklr.engines._precision import full_precision
from sklr.engines._stack import ModelStack
from sklr.engines._stack_batch import Batch
from sklr.engines._stack_loss import Transform
from sklr.engines._stack_map import call, mixes_rows, rng_kept
from sklr.engines._stack_traits import Traits, examine
from sklr.engines._untouched import Untouched

_LRS = (0.0, 0.5)


def probe(
    module: nn.Module, x: Any, y: Any, criterion: Any, *, transform: Transform | None = None
) -> tuple[list[str], Traits | None]:
    """Find out why copies of this module cannot be trained as a stack, and what stacks of them need to know.

    Four runs (two cells, two learning rates) take one step of plain gradient descent stacked and one by one;
    losses, parameters, buffers and predictions must agree. The module, the criterion and the global random state
    are left as found.

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
    if any(p.requires_grad for p in _parameters(criterion)):
        reasons.append(f"criterion {type(criterion).__name__}: it has trainable parameters of its own")
    if reasons:
        return reasons, None
    with rng_kept(x), full_precision(), warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return [], _trial(module, x, y, criterion, transform)
        except _Unfit as unfit:
            problem = str(unfit)
        except Exception as error:  # anything may be raised by foreign code: each is a reason, none a crash
            problem = _explained(error)
    return [f"module {name}: {problem}"], None


def _structure(module: nn.Module) -> list[str]:
    if any(isinstance(p, nn.UninitializedParameter) for p in _parameters(module)):
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
    """Find the traits out; raise if training as a stack differs."""
    _step_alone(copy.deepcopy(module), 0.0, x, y, criterion, transform)
    traits = examine(copy.deepcopy(module), (x, y), copy.deepcopy(criterion), transform)
    if traits.eval_chain is None:
        _check_evaluation(copy.deepcopy(module).eval(), x)
    if traits.counts and traits.mixes_rows:
        raise _Unfit("it or its criterion remembers something of its calls, and a step on uneven folds takes several")
    modules = [copy.deepcopy(module), _shifted(module)]
    x2, y2 = (tree_map(lambda t: torch.stack([t, t.flip(0)]), data) for data in (x, y))
    if not (traits.draws if traits.chain is not None else _is_random(module, x)):
        stack = _stack(modules, x, y, criterion, transform, traits)
        _compare(stack, modules, x2, y2, criterion, transform)
        return traits
    # Masks differ between a stack and a single run: see that they work, and compare without them.
    _stack(modules, x, y, criterion, transform, traits).step(_rates(), Batch(x2, y2))
    with _NoDropout():
        modules = [_calm_attention(m) for m in modules]
        if _is_random(modules[0], x):
            raise _Unfit("its randomness in training is not Dropout's, so it cannot be compared with one by one")
        _compare(_stack(modules, x, y, criterion, transform), modules, x2, y2, criterion, transform)
    return traits


def _check_evaluation(module: nn.Module, x: Any) -> None:
    """A stack evaluates other batches than one by one, and fewer."""
    if mixes_rows(module, x):
        raise _Unfit("what it predicts for a row depends on the other rows of the batch")
    with torch.no_grad():
        untouched = Untouched.by_second(lambda: call(module, x), module)
    if not untouched.holds(strict=False):
        raise _Unfit("it remembers something of its calls in evaluation mode, and a stack makes others")


def _stack(
    modules: list[nn.Module], x: Any, y: Any, criterion: Any, transform: Transform | None, traits: Traits | None = None
) -> ModelStack:
    sgd = torch.optim.SGD
    return ModelStack(modules, len(_LRS), criterion, sgd, {}, example=(x, y), transform=transform, traits=traits)


def _rates() -> Tensor:
    return torch.tensor(_LRS).unsqueeze(1).expand(-1, 2)


def _compare(
    stack: ModelStack, modules: list[nn.Module], x: Any, y: Any, criterion: Any, transform: Transform | None
) -> None:
    """Raise at the first difference between a stack after one step and its runs trained by themselves."""
    losses = stack.step(_rates(), Batch(x, y))
    outputs, own = stack.outputs(x), copy.deepcopy(modules[0])
    for candidate, lr in enumerate(_LRS):
        for cell, start in enumerate(modules):
            alone = copy.deepcopy(start)
            x1, y1 = tree_map(lambda t, c=cell: t[c], x), tree_map(lambda t, c=cell: t[c], y)
            loss = _step_alone(alone, lr, x1, y1, criterion, transform)
            stack.load_run(candidate, cell, own)
            pairs = [("loss", losses[candidate, cell], loss)]
            mine, theirs = own.state_dict(), alone.state_dict()
            pairs += [(f"{key!r} after a step", mine[key], theirs[key]) for key in theirs]
            pairs += _predictions(outputs, candidate, cell, alone, x1)
            for what, value, reference in pairs:
                if not _close(value, reference, stack.traits.precision):
                    raise _Unfit(f"stacked training differs from training one by one ({what})")


def _predictions(outputs: Any, candidate: int, cell: int, alone: nn.Module, x: Any) -> list[tuple[str, Any, Any]]:
    with torch.no_grad():
        expected = tree_flatten(call(alone.eval(), x))[0]
    found = [t[candidate, cell] for t in tree_flatten(outputs)[0]]
    return [("prediction", a, b) for a, b in zip(found, expected, strict=True)]


def _step_alone(module: nn.Module, lr: float, x: Any, y: Any, criterion: Any, transform: Transform | None) -> Tensor:
    output = call(module.train(), x)
    loss = copy.deepcopy(criterion)(output if transform is None else transform(output), y)
    loss.backward()
    torch.optim.SGD(module.parameters(), lr=lr).step()
    unused = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
    if unused:
        raise ValueError(f"its parameter {unused[0]!r} is not used")
    return loss.detach()


def _close(value: Tensor, reference: Tensor, precision: torch.dtype | None) -> bool:
    """Whether they agree to half the digits; in mixed precision, to all but three bits of the lower one."""
    if not reference.is_floating_point():
        return torch.equal(value, reference)
    tolerance = torch.finfo(reference.dtype).eps ** 0.5
    if precision is not None:  # then a loss, too, may be of either precision
        value, tolerance = value.to(reference.dtype), 8 * torch.finfo(precision).eps
    scale = float(reference.abs().max()) if reference.numel() else 0.0
    return torch.allclose(value, reference, rtol=tolerance, atol=tolerance * scale + 1e-30, equal_nan=True)


def _shifted(module: nn.Module) -> nn.Module:
    """A copy with other weights, so that a mix-up of cells shows."""
    other = copy.deepcopy(module)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(0.9)
    return other


def _is_random(module: nn.Module, x: Any) -> bool:
    def outputs() -> list[Tensor]:
        with torch.no_grad():
            return tree_flatten(call(copy.deepcopy(module).train(), x))[0]

    return any(not torch.equal(a, b) for a, b in zip(outputs(), outputs(), strict=True))


class _NoDropout(TorchFunctionMode):
    """Within it, dropout does nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _DROPOUTS:
            return args[0]
        if func is nn.functional.scaled_dot_product_attention:
            args, kwargs = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args, {**(kwargs or {})}
            if len(args) <= 4:
                kwargs["dropout_p"] = 0.0
        return func(*args, **(kwargs or {}))


_DROPOUTS = (
    nn.functional.dropout, nn.functional.dropout1d, nn.functional.dropout2d, nn.functional.dropout3d,
    nn.functional.alpha_dropout, nn.functional.feature_alpha_dropout, torch.dropout,
)  # fmt: skip


def _calm_attention(module: nn.Module) -> nn.Module:
    """A copy whose attention layers, which do their dropout out of a mode's sight, drop nothing."""
    calm = copy.deepcopy(module)
    for m in calm.modules():
        if isinstance(m, nn.MultiheadAttention):
            m.dropout = 0.0
    return calm


def _parameters(thing: Any) -> list[Any]:
    return list(thing.parameters()) if isinstance(thing, nn.Module) else []


def _explained(error: Exception) -> str:
    """What the error means to a user, in one line."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    operation = re.search(r"aten::\w+", text)
    if "atching rule" in text and operation:
        return f"{operation[0]} cannot be batched by torch.func"
    if ".item()" in text or "data-dependent control flow" in text:
        return "its forward pass depends on values of tensors (.item() or an if), which cannot be batched"
    return f"a trial step failed ({text[:200]})"
