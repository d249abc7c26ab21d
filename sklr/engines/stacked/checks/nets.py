"""Reasons why initialized nets cannot share a stack, found by inspecting their modules, weights and criterion."""

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
from sklr.engines.stacked.model.member import PackCell
from sklr.engines.stacked.purity.untouched import difference, own_state
from sklr.nets._instances import is_hooked


@torch.no_grad()
def predicted(module: nn.Module, x: Rows) -> Rows:
    """Return a module's output for a batch in evaluation mode; a copy is called, since it may record its calls."""
    return call(copy.deepcopy(module).eval(), x)


def state_reasons(nets: Sequence[NeuralNet]) -> list[str]:
    """Return the reasons why a stack would not do all that these nets, one per cell, do.

    A stack keeps the parameters and buffers of every net, and calls one module with them: hooks on parameters are not
    called, and whatever else the modules hold must be the same in all of them.
    """
    module, criterion = nets[0].module_, nets[0].criterion_
    reasons = [
        f"the parameter {name!r} has hooks, which a stack does not call: compute the same in forward, by a mask on the "
        "weight, say"
        for name, p in module.named_parameters()
        if is_hooked(p)
    ]
    reasons += [
        f"the layer {name!r} computes its weight in a hook, as torch.nn.utils.weight_norm and spectral_norm do, and a "
        "stack keeps parameters and buffers alone: leave it out, or train in several processes (n_jobs)"
        for name, layer in module.named_modules()
        if any(isinstance(hook, WeightNorm | SpectralNorm) for hook in layer._forward_pre_hooks.values())
    ]
    if reasons:
        return reasons
    reasons += [
        f"the layer {name!r} has backward hooks, which would see the gradients of all runs at once: leave them out"
        for name, layer in module.named_modules()
        if layer._backward_hooks or layer._backward_pre_hooks
    ]
    if any(p.requires_grad for p in criterion.parameters()):
        reasons.append(
            "the criterion has trainable parameters, and a stack trains the module's alone: move them into the module"
        )
    for part in ("module_", "criterion_"):
        if where := _differing([getattr(net, part) for net in nets]):
            reasons.append(
                f"{where} is not the same in all folds and seeds, and a stack has one module for all: make it the "
                "same, or register it as a buffer if it is a tensor"
            )
    return reasons


def _differing(modules: Sequence[nn.Module]) -> str:
    """Return the layer, or the attribute of one, that is not the same in all modules; empty if there is none."""
    known = {id(p) for module in modules for p in module.parameters()}
    for (name, one), *others in zip(*(module.named_modules() for module in modules), strict=False):
        for _, other in others:
            if kind_of(one) is not kind_of(other):
                return f"the class of the layer {name!r}"
            path = difference(own_state(one), own_state(other), known)
            if path is not None:
                attribute = ".".join(filter(None, [name, path[len("[0]") :].strip("[]'\"").partition("'")[0]]))
                return f"the attribute {attribute!r} of {type(modules[0]).__name__}"
    return ""


def kind_of(layer: nn.Module) -> type:
    """Return the class of a layer, without the one that `torch.nn.utils.parametrize` makes for each layer."""
    return type(layer).__mro__[1] if is_parametrized(layer) else type(layer)


def check_sample_weights(loss: StackedLoss, net: NeuralNet, pack_cells: Sequence[PackCell]) -> None:
    """Refuse sample weights for a loss that is not a mean or sum over rows."""
    weights = [
        weight
        for pack_cell in pack_cells
        for weight in (pack_cell.weight, pack_cell.held and pack_cell.held.weight)
        if weight is not None
    ]
    if not loss.takes_weights and weights:
        raise Unstackable(
            f"{type(net.criterion_).__name__} computes one loss for the whole batch and takes no sample_weight: use a "
            "criterion that is a mean or a sum over rows"
        )


def check_parts(traits: Traits, net: NeuralNet) -> None:
    """Refuse `accumulate_steps` where the gradients of a batch's parts do not add up to the whole batch's.

    A stack computes the gradient of the whole batch at once.
    """
    n_parts = getattr(net, "accumulate_steps", 1)
    if n_parts > 1 and traits.mixes_rows:
        what = "layers like BatchNorm see" if traits.loss.takes_weights else f"{type(net.criterion_).__name__} sees"
        raise Unstackable(
            f"accumulate_steps={n_parts}: {what} the rows of a part together, and a stack takes the whole batch at "
            "once; leave accumulate_steps out, or use LayerNorm or GroupNorm and a loss that is a mean over rows"
        )
