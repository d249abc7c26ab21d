"""Packs trained up to an epoch: one, or several at the same time in threads; halved where memory runs out."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Event, Lock

import torch

from sklr.engines._packing import fitting_threads, out_of_memory
from sklr.engines._scored import Progress, ScoredPack


def advance(scored: ScoredPack, epoch: int, alone: bool = True) -> list[ScoredPack]:
    """Train a pack up to an epoch; where memory runs out, its halves instead, from their start.

    If it is not `alone` on a CUDA device, it leaves to the others what memory its steps have worked in.
    """
    try:
        with fitting_threads(scored.step_flops):
            while _is_behind(scored, epoch):
                scored.train_epoch()
    except (RuntimeError, MemoryError) as error:
        if not _can_halve(scored, error):
            raise
    else:
        if not alone and scored.group.device.type == "cuda":
            scored.pack.stack.rest()
        return [scored]
    return _halves(scored, epoch)  # by now the error is forgotten, and with it the frames that hold what was computed


def advance_away(scored: ScoredPack, epoch: int) -> list[Progress]:
    """Do the same in a worker, whose `scored` is a copy; return what changes the original."""
    return [pack.progress() for pack in advance(scored, epoch)]


def advance_together(packs: Sequence[ScoredPack], epoch: int) -> list[ScoredPack]:
    """Train packs up to an epoch, each in a thread of its own; scorers are called by one thread at a time.

    Unlike the threads of one operation they never wait for each other by spinning, and not at all for Python's lock
    while their steps are replayed.
    """
    give_up, scoring = Event(), Lock()
    n_threads = min(len(packs), max(torch.get_num_threads(), len({scored.group.device for scored in packs})))
    with fitting_threads(0), ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            futures = [pool.submit(_advance_in_thread, scored, epoch, give_up, scoring) for scored in packs]
            wait(futures)
        finally:  # there is something left to wait for after Ctrl-C only
            give_up.set()
    too_large = [_is_too_large(scored, future) for scored, future in zip(packs, futures, strict=True)]
    del futures  # and with their errors the frames that hold what was computed
    return [
        pack
        for scored, large in zip(packs, too_large, strict=True)
        for pack in (_halves(scored, epoch) if large else [scored])
    ]


def _is_too_large(scored: ScoredPack, future: Future[None]) -> bool:
    """Whether memory has run out in a thread; raise what else has happened there."""
    error = future.exception()
    if error is not None and not _can_halve(scored, error):
        raise error
    return error is not None


def _advance_in_thread(scored: ScoredPack, epoch: int, give_up: Event, scoring: Lock) -> None:
    try:
        while _is_behind(scored, epoch) and not give_up.is_set():
            scored.train_epoch(own_stream=False, scoring=scoring)
    except BaseException as error:
        if not out_of_memory(error):
            give_up.set()
        raise


def _is_behind(scored: ScoredPack, epoch: int) -> bool:
    return scored.pack.epoch < epoch and not scored.pack.done


def _can_halve(scored: ScoredPack, error: BaseException) -> bool:
    return out_of_memory(error) and len(scored.going) > 1


def _halves(scored: ScoredPack, epoch: int) -> list[ScoredPack]:
    return [advanced for half in scored.halves() for advanced in advance(half, epoch, alone=False)]
