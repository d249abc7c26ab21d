"""Steps without Python: the operations of one step are recorded, and then replayed for any number of steps.

A step of a small stack is some fifty operations of about ten microseconds each. Calling one from Python takes as long
again, and every call passes the GIL on: two packs in two threads were no faster than one. A replay computes what a
plain step computes. If a step cannot be recorded, or PyTorch has no TorchScript, steps stay plain. On a CUDA device, a
step that could be recorded is captured as a CUDA graph instead.
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

WORTH_STEPS = 40  # a recording costs about as much as calling so many steps from Python
MET_BEFORE_GRAPH = 20  # capturing costs about as much as so many steps: not worth it for rare shapes of batch

# Threads whose steps will soon be replayed take turns until then: side by side they would contend for the GIL.
_IN_PYTHON = Lock()


class Replays:
    """The recordings of one stack's steps, one for each shape of batch.

    Two steps are recorded. If they consist of the same operations, with the same constants, on the same memory, later
    steps are taken to be the same too.

    Parameters
    ----------
    *watched : object
        Objects that a step calls, such as the module and the optimizer. A step is not replayed if it changes one of
        them (beyond the values in its tensors), or if one has hooks: Python code that a replay would not call.

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
        """Discard the recordings: memory that they use has moved."""
        self._known: dict[Any, Replay | GraphReplay | None] = {}
        self._first: dict[Any, Recorder] = {}
        self._met: Counter[Any] = Counter()

    def steps(self, step: Step, lr: Tensor, batches: Batch, n_more: int = 0) -> Tensor:
        """Take as many steps as `lr` (n_steps, ...) has.

        Parameters
        ----------
        step : callable (lr, batch) -> losses
            Takes a plain step. Whatever it changes from step to step must be held in tensors, in the same memory.
        lr : Tensor (n_steps, ...)
        batches : Batch
            Its tensors have a leading axis of steps.
        n_more : int
            How many steps will follow on batches of this shape: with few steps left, recording is not worth it.

        Returns
        -------
        losses : Tensor (n_steps, ...)
        """
        key, n_steps, losses = _key(lr, batches), len(lr), list[Tensor]()
        while len(losses) < n_steps and self._known.get(key) is None:
            i = len(losses)
            shown = lr[i], batches.part(i)
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
        rest = replay(lr[first:], batches.part(slice(first, None)))
        return torch.cat([torch.stack(losses), rest]) if losses else rest

    def _recorded(self, step: Step, lr: Tensor, batch: Batch, key: Any) -> Tensor:
        """Take a step, and record it unless it is one of the first of its shape: the very first allocates memory."""
        self._met[key] += 1
        if self._met[key] <= (MET_BEFORE_GRAPH if in_graphs(lr) else 1):
            return step(lr, batch)
        untouched = Untouched(*self.watched)
        with Recorder(batch.leaves(lr)) as recorder:
            losses = step(lr, batch)
        recorder.replayable &= untouched.holds()
        # the first of two recordings waits for the second; any failure settles that this shape is never replayed
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
    """A recorded step that is repeated with other inputs.

    TorchScript runs at most so many steps per call that Python sees Ctrl-C about every half second.
    """

    # `no_ints`: TorchScript does not infer the type of an empty list
    HEAD = """\
def steps(
    t: List[Tensor], k: List[List[Tensor]], g: List[torch.Generator], inputs: List[Tensor], losses: Tensor
):
    no_ints: List[int] = []
    for i in range(len(losses)):
        x = [of_steps[i] for of_steps in inputs]"""
    SECONDS, AT_MOST = 0.5, 64  # of one call, and its steps

    def __init__(self, script: Script, like: Tensor):
        self.script, self.like, self.at_once = script, like, 1

    @classmethod
    def of(cls, recorder: Recorder, losses: Tensor) -> Replay | None:
        """Return a replay of a recorded step that returned `losses`; None if PyTorch cannot compile it."""
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
    """Return a key of what batches must have in common to use the same replay: structure, dtypes, shapes, strides."""
    structure = repr(tree_flatten((batches.x, batches.y, batches.weight))[1])  # not always hashable
    return structure, tuple((t.dtype, t.shape[1:], t.stride()[1:]) for t in batches.leaves(lr))
