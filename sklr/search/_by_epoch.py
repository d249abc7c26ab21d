"""Training a stack epoch by epoch: up to a deadline, or with a pruner that is asked after each epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sklr._utils.log import say
from sklr.engines.base import Training
from sklr.engines.verbose import epoch_line
from sklr.results import OK, STOPPED, Outcome
from sklr.search._interrupts import TIMEOUT, Deadline
from sklr.search._progress import Progress
from sklr.search._study import Ledger
from sklr.search.pruning.pruners import ends_early

EARLY = "ended early"  # prefix of the reason of a run that an early-stopping pruner ended


def as_counted(outcome: Outcome) -> Outcome:
    """Return the outcome; a run ended for lack of improvement counts as finished, as with early stopping."""
    early = outcome.status == STOPPED and outcome.reason.startswith(EARLY)
    return replace(outcome, status=OK) if early else outcome


def is_cut_short(row: Sequence[Outcome]) -> bool:
    return any(outcome.reason.startswith(TIMEOUT) for outcome in row)


def train_until(training: Training, deadline: Deadline, progress: Progress, verbose: int) -> None:
    """Train until the end or the deadline; epoch by epoch only if the deadline, the bar or `verbose` needs it."""
    epochs = 0
    while (deadline.seconds is not None or progress.shown or verbose > 1) and not training.done:
        scores = training.advance(1).valid_score
        shape = scores.shape[:2]
        epochs += 1
        progress.epoch(epochs, scores)
        if verbose > 1:
            say(epoch_line(epochs, scores))
        if deadline.passed() and not training.done:
            training.stop(np.ones(shape, dtype=bool), f"{TIMEOUT} after {_epochs(epochs)}")


def prune_by_epoch(training: Training, ledger: Ledger, deadline: Deadline, progress: Progress, verbose: int) -> None:
    """Train epoch by epoch; stop the candidates that the study's pruner rejects by their mean over the cells."""
    epoch = 0
    while not training.done:
        scores = training.advance(1).valid_score
        if scores.shape[-1] == 0:
            continue
        ledger.report(epoch, scores[..., -1].mean(axis=1))
        epoch += 1
        progress.epoch(epoch, scores)
        if verbose > 1:
            say(epoch_line(epoch, scores))
        reasons = ledger.should_prune()
        if deadline.passed() and not training.done:
            training.stop(np.ones(scores.shape[:2], dtype=bool), f"{TIMEOUT} after {_epochs(epoch)}")
        for why in set(reasons) - {""} if not training.done else ():
            mask = np.repeat((reasons == why)[:, None], scores.shape[1], axis=1)
            how = EARLY if ends_early(ledger.study.pruner) else "pruned"
            training.stop(mask, f"{how} after {_epochs(epoch)}: {why}")


def _epochs(n: int) -> str:
    return "1 epoch" if n == 1 else f"{n} epochs"
