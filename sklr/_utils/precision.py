"""Arithmetic in full float32 precision, whatever reduced precision the user's settings allow."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """Context in which float32 matrix products and convolutions are computed in float32, not in TF32 or bfloat16.

    TF32 has a 10-bit mantissa, so two ways to compute the same result differ by far more than float32 rounding. It is
    cuDNN's default for convolutions.

    >>> before = torch.backends.cudnn.allow_tf32
    >>> with full_precision():
    ...     torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    (False, 'highest')
    >>> torch.backends.cudnn.allow_tf32 == before
    True
    """
    before = []
    for where, name, _ in _switches():
        with suppress(RuntimeError):  # PyTorch refuses to read an old setting once a new one has been changed
            before.append((where, name, getattr(where, name)))
    try:
        _set(_switches())
        yield
    finally:
        _set(before)


def _set(switches: list[tuple[Any, str, Any]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch 2.9 deprecates the old settings, but they must agree with the new
        for where, name, value in switches:
            setattr(where, name, value)


def _switches() -> list[tuple[Any, str, Any]]:
    """Return (object, attribute, value for full precision) of PyTorch's precision settings, the old ones first.

    From PyTorch 2.9 on each kind of operation has a setting of its own, and setting an old one changes some of them.
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
    """Adapter that presents PyTorch's getter and setter of the matmul precision as an attribute."""

    @property
    def precision(self) -> str:
        return torch.get_float32_matmul_precision()

    @precision.setter
    def precision(self, value: str) -> None:
        torch.set_float32_matmul_precision(value)
