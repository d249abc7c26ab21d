"""Training packs up to an epoch: one, or several at the same time in threads; a pack that runs out of memory is halved.

A pack that raises an error is replaced by a `FailedPack`, and the other packs continue.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Lock
from typing import Any, NamedTuple

import torch

from sklr.engines.scoring import ScorerError
from sklr.engines.stacked.scored_pack import PackProgress, ScoredPack
from sklr.engines.stacked.setup.packing import fitting_threads, halves, out_of_memory, release
from sklr.results import Outcome


class FailedPack(NamedTuple):
    """What remains of a pack that has raised an error.

    Parameters
    ----------
    candidates : list of int
        The numbers of its candidates.
    error : str
        The error, as `in_words` returns it.
    outcomes : dict from (candidate, cell) to Outcome
        The outcomes of the runs that had ended before.
    """

    candidates: list[int]
    error: str
    outcomes: dict[tuple[int, int], Outcome]


def in_words(error: BaseException) -> str:
    """Return an error as one line. The error itself is not kept, because its traceback keeps the stack's memory alive.

    >>> in_words(ValueError("too long\\nby far")), in_words(KeyError())
    ('ValueError: too long', 'KeyError')
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ": ".join([type(error).__name__, *lines[:1]])[:300].rstrip(". ")


def failed_pack(scored: ScoredPack, error: BaseException) -> FailedPack:
    """Return what remains of a pack that has raised an error."""
    candidates = [scored.group.members[i].candidate for i in scored.chosen]
    return FailedPack(candidates, in_words(error), scored.outcomes)


def attempt(scored: ScoredPack, what: Callable[[], Any]) -> FailedPack | None:
    """Call `what`, which works on a pack; return a `FailedPack` if it raises an error."""
    try:
        what()
    except ScorerError as error:
        raise (error.__cause__ or error) from None  # the user's scorer raised it, with error_score="raise"
    except Exception as error:  # any error: the candidates are then trained one by one, which raises theirs again
        return failed_pack(scored, error)
    return None


def advance(scored: ScoredPack, epoch: int, alone: bool = True) -> list[ScoredPack | FailedPack]:
    """Train a pack up to an epoch; if memory runs out, train its halves instead, from the first epoch.

    If the pack is not `alone` on a CUDA device, it afterwards releases the working memory of its steps, and moves its
    stack to the host if it `parks`.
    """
    try:
        with fitting_threads(scored.step_flops):
            while _is_behind(scored, epoch):
                scored.train_epoch()
    except Exception as error:  # as in `attempt`
        if (ended := _ended(scored, error)) is not None:
            return [ended]
        # else memory ran out: the halves are made below, outside the handler
    else:
        if not alone and scored.group.device.type == "cuda":
            _release_memory(scored)
        return [scored]
    # `error` is deleted by now: the frames of its traceback would keep the tensors of the step alive
    return _halves(scored, epoch)


def advance_in_worker(scored: ScoredPack, epoch: int) -> list[PackProgress | FailedPack]:
    """Do the same in a worker, where `scored` is a copy; return what the original is updated with."""
    return [found if isinstance(found, FailedPack) else found.progress() for found in advance(scored, epoch)]


def advance_together(packs: Sequence[ScoredPack], epoch: int) -> list[ScoredPack | FailedPack]:
    """Train packs up to an epoch, side by side in threads; scorers are called by one thread at a time.

    Each operation runs on a single thread. Unlike OpenMP's threads, these never wait for each other by spinning, and
    while steps are replayed they do not wait for the GIL either.
    """
    n_threads = min(len(packs), max(torch.get_num_threads(), len({scored.group.device for scored in packs})))
    queue = _Queue(packs, epoch)
    # `catch_warnings` is not thread-safe: threads that leave it in another order than they entered it would change the
    # filters for good
    with (
        fitting_threads(0),
        warnings.catch_warnings(),
        ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        try:
            threads = [pool.submit(queue.work) for _ in range(n_threads)]
            wait(threads)
        finally:  # after Ctrl-C, let the threads end at their next epoch: leaving the pool waits for them
            queue.give_up = True
    for thread in threads:
        thread.result()
    came_to = [_ended(scored, queue.errors.get(i)) for i, scored in enumerate(packs)]
    queue.errors.clear()  # their tracebacks keep the tensors of the steps alive
    return [
        found
        for scored, ended in zip(packs, came_to, strict=True)
        for found in (_halves(scored, epoch) if ended is None else [ended])
    ]


class _Queue:
    """Packs that threads train an epoch at a time, first the one that will take longest.

    If each thread trained a pack to its end, three equal packs would take two threads as long as four.
    """

    def __init__(self, packs: Sequence[ScoredPack], epoch: int):
        self.packs, self.epoch = packs, epoch
        self.waiting = {i: math.inf for i, scored in enumerate(packs) if _is_behind(scored, epoch)}  # seconds left
        self.errors: dict[int, BaseException] = {}
        self.give_up = False
        self.choosing, self.scoring = Lock(), Lock()

    def work(self) -> None:
        """Train epoch after epoch, until no pack waits for a thread."""
        while (i := self._next()) is not None:
            start = time.perf_counter()
            try:
                self.packs[i].train_epoch(own_stream=False, scoring=self.scoring)
            except BaseException as error:
                self.errors[i] = error
                if _ends_all(error):
                    self.give_up = True
            else:
                self._put_back(i, time.perf_counter() - start)

    def _next(self) -> int | None:
        with self.choosing:
            if self.give_up or not self.waiting:
                return None
            longest = max(self.waiting, key=self.waiting.__getitem__)
            del self.waiting[longest]
            return longest

    def _put_back(self, i: int, seconds: float) -> None:
        if _is_behind(self.packs[i], self.epoch):
            with self.choosing:
                self.waiting[i] = seconds * (self.packs[i].pack.max_epochs - self.packs[i].pack.epoch)


def _is_behind(scored: ScoredPack, epoch: int) -> bool:
    return scored.pack.epoch < epoch and not scored.pack.done


def _ends_all(error: BaseException) -> bool:
    """Whether an error ends the training of all packs: the user's scorer raised it, or it is such as SystemExit."""
    return isinstance(error, ScorerError) or not isinstance(error, Exception)


def _ended(scored: ScoredPack, error: BaseException | None) -> ScoredPack | FailedPack | None:
    """Return the pack, or a `FailedPack` if it raised an error; None if memory ran out and its halves may fit."""
    if error is None:
        return scored
    if isinstance(error, ScorerError):
        raise (error.__cause__ or error) from None  # as in `attempt`
    if not isinstance(error, Exception):
        raise error  # such as KeyboardInterrupt or SystemExit
    return None if out_of_memory(error) and len(scored.still_training) > 1 else failed_pack(scored, error)


def _release_memory(scored: ScoredPack) -> None:
    scored.park()
    if not scored.parks:
        scored.pack.stack.release_memory()


def _halves(scored: ScoredPack, epoch: int) -> list[ScoredPack | FailedPack]:
    """Train the halves of a pack from the first epoch; the second is built once the first has released its memory."""
    going: list[int] = []
    if failed := attempt(scored, lambda: going.extend(scored.drop_stack())):
        return [failed]
    return [found for half in halves(going) for found in _made(scored, half, epoch)]


def _made(scored: ScoredPack, chosen: list[int], epoch: int) -> list[ScoredPack | FailedPack]:
    """Train some members of a pack whose stack has been dropped, or their halves if even their stack does not fit."""
    made = try_build(scored.restarted, chosen, scored.group.device)
    if isinstance(made, str):
        return [FailedPack([scored.group.members[i].candidate for i in chosen], made, scored.outcomes)]
    if made is None:
        return [found for half in halves(chosen) for found in _made(scored, half, epoch)]
    return advance(made, epoch, alone=False)


def try_build(
    make: Callable[[list[int]], ScoredPack], chosen: list[int], device: torch.device
) -> ScoredPack | str | None:
    """Build a pack of some members; if that fails return None where their halves may fit, else the error in words."""
    try:
        return make(chosen)
    except Exception as error:  # as in `attempt`
        if not out_of_memory(error) or len(chosen) == 1:
            return in_words(error)
    release(device)  # after the handler, where `error` is deleted, as in `advance`
    return None
