"""Steps without Python: the operations of one step are recorded, and then replayed for as many steps as are wanted.

A step of a small stack is some fifty operations of some ten microseconds. Called from Python each costs as much again,
and Python's lock is passed on at each: two packs in two threads were no faster than one. A recording is run by
PyTorch's interpreter of TorchScript, which needs neither. It changes nothing: no operation is fused, reordered or
left out, so that a replayed step is a plain one bit for bit. TorchScript is used for that alone, and where a PyTorch
has none, or it does not know an operation, steps stay plain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import cache
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from sklr.engines._stack_batch import Batch

Step = Callable[[Tensor, Batch], Tensor]

WORTH = 40  # steps: about as many cost as much in Python as a recording does
MOST_CALLS = 3000  # the interpreter takes a second to read so many

_IN_PYTHON = Lock()  # two threads whose steps are Python take turns: they would wait for its lock at every operation


class Replays:
    """The recordings of one stack's steps, one for each shape of batch.

    Parameters
    ----------
    module : nn.Module
        What a step calls: no step is recorded of a module that changes, or is watched by hooks, while it works.

    >>> replays, total = Replays(nn.Identity()), torch.zeros(2)
    >>> lr, x = torch.ones(100, 1), torch.arange(200.0).reshape(100, 2)
    >>> losses = replays.steps(lambda lr, batch: total.add_(lr * batch.x).clone(), lr, Batch(x, x))
    >>> torch.equal(losses, x.cumsum(0)), replays.n_replayed
    (True, 97)
    """

    def __init__(self, module: nn.Module):
        self.module, self.n_replayed = module, 0
        self._known: dict[Any, Replay | None] = {}
        self._met: set[Any] = set()

    def forget(self) -> None:
        """Let the recordings go: memory that they use has moved."""
        self._known.clear()
        self._met.clear()

    def steps(self, step: Step, lr: Tensor, batches: Batch, n_more: int = 0) -> Tensor:
        """Take steps, as many as `lr` (n_steps, ...) has.

        Parameters
        ----------
        step : callable (lr, batch) -> losses
            Takes a plain step. What it changes from step to step must lie in tensors, in the same memory each time.
        lr : Tensor (n_steps, ...)
        batches : Batch
            Each tensor has an axis of steps in front.
        n_more : int
            Steps that will follow on batches of this shape; where there are few left it is not worth recording one.

        Returns
        -------
        losses : Tensor (n_steps, ...)
        """
        key, n_steps, losses, first = _key(lr, batches), len(lr), list[Tensor](), 0
        while first < n_steps:
            rest = lr[first:], batches.of_steps(slice(first, None))
            if (replay := self._known.get(key)) is not None:
                losses.append(replay(*rest))
                self.n_replayed += n_steps - first
            else:
                with nullcontext() if key in self._known else _IN_PYTHON:
                    losses.append(self._plain(step, key, *rest, n_more))
            first += len(losses[-1])
        return torch.cat(losses)

    def _plain(self, step: Step, key: Any, lr: Tensor, batches: Batch, n_more: int) -> Tensor:
        """Take the first step, or the first two and record them; return their losses."""
        is_worth_it = len(lr) > 1 and len(lr) + n_more >= WORTH
        if is_worth_it and key in self._met and key not in self._known:
            losses, self._known[key] = self._record(step, lr, batches)
            return losses
        self._met.add(key)  # memory is made in the first step after a change: that one is never recorded
        return step(lr[0], batches.of_steps(0)).unsqueeze(0)

    def _record(self, step: Step, lr: Tensor, batches: Batch) -> tuple[Tensor, Replay | None]:
        """Take two steps; return their losses and, if both were the same operations on the same memory, a replay."""
        before, recorders, losses = _attributes(self.module), [], []
        for i in (0, 1):
            shown = lr[i], batches.of_steps(i)
            with Recorder(_leaves(*shown)) as recorder:
                losses.append(step(*shown))
            recorders.append(recorder)
        first, second = recorders
        is_free = not _is_watched(self.module) and _are_same(before, _attributes(self.module))
        return torch.stack(losses), Replay.of(second, losses[1]) if is_free and first.equals(second) else None


class Recorder(TorchDispatchMode):
    """Within it, every operation on tensors is carried out and written down as a line of TorchScript.

    Parameters
    ----------
    inputs : sequence of Tensor
        Called `x[0]`, `x[1]`, ...; other memory that is there already is called `t[0]`, `t[1]`, ...

    >>> memory = torch.zeros(2)
    >>> with Recorder([torch.ones(2)]) as recorder:
    ...     _ = memory.add_(recorder.inputs[0] * 3)
    >>> print(*recorder.lines, sep="; ")
    v0 = torch.ops.aten.mul(x[0], 3); torch.ops.aten.add_(t[0], v0)
    """

    def __init__(self, inputs: Sequence[Tensor]):
        super().__init__()
        self.inputs, self.memory, self.lists = inputs, list[Tensor](), list[list[Tensor]]()
        self.lines: list[str] = []
        self.writing = Counter[str]()  # operations that write to memory
        self.replayable = True
        self._names = WeakTensorKeyDictionary()  # weak, so that recording takes no more memory than stepping
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
        """What a tensor is called in the lines."""
        if tensor not in self._names:
            self._names[tensor] = f"t[{len(self.memory)}]"
            self.memory.append(tensor)
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


class Replay:
    """Recorded steps, to be taken again with other inputs; see `Recorder`."""

    def __init__(self, function: Callable[..., None], memory: list[Tensor], lists: list[list[Tensor]], like: Tensor):
        self.function, self.memory, self.lists, self.like = function, memory, lists, like

    @classmethod
    def of(cls, recorder: Recorder, losses: Tensor) -> Replay | None:
        """A replay of a recorded step that returned `losses`; None where TorchScript does not read it as it is."""
        if len(recorder.lines) > MOST_CALLS:
            return None
        lines = (*recorder.lines, f"losses[i].copy_({recorder.name_of(losses)})")
        function = _compiled("".join(f"        {line}\n" for line in lines))
        if function is None or any(_count(function, name) < n for name, n in recorder.writing.items()):
            return None
        return cls(function, recorder.memory, recorder.lists, losses)

    @torch.no_grad()
    def __call__(self, lr: Tensor, batches: Batch) -> Tensor:
        """Take the steps; return their losses (n_steps, ...)."""
        losses = self.like.new_empty(len(lr), *self.like.shape)
        with torch.jit.optimized_execution(False):
            self.function(self.memory, self.lists, _leaves(lr, batches), losses)
        return losses


def _count(function: Any, name: str) -> int:
    """How often an operation is called; one that is thought to write to nothing in use would have been left out."""
    return len(function.graph.findAllNodes(f"aten::{name}"))


@cache
def _compiled(body: str) -> Callable[..., None] | None:
    """TorchScript that does the lines of `body` for each step; equal ones are read once."""
    head = (
        "def steps(t: List[Tensor], k: List[List[Tensor]], inputs: List[Tensor], losses: Tensor):\n"
        "    no_ints: List[int] = []\n"
        "    for i in range(len(losses)):\n"
        "        x = [of_steps[i] for of_steps in inputs]\n"
    )
    try:
        return torch.jit.CompilationUnit(head + body).steps
    except (RuntimeError, AttributeError):
        return None


def _leaves(lr: Tensor, batch: Batch) -> list[Tensor]:
    parts = (batch.x, batch.y, batch.weight, batch.counted)
    return [lr, *(t for t in tree_leaves(parts) if t is not None)]


def _key(lr: Tensor, batches: Batch) -> Any:
    """What batches must have in common to be shown to the same replay."""
    structure = tree_flatten((batches.x, batches.y, batches.weight, batches.counted))[1]
    return structure, tuple((t.dtype, t.shape[1:], t.stride()[1:]) for t in _leaves(lr, batches))


def _is_same_memory(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.data_ptr(), a.dtype, a.shape, a.stride()) == (b.data_ptr(), b.dtype, b.shape, b.stride())


def _is_watched(module: nn.Module) -> bool:
    return any(
        m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks for m in module.modules()
    )


_OF_TORCH = {"_parameters", "_buffers", "_modules"}  # swapped and put back while a module is mapped


def _attributes(module: nn.Module) -> list[tuple[str, Any]]:
    """What the module's Python code could remember from one call for the next, the contents of containers too."""
    values = [item for m in module.modules() for item in vars(m).items() if item[0] not in _OF_TORCH]
    inside = [(name, v) for name, value in values if isinstance(value, _CONTAINERS) for v in _contents(value)]
    return values + inside


_CONTAINERS = (list, dict, set)


def _contents(container: Any) -> list[Any]:
    return [*container.keys(), *container.values()] if isinstance(container, Mapping) else list(container)


def _are_same(before: list[tuple[str, Any]], after: list[tuple[str, Any]]) -> bool:
    return len(before) == len(after) and all(a == b and v is w for (a, v), (b, w) in zip(before, after, strict=True))
