"""Packs trained up to an epoch: one, or several at the same time in threads; halved where memory runs out."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from sklr.engines._packing import fitting_threads, out_of_memory
from sklr.engines._scored import Progress, ScoredPack


def advance(scored: ScoredPack, epoch: int) -> list[ScoredPack]:
    """Train a pack up to an epoch; where memory runs out, its halves instead, from their start."""
    try:
        with fitting_threads(scored.step_flops):
            while _is_behind(scored, epoch):
                scored.train_epoch()
    except (RuntimeError, MemoryError) as error:
        return _halves(scored, epoch, error)
    return [scored]


def advance_away(scored: ScoredPack, epoch: int) -> list[Progress]:
    """Do the same in a worker, whose `scored` is a copy; return what changes the original."""
    return [pack.progress() for pack in advance(scored, epoch)]


def advance_together(packs: Sequence[ScoredPack], epoch: int) -> list[ScoredPack]:
    """Train packs up to an epoch, epoch by epoch, each in a thread of its own; they are scored one after another.

    Python's lock is free while an operation computes, so that threads get in each other's way very little, and
    unlike the threads of one operation they never wait for each other by spinning.
    """
    short: dict[int, BaseException] = {}  # of memory, by place
    n_threads = min(len(packs), max(torch.get_num_threads(), len({scored.group.device for scored in packs})))
    with fitting_threads(0), ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        while going := [i for i, scored in enumerate(packs) if i not in short and _is_behind(scored, epoch)]:
            futures = [pool.submit(packs[i].pack.train_epoch, own_stream=False) for i in going]
            for i, future in zip(going, futures, strict=True):
                error = future.exception()
                if error is None:
                    packs[i].follow()
                elif out_of_memory(error):
                    short[i] = error
                else:
                    raise error
    return [
        pack
        for i, scored in enumerate(packs)
        for pack in ([scored] if i not in short else _halves(scored, epoch, short[i]))
    ]


def _is_behind(scored: ScoredPack, epoch: int) -> bool:
    return scored.pack.epoch < epoch and not scored.pack.done


def _halves(scored: ScoredPack, epoch: int, error: BaseException) -> list[ScoredPack]:
    if not out_of_memory(error) or len(scored.going) < 2:
        raise error
    return [advanced for half in scored.halves() for advanced in advance(half, epoch)]
