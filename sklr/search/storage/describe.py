"""Descriptions of values as text: the same in every process for equal values, and different for different ones.

The whole value counts: a long description is shortened and ends with a hash of all of it. `said` removes the hash.
"""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from hashlib import sha1
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.base import BaseEstimator

from sklr._utils.module_name import importable, without_main

LONGEST = 240  # characters; a longer text is cut and gets a hash of all of it
DEPTH = 3  # nested objects that cannot be pickled are described down to this depth
PLAIN = (int, float, complex, str, bytes, bool, type(None), type(...), torch.dtype, torch.device)
INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
HASH = re.compile(r" #[0-9a-f]{16}")
DUNDER = re.compile(r"__\w+__")  # left out: `__name__` differs between a script that is run and one that is imported
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def describe(value: Any) -> str:
    """Return a text that is equal for equal values, in every process, and different for different ones.

    Arrays, tensors, tables, containers and objects are described by all their contents; a function by its name, its
    defaults and its closure, and by its code if it is not from an installed package; a class by its name; an object
    that cannot be pickled by its attributes. Names are those by which another script imports them: ``__main__.Net`` is
    ``job.Net``.

    >>> from optuna.pruners import MedianPruner, NopPruner
    >>> describe({"lr": [0.1, 1], "module": np.ndarray})
    "{'lr': [0.1, 1], 'module': numpy.ndarray}"
    >>> describe(object()), describe(NopPruner())
    ('object', 'optuna.pruners._nop.NopPruner')
    >>> describe(MedianPruner()) == describe(MedianPruner(n_warmup_steps=3))
    False
    >>> describe(torch.ones(2000))
    'torch.Tensor of float32, shape (2000,) #7f9b73530c497ea8'
    >>> itself = [1]
    >>> itself.append(itself)
    >>> describe(itself)
    '[1, ...]'
    """
    try:
        return _Describer()(value)
    except Exception:  # an object's own methods may raise anything; its type can still be described
        return _name(type(value))


def said(text: str) -> str:
    """Return a description without its hashes, for messages.

    >>> said(describe(np.zeros((2, 3))))
    'numpy.ndarray of float64, shape (2, 3)'
    """
    return HASH.sub("", text)


def digest(text: Any) -> str:
    """Return a short hash of a text or of a buffer of bytes."""
    return sha1(text.encode() if isinstance(text, str) else text).hexdigest()[:16]


def _as_bytes(array: np.ndarray) -> np.ndarray | bytes:
    """Return the content of an array without copying it, if it is contiguous."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(np.uint8) if flat.itemsize else b""


class _Describer:
    """Describes one value. It caches the parts, which may be shared or contain themselves."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, str]] = {}  # keeps the value alive, or its id could be reused
        self._depth = 0

    def __call__(self, value: Any) -> str:
        if isinstance(value, np.generic) and not isinstance(value, np.void):
            value = value.item()
        if type(value) in PLAIN:
            return _short(repr(value))
        if id(value) not in self._known:
            self._known[id(value)] = value, "..."
            self._known[id(value)] = value, _short(self._text(value))
        return self._known[id(value)][1]

    def _text(self, value: Any) -> str:
        if value is np.random.mtrand._rand:
            return "numpy.random"  # SciPy's distributions hold the global generator; its state is not part of them
        for kind, text in KINDS.items():
            if isinstance(value, kind):
                return text(self, value)
        if hasattr(value, "dtypes") and hasattr(value, "columns"):
            return self._table(value)
        if hasattr(value, "dtype") and hasattr(value, "to_numpy"):
            return self._column(value)
        return self._object(value)

    def _array(self, value: np.ndarray) -> str:
        objects = value.dtype.hasobject
        content = self._join(value.reshape(-1).tolist()).encode() if objects else _as_bytes(value)
        return f"numpy.ndarray of {value.dtype}, shape {value.shape} #{digest(content)}"

    def _tensor(self, value: torch.Tensor) -> str:
        kind = f"{_name(type(value))} of {str(value.dtype).removeprefix('torch.')}, shape {tuple(value.shape)}"
        if value.is_meta:
            return kind
        dense = value.detach().to_dense() if value.layout != torch.strided else value.detach()
        plain = dense.dequantize() if dense.is_quantized else dense
        content = plain.cpu().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8).numpy()
        return f"{kind} #{digest(content)}"

    def _sparse(self, value: Any) -> str:
        rows = value.tocsr().copy() if value.ndim == 2 else value.tocoo()
        if value.ndim == 2:
            rows.sort_indices()
        parts = (rows.data, rows.indices, rows.indptr) if value.ndim == 2 else (rows.data, *rows.coords)
        return f"{_name(type(value))} of {value.dtype}, shape {value.shape} #{digest(self._join(parts))}"

    def _table(self, value: Any) -> str:
        names = list(value.columns)
        columns = [self._column(value.iloc[:, i] if hasattr(value, "iloc") else value[n]) for i, n in enumerate(names)]
        content = "\n".join([self._join(names), self._index(value), *columns])
        return f"{_name(type(value))} of shape {tuple(value.shape)}, columns {self(names)} #{digest(content)}"

    def _column(self, value: Any) -> str:
        content = f"{getattr(value, 'name', None)!r}\n{self._index(value)}\n{self(np.asarray(value.to_numpy()))}"
        return f"{_name(type(value))} of {value.dtype}, shape {tuple(value.shape)} #{digest(content)}"

    def _index(self, value: Any) -> str:
        """Describe the index of a pandas object; other tables have none."""
        index = getattr(value, "index", None)
        return "" if index is None or callable(index) else self(np.asarray(index))

    def _mapping(self, value: Mapping) -> str:
        parts = sorted((self(key), self(item)) for key, item in value.items())
        return f"{_prefix(value, dict)}{{{_joined(f'{key}: {item}' for key, item in parts)}}}"

    def _sequence(self, value: list | tuple) -> str:
        ends = "[]" if isinstance(value, list) else "()"
        return f"{_prefix(value, list, tuple)}{ends[0]}{self._join(value)}{ends[1]}"

    def _set(self, value: set | frozenset) -> str:
        return f"{_name(type(value))}({_joined(sorted(map(self, value)))})"

    def _join(self, values: Iterable[Any]) -> str:
        values = list(values)
        if all(type(value) in (int, float, str, bool) for value in values):
            return repr(values)[1:-1]  # the same text, a thousand times as fast
        return _joined(map(self, values))

    def _estimator(self, value: BaseEstimator) -> str:
        return f"{_name(type(value))}({self(value.get_params(deep=False))})"

    def _function(self, value: FunctionType) -> str:
        around = [_content(cell) for cell in value.__closure__ or ()]
        parts: list[Any] = [value.__defaults__, value.__kwdefaults__, around]
        if not value.__code__.co_filename.startswith(INSTALLED):
            data = {name: value.__globals__.get(name) for name in _names(value.__code__)}
            data = {name: part for name, part in data.items() if _is_data(part) and not DUNDER.fullmatch(name)}
            parts += [value.__code__, data]
        return _name(value) + f" #{digest(self._join(parts))}" * any(parts)

    def _code(self, value: CodeType) -> str:
        return digest(value.co_code + self._join((value.co_consts, value.co_names)).encode())

    def _method(self, value: MethodType) -> str:
        return f"{self(value.__func__)} of {self(value.__self__)}"

    def _partial(self, value: partial) -> str:
        given = [*map(self, value.args), *(f"{key}={self(item)}" for key, item in sorted(value.keywords.items()))]
        return f"partial({_joined([self(value.func), *given])})"

    def _module(self, value: torch.nn.Module) -> str:
        """Describe a module by its attributes; of its hooks without the ids, which depend on the order of creation."""
        parts = {
            name: list(part.values()) if name.endswith("hooks") and isinstance(part, Mapping) else part
            for name, part in vars(value).items()
            if part or not name.startswith("_")
        }
        return f"{_name(type(value))} #{digest(self(parts))}"

    def _object(self, value: Any) -> str:
        """Describe an object by what it would be pickled as, or else by its attributes."""
        try:
            reduced = value.__reduce_ex__(4)
        except Exception:  # an object's own `__reduce__` may raise anything
            return self._attributes(value)
        if isinstance(reduced, str):
            return f"{_name(type(value))} {reduced}"
        make, args, *rest = reduced
        kind = "" if make in (NEW, type(value)) else f" by {_name(make)}"
        items = [list(part) if hasattr(part, "__next__") else part for part in rest if part is not None]
        content = [*(arg for arg in args if arg is not type(value)), *items]
        return _name(type(value)) + kind + (f"({self._join(content)})" if content else "")

    def _attributes(self, value: Any) -> str:
        if not getattr(value, "__dict__", None) or self._depth >= DEPTH:
            return without_main(ADDRESS.sub("", repr(value)))
        self._depth += 1
        try:
            return f"{_name(type(value))}({self(dict(vars(value)))})"
        finally:
            self._depth -= 1


NEW = object().__reduce_ex__(4)[0]  # copyreg.__newobj__, the default way to make an object: not worth naming
KINDS: dict[Any, Callable[[_Describer, Any], str]] = {
    type: lambda _, value: _name(value),
    ModuleType: lambda _, value: importable(value.__name__),
    BuiltinFunctionType: lambda _, value: _name(value),
    FunctionType: _Describer._function,
    CodeType: _Describer._code,
    MethodType: _Describer._method,
    partial: _Describer._partial,
    np.ma.MaskedArray: _Describer._object,
    np.ndarray: _Describer._array,
    torch.Generator: lambda self, value: f"torch.Generator #{digest(self(value.get_state()))}",
    torch.Tensor: _Describer._tensor,
    torch.nn.Module: _Describer._module,
    (sparse.sparray, sparse.spmatrix): _Describer._sparse,
    BaseEstimator: _Describer._estimator,
    Mapping: _Describer._mapping,
    (list, tuple): _Describer._sequence,
    (set, frozenset): _Describer._set,
}


def _short(text: str) -> str:
    return (
        text if len(text) <= LONGEST else f"{text[: LONGEST // 2].rpartition(' ')[0] or text[:40]} ... #{digest(text)}"
    )


def _name(value: Any) -> str:
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None) or repr(value)
    module = getattr(value, "__module__", None)
    return name if not isinstance(module, str) or module == "builtins" else f"{importable(module)}.{name}"


def _prefix(value: Any, *usual: type) -> str:
    return "" if type(value) in usual else _name(type(value))


def _joined(parts: Iterable[str]) -> str:
    return ", ".join(parts)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # an empty cell: the name is not bound yet
        return "nothing yet"


def _names(code: CodeType) -> list[str]:
    inner = [name for part in code.co_consts if isinstance(part, CodeType) for name in _names(part)]
    return sorted({*code.co_names, *inner})


def _is_data(value: Any) -> bool:
    return isinstance(value, (*PLAIN, np.ndarray, torch.Tensor)) and not isinstance(value, type)
