"""Steps without Python: the operations of one step are recorded, and then replayed for as many steps as are wanted.

A step of a small stack is some fifty operations of some ten microseconds. Called from Python each costs as much again,
and Python's lock is passed on at each: two packs in two threads were no faster than one. A replayed step is a plain
one bit for bit; where a step cannot be recorded, or PyTorch has no TorchScript, steps stay plain.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves

from sklr.engines._stack_batch import Batch
from sklr.engines._stack_script import Recorder, Untouched, read

Step = Callable[[Tensor, Batch], Tensor]

WORTH = 40  # steps: about as many cost as much in Python as a recording does

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
        untouched, recorders, losses = Untouched(self.module), [], []
        for i in (0, 1):
            shown = lr[i], batches.of_steps(i)
            with Recorder(_leaves(*shown)) as recorder:
                losses.append(step(*shown))
            recorders.append(recorder)
        first, second = recorders
        same = untouched.holds() and first.equals(second)
        return torch.stack(losses), Replay.of(second, losses[1]) if same else None


class Replay:
    """A recorded step, to be taken again with other inputs; see `Recorder`."""

    HEAD = """\
def steps(t: List[Tensor], k: List[List[Tensor]], inputs: List[Tensor], losses: Tensor):
    no_ints: List[int] = []
    for i in range(len(losses)):
        x = [of_steps[i] for of_steps in inputs]"""

    def __init__(self, function: Callable[..., None], recorder: Recorder, like: Tensor):
        self.function, self.memory, self.lists, self.like = function, recorder.memory, recorder.lists, like

    @classmethod
    def of(cls, recorder: Recorder, losses: Tensor) -> Replay | None:
        """A replay of a recorded step that returned `losses`; None where there can be none."""
        lines = (*recorder.lines, f"losses[i].copy_({recorder.name_of(losses)})")
        function = read(cls.HEAD, lines, recorder.writing)
        return None if function is None else cls(function, recorder, losses)

    @torch.no_grad()
    def __call__(self, lr: Tensor, batches: Batch) -> Tensor:
        """Take the steps; return their losses (n_steps, ...)."""
        losses = self.like.new_empty(len(lr), *self.like.shape)
        with torch.jit.optimized_execution(False):
            self.function(self.memory, self.lists, _leaves(lr, batches), losses)
        return losses


def _leaves(lr: Tensor, batch: Batch) -> list[Tensor]:
    parts = (batch.x, batch.y, batch.weight, batch.counted)
    return [lr, *(t for t in tree_leaves(parts) if t is not None)]


def _key(lr: Tensor, batches: Batch) -> Any:
    """What batches must have in common to be shown to the same replay."""
    structure = tree_flatten((batches.x, batches.y, batches.weight, batches.counted))[1]
    return structure, tuple((t.dtype, t.shape[1:], t.stride()[1:]) for t in _leaves(lr, batches))
