"""Arithmetic in full precision, where the user's settings allow less of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """Within it float32 products and convolutions are computed in float32, not in TF32 or bfloat16.

    TF32 keeps 10 bits of a fraction: two ways to compute the same thing then differ by far more than their rounding.
    cuDNN convolves in it unless told otherwise.

    >>> before = torch.backends.cudnn.allow_tf32
    >>> with full_precision():
    ...     torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    (False, 'highest')
    >>> torch.backends.cudnn.allow_tf32 == before
    True
    """
    before = []
    for where, name, _ in _switches():
        with suppress(RuntimeError):  # one of the older settings, where the user has set some of the newer ones
            before.append((where, name, getattr(where, name)))
    try:
        _set(_switches())
        yield
    finally:
        _set(before)


def _set(switches: list[tuple[Any, str, Any]]) -> None:
    with (
        warnings.catch_warnings()
    ):  # PyTorch 2.9 and later advise against the older ones, which must agree with the newer
        warnings.simplefilter("ignore")
        for where, name, value in switches:
            setattr(where, name, value)


def _switches() -> list[tuple[Any, str, Any]]:
    """Return where PyTorch keeps its settings, by what name, and their values for full precision; the older ones first.

    From 2.9 on each kind of operation has one of its own. Setting an older one sets some of those.
    """
    backends = torch.backends
    older = [(backends.cudnn, "allow_tf32", False), (_Matmul(), "precision", "highest")]
    if not hasattr(backends.cudnn, "conv"):
        return older
    matmul = [(backends.cuda, "matmul"), (backends.mkldnn, "matmul")]
    others = [(library, kind) for library in (backends.cudnn, backends.mkldnn) for kind in ("conv", "rnn")]
    kinds = [getattr(library, kind) for library, kind in [*matmul, *others]]
    return [*older, *((kind, "fp32_precision", "ieee") for kind in kinds)]


class _Matmul:
    """PyTorch's two functions for the precision of matrix products, as an attribute."""

    @property
    def precision(self) -> str:
        return torch.get_float32_matmul_precision()

    @precision.setter
    def precision(self, value: str) -> None:
        torch.set_float32_matmul_precision(value)
