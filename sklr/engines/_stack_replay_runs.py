"""Run by run without Python: one run's gradients are recorded, and replayed in two loops, over cells and candidates.

What a run computes of its cell's rows alone (the columns of a convolution, say) is computed once for all candidates of
the cell, in a replay as in Python.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from sklr.engines._stack_map import Gradients, Named, RunGradients, RunMap
from sklr.engines._stack_script import Recorder, Untouched, read

WORTH = 8  # runs on batches of a shape: who had so many will have more
Found = tuple[Named, Tensor, Named]  # what `RunGradients` returns


class ReplayedRuns(RunGradients):
    """`RunGradients` run by run, replayed once there have been some runs on batches of a shape.

    One call is recorded; its replay is trusted if it computes all runs of that call again to the last bit.
    """

    def __init__(self, run_map: RunMap, loss: Callable[[Any, Any, Tensor | None], Tensor]):
        super().__init__(run_map, loss)
        self._known: dict[Any, RunReplay | None] = {}
        self._met = Counter[Any]()  # runs

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_known": {}, "_met": Counter()}

    def _one_by_one(self, *given: Any) -> Found:
        key = tuple((t.dtype, t.shape, t.stride()) for t in _tensors(given))
        if (replay := self._known.get(key)) is not None:
            return replay(*given)
        if self._met[key] >= WORTH and key not in self._known:
            found, self._known[key] = self._record(*given)
            return found
        self._met[key] += next(iter(given[0].values())).shape[:2].numel()
        return super()._one_by_one(*given)

    def _record(self, params: Named, constants: Named, buffers: Named, *rows: Any) -> tuple[Found, RunReplay | None]:
        lesson, untouched = Lesson(self._together), Untouched(self.run_map.module)
        before = {name: t.clone() for name, t in buffers.items()}
        x, y, weight = rows
        found = super()._one_by_one(params, constants, buffers, x, y, weight, lesson)
        replay = RunReplay.of(lesson) if untouched.holds() else None
        if replay is None:
            return found, None
        again = replay(params, constants, before, *rows)
        same = all(torch.equal(a, b) for a, b in zip(_tensors(found), _tensors(again), strict=True))
        return found, replay if same else None


class Lesson:
    """The gradients of one run after another, the first two of them recorded: they are of one cell if it has two."""

    def __init__(self, of_run: Gradients):
        self.of_run = of_run
        self.recorders: list[Recorder] = []
        self.found: Any = None

    def __call__(self, *given: Any) -> Found:
        if len(self.recorders) == 2:
            return self.of_run(*given)
        with Recorder(_tensors(given), *self.recorders) as recorder:
            self.found = self.of_run(*given)
        self.recorders.append(recorder)
        return self.found


class RunReplay:
    """Recorded gradients of a run, to be computed for all runs.

    What the second run of a cell did not compute itself but found there, the first lines of the first one compute.
    """

    HEAD = """\
def runs(t: List[Tensor], k: List[List[Tensor]], rows: List[Tensor], params: List[Tensor], buffers: List[Tensor],
         grads: List[Tensor], losses: Tensor):
    no_ints: List[int] = []
    for cell in range(losses.size(0)):
        run = 0"""
    INPUTS = (
        "x = [p.narrow(0, cell, 1).narrow(1, run, 1) for p in params]",
        "x = x + [b.narrow(0, run, 1).narrow(1, cell, 1) for b in buffers]",
        "x = x + [r.narrow(0, cell, 1) for r in rows]",
    )
    LOOP = "for run in range(losses.size(1)):"

    def __init__(self, function: Callable[..., None], recorder: Recorder):
        self.function, self.memory, self.lists = function, recorder.memory, recorder.lists

    @classmethod
    def of(cls, lesson: Lesson) -> RunReplay | None:
        """A replay of what was recorded; None where there can be none."""
        if not all(recorder.replayable for recorder in lesson.recorders):
            return None
        first, last = lesson.recorders[0], lesson.recorders[-1]
        used = [int(n) for line in last.lines for n in re.findall(r"\bv(\d+)", line)] if last is not first else []
        shared = first.lines[: max(used, default=-1) + 1]
        each = [*cls.INPUTS, *last.lines, *_kept(last, *lesson.found)]
        lines = [*cls.INPUTS, *shared, cls.LOOP, *("    " + line for line in each)]
        function = read(cls.HEAD, lines, last.writing)
        return None if function is None else cls(function, last)

    @torch.no_grad()
    def __call__(self, params: Named, constants: Named, buffers: Named, *rows: Any) -> Found:
        """As `RunGradients`."""
        grads = {name: torch.empty_like(p) for name, p in params.items()}
        like = next(iter(params.values()))
        losses = like.new_empty(like.shape[:2])
        state = [*params.values(), *constants.values()], [*buffers.values()]
        with torch.jit.optimized_execution(False):
            self.function(self.memory, self.lists, _tensors(rows), *state, [*grads.values()], losses)
        return grads, losses, buffers


def _kept(recorder: Recorder, grads: Named, loss: Tensor, buffers: Named) -> list[str]:
    """Lines that put a run's results where those of all runs are."""
    of_run = ".narrow(0, cell, 1).narrow(1, run, 1)"
    lines = [f"grads[{j}]{of_run}.copy_({recorder.name_of(grad)})" for j, grad in enumerate(grads.values())]
    lines.append(f"losses{of_run}.copy_({recorder.name_of(loss)})")
    after = (recorder.name_of(buffer) for buffer in buffers.values())
    return lines + [f"buffers[{j}].narrow(0, run, 1).narrow(1, cell, 1).copy_({b})" for j, b in enumerate(after)]


def _tensors(structure: Any) -> list[Tensor]:
    return [t for t in tree_leaves(structure) if t is not None]
