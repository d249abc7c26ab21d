"""What keeps nets that are set up from sharing a stack, and can be told by looking at them."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from skorch import NeuralNet
from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from sklr.engines.stacked.checks.static import Unstackable
from sklr.engines.stacked.data.index_batches import Rows
from sklr.engines.stacked.kernels.loss import StackedLoss
from sklr.engines.stacked.kernels.module_call import call
from sklr.engines.stacked.kernels.traits import Traits
from sklr.engines.stacked.model.pack import PackCell
from sklr.engines.stacked.purity.untouched import difference, own_state
from sklr.nets._instances import is_hooked


@torch.no_grad()
def predicted(module: nn.Module, x: Rows) -> Rows:
    """Return what a module says to a batch in evaluation mode; a copy of it is called, for it may note its calls."""
    return call(copy.deepcopy(module).eval(), x)


def state_reasons(nets: Sequence[NeuralNet]) -> list[str]:
    """Say what a stack would leave out of nets of the same kind, one per cell.

    A stack has each net's parameters and buffers, and one module that they are put into: hooks on parameters are not
    called, and what else the modules hold must be the same.
    """
    module, criterion = nets[0].module_, nets[0].criterion_
    reasons = [f"the parameter {name!r} has hooks" for name, p in module.named_parameters() if is_hooked(p)]
    reasons += [
        f"the layer {name!r} computes its weight in a hook, as torch.nn.utils.weight_norm and spectral_norm do"
        for name, layer in module.named_modules()
        if any(isinstance(hook, WeightNorm | SpectralNorm) for hook in layer._forward_pre_hooks.values())
    ]
    if reasons:
        return reasons
    reasons += [
        f"the layer {name!r} has backward hooks, which would see the gradients of all runs at once"
        for name, layer in module.named_modules()
        if layer._backward_hooks or layer._backward_pre_hooks
    ]
    if any(p.requires_grad for p in criterion.parameters()):
        reasons.append("the criterion has parameters of its own to learn")
    for part in ("module_", "criterion_"):
        if where := _differing([getattr(net, part) for net in nets]):
            reasons.append(f"{where} is not the same in all folds, and is no parameter or buffer")
    return reasons


def _differing(modules: Sequence[nn.Module]) -> str:
    """Return the attribute of a layer that is not the same in all modules; empty if there is none."""
    known = {id(p) for module in modules for p in module.parameters()}
    for (name, one), *others in zip(*(module.named_modules() for module in modules), strict=False):
        for _, other in others:
            if kind_of(one) is not kind_of(other):
                return f"the layer {name!r}"
            path = difference(own_state(one), own_state(other), known)
            if path is not None:
                attribute = ".".join(filter(None, [name, path[len("[0]") :].strip("[]'\"").partition("'")[0]]))
                return f"the attribute {attribute!r} of {type(modules[0]).__name__}"
    return ""


def kind_of(layer: nn.Module) -> type:
    """Return the class of a layer, without the one that `torch.nn.utils.parametrize` makes for each layer."""
    return type(layer).__mro__[1] if is_parametrized(layer) else type(layer)


def check_sample_weights(loss: StackedLoss, net: NeuralNet, pack_cells: Sequence[PackCell]) -> None:
    """Refuse sample weights that the loss has no place for."""
    weights = [
        weight
        for pack_cell in pack_cells
        for weight in (pack_cell.weight, pack_cell.held and pack_cell.held.weight)
        if weight is not None
    ]
    if not loss.takes_weights and weights:
        raise Unstackable(f"{type(net.criterion_).__name__} is a loss of whole batches and takes no sample_weight")


def check_parts(traits: Traits, net: NeuralNet) -> None:
    """Refuse batches in parts where the parts' gradients do not add up to that of the batch, which a stack takes."""
    n_parts = getattr(net, "accumulate_steps", 1)
    if n_parts > 1 and traits.mixes_rows:
        what = "layers like BatchNorm see" if traits.loss.takes_weights else f"{type(net.criterion_).__name__} sees"
        raise Unstackable(
            f"accumulate_steps={n_parts}: {what} the rows of a part together, and a stack takes the whole batch at "
            "once; leave accumulate_steps out, or use LayerNorm or GroupNorm and a loss that is a mean over rows"
        )
