"""Steps without Python: the operations of one step are recorded, and then replayed for as many steps as are wanted.

A step of a small stack is some fifty operations of some ten microseconds. Called from Python each costs as much again,
and Python's lock is passed on at each: two packs in two threads were no faster than one. A replay does what a plain
step does; where a step cannot be recorded, or PyTorch has no TorchScript, steps stay plain. On a CUDA device a step
that could be recorded is captured as a CUDA graph.
"""

from __future__ import annotations

import time
from collections import Counter
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from sklr.engines.stacked.data.batch import Batch
from sklr.engines.stacked.purity.untouched import Untouched
from sklr.engines.stacked.replay.cuda_graph import GraphReplay, Step, in_graphs
from sklr.engines.stacked.replay.recorder import Recorder, Script, read

WORTH_STEPS = 40  # about as many cost as much in Python as a recording does
MET_BEFORE_GRAPH = 20  # capturing takes about as long as that many steps: not for the last batches of some epochs

# threads that will soon do without Python take turns until then: its lock would be passed on at every operation
_IN_PYTHON = Lock()


class Replays:
    """The recordings of one stack's steps, one for each shape of batch.

    Two steps are recorded; if they were the same operations, with the same numbers on the same memory, others will be.

    Parameters
    ----------
    *watched : object
        What a step calls. None of them may change while it works, or be watched by hooks.

    >>> replays, total = Replays(), torch.zeros(2)
    >>> lr, x = torch.ones(100, 1), torch.arange(200.0).reshape(100, 2)
    >>> losses = replays.steps(lambda lr, batch: total.add_(lr * batch.x).clone(), lr, Batch(x, x))
    >>> torch.equal(losses, x.cumsum(0)), replays.n_replayed
    (True, 97)
    """

    def __init__(self, *watched: Any):
        self.watched, self.n_replayed = watched, 0
        self.forget()

    def forget(self) -> None:
        """Let the recordings go: memory that they use has moved."""
        self._known: dict[Any, Replay | GraphReplay | None] = {}
        self._first: dict[Any, Recorder] = {}
        self._met: Counter[Any] = Counter()

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
        key, n_steps, losses = _key(lr, batches), len(lr), list[Tensor]()
        while len(losses) < n_steps and self._known.get(key) is None:
            i = len(losses)
            shown = lr[i], batches.of_steps(i)
            if key not in self._known and n_steps - i + n_more >= WORTH_STEPS:
                with _IN_PYTHON:
                    losses.append(self._recorded(step, *shown, key))
            else:
                losses.append(step(*shown))
        first = len(losses)
        if first == n_steps:
            return torch.stack(losses)
        replay = self._known[key]
        assert replay is not None
        self.n_replayed += n_steps - first
        rest = replay(lr[first:], batches.of_steps(slice(first, None)))
        return torch.cat([torch.stack(losses), rest]) if losses else rest

    def _recorded(self, step: Step, lr: Tensor, batch: Batch, key: Any) -> Tensor:
        """Take a step, and record it unless it is one of the first since a change: in the first one memory is made."""
        self._met[key] += 1
        if self._met[key] <= (MET_BEFORE_GRAPH if in_graphs(lr) else 1):
            return step(lr, batch)
        untouched = Untouched(*self.watched)
        with Recorder(batch.leaves(lr)) as recorder:
            losses = step(lr, batch)
        recorder.replayable &= untouched.holds()
        first = self._first.pop(key, None)
        if first is None and recorder.replayable:
            self._first[key] = recorder
        elif first is None or not first.equals(recorder):
            self._known[key] = None
        else:
            graph = in_graphs(lr)
            self._known[key] = GraphReplay.of(recorder, step, lr, batch) if graph else Replay.of(recorder, losses)
        return losses


class Replay:
    """A recorded step, to be taken again with other inputs; about every half a second Ctrl-C is looked for."""

    HEAD = """\
def steps(
    t: List[Tensor], k: List[List[Tensor]], g: List[torch.Generator], inputs: List[Tensor], losses: Tensor
):
    no_ints: List[int] = []
    for i in range(len(losses)):
        x = [of_steps[i] for of_steps in inputs]"""
    SECONDS, AT_MOST = 0.5, 64

    def __init__(self, script: Script, like: Tensor):
        self.script, self.like, self.at_once = script, like, 1

    @classmethod
    def of(cls, recorder: Recorder, losses: Tensor) -> Replay | None:
        """A replay of a recorded step that returned `losses`; None where there can be none."""
        function = read(cls.HEAD, [*recorder.lines, f"losses[i].copy_({recorder.name_of(losses)})"])
        return None if function is None else cls(Script(function, recorder), losses)

    def __call__(self, lr: Tensor, batches: Batch) -> Tensor:
        """Take the steps; return their losses (n_steps, ...)."""
        losses, inputs, first = self.like.new_empty(len(lr), *self.like.shape), batches.leaves(lr), 0
        while first < len(lr):
            steps, start = slice(first, first + self.at_once), time.perf_counter()
            self.script([t[steps] for t in inputs], losses[steps])
            each = (time.perf_counter() - start) / len(losses[steps])
            first, self.at_once = steps.stop, max(1, min(self.AT_MOST, int(self.SECONDS / each)))
        return losses


def _key(lr: Tensor, batches: Batch) -> Any:
    """What batches must have in common to be shown to the same replay."""
    structure = repr(tree_flatten((batches.x, batches.y, batches.weight))[1])  # not always hashable
    return structure, tuple((t.dtype, t.shape[1:], t.stride()[1:]) for t in batches.leaves(lr))
