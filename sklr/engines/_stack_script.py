"""Operations on tensors, recorded line by line as TorchScript, and what may be recorded.

PyTorch's interpreter of TorchScript needs no Python between two operations, nor Python's lock. It is used for that
alone: nothing is fused, reordered or left out, so that what was recorded is done again bit for bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

MOST_LINES = 3000  # the interpreter takes a second to read so many


class Recorder(TorchDispatchMode):
    """Within it, every operation on tensors is carried out and written down as a line of TorchScript.

    Parameters
    ----------
    inputs : sequence of Tensor
        Called `x[0]`, `x[1]`, ...; other memory that is there already is called `t[0]`, `t[1]`, ...
    before : Recorder, optional
        What it has recorded goes before these lines: they may use what it has named.

    >>> memory = torch.zeros(2)
    >>> with Recorder([torch.ones(2)]) as recorder:
    ...     _ = memory.add_(recorder.inputs[0] * 3)
    >>> print(*recorder.lines, sep="; ")
    v0 = torch.ops.aten.mul(x[0], 3); torch.ops.aten.add_(t[0], v0)
    """

    def __init__(self, inputs: Sequence[Tensor], before: Recorder | None = None):
        super().__init__()
        self.inputs, self.prefix = inputs, "v" if before is None else "w"
        self.memory: list[Tensor] = [] if before is None else before.memory
        self.lists: list[list[Tensor]] = [] if before is None else before.lists
        self.lines: list[str] = []
        self.writing = Counter[str]()  # operations that write to memory
        self.replayable = True
        self._names = WeakTensorKeyDictionary()  # weak, so that recording takes no more memory than stepping
        if before is not None:
            self._names.update({t: name for t, name in before._names.items() if not name.startswith("x[")})
        self._names.update({t: f"x[{i}]" for i, t in enumerate(inputs)})

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.replayable or func.namespace == "profiler":  # optimizers tell the profiler when they step
            return func(*args, **kwargs)
        kinds = {argument.name: str(argument.type) for argument in func._schema.arguments}
        written = [self._written(*pair) for pair in zip(args, kinds.values(), strict=False)]
        written += [f"{name}={self._written(value, kinds[name])}" for name, value in kwargs.items()]
        result = func(*args, **kwargs)
        made = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        if func.namespace != "aten" or (result is not None and not made):  # a number, on which Python may act
            self.replayable = False
        name = func.overloadpacket.__name__
        self.writing[name] += func._schema.is_mutable
        call = f"torch.ops.aten.{name}({', '.join(written)})"
        self.lines.append(call if all(t in self._names for t in made) else f"{self._name(result)} = {call}")
        return result

    def equals(self, other: Recorder) -> bool:
        """Whether the same operations were done with the same numbers on the same memory."""
        alike = self.replayable and other.replayable and self.lines == other.lines
        return alike and all(map(_is_same_memory, self.memory, other.memory))

    def name_of(self, tensor: Tensor) -> str:
        """Return what a tensor is called in the lines."""
        if tensor not in self._names:
            self._names[tensor] = f"t[{len(self.memory)}]"
            self.memory.append(tensor)
        return self._names[tensor]

    def _name(self, result: Any) -> str:
        name = f"{self.prefix}{len(self.lines)}"
        if isinstance(result, Tensor):
            self._names[result] = name
            return name
        for i, t in enumerate(result):
            if isinstance(t, Tensor) and t not in self._names:
                self._names[t] = f"{name}[{i}]"
        return name

    def _written(self, value: Any, kind: str = "") -> str:
        if isinstance(value, Tensor):
            return self.name_of(value)
        if isinstance(value, (list, tuple)) and "Tensor" in kind:
            return self._written_list(value)
        if isinstance(value, (list, tuple)):
            return f"[{', '.join(map(self._written, value))}]" if value else "no_ints"
        if isinstance(value, torch.device):
            return f'torch.device("{value}")'
        if isinstance(value, float):
            return repr(value) if abs(value) < torch.inf else f'float("{value}")'
        self.replayable &= value is None or isinstance(value, _LITERAL)
        return repr(value)

    def _written_list(self, tensors: Sequence[Tensor | None]) -> str:
        names = [self._written(t) for t in tensors]
        if not all(name.startswith("t[") for name in names):
            return f"[{', '.join(names)}]"
        # memory is handed over in lists: of a list made in TorchScript it overlooks that its tensors are written to
        self.lists.append([t for t in tensors if t is not None])
        return f"k[{len(self.lists) - 1}]"


_LITERAL = (bool, int, str, torch.dtype, torch.layout, torch.memory_format)


def _is_same_memory(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.data_ptr(), a.dtype, a.shape, a.stride()) == (b.data_ptr(), b.dtype, b.shape, b.stride())


def read(head: str, lines: Sequence[str], writing: Counter[str]) -> Callable[..., None] | None:
    """Turn lines of TorchScript into a function; None where PyTorch does not read them as they are.

    Parameters
    ----------
    head : str
        The lines before, from `def` on; the others are put into their innermost block.
    lines : sequence of str
    writing : Counter
        How often which operations must be there. Of one that is thought to write to nothing in use TorchScript makes
        nothing.

    >>> x = torch.zeros(2)
    >>> double = read("def double(x: Tensor):", ["torch.ops.aten.add_(x, 1)"] * 2, Counter(add_=2))
    >>> double(x), x.tolist()
    (None, [2.0, 2.0])
    >>> read("def nothing(x: Tensor):", ["torch.ops.aten.addd_(x, 1)"], Counter(addd_=1)) is None
    True
    """
    if len(lines) > MOST_LINES:
        return None
    last = head.splitlines()[-1]
    indent = " " * (len(last) - len(last.lstrip()) + 4 * last.endswith(":"))
    function = _compiled("\n".join([head, *(indent + line for line in lines), ""]))
    if function is None or any(_count(function, name) < n for name, n in writing.items()):
        return None
    return function


@cache
def _compiled(source: str) -> Any:
    """The one function in `source`; equal ones are read once."""
    name = source.removeprefix("def ").partition("(")[0]
    try:
        return getattr(torch.jit.CompilationUnit(source), name)
    except (RuntimeError, AttributeError):
        return None


def _count(function: Any, name: str) -> int:
    return len(function.graph.findAllNodes(f"aten::{name}"))


class Untouched:
    """Whether a module's Python code is free of memory: nobody would notice if it were not called the next time.

    >>> module = nn.Linear(2, 1)
    >>> untouched = Untouched(module)
    >>> before = untouched.holds()
    >>> module.calls = 1
    >>> before, untouched.holds()
    (True, False)
    """

    def __init__(self, module: nn.Module):
        self.module, self._before = module, _attributes(module)

    def holds(self) -> bool:
        """Whether no hook watches the module, and it has the very attributes that it had."""
        after = _attributes(self.module)
        alike = len(self._before) == len(after)
        return (
            alike
            and not any(_hooks(m) for m in self.module.modules())
            and all(a == b and v is w for (a, v), (b, w) in zip(self._before, after, strict=True))
        )


_OF_TORCH = {"_parameters", "_buffers", "_modules"}  # swapped and put back while a module is mapped
_CONTAINERS = (list, dict, set)


def _attributes(module: nn.Module) -> list[tuple[str, Any]]:
    """What the module could remember from one call for the next, the contents of containers too."""
    values = [item for m in module.modules() for item in vars(m).items() if item[0] not in _OF_TORCH]
    inside = [(name, v) for name, value in values if isinstance(value, _CONTAINERS) for v in _contents(value)]
    return values + inside


def _contents(container: Any) -> list[Any]:
    return [*container.keys(), *container.values()] if isinstance(container, Mapping) else list(container)


def _hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )
