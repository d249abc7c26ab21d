"""Packs trained up to an epoch: one, or several at the same time in threads; halved where memory runs out.

A pack that cannot go on ends as a `Trouble`, and the other packs go on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Lock
from typing import Any, NamedTuple

import torch

from sklr.engines.scoring import ScorerError
from sklr.engines.stacked.scored_pack import PackProgress, ScoredPack
from sklr.engines.stacked.setup.packing import fitting_threads, halves, out_of_memory, release
from sklr.results import Outcome


class Trouble(NamedTuple):
    """A pack that an error has ended.

    `candidates` are the numbers of those that were in it, `error` says in words what was raised, `outcomes` are those
    of the runs that had ended before, by (candidate, cell).
    """

    candidates: list[int]
    error: str
    outcomes: dict[tuple[int, int], Outcome]


def in_words(error: BaseException) -> str:
    """Return an error as one line: it is not kept itself, since its traceback would keep the stack's memory.

    >>> in_words(ValueError("too long\\nby far")), in_words(KeyError())
    ('ValueError: too long', 'KeyError')
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ": ".join([type(error).__name__, *lines[:1]])[:300].rstrip(". ")


def trouble(scored: ScoredPack, error: BaseException) -> Trouble:
    """Return what is left of a pack."""
    candidates = [scored.group.members[i].candidate for i in scored.chosen]
    return Trouble(candidates, in_words(error), scored.outcomes)


def attempt(scored: ScoredPack, what: Callable[[], Any]) -> Trouble | None:
    """Call `what`, which concerns a pack; return the pack's trouble if it raises an error."""
    try:
        what()
    except ScorerError as error:
        raise (error.__cause__ or error) from None  # the user's own, as asked for
    except Exception as error:  # whatever it is, the candidates are trained one by one, which raises what is theirs
        return trouble(scored, error)
    return None


def advance(scored: ScoredPack, epoch: int, alone: bool = True) -> list[ScoredPack | Trouble]:
    """Train a pack up to an epoch; where memory runs out, its halves instead, from their start.

    If it is not `alone` on a CUDA device, it leaves to the others what memory its steps have worked in, and all that
    its stack takes where it `parks`.
    """
    try:
        with fitting_threads(scored.step_flops):
            while _is_behind(scored, epoch):
                scored.train_epoch()
    except Exception as error:  # as in `attempt`
        if (ended := _ended(scored, error)) is not None:
            return [ended]
    else:
        if not alone and scored.group.device.type == "cuda":
            _rest(scored)
        return [scored]
    return _halves(scored, epoch)  # by now the error is forgotten, and with it the frames that hold what was computed


def advance_away(scored: ScoredPack, epoch: int) -> list[PackProgress | Trouble]:
    """Do the same in a worker, whose `scored` is a copy; return what changes the original."""
    return [found if isinstance(found, Trouble) else found.progress() for found in advance(scored, epoch)]


def advance_together(packs: Sequence[ScoredPack], epoch: int) -> list[ScoredPack | Trouble]:
    """Train packs up to an epoch, side by side in threads; scorers are called by one thread at a time.

    Each operation runs on a single thread. Unlike OpenMP's threads, these never wait for each other by spinning, and
    while steps are replayed they do not wait for the GIL either.
    """
    n_threads = min(len(packs), max(torch.get_num_threads(), len({scored.group.device for scored in packs})))
    queue = _Queue(packs, epoch)
    with fitting_threads(0), ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            wait([pool.submit(queue.work) for _ in range(n_threads)])
        finally:  # after Ctrl-C, let the threads end at their next epoch: leaving the pool waits for them
            queue.give_up = True
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
                if not isinstance(error, Exception):  # such as SystemExit: stop the other threads too
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


def _ended(scored: ScoredPack, error: BaseException | None) -> ScoredPack | Trouble | None:
    """Return what a pack has come to; None where memory has run out, and its halves may have enough."""
    if error is None:
        return scored
    if isinstance(error, ScorerError):
        raise (error.__cause__ or error) from None  # as in `attempt`
    if not isinstance(error, Exception):
        raise error  # the end of the program, say
    return None if out_of_memory(error) and len(scored.going) > 1 else trouble(scored, error)


def _rest(scored: ScoredPack) -> None:
    scored.park()
    if not scored.parks:
        scored.pack.stack.rest()


def _halves(scored: ScoredPack, epoch: int) -> list[ScoredPack | Trouble]:
    """Train the halves of a pack from their start, one after the other: the second is made when the first rests."""
    going: list[int] = []
    if failed := attempt(scored, lambda: going.extend(scored.let_go())):
        return [failed]
    return [found for half in halves(going) for found in _made(scored, half, epoch)]


def _made(scored: ScoredPack, chosen: list[int], epoch: int) -> list[ScoredPack | Trouble]:
    """Train some members of a pack that has been let go; their halves where not even their stack has room."""
    made = built(scored.part, chosen, scored.group.device)
    if isinstance(made, str):
        return [Trouble([scored.group.members[i].candidate for i in chosen], made, scored.outcomes)]
    if made is None:
        return [found for half in halves(chosen) for found in _made(scored, half, epoch)]
    return advance(made, epoch, alone=False)


def built(make: Callable[[list[int]], ScoredPack], chosen: list[int], device: torch.device) -> ScoredPack | str | None:
    """Make a pack of some members; return None if memory runs out and their halves may have enough, else the error."""
    try:
        return make(chosen)
    except Exception as error:  # as in `attempt`
        if not out_of_memory(error) or len(chosen) == 1:
            return in_words(error)
    release(device)  # by now the error is forgotten, as in `advance`
    return None
