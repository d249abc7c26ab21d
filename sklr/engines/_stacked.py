"""The stacked engine: candidates x folds x seeds trained as a few batched models, each exactly as if alone."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import cycle
from typing import Any

import numpy as np
from joblib import effective_n_jobs
from sklearn.utils.parallel import delayed

from sklr._validation import check_count, check_flag
from sklr.engines._advance import advance, advance_away, advance_together
from sklr.engines._base import Engine, EpochReport, Experiment, Training
from sklr.engines._devices import on_each_device
from sklr.engines._packing import fitting_threads, out_of_memory, pack_members
from sklr.engines._prepare import Group, prepare
from sklr.engines._refusals import Unstackable
from sklr.engines._scored import ScoredPack
from sklr.engines._spread import can_travel, spread
from sklr.engines._verbose import Label, print_end
from sklr.exceptions import EngineError, OutOfMemoryWarning
from sklr.results import Outcome


class StackedEngine(Engine):
    """Train all runs as one batched model through `torch.func`, with stock optimizer semantics.

    What can be stacked is found out before any training: `unsupported` sets the nets up, probes module, optimizer
    and loss on one batch, and `start` goes on from there.

    Parameters
    ----------
    max_stack : int, optional
        Most runs in one stack; by default as many as half of the free memory is estimated to hold. A stack that
        does not fit after all is halved, and the search goes on.
    compile : bool, default False
        Whether forward, loss and backward of a step go through `torch.compile`, on a CUDA device in its mode for CUDA
        graphs; the optimizer's step stays as it is. It takes seconds up to a minute for each shape of batch, such as
        a shorter last one, and again when runs leave a stack, so it is for trainings that are long beside that.
        Losses and gradients are the same to rounding; dropout may draw other numbers. All packs are trained in this
        process, whatever `n_jobs` says, and what the module does beside tensor operations (count its calls, say)
        is done once and not at every step.

    Notes
    -----
    The tensor operations of a step are recorded and, if the next step does the very same, replayed from then on, on a
    CUDA device as a CUDA graph: the module's own Python code is called no more. It is called in every step if it has
    hooks, remembers anything from call to call, draws random numbers in Python or reads numbers from tensors. What it
    does beyond its own attributes (print, count in a global variable) is not noticed.

    Whether nets can be stacked is probed in full float32 precision. The training itself follows PyTorch's settings:
    with TF32, in which cuDNN convolves unless `torch.backends.cudnn.allow_tf32` is False, results agree with training
    one by one to the rounding of TF32, which some networks amplify.

    Where a module uses `torch.autocast`, results agree with training one by one to the rounding of the lower precision.

    `compile` has been timed on one CPU core only, a step of 50 small runs: twice as fast with layer normalisation, a
    tenth faster with a convolution, and slower by up to a half for plain networks of Linear layers.

    Examples
    --------
    >>> StackedEngine(compile="yes")
    Traceback (most recent call last):
    ValueError: compile must be True or False, got 'yes'.
    """

    name = "stacked"

    def __init__(self, max_stack: int | None = None, compile: bool = False):
        self.max_stack = None if max_stack is None else check_count("max_stack", max_stack)
        self.compile = check_flag("compile", compile)
        self._ready: tuple[Experiment, Sequence[dict], list[Group]] | None = None

    def unsupported(self, experiment: Experiment, candidates: Sequence[dict]) -> list[str]:
        """Return the reasons why these candidates cannot be stacked; empty if they can."""
        try:
            self._ready = experiment, candidates, prepare(experiment, candidates)
        except Unstackable as refusal:
            return list(refusal.args)
        except Exception as error:  # whatever it is, the sequential engine meets it in its runs and records it
            return [f"setting the nets up raised {type(error).__name__}: {error}"]
        return []

    def start(
        self, experiment: Experiment, candidates: Sequence[dict], contexts: Sequence | None = None
    ) -> StackedTraining:
        """Stack the nets that `unsupported` has set up; with `compile=True`, compile their first step.

        Raises
        ------
        EngineError
            If the nets cannot be stacked, their stacks do not fit into memory, or a step cannot be compiled; the
            message names the reason.
        """
        if self._ready is None or self._ready[0] is not experiment or self._ready[1] is not candidates:
            reasons = self.unsupported(experiment, candidates)
            if reasons:
                raise EngineError(f"engine='stacked' cannot train these candidates: {'; '.join(reasons)}.")
        assert self._ready is not None
        groups, self._ready = self._ready[2], None
        if self.compile:
            groups = [group.compiled() for group in groups]
        try:
            training = StackedTraining(experiment, candidates, groups, contexts, self.max_stack, self.compile)
        except Exception as error:
            if not out_of_memory(error):
                raise
            n_runs, device = len(candidates) * len(experiment.cells), groups[0].device
            raise EngineError(
                f"engine='stacked' cannot hold the weights and optimizer states of {n_runs} runs in the memory of "
                f"{device}. Use engine='sequential', or search fewer candidates at once."
            ) from error
        if self.compile:
            _compile(training.packs)
        return training


class StackedTraining(Training):
    """The packs of `StackedEngine`, epoch by epoch."""

    def __init__(
        self,
        experiment: Experiment,
        candidates: Sequence[dict],
        groups: Sequence[Group],
        contexts: Sequence | None,
        max_stack: int | None,
        in_process: bool,
    ):
        self.experiment, self.candidates, self.contexts = experiment, candidates, contexts
        n_jobs = 1 if in_process else effective_n_jobs(experiment.n_jobs)  # compiled code cannot be sent away
        self.n_jobs = n_jobs if n_jobs == 1 or all(can_travel(g.places[0].side.net) for g in groups) else 1
        self.packs = [
            ScoredPack(experiment, candidates, home, chosen)
            for group in groups
            for chosen, home in zip(pack_members(group, max_stack, self.n_jobs), cycle(on_each_device(group)))
        ]
        self.epoch = 0
        self.warned = False

    @property
    def done(self) -> bool:
        """Whether no run has an epoch left."""
        return all(scored.pack.done for scored in self.packs)

    def advance(self, n_epochs: int | None = None) -> EpochReport:
        """Train every pack on, each in a worker, on a device or in a thread if there are several of both."""
        if n_epochs is None:
            n_epochs = max(scored.pack.max_epochs for scored in self.packs) - self.epoch
        before = len(self.packs)
        self.packs = self._advanced(self.epoch + n_epochs)
        self._warn_if_halved(before)
        report = self._report(n_epochs)
        self.epoch += n_epochs
        return report

    def _advanced(self, epoch: int) -> list[ScoredPack]:
        n_jobs = min(self.n_jobs, len(self.packs))  # one worker means this process, where nothing is copied
        if n_jobs == 1 and self._train_in_threads():
            return advance_together(self.packs, epoch)
        if n_jobs == 1:
            alone = len(self.packs) == 1
            return [pack for scored in self.packs for pack in advance(scored, epoch, alone)]
        calls = (delayed(advance_away)(scored, epoch) for scored in self.packs)
        sent_back = spread(calls, n_jobs, self.experiment.pre_dispatch)
        return [self.packs[place].after(progress) for place, found in sent_back for progress in found]

    def _train_in_threads(self) -> bool:
        """Whether packs gain from threads: on the CPU, or on several devices, which one thread would use in turn."""
        if len(self.packs) == 1 or not all(scored.group.thread_safe for scored in self.packs):
            return False
        where = {scored.group.device for scored in self.packs}
        return len(where) > 1 or where.pop().type == "cpu"

    def _warn_if_halved(self, before: int) -> None:
        if len(self.packs) > before and not self.warned:
            self.warned = True
            largest = max(scored.pack.alive.size for scored in self.packs)
            warnings.warn(
                f"A stack of runs did not fit into memory; it was halved, to at most {largest} runs. "
                f"StackedEngine(max_stack={largest}) starts with that.",
                OutOfMemoryWarning,
                stacklevel=2,
            )

    def _report(self, n_epochs: int) -> EpochReport:
        table = np.full((len(self.candidates), len(self.experiment.cells), n_epochs, 2), np.nan)
        for scored in self.packs:
            for candidate, cell, row in scored.rows_since(self.epoch):
                table[candidate, cell, row.epoch - self.epoch] = row.train_loss, row.valid_score
        return EpochReport(*np.moveaxis(table, -1, 0))

    def stop(self, mask: np.ndarray, reason: str) -> None:
        """End the runs marked in `mask`."""
        for scored in self.packs:
            scored.stop(mask, reason)

    def finish(self) -> list[list[Outcome]]:
        """Train what is left, score it, and return the outcomes."""
        if not self.done:
            self.advance()
        outcomes = [list[Any]([None] * len(self.experiment.cells)) for _ in self.candidates]
        for scored in self.packs:
            for (candidate, cell), outcome in scored.finish().items():
                outcomes[candidate][cell] = outcome
        self._tell(outcomes)
        return outcomes

    def _tell(self, outcomes: list[list[Outcome]]) -> None:
        """Print a line per run, and open and close its task for scikit-learn's callbacks."""
        cells, caller = self.experiment.cells, self.experiment.caller
        for c, row in enumerate(outcomes):
            for k, outcome in enumerate(row):
                label = Label(self.candidates[c], cells[k].fold, cells[-1].fold + 1, c, len(outcomes))
                print_end(label, outcome, self.experiment.verbose)
                if self.contexts is not None:
                    context = self.contexts[c * len(cells) + k]
                    context.call_on_fit_task_begin(estimator=caller).call_on_fit_task_end(estimator=caller)


def _compile(packs: Sequence[ScoredPack]) -> None:
    """Compile the first step of every pack, or say why it cannot be."""
    try:
        for scored in packs:
            with fitting_threads(scored.step_flops):  # compiled for as many threads as will run it
                scored.compile()
    except Exception as error:  # the compiler, or what it calls, may raise anything
        if out_of_memory(error):
            return  # met again by `advance`, which halves the pack
        raise EngineError(
            f"engine='stacked' cannot compile the training step: {_reason(error)}. Use StackedEngine(compile=False)."
        ) from error


def _reason(error: Exception) -> str:
    """Return the first line that says something; torch puts a line in front that only names the backend."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.endswith("raised:")]
    return (telling or lines or [type(error).__name__])[0][:200].rstrip(".")
