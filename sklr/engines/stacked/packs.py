"""The packs of a stacked training, each trained in this process, a thread or a worker; failed ones are removed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count

import numpy as np
from joblib import effective_n_jobs
from sklearn.utils.parallel import delayed

from sklr._utils.warnings import warn
from sklr.engines.stacked.advance import (
    FailedPack,
    advance,
    advance_in_worker,
    advance_together,
    attempt,
    failed_pack,
    in_words,
    try_build,
)
from sklr.engines.stacked.model.group import Group
from sklr.engines.stacked.scored_pack import PackProgress, ScoredPack
from sklr.engines.stacked.setup.devices import on_devices
from sklr.engines.stacked.setup.packing import are_too_many, divide, halves, shares
from sklr.engines.workers import can_travel, spread
from sklr.exceptions import OutOfMemoryWarning
from sklr.experiment.experiment import Experiment
from sklr.results import EpochRow, Outcome


class Packs:
    """Groups of candidates, divided into packs.

    Parameters
    ----------
    experiment, candidates
        As an engine's `start` takes them.
    groups : sequence of Group
    max_stack : int or None
        Most runs in one stack.

    Attributes
    ----------
    packs : list of ScoredPack
        The packs that have raised no error.
    failed : dict from int to str
        The candidates of the others, with the error in words.
    """

    def __init__(
        self,
        experiment: Experiment,
        candidates: Sequence[dict],
        groups: Sequence[Group],
        max_stack: int | None,
    ):
        self.experiment, self.candidates = experiment, candidates
        n_jobs = effective_n_jobs(experiment.n_jobs)
        # nets that cannot be sent to workers are trained in this process
        self.n_jobs = n_jobs if n_jobs == 1 or all(can_travel(g.group_cells[0].pack_cell.net) for g in groups) else 1
        self.failed: dict[int, str] = {}
        self._left: dict[tuple[int, int], Outcome] = {}  # outcomes from packs that have failed
        self._warned = self._halved = False
        self._keep(list(self._built(groups, max_stack)))
        if self._halved and self.packs:
            self._warn_of_halves()

    def _built(self, groups: Sequence[Group], max_stack: int | None) -> Iterator[ScoredPack | FailedPack]:
        turns = count()  # devices are assigned in turn
        for group, share in zip(groups, shares(groups), strict=True):
            try:
                chosen = divide(group, share, max_stack, self.n_jobs)
                parks = are_too_many(group, len(chosen))
                packs = list(on_devices(chosen, turns))
            except Exception as error:  # as in `attempt`
                yield FailedPack([member.candidate for member in group.members], in_words(error), {})
                continue
            for own_group, members in packs:
                yield from self._made(own_group, members, parks)

    def _made(self, group: Group, chosen: list[int], parks: bool) -> Iterator[ScoredPack | FailedPack]:
        make = partial(ScoredPack, self.experiment, self.candidates, group, parks=parks)
        made = try_build(make, chosen, group.device)
        if isinstance(made, str):
            yield FailedPack([group.members[i].candidate for i in chosen], made, {})
        elif made is None:
            self._halved = True
            for half in halves(chosen):
                yield from self._made(group, half, parks=group.device.type == "cuda")
        else:
            made.park()
            yield made

    def _keep(self, found: Sequence[ScoredPack | FailedPack]) -> None:
        """Keep the packs that have not failed; candidates of failed ones are given up in their other cells, too."""
        for lost in found:
            if isinstance(lost, FailedPack):
                self.failed |= dict.fromkeys(lost.candidates, lost.error)
                self._left |= lost.outcomes
        self.packs = [scored for scored in found if isinstance(scored, ScoredPack)]
        for scored in self.packs:
            scored.give_up(self.failed)

    @property
    def done(self) -> bool:
        """Whether no run has an epoch left."""
        return all(scored.pack.done for scored in self.packs)

    @property
    def max_epochs(self) -> int:
        """The number of epochs of the longest training."""
        return max((scored.pack.max_epochs for scored in self.packs), default=0)

    def advance(self, epoch: int) -> None:
        """Train every pack up to an epoch: several at a time in workers, on devices or in threads where that pays."""
        found = self._advanced(epoch)
        halved = len(found) > len(self.packs)
        self._keep(found)
        if halved and self.packs:
            self._warn_of_halves()

    def _advanced(self, epoch: int) -> Sequence[ScoredPack | FailedPack]:
        self.packs.sort(key=lambda scored: -scored.work)  # the longest first, so that workers end together
        n_jobs = min(self.n_jobs, len(self.packs))  # with one worker, this process: nothing is copied
        if n_jobs > 1:
            return self._advanced_in_workers(epoch, n_jobs)
        together = self._in_threads()
        found = advance_together(together, epoch) if together else []
        others, alone = [scored for scored in self.packs if scored not in together], len(self.packs) == 1
        return [*found, *(one for scored in others for one in advance(scored, epoch, alone))]

    def _advanced_in_workers(self, epoch: int, n_jobs: int) -> Sequence[ScoredPack | FailedPack]:
        calls = (delayed(advance_in_worker)(scored, epoch) for scored in self.packs)
        found: list[list[ScoredPack | FailedPack]] = []
        try:
            for place, sent_back in spread(calls, n_jobs, self.experiment.pre_dispatch):
                found.append(_received(self.packs[place], sent_back))
        except Exception as error:  # a pack cannot be pickled, or a worker has died
            found += [[failed_pack(scored, error)] for scored in self.packs[len(found) :]]
        return [one for each in found for one in each]

    def _in_threads(self) -> list[ScoredPack]:
        """Return the packs to train in threads: on the CPU, or on several devices, so that all are busy at once."""
        safe = [scored for scored in self.packs if scored.group.thread_safe and not scored.pack.done]
        where = {scored.group.device for scored in safe}
        if len(safe) < 2 or (len(where) == 1 and where.pop().type != "cpu"):
            return []
        return safe

    def _warn_of_halves(self) -> None:
        if not self._warned:
            self._warned = True
            largest = max(scored.pack.alive.size for scored in self.packs)
            warn(
                f"A stack of runs did not fit into memory; it was halved, to at most {largest} runs. "
                f"engine=StackedEngine(max_stack={largest}) starts with stacks of that size.",
                OutOfMemoryWarning,
            )

    def rows_since(self, epoch: int) -> Iterator[tuple[int, int, EpochRow]]:
        """Yield candidate, cell and row of every epoch that a run has completed, from `epoch` on."""
        for scored in self.packs:
            yield from scored.rows_since(epoch)

    def stop(self, mask: np.ndarray, reason: str) -> None:
        """End the runs marked in `mask`, shape (n_candidates, n_cells), with their current scores."""
        self._keep([attempt(scored, lambda: scored.stop(mask, reason)) or scored for scored in self.packs])  # noqa: B023

    def finish(self) -> None:
        """Train the remaining epochs and score all runs."""
        if not self.done:
            self.advance(self.max_epochs)
        self._keep([attempt(scored, scored.finish) or scored for scored in self.packs])

    def outcomes(self) -> dict[tuple[int, int], Outcome]:
        """Return the outcomes of the runs that have ended, by (candidate, cell), including those of `failed` ones."""
        found = dict(self._left)
        for scored in self.packs:
            found |= scored.outcomes
        return found


def _received(scored: ScoredPack, sent_back: Sequence[PackProgress | FailedPack]) -> list[ScoredPack | FailedPack]:
    """Return a pack updated with what a worker has sent back: itself, its halves, or failed ones."""
    found: list[ScoredPack | FailedPack] = []
    try:
        for sent in sent_back:
            found.append(sent if isinstance(sent, FailedPack) else scored.updated(sent))
    except Exception as error:  # as in `attempt`
        return [failed_pack(scored, error)]
    return found
