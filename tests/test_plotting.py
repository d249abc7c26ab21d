"""Plots: the data behind them, and that what is drawn is labelled."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from skorch import NeuralNetRegressor

from sklr.callbacks import LRSchedule
from sklr.plotting import plot_schedule, schedule_data
from sklr.schedules import Plateau


def fitted_net(*callbacks):
    X = np.ones((12, 1), dtype="float32")
    net = NeuralNetRegressor(
        torch.nn.Linear,
        module__in_features=1,
        module__out_features=1,
        lr=0.2,
        batch_size=5,
        max_epochs=2,
        verbose=0,
        callbacks=list(callbacks),
        train_split=None,
    )
    return net.fit(X, X)


def test_schedule_data_of_a_plan():
    epochs, lrs = schedule_data("linear", n_epochs=3, steps_per_epoch=2, lr=0.4, warmup_epochs=1)
    assert epochs.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    np.testing.assert_allclose(lrs, [0.2, 0.4, 0.4, 0.3, 0.2, 0.1])


def test_schedule_data_of_a_training_is_what_it_used():
    epochs, lrs = schedule_data(fitted_net(LRSchedule("linear", warmup_epochs=1)))
    np.testing.assert_allclose(epochs, np.arange(6) / 3)  # 12 rows in batches of 5, 5 and 2
    np.testing.assert_allclose(lrs, 0.2 * np.array([1 / 3, 2 / 3, 1, 1, 2 / 3, 1 / 3]))


def test_a_net_without_recorded_lrs_is_refused():
    with pytest.raises(ValueError, match="history must hold the lr of at least one batch, got 2 epochs without"):
        schedule_data(fitted_net())


def test_plot_schedule_draws_and_labels():
    figure, ax = plt.subplots()
    data = schedule_data("cosine", n_epochs=2, lr=0.1)
    assert plot_schedule(data, ax=ax) is ax
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), np.column_stack(data))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("training time (epochs)", "learning rate")
    plt.close(figure)
    other = plot_schedule(Plateau(), n_epochs=2, steps_per_epoch=3)
    assert other.lines[0].get_ydata().tolist() == [1.0] * 6
    plt.close(other.figure)
