"""A small stack and runs of it trained by themselves, compared step by step.

After each step the single runs are given the stack's weights, so that rounding does not add up over the steps, however
large the learning rate is: each comparison is one of a single step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sklr._sklearn import take_rows
from sklr.engines._answers import CellScorer
from sklr.engines._audit_plan import plan, rare_rows
from sklr.engines._audit_run import PlainRun
from sklr.engines._base import Cell, Experiment
from sklr.engines._batches import Rows, epoch_positions, epoch_sizes, map_tensors, stack_rows
from sklr.engines._data import last_step, seeded_clone
from sklr.engines._dropout import stop_attention_dropout
from sklr.engines._explain import explained, first_line
from sklr.engines._group import Group, Place
from sklr.engines._pack import Pack, Side, lr_dtype, valid_batch_size
from sklr.engines._refusals import Unstackable
from sklr.engines._scoring import followed_score
from sklr.engines._tolerance import Tolerance
from sklr.engines._transforms import as_inferred

MOST_ROWS = 2048  # predicted by each run, and a last batch as the validation rows have it


class _Run(NamedTuple):
    """A run of an audit: its place in the small stack, and its twin that is trained by itself."""

    member: int
    cell: int
    plain: PlainRun


class Comparison:
    """A small stack, and runs of it trained the plain way beside it."""

    def __init__(
        self, experiment: Experiment, candidates: Sequence[dict], group: Group, members: list[int], cells: list[int]
    ):
        traits = group.stack_args["traits"]
        self.experiment, self.cells = experiment, [experiment.cells[k] for k in cells]
        self.places, self.n_steps = [group.places[k] for k in cells], group.n_steps
        self.pack = _small_pack(group, members, cells, dropout=not traits.draws)
        self.sides = self.pack.sides
        self.plan = plan(self.sides, [place.side for place in group.places])
        self.tolerance = Tolerance(lr_dtype(self.pack.stack), traits.precision)
        self.rows = [_rows_to_predict(place.side, place.x_test) for place in self.places]
        self.x_test = stack_rows(
            [map_tensors(lambda t, r=r: t[r], place.x_test) for r, place in zip(self.rows, self.places, strict=True)]
        )
        self.runs: list[_Run] = []
        self.over: set[_Run] = set()
        for i in range(max(len(members), len(cells))):
            m, k = i % len(members), i % len(cells)
            candidate = candidates[self.pack.members[m].candidate]
            plain = _plain_run(experiment, candidate, self.cells[k], self.places[k])
            if traits.draws:
                stop_attention_dropout(plain.net.module_)
            self.runs.append(_Run(m, k, plain))

    def run(self) -> None:
        """Raise `Unstackable` at the first difference."""
        for run in self.runs:
            self._check_length(run)
            self._check_state(run, "before the first step", {})
        for epoch in range(len(self.plan[0])):
            self._compare_epoch(epoch)
            if epoch == 0:
                self._compare_predictions()

    def _going(self) -> list[_Run]:
        return [run for run in self.runs if run not in self.over]

    def _compare_epoch(self, epoch: int) -> None:
        orders = [epochs[epoch] for epochs in self.plan]
        positions, sizes = epoch_positions(orders)
        multipliers, losses = self._multipliers(epoch, sizes), []
        lr = self.pack.lrs(multipliers)
        for run in self._going():
            run.plain.begin_epoch(orders[run.cell])
        for i in range(len(sizes)):
            losses.append(self._compare_step(positions[i : i + 1], sizes[i : i + 1], lr[i : i + 1]))
        self.pack.end_epoch(torch.cat(losses), sizes, multipliers)
        for run in self._going():
            run.plain.end_epoch()

    def _compare_step(self, positions: Tensor, sizes: np.ndarray, lr: np.ndarray) -> Tensor:
        """Take one step both ways; return the stack's losses."""
        training = [run for run in self._going() if sizes[0, run.cell]]
        before = [run.plain.parameters() for run in training]
        expected = [_step_alone(run.plain, sizes[0, run.cell]) for run in training]
        with _stacking(self.pack.stack.module):
            losses = self.pack.steps(positions, sizes, torch.from_numpy(lr), self.n_steps)
        for run, loss, old in zip(training, expected, before, strict=True):
            if not np.isfinite(loss) and not torch.isfinite(losses[0, run.member, run.cell]):
                self.over.add(run)  # diverged in both: what is left of it is of no use
                continue
            where = f" on a batch of {sizes[0, run.cell]} rows"
            self._check_lrs(run, lr[0, :, run.member, run.cell])
            self._check_loss(run, losses[0, run.member, run.cell], loss, where)
            self._check_state(run, f"after a step{where}", old)
            self.pack.stack.load_run(run.member, run.cell, run.plain.net.module_)
        return losses

    def _multipliers(self, epoch: int, sizes: np.ndarray) -> np.ndarray:
        """Return what schedules make of the audit's steps: those of the epoch's first ones, then of its last one."""
        real = epoch_sizes([side.epochs[epoch] for side in self.sides])
        known = self.pack.epoch_multipliers(real)
        found = np.zeros((len(sizes), *known.shape[1:]))
        for k in range(len(self.sides)):
            taken = np.flatnonzero(sizes[:, k])
            found[taken, ..., k] = known[np.minimum(np.arange(len(taken)), np.count_nonzero(real[:, k]) - 1), ..., k]
        return found

    def _check_length(self, run: _Run) -> None:
        found, announced = len(self.sides[run.cell].epochs[0]), run.plain.n_batches
        if found != announced:
            raise Unstackable(f"the training DataLoader says that it has {announced} batches, and has {found}")

    def _check_lrs(self, run: _Run, found: np.ndarray) -> None:
        for group, (mine, own) in enumerate(zip(found, run.plain.lrs, strict=True)):
            if not np.isclose(mine, own, rtol=1e-6, atol=0, equal_nan=True):
                raise Unstackable(_differs(f"the learning rate of parameter group {group}", mine, own))

    def _check_loss(self, run: _Run, found: Tensor, expected: float, where: str) -> None:
        scale = abs(run.plain.first_loss) if np.isfinite(run.plain.first_loss) else 0.0
        if not self.tolerance.same(found, torch.tensor(expected, dtype=torch.float64).to(found), scale):
            raise Unstackable(_differs(f"the loss{where}", float(found), expected))

    def _check_state(self, run: _Run, when: str, before: Mapping[str, Tensor]) -> None:
        """Compare parameters and buffers of a run; with what parameters were `before`, as updates of these."""
        found, module = self.pack.stack.run_state(run.member, run.cell), run.plain.net.module_
        named = dict(module.named_parameters())
        noise = run.plain.gradient_noise(self.tolerance) if before else {}
        moves = [(named[name].detach() - before[name]).abs().max() for name in noise if before[name].numel()]
        largest = float(torch.stack(moves).max()) if moves else 0.0
        for name, own in {**named, **dict(module.named_buffers())}.items():
            if name in noise:
                same = self.tolerance.same_update(found[name], own.detach(), before[name], noise[name], largest)
            else:
                same = self.tolerance.same(found[name], own.detach())
            if not same:
                raise run.plain.unfit(f"has another {name!r} {when} in a stack than one by one")

    def _compare_predictions(self) -> None:
        """Compare what both predict for validation rows, in the batches that each would predict them in."""
        with _stacking(self.pack.stack.module):
            outputs = as_inferred(self.sides[0].net, self.pack.outputs(self.x_test))
        found = tree_leaves(outputs)
        self._compare_scores(outputs)
        for run in self._going():
            rows, place = self.rows[run.cell], self.places[run.cell]
            n_rows = len(tree_leaves(place.x_test)[0])
            X = place.data.X_test if len(rows) == n_rows else take_rows(place.data.X_test, rows)
            for mine, own in zip(found, _predict_alone(run.plain, X), strict=True):
                if own.dim() == 0 or len(own) != len(rows):
                    continue  # something beside the predictions, of a batch as a whole
                mine = mine[run.member, run.cell, : len(rows)]
                if not self.tolerance.same(mine.to(own.dtype), own):
                    raise Unstackable(
                        f"predictions for {len(rows)} validation rows are not those that a net makes by itself, in "
                        "batches of its own size"
                    )

    def _compare_scores(self, outputs: Rows) -> None:
        """Compare the scores that a stack computes for all its runs at once with what the scorer says of the nets."""
        for run in self._going():
            place, cell, rows = self.places[run.cell], self.cells[run.cell], self.rows[run.cell]
            scorer = CellScorer(self.experiment, cell, place.side.net, place.subject, place.score_data)
            if (
                scorer.quick.metric is None
                or not isinstance(outputs, Tensor)
                or len(rows) < len(tree_leaves(place.x_test)[0])
            ):
                return  # nets and scorers are asked themselves, or of so many rows that it would take too long
            mine = scorer.quick.rounded(outputs[run.member, run.cell, : len(rows)].unsqueeze(0))
            own = followed_score(self.experiment, cell, run.plain.net, place.data)
            if mine is not None and not np.isclose(mine[0], own, rtol=1e-3, atol=2 / len(rows), equal_nan=True):
                raise Unstackable(_differs("the score on the validation rows", mine[0], own))


def try_step(group: Group, members: list[int], cells: list[int]) -> None:
    """Take a step of a small stack as it is, with dropout: there is nothing to compare it with, but it must work."""
    pack = _small_pack(group, members, cells, dropout=True)
    positions, sizes = epoch_positions([side.epochs[0][:1] for side in pack.sides])
    with _stacking(pack.stack.module):
        pack.steps(positions, sizes, torch.from_numpy(pack.lrs(pack.epoch_multipliers(sizes))))


def _small_pack(group: Group, members: list[int], cells: list[int], *, dropout: bool) -> Pack:
    """Return a pack of some members of a group in some of its cells."""
    small = group._replace(places=[group.places[k] for k in cells])
    chosen, sides = [group.members[m] for m in members], [place.side for place in small.places]
    return Pack(small.build(members, dropout=dropout), chosen, sides, group.max_epochs)


def _plain_run(experiment: Experiment, candidate: dict, cell: Cell, place: Place) -> PlainRun:
    return PlainRun(last_step(seeded_clone(experiment, candidate, cell)), place.data, cell.seed)


def _step_alone(plain: PlainRun, n_rows: int) -> float:
    try:
        return plain.step()
    except Unstackable:
        raise
    except Exception as error:  # whatever it is, the sequential engine meets it in its runs and records it
        raise Unstackable(
            f"the module cannot be trained on a batch of {n_rows} rows: {type(error).__name__}: {first_line(error)}"
        ) from error


def _predict_alone(plain: PlainRun, X: Any) -> list[Tensor]:
    try:
        return plain.predictions(X)
    except Exception as error:  # likewise
        raise Unstackable(
            f"the module cannot predict the validation rows: {type(error).__name__}: {first_line(error)}"
        ) from error


@contextmanager
def _stacking(module: nn.Module) -> Iterator[None]:
    """Turn any error of a stack into a reason: single nets have just done the same without one."""
    try:
        yield
    except Exception as error:  # anything may be raised by foreign code that is called in an unusual way
        raise Unstackable(f"module {type(module).__name__}: {explained(error, module)}") from error


def _differs(what: str, stacked: float, alone: float) -> str:
    return f"{what} is {stacked:.6g} in a stack and {alone:.6g} one by one"


def _rows_to_predict(side: Side, x_test: Rows) -> np.ndarray:
    """Return some rows, those with rare values first, whose last batch is as large as that of all rows."""
    n_rows, size = len(tree_leaves(x_test)[0]), valid_batch_size(side.net, len(tree_leaves(x_test)[0]))
    n_chosen = min(n_rows, MOST_ROWS + n_rows % max(size, 1))
    if n_chosen == n_rows:
        return np.arange(n_rows)
    first = np.arange(n_chosen)
    return np.array(list(dict.fromkeys([*rare_rows(tree_leaves(x_test), first[:size])[:size], *first])))[:n_chosen]
