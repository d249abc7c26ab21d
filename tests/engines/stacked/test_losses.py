"""The losses of many runs are what the criterion returns for each run."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sklr.engines.stacked.kernels.loss import StackedLoss

KINDS = {
    "mean square": nn.MSELoss,
    "absolute": nn.L1Loss,
    "smooth": nn.SmoothL1Loss,
    "huber": nn.HuberLoss,
    "cross entropy of numbers": nn.BCEWithLogitsLoss,
    "soft margin": nn.SoftMarginLoss,
    "poisson": nn.PoissonNLLLoss,
}


def own(kind):
    """Return a class derived from PyTorch's, of which it is not known that its mean is over rows."""
    return type(f"Own{kind.__name__}", (kind,), {})


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@settings(deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(2, 6), st.sampled_from([(), (1,), (2,)]),
    st.sampled_from(["mean", "sum"]), st.booleans(), st.integers(0, 99),
)  # fmt: skip
def test_losses_and_gradients_are_those_of_each_run(
    kind, n_cells, n_candidates, n_rows, shape, reduction, of_users, seed
):
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.rand(n_cells, n_candidates, n_rows, *shape, generator=generator, dtype=torch.float64)
    targets = torch.rand(n_cells, n_rows, *shape, generator=generator, dtype=torch.float64)
    criterion = (own(kind) if of_users else kind)(reduction=reduction)
    loss = StackedLoss(criterion, outputs[0, 0], targets[0])
    assert loss.takes_weights is not of_users
    outputs.requires_grad_()
    expected = torch.stack(
        [torch.stack([criterion(run, y) for run in of_cell]) for of_cell, y in zip(outputs, targets, strict=True)]
    )
    found = loss(outputs, targets, None)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(losses.sum(), outputs)[0] for losses in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("value", [torch.inf, torch.nan, 1e30])
@pytest.mark.parametrize("kind", [nn.MSELoss, nn.HuberLoss, nn.BCEWithLogitsLoss, nn.L1Loss])
def test_a_mean_over_rows_is_known_from_outputs_that_are_not_finite(kind, value):
    outputs = torch.full((6, 1), value)
    assert StackedLoss(kind(), outputs, torch.rand(6, 1)).takes_weights
