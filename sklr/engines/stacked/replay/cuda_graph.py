"""Steps on a CUDA device without Python: one is captured as a CUDA graph, which is then launched as a whole.

A step of a small stack is some forty kernels of a few microseconds each; launching them from Python takes ten times as
long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from sklr.engines.stacked.data.batch import Batch
from sklr.engines.stacked.replay.recorder import Recorder

Step = Callable[[Tensor, Batch], Tensor]


class GraphReplay:
    """A step captured on a CUDA device that is repeated with other inputs.

    Parameters
    ----------
    step : callable (lr, batch) -> losses
        Called once more under capture, where CUDA records kernels without running them.
    lr, batch
        Inputs of the shapes to come. They are copied: a graph reads its inputs from fixed addresses.
    """

    def __init__(self, step: Step, lr: Tensor, batch: Batch):
        parts = tree_map(_copied, (batch.x, batch.y, batch.weight))
        self.lr, self.batch = lr.clone(), Batch(*parts)
        self.graph, self.losses = captured(step, self.lr, self.batch)

    @classmethod
    def of(cls, recorder: Recorder, step: Step, lr: Tensor, batch: Batch) -> GraphReplay | None:
        """Return a replay of a recorded step; None if it cannot be captured."""
        if recorder.devices != {lr.device}:  # a graph would leave out what runs on the CPU
            return None
        try:
            return cls(step, lr, batch)
        except RuntimeError:  # the driver or an operation does not allow it, or there is no memory for a second copy
            return None

    def __call__(self, lr: Tensor, batches: Batch) -> Tensor:
        """Take the steps; return their losses (n_steps, ...)."""
        losses = self.losses.new_empty(len(lr), *self.losses.shape)
        own = self.batch.leaves(self.lr)
        for *given, loss in zip(*(t.unbind() for t in batches.leaves(lr)), losses, strict=True):
            torch._foreach_copy_(own, given)  # all inputs at once: fewer launches than a copy of each
            self.graph.replay()
            loss.copy_(self.losses)
        return losses


def in_graphs(lr: Tensor) -> bool:
    """Return whether steps on the device of their learning rates are captured as graphs."""
    return lr.is_cuda


def captured(step: Step, lr: Tensor, batch: Batch) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """Capture a step; return its graph, which reads `lr` and `batch`, and the losses that the graph writes.

    Raises
    ------
    RuntimeError
        If the step cannot be captured.
    """
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(lr.device)
    generator = torch.cuda.default_generators[lr.device.index]
    before = generator.clone_state()
    try:
        with (
            torch.cuda.device(lr.device),
            # "thread_local": other threads, which may train other packs, are free to allocate memory meanwhile
            torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"),
        ):
            losses = step(lr, batch)
    except BaseException:
        # after a failed capture the generator still counts as capturing, and would refuse to draw
        generator.graphsafe_set_state(before)
        raise
    return graph, losses


def _copied(part: Any) -> Any:
    return part.clone() if isinstance(part, Tensor) else part
