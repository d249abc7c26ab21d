"""Sets up the cells of a search for stacking: initialized nets, their rows, and what all stacks of the cells share."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from skorch import NeuralNet
from torch import Tensor

from sklr._utils.precision import full_precision
from sklr.engines.sequential.fit import start_net
from sklr.engines.stacked.checks.callbacks import followed_reasons
from sklr.engines.stacked.checks.module_probe import probe
from sklr.engines.stacked.checks.net_optimizer import made_optimizer
from sklr.engines.stacked.checks.nets import check_parts, check_sample_weights, predicted, state_reasons
from sklr.engines.stacked.checks.static import Unstackable
from sklr.engines.stacked.checks.transforms import as_inferred, targets_of, transform_of
from sklr.engines.stacked.data.cell_rows import CellRows
from sklr.engines.stacked.data.index_batches import Rows, map_tensors
from sklr.engines.stacked.data.read_rows import all_rows
from sklr.engines.stacked.model.group import GroupCell, StackSetup
from sklr.engines.stacked.model.member import PackCell
from sklr.engines.stacked.optim.clipping import Clip
from sklr.engines.stacked.purity.shared_state import shared_state_kept
from sklr.engines.stacked.setup.dense import check_fits_dense
from sklr.engines.stacked.setup.shapes import by_shape, with_shared_rows
from sklr.engines.stacked.setup.shared_rows import FoldRows, SharedRows, as_predicted, caster
from sklr.engines.stacked.setup.split import NOT_SPLIT, split_side
from sklr.engines.stacked.setup.streamed import Ready, check_read_alike, is_streamed, predicted_rows, streamed_side
from sklr.experiment.cell_data import CellData, Head, cell_data, fit_head, looks_only_at_predictions, seeded_clone
from sklr.experiment.experiment import Cell, Experiment
from sklr.experiment.wrappers import changes_rows, fitted_around, is_wrapped, net_to_fit, without_pipelines


def stack_setups(experiment: Experiment, heads: Sequence[Head | None], candidate: dict) -> list[StackSetup]:
    """Initialise a candidate's net in every cell, up to the first step; return one set-up per shape of cells.

    Parameters
    ----------
    experiment : Experiment
    heads : sequence of Head or None, one per cell
        The fitted steps of the pipeline around the net.
    candidate : dict

    Raises
    ------
    Unstackable
        If neither the candidate nor any that differs from it in the learning rate alone can be stacked.
    """
    estimators = [seeded_clone(experiment, candidate, cell) for cell in experiment.cells]
    # a copy: set-ups are cached by a weak reference to the search's own experiment, which they must not keep alive
    experiment = replace(experiment)
    check_fits_dense(experiment, heads)
    of_all, of_folds = SharedRows(experiment), {id(head): FoldRows(experiment) for head in heads}
    shares = [of_folds[id(head)] if changes_rows(e) else of_all for e, head in zip(estimators, heads, strict=True)]
    triples = zip(estimators, heads, shares, strict=True)
    shapes = by_shape([_group_cell(experiment, k, *triple) for k, triple in enumerate(triples)])
    setups: list[StackSetup] = []
    del of_all, of_folds, shares, triples  # they hold the rows of the folds, too
    while shapes:  # popped, so that a shape's own rows are freed as soon as they are concatenated
        setups.append(_stack_setup(with_shared_rows(shapes.pop(0))))
    return setups


def _group_cell(
    experiment: Experiment, number: int, estimator: Any, head: Head | None, shared: SharedRows
) -> GroupCell:
    cell = experiment.cells[number]
    raw = cell_data(experiment, cell, estimator)
    net = net_to_fit(estimator)
    if is_wrapped(estimator):
        head = head or fit_head(estimator, raw)  # a fit that failed in `fit_heads` raises its error again
        estimator = fitted_around(estimator, head.fitted, net)
    data = raw if head is None else head.data
    pack_cell = _pack_cell(net, cell, data, shared)
    predictions_do = head is None or looks_only_at_predictions(experiment.scorer)
    subject = without_pipelines(estimator) if predictions_do else estimator
    x_test = _test_rows(experiment, net, cell, data, shared)
    return GroupCell(
        experiment, number, estimator, head, subject, pack_cell, x_test, 0.0 if head is None else head.seconds
    )


def _test_rows(experiment: Experiment, net: NeuralNet, cell: Cell, data: CellData, shared: SharedRows) -> CellRows:
    validation = net.get_dataset(as_predicted(net, data.X_test))
    if is_streamed(net, validation, training=False):
        rows = predicted_rows(net, validation, cell.seed)
        if not experiment.scores_repeat and cell is experiment.cells[0]:
            check_read_alike(rows, predicted_rows(net, validation, cell.seed + 1))
        return CellRows.all_of(map_tensors(caster(net), rows))
    known = shared.of_cell(net, validation, cell, training=False)
    return known or CellRows.all_of(map_tensors(caster(net), all_rows(net, validation)[0]))


def _pack_cell(net: NeuralNet, cell: Cell, data: CellData, shared: SharedRows | None) -> PackCell:
    net.set_params(verbose=0)
    X, y, stream = start_net(net, data, cell.seed)
    dataset, weight = net.get_dataset(X, y), data.fit_params.get("sample_weight")
    if is_streamed(net, dataset, training=True):
        if net.train_split:
            raise Unstackable(NOT_SPLIT)
        if weight is not None:
            raise Unstackable(
                "sample_weight is given for the rows of a Dataset that is read batch by batch, and a stack weights "
                "rows in memory: give X as arrays or a TensorDataset"
            )
        first = shared is None or cell is shared.experiment.cells[0]  # all cells read from the same dataset
        return streamed_side(net, dataset, cell.seed, stream, watched=first)
    return split_side(net, cell, X, y, weight, stream, shared)


def _stack_setup(group_cells: list[GroupCell]) -> StackSetup:
    net = group_cells[0].pack_cell.net
    if reasons := followed_reasons(net, has_held=group_cells[0].pack_cell.held is not None):
        raise Unstackable(*reasons)
    if reasons := state_reasons([group_cell.pack_cell.net for group_cell in group_cells]):
        raise Unstackable(*reasons)
    few = _spread(group_cells[0].pack_cell.x.n_rows, 8)
    x = group_cells[0].pack_cell.x.take(few)
    transform = transform_of(net)
    with shared_state_kept(net.module_, net.criterion_):
        with full_precision():
            output = as_inferred(net, predicted(net.module_, x))
        group_cells = [
            group_cell._replace(pack_cell=_with_targets(group_cell.pack_cell, net, output))
            for group_cell in group_cells
        ]
        y = map_tensors(lambda rows: rows[few], group_cells[0].pack_cell.y)
        reasons, traits = probe(net.module_, x, y, net.criterion_, transform=transform)
    if traits is None:
        raise Unstackable(*dict.fromkeys(reasons))
    optimizer = made_optimizer(net, net.module_)
    stack_args = {
        "criterion": copy.deepcopy(net.criterion_),  # the net's own may record its calls
        "optimizer": optimizer.kind,
        "example": (x, y),
        "groups": optimizer.groups,
        "transform": transform,
        "traits": traits,
        "clips": [clip for _, callback in net.callbacks_ if (clip := Clip.of(callback)) is not None],
    }
    check_sample_weights(traits.loss, net, [group_cell.pack_cell for group_cell in group_cells])
    check_parts(traits, net)
    return StackSetup(group_cells, stack_args, set())


def _with_targets(pack_cell: PackCell, net: NeuralNet, output: Rows) -> PackCell:
    """Return a cell with targets as the net gives them to its loss."""
    if pack_cell.stream is not None:
        pack_cell.stream.ready = Ready(net, output)
    held = pack_cell.held
    if held is not None:
        x, y = held.fold
        held = held._replace(y=targets_of(net, held.y, output), fold=(x, targets_of(net, y, output)))
    return pack_cell._replace(y=targets_of(net, pack_cell.y, output), held=held)


def _spread(n_rows: int, n: int) -> Tensor:
    """Return `n` evenly spaced row numbers: where rows are sorted by class, these are of several classes."""
    n = min(n, n_rows)
    return torch.arange(n) * (n_rows - 1) // max(1, n - 1)
