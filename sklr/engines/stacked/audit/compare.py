"""Compares a small stack, step by step, with runs that are trained by themselves.

After each step the stack's weights are copied into the single runs. So each comparison is of one step alone, and
rounding does not accumulate, however large the learning rate is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice, zip_longest
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.base import is_classifier
from skorch.dataset import Dataset
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import default_collate

from sklr._utils.divergence import exploded
from sklr._utils.sklearn import take_rows
from sklr.engines.scoring import followed_score
from sklr.engines.stacked.audit.batches import plan, read_plan, search_rare
from sklr.engines.stacked.audit.plain_run import STARTUP, PlainRun
from sklr.engines.stacked.audit.tolerance import Flat, Tolerance
from sklr.engines.stacked.checks.explain import explained, first_line
from sklr.engines.stacked.checks.static import Unstackable
from sklr.engines.stacked.checks.transforms import as_inferred
from sklr.engines.stacked.data.index_batches import epoch_positions, epoch_sizes, map_tensors, stack_rows
from sklr.engines.stacked.model.dropout import stop_inner_dropout
from sklr.engines.stacked.model.group import Group, GroupCell
from sklr.engines.stacked.model.pack import Pack, lr_dtype, valid_batch_size
from sklr.engines.stacked.model.stream_feed import n_rows, show_once
from sklr.engines.stacked.scoring.scorer import CellScorer, answering
from sklr.experiment.cell_data import CellData, seeded_clone
from sklr.experiment.experiment import Cell, Experiment
from sklr.experiment.wrappers import net_of

MOST_ROWS = 64  # predicted by each run: rounded up to full batches, and a last batch of the size that it really has
MOST_SLIPS = 2  # steps in which rounding may explain a slightly larger difference; a real error shows in most steps
MOST_LABELS = 32  # labels that occur in the predicted rows: some scorers need all classes
SHAKEN = 1e-3  # by what share of itself a weight is changed, about


class DiffersAfterStep(Unstackable):
    """The weights differ after a step by more than rounding usually explains."""


class _Run(NamedTuple):
    """A run of an audit: its position in the small stack, and the same run trained by itself."""

    member: int
    cell: int
    plain: PlainRun


class StepComparison:
    """A small stack, and some of its runs trained by themselves beside it."""

    def __init__(
        self, experiment: Experiment, candidates: Sequence[dict], group: Group, members: list[int], cells: list[int]
    ):
        traits = group.stack_args["traits"]
        self.experiment, self.n_steps = experiment, group.n_steps
        self.group_cells = [group.group_cells[k] for k in cells]
        self.cells = [group_cell.cell for group_cell in self.group_cells]
        self.pack = _small_pack(group, members, cells, dropout=not traits.draws)
        self.pack_cells = self.pack.pack_cells
        make = read_plan if self.pack.streams else plan
        self.plan: list[list[Any]] = make(self.pack_cells, [group_cell.pack_cell for group_cell in group.group_cells])
        self.tolerance = Tolerance(_precise_to(group, self.pack), traits.precision)
        self.rows = [_rows_to_predict(group_cell) for group_cell in self.group_cells]
        self.x_test = stack_rows(
            [group_cell.x_test.take(rows) for rows, group_cell in zip(self.rows, self.group_cells, strict=True)]
        )
        self.n_slips = 0
        self.runs: list[_Run] = []
        self.over: set[_Run] = set()
        for i in range(max(len(members), len(cells))):
            m, k = i % len(members), i % len(cells)
            candidate = candidates[self.pack.members[m].candidate]
            rows = None if self.pack.streams else np.unique(np.concatenate([b for e in self.plan[k] for b in e]))
            plain = _plain_run(experiment, candidate, self.cells[k], self.group_cells[k], rows)
            if traits.draws:
                stop_inner_dropout(plain.net.module_)
            self.runs.append(_Run(m, k, plain))

    def run(self) -> None:
        """Raise `Unstackable` at the first difference."""
        for run in self.runs:
            self._check_length(run)
            self._check_state(run, "before the first step")
        for epoch in range(len(self.plan[0])):
            self._compare_epoch(epoch)
            if epoch == 0:
                self._compare_predictions()

    @torch.no_grad()
    def shake(self) -> None:
        """Change the initial weights a little, of each run in the stack and by itself alike."""
        for run in self.runs:
            for p in run.plain.trained.values():
                p.mul_(1 + SHAKEN * torch.randn_like(p))
            self.pack.stack.store_run(run.member, run.cell, run.plain.net.module_)

    def _live(self) -> list[_Run]:
        """Return the runs that have not diverged."""
        return [run for run in self.runs if run not in self.over]

    def _compare_epoch(self, epoch: int) -> None:
        orders = [epochs[epoch] for epochs in self.plan]
        feeds, sizes = _feeds(self.pack, orders)
        multipliers, losses = self._multipliers(epoch, sizes), []
        lr = self.pack.lrs(multipliers)
        for run in self._live():
            order = orders[run.cell]
            run.plain.begin_epoch(order if self.pack.streams else run.plain.batches_of(order))
        for i, feed in enumerate(feeds):
            losses.append(self._compare_step(feed, sizes[i : i + 1], lr[i : i + 1]))
        for run in self._live():
            run.plain.end_epoch()
        self._compare_held_losses()
        self.pack.end_epoch(torch.cat(losses), sizes, multipliers)

    def _compare_held_losses(self) -> None:
        """Compare the losses of the rows that `train_split` holds out, batch by batch."""
        if (held := self.pack.held) is None:
            return
        with _stacking(self.pack.stack.module):
            losses = held.losses(self.pack.stack, held.outputs(self.pack.stack))
        for run in self._live():
            for mine, own in zip(losses[:, run.member, run.cell], run.plain.held_losses, strict=False):
                found, expected = torch.tensor([mine, own], dtype=torch.float64)
                if not self.tolerance.same(found, expected, abs(run.plain.first_loss)):
                    raise Unstackable(_differs("the loss of the rows held out by train_split", mine, own))

    def _compare_step(self, feed: Any, sizes: np.ndarray, lr: np.ndarray) -> Tensor:
        """Take one step in the stack and by each single run, and compare them; return the stack's losses."""
        training = [run for run in self._live() if sizes[0, run.cell]]
        before = [run.plain.parameters() for run in training]
        lrs = [lr[0, :, run.member, run.cell] for run in training]
        expected = [_step_alone(r.plain, sizes[0, r.cell], own) for r, own in zip(training, lrs, strict=True)]
        with _stacking(self.pack.stack.module):
            losses = self.pack.steps(feed, torch.from_numpy(lr), self.n_steps)
        for run, loss, old in zip(training, expected, before, strict=True):
            first = run.plain.first_loss
            if exploded(loss, first) and exploded(float(losses[0, run.member, run.cell]), first):
                self.over.add(run)  # diverged both ways: there is nothing left to compare
                continue
            where = f" on a batch of {sizes[0, run.cell]} rows"
            self._check_lrs(run, lr[0, :, run.member, run.cell])
            self._check_loss(run, losses[0, run.member, run.cell], loss, where)
            self._check_state(run, f"after a step{where}", old)
            self.pack.stack.load_run(run.member, run.cell, run.plain.net.module_)
        return losses

    def _multipliers(self, epoch: int, sizes: np.ndarray) -> np.ndarray:
        """Return the schedules' multipliers of the audit's steps: an epoch's first ones, then its last one repeated.

        An audit's epoch may have more batches than a real one, for which a schedule has no multipliers.
        """
        real = epoch_sizes([pack_cell.epochs[epoch] for pack_cell in self.pack_cells])
        known = self.pack.epoch_multipliers(real)
        found = np.zeros((len(sizes), *known.shape[1:]))
        for k in range(len(self.pack_cells)):
            taken = np.flatnonzero(sizes[:, k])
            found[taken, ..., k] = known[np.minimum(np.arange(len(taken)), np.count_nonzero(real[:, k]) - 1), ..., k]
        return found

    def _check_length(self, run: _Run) -> None:
        found, announced = len(self.pack_cells[run.cell].epochs[0]), run.plain.n_batches
        if found != announced:
            raise Unstackable(
                f"the training DataLoader has a length of {announced} batches but yields {found}, and schedules count "
                "by its length: correct the length of its sampler"
            )

    def _check_lrs(self, run: _Run, found: np.ndarray) -> None:
        for group, (mine, own) in enumerate(zip(found, run.plain.lrs, strict=True)):
            if not np.isclose(mine, own, rtol=1e-6, atol=0, equal_nan=True):
                raise Unstackable(_differs(f"the learning rate of parameter group {group}", mine, own))

    def _check_loss(self, run: _Run, found: Tensor, expected: float, where: str) -> None:
        scale = abs(run.plain.first_loss) if np.isfinite(run.plain.first_loss) else 0.0
        if not self.tolerance.same(found, torch.tensor(expected, dtype=found.dtype), scale):
            raise Unstackable(_differs(f"the loss{where}", float(found), expected, CHECK))

    def _check_state(self, run: _Run, when: str, before: Flat | None = None) -> None:
        """Compare a run's parameters and buffers; with the parameters `before` the step, compare the updates."""
        found, plain = self.pack.stack.run_state(run.member, run.cell), run.plain
        own = {**dict(plain.net.module_.named_parameters()), **dict(plain.net.module_.named_buffers())}
        moved = plain.trained if before is not None else {}
        wrong = next((n for n in own if n not in moved and not self.tolerance.same(found[n], own[n].detach())), None)
        kind: type[Unstackable] = Unstackable
        if wrong is None and before is not None:
            mine, noise = Flat({name: found[name] for name in moved}), plain.gradient_noise(self.tolerance)
            worst, times = self.tolerance.worst(mine, plain.parameters(), before, noise)
            if times > self.tolerance.slip or (times > 1 and self.n_slips >= MOST_SLIPS):
                wrong, kind = worst, DiffersAfterStep
            self.n_slips += times > 1
        if wrong is not None:
            raise plain.unfit(f"has a different {wrong!r} {when} in a stack than when trained by itself{CHECK}", kind)

    def _compare_predictions(self) -> None:
        """Compare the predictions for validation rows: the stack's in one batch, each net's in batches of its own."""
        with _stacking(self.pack.stack.module):
            outputs = as_inferred(self.pack_cells[0].net, self.pack.stack.outputs(self.x_test))
        for run in self._live():
            data = _test_rows(self.group_cells[run.cell], self.rows[run.cell])
            # rows of a stream have already been through its collate function
            if self.group_cells[run.cell].pack_cell.stream is not None:
                vars(run.plain.net)["iterator_valid__collate_fn"] = default_collate
            alone = _predict_alone(run.plain, data.X_test)
            self._check_predictions(run, tree_leaves(outputs), alone)
            if isinstance(outputs, Tensor):
                self._check_score(run, data, outputs, alone[0])

    def _check_predictions(self, run: _Run, outputs: list[Tensor], alone: list[Tensor]) -> None:
        n_rows = len(self.rows[run.cell])
        for mine, own in zip(outputs, alone, strict=True):
            if own.dim() == 0 or len(own) != n_rows:
                continue  # an output for the whole batch beside the predictions
            if not self.tolerance.same(mine[run.member, run.cell, :n_rows].to(own.dtype), own):
                raise Unstackable(
                    f"predictions for {n_rows} validation rows differ between a stack and a net by itself, which "
                    f"predicts them in batches of its own size{CHECK}"
                )

    def _check_score(self, run: _Run, data: CellData, outputs: Tensor, alone: Tensor) -> None:
        """Compare the score that a stack computes for all runs at once with the one that the scorer computes."""
        group_cell, cell, n_rows = self.group_cells[run.cell], self.cells[run.cell], len(self.rows[run.cell])
        asked, net = group_cell.score_data(rows=False)._replace(y_test=data.y_test), group_cell.pack_cell.net
        quick = CellScorer(self.experiment, cell, net, group_cell.subject, lambda rows: asked).quick
        if quick.metric is None:
            return  # the stack calls the scorer itself for each run
        mine = quick.rounded(outputs[run.member, run.cell, :n_rows].unsqueeze(0))
        with answering(run.plain.net, alone):
            own = followed_score(self.experiment, cell, run.plain.net, data)
        # rounding may change the predicted class of a row or two
        if mine is not None and not np.isclose(mine[0], own, rtol=1e-3, atol=2 / n_rows, equal_nan=True):
            raise Unstackable(_differs("the score on the validation rows", mine[0], own))


OTHER = ", so a stack would give other results"
CHECK = f"{OTHER}: check that forward and the criterion use only weights, buffers and the batch"


def _precise_to(group: Group, pack: Pack) -> torch.dtype:
    """Return the dtype whose rounding is to be allowed for: a capturable optimizer scales its steps in float32."""
    counts = any(kwargs.get("capturable") for kwargs in group.optimizer_kwargs)
    return torch.float32 if counts and lr_dtype(pack.stack) == torch.float64 else lr_dtype(pack.stack)


def try_step(group: Group, members: list[int], cells: list[int]) -> None:
    """Take a step of a small stack with dropout: its masks cannot be compared, but the step must not raise."""
    pack = _small_pack(group, members, cells, dropout=True)
    first: list[Any] = [islice(stream.raw(), 1) for stream in pack.streams] or [
        pack_cell.epochs[0][:1] for pack_cell in pack.pack_cells
    ]
    (feed,), sizes = _feeds(pack, first)
    with _stacking(pack.stack.module):
        pack.steps(feed, torch.from_numpy(pack.lrs(pack.epoch_multipliers(sizes))))


def _feeds(pack: Pack, orders: Sequence[Any]) -> tuple[list[Any], np.ndarray]:
    """Return the input of each step, and the sizes of its batches, shape (n_steps, n_cells).

    `orders` are each cell's batches: row numbers, or for streams the batches from their DataLoaders.
    """
    if not pack.streams:
        positions, sizes = epoch_positions(orders)
        return [pack.feed(positions[i : i + 1], sizes[i : i + 1]) for i in range(len(sizes))], sizes
    read = [map(stream.shown, order) for stream, order in zip(pack.streams, orders, strict=True)]
    steps = list(zip_longest(*read))
    sizes = np.array([[0 if shown is None else n_rows(shown) for shown in step] for step in steps])
    return [show_once(step) for step in steps], sizes


def _small_pack(group: Group, members: list[int], cells: list[int], *, dropout: bool) -> Pack:
    """Return a pack of some members of a group in some of its cells."""
    clips = [clip._replace(startup_steps=min(clip.startup_steps, STARTUP)) for clip in group.stack_args["clips"]]
    args = {**group.stack_args, "clips": clips}
    small = group._replace(group_cells=[group.group_cells[k] for k in cells], stack_args=args)
    chosen, pack_cells = [group.members[m] for m in members], [group_cell.pack_cell for group_cell in small.group_cells]
    return Pack(small.build(members, dropout=dropout), chosen, pack_cells, group.max_epochs)


def _plain_run(
    experiment: Experiment, candidate: dict, cell: Cell, group_cell: GroupCell, rows: np.ndarray | None
) -> PlainRun:
    return PlainRun(net_of(seeded_clone(experiment, candidate, cell)), group_cell.train_data, cell.seed, rows)


def _step_alone(plain: PlainRun, n_rows: int, lrs: np.ndarray) -> float:
    try:
        return plain.step(lrs.tolist())
    except Unstackable:
        raise
    except Exception as error:  # of any kind: the sequential engine will meet it, too, and records it with the run
        raise Unstackable(
            f"the module cannot be trained on a batch of {n_rows} rows: {type(error).__name__}: {first_line(error)}"
        ) from error


def _predict_alone(plain: PlainRun, X: Any) -> list[Tensor]:
    try:
        return plain.predictions(X)
    except Exception as error:  # as in `_step_alone`
        raise Unstackable(
            f"the module cannot predict the validation rows: {type(error).__name__}: {first_line(error)}"
        ) from error


@contextmanager
def _stacking(module: nn.Module) -> Iterator[None]:
    """Turn any error of a stack into a reason: the single nets have just done the same without an error."""
    try:
        yield
    except Exception as error:  # a user's module may raise anything when it is called under torch.func
        raise Unstackable(f"module {type(module).__name__}: {explained(error, module)}") from error


def _differs(what: str, stacked: float, alone: float, so: str = OTHER) -> str:
    return f"{what} is {stacked:.6g} in a stack and {alone:.6g} one by one{so}"


def _rows_to_predict(group_cell: GroupCell) -> np.ndarray:
    """Return some validation rows, one of each label and those with rare values first.

    The last of their batches is as large as the last batch of all validation rows.
    """
    x, y = group_cell.x_test, group_cell.test_data.y_test
    n_rows = x.n_rows
    size = max(valid_batch_size(group_cell.pack_cell.net, n_rows), 1)
    n_chosen = min(n_rows, -(-MOST_ROWS // size) * size + n_rows % size)
    first = np.arange(n_chosen)
    labels = (
        np.unique(y, return_index=True)[1][:MOST_LABELS]
        if np.ndim(y) == 1 and is_classifier(group_cell.pack_cell.net)
        else first[:0]
    )
    rare = search_rare(x, first[:size])[:size] if n_chosen < n_rows else first[:0]
    return np.array(list(dict.fromkeys([*labels, *rare, *first])))[:n_chosen]


def _test_rows(group_cell: GroupCell, rows: np.ndarray) -> CellData:
    """Return the cell's data with only these validation rows."""
    data = group_cell.test_data
    y = None if data.y_test is None else take_rows(data.y_test, rows)
    if group_cell.pack_cell.stream is not None:  # the rows already read: the dataset might return others now
        X = Dataset(map_tensors(lambda t: t.cpu(), group_cell.x_test.take(rows)))
    else:
        X = take_rows(data.X_test, rows)
    return data._replace(X_test=X, y_test=y)
