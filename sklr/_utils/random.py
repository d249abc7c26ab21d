"""Private random streams: a training draws from its own stream, and the global generators are restored afterwards."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

_GLOBAL = threading.RLock()  # the global generators belong to the process: only one stream may replace them at a time


class RandomStream:
    """A random stream, used as a context manager, that continues where it was left when it is entered again.

    Entering it replaces the state of the global generators of torch (CPU and every CUDA device in use), NumPy and
    Python by its own. Leaving it saves that state and restores the previous one, so that a training that is continued
    draws as if it had never been interrupted. Only one thread can be inside a stream at a time; others wait.

    >>> stream, before = RandomStream(0), torch.random.get_rng_state()
    >>> with stream:
    ...     a = torch.rand(1)
    >>> with RandomStream(0) as other:
    ...     b = torch.rand(1)
    >>> bool(a == b), bool((before == torch.random.get_rng_state()).all())
    (True, True)
    """

    def __init__(self, seed: int):
        self.seed = seed
        self._state: Any = None
        self._python: Any = None  # state of Python's generator: outside the context the stream's, inside the previous

    def __enter__(self) -> RandomStream:
        _GLOBAL.acquire()
        self._outside = global_state()
        if self._state is None:
            seed_generators(self.seed)
            np.random.seed(self.seed % 2**32)
        else:
            set_global_state(self._state)
            if not self._state[1]:  # CUDA was not initialized when the stream was left
                _seed_cuda(self.seed)
        self._swap_python()
        return self

    def __exit__(self, *error: object) -> None:
        self._state = global_state()
        set_global_state(self._outside)
        del self._outside
        self._swap_python()
        _GLOBAL.release()

    def _swap_python(self) -> None:
        other, self._python = self._python, random.getstate()
        if other is None:
            random.seed(self.seed)
        else:
            random.setstate(other)


@contextmanager
def global_generators_kept() -> Iterator[None]:
    """Context that restores the global generators of Python, NumPy and torch when it ends.

    >>> before = random.getstate()
    >>> with global_generators_kept():
    ...     _ = random.random()
    >>> before == random.getstate()
    True
    """
    python = random.getstate()
    try:
        with RandomStream(0):
            yield
    finally:
        random.setstate(python)


def seed_generators(seed: int) -> None:
    """Seed torch's generators, of the CPU and of every CUDA device in use; cheaper than `torch.manual_seed` on a CPU.

    `torch.manual_seed` would also queue a seed for CUDA, applied when CUDA is first used: a seed that the user has
    queued would be lost.

    >>> outside = global_state()
    >>> seed_generators(1), torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(1)))
    (None, True)
    >>> set_global_state(outside)
    """
    if torch.accelerator.is_available() and not torch.cuda.is_available():
        torch.manual_seed(seed)
    torch.default_generator.manual_seed(seed)
    _seed_cuda(seed)


def _seed_cuda(seed: int) -> None:
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def global_state() -> tuple[Any, ...]:
    """Return the states of the global generators of torch, on all devices, and NumPy."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return torch.random.get_rng_state(), cuda, np.random.get_state()


def set_global_state(state: tuple[Any, ...]) -> None:
    """Set the global generators to what `global_state` returned."""
    cpu, cuda, numpy_state = state
    torch.random.set_rng_state(cpu)
    if cuda and torch.cuda.device_count() >= len(cuda):  # a stream may have been pickled on a machine with more GPUs
        torch.cuda.set_rng_state_all(cuda)
    np.random.set_state(numpy_state)
