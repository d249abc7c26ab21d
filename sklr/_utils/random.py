"""Private random streams: a training draws from its own, and the global generators are left as they were found."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

_GLOBAL = threading.RLock()  # torch and NumPy have one global generator per process: one stream at a time


class RandomStream:
    """A stream of randomness that outlives the moments it is used in.

    Entering it swaps torch's (CPU and every CUDA device in use), NumPy's and Python's global generators for its own,
    leaving puts the old ones back and remembers where the stream stood, so that a training taken up again
    goes on as if it had never been left. Streams of several threads take turns.

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
        self._python: Any = None  # Python's generator: this stream's while it is left, the outside's while it is in use

    def __enter__(self) -> RandomStream:
        _GLOBAL.acquire()
        self._outside = global_state()
        if self._state is None:
            seed_generators(self.seed)
            np.random.seed(self.seed % 2**32)
        else:
            set_global_state(self._state)
            if not self._state[1]:  # CUDA was not in use when the stream was left
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
    """Leave the global generators of Python, NumPy and torch as they were found.

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
    """Seed torch's generators, of the CPU and of every CUDA device in use, and quickly where there is only a CPU.

    `torch.manual_seed` would also decide what CUDA draws when it is used for the first time, much later: what the user
    has asked for would be forgotten.

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
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return torch.random.get_rng_state(), cuda, np.random.get_state()


def set_global_state(state: tuple[Any, ...]) -> None:
    cpu, cuda, numpy_state = state
    torch.random.set_rng_state(cpu)
    if cuda and torch.cuda.device_count() >= len(cuda):  # a stream may have been pickled on a larger machine
        torch.cuda.set_rng_state_all(cuda)
    np.random.set_state(numpy_state)
