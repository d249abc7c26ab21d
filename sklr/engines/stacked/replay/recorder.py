"""Recording operations on tensors as lines of TorchScript, to repeat them without Python.

PyTorch's TorchScript interpreter runs operations without Python between them and without the GIL. It is used for that
alone: nothing is fused, reordered or left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from sklr._utils.warnings import warn
from sklr.exceptions import StackFallbackWarning

MOST_LINES = 3000  # TorchScript takes about a second to compile so many


class Recorder(TorchDispatchMode):
    """Within this mode, every operation on tensors is carried out and recorded as a line of TorchScript.

    In the lines, the inputs are named `x[0]`, `x[1]`, ..., other tensors that existed before are named `t[0]`, `t[1]`,
    ..., and the result of line 7 is named `v7`.

    Parameters
    ----------
    inputs : sequence of Tensor
        The tensors that differ from replay to replay.

    Attributes
    ----------
    devices : set of torch.device
        The devices of all tensors involved.
    replayable : bool
        Whether the lines are complete. They are not if Python read a number from a tensor: it may act on the number,
        and act differently on the next one.

    >>> memory = torch.zeros(2)
    >>> with Recorder([torch.ones(2)]) as recorder:
    ...     _ = memory.add_(recorder.inputs[0] * 3)
    >>> print(*recorder.lines, sep="; ")
    v0 = torch.ops.aten.mul(x[0], 3); torch.ops.aten.add_(t[0], v0)
    """

    supports_higher_order_operators = True

    def __init__(self, inputs: Sequence[Tensor]):
        super().__init__()
        self.inputs = inputs
        self.memory: list[Tensor] = []
        self.lists: list[list[Tensor]] = []
        self.generators: list[torch.Generator] = []
        self.lines: list[str] = []
        self.replayable: bool = True
        self.devices: set[torch.device] = {t.device for t in inputs}
        self._places: list[int] = []  # the addresses of `memory` when each was first met
        self._names = WeakTensorKeyDictionary()  # weak, so that recording takes no more memory than stepping
        self._names.update({t: f"x[{i}]" for i, t in enumerate(inputs)})

    def __enter__(self) -> Recorder:
        self._modes = ExitStack()
        self._modes.enter_context(_Reading(self))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._modes.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.replayable or getattr(func, "namespace", "") == "profiler":  # optimizers mark steps for it
            return func(*args, **kwargs)
        if not isinstance(func, OpOverload) or func.namespace != "aten" or _has_open_shape(func, args):
            self.replayable = False
            return func(*args, **kwargs)
        kinds = {argument.name: str(argument.type) for argument in func._schema.arguments}
        written = [self._written(*pair) for pair in zip(args, kinds.values(), strict=False)]
        written += [f"{name}={self._written(value, kinds[name])}" for name, value in kwargs.items()]
        result = func(*args, **kwargs)
        made = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        self.devices.update(t.device for t in made)
        self.replayable &= result is None or bool(made)  # any other result is a number that Python sees
        call = f"torch.ops.aten.{func.overloadpacket.__name__}({', '.join(written)})"
        # an in-place operation returns a tensor that has a name already
        self.lines.append(call if all(t in self._names for t in made) else f"{self._name(result)} = {call}")
        return result

    def equals(self, other: Recorder) -> bool:
        """Whether both recorded the same operations with the same constants on the same memory."""
        alike = self.replayable and other.replayable and self.lines == other.lines
        alike = alike and self.generators == other.generators
        places = [t.data_ptr() for t in other.memory]
        return alike and self._places == other._places == places and all(map(_is_same, self.memory, other.memory))

    def name_of(self, tensor: Tensor) -> str:
        """Return the name of a tensor in the lines."""
        if tensor not in self._names:
            self._names[tensor] = f"t[{len(self.memory)}]"
            self.memory.append(tensor)
            self._places.append(tensor.data_ptr())
            self.devices.add(tensor.device)
        return self._names[tensor]

    def _name(self, result: Any) -> str:
        name = f"v{len(self.lines)}"
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
        if isinstance(value, torch.Generator):
            self.generators.append(value)
            return f"g[{len(self.generators) - 1}]"
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
        # Such lists are passed in as arguments: TorchScript overlooks that an operation writes to the tensors of a list
        # that is made in the script itself.
        self.lists.append([t for t in tensors if t is not None])
        return f"k[{len(self.lists) - 1}]"


_LITERAL = (bool, int, str, torch.dtype, torch.layout, torch.memory_format)


class _Reading(TorchFunctionMode):
    """Tell a recorder when numbers are read from a tensor in ways that `__torch_dispatch__` does not see."""

    def __init__(self, recorder: Recorder):
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("tolist", "numpy", "__array__", "__dlpack__"):
            self.recorder.replayable = False
        return func(*args, **(kwargs or {}))


def _has_open_shape(func: OpOverload, args: Any) -> bool:
    """Whether the shape of the result depends on values, as with boolean masks: other values would need other lines."""
    if torch.Tag.dynamic_output_shape not in func.tags:
        return False
    by_number = func.overloadpacket.__name__ == "index"
    return not by_number or any(t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1])


def _is_same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors at the same address view memory in the same way."""
    return a is b or (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride())


class Script:
    """Compiled lines with the memory that they work on.

    Parameters
    ----------
    function : callable
        As `read` returns it; its first arguments are memory, lists of memory and random number generators.
    recorder : Recorder
        Holds these.
    """

    def __init__(self, function: Callable[..., None], recorder: Recorder):
        self.function = function
        self.given = recorder.memory, recorder.lists, recorder.generators

    @torch.no_grad()
    def __call__(self, *given: Any) -> None:
        """Run the function on the memory and on the further arguments `given`."""
        # without TorchScript's optimizations, which profile first and may fuse operations
        with torch.jit.optimized_execution(False):
            self.function(*self.given, *given)


def read(head: str, lines: Sequence[str]) -> Callable[..., None] | None:
    """Compile lines of TorchScript into a function; return None if PyTorch cannot, or would leave out some of them.

    TorchScript may remove in-place operations as dead code; counting them in the graph shows whether any is missing.

    Parameters
    ----------
    head : str
        The lines before, from `def` on; `lines` are put into its innermost block.
    lines : sequence of str

    >>> x = torch.zeros(2)
    >>> double = read("def double(x: Tensor):", ["torch.ops.aten.add_(x, 1)"] * 2)
    >>> double(x), x.tolist()
    (None, [2.0, 2.0])
    >>> read("def endless(x: Tensor):", ["torch.ops.aten.add_(x, 1)"] * (MOST_LINES + 1)) is None
    True
    """
    if len(lines) > MOST_LINES:
        return None
    last = head.splitlines()[-1]
    indent = " " * (len(last) - len(last.lstrip()) + 4 * last.endswith(":"))
    function = _compiled("\n".join([head, *(indent + line for line in lines), ""]))
    writing = Counter(name for line in lines if (name := _writes(line)))
    if function is None or any(len(function.graph.findAllNodes(f"aten::{w}")) < n for w, n in writing.items()):
        return None
    return function


def _writes(line: str) -> str | None:
    """Return the name of a line's operation if it is called for what it writes, not for its result."""
    _, found, call = line.partition("torch.ops.aten.")
    if line.lstrip().startswith("v") or not (found or line.endswith(")")):
        return None
    return call.partition("(")[0] if found else line.rpartition(".")[2].partition("(")[0]


@lru_cache(64)
def _compiled(source: str) -> Any:
    """Compile the one function in `source`, or take it from the cache; None if that fails."""
    name = source.removeprefix("def ").partition("(")[0]
    try:
        return getattr(torch.jit.CompilationUnit(source), name)
    except Exception as error:  # TorchScript is deprecated in PyTorch and may fail in any way: plain steps remain
        _say_once(type(error).__name__)
        return None


@lru_cache
def _say_once(kind: str) -> None:
    warn(
        f"PyTorch {torch.__version__} cannot compile a recorded training step ({kind}). The steps of stacks are called "
        "from Python instead: this is slower, with the same results.",
        StackFallbackWarning,
    )


@lru_cache(1)
def can_replay() -> bool:
    """Return whether this version of PyTorch can compile TorchScript at all."""
    return read("def one(x: Tensor):", ["torch.ops.aten.add_(x, 1)"]) is not None
