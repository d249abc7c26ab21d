"""Run by run without Python: one run's gradients are recorded, and replayed for all the candidates of a cell.

What a run computes of its cell's rows alone (the columns of a convolution, say) is computed once for all of them, in a
replay as in Python.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from sklr.engines.stacked.kernels.vmap import Gradients, Named, RunGradients, RunMap
from sklr.engines.stacked.replay.purity import Untouched
from sklr.engines.stacked.replay.recorder import Recorder, Script, read

WORTH_RUNS = 8  # on batches of a shape: who had so many will have more
Found = tuple[Named, Tensor, Named]  # what `RunGradients` returns


class ReplayedRuns(RunGradients):
    """`RunGradients` run by run, replayed once there have been some runs on batches of a shape.

    One call is recorded. In the next, on another batch, the replay has to compute what all runs compute in Python, to
    the last bit.
    """

    def __init__(self, run_map: RunMap, loss: Callable[[Any, Any, Tensor | None], Tensor]):
        super().__init__(run_map, loss)
        self.forget()

    def __getstate__(self) -> dict[str, Any]:
        return {"run_map": self.run_map, "loss": self.loss}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.forget()

    def forget(self) -> None:
        """Let the recordings go: the number of runs has changed."""
        self._known: dict[Any, RunReplay | None] = {}
        self._on_trial: dict[Any, RunReplay] = {}
        self._met = Counter[Any]()  # runs

    def _one_by_one(self, *given: Any, of_run: Gradients | None = None) -> Found:
        key = tuple((t.dtype, t.shape, t.stride()) for t in _tensors(given))
        if (replay := self._known.get(key)) is not None:
            return replay(*given)
        if key in self._on_trial:
            found, self._known[key] = self._tried(self._on_trial.pop(key), *given)
            return found
        if key not in self._known and self._met[key] >= WORTH_RUNS:
            return self._recorded(key, *given)
        self._met[key] += next(iter(given[0].values())).shape[:2].numel()
        return super()._one_by_one(*given)

    def _recorded(self, key: Any, *given: Any) -> Found:
        lesson, untouched = Lesson(self._together), Untouched(self.run_map.module, self.loss)
        found = super()._one_by_one(*given, of_run=lesson)
        replay = RunReplay.of(lesson) if untouched.holds() else None
        if replay is None:
            self._known[key] = None
        else:
            self._on_trial[key] = replay
        return found

    def _tried(
        self, replay: RunReplay, params: Named, constants: Named, buffers: Named, *rows: Any
    ) -> tuple[Found, RunReplay | None]:
        before = {name: t.clone() for name, t in buffers.items()}
        found = super()._one_by_one(params, constants, buffers, *rows)
        pairs = zip(_tensors(found), _tensors(replay(params, constants, before, *rows)), strict=True)
        same = all(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) for a, b in pairs)
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
    """Recorded gradients of a run, to be computed for all runs, cell by cell.

    What the second run of a cell did not compute itself but found there, the first lines of the first one compute: its
    operations are called `v0`, `v1`, ..., those of the second run `w0`, `w1`, ...
    """

    HEAD = """\
def runs(t: List[Tensor], k: List[List[Tensor]], rows: List[Tensor], params: List[Tensor], buffers: List[Tensor],
         grads: List[Tensor], losses: Tensor):
    no_ints: List[int] = []
    run = 0"""
    INPUTS = "x = [p.narrow(1, run, 1) for p in params] + [b.narrow(0, run, 1) for b in buffers] + rows"
    LOOP = "for run in range(losses.size(1)):"

    def __init__(self, script: Script):
        self.script = script

    @classmethod
    def of(cls, lesson: Lesson) -> RunReplay | None:
        """A replay of what was recorded; None where there can be none."""
        first, last = lesson.recorders[0], lesson.recorders[-1]
        if not last.replayable:
            return None
        used = [int(n) for line in last.lines for n in re.findall(r"\bv(\d+)", line)] if last is not first else []
        shared = first.lines[: max(used, default=-1) + 1]
        each = [cls.INPUTS, *last.lines, *_kept(last, *lesson.found)]
        function = read(cls.HEAD, [cls.INPUTS, *shared, cls.LOOP, *("    " + line for line in each)])
        return None if function is None else cls(Script(function, last))

    def __call__(self, params: Named, constants: Named, buffers: Named, *rows: Any) -> Found:
        """As `RunGradients`."""
        grads = {name: torch.empty_like(p) for name, p in params.items()}
        like = next(iter(params.values()))
        losses = like.new_empty(like.shape[:2])
        for cell in range(len(losses)):
            here = slice(cell, cell + 1)
            shown, state, made = ([t[here] for t in _tensors(part)] for part in (rows, (params, constants), grads))
            self.script(shown, state, [b[:, here] for b in buffers.values()], made, losses[here])
        return grads, losses, buffers


def _kept(recorder: Recorder, grads: Named, loss: Tensor, buffers: Named) -> list[str]:
    """Lines that put a run's results where those of all runs are."""
    lines = [f"grads[{j}].narrow(1, run, 1).copy_({recorder.name_of(g)})" for j, g in enumerate(grads.values())]
    lines.append(f"losses.narrow(1, run, 1).copy_({recorder.name_of(loss)})")
    after = (recorder.name_of(buffer) for buffer in buffers.values())
    return lines + [f"buffers[{j}].narrow(0, run, 1).copy_({b})" for j, b in enumerate(after)]


def _tensors(structure: Any) -> list[Tensor]:
    return [t for t in tree_leaves(structure) if t is not None]
