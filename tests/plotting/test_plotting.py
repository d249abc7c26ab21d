"""Plots: the data behind them, and that what is drawn is labelled."""

from copy import copy
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
import searches
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pandas import DataFrame
from sklearn.datasets import load_iris
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetRegressor
from skorch.callbacks import EarlyStopping, EpochScoring
from skorch.dataset import ValidSplit

from sklr import MLP, LRGridSearchCV, NeuralNetClassifier
from sklr.callbacks import LRSchedule
from sklr.plotting import (
    LRCurveDisplay,
    NetCurvesData,
    TrainingCurvesData,
    best_epochs_data,
    lr_curve_data,
    net_curves_data,
    params_data,
    plot_best_epochs,
    plot_lr_curve,
    plot_params,
    plot_rounds,
    plot_schedule,
    plot_training_curves,
    rounds_data,
    schedule_data,
    training_curves_data,
)
from sklr.plotting._axes import label_log_axis, score_name
from sklr.schedules import Plateau
from sklr.selection import choose, lr_curve


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


def curve_of(lrs, mean, n_cells=4, spread=0.01):
    """Return an LR curve of these means; NaN is a diverged learning rate."""
    noise = np.random.default_rng(0).normal(0, spread, (len(lrs), n_cells))
    scores = np.asarray(mean)[:, None] + noise - noise.mean(axis=1, keepdims=True)
    return lr_curve(lrs, scores, ["diverged at step 3: loss nan" if np.isnan(m) else "ok" for m in mean])


def labels(ax):
    return ax.get_legend_handles_labels()[1]


def crosses(ax):
    """Return where the red crosses are, shape (n_crosses, 2)."""
    points = [line.get_xydata() for line in ax.lines if line.get_label() == "diverged"]
    return np.concatenate(points) if points else np.empty((0, 2))


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def test_lr_curve_data_tells_apart_what_was_trained_what_diverged_and_what_is_off_the_scale():
    mean = [0.1, 0.5, 0.9, 0.8, -1e9, np.nan]
    data = lr_curve_data(curve_of([1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0], mean))
    assert data.lr.tolist() == [1e-4, 1e-3, 1e-2, 0.1]
    np.testing.assert_allclose(data.mean, mean[:4])
    assert (data.off_scale.tolist(), data.diverged.tolist(), data.n_cells) == ([1.0], [10.0], 4)
    assert data.floor == pytest.approx(0.1 - 0.1 * 0.8)


@pytest.mark.parametrize("mean", [[0.97, 0.968, 0.1, 0.965], [0.9, 0.9, 0.9, 0.1]])
def test_an_ordinary_bad_score_stays_in_the_picture(mean):
    assert len(lr_curve_data(curve_of([1e-3, 1e-2, 0.1, 1.0], mean)).off_scale) == 0


def test_the_display_has_scikit_learns_attributes_and_says_what_it_shows():
    search = searches.diverging()
    display = LRCurveDisplay.from_search(search)
    ax = display.ax_
    assert display.figure_ is ax.figure
    assert ax.get_xscale() == "log"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("peak learning rate", "accuracy, mean of 6 cells")
    usable = search.lr_curve_.usable
    np.testing.assert_array_equal(display.line_.get_xdata(), search.lr_curve_.lr[usable])
    np.testing.assert_array_equal(display.line_.get_ydata(), search.lr_curve_.mean[usable])
    low, high = np.array([bar[:, 1] for bar in display.errorbar_.lines[2][0].get_segments()]).T
    np.testing.assert_allclose((high - low) / 2, search.lr_curve_.se[usable])
    assert crosses(ax)[:, 0].tolist() == [1e30]
    assert crosses(ax)[0, 1] < search.lr_curve_.mean[usable].min()
    assert {"90 % interval", f"chosen: {search.best_lr_:.3g}", "diverged"} <= set(labels(ax))


def test_the_interval_is_shaded_where_it_is():
    search = searches.diverging()
    (span,) = [patch for patch in plot_lr_curve(search).patches if patch.get_label() == "90 % interval"]
    np.testing.assert_allclose((span.get_x(), span.get_x() + span.get_width()), search.lr_interval_)


def test_a_fitted_choice_shows_the_curve_it_was_made_on():
    lrs = 10.0 ** np.arange(-4, 0.1, 0.5)
    curve = curve_of(lrs, 0.9 - 0.1 * (np.log10(lrs) + 1.8) ** 2, spread=0.002)
    choice = choose(curve, "fit")
    data = lr_curve_data(curve, choice)
    assert abs(np.log10(data.fit.lr[data.fit.mean.argmax()] / choice.lr)) < 0.05
    assert data.fit.mean.max() == pytest.approx(choice.score, abs=1e-3)
    assert (data.fit.low < data.fit.mean).all()
    assert (data.fit.mean < data.fit.high).all()
    assert "fit ± s.e." in labels(plot_lr_curve(data))
    assert lr_curve_data(curve, choose(curve, "best")).fit is None


def test_a_curve_alone_one_cell_and_nothing_trained_can_be_drawn():
    assert labels(plot_lr_curve(curve_of([0.1, 1.0], [0.5, 0.6], n_cells=1))) == ["best: 1", "mean"]
    data = lr_curve_data(curve_of([0.1, 1.0], [np.nan, np.nan]))
    assert crosses(plot_lr_curve(data)).tolist() == [[0.1, 0.0], [1.0, 0.0]]


def test_one_cell_shows_no_noise_and_no_interval():
    lrs = 10.0 ** np.arange(-4, 0.1, 0.5)
    curve = curve_of(lrs, 0.9 - 0.1 * (np.log10(lrs) + 1.8) ** 2 + 0.001 * np.cos(9 * lrs), n_cells=1)
    for select, fit in (("best", []), ("one_se", []), ("fit", ["fit"])):
        choice = choose(curve, select)
        ax = plot_lr_curve(lr_curve_data(curve, choice))
        assert sorted(labels(ax)) == sorted([f"chosen: {choice.lr:.3g}", "mean", *fit])
        assert not ax.patches, "no interval is shaded"
        assert ax.get_ylabel() == "score, one cell"


def test_a_curve_of_the_chosen_other_parameters_says_so():
    lrs = np.logspace(-4, -1, 4).tolist()
    model = GradientBoostingClassifier(n_estimators=2, random_state=0)
    grid = {"learning_rate": lrs, "max_depth": [1, 2]}
    ax = plot_lr_curve(LRGridSearchCV(model, grid, cv=2, refit=False).fit(*load_iris(return_X_y=True)))
    assert ax.get_xlabel() == "peak learning rate, other parameters as chosen"


def test_learning_rates_that_differ_in_more_are_not_joined_by_a_line():
    assert LRCurveDisplay.from_search(searches.several_params()).line_.get_linestyle() == "None"
    assert LRCurveDisplay.from_search(searches.in_rounds()).line_.get_linestyle() == "-"


@pytest.mark.parametrize("draw", [plot_lr_curve, LRCurveDisplay.from_search, plot_rounds])
def test_a_search_without_a_learning_rate_has_no_such_picture(draw):
    message = r"search must be one that searched a learning rate, got 'LRGridSearchCV'. Draw plot_params\(search\)"
    with pytest.raises(ValueError, match=message):
        draw(searches.without_lr())


@pytest.mark.parametrize("draw", [plot_lr_curve, plot_training_curves, plot_best_epochs, plot_rounds, plot_params])
def test_a_search_must_be_fitted(draw):
    with pytest.raises(NotFittedError):
        draw(LRGridSearchCV(searches.net()))


@pytest.mark.parametrize("what", ["train_loss", "valid_score"])
def test_training_curves_are_means_over_the_cells(what):
    search = searches.diverging()
    data = training_curves_data(search, what)
    table = DataFrame(search.history_)
    expected = table.groupby(["candidate", "epoch"])[what].mean()
    for candidate in range(4):
        np.testing.assert_allclose(data.values[candidate], expected[candidate])
    assert np.isnan(data.values[4]).all()  # it diverged before the end of an epoch
    assert data.diverged.tolist() == [False] * 4 + [True]
    assert data.epochs.tolist() == [1, 2, 3]
    assert data.lr.tolist() == [1e-3, 1e-2, 0.1, 1.0, 1e30]


def test_training_curves_are_drawn_by_lr_and_end_in_crosses():
    ax = plot_training_curves(searches.diverging())
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("training time (epochs)", "training loss, mean over cells")
    assert [a.get_ylabel() for a in ax.figure.axes if a is not ax] == ["peak learning rate"]
    drawn = ax.lines[:4]
    assert len({line.get_color() for line in drawn}) == 4
    assert crosses(ax).tolist() == [[1.0, ax.get_ylim()[1]]]
    assert plot_training_curves(searches.diverging(), "valid_score").get_ylabel().startswith("validation accuracy")


def test_an_explosion_leaves_the_picture_and_the_others_stay_readable():
    values = np.array([[2.0, 1.0, 0.01], [2.0, 1e12, np.nan]])
    diverged = np.array([False, True])
    data = TrainingCurvesData("train_loss", "training loss", np.array([0.1, 9.0]), np.arange(1, 4), values, diverged)
    ax = plot_training_curves(data)
    assert ax.get_yscale() == "log"
    assert ax.get_ylim()[1] == pytest.approx(6.0)  # three times the largest loss of the sound candidate
    np.testing.assert_allclose(crosses(ax), [[2, 6]])


def test_candidates_without_a_learning_rate_are_coloured_by_their_number():
    data = TrainingCurvesData(
        "train_loss", "training loss", np.full(2, np.nan), np.arange(1, 3), np.ones((2, 2)), np.zeros(2, dtype=bool)
    )
    assert plot_training_curves(data).figure.axes[1].get_ylabel() == "candidate"


def test_what_cannot_be_drawn_of_a_training_is_refused():
    with pytest.raises(ValueError, match=r"what must be one of 'train_loss', 'valid_score', got 'valid_loss'. Did you"):
        training_curves_data(searches.diverging(), "valid_loss")
    with pytest.raises(ValueError, match=r"history_ must be of at least one epoch, got 0. Only estimators that train"):
        plot_best_epochs(searches.in_rounds())


def test_the_best_candidates_last_epoch_is_its_score():
    search = searches.diverging()
    data = best_epochs_data(search)
    np.testing.assert_allclose(data.cells[:, -1], search.cell_scores_[search.best_index_])
    assert data.mean[-1] == pytest.approx(search.best_score_)
    assert data.params == search.best_params_
    ax = plot_best_epochs(data)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("training time (epochs)", "validation accuracy")
    assert labels(ax) == ["mean over cells", "each of 6 cells"]
    assert labels(plot_best_epochs(data._replace(cells=data.cells[:1], mean=data.cells[0]))) == ["one cell"]


def test_curves_are_whole_after_early_stopping():
    """Each run counts with its last value from its own end to that of the candidate's longest run."""
    stops = EarlyStopping(monitor="train_loss", patience=1, threshold=0.2)
    net = searches.net().set_params(max_epochs=12, callbacks=[stops])
    search = searches.fit(LRGridSearchCV(net, lrs=[0.03, 0.3, 1e30], cv=searches.CV, n_seeds=2, random_state=0))
    table = DataFrame(search.history_)
    lengths = table.groupby(["candidate", "fold", "seed"])["epoch"].max().unstack(["fold", "seed"]) + 1
    assert (lengths.loc[:1].min(axis=1) < lengths.loc[:1].max(axis=1)).any(), (
        "some runs of a candidate stop before others"
    )
    for what in ("train_loss", "valid_score"):
        values = training_curves_data(search, what).values
        for candidate in (0, 1):
            longest = lengths.loc[candidate].max()
            assert np.isfinite(values[candidate, :longest]).all()
            assert np.isnan(values[candidate, longest:]).all()
    assert values[search.best_index_][np.isfinite(values[search.best_index_])][-1] == pytest.approx(search.best_score_)
    best = best_epochs_data(search)
    assert np.isfinite(best.mean).all()
    assert best.mean[-1] == pytest.approx(search.best_score_)
    assert np.isnan(values[2]).all(), "what diverged has no value to stand"


def test_a_fitted_net_has_curves_too():
    scoring = EpochScoring("accuracy", on_train=True, name="train_acc")
    net = searches.net().set_params(train_split=ValidSplit(3), callbacks=[scoring], random_state=0)
    net.fit(searches.X, searches.Y)
    data = net_curves_data(net)
    assert (data.label, data.epochs.tolist(), list(data.curves)) == ("loss", [1, 2, 3], ["training", "validation"])
    np.testing.assert_array_equal(data.curves["training"], net.history[:, "train_loss"])
    ax = plot_training_curves(make_pipeline(StandardScaler(), net), "valid_acc")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("training time (epochs)", "acc")
    assert labels(ax) == ["training", "validation"]
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), net.history[:, "train_acc"])
    assert isinstance(net_curves_data(net, "dur"), NetCurvesData)
    with pytest.raises(ValueError, match=r"what must be one of .*'train_loss'.*, got 'valid_score'"):
        plot_training_curves(net, "valid_score")
    for unfitted in (searches.net(), NeuralNetClassifier(MLP(4, 3)).initialize()):
        with pytest.raises(NotFittedError):
            plot_training_curves(unfitted)


def shown_numbers(ax):
    ax.figure.canvas.draw()
    low, high = ax.get_xlim()
    ticks = [*ax.xaxis.get_major_ticks(), *ax.xaxis.get_minor_ticks()]
    boxes = [t.label1.get_window_extent() for t in ticks if t.label1.get_text() and low <= t.get_loc() <= high]
    return sorted((box.x0, box.x1) for box in boxes)


@given(low=st.floats(1e-8, 1.0), decades=st.floats(0.02, 12.0), width=st.sampled_from([2.5, 3.4, 5.4, 8.0]))
@settings(max_examples=40, deadline=None)
@example(low=0.003, decades=1.0, width=5.4)
@example(low=0.0289, decades=1.9, width=2.5)
def test_the_numbers_on_a_log_axis_never_overlap(low, decades, width):
    figure = plt.figure(figsize=(width, 3.3), layout="constrained")
    ax = figure.subplots()
    ax.set_xscale("log")
    ax.set_xlim(low, low * 10**decades)
    label_log_axis(ax)
    numbers = shown_numbers(ax)
    plt.close(figure)
    assert len(numbers) >= 2
    for (_, end), (start, _) in pairwise(numbers):
        assert end < start, numbers


def test_rounds_are_told_apart():
    search = searches.in_rounds()
    data = rounds_data(search)
    assert data.word == "round"
    assert [np.flatnonzero(data.round == i).tolist() for i in (1, 2)] == [r.tolist() for r in search.rounds_]
    ax = plot_rounds(data)
    assert labels(ax) == [f"round {i}, {len(r)} candidates" for i, r in enumerate(search.rounds_, start=1)]
    assert (ax.get_xscale(), ax.get_xlabel(), ax.get_ylabel()) == (
        "log", "peak learning rate", "accuracy, mean over cells",
    )  # fmt: skip


def test_without_rounds_trials_are_numbered():
    data = rounds_data(searches.several_params())
    assert (data.word, data.round.tolist(), data.joined) == ("trial", list(range(1, 13)), False)
    assert plot_rounds(data).figure.axes[1].get_ylabel() == "trial, in the order tried"


def test_each_parameter_that_was_varied_has_a_panel():
    search = searches.several_params()
    lr, skill, note = params_data(search).panels
    assert (lr.name, lr.is_log, lr.ticks) == ("lr", True, ())
    assert (skill.name, skill.is_log) == ("skill", False)
    np.testing.assert_array_equal(skill.at, search.cv_results_["param_skill"].astype(float))
    assert set(note.ticks) == {"<script>alert('x')</scr…", r"costs \$5 & more", "None"}
    axes = plot_params(search)
    assert [ax.get_xlabel() for ax in axes] == ["lr", "skill", "note"]
    assert axes[0].get_ylabel() == "accuracy, mean over cells"
    assert [tick.get_text() for tick in axes[2].get_xticklabels()] == list(note.ticks)
    axes[0].figure.canvas.draw()  # a dollar sign must not start a formula


def test_a_grid_of_numbers_and_flags_gets_a_tick_for_each_value():
    search = searches.without_lr()
    data = params_data(search)
    assert data.label == "neg log loss"
    np.testing.assert_array_equal(data.score, search.cv_results_["mean_test_neg_log_loss"])
    assert [(p.name, p.is_log, p.ticks) for p in data.panels] == [
        ("C", True, ()), ("fit_intercept", False, ("True", "False")),
    ]  # fmt: skip
    axes = plt.subplots(1, 3)[1]
    assert list(plot_params(data, axes=axes)) == list(axes[:2])


def test_a_parameter_that_some_candidates_lack_is_drawn_of_the_others():
    search = copy(searches.without_lr())
    search.cv_results_ = {**search.cv_results_, "params": [{"C": 1}, {"C": 2}, {}, {"C": 4}, {"C": 1}, {"C": 1}]}
    (panel,) = params_data(search).panels
    np.testing.assert_array_equal(panel.at, [0, 1, np.nan, 2, 0, 0])
    assert panel.ticks == ("1", "2", "4")
    search.cv_results_["params"] = [{"C": 1}] * 6
    with pytest.raises(ValueError, match="search must be one that varied a parameter, got '6 equal candidates'"):
        params_data(search)


def test_diverged_candidates_are_crosses_in_the_panels_too():
    (ax,) = plot_params(searches.diverging())
    assert crosses(ax)[:, 0].tolist() == [1e30]
    assert set(labels(ax)) == {"best", "diverged"}


@pytest.mark.parametrize(
    ("scoring", "estimator", "name"),
    [
        ("roc_auc_ovr", LogisticRegression(), "roc auc ovr"),
        (None, LogisticRegression(), "accuracy"),
        (None, LinearRegression(), "R²"),
        (len, LinearRegression(), "score"),
    ],
)
def test_scores_are_named(scoring, estimator, name):
    search = LRGridSearchCV(estimator, scoring=scoring)
    search.cv_results_ = {}
    assert score_name(search) == name
