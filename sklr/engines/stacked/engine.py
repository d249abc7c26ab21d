"""The stacked engine: candidates x folds x seeds trained as a few batched models, with the results of training alone.

Candidates that cannot be stacked, or whose stack raises an error, are trained by the sequential engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from sklr._utils.validation import check_count
from sklr.engines.base import Engine, EpochReport, Training
from sklr.engines.sequential.engine import SequentialEngine, SequentialTraining
from sklr.engines.stacked.audit.audit import kinds_of
from sklr.engines.stacked.packs import Packs
from sklr.engines.stacked.reasons import describe, raised, warn_of_fallback, which
from sklr.engines.stacked.scored_pack import ScoredPack
from sklr.engines.stacked.setup.prepare import Prepared, fails_anyway, prepare
from sklr.engines.verbose import Label, print_end
from sklr.exceptions import EngineError
from sklr.experiment.experiment import Experiment
from sklr.results import STOPPED, Outcome


class StackedEngine(Engine):
    """Train the runs of a search together as batched models, with the results of training each of them alone.

    A run is one candidate trained in one cell, that is on one fold with one seed. The runs' weights are stacked, and
    each step of all runs is a single forward pass, backward pass and optimizer step, through `torch.func` or, for plain
    MLPs, batched matrix products. Optimizers are those of `torch.optim`.

    Whether nets can be stacked is checked before the training: a few runs are trained for a few steps both ways, in a
    small stack and by skorch's own nets, and the results are compared. If some candidates cannot be stacked, a search
    with this engine raises an `EngineError`; with ``engine="auto"`` these are trained one by one, by the sequential
    engine. A candidate that no engine can train fails by itself and does not keep others from being stacked.

    If a stack raises an error during training, its candidates are trained one by one, from the first epoch, with a
    `StackFallbackWarning`; the results of other stacks are kept. Candidates that differ from these only in the values
    of numbers are not stacked again in the same search.

    Parameters
    ----------
    max_stack : int, optional
        Most runs in one stack. By default, as many as half of the free memory is estimated to hold. A stack that does
        not fit after all is halved, with an `OutOfMemoryWarning`.

    Notes
    -----
    The tensor operations of a step are recorded. If the next step consists of the same operations, the recording is
    replayed from then on, on a CUDA device as a CUDA graph, and the module's Python code is no longer called. It is
    called in every step if the module has hooks, reads numbers from tensors, or holds objects that cannot be compared.
    A module whose calls change its attributes, or draw random numbers in Python, is not stacked. Side effects that
    leave no trace in objects within its reach, such as printing, go unnoticed.

    The check is made in full float32 precision. The training itself follows PyTorch's settings: with TF32, which cuDNN
    uses for convolutions unless `torch.backends.cudnn.allow_tf32` is False, results agree with training one by one to
    the rounding of TF32, which some networks amplify. If a module uses `torch.autocast`, results agree to the rounding
    of the lower precision. Dropout draws other masks than in training one by one: results agree in distribution.

    Examples
    --------
    >>> StackedEngine(max_stack=0)
    Traceback (most recent call last):
    ValueError: max_stack must be an integer >= 1, got 0.

    >>> import torch
    >>> from skorch import NeuralNetClassifier
    >>> from sklr import LRGridSearchCV
    >>> search = LRGridSearchCV(NeuralNetClassifier(torch.nn.Linear), engine=StackedEngine(max_stack=100))
    """

    name = "stacked"

    def __init__(self, max_stack: int | None = None):
        self.max_stack = None if max_stack is None else check_count("max_stack", max_stack)
        self._ready: tuple[Experiment, Sequence[dict], Prepared] | None = None

    def unsupported(self, experiment: Experiment, candidates: Sequence[dict]) -> list[str]:
        """Return why candidates cannot be stacked; empty if all can be that any engine can train.

        Parameters
        ----------
        experiment : Experiment
        candidates : sequence of dict

        Returns
        -------
        reasons : list of str
            Each names the candidates that it concerns, unless these are all.
        """
        reasons = self.refusals(experiment, candidates)
        # a stack that failed during training is no reason against the engine: `start` trains its candidates one by one
        lost = _lost(experiment, candidates)
        reasons = {i: why for i, why in reasons.items() if i not in lost}
        if len(reasons) < len(candidates):
            reasons = {i: why for i, why in reasons.items() if not fails_anyway(experiment, candidates[i])}
        if reasons:
            self._ready = None
        return describe(reasons, candidates)

    def refusals(self, experiment: Experiment, candidates: Sequence[dict]) -> dict[int, list[str]]:
        """Return why candidates cannot be stacked, by number; `start` trains these one by one."""
        return dict(self.prepared(experiment, candidates).refused)

    def prepared(self, experiment: Experiment, candidates: Sequence[dict]) -> Prepared:
        """Set the nets up and check them, unless that was just done for the same experiment and candidates."""
        if not self._is_ready(experiment, candidates):
            self._ready = experiment, candidates, prepare(experiment, candidates, _lost(experiment, candidates))
        assert self._ready is not None
        return self._ready[2]

    def _is_ready(self, experiment: Experiment, candidates: Sequence[dict]) -> bool:
        return self._ready is not None and self._ready[0] is experiment and self._ready[1] is candidates

    def start(
        self, experiment: Experiment, candidates: Sequence[dict], contexts: Sequence | None = None
    ) -> StackedTraining:
        """Stack the nets that `unsupported` or `refusals` has set up, and return their training.

        Parameters
        ----------
        experiment : Experiment
        candidates : sequence of dict
        contexts : sequence or None
            scikit-learn's callback contexts, one per candidate and cell, or None.

        Returns
        -------
        training : StackedTraining

        Raises
        ------
        EngineError
            If this is called first, and some candidates cannot be stacked; the message names the reasons.
        """
        if not self._is_ready(experiment, candidates) and (reasons := self.unsupported(experiment, candidates)):
            raise EngineError(f"engine='stacked' cannot train these candidates: {'; '.join(reasons)}.")
        (groups, refused), self._ready = self.prepared(experiment, candidates), None
        return StackedTraining(Packs(experiment, candidates, groups, self.max_stack), refused, contexts)


# The kinds of candidates (see `kinds_of`) whose stacks have raised an error, with the error, by experiment: a search
# may make a new engine for each batch of candidates.
_LOST: WeakKeyDictionary[Experiment, dict[frozenset, str]] = WeakKeyDictionary()


def _lost(experiment: Experiment, candidates: Sequence[dict]) -> dict[int, list[str]]:
    """Return why candidates, by number, must not be stacked: a stack of others of their kind has raised an error."""
    known = _LOST.get(experiment)
    if not known:
        return {}
    kinds = map(kinds_of, candidates)
    return {i: [raised(known[kind])] for i, kind in enumerate(kinds) if kind in known}


class Alone(NamedTuple):
    """Candidates, by number, that are trained one by one."""

    numbers: list[int]
    training: SequentialTraining

    def advance(self, epoch: int, n_epochs: int | None) -> EpochReport:
        """Train up to `n_epochs` after `epoch`, or to the end; report the epochs after `epoch`."""
        begun = self.training.epoch
        report = self.training.advance(None if n_epochs is None else epoch + n_epochs - begun)
        return EpochReport(*(part[..., epoch - begun :] for part in report))


class StackedTraining(Training):
    """The training of candidates in stacks, beside those that are trained one by one; all are at the same epoch.

    Parameters
    ----------
    stacks : Packs
    refused : mapping
        The reasons of the candidates that are in no stack, by number.
    contexts : sequence or None
        As `StackedEngine.start` takes them.

    Attributes
    ----------
    epoch : int
        How many epochs have been trained.
    why : dict from int to list of str
        The reasons of the candidates that are not in a stack, by number.
    alone : list of Alone
        The trainings of these.
    """

    def __init__(self, stacks: Packs, refused: Mapping[int, Sequence[str]], contexts: Sequence | None):
        self.stacks, self.contexts = stacks, contexts
        self.experiment, self.candidates = stacks.experiment, stacks.candidates
        self.why = {number: list(reasons) for number, reasons in refused.items()}
        self.alone: list[Alone] = []
        self.only_stacks = False
        self.epoch = 0
        self.rows: dict[int, list[Outcome]] = {}

    @property
    def packs(self) -> list[ScoredPack]:
        """The packs that have raised no error."""
        return self.stacks.packs

    @property
    def done(self) -> bool:
        """Whether no run has an epoch left."""
        return self.stacks.done and not self._waiting() and all(alone.training.done for alone in self.alone)

    def reasons(self) -> dict[int, list[str]]:
        """Return why candidates, by number, are not stacked, or no longer stacked."""
        self._note_failed()
        return self.why

    def leave_out(self) -> None:
        """Leave the candidates that `reasons` names to the caller: `finish` returns no outcomes for them."""
        self.only_stacks = True

    def advance(self, n_epochs: int | None = None) -> EpochReport:
        """Train `n_epochs` more epochs (None: all that are left) and report them.

        Candidates that have lost their stack are first trained up to the epoch of the others.
        """
        start = self.epoch
        self.stacks.advance(self.stacks.max_epochs if n_epochs is None else start + n_epochs)
        self._take_over()
        reports = [alone.advance(start, n_epochs) for alone in self.alone]
        if n_epochs is None:
            n_epochs = max([0, self.stacks.max_epochs - start, *(report.valid_score.shape[-1] for report in reports)])
        self.epoch += n_epochs
        return self._report(start, n_epochs, reports)

    def _report(self, start: int, n_epochs: int, reports: Sequence[EpochReport]) -> EpochReport:
        # train losses and validation scores in the last axis
        table = np.full((len(self.candidates), len(self.experiment.cells), n_epochs, 2), np.nan)
        for candidate, cell, row in self.stacks.rows_since(start):
            table[candidate, cell, row.epoch - start] = row.train_loss, row.valid_score
        for alone, report in zip(self.alone, reports, strict=True):
            table[alone.numbers, :, : report.valid_score.shape[-1]] = np.stack(report, axis=-1)
        return EpochReport(*np.moveaxis(table, -1, 0))

    def _waiting(self) -> list[int]:
        """The candidates to train one by one whose training has not been started yet."""
        begun = {number for alone in self.alone for number in alone.numbers}
        return [] if self.only_stacks else [number for number in self.reasons() if number not in begun]

    def _take_over(self) -> None:
        """Start to train one by one what is not in a stack; runs that were stopped in a stack keep their outcomes."""
        self._note_failed()
        waiting, n_cells = self._waiting(), len(self.experiment.cells)
        if not waiting:
            return
        training = SequentialEngine().start(self.experiment, self.candidates, chosen=waiting)
        ended = self.stacks.outcomes()
        # the runs come candidate by candidate, each in all cells
        for run, pair in zip(training.runs, product(waiting, range(n_cells)), strict=True):
            if pair in ended and ended[pair].status == STOPPED:
                run.end(ended[pair])
        self.alone.append(Alone(waiting, training))

    def _note_failed(self) -> None:
        """Note which candidates have lost their stack, and warn once in a search."""
        new = [number for number in self.stacks.failed if number not in self.why]
        self.why |= {number: [raised(self.stacks.failed[number])] for number in new}
        if new and self.experiment not in _LOST:  # one warning is enough for a search
            concerned = "all candidates" if len(new) == len(self.candidates) else which(new, self.candidates)
            warn_of_fallback(self.stacks.failed[new[0]], concerned)
        for number in new:
            error = self.stacks.failed[number]
            _LOST.setdefault(self.experiment, {}).setdefault(kinds_of(self.candidates[number]), error)

    def stop(self, mask: np.ndarray, reason: str) -> None:
        """End the runs marked in `mask`, shape (n_candidates, n_cells); they keep their current scores."""
        self.stacks.stop(mask, reason)
        self._take_over()
        for alone in self.alone:
            if alone.training.epoch < self.epoch:  # just taken over: the scores to keep are those of this epoch
                alone.advance(self.epoch, 0)
            alone.training.stop(mask[alone.numbers], reason)

    def finish(self) -> list[list[Outcome]]:
        """Train what is left, score it, and return the outcomes; an empty list for each candidate left out."""
        self.stacks.finish()
        self._take_over()
        outcomes, n_cells = self.stacks.outcomes(), len(self.experiment.cells)
        stacked = [number for number in range(len(self.candidates)) if number not in self.why]
        self.rows = {number: [outcomes[number, cell] for cell in range(n_cells)] for number in stacked}
        self._print(self.rows)
        self._tell(stacked)
        for alone in self.alone:
            self.rows |= dict(zip(alone.numbers, alone.training.finish(), strict=True))
            self._tell(alone.numbers)
        return [self.rows.get(number, []) for number in range(len(self.candidates))]

    def finished(self) -> dict[int, list[Outcome]]:
        """Return the outcomes of the candidates that are finished in all cells, by number."""
        found = dict(self.rows)
        for alone in self.alone:
            found |= {alone.numbers[i]: row for i, row in alone.training.finished().items()}
        return found

    def _print(self, rows: Mapping[int, Sequence[Outcome]]) -> None:
        """Print a line per run."""
        cells = self.experiment.cells
        for number, row in rows.items():
            for cell, outcome in zip(cells, row, strict=True):
                label = Label(self.candidates[number], cell.fold, cells[-1].fold + 1, number, len(self.candidates))
                print_end(label, outcome, self.experiment.verbose)

    def _tell(self, numbers: Sequence[int]) -> None:
        """Tell scikit-learn's callbacks that the tasks of these candidates have begun and ended."""
        if self.contexts is None:
            return
        n_cells, caller = len(self.experiment.cells), self.experiment.caller
        for number, cell in product(numbers, range(n_cells)):
            context = self.contexts[number * n_cells + cell]
            context.call_on_fit_task_begin(estimator=caller).call_on_fit_task_end(estimator=caller)
