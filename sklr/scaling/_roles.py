"""The role of each parameter in muP, inferred from its layer and from how its shape grew from a narrower model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from sklr._utils.validation import must_be, unknown_name

ROLES = ("input", "hidden", "output", "vector", "fixed")
_OUT_IN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # weights of shape (out, in, ...)
_IN_OUT = (nn.Embedding, nn.EmbeddingBag, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class GrownParameter:
    """One parameter: its role, the growth factors of fan-out and fan-in, and for a bias that of its layer's fan-in."""

    name: str
    role: str
    m_out: float
    m_in: float
    bias_fan_in: float = 1.0


def find_grown(module: nn.Module, base: nn.Module, roles: Mapping[str, str]) -> Iterator[GrownParameter]:
    """Yield the role of each parameter of `module`, from `roles` or inferred from its layer and its shapes."""
    shapes = {name: tuple(p.shape) for name, p in base.named_parameters()}
    owners = _owners(module)
    for name, parameter in module.named_parameters():
        given = [role for pattern, role in roles.items() if fnmatchcase(name, pattern)]
        shape, old = tuple(parameter.shape), shapes[name]
        if given:
            yield _declared(name, given[-1], shape, old)
        elif shape == old:
            yield GrownParameter(name, "fixed", 1.0, 1.0, _bias_fan_in(name, module, base, owners[name]))
        else:
            side = _found(name, shape, old, owners[name])
            yield (
                side
                if side.role != "vector"
                else GrownParameter(name, "vector", side.m_out, 1.0, _bias_fan_in(name, module, base, owners[name]))
            )


def _owners(module: nn.Module) -> dict[str, list[nn.Module]]:
    """Return the layers that have each parameter; a shared parameter is listed under its first name."""
    owners: dict[int, list[nn.Module]] = {}
    for layer in module.modules():
        for parameter in layer._parameters.values():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append(layer)
    return {name: owners[id(parameter)] for name, parameter in module.named_parameters()}


def _found(name: str, shape: tuple[int, ...], old: tuple[int, ...], owners: list[nn.Module]) -> GrownParameter:
    if len(shape) != len(old):
        raise _unclassified(name, shape, old, owners[0])
    if len(shape) == 1:
        return GrownParameter(name, "vector", shape[0] / old[0], 1.0)
    known = isinstance(owners[0], (*_OUT_IN, *_IN_OUT, nn.RNNBase, nn.MultiheadAttention))
    if len(owners) > 1 or not known or shape[2:] != old[2:]:
        raise _unclassified(name, shape, old, owners[0])
    m = shape[0] / old[0], shape[1] / old[1]
    return _matrix(name, *(m if not isinstance(owners[0], _IN_OUT) else m[::-1]))


def _matrix(name: str, m_out: float, m_in: float) -> GrownParameter:
    grown = (m_out != 1, m_in != 1)
    role = {(True, False): "input", (True, True): "hidden", (False, True): "output"}[grown]
    return GrownParameter(name, role, m_out, m_in)


def _declared(name: str, role: str, shape: tuple[int, ...], old: tuple[int, ...]) -> GrownParameter:
    """Return the growth of a parameter whose role was given by the user, computed from its shapes."""
    if role not in ROLES:
        raise unknown_name(f"the role of {name!r}", role, ROLES)
    grown = [new / before for new, before in zip(shape, old, strict=True) if new != before]
    m_out = grown[0] if grown and role in ("input", "hidden", "vector") else 1.0
    m_in = grown[-1] if grown and role in ("hidden", "output") else 1.0
    return GrownParameter(name, role, m_out, m_in)


def _unclassified(name: str, shape: tuple[int, ...], old: tuple[int, ...], owner: nn.Module) -> ValueError:
    what = f"{name!r} of {type(owner).__name__}, {old} to {shape}"
    advice = f"Give its role: roles={{{name!r}: 'hidden'}}, or 'input', 'output', 'vector', 'fixed'."
    return ValueError(f"every parameter that grows must be the weight or bias of one known layer, got {what}. {advice}")


def _bias_fan_in(name: str, module: nn.Module, base: nn.Module, owners: list[nn.Module]) -> float:
    """Return the growth of the fan-in that determines a bias's initial values; 1 for other parameters."""
    if not isinstance(owners[0], _OUT_IN) or not name.endswith("bias"):
        return 1.0
    layer = name.removesuffix("bias") + "weight"
    new, old = dict(module.named_parameters()).get(layer), dict(base.named_parameters()).get(layer)
    return 1.0 if new is None or old is None else new[0].numel() / old[0].numel()


def check_attention(module: nn.Module, base: nn.Module) -> None:
    """Raise a ValueError if attention heads grew: torch divides logits by the root of their size, muP by the size."""
    old = dict(base.named_modules())
    for name, layer in module.named_modules():
        size, before = (getattr(m, "head_dim", None) for m in (layer, old.get(name)))
        if isinstance(layer, nn.MultiheadAttention) and size != before:
            advice = "Let num_heads grow with the width."
            raise ValueError(must_be(f"head_dim of {name!r}", f"{before}, as in base_module", size, advice))
